"""Fixtures that several files have: a daemon, three users, and programs of the tests."""

import os
import subprocess
import sys
import tempfile

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "support")]

import machine  # noqa: E402


@pytest.fixture(scope="module")
def instance():
    with machine.Instance() as made:
        yield made


@pytest.fixture
def own_instance():
    """For tests that hurt it."""
    with machine.Instance() as made:
        yield made


@pytest.fixture(scope="module")
def user():
    with machine.test_user("h") as made:
        yield made


@pytest.fixture(scope="module")
def other():
    with machine.test_user("i") as made:
        yield made


@pytest.fixture(scope="session")
def compiled():
    """compiled("x"): the program of x.c, where every user finds it."""
    with tempfile.TemporaryDirectory(prefix="sbxt-programs-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)

        def build(name):
            path = f"{folder}/{name}"
            if not os.path.exists(path):
                subprocess.run(["gcc", "-O1", "-static", "-D_GNU_SOURCE", "-o", path, f"{HERE}/{name}.c"], check=True)
            return path

        yield build
