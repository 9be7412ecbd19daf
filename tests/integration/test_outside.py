"""What a process of the same user outside may do to a session: end it, and nothing that widens it."""

import glob
import json
import os
import uuid

import machine

TRY = r"""
import ctypes, json, os, signal, subprocess, sys
group, inside, init = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
done = []
def attempt(name, action):
    try:
        if action() is not False:
            done.append(name)
    except OSError:
        pass
def write(path, text):
    with open(path, "w") as f:
        f.write(text)
def call(*arguments):
    return libc.syscall(*map(ctypes.c_long, arguments)) >= 0
os.listdir(group)
mine = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
attempt("host process into the session", lambda: write(group + "/cgroup.procs", str(mine.pid)))
for child in [c for c in os.listdir(group) if os.path.isdir(f"{group}/{c}")]:
    attempt("host process into a command", lambda: write(f"{group}/{child}/cgroup.procs", str(mine.pid)))
    attempt("tower", lambda: os.mkdir(f"{group}/{child}/x"))
own = group.rpartition("/")[0]
for target in (own, os.path.dirname(own), os.path.dirname(os.path.dirname(own))):
    attempt("out of the session", lambda: write(target + "/cgroup.procs", str(inside)))
    attempt("sibling", lambda: os.mkdir(target + "/sbxt-sibling"))
for name in ("cgroup.max.depth", "cgroup.max.descendants", "cgroup.freeze", "cgroup.subtree_control", "memory.max",
             "pids.max", "cpu.max"):
    if os.path.exists(f"{group}/{name}"):
        attempt(name, lambda: write(f"{group}/{name}", "0"))
for pid in (inside, init):
    attempt(f"trace {pid == init}", lambda: call(101, 0x4206, pid, 0, 0))
    fd = os.pidfd_open(pid)
    attempt(f"descriptor {pid == init}", lambda: call(438, fd, 0, 0))
    attempt(f"enter {pid == init}", lambda: libc.setns(fd, 0x10000000 | 0x20000) == 0)
    for name in ("mem", "maps", "environ", "root/etc/passwd", "cwd/x", "ns/mnt", "fd/0"):
        attempt(f"{name} {pid == init}", lambda: os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY)))
    attempt(f"write mem {pid == init}", lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_WRONLY)))
    for name, text in (("uid_map", "0 0 1"), ("setgroups", "allow")):
        attempt(f"write {name} {pid == init}", lambda: write(f"/proc/{pid}/{name}", text))
mine.kill()
print(json.dumps(done))
"""


def uid_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Uid:"))


def test_same_user_outside(own_instance, alice):
    session = own_instance.create(alice)
    marker = f"61{uuid.uuid4().int % 10**8}"
    child = own_instance.ctl_start(alice, "exec", session, "--", "sleep", marker)
    try:
        assert machine.eventually(lambda: machine.sleeps_with(marker))
        inits = [p for p in machine.children_of(own_instance.process.pid) if machine.comm_of(p) == "sandbox-init" and
                 uid_of(p) == alice.uid]
        sleeper = next(p for p in machine.children_of(inits[0]) if machine.comm_of(p) == "sleep")
        with open(f"/proc/{inits[0]}/cgroup", encoding="utf-8") as f:
            path = next(line[3:].strip() for line in f if line.startswith("0::"))
        group = next(g for g in (m + path for m in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")))
                     if os.path.exists(g + "/cgroup.procs"))
        # As where the daemon runs under another umask: the user reaches what is the user's.
        for folder in (group, os.path.dirname(group), os.path.dirname(os.path.dirname(group))):
            os.chmod(folder, 0o755)
        assert os.stat(group).st_uid == alice.uid
        alice.write(alice.home + "/try.py", TRY)
        done = alice.run(["/usr/bin/python3", alice.home + "/try.py", group, str(sleeper), str(inits[0])])
        assert done.returncode == 0, done
        assert json.loads(done.stdout) == [], done.stdout
    finally:
        child.kill()
        child.wait()


def test_requested_limits_hold_or_are_refused(own_instance, alice):
    for option, value in (("--memory", "1G"), ("--tasks", "100"), ("--cpu", "50%")):
        done = own_instance.ctl(alice, "run", "-T", option, value, "--", "echo", "ran", cwd=alice.workspace())
        if done.returncode != 0:
            assert done.returncode == 125 and "cannot enforce" in done.stderr and done.stdout == "", done
            assert machine.eventually(lambda: own_instance.rows(0, kind="session", action="refuse", verdict="deny"))
