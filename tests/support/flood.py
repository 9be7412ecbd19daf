"""A flood by one process of a user, and the times of another user's calls and commands meanwhile."""

import json
import os
import subprocess
import time

import machine

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


def compare(instance, flooder, measure, kinds, n_rounds=100, beside_busy=True):
    """For calls and for commands: the times of idle, busy and flooded stretches, in turns, so that what else the machine
    does is in all of them. Busy: as many threads of the flooding user, at least one for each processor, make system
    calls that the daemon has no part in."""
    busy = {"busy": ["nobody"] * max(len(kinds), os.cpu_count())} if beside_busy else {}
    stretches = {"idle": None, **busy, "flooded": kinds}
    times = {name: {stretch: [] for stretch in stretches} for name in ("call", "exec")}
    for _ in range(3):
        for stretch, of_flood in stretches.items():
            flood = Flood(instance, flooder, of_flood) if of_flood else None
            time.sleep(0.3)
            for name, values in measure.rounds(n_rounds).items():
                times[name][stretch] += values
            if flood:
                flood.close()
    return times
