"""Ends of the daemon's own parts while sessions run: each with a daemon that belongs to the test."""

import contextlib
import os
import signal
import subprocess

import pytest

import machine


@pytest.fixture
def instance(own_instance):
    return own_instance


def sleeper(instance, user, session, marker):
    child = instance.ctl_start(user, "exec", session, "--", "sleep", marker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert machine.eventually(lambda: machine.sleeps_with(marker), 30)
    [pid] = machine.sleeps_with(marker)
    return child, pid


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def test_t16_h23_l04_killed_daemon(instance, user):
    """What runs stays confined; the next start ends it, says so in the log, and nothing of it is left in the tree."""
    work = user.workspace()
    user.write(work + "/f", "x")
    before = machine.tree_state(work)
    session = instance.create(user, cwd=work)
    marker = f"77{os.getpid()}"
    child, pid = sleeper(instance, user, session, marker)
    namespaces = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "net", "pid", "user")}
    instance.process.kill()
    instance.process.wait()
    status = status_of(pid)
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1" and int(status["CapEff"], 16) == 0
    assert {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in namespaces} == namespaces
    head = instance.head()
    assert instance.restart_if_dead()
    child.wait(60)
    assert machine.eventually(lambda: not machine.sleeps_with(marker), 30)
    rows = machine.eventually(lambda: instance.rows(head - 1, kind="session", action="end"), 30)
    assert rows and "daemon-restart" in str(rows), rows
    assert machine.tree_state(work) == before
    assert instance.sh(user, "echo runs", workspace=work).stdout == "runs\n"


def test_a10_killed_writer(instance, user):
    """Killed while rows are written, again and again: what was committed is there, whole, and the next row goes on."""
    work = user.workspace()
    seen = 0
    for _ in range(6):
        busy = [instance.ctl_start(user, "run", "-T", "--", "true", cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for _ in range(3)]
        for pid in instance.workers("sandboxd-audit"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in busy:
            child.wait(90)
        assert machine.eventually(lambda: instance.sh(user, "echo runs", workspace=work).stdout == "runs\n", 60, interval=0.3)
        with instance.database() as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        head = instance.head()
        assert head > seen
        seen = head
    with machine.root_user() as root:
        verified = instance.ctl(root, "audit", "verify")
    assert verified.returncode == 0, verified
