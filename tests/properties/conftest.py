"""Users and daemons for the properties of the daemon itself."""

import json

import pytest

from fixtures import alice, bob, instance, need_root, own_instance, root, settings  # noqa: F401


def pytest_configure(config):
    need_root("properties")


@pytest.fixture(scope="session")
def ask(instance):
    """ask(user, method, parameters, **flags): the replies, as dictionaries."""
    def call(user, method, parameters=None, **flags):
        message = {"method": method, "parameters": parameters or {}, **flags}
        data = instance.raw_call(user, json.dumps(message).encode() + b"\0", timeout=5)
        return [json.loads(part) for part in data.split(b"\0") if part]
    return call
