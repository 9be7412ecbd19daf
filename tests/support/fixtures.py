"""Fixtures that several suites have: users and private daemons. A suite's conftest.py names those that it uses."""

import os

import pytest

import machine


def need_root(suite):
    if os.getuid() != 0:
        raise pytest.UsageError(f"the suite {suite} needs root")


@pytest.fixture(scope="session")
def alice():
    with machine.test_user("a") as user:
        yield user


@pytest.fixture(scope="session")
def bob():
    with machine.test_user("b") as user:
        yield user


@pytest.fixture(scope="session")
def root():
    with machine.root_user() as user:
        yield user


@pytest.fixture(scope="session")
def settings():
    """Of the daemons below; a suite may have its own."""


@pytest.fixture(scope="session")
def instance(settings):
    with machine.Instance(settings=settings) as running:
        yield running
        assert running.process.poll() is None, "the daemon has died: " + running.log_text()[-4000:]


@pytest.fixture
def own_instance(settings):
    """For tests that hurt it."""
    with machine.Instance(settings=settings) as running:
        yield running
