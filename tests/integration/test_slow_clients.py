"""Clients that are slow, mute or greedy: properties D09, D10, D11, D37."""

import json
import os
import socket
import subprocess
import time

import machine

INFO = b'{"method":"org.varlink.service.GetInfo"}\0'
UIDS = range(1_900_000, 1_900_010)

# Runs as one uid: n clients of each of three kinds, until all of them were dropped; prints how long that took, in
# seconds, for the last one.
SLOW = """
import json, socket, sys, time
path, n = sys.argv[1], int(sys.argv[2])
HEAD = b'{"method":"org.varlink.service.GetInfo","parameters":{}'
BODY = b'{"method":"io.sandboxd.Session.Describe","parameters":{"id":"' + b"x" * 1000
ASK = b'{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.sandboxd.Session"}}\\0'
start = time.monotonic()
clients = []
for kind in ("head", "body", "mute") * n:
    s = socket.socket(socket.AF_UNIX); s.settimeout(20)
    try:
        s.connect(path)
    except OSError:
        continue
    s.setblocking(False)
    clients.append([kind, s, 0])
print("up", flush=True)
while clients:
    for c in list(clients):
        kind, s, sent = c
        try:
            if kind == "head":
                s.send(HEAD[sent % len(HEAD):][:1]); c[2] += 1
            elif kind == "body":
                if not sent:
                    s.send(BODY); c[2] = 1
            else:
                while True:
                    s.send(ASK)
        except BlockingIOError:
            pass
        except OSError:
            clients.remove(c)
            continue
        if kind != "mute":
            try:
                if not s.recv(4096): clients.remove(c)
            except BlockingIOError: pass
            except OSError: clients.remove(c)
    time.sleep(1)
print(time.monotonic() - start, flush=True)
"""


def slow_clients(instance, uid, n):
    return subprocess.Popen(["/usr/bin/python3", "-c", SLOW, instance.socket, str(n)], user=uid, group=uid,
                            extra_groups=[], cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def test_d10_a_thousand_slow_clients(own_instance, alice, bob, root):
    """A byte a second, half a message, answers that nobody reads, by ten users: all are dropped, and meanwhile others
    are answered, and so is (D37) who has some of these clients beside."""
    children = [slow_clients(own_instance, uid, 34) for uid in UIDS]
    mine = slow_clients(own_instance, alice.uid, 1)
    try:
        for child in [*children, mine]:
            assert child.stdout.readline() == "up\n"
        n = 0
        while any(child.poll() is None for child in [*children, mine]):
            for user in (alice, bob, root):
                answer = own_instance.call(user, "org.varlink.service.GetInfo")
                assert answer and "vendor" in answer[0]["parameters"], (user.name, answer)
            n += 1
            assert n < 2000
        assert n > 3
        # Each within its time, not one after another: with ten seconds to be dropped after.
        assert all(float(child.stdout.read()) < 60 for child in [*children, mine])
    finally:
        for child in [*children, mine]:
            child.kill()
            child.wait()
    assert own_instance.process.poll() is None
    assert own_instance.sh(bob, "echo fine").stdout == "fine\n"


def memory_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmRSS:"))


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    return s


def test_d11_d15_buffered_bytes(settings, alice, bob):
    """What a user's connections hold unread and unsent has a sum; who goes beyond it loses the connection. No message
    is larger than it may be, and none is waited for in memory."""
    limits = {"buffer_per_user": "3M"}
    script = ("import json, socket, sys\n"
              "held = []\n"
              "for i in range(40):\n"
              " s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])\n"
              " try: s.sendall(b'{\"method\":\"' + b'x' * 200000)\n"
              " except OSError: pass\n"
              " held.append(s)\n"
              "lost = 0\n"
              "for s in held:\n"
              " s.settimeout(0.2)\n"
              " try: lost += s.recv(1) == b''\n"
              " except TimeoutError: pass\n"
              " except OSError: lost += 1\n"
              "print(lost, flush=True); sys.stdin.read()\n")
    with machine.Instance(settings={**settings, "limits": limits}) as instance:
        child = alice.popen(["/usr/bin/python3", "-c", script, instance.socket], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
        lost = int(child.stdout.readline())
        assert 15 < lost < 40, lost
        assert "vendor" in instance.call(bob, "org.varlink.service.GetInfo")[0]["parameters"]
        child.communicate("")
        assert machine.eventually(lambda: instance.ctl(alice, "list").returncode == 0)

        def counted():
            rows = instance.rows(0, kind="limit", action="reached", uid=alice.uid, reason="buffers")
            return sum(json.loads(row["detail"])["refused"] for row in rows)
        # Some were lost after they were looked at.
        assert machine.eventually(lambda: 0 < counted() <= 40, 20), (counted(), lost)
        # A message without an end, twenty times as large as one may be.
        worker = max(instance.workers("sandboxd-api"), key=memory_of)
        before = memory_of(worker)
        for _ in range(5):
            with connect(instance.socket) as s:
                try:
                    s.sendall(b'{"method":"' + b"y" * (5 << 20))
                    assert s.recv(1) == b""
                except OSError:
                    pass
        assert memory_of(worker) - before < 16 << 20
        # The largest that may be is answered, one byte more is not.
        for size, is_answered in ((256 << 10, True), ((256 << 10) + 1, False)):
            with connect(instance.socket) as s:
                message = b'{"method":"org.varlink.service.GetInfo"}'
                try:
                    s.sendall(message + b" " * (size - len(message)) + b"\0")
                    assert (b"vendor" in s.recv(65536)) == is_answered
                except ConnectionError:
                    assert not is_answered


IN_FLIGHT = """
import array, os, socket, sys
path = sys.argv[1]
def send(s, data, fds):
    s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
for turn in range(150):
    s = socket.socket(socket.AF_UNIX); s.connect(path)
    pairs = [socket.socketpair() for _ in range(8)]
    try:
        for i, (a, b) in enumerate(pairs):
            # Each holds the ends of the next one, the last those of the first, and itself.
            c, d = pairs[(i + 1) % len(pairs)]
            send(a, b"x", [c.fileno(), d.fileno(), a.fileno(), b.fileno()])
        # The connection itself, in a socket that goes over it.
        send(pairs[0][0], b"y", [s.fileno()])
        fds = [end.fileno() for pair in pairs for end in pair]
        n = (1, 8, 16)[turn % 3]
        send(s, (b'{"method":"org.varlink', b'{"method":"io.sandboxd.Session.Exec"}\\0')[turn % 2], fds[:n])
        if turn % 5 == 0:
            send(s, b"z", fds[:2])
    except OSError:
        pass
    for a, b in pairs:
        a.close(); b.close()
    if turn % 2:
        s.settimeout(0.05)
        try:
            while s.recv(4096): pass
        except OSError: pass
    s.close()
"""


def test_d09_sockets_in_sockets(own_instance, alice, bob):
    """Descriptors in flight that hold each other, in cycles and within the connection that carries them: none stays."""
    own_instance.call(alice, "org.varlink.service.GetInfo")
    assert own_instance.sh(alice, "true").returncode == 0
    time.sleep(0.5)

    def counts():
        pids = [own_instance.process.pid, *own_instance.workers("sandboxd-api")]
        return {pid: machine.count_fds(pid) for pid in pids}
    before = counts()
    with open("/proc/net/unix", encoding="ascii") as f:
        sockets = len(f.readlines())
    senders = [alice.popen(["/usr/bin/python3", "-c", IN_FLIGHT, own_instance.socket]) for _ in range(3)]
    assert [sender.wait(120) for sender in senders] == [0] * len(senders)
    assert machine.eventually(lambda: all(counts()[pid] <= n for pid, n in before.items()), 15), (before, counts())

    def collected():
        # Sending one makes the kernel look for those that nobody can reach any more.
        a, b = socket.socketpair()
        socket.send_fds(a, [b"x"], [b.fileno()])
        a.close()
        b.close()
        with open("/proc/net/unix", encoding="ascii") as f:
            return len(f.readlines()) < sockets + 1000
    assert machine.eventually(collected, 15)
    assert list(counts()) == list(before), "a process of the daemon has died"
    assert own_instance.sh(bob, "echo fine").stdout == "fine\n"
