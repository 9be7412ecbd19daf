"""What clients may send: everything that is not right gets an error or an end, and leaves nothing behind."""

import json
import os
import random
import socket
import time

import pytest

import machine
from machine import count_fds, eventually


def daemon_pids(instance):
    return [instance.process.pid] + instance.workers("sandboxd-api") + instance.workers("sandboxd-audit")


def test_service_interface(instance, alice):
    info = instance.call(alice, "org.varlink.service.GetInfo")[0]["parameters"]
    assert {"vendor", "product", "version", "url", "interfaces"} <= set(info)
    assert "io.sandboxd.Session" in info["interfaces"] and "org.varlink.service" in info["interfaces"]
    for interface in info["interfaces"]:
        text = instance.call(alice, "org.varlink.service.GetInterfaceDescription", {"interface": interface})[0]
        assert f"interface {interface}" in text["parameters"]["description"]


@pytest.mark.parametrize("method, parameters, error", [
    ("org.varlink.service.GetInterfaceDescription", {"interface": "no.such"}, "org.varlink.service.InterfaceNotFound"),
    ("no.such.Method", None, "org.varlink.service.MethodNotFound"),
    ("io.sandboxd.Session.NoSuch", None, "org.varlink.service.MethodNotFound"),
    ("nodots", None, "org.varlink.service.MethodNotFound"),
    ("io.sandboxd.Session.Describe", {"id": "a", "more": 1}, "org.varlink.service.InvalidParameter"),
    ("io.sandboxd.Session.Describe", {"id": 1}, "org.varlink.service.InvalidParameter"),
    ("io.sandboxd.Session.Describe", {}, "org.varlink.service.InvalidParameter"),
    ("io.sandboxd.Session.Describe", {"id": None}, "org.varlink.service.InvalidParameter"),
    ("io.sandboxd.Session.Describe", {"id": "0" * 32}, "io.sandboxd.Session.NoSuchSession"),
    ("io.sandboxd.Session.List", {}, "org.varlink.service.ExpectedMore"),
    ("io.sandboxd.Session.Create", {"context": {"limits": {"memoryMaxBytes": "1"}}}, "org.varlink.service.InvalidParameter"),
    ("io.sandboxd.Session.Create", {"context": {"unknown": 1}}, "org.varlink.service.InvalidParameter"),
    ("io.sandboxd.Session.Create", {"context": {}, "profileFileDescriptor": 0}, "org.varlink.service.InvalidParameter"),
    ("io.sandboxd.Session.Create", {"context": {"profile": "no-such"}}, "io.sandboxd.Session.NoSuchProfile"),
    ("io.sandboxd.Session.Create", {"context": {"profileContent": "{"}}, "io.sandboxd.Session.InvalidPolicy"),
])
def test_errors(instance, alice, method, parameters, error):
    replies = instance.call(alice, method, parameters)
    assert [r.get("error") for r in replies] == [error], replies


MALFORMED = [
    b"\0", b"{\0", b"[]\0", b"[1]\0", b"null\0", b"{}\0", b'{"method":1}\0', b'{"method":"a.B","more":1}\0',
    b'{"method":"a.B","more":true,"oneway":true}\0', b'{"method":"a.B"}x\0', b"{'method':'a.B'}\0",
    b'{"method":"a.B","parameters":[]}\0', b'{"method":"a\xff.B"}\0', b'{"method":"a.B\\u0000"}\0',
    b'{"method":"a.B","method":"c.D"}\0', b'{"method":"a.B","unknown":1}\0',
    b'{"method":"a.B","parameters":' + b"[" * 3000 + b"]" * 3000 + b"}\0",
    b'{"method":"a.B","parameters":{"x":NaN}}\0',
    b'{"method":"a.B","parameters":{"x":"\x01"}}\0',
    b'{"method":"a.B","parameters":{"x":"\\ud800"}}\0', b'{"method":"a.B","parameters":{"x":"\xc0\x80"}}\0',
    b'{"method":"a.B","parameters":{"x":1,"x":2}}\0',
]


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_malformed_messages_end_the_connection(instance, alice, number):
    """The good call behind the bad message is never answered with a result."""
    good = b'{"method":"org.varlink.service.GetInfo"}\0'
    answer = instance.raw_call(alice, MALFORMED[number] + good)
    assert b'"vendor"' not in answer, (MALFORMED[number][:200], answer[:200])


@pytest.mark.parametrize("value", [b'{"a":' * 200 + b"1" + b"}" * 200, b"1e999", b"99999999999999999999",
                                   b"[" + b"0," * 50000 + b"0]", b'"' + b"a" * 70000 + b'"'],
                         ids=["deep", "float", "integer", "many", "long"])
def test_sound_messages_beyond_the_limits(instance, alice, value):
    """JSON that is right but too deep, too many or too long: an error that names the field."""
    data = b'{"method":"io.sandboxd.Session.Describe","parameters":{"id":' + value + b"}}\0"
    reply = json.loads(instance.raw_call(alice, data).split(b"\0")[0])
    assert reply["error"] == "org.varlink.service.InvalidParameter", str(reply)[:300]
    assert reply["parameters"]["parameter"].startswith("id")


def test_huge_and_half_messages(instance, alice):
    assert b"vendor" not in instance.raw_call(alice, b'{"method":"' + b"a" * 3_000_000)
    assert instance.raw_call(alice, b'{"method":"org.varlink.serv') == b""
    assert b"vendor" in instance.raw_call(alice, b' \n{ "method" :\t"org.varlink.service.GetInfo" }\0')


def test_oneway_and_pipelining(instance, alice):
    data = (b'{"method":"no.such.Thing","oneway":true}\0' + b'{"method":"org.varlink.service.GetInfo"}\0' * 3)
    replies = [json.loads(p) for p in instance.raw_call(alice, data).split(b"\0") if p]
    assert len(replies) == 3 and all("vendor" in r["parameters"] for r in replies)


def connect(instance):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    s.connect(instance.socket)
    return s


@pytest.fixture
def eager_instance(settings):
    """Takes connections as fast as one user makes them."""
    with machine.Instance(settings={**settings, "limits": {"connects_per_second": 100000}}) as running:
        yield running


def test_a_thousand_hostile_messages(eager_instance, alice):
    """Random damage to real calls, many with descriptors: afterwards the daemon holds what it held."""
    instance = eager_instance
    instance.call(alice, "org.varlink.service.GetInfo")
    instance.sh(alice, "true")
    random.seed(20)
    calls = [
        {"method": "org.varlink.service.GetInfo"},
        {"method": "io.sandboxd.Session.Spawn", "parameters": {"context": {"workspace": "/tmp"}, "command": {
            "commandLine": ["true"], "standardInput": "file_descriptor"}, "standardInputFileDescriptor": 0}},
        {"method": "io.sandboxd.Session.List", "more": True, "parameters": {}},
        {"method": "io.sandboxd.Audit.Query", "more": True, "parameters": {"limit": 1}},
        {"method": "io.sandboxd.Session.Exec", "parameters": {"id": "x", "command": {}, "requestId": "r"}},
    ]
    messages = []
    for _ in range(1000):
        data = bytearray(json.dumps(random.choice(calls)).encode() + b"\0")
        for _ in range(random.randint(0, 4)):
            at = random.randrange(len(data))
            what = random.random()
            if what < 0.4:
                data[at] = random.randrange(256)
            elif what < 0.6:
                del data[at:at + random.randint(1, 20)]
            elif what < 0.8:
                data[at:at] = data[at:at + random.randint(1, 40)]
            else:
                del data[at:]
            if not data:
                data = bytearray(b"\0")
        messages.append((bytes(data), random.choice((0, 0, 0, 1, 3, 8, 30))))
    script = ("import json,socket,sys,array,os\n"
              "for data, n in json.load(sys.stdin):\n"
              " s=socket.socket(socket.AF_UNIX); s.settimeout(0.5); s.connect(sys.argv[1])\n"
              " fds=[os.open('/dev/null', os.O_RDONLY) for _ in range(n)]\n"
              " try:\n"
              "  s.sendmsg([data.encode('latin-1')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))]"
              " if fds else [])\n"
              "  s.shutdown(1)\n"
              "  while s.recv(65536): pass\n"
              " except OSError: pass\n"
              " [os.close(fd) for fd in fds]; s.close()\n")
    instance.call(alice, "org.varlink.service.GetInfo")
    time.sleep(0.5)
    pids = daemon_pids(instance)
    before = [count_fds(pid) for pid in pids]
    done = alice.run(["/usr/bin/python3", "-c", script, instance.socket],
                     input=json.dumps([(d.decode("latin-1"), n) for d, n in messages]), timeout=400)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: all(now <= then for now, then in zip([count_fds(p) for p in pids], before)), 15), \
        (before, [count_fds(p) for p in pids])
    assert daemon_pids(instance) == pids, "a process of the daemon has died"
    assert instance.sh(alice, "echo fine").stdout == "fine\n"


def test_descriptors_for_methods_that_take_none(instance):
    s = connect(instance)
    with open("/dev/null", "rb") as f:
        socket.send_fds(s, [b'{"method":"org.varlink.service.GetInfo"}\0'], [f.fileno()])
        try:
            assert s.recv(100) == b""
        except ConnectionResetError:
            pass
    s.close()


@pytest.mark.parametrize("kind", ["socket", "directory", "device", "o_path", "inet"])
def test_descriptors_that_are_not_taken(instance, alice, kind):
    work = alice.workspace()
    open_it = {
        "socket": "a, b = socket.socketpair(); fd = a.fileno()",
        "directory": "fd = os.open('/usr', os.O_RDONLY)",
        "device": "fd = os.open('/dev/zero', os.O_RDONLY)",
        "o_path": "fd = os.open('/etc/passwd', os.O_PATH)",
        "inet": "a = socket.socket(); fd = a.fileno()",
    }[kind]
    call = {"method": "io.sandboxd.Session.Spawn", "more": True, "parameters": {
        "context": {"workspace": work}, "command": {"commandLine": ["cat"], "standardInput": "file_descriptor",
                                                    "standardOutput": "null"}, "standardInputFileDescriptor": 0}}
    script = (f"import socket, os, sys\n{open_it}\n"
              "s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])\n"
              "socket.send_fds(s, [sys.stdin.buffer.read()], [fd])\n"
              "print(s.recv(65536).decode())")
    before = instance.head()
    done = alice.run(["/usr/bin/python3", "-c", script, instance.socket], input=json.dumps(call) + "\0")
    assert "error" in done.stdout, done
    assert not instance.rows(before, kind="session", action="exec")


def test_many_connections_of_one_user(instance, alice, bob):
    """Beyond the quota a user's connections are refused; another user is answered."""
    script = ("import socket, sys, time\nheld = []\n"
              "for _ in range(300):\n"
              " s = socket.socket(socket.AF_UNIX); s.settimeout(1)\n"
              " try: s.connect(sys.argv[1])\n"
              " except OSError: continue\n"
              " held.append(s)\n"
              "print('up', flush=True); sys.stdin.read()\n")
    import subprocess
    pid = instance.process.pid
    before = count_fds(pid)
    child = alice.popen(["/usr/bin/python3", "-c", script, instance.socket], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    start = time.monotonic()
    assert "parameters" in instance.call(bob, "org.varlink.service.GetInfo")[0]
    assert time.monotonic() - start < 2
    child.communicate(b"")
    # Workers and sessions of other tests come and go meanwhile.
    assert eventually(lambda: count_fds(pid) < before + 50, 20), (before, count_fds(pid))
    assert eventually(lambda: instance.call(alice, "org.varlink.service.GetInfo"), 5)


def test_slow_message_is_cut(instance):
    s = connect(instance)
    s.settimeout(20)
    s.sendall(b'{"method":"org.varl')
    start = time.monotonic()
    try:
        assert s.recv(10) == b""
    except ConnectionResetError:
        pass
    assert time.monotonic() - start < 15
    s.close()


def test_limits_of_a_request(instance, alice):
    """Numbers that cannot be limits are refused, never wrapped."""
    for value in (0, -1, 2**63 - 1 + 1, 2**64, -2**63):
        call = {"context": {"limits": {"memoryMaxBytes": value}}}
        replies = instance.call(alice, "io.sandboxd.Session.Create", call)
        assert not replies or "error" in replies[0], value
    for text in ("0", "-1", "17179869184G", "1X", "", "1e9"):
        done = instance.ctl(alice, "run", "-T", "--memory", text, "--", "true", cwd=alice.workspace())
        assert done.returncode == 125, text


def test_environment_of_a_request(instance, alice):
    for bad in (["=x"], ["NOVALUE"], ["A B=1\0"], ["A=" + "x" * 70000], ["1A=x", ""]):
        replies = instance.call(alice, "io.sandboxd.Session.Create", {"context": {"environment": bad,
                                                                                 "workspace": alice.base}})
        assert not replies or "error" in replies[0], bad


def test_the_socket_is_not_shown_inside(instance, alice):
    done = instance.sh(alice, f"ls {instance.runtime}; python3 -c \"import socket; s=socket.socket(1); s.connect('{instance.socket}')\"")
    assert "io.sandboxd" not in done.stdout and done.returncode != 0
    assert os.path.exists(instance.socket)


def test_bad_policy_says_where(instance, alice):
    work = alice.workspace()
    for text, words in (
            ('{"version":1,"name":"x",\n "network":{"rulez":[]}}', (":2:", "rulez")),
            ('{"version":1,"name":"x",\n\n"network":{"rules":[{"action":"maybe"}]}}', (":3:",)),
            ('{"version":2,"name":"x"}', ("version",)),
            ('{"version":1,"name":"x"', ("",)),
            ('{"version":1,"name":"x","network":{"rules":[{"id":"a","action":"allow","host":"*.com"}]}}', ("wildcard", "rules[0].host")),
            ('{"version":1,"name":"x","credentials":{"a":{}}}', ("credentials",)),
            ('{"version":1,"name":"x","extends":["x"]}', ("",)),
    ):
        path = alice.write(work + "/policy.json", text)
        done = instance.ctl(alice, "policy", "validate", path)
        assert done.returncode != 0, text
        for word in words:
            assert word in done.stderr + done.stdout, (word, done)
        before = instance.head()
        done = instance.ctl(alice, "run", "-T", "-p", path, "--", "echo", "started", cwd=work)
        assert (done.returncode, done.stdout) == (125, ""), text
        assert not instance.rows(before, action="start")


def test_policy_verbs(instance, alice, profile, web):
    assert instance.ctl(alice, "policy", "validate", profile).returncode == 0
    assert "agent" in instance.ctl(alice, "policy", "show", "agent").stdout
    allowed = instance.ctl(alice, "policy", "check", "-p", profile, "net", f"http://allowed.test:{web.server_port}/")
    denied = instance.ctl(alice, "policy", "check", "-p", profile, "net", "http://evil.test/")
    assert allowed.stdout.startswith("allow") and denied.stdout.startswith(("ask", "deny"))


def test_requested_limits_are_enforced_or_refused(instance, alice):
    """On a machine whose cgroup v2 tree has no controllers a requested limit is an error."""
    from machine import cgroup2_mount
    with open(cgroup2_mount() + "/cgroup.controllers", encoding="utf-8") as f:
        has_memory = "memory" in f.read().split()
    done = instance.ctl(alice, "run", "-T", "--memory", "64M", "--", "python3", "-c", "x = b'x' * 200_000_000; print('had')",
                        cwd=alice.workspace())
    if has_memory:
        assert done.returncode == 137 and done.stdout == ""
    else:
        assert (done.returncode, done.stdout) == (125, "") and "memory" in done.stderr
