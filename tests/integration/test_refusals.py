"""What is refused is recorded, also where nobody waits for the answer: the client has gone, or the whole session."""

import contextlib
import os
import signal
import subprocess

from machine import eventually, program_of

N_CLIENTS = 400

# The proxy itself answers to a greeting: then it has read what came on other connections before.
COMMON = r"""
import os, socket, struct, sys, time
def connect():
    return socket.create_connection(("127.0.0.1", 3128), 60)
def be_read():
    with connect() as s:
        s.sendall(b"\x05\x01\x00")
        assert s.recv(2) == b"\x05\x00"
def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.02)
open("ready", "w").close()
wait_for("go")
"""

LEAVE = COMMON + r"""
clients = [connect() for _ in range(int(sys.argv[1]))]
for c in clients:
    c.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
be_read()
for c in reversed(clients):
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
be_read()
"""

END = COMMON + r"""
bad, evil = connect(), connect()
bad.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
evil.sendall(b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n")
be_read()
be_read()
"""


@contextlib.contextmanager
def stopped(instance, name):
    pids = instance.workers(name)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if program_of(pid) == name:
                os.kill(pid, signal.SIGCONT)


def start(instance, user, profile, script, *arguments):
    """Its program, once it waits in a session of its own."""
    work = user.workspace()
    child = instance.ctl_start(user, "run", "-q", "-T", "-p", profile, "--", "python3", "-c", script, *map(str, arguments),
                               cwd=work, stderr=subprocess.PIPE)
    assert eventually(lambda: os.path.exists(work + "/ready"), 60)
    return child, work


def go(work):
    with open(work + "/go", "wb"):
        pass


def denied(instance, before):
    return [row for row in instance.rows(before, kind="net") if row["verdict"] == "deny"]


def test_clients_that_leave(own_instance, alice, profile):
    """More of them at once than audit is asked about at a time, and it is asked while it does not answer."""
    before = own_instance.head()
    child, work = start(own_instance, alice, profile, LEAVE + "open('left', 'w').close()\nwait_for('stop')\n", N_CLIENTS)
    with stopped(own_instance, "sandboxd-audit"):
        go(work)
        assert eventually(lambda: os.path.exists(work + "/left") or child.poll() is not None, 60)
    assert eventually(lambda: len(denied(own_instance, before)) >= N_CLIENTS, 30), len(denied(own_instance, before))
    with open(work + "/stop", "wb"):
        pass
    assert child.wait(60) == 0, child.stderr.read()
    rows = denied(own_instance, before)
    assert len(rows) == N_CLIENTS and {row["reason"] for row in rows} == {"malformed"}, rows[:3]


def test_sessions_that_end(own_instance, alice, profile):
    """The program asks and is gone, and its session with it, before audit gets to it."""
    before = own_instance.head()
    child, work = start(own_instance, alice, profile, END)
    with stopped(own_instance, "sandboxd-audit"):
        inits = set(own_instance.workers("sandbox-init"))
        go(work)
        assert eventually(lambda: not inits <= set(own_instance.workers("sandbox-init")), 60)
    assert child.wait(60) == 0, child.stderr.read()
    assert eventually(lambda: len(denied(own_instance, before)) >= 2, 30), denied(own_instance, before)
    assert sorted(str(row["host"]) for row in denied(own_instance, before)) == ["None", "evil.test"]
