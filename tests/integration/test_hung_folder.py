"""A user's file system that never answers costs its user a session, and nobody else anything."""

import errno
import os

import pytest

import fuse
import machine


@pytest.fixture
def hung(alice):
    path = alice.workspace()
    try:
        folder = fuse.HungFolder(path, alice, "sandbox-init")
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV, errno.EPERM):
            pytest.skip("no FUSE on this machine")
        raise
    yield folder
    folder.close()


def test_others_go_on_and_the_daemon_starts_again(own_instance, hung, alice, bob):
    child = own_instance.ctl_start(alice, "run", "-T", "-w", hung.path, "--", "true", cwd=alice.home)
    try:
        assert machine.eventually(lambda: hung.hung, 10), own_instance.log_text()
        assert own_instance.sh(bob, "echo runs").stdout == "runs\n"
        # Refused by the deadline of the start, though init cannot be ended.
        assert child.wait(20) == 125
        assert own_instance.sh(alice, "echo runs").stdout == "runs\n"
        assert os.path.exists(f"/proc/{hung.hung[0]}"), "the test hangs nobody"
        own_instance.stop()
        own_instance.start()
        assert own_instance.sh(bob, "echo runs").stdout == "runs\n"
        assert "do not end" in own_instance.log_text()
    finally:
        child.kill()
        child.wait()


def test_who_does_not_end_keeps_nobody_busy(own_instance, hung, alice, bob):
    """What is left of such a session stays as long as its user likes: sessions are made ahead meanwhile, and the daemon rests."""
    child = own_instance.ctl_start(alice, "run", "-T", "-w", hung.path, "--", "true", cwd=alice.home)
    try:
        assert child.wait(60) == 125 and hung.hung
        for _ in range(10):
            assert own_instance.sh(bob, "echo runs").stdout == "runs\n"
        assert os.path.exists(f"/proc/{hung.hung[0]}"), "the test hangs nobody"
        assert machine.eventually(lambda: len(own_instance.workers("sandbox-init")) >= 4, 20), own_instance.workers()
        pid = own_instance.process.pid

        assert machine.eventually(lambda: machine.rests(pid), 20)
    finally:
        child.kill()
        child.wait()
