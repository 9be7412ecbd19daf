"""V09: the group of all sessions refuses devices by itself: to root in it, with every right and the host's own files."""

import os
import subprocess

import pytest

import machine
from sessions import describe

# Prints what worked: makes each kind of device, and opens the host's own.
TRY = """
import os, stat, sys
group, folder = sys.argv[1:]
if group:
    with open(group + "/cgroup.procs", "w") as f:
        f.write(str(os.getpid()))
def attempt(name, act):
    try:
        act()
        print(name)
    except PermissionError:
        pass
for name, kind, device in (("character", stat.S_IFCHR, os.makedev(1, 3)), ("block", stat.S_IFBLK, os.makedev(7, 0))):
    attempt("make " + name, lambda: os.mknod(f"{folder}/{name}", kind | 0o600, device))
for path in os.listdir("/dev"):
    mode = os.stat("/dev/" + path, follow_symlinks=False).st_mode
    if stat.S_ISCHR(mode) and path in ("null", "zero", "full", "random", "urandom", "kmsg", "fuse"):
        attempt("open " + path, lambda: os.close(os.open("/dev/" + path, os.O_RDONLY | os.O_NONBLOCK)))
a, b = os.openpty()
print("open a terminal")
os.mkfifo(folder + "/fifo")
print("make a fifo")
"""

HARMLESS = {"open null", "open zero", "open full", "open random", "open urandom", "open a terminal", "make a fifo"}


def attempts(group, folder):
    os.mkdir(folder)
    done = subprocess.run(["/usr/bin/python3", "-c", TRY, group, str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("who", ["user", "root"])
def test_v09_the_group_refuses_devices(instance, alice, root, tmp_path, who):
    user = {"user": alice, "root": root}[who]
    session = instance.create(user)
    reply = describe(instance, user, session)["runtime"]
    if "cgroup-devices" in reply["degraded"]:
        pytest.skip("this kernel has no programs for the devices of control groups")
    outside = attempts("", tmp_path / "outside")
    assert {"make character", "make block"} | HARMLESS <= outside and outside & {"open kmsg", "open fuse"}, outside
    assert attempts(machine.cgroup2_mount() + reply["controlGroup"], tmp_path / "inside") == HARMLESS
    assert instance.ctl(user, "terminate", session).returncode == 0
