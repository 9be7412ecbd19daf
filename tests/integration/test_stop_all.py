"""One verb of an administrator ends everything of a user, or of all, whatever their programs do meanwhile: property D46."""

import json
import os
import subprocess
import threading
import time
import uuid

import pytest

from flood import KINDS, Flood
from machine import eventually, processes_with

# Processes that make others without an end, at most so many at once.
BOMB = """
import os, sys, time
def breed():
    while True:
        children = [pid for pid in [os.fork() for _ in range(3)]]
        if 0 in children:
            time.sleep(0.2)
            os._exit(0)
        for pid in children:
            os.waitpid(pid, 0)
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        breed()
open("ready", "w").close()
time.sleep(100000)
"""


def start_time(pid):
    """None: it is gone, or dead and merely not waited for yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19]


def inside(instance, uid):
    """What of this user runs in sessions: pid and the time of its start."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup", encoding="ascii") as f:
                is_ours = any("/sandboxd-" in line and line.rstrip().rsplit("/", 1)[-1].startswith("e") for line in f)
            if is_ours and os.stat(f"/proc/{pid}").st_uid == uid and is_below(instance, pid):
                found.add((pid, start_time(pid)))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def is_below(instance, pid):
    """Its session's init is a child of this daemon."""
    while pid not in ("0", "1"):
        with open(f"/proc/{pid}/stat", "rb") as f:
            pid = f.read().rpartition(b")")[2].split()[1].decode()
        if pid == str(instance.process.pid):
            return True
    return False


def bomb(instance, user):
    work = user.workspace()
    user.write(work + "/bomb.py", BOMB)
    done = instance.ctl(user, "run", "--detach", "--", "python3", "bomb.py", cwd=work)
    assert done.returncode == 0, done
    assert eventually(lambda: os.path.exists(work + "/ready"), 60)
    return done.stdout.split()[-1]


class Creator:
    """Asks for sessions as fast as they come."""

    def __init__(self, instance, user):
        self.is_over = False
        self.n = 0
        self.threads = [threading.Thread(target=self.run, args=(instance, user)) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def run(self, instance, user):
        while not self.is_over:
            done = instance.ctl(user, "run", "--detach", "--", "sleep", "100000", cwd=user.home + "/work")
            self.n += done.returncode == 0

    def close(self):
        self.is_over = True
        for thread in self.threads:
            thread.join()


@pytest.mark.alone
@pytest.mark.parametrize("whom", ["user", "all"])
def test_d46_one_verb_ends_everything_under_floods(own_instance, alice, bob, root, whom, record_property):
    instance = own_instance
    alice.workspace()
    bombs = [bomb(instance, alice) for _ in range(2)]
    other = instance.create(bob)
    creator, flood = Creator(instance, alice), None
    try:
        # First: a flood of connections has all of its user's programs shut out.
        assert eventually(lambda: creator.n >= 2, 60)
        flood = Flood(instance, alice, KINDS)
        before = inside(instance, alice.uid)
        assert len(before) >= 20, before
        begin = time.monotonic()
        done = instance.ctl(root, "terminate", *(["--of", alice.name] if whom == "user" else ["--all"]), "--grace", "0", "--json",
                            timeout=60)
        seconds = time.monotonic() - begin
        # What was there then is gone, but for what the kernel still has to take apart: that runs nothing any more.
        assert done.returncode == 0 and eventually(
            lambda: not {pid for pid, start in before if start and start_time(pid) == start}, 30), done
        assert json.loads(done.stdout)["terminated"] >= len(bombs)
    finally:
        creator.close()
        if flood:
            flood.close()
    record_property("seconds", seconds)
    print(f"terminate {whom}: {len(before)} processes in {seconds:.2f} s")
    states = {made: instance.call(root, "io.sandboxd.Session.Describe", {"id": made})[0]["parameters"]["runtime"]["state"]
              for made in bombs}
    assert set(states.values()) == {"exited"}, states
    listed = instance.ctl(root, "list", "--all-users", "--json").stdout
    assert (other in listed) == (whom == "user")
    assert instance.sh(bob, "echo fine").stdout == "fine\n"


def test_nothing_starts_while_all_is_being_ended(own_instance, alice, bob, root):
    """With the answer nothing of the user runs, though its programs go on asking."""
    instance = own_instance
    marker = f"69{uuid.uuid4().int % 10**9}"
    made = instance.create(alice)
    child = instance.ctl_start(alice, "exec", made, "--", "sh", "-c", f"trap '' TERM; echo up; sleep {marker}; sleep {marker}",
                               stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    ending = instance.ctl_start(root, "terminate", "--of", alice.name, "--grace", "300", stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: instance.rows(0, kind="admin", action="act", session=made))
        done = instance.sh(alice, "echo started")
        assert (done.returncode, done.stdout) == (125, "") and "administrator is ending" in done.stderr, done
        assert instance.sh(bob, "echo started").stdout == "started\n"
        assert processes_with(marker) and ending.poll() is None
        assert instance.ctl(alice, "terminate", "--grace", "0", made).returncode == 0
        assert ending.wait(60) == 0
        assert instance.sh(alice, "echo started").stdout == "started\n"
    finally:
        ending.kill()
        ending.wait()
        child.kill()
        child.wait()
        child.stdout.close()
