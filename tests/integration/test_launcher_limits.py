"""The launcher at its own limits, and restarts of it."""

import os
import resource
import signal
import socket
import subprocess
import time

import machine


def test_no_descriptors_left(own_instance, alice, bob):
    """D39: accepting pauses, it does not spin; what runs goes on, and service comes back."""
    session = own_instance.create(bob)
    pid = own_instance.process.pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, used + 4096))
    clients = []
    for _ in range(60):
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].setblocking(False)
        try:
            clients[-1].connect(own_instance.socket)
        except OSError:
            break
    before = machine.cpu_of(pid)
    time.sleep(1.5)
    assert machine.cpu_of(pid) - before < 0.5
    assert own_instance.process.poll() is None
    for client in clients:
        client.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4096, used + 4096))
    assert machine.eventually(lambda: own_instance.ctl(bob, "exec", session, "--", "echo", "lives").stdout == "lives\n", 10)
    assert own_instance.sh(alice, "echo runs").stdout == "runs\n"


def test_init_that_is_stopped_from_outside(own_instance, alice, bob):
    """Its user may stop init, and move it where it freezes: the session still ends when it is told to."""
    session = own_instance.create(alice)
    pids = [p for p in machine.children_of(own_instance.process.pid) if machine.comm_of(p) == "sandbox-init" and
            uid_of(p) == alice.uid]
    assert len(pids) == 1
    subprocess.run(["kill", "-STOP", str(pids[0])], user=alice.uid, group=alice.gid, extra_groups=[], check=True)
    assert own_instance.sh(bob, "echo runs").stdout == "runs\n"
    assert own_instance.ctl(alice, "terminate", session, timeout=20).returncode == 0
    assert machine.eventually(lambda: not os.path.exists(f"/proc/{pids[0]}"), 5)


def uid_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Uid:"))


def test_open_sessions_are_closed_by_the_next_start(own_instance, alice, root):
    sessions = {own_instance.create(alice), own_instance.create(alice), own_instance.create(root)}
    own_instance.stop(signal.SIGKILL)
    own_instance.start()

    def ended():
        return {r["session"] for r in own_instance.rows(0, kind="session", action="end", reason="daemon-restart")}

    assert machine.eventually(lambda: ended() == sessions, 6), (ended(), sessions)
