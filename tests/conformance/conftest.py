"""The daemon as any varlink program sees it: bytes and descriptors on a socket."""

import pytest

import interfaces
import machine
import wire
from fixtures import alice, need_root, own_instance, settings  # noqa: F401


def pytest_configure(config):
    need_root("conformance")


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
    """For tests that hurt it, with as many connections a second as they make."""
    with machine.Instance(settings={"limits": {"connects_per_second": 100000}}) as running:
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
