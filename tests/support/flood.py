"""A flood by one process of a user, and the times of another user's calls and commands meanwhile."""

import json
import os
import statistics
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
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.settimeout(30)
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


def end_sessions(instance, user):
    """What a flood has started would count against its quota the next time, and its end takes as much as its start."""
    done = []

    def is_done():
        done.append(instance.ctl(user, "terminate", "--all", timeout=120))
        return done[-1].returncode == 0
    # Who has flooded is shut out for another second.
    assert machine.eventually(is_done, 60, 0.2), done[-1]


def compare(instance, flooder, measure, floods, n_rounds=3, n_samples=100):
    """For calls and for commands, by stretch: the times of each round, sorted. Idle and each flood (a name with its kinds, a
    thread each) come in turns within each round, so that what else the machine does is in all of them."""
    stretches = {"idle": None, **floods}
    times = {name: {stretch: [] for stretch in stretches} for name in ("call", "exec")}
    for _ in range(n_rounds):
        for stretch, kinds in stretches.items():
            flood = Flood(instance, flooder, kinds) if kinds else None
            time.sleep(0.3)
            for name, values in measure.rounds(n_samples).items():
                times[name][stretch].append(sorted(values))
            if flood:
                flood.close()
                if "creates" in kinds:
                    end_sessions(instance, flooder)
    return times


def median_percentile(rounds, part):
    """The median of the rounds' percentiles: one round that something else disturbed does not count."""
    return statistics.median(percentile(values, part) for values in rounds)
