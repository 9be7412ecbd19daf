"""Each property holds in a session of a user and in one of root; those that bubblewrap is known to fail fail in it, so
that the test is seen to be able to fail."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import world as worlds  # noqa: E402
from catalogue import PROPERTIES, advisories  # noqa: E402


@pytest.fixture(scope="module")
def world():
    with worlds.world() as found:
        yield found


@pytest.mark.parametrize("place", ["user", "root"])
@pytest.mark.parametrize("prop", PROPERTIES, ids=[p.id for p in PROPERTIES])
def test_holds(world, prop, place):
    result, text = world.result(prop, place, PROPERTIES)
    assert result == "holds", f"{prop.text}: {result}: {text}"


@pytest.mark.parametrize("prop", [p for p in PROPERTIES if p.bwrap_fails], ids=[p.id for p in PROPERTIES if p.bwrap_fails])
def test_bwrap_fails(world, prop):
    result, text = world.result(prop, "bwrap", PROPERTIES)
    assert result == "open", f"{prop.text}: {result}: {text}"


OF_ADVISORIES = {names[0]: [p for p in PROPERTIES if p.id in references] for names, _, references in advisories()}


@pytest.mark.parametrize("name", [name for name, found in OF_ADVISORIES.items() if found])
def test_advisory(world, name):
    """What others were taken by: each attack of it fails in a session of a user and in one of root."""
    for prop in OF_ADVISORIES[name]:
        for place in ("user", "root"):
            result, text = world.result(prop, place, PROPERTIES)
            assert result == "holds", f"{prop.id} {prop.text}: {result}: {text}"


def test_there_are_enough():
    failing = [p for p in PROPERTIES if p.bwrap_fails]
    assert len(failing) >= 80
    layers = {p.layer for p in failing}
    assert {"identity", "cgroup", "init", "mounts", "user namespace", "seccomp", "environment", "stdio", "keyring",
            "limits"} <= layers
    assert len({p.id for p in PROPERTIES}) == len(PROPERTIES)
