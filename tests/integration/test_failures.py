"""Processes that die at any moment: what runs stays contained, nothing passes unrecorded, service comes back."""

import contextlib
import os
import signal
import subprocess
import time
import uuid

import pytest

from machine import eventually, processes_with, program_of, sleeps_with

PROBE = r"""
import os, socket, sys, time
def fails(action):
    try:
        action()
    except OSError:
        return True
    return False
while True:
    status = open("/proc/self/status").read()
    facts = {
        "caps": "CapEff:\t0000000000000000" in status,
        "nnp": "NoNewPrivs:\t1" in status,
        "seccomp": "Seccomp:\t2" in status,
        "files": fails(lambda: open("/etc/shadow")) and fails(lambda: open("/usr/x", "w")),
        "net": fails(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1)),
        "mount": not os.path.isdir("/root") or os.listdir("/root") == [],
    }
    with open("probe.new", "w") as f:
        f.write("\n".join(name for name, holds in facts.items() if not holds) or "contained")
    os.rename("probe.new", "probe")
    with open("beat", "a") as f:
        f.write(".")
    time.sleep(0.1)
"""


class Victim:
    """A session that tells all the time whether it is contained."""

    def __init__(self, instance, user, profile, web):
        self.instance, self.user = instance, user
        self.marker = f"67{uuid.uuid4().int % 10**8}"
        self.work = user.workspace()
        self.id = instance.create(user, "-p", profile, cwd=self.work)
        self.child = instance.ctl_start(user, "exec", self.id, "--", "python3", "-c", PROBE, str(web.server_port),
                                        self.marker)
        assert eventually(lambda: os.path.exists(self.work + "/probe"))
        assert self.facts() == "contained"

    def facts(self):
        with open(self.work + "/probe", encoding="utf-8") as f:
            return f.read()

    def runs(self):
        return len([p for p in processes_with(self.marker) if p != self.child.pid]) > 0

    def goes_on(self):
        """Or it has ended meanwhile, as one whose worker was killed may."""
        size = os.path.getsize(self.work + "/beat")
        assert eventually(lambda: not self.runs() or os.path.getsize(self.work + "/beat") > size, 20)
        return self.runs()

    def end(self):
        self.child.kill()
        self.child.wait()


@pytest.fixture
def victim(own_instance, alice, profile, web):
    found = Victim(own_instance, alice, profile, web)
    yield found
    found.end()


def kill_workers(instance, name):
    for pid in instance.workers(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def serves(instance, user, profile, web):
    done = instance.ctl(user, "run", "-T", "-p", profile, "--", "curl", "-s", "-m", "10",
                        f"http://allowed.test:{web.server_port}/", cwd=user.workspace())
    return done.stdout == "hello from the test server\n"


def unrecorded(instance, web, requests):
    """Requests that the server got after `requests`, but for those that have a row: counted first, since more may come."""
    seen = len(web.requests)
    return seen - requests - len(instance.rows(0, kind="net", verdict="allow"))


@pytest.mark.parametrize("name", ["sandboxd-egress", "sandboxd-dialer", "sandboxd-audit", "sandboxd-api"])
def test_killed_worker(own_instance, victim, alice, profile, web, name):
    requests = len(web.requests)
    pids = own_instance.workers(name)
    assert pids, f"no {name} runs"
    for pid in pids:
        # The first one may be the pid 1 that the others go with.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert own_instance.process.poll() is None
    if victim.goes_on():
        assert victim.facts() == "contained"
    else:
        ends = eventually(lambda: own_instance.rows(0, kind="session", action="end", session=victim.id))
        assert len(ends) == 1
    assert eventually(lambda: serves(own_instance, alice, profile, web), 60, 0.3), own_instance.log_text()[-3000:]
    assert unrecorded(own_instance, web, requests) <= 0
    assert own_instance.process.poll() is None
    if victim.runs():
        assert victim.facts() == "contained"


@pytest.mark.parametrize("name", ["sandboxd-egress", "sandboxd-dialer", "sandboxd-audit"])
def test_worker_killed_under_load(own_instance, alice, profile, web, name):
    """Requests all the time while the worker is killed again and again: no request without a row."""
    requests = len(web.requests)
    work = alice.workspace()
    session = own_instance.create(alice, "-p", profile, cwd=work)
    child = own_instance.ctl_start(alice, "exec", session, "--", "sh", "-c",
                                   f"while :; do curl -s -m 2 -o /dev/null http://allowed.test:{web.server_port}/; done")
    for _ in range(4):
        time.sleep(0.4)
        kill_workers(own_instance, name)
    time.sleep(0.5)
    child.kill()
    child.wait()
    assert own_instance.process.poll() is None, own_instance.log_text()[-3000:]
    assert unrecorded(own_instance, web, requests) <= 0
    assert eventually(lambda: serves(own_instance, alice, profile, web), 30, 0.3), own_instance.log_text()[-3000:]


@pytest.mark.parametrize("name", ["sandboxd-egress", "sandboxd-dialer", "sandboxd-audit"])
def test_stopped_worker_lets_nothing_pass(own_instance, victim, alice, web, name):
    """SIGSTOP in place of death: requests wait or fail, none passes."""
    assert victim.runs()
    pids = own_instance.workers(name)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        requests = len(web.requests)
        child = own_instance.ctl_start(alice, "exec", victim.id, "--", "curl", "-s", "-m", "3",
                                       f"http://allowed.test:{web.server_port}/", stdout=subprocess.PIPE)
        out, _ = child.communicate(timeout=30)
        assert b"hello" not in out and len(web.requests) == requests
    finally:
        for pid in pids:
            if program_of(pid) == name:
                os.kill(pid, signal.SIGCONT)


def test_killed_launcher(own_instance, victim, web):
    """Workers die with it; what runs is still contained and has no network."""
    workers = own_instance.workers()
    workers = [p for p in workers if program_of(p) != "sandbox-init"]
    own_instance.process.kill()
    own_instance.process.wait()
    assert eventually(lambda: not [p for p in workers if os.path.exists(f"/proc/{p}") and
                                   program_of(p).startswith("sandboxd")], 5)
    if victim.goes_on():
        assert victim.facts() == "contained"
    own_instance.process.stdout.close()
    own_instance.process = None
    own_instance.start()
    assert eventually(lambda: not victim.runs(), 20), "a session of the former daemon still runs"


def test_killed_init(own_instance, victim, alice):
    """The death of a session's pid 1 is the end of that session, and of no other."""
    other = own_instance.create(alice)
    inits = own_instance.workers("sandbox-init")
    leader = [p for p in processes_with(victim.marker) if p != victim.child.pid][0]
    with open(f"/proc/{leader}/status", encoding="utf-8") as f:
        parent = int([line.split()[1] for line in f if line.startswith("PPid:")][0])
    assert parent in inits
    os.kill(parent, signal.SIGKILL)
    assert eventually(lambda: not victim.runs())
    assert eventually(lambda: own_instance.rows(0, kind="session", action="end", session=victim.id))
    assert own_instance.ctl(alice, "exec", other, "--", "echo", "alive").stdout == "alive\n"


@pytest.mark.parametrize("name", ["sandboxd-dialer", "sandboxd-audit", "sandboxd-egress"])
def test_a_worker_that_always_dies_does_not_spin(own_instance, alice, profile, web, name):
    """Restarts are rate-limited; the daemon lives, does not burn the processor, and serves again."""
    for _ in range(30):
        kill_workers(own_instance, name)
        time.sleep(0.02)
    assert own_instance.process.poll() is None, own_instance.log_text()[-3000:]

    def ticks():
        with open(f"/proc/{own_instance.process.pid}/stat", encoding="utf-8") as f:
            return sum(map(int, f.read().rpartition(")")[2].split()[11:13]))
    before = ticks()
    time.sleep(1)
    assert ticks() - before < 50
    assert eventually(lambda: serves(own_instance, alice, profile, web), 30, 0.3), own_instance.log_text()[-3000:]


def test_a_users_worker_comes_back_by_itself(own_instance, alice):
    """Who has sessions has a worker, after the pause that follows many deaths too, though nobody connects; even if one
    of the sessions ends meanwhile."""
    instance = own_instance
    names = [instance.create(alice, cwd=alice.workspace()) for _ in range(2)]
    # Not their children, which wait to be the next command.
    launcher = instance.process.pid
    with open(f"/proc/{launcher}/task/{launcher}/children", encoding="ascii") as f:
        inits = [pid for pid in map(int, f.read().split())
                 if program_of(pid) == "sandbox-init" and os.stat(f"/proc/{pid}").st_uid == alice.uid]
    assert len(inits) == 2

    def has_died_often():
        kill_workers(instance, "sandboxd-api")
        return "ended too often: waiting" in instance.log_text()
    assert eventually(has_died_often, 60, 0.05)
    os.kill(inits[0], signal.SIGKILL)
    assert eventually(lambda: len(instance.workers("sandboxd-api")) == 1, 60, 0.1)
    answers = [instance.ctl(alice, "exec", name, "--", "echo", "alive").stdout for name in names]
    assert sorted(answers) == ["", "alive\n"]


def test_killed_readers_of_rows(own_instance, alice):
    """The helpers that fork readers have spares; the writer goes on, and connections with it."""
    def parent(pid):
        with open(f"/proc/{pid}/status", encoding="utf-8") as f:
            return int([line.split()[1] for line in f if line.startswith("PPid:")][0])
    pids = own_instance.workers("sandboxd-audit")
    helpers = sorted(pid for pid in pids if parent(pid) in pids)
    writer = [pid for pid in pids if pid not in helpers]
    assert len(helpers) == 3
    for pid in helpers[:2]:
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        done = own_instance.ctl(alice, "audit", "log", "--json")
        assert done.returncode == 0, (done.stderr, own_instance.log_text()[-2000:])
    assert set(writer) <= set(own_instance.workers("sandboxd-audit"))


def test_orderly_stop(settings, alice):
    from machine import Instance
    marker = f"66{uuid.uuid4().int % 10**8}"
    with Instance(settings=settings) as running:
        child = running.ctl_start(alice, "run", "-T", "--", "sleep", marker, cwd=alice.workspace())
        assert eventually(lambda: sleeps_with(marker))
        workers = running.workers()
        status = running.stop()
        assert status == 0
        assert eventually(lambda: not [p for p in workers if program_of(p).startswith("sandboxd-")])
        child.kill()
        child.wait()
        with Instance(settings=settings, folder=running.folder) as again:
            assert again.sh(alice, "echo x").stdout == "x\n"
            assert not processes_with(marker)
            assert again.rows(0, kind="admin", action="stop")
