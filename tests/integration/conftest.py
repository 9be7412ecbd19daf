"""Fixtures: two ordinary users and root, servers of the tests, a private daemon that knows them."""

import json
import os
import shutil
import tempfile

import pytest

import stubs
from fixtures import alice, bob, instance, need_root, own_instance, root  # noqa: F401
from machine import eventually
from sessions import BEAT, SESSION, create, start

NAMES = {
    "allowed.test": ["127.0.0.1"],
    "evil.test": ["127.0.0.1"],
    "sub.wild.test": ["127.0.0.1"],
    "wild.test": ["127.0.0.1"],
    "private.test": ["127.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "mixed.test": ["169.254.169.254", "127.0.0.1"],
    "closed.test": ["127.0.0.1"],
}


def pytest_configure(config):
    need_root("integration")


@pytest.fixture(scope="session", params=["alice", "bob", "root"])
def caller(request):
    """Each kind of caller: two ordinary users and root."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=["alice", "root"])
def either(request):
    """An ordinary user, and root."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def dns():
    stub = stubs.DnsStub(NAMES)
    yield stub
    stub.close()


@pytest.fixture(scope="session")
def git_root():
    folder = tempfile.mkdtemp(prefix="sbxt-git-", dir="/var/tmp")
    head = stubs.make_repository(folder)
    yield folder, head
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def web(git_root):
    stub = stubs.HttpStub(git_root=git_root[0])
    yield stub
    stub.close()


@pytest.fixture(scope="session")
def other_web():
    """Reachable on the host, named by no rule."""
    stub = stubs.HttpStub()
    yield stub
    stub.close()


@pytest.fixture(scope="session")
def echo():
    stub = stubs.EchoStub()
    yield stub
    stub.close()


@pytest.fixture(scope="session")
def settings(dns):
    return {"resolver": {"servers": [f"127.0.0.1:{dns.port}"]}}


@pytest.fixture(scope="session")
def make_profile():
    """make_profile(rules, **keys of the policy): path of a profile that everybody may read."""
    folder = tempfile.mkdtemp(prefix="sbxt-profiles-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    count = 0

    def make(rules=(), name=None, network=None, **keys):
        nonlocal count
        count += 1
        name = name or f"t{count}"
        policy = {"version": 1, "name": name, "extends": ["agent"], **keys}
        policy["network"] = {"rules": list(rules), **(network or {})}
        path = os.path.join(folder, f"{count}-{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(policy, f)
        return path

    yield make
    shutil.rmtree(folder, ignore_errors=True)


def allow(host, port, rule="t", cidr="127.0.0.1/32"):
    found = {"id": rule, "action": "allow", "host": host, "ports": [port]}
    if cidr:
        found["cidr"] = cidr
    return found


@pytest.fixture(scope="session")
def allow_rule():
    return allow


@pytest.fixture(scope="session")
def profile(make_profile, web, echo):
    """Allows allowed.test and what lies below wild.test at the test's servers; private.test and metadata.test
    without a word about their addresses."""
    return make_profile([
        allow("allowed.test", web.server_port),
        allow("*.wild.test", web.server_port, "wild"),
        allow("mixed.test", web.server_port, "mixed"),
        {"id": "private", "action": "allow", "host": "private.test", "ports": [web.server_port]},
        {"id": "metadata", "action": "allow", "host": "metadata.test", "ports": [80]},
        allow("closed.test", 9, "closed"),
        {"id": "literal", "action": "allow", "cidr": "127.0.0.1/32", "ports": [echo.port]},
    ])


@pytest.fixture
def beating(instance, alice):
    """A session with a command that writes all the time: id, number of the command, path of its file."""
    work = alice.workspace()
    session = create(instance, alice, workspace=work)
    process = start(instance, alice, session, "sh", "-c", BEAT)
    assert eventually(lambda: os.path.exists(work + "/beat"), 20)
    yield session, process, work + "/beat"
    instance.call(alice, SESSION + "Terminate", {"id": session, "graceUSec": 0})
