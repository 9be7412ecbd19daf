"""Who a caller is. D02: whom the kernel does not name gets nothing."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from machine import BUILD, POLICIES, Instance, User, eventually
from wire import Connection, message

# Prints the answer to Manager.Describe, or nothing.
ASK = r"""
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
try:
    s.connect(sys.argv[1])
    s.sendall(b'{"method":"io.sandboxd.Manager.Describe"}\0')
    data = b""
    while not data.endswith(b"\0"):
        more = s.recv(65536)
        if not more:
            break
        data += more
except OSError:
    data = b""
sys.stdout.write(data.rstrip(b"\0").decode())
"""


def ask(user, socket_path, *prefix):
    done = user.run([*prefix, "/usr/bin/python3", "-c", ASK, socket_path])
    assert done.returncode == 0, done
    return json.loads(done.stdout) if done.stdout else None


def test_D02_the_overflow_uid_is_nobody(daemon):
    """The number of all who have none in this user namespace."""
    nobody = User("nobody")
    assert nobody.uid == 65534
    nobody.home = "/"
    assert ask(nobody, daemon.socket) is None


@pytest.mark.parametrize("options", [("-Ur",), ("-U",), ("-Urp", "--fork"), ("-Urpm", "--fork", "--mount-proc")],
                         ids=["root-of-its-own", "unmapped", "pid-namespace", "with-proc"])
def test_D02_a_user_in_namespaces_of_his_own_is_himself(daemon, alice, options):
    """Root there is not root here."""
    reply = ask(alice, daemon.socket, "unshare", *options)
    assert reply["parameters"]["callerUid"] == alice.uid
    assert not reply["parameters"]["callerIsAdmin"] and not reply["parameters"]["callerIsAuditor"]


def test_D02_ids_in_messages_are_none(daemon, connect, alice):
    """Nobody says who he is."""
    c = connect(alice)
    for extra in (b',"uid":0', b',"com.example.peer":{"uid":0,"pid":1}'):
        c = connect(alice)
        c.send(b'{"method":"io.sandboxd.Manager.Describe"' + extra + b"}\0")
        reply = c.receive()
        assert reply is None or reply["parameters"]["callerUid"] == alice.uid
    reply = connect(alice).call("io.sandboxd.Session.Create", {"context": {"user": "root"}})
    assert "error" in reply


def test_D02_a_peer_that_has_died_gets_nothing(own_daemon, alice):
    """It has connected and asked before the launcher looked; who had the pid then cannot be told any more."""
    create = message("io.sandboxd.Session.Create", {"context": {"name": "ghost", "lifetime": "detached"}})
    assert ask(alice, own_daemon.socket)["parameters"]["callerUid"] == alice.uid
    before = own_daemon.head()
    own_daemon.process.send_signal(signal.SIGSTOP)
    try:
        code = "import os,socket,sys; s=socket.socket(1); s.connect(sys.argv[1]); s.sendall(sys.stdin.buffer.read()); os._exit(0)"
        for _ in range(5):
            assert alice.run(["/usr/bin/python3", "-c", code, own_daemon.socket], input=create, text=False).returncode == 0
    finally:
        own_daemon.process.send_signal(signal.SIGCONT)
    assert ask(alice, own_daemon.socket)["parameters"]["sessions"] == 0
    assert not own_daemon.rows(before, action="start")


def test_D02_a_peer_of_a_foreign_pid_namespace(alice):
    """The daemon in a pid namespace of its own has no number for a process outside, and serves those inside."""
    instance = Instance()
    out = os.path.join(instance.folder, "out")
    argv = ["unshare", "-pm", "--fork", "--mount-proc", "--kill-child", os.path.join(BUILD, "daemon/launcher/sandboxd"),
            "--config-dir", instance.config, "--state-dir", instance.state, "--runtime-dir", instance.runtime,
            "--libexec-dir", instance.libexec, "--policy-dir", POLICIES, "--print-ready"]
    with open(out, "wb") as stdout, open(instance.log, "wb") as log:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=log)
    try:
        assert eventually(lambda: os.path.getsize(out) or child.poll() is not None, 30) and child.poll() is None, \
            instance.log_text()
        with open(f"/proc/{child.pid}/task/{child.pid}/children", encoding="ascii") as f:
            inside = f.read().split()[0]
        assert ask(alice, instance.socket) is None
        assert ask(User("root"), instance.socket) is None
        done = subprocess.run(["nsenter", "-t", inside, "-p", "-m", "/usr/bin/python3", "-c", ASK, instance.socket],
                              stdout=subprocess.PIPE, text=True, check=True)
        assert json.loads(done.stdout)["parameters"]["callerUid"] == 0
    finally:
        child.kill()
        child.wait(30)
        shutil.rmtree(instance.folder, ignore_errors=True)


def test_D02_refused_peers_leave_nothing(daemon):
    from machine import count_fds
    nobody = User("nobody")
    nobody.home = "/"
    before = count_fds(daemon.process.pid)
    for _ in range(20):
        with Connection(daemon.socket, nobody) as c:
            assert c.call("org.varlink.service.GetInfo") is None
    assert eventually(lambda: count_fds(daemon.process.pid) <= before, 20)
