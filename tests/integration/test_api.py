"""What the api worker promises its clients: layers, environment, records, and clients that misbehave."""

import os

import pytest

from machine import Instance


@pytest.mark.parametrize("name", ["ceiling.json", "policy.json"])
def test_layers_that_are_not_enforced_are_refused(settings, alice, name):
    """Neither at the start nor later is an administrator's file passed over in silence."""
    with Instance(settings=settings) as instance:
        assert instance.sh(alice, "true").returncode == 0
        instance.write_config(name, {"version": 1, "network": {"default": "deny"}})
        done = instance.sh(alice, "echo started")
        assert (done.returncode, done.stdout) == (125, "") and name in done.stderr, done
        assert instance.stop() == 0
        with pytest.raises(AssertionError, match=name):
            instance.start()
        os.unlink(os.path.join(instance.config, name))
        instance.start()
        assert instance.sh(alice, "true").returncode == 0
