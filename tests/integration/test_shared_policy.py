"""A compiled policy is one block of sealed memory, whichever and however many sessions of a user run under it."""

import contextlib
import json
import os
import re

import pytest

import machine

RULES = 100_000


@pytest.fixture
def place(settings):
    with machine.Instance(settings=settings) as running:
        yield running
        assert running.process.poll() is None, running.log_text()[-3000:]


def profile(user, name, n=RULES):
    path = os.path.join(user.workspace(), name + ".json")
    rules = [{"id": f"r{i}", "action": "allow", "host": f"h{i}.example.org"} for i in range(n)]
    return user.write(path, json.dumps({"version": 1, "name": name, "extends": ["offline"], "network": {"default": "deny", "rules": rules}}))


def pids(place):
    return [place.process.pid, *place.workers()]


def blocks(place):
    """Inode of each compiled policy that some process of the daemon holds or maps -> bytes that it takes."""
    found = {}
    for pid in pids(place):
        for folder in ("fd", "map_files"):
            for path in links(f"/proc/{pid}/{folder}"):
                with contextlib.suppress(OSError):  # closed meanwhile
                    if os.readlink(path).startswith("/memfd:sandboxd-policy"):
                        info = os.stat(path)
                        found[info.st_ino] = info.st_blocks * 512
    return found


def links(folder):
    with contextlib.suppress(OSError):  # the process has gone
        return [os.path.join(folder, entry) for entry in os.listdir(folder)]
    return []


def maps(place, program):
    """How often a worker has one mapped; its children are younger than any policy."""
    pid = min(place.workers(program))
    with open(f"/proc/{pid}/maps", encoding="utf-8") as f:
        return sum("/memfd:sandboxd-policy" in line for line in f)


def private_bytes(place):
    total = 0
    for pid in pids(place):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as f:
            total += int(re.search(r"^Private_Dirty: +([0-9]+) kB", f.read(), re.M)[1]) * 1024
    return total


def create(place, user, path):
    return place.create(user, "--profile", path)


def end(place, user, session):
    assert place.ctl(user, "terminate", session).returncode == 0


def digest(place, user, session):
    return json.loads(place.ctl(user, "describe", "--json", session).stdout)["runtime"]["policyDigest"]


def test_sessions_share_one_block(place, alice):
    """A second session with the same 100,000 rules adds nothing of their size, in no process."""
    path = profile(alice, "many")
    first = create(place, alice, path)
    (block, size), = blocks(place).items()
    assert size > RULES * 100
    before = private_bytes(place)
    second = create(place, alice, path)
    assert list(blocks(place)) == [block]
    assert maps(place, "sandboxd-audit") == maps(place, "sandboxd-dialer") == 1
    assert machine.IS_SANITIZED or private_bytes(place) - before < size / 4
    # It is there as long as one of them is.
    end(place, alice, first)
    assert list(blocks(place)) == [block]
    again = create(place, alice, path)
    assert list(blocks(place)) == [block]
    for session in (second, again):
        end(place, alice, session)
    # Audit knows a session that has ended for a while, for rows that come late.
    assert machine.eventually(lambda: not blocks(place), 60)


def test_what_differs_is_not_shared(place, alice, bob, root, settings):
    """Another rule, another user, another generation: another block."""
    path = profile(alice, "some", 100)
    sessions = [create(place, alice, path) for _ in range(2)]
    assert len(blocks(place)) == 1
    sessions.append(place.create(alice, "--profile", path, "--allow-host", "h1.example.com"))
    assert len(blocks(place)) == 2
    theirs = create(place, bob, profile(bob, "some", 100))
    assert len(blocks(place)) == 3
    digests = [digest(place, alice, session) for session in sessions] + [digest(place, bob, theirs)]
    assert digests[0] == digests[1] == digests[3] != digests[2]
    place.write_config("sandboxd.json", {**settings, "ask": {"timeout": "17s"}})
    assert "error" not in place.call(root, "io.sandboxd.Policy.Reload")[0]
    sessions.append(create(place, alice, path))
    assert len(blocks(place)) == 4
