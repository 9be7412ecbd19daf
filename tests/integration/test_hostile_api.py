"""An api worker that has been taken over: one user's worker may cost that user what it likes, and nobody else."""

import json
import os
import signal
import time

import pytest

import machine

HEAD = """
import os, socket, struct, sys, time
sys.path[:0] = [%r, %r]
from privsep import Channel, NUMBERS, sealed
folder = os.path.dirname(os.path.abspath(__file__))
end = socket.socket(fileno=3)
channel = Channel(end)
def say(text):
    print("hostile", text, file=sys.stderr, flush=True)
def wait_for(name):
    while True:
        m = channel.receive(20)
        if m is None: sys.exit(0)
        if m[0] == name: return m
def claims():
    return b"".join(s.ljust(n, b"\\0") for s, n in ((b"n", 64), (b"p", 64), (b"", 128), (b"", 128), (b"/w", 4096))) + bytes(20)
def create(token, connection, plan, policy, pool=b""):
    head = struct.pack("=QQII32sI256sI64s48s5QII", token, connection, 0, 0, b"", 0, b"", 0, b"", pool, 0, 0, 0, 0, 0, 0, 0)
    body = head + claims() + bytes(4)
    channel.send("SESSION_CREATE", fds=[plan, policy], tail=body)
def terminate(identity, reason=7):
    channel.send("SESSION_TERMINATE", tail=bytes.fromhex(identity) + struct.pack("=II", reason, 0))
def refuse(n):
    body = struct.pack("=IIII", 1, 0, 1, 0) + b"refuse".ljust(16, b"\\0") + b"r".ljust(256, b"\\0") + b"d".ljust(512, b"\\0") + bytes(16)
    channel.send("SESSION_REFUSE", tail=body)
def admin_open(what, identity="00" * 16, uid=0, method=b"Describe"):
    channel.send("ADMIN_OPEN", tail=struct.pack("=QQ16sII32s", 1, connection, bytes.fromhex(identity), what, uid, method))
def admin_terminate(scope, identity="00" * 16, uid=0):
    channel.send("ADMIN_TERMINATE", tail=struct.pack("=QQQ16sII", 2, connection, 0, bytes.fromhex(identity), scope, uid))
def refused(name):
    m = wait_for(name)
    if struct.unpack_from("=i", m[2], 8)[0] != -1 or m[3]:
        say("was let in")
        sys.exit(1)
def foreign():
    return open(folder + "/foreign").read()
channel.send("API_READY")
audit = Channel(socket.socket(fileno=wait_for("API_START")[3][0]))
audit.end.setblocking(True)
m = wait_for("API_CLIENT")
connection = struct.unpack_from("=Q", m[2])[0]
say("connected")
"""
WAIT = "\nend.setblocking(True)\nend.recv(1 << 20)\nwhile end.recv(1 << 20): pass\n"

# Each must end the worker at once.
FATAL = {
    "noise": "end.send(os.urandom(4096))",
    "unknown-message": "end.send(struct.pack('=IIQ', 999, 0, channel.sent))",
    "message-of-another": "channel.send('AUDIT_SESSION_OPENED', tail=bytes(32))",
    "ready-twice": "channel.send('API_READY')",
    "short": "channel.send('SESSION_TERMINATE', tail=b'x')",
    "too-long": "channel.send('SESSION_TERMINATE', tail=bytes(200000))",
    "descriptors": "channel.send('SESSION_TERMINATE', tail=bytes(24), fds=[0, 1, 2])",
    "no-way": "admin_open(77)",
    "odd-method": "admin_open(0, method=b'x\\n')",
    "no-scope": "admin_terminate(2)",
    "reason": "terminate('00' * 16, 4000)",
    "unsealed": "create(1, connection, os.memfd_create('x'), os.memfd_create('x'))",
    "device": "fd = os.open('/dev/zero', os.O_RDWR); create(1, connection, fd, fd)",
    "fifo": "create(1, connection, *os.pipe())",
    "empty": "create(1, connection, sealed(b''), sealed(b''))",
    "huge": "create(1, connection, sealed(bytes(3 << 20)), sealed(b'x'))",
    "odd-pool": "create(1, connection, sealed(b'x'), sealed(b'x'), struct.pack('=I16sI', 4, bytes(16), 31))",
    "pool-between": "create(1, connection, sealed(b'x'), sealed(b'x'), struct.pack('=I16sI', 4, bytes([28, 0, 1]), 16))",
    "pool-of-another-family": "create(1, connection, sealed(b'x'), sealed(b'x'), struct.pack('=I16sI', 6, bytes(16), 24))",
    "unterminated": "channel.send('SESSION_CREATE', fds=[sealed(b'x'), sealed(b'x')], tail=b'x' * 4624)",
}

# None of these is more than a claim that nobody believes.
HARMLESS = {
    "foreign-session": "terminate(open(folder + '/foreign').read())",
    "a-way-to-others": "for what in range(4): admin_open(what, foreign(), 1000); refused('ADMIN_OPENED')",
    "the-end-of-others": "for scope in (0, 1, 4): admin_terminate(scope, foreign(), 1000); refused('ADMIN_TERMINATED')",
    "stopping-of-others": "channel.send('SESSION_STOPPING', tail=bytes.fromhex(foreign()))",
    "no-such-session": "terminate('ab' * 16)",
    "no-such-connection": "create(1, connection + 1000, sealed(b'x'), sealed(b'x')); say(wait_for('SESSION_CREATED')[0])",
    "nonsense-plan": "create(1, connection, sealed(b'x' * 4096), sealed(b'x' * 64)); "
                     "m = wait_for('SESSION_CREATED'); say('error %d' % struct.unpack_from('=i', m[2], 24))",
    "closed-twice": "channel.send('API_CLIENT_CLOSED', tail=struct.pack('=Q', connection)); "
                    "channel.send('API_CLIENT_CLOSED', tail=struct.pack('=Q', connection))",
}


class Stage:
    """A daemon, a victim with a session, and a user whose api worker is the test's."""

    def __init__(self, instance, user, victim):
        self.instance, self.user, self.victim = instance, user, victim
        self.script = os.path.join(instance.folder, f"hostile-{user.uid}")
        self.session = instance.create(victim)
        with open(instance.folder + "/foreign", "w", encoding="ascii") as f:
            f.write(self.session)
        self.audit = instance.workers("sandboxd-audit")[0]

    def play(self, code):
        here = os.path.dirname(os.path.abspath(__file__))
        with open(self.script, "w", encoding="utf-8") as f:
            f.write(HEAD % (here, os.path.join(os.path.dirname(here), "support")) + code + "\nsay('done')\n" + WAIT)
        return self.instance.ctl_start(self.user, "list")

    def take_over(self, code):
        """The worker that is there ends; in its place is the test's."""
        worker, = [pid for pid in machine.children_of(self.instance.process.pid)
                   if f"--uid\0{self.user.uid}\0" in open(f"/proc/{pid}/cmdline", encoding="utf-8").read()]
        self.play(code).wait()
        os.kill(worker, signal.SIGKILL)
        for _ in range(5):
            # One that is passed to the old worker while it ends is lost with it.
            child = self.instance.ctl_start(self.user, "list")
            if self.said("connected", 3):
                return child
            self.end(child)
        raise AssertionError(self.instance.log_text()[-2000:])

    def said(self, text, timeout=10):
        return machine.eventually(lambda: f"hostile {text}" in self.instance.log_text(), timeout)

    def victim_lives(self):
        start = time.monotonic()
        done = self.instance.ctl(self.victim, "exec", self.session, "--", "echo", "lives")
        assert done.stdout == "lives\n", (done, self.instance.log_text()[-2000:])
        assert self.instance.workers("sandboxd-audit")[0] == self.audit, "the audit writer was replaced"
        return time.monotonic() - start

    def end(self, child):
        child.kill()
        child.wait()


@pytest.fixture
def stage(settings, alice, bob):
    with machine.Instance(settings=settings) as instance:
        folder = os.path.join(instance.folder, "libexec")
        os.mkdir(folder)
        for name in os.listdir(machine.BUILD + "/libexec"):
            os.symlink(os.path.realpath(f"{machine.BUILD}/libexec/{name}"), f"{folder}/{name}")
        os.rename(folder + "/sandboxd-api", folder + "/real-sandboxd-api")
        os.symlink(machine.BUILD + "/tests/integration/stand-in", folder + "/sandboxd-api")
        instance.stop()
        instance.libexec = folder
        instance.start()
        yield Stage(instance, alice, bob)
        assert instance.process.poll() is None


def test_nonsense_ends_the_worker_alone(stage):
    for n, (name, code) in enumerate(FATAL.items()):
        before = stage.instance.log_text().count("hostile connected")
        # A worker that dies too often is not started again for a while: one user's daemon for a few of them.
        if n and n % 4 == 0:
            stage.instance.stop()
            stage.instance.start()
            stage.__init__(stage.instance, stage.user, stage.victim)
        child = stage.play(code)
        assert child.wait(20) == 125, name
        text = stage.instance.log_text()
        assert text.count("hostile connected") > before, (name, text[-1500:])
        assert "broke the protocol" in text.rsplit("hostile connected", 1)[1], (name, text[-1500:])
        stage.victim_lives()


@pytest.mark.parametrize("name", HARMLESS)
def test_claims_are_not_believed(stage, name):
    child = stage.play(HARMLESS[name])
    assert stage.said("done"), stage.instance.log_text()[-2000:]
    stage.victim_lives()
    assert "broke the protocol" not in stage.instance.log_text()
    stage.end(child)


def test_flood_of_reports(stage):
    child = stage.play("for i in range(400000): refuse(i)")
    assert stage.said("connected")
    slowest = max(stage.victim_lives() for _ in range(10))
    stage.said("done", 20)
    assert slowest < 3, slowest
    stage.victim_lives()
    rows = stage.instance.rows(0, kind="session", action="refuse")
    assert 100 <= len(rows) < 5000, len(rows)
    stage.instance.ctl(stage.user, "run", "-p", "no-such-profile", "--", "true")
    counted = stage.instance.rows(0, kind="limit", action="reached", reason="rows")
    assert counted and all(r["uid"] == stage.user.uid for r in counted)
    stage.end(child)


def test_flood_of_sessions(stage):
    child = stage.play("plan, policy = sealed(b'x' * 4096), sealed(b'x' * 64)\n"
                       "for i in range(3000): create(i, connection, plan, policy)\n")
    assert stage.said("connected")
    slowest = max(stage.victim_lives() for _ in range(10))
    assert slowest < 5, slowest
    stage.end(child)
    stage.instance.ctl(stage.user, "list")
    stage.victim_lives()


def test_worker_that_does_not_read(stage):
    child = stage.play("say('done')\ntime.sleep(600)")
    assert stage.said("done")
    children = [stage.instance.ctl_start(stage.user, "list") for _ in range(40)]
    stage.victim_lives()
    for other in [child, *children]:
        stage.end(other)


# What a user's worker answers an administrator: {owner} is somebody else.
LIES = {
    "another-owner": '{{"parameters":{{"id":"%s","runtime":{{"state":"running","ownerUid":{owner}}}}},"continues":true}}',
    "no-owner": '{{"parameters":{{"id":"%s","runtime":{{"state":"running"}}}},"continues":true}}',
    "no-runtime": '{{"parameters":{{"id":"%s"}},"continues":true}}',
    "no-json": "nonsense %s",
    "silence": "",
}


@pytest.mark.parametrize("name", LIES)
def test_a_worker_lies_to_an_administrator(stage, root, name):
    """About its own sessions it may; its list ends where it speaks of others', and the others' are there."""
    answer = LIES[name].format(owner=stage.victim.uid)
    answer = answer % ("ab" * 16) if answer else ""
    child = stage.play(f"""
m = wait_for("API_CLIENT")
if struct.unpack_from("=QII", m[2])[2] != {stage.user.uid}: say("another uid")
s = socket.socket(fileno=m[3][0])
s.setblocking(True)
call = s.recv(65536)
say("asked " + call.decode().rstrip(chr(0)))
truth = '{{"parameters":{{"id":"%s","runtime":{{"state":"running","ownerUid":{stage.user.uid}}}}},"continues":true}}' % ("cd" * 16)
socket.send_fds(s, [truth.encode() + b"\\0"], [0])
answer = {answer!r}
if answer: s.send(answer.encode() + b"\\0")
""")
    assert stage.said("connected")
    done = stage.instance.ctl(root, "list", "--all-users", "--json", timeout=30)
    assert done.returncode == 0, done
    listed = {line["id"] for line in map(json.loads, done.stdout.splitlines())}
    assert listed == {"cd" * 16, stage.session}, (listed, stage.instance.log_text()[-1500:])
    assert stage.said('asked {"method":"io.sandboxd.Session.List"')
    assert "another uid" not in stage.instance.log_text()
    stage.end(child)


def test_a_worker_puts_off_the_end_of_its_session(stage, root):
    """The grace time that an administrator gave runs once, however often the worker says that it began."""
    session = stage.instance.create(stage.user)
    child = stage.take_over("""
m = wait_for("SESSION_STOP")
say("hears of the end")
for _ in range(1200):
    channel.send("SESSION_STOPPING", tail=m[2][:16])
    time.sleep(0.05)
""")
    done = stage.instance.ctl(root, "terminate", "--grace", "2s", session, timeout=30)
    assert done.returncode == 0 and stage.said("hears of the end"), done
    stage.victim_lives()
    stage.end(child)


def test_flood_of_exits(stage):
    """Rows of what has happened are not refused; but nothing has: commands end once, and not before they began."""
    session = stage.instance.create(stage.user)
    for _ in range(3):
        assert stage.instance.ctl(stage.user, "exec", session, "--", "true").returncode == 0
    before = stage.instance.head()
    child = stage.take_over(f"""
exits = bytes.fromhex("{session}") + struct.pack("=IIII", 1, 0, 0, 0)
for _ in range(20000):
    audit.send("RECORD_EXIT", tail=exits)
""")
    assert stage.said("done", 60)
    stage.victim_lives()
    assert len(stage.instance.rows(before, action="exit", session=session)) <= 3
    stage.end(child)


CONNECTS = """
import socket, sys, time
for _ in range(200):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(sys.argv[1])
        try:
            s.recv(1)
        except OSError:
            pass
"""


def test_a_worker_that_ends_too_often(stage):
    """Is not started again for each connection of its user; later it is."""
    with open(stage.script, "w", encoding="ascii") as f:
        f.write("import os\nos._exit(3)\n")
    assert stage.user.run(["/usr/bin/python3", "-c", CONNECTS, stage.instance.socket], timeout=120).returncode == 0
    text = stage.instance.log_text()
    assert "ended too often" in text and text.count("ended with status 3") < 30, text[-2000:]
    stage.victim_lives()
    os.unlink(stage.script)
    assert machine.eventually(lambda: stage.instance.ctl(stage.user, "list").returncode == 0, 30, 0.5)
