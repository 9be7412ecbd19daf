"""The daemon as any varlink program sees it: bytes and descriptors on a socket."""

import os

import pytest

import interfaces
import machine
import wire


def pytest_configure(config):
    if os.getuid() != 0:
        raise pytest.UsageError("the conformance tests need root")


@pytest.fixture(scope="session")
def alice():
    with machine.test_user("c") as user:
        yield user


@pytest.fixture(scope="session")
def daemon():
    """One for all tests: none of them may hurt it."""
    with machine.Instance() as running:
        with wire.Connection(running.socket) as c:
            assert "parameters" in c.call("org.varlink.service.GetInfo")
        pids = [running.process.pid, *running.workers("sandboxd-api"), *running.workers("sandboxd-audit")]
        yield running
        assert running.process.poll() is None, "the daemon has died: " + running.log_text()[-4000:]
        now = [running.process.pid, *running.workers("sandboxd-api"), *running.workers("sandboxd-audit")]
        assert set(pids) <= set(now), "a process of the daemon has died: " + running.log_text()[-4000:]


@pytest.fixture
def own_daemon():
    """For tests that hurt it."""
    with machine.Instance() as running:
        yield running


@pytest.fixture
def connect(daemon):
    """connect(user=None): a connection, closed after the test."""
    made = []

    def make(user=None):
        made.append(wire.Connection(daemon.socket, user))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


@pytest.fixture(scope="session")
def idl():
    return interfaces.load()
