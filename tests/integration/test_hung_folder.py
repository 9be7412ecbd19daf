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
