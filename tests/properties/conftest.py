"""Users and daemons for the properties of the daemon itself."""

import json
import os

import pytest

import machine


def pytest_configure(config):
    if os.getuid() != 0:
        raise pytest.UsageError("the properties need root")


@pytest.fixture(scope="session")
def alice():
    with machine.test_user("p") as user:
        yield user


@pytest.fixture(scope="session")
def bob():
    with machine.test_user("q") as user:
        yield user


@pytest.fixture(scope="session")
def root():
    with machine.root_user() as user:
        yield user


@pytest.fixture(scope="session")
def instance():
    with machine.Instance() as running:
        yield running
        assert running.process.poll() is None, "the daemon has died: " + running.log_text()[-4000:]


@pytest.fixture
def own_instance():
    """For tests that hurt it."""
    with machine.Instance() as running:
        yield running


@pytest.fixture(scope="session")
def ask(instance):
    """ask(user, method, parameters, **flags): the replies, as dictionaries."""
    def call(user, method, parameters=None, **flags):
        message = {"method": method, "parameters": parameters or {}, **flags}
        data = instance.raw_call(user, json.dumps(message).encode() + b"\0", timeout=5)
        return [json.loads(part) for part in data.split(b"\0") if part]
    return call
