"""Ways round a control of what leaves that take many connections, more than one session, or a daemon that is not there. Numbers
are the catalogue's (test_bypass.py)."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading

import pytest

import machine
from machine import eventually, talk
from test_bypass import EVERYTHING, absolute, rows_of
from test_rule_keys import Inside, b64, rule, utc

PYTHON = ("/usr/bin/python3", "-c")


class Tap:
    """Passes connections on to a port, and keeps what came: of each, the rows at its begin and its bytes."""

    def __init__(self, to, rows):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.to, self.rows, self.seen, self.got = to, rows, [], []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.seen.append(self.rows())
                server = socket.create_connection(("127.0.0.1", self.to))
                threading.Thread(target=self.copy, args=(client, server, self.got), daemon=True).start()
                threading.Thread(target=self.copy, args=(server, client, []), daemon=True).start()

    @staticmethod
    def copy(source, to, got):
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                got.append(part)
                to.sendall(part)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)


@pytest.fixture
def early_server(tmp_path):
    """OpenSSL's own server, which takes early data: its port, and what it wrote."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=allowed.test", "-keyout",
                    tmp_path / "key", "-out", tmp_path / "cert"], check=True, stderr=subprocess.DEVNULL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    out = tmp_path / "out"
    with open(out, "wb") as to:
        server = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3", "-early_data", "-cert",
                                   tmp_path / "cert", "-key", tmp_path / "key"], stdin=subprocess.PIPE, stdout=to, stderr=to)
    try:
        assert eventually(lambda: b"ACCEPT" in out.read_bytes(), 20)
        yield port, out
    finally:
        server.kill()
        server.wait()
        server.stdin.close()


def ticket(port, name, path):
    """A session of TLS 1.3 with the server, for this name, made outside."""
    client = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, "-tls1_3", "-sess_out", path],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: os.path.exists(path) and os.path.getsize(path) > 0, 30), "no ticket came"
    finally:
        client.communicate(b"Q\n", timeout=30)
    os.chmod(path, 0o644)


@pytest.mark.parametrize("name", ["allowed.test", "evil.test"])
def test_e28_early_data(instance, alice, make_profile, early_server, name):
    """What a client says before the server has answered waits for the row, like all that it says."""
    port, out = early_server
    before, work = instance.head(), alice.workspace()
    tap = Tap(port, lambda: rows_of(instance, before))
    ticket(port, name, os.path.join(work, "ticket"))
    alice.write(os.path.join(work, "early"), "before-anybody-answers")
    # The name that is resolved is the allowed one: only the hello says which is meant.
    done = instance.ctl(alice, "run", "-T", "-p", make_profile([rule("allowed.test", tap.port)]), "--", "sh", "-c",
                        f"echo Q | openssl s_client -connect allowed.test:{tap.port} -servername {name} -tls1_3 -sess_in ticket "
                        "-early_data early", cwd=work, timeout=60)
    if name == "allowed.test":
        assert "Early data was accepted" in done.stdout, done.stdout[-500:] + done.stderr[-500:]
        assert eventually(lambda: b"before-anybody-answers" in out.read_bytes(), 20)
        assert [(row["verdict"], row["host"]) for row in tap.seen[0]] == [("allow", "allowed.test")]
    else:
        assert done.returncode != 0 and not tap.got
        assert b"before-anybody-answers" not in out.read_bytes()
        assert "deny" in {row["verdict"] for row in rows_of(instance, before)}


def test_e65_no_connection_meets_itself(instance, alice, profile):
    """Whatever port the kernel chooses; nor do two programs that open to each other under other people's addresses leave."""
    script = """
import errno, json, socket, struct
found, sources = 0, set()
for i in range(4000):
    s = socket.socket()
    s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    to = ("9.9.9.9", 32768 + i * 7 % 28232)
    s.connect_ex(to)
    found += s.getsockname() == to
    sources.add(s.getsockname()[0])
    s.close()
a, b = socket.socket(), socket.socket()
for s, name in ((a, ("9.9.9.9", 40001)), (b, ("8.8.8.8", 40002))):
    s.setblocking(False)
    s.bind(name)
a.connect_ex(("8.8.8.8", 40002))
b.connect_ex(("9.9.9.9", 40001))
print(json.dumps([found, sorted(sources)]))
"""
    before = instance.head()
    done = instance.ctl(alice, "run", "-q", "-T", "-p", profile, "--", *PYTHON, script, cwd=alice.workspace(), timeout=120)
    assert json.loads(done.stdout) == [0, ["10.0.2.15"]], done.stdout + done.stderr
    assert {row["verdict"] for row in rows_of(instance, before)} <= {"deny"}


def test_e66_a_source_of_ones_own_is_no_name(instance, alice, bob, profile):
    """Two sessions of two users that call themselves the same: each row is its own session's."""
    script = """
import socket, sys
s = socket.socket()
s.settimeout(30)
s.bind(("8.8.8.8", 40003))
s.connect(("9.9.9.9", int(sys.argv[1])))
try:
    s.recv(1)
except OSError:
    pass
"""
    before, sessions = instance.head(), {}
    for port, user in ((81, alice), (82, bob), (83, alice)):
        session = instance.create(user, "-p", profile)
        sessions[port] = (session, user.uid)
        assert instance.ctl(user, "exec", session, "--", *PYTHON, script, str(port), timeout=60).returncode == 0
        instance.ctl(user, "terminate", session)
    rows = eventually(lambda: (lambda r: r if len(r) >= 3 else None)(rows_of(instance, before)), 20)
    assert {row["port"]: (row["session"], row["uid"]) for row in rows} == sessions


STANDS_IN = """
import os, socket, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
for bound, port in (("0.0.0.0", 8443), ("9.9.9.9", 8444)):
    server = socket.socket()
    server.bind((bound, port))
    server.listen()
    client = socket.socket()
    client.settimeout(4)
    try:
        client.connect(("9.9.9.9", port))
        server.setblocking(False)
        time.sleep(1)
        server.accept()
        print("met itself", flush=True)
    except OSError:
        print("nobody", flush=True)
    client.close()
    server.close()
"""


@pytest.mark.parametrize("steering", ["TPROXY", "sk_lookup"])
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["stands", "gone"])
def test_e68_nobody_stands_in_for_a_daemon_that_is_not_there(settings, alice, profile, steering, how):
    """Neither while all of it stands, nor when all of it is gone: the session is there, the sites are not."""
    running, work = machine.Instance(settings=settings), alice.workspace()
    stopped = []
    try:
        running.start(environment=machine.without("nft") if steering == "sk_lookup" else {})
        session = running.ctl(alice, "create", "-p", profile, cwd=work).stdout.split()[-1]
        out = os.path.join(work, "out")
        running.ctl_start(alice, "exec", session, "--", "sh", "-c", 'exec /usr/bin/python3 -c "$0" go >out 2>&1', STANDS_IN,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert eventually(lambda: os.path.exists(out), 30)
        for pid in [running.process.pid, *running.workers()]:
            if machine.program_of(pid) in ("sandbox-init", ""):
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
                stopped.append(pid)
        alice.write(os.path.join(work, "go"), "")
        with open(out, encoding="utf-8") as f:
            assert eventually(lambda: f.seek(0) or len(f.read().splitlines()) >= 2, 60)
            f.seek(0)
            assert f.read().splitlines() == ["nobody"] * 2
    finally:
        for pid in stopped if how == signal.SIGSTOP else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        running.remove()


LISTENS = """
import select, socket, sys, time
ones = []
for family, name in ((socket.AF_INET, ("0.0.0.0", 45672)), (socket.AF_INET6, ("fd00:5a::15", 45673)), (socket.AF_UNIX, sys.argv[1].replace("@", chr(0)))):
    s = socket.socket(family)
    s.bind(name)
    s.listen()
    ones.append(s)
print("up", flush=True)
select.select(ones, [], [])
print("met somebody", flush=True)
"""
CONNECTS = """
import json, socket, sys
found = []
for family, name in ((socket.AF_INET, ("127.0.0.1", 45672)), (socket.AF_INET, ("10.0.2.15", 45672)), (socket.AF_INET6, ("fd00:5a::15", 45673)),
                     (socket.AF_UNIX, sys.argv[1].replace("@", chr(0)))):
    s = socket.socket(family)
    s.settimeout(20)
    try:
        s.connect(name)
        found.append(str(name))
    except OSError:
        pass
print(json.dumps(found))
"""


@pytest.mark.parametrize("other", ["alice", "bob"])
def test_e69_what_listens_in_another_session(request, instance, alice, profile, other):
    """Not by TCP, not by an abstract socket; what listens there hears of nobody, whoever's session the other one is."""
    user, name = request.getfixturevalue(other), f"@sbxt-{os.getpid()}-{other}"
    first = instance.ctl_start(alice, "run", "-q", "-T", "-p", profile, "--", *PYTHON, LISTENS, name, cwd=alice.workspace(),
                               stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"up\n"
        done = instance.ctl(user, "run", "-q", "-T", "-p", profile, "--", *PYTHON, CONNECTS, name, cwd=user.workspace(), timeout=120)
        assert json.loads(done.stdout) == [], done.stdout
    finally:
        first.terminate()
        rest, _ = first.communicate(timeout=60)
        assert b"met" not in rest


def listening_inodes():
    """Of the network that the daemon runs in."""
    found = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{name}", encoding="utf-8") as f:
            found |= {line.split()[9] for line in f if line.split()[3] == "0A"}
    return found


def test_e70_no_way_through_the_daemon(instance, alice, bob, make_profile):
    """Nothing of the daemon listens outside but published ports, which rules for whole networks do not open."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    session = instance.create(alice, "--publish", str(port))
    try:
        inodes = listening_inodes()
        held = {}
        for pid in [instance.process.pid, *instance.workers()]:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if link.startswith("socket:") and link[8:-1] in inodes:
                        held.setdefault(machine.program_of(pid), set()).add(link)
        # The two listeners of the published port, one for each family.
        assert set(held) == {"sandboxd"}, held
        before = instance.head()
        answers = talk(instance, bob, make_profile(EVERYTHING), [[absolute(f"{host}:{port}")] for host in ("127.0.0.1", "[::1]")])
        assert [answer[0].status for answer, _ in answers] == [403, 403]
        assert {(row["verdict"], row["reason"]) for row in rows_of(instance, before)} == {("deny", "address")}
    finally:
        instance.ctl(alice, "terminate", session)


HALF_OPEN = """
import os, socket, sys
held = []
for _ in range(int(sys.argv[1])):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("127.0.0.1", 3128))
    held.append(s)
print("held", flush=True)
sys.stdin.read()
"""


def test_e71_half_open_connections(instance, alice, bob, profile, web):
    """More than a worker takes, of which none says anything: others are served, and so is the session itself afterwards."""
    n_processes, n_each, url = 9, 1500, f"http://allowed.test:{web.server_port}/"
    session = instance.create(alice, "-p", profile)
    flood = [instance.ctl_start(alice, "exec", session, "--", *PYTHON, HALF_OPEN, str(n_each), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
             for _ in range(n_processes)]
    try:
        for process in flood:
            assert process.stdout.readline() == b"held\n"
        done = instance.ctl(bob, "run", "-T", "-p", profile, "--", "curl", "-sS", "-m", "60", url, cwd=bob.workspace(), timeout=120)
        assert done.stdout == "hello from the test server\n", done.stderr
        for pid in instance.workers("sandboxd-egress"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as f:
                resident = next((int(line.split()[1]) for line in f if line.startswith("VmRSS")), 0)
                assert machine.IS_SANITIZED or resident < 200_000, resident
    finally:
        for process in flood:
            process.communicate(b"")
    done = eventually(lambda: (lambda d: d if d.returncode == 0 else None)(
        instance.ctl(alice, "exec", session, "--", "curl", "-sS", "-m", "60", url, timeout=120)), 60)
    assert done and done.stdout == "hello from the test server\n"
    instance.ctl(alice, "terminate", session)


def test_e72_each_request_is_decided_anew(instance, alice, make_profile, web):
    """On one connection of the client's, and of ours to the server: what was allowed before is not any more."""
    request = b64(absolute(f"allowed.test:{web.server_port}"))
    for seconds in (8, 30, 90):
        seen, before = len(web.requests), instance.head()
        profile = make_profile([rule("allowed.test", web.server_port, expires=utc(seconds))], network={"default": "deny"})
        with Inside(instance, alice, profile) as inside:
            inside("plain", "a")
            inside("send", "a", request)
            # On a busy machine the session may have started too late.
            if " 200 " not in inside("head", "a"):
                continue
            assert eventually(lambda: instance.closes(before), 2 * seconds)
            inside("send", "a", request)
            assert " 403 " in inside("head", "a")
        assert [row["verdict"] for row in rows_of(instance, before)] == ["allow", "deny"]
        assert len(web.requests) == seen + 1
        return
    pytest.fail("no session started in time")


def test_e73_a_locked_database(settings, alice, profile, web):
    """No row, no effect: while somebody else holds the log nothing leaves; then it goes on."""
    with machine.Instance(settings=settings) as own:
        session = own.create(alice, "-p", profile)
        url = f"http://allowed.test:{web.server_port}/"
        get = ("exec", session, "--", "curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", url)
        assert own.ctl(alice, *get).stdout == "200"
        loop = own.ctl_start(alice, "exec", session, "--", "sh", "-c",
                             f"while :; do curl -s -m 60 -o /dev/null {url}; done", stdout=subprocess.DEVNULL)
        assert eventually(lambda: len(web.requests) > 3, 20)
        lock = sqlite3.connect(own.segments()[-1], timeout=60, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")

        def committed():
            with own.database() as db:
                return db.execute("SELECT count(*) FROM decision WHERE action = 'connect' AND verdict = 2").fetchone()[0]

        allowed, before = committed(), len(web.requests)
        # What was committed before the lock may still arrive; a second one of the same program cannot.
        assert own.ctl(alice, "run", "-T", "-p", profile, "--", "curl", "-sS", url, cwd=alice.workspace(), timeout=120).returncode == 125
        assert committed() == allowed and len(web.requests) <= before + 1
        lock.execute("ROLLBACK")
        lock.close()
        assert eventually(lambda: own.ctl(alice, *get, timeout=120).stdout == "200", 60, 0.5), own.log_text()[-2000:]
        loop.kill()
        loop.wait()
