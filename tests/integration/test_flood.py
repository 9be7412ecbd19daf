"""A flood by one process, and what another user notices of it: property D15; D46 for root."""

import json
import os
import subprocess
import time

import pytest

import machine

pytestmark = pytest.mark.alone

KINDS = ("connects", "messages", "creates", "queries", "big", "halves")

# Runs as the other user. Each line of input is a number of rounds; the answer is the times of calls, each on a
# connection of its own, and of commands in a running session, in microseconds.
MEASURE = """
import json, socket, sys, time
path, session = sys.argv[1:]
INFO = b'{"method":"io.sandboxd.Manager.Describe"}\\0'
EXEC = json.dumps({"method": "io.sandboxd.Session.Exec", "more": True, "parameters": {"id": session, "command": {
    "commandLine": ["/bin/true"], "standardInput": "null", "standardOutput": "null", "standardError": "null"}}}).encode() + b"\\0"
def talk(message):
    s = socket.socket(socket.AF_UNIX); s.settimeout(30)
    while True:
        try:
            s.connect(path)
            break
        except BlockingIOError:
            time.sleep(0.001)
    s.sendall(message)
    data = b""
    while True:
        more = s.recv(65536)
        assert more, data
        data += more
        if data.endswith(b"\\0"):
            last = json.loads(data[:-1].split(b"\\0")[-1])
            assert "error" not in last, last
            if not last.get("continues"):
                s.close()
                return
for line in sys.stdin:
    times = {"call": [], "exec": []}
    for _ in range(int(line)):
        for name, message in (("call", INFO), ("exec", EXEC)):
            start = time.perf_counter()
            talk(message)
            times[name].append((time.perf_counter() - start) * 1e6)
            time.sleep(0.002)
    print(json.dumps(times), flush=True)
"""


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


class Measure:
    def __init__(self, instance, user):
        self.session = instance.create(user)
        self.child = user.popen(["/usr/bin/python3", "-c", MEASURE, instance.socket, self.session],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def rounds(self, n):
        self.child.stdin.write(f"{n}\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def close(self):
        self.child.stdin.close()
        self.child.wait()


class Flood:
    def __init__(self, instance, user, kinds):
        self.child = user.popen([os.path.join(machine.BUILD, "tests/integration/flood"), instance.socket,
                                 user.workspace(), *kinds], stdin=subprocess.PIPE, start_new_session=True)

    def close(self):
        assert self.child.poll() is None
        self.child.stdin.close()
        self.child.wait()


def cpu_of(pid):
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(instance, flooder, measure, kinds):
    """For calls and for commands: the times of idle, busy and flooded stretches, in turns, so that what else the machine
    does is in all of them. Busy: as many threads of the flooding user, at least one for each processor, make system
    calls that the daemon has no part in."""
    stretches = {"idle": None, "busy": ["nobody"] * max(len(kinds), os.cpu_count()), "flooded": kinds}
    times = {name: {stretch: [] for stretch in stretches} for name in ("call", "exec")}
    for _ in range(3):
        for stretch, of_flood in stretches.items():
            flood = Flood(instance, flooder, of_flood) if of_flood else None
            time.sleep(0.3)
            for name, values in measure.rounds(100).items():
                times[name][stretch] += values
            if flood:
                flood.close()
    return times


def ratios(times):
    """What the flood does to the usual time of an idle machine, and to the worst times of one as busy."""
    return {name: (percentile(of["flooded"], 0.5) / percentile(of["idle"], 0.5),
                   percentile(of["flooded"], 0.99) / percentile(of["busy"], 0.99),
                   *(round(percentile(of[stretch], part)) for stretch in of for part in (0.5, 0.99)))
            for name, of in times.items()}


@pytest.mark.parametrize("kinds", [*KINDS, "all"])
def test_d15_another_user_hardly_notices(own_instance, alice, bob, kinds):
    """Calls and commands of another user take at most 5 times as long as without the flood, in the same run: the median
    against an idle machine, p99 against one whose processors the same user keeps as busy without the daemon; what a
    process may take of the processors is not the daemon's to say. The 99th percentile of some hundred values is three of
    them: what else the machine does then may fake one run, not three."""
    measure = Measure(own_instance, bob)
    measure.rounds(50)
    found = []
    for _ in range(3):
        found.append(ratios(compare(own_instance, alice, measure, KINDS if kinds == "all" else [kinds])))
        if all(max(values[:2]) <= 5 for values in found[-1].values()):
            break
    measure.close()
    print(kinds, found)
    assert own_instance.process.poll() is None, own_instance.log_text()[-3000:]
    assert all(max(values[:2]) <= 5 for values in found[-1].values()), (kinds, found)


def test_d46_root_and_the_user_end_sessions_under_flood(own_instance, alice, root):
    """While one process of a user does all that it can, root lists and ends its own sessions, and so does that user's
    own command line; then everything is as before."""
    sessions = [own_instance.create(root) for _ in range(3)]
    flood = Flood(own_instance, alice, KINDS)
    try:
        time.sleep(1)
        listed = own_instance.ctl(root, "list")
        assert all(session in listed.stdout for session in sessions)
        assert own_instance.ctl(root, "terminate", "--all").returncode == 0
        assert own_instance.sh(root, "echo fine").stdout == "fine\n"
    finally:
        flood.close()
    assert machine.eventually(lambda: own_instance.ctl(alice, "list").returncode == 0, 30, 0.3)
    assert own_instance.ctl(alice, "terminate", "--all", timeout=120).returncode == 0
    assert machine.eventually(lambda: len(own_instance.workers("sandbox-init")) <= 3, 30)
    reached = {row["reason"] for row in own_instance.rows(0, kind="limit", action="reached", uid=alice.uid)}
    assert {"connects", "connections"} <= reached, reached
    pid = own_instance.process.pid

    def is_idle():
        before = cpu_of(pid)
        time.sleep(1)
        return cpu_of(pid) - before < 0.1
    assert machine.eventually(is_idle, 20)
