"""The next command's process, made ahead where commands follow each other: used once, and not missed."""

import contextlib
import json
import os

import pytest

from machine import children_of, comm_of, eventually, waits_for_request

# Says which process waits: a child of init's that executes init's own program.
FIND = """
import json, os, signal, sys, time
def waiting():
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat") as f:
                before, _, after = f.read().rpartition(")")
        except (OSError, ValueError):
            continue
        if before.endswith("(sandbox-init") and after.split()[1] == "1":
            found.append(int(name))
    return found
def wait_for_one():
    end = time.monotonic() + 30
    while not waiting() and time.monotonic() < end:
        time.sleep(0.01)
    return waiting()
"""


@pytest.fixture
def session(instance, alice):
    found = instance.create(alice)
    for _ in range(3):
        assert instance.ctl(alice, "exec", found, "--", "true").returncode == 0
    yield found
    instance.ctl(alice, "terminate", found)
    instance.ctl(alice, "remove", found)


def python(instance, user, session, script):
    done = instance.ctl(user, "exec", session, "--", "python3", "-c", FIND + script)
    assert done.returncode == 0
    return json.loads(done.stdout)


def test_the_next_command_uses_it(instance, alice, session):
    found = python(instance, alice, session, "print(json.dumps(wait_for_one()))")
    assert len(found) == 1
    assert python(instance, alice, session, "print(json.dumps(os.getpid()))") == found[0]
    again = python(instance, alice, session, "print(json.dumps(wait_for_one()))")
    assert len(again) == 1 and again != found


@pytest.mark.parametrize("signal_name, is_used", [("SIGKILL", False), ("SIGTERM", False), ("SIGSTOP", True)])
def test_what_a_command_does_to_it_harms_nobody(instance, alice, session, signal_name, is_used):
    found = python(instance, alice, session, f"""
found = wait_for_one()
os.kill(found[0], signal.{signal_name})
while {not is_used} and waiting() == found:
    time.sleep(0.01)
print(json.dumps(found))""")
    used = python(instance, alice, session, "print(json.dumps(os.getpid()))")
    assert (used == found[0]) == is_used
    assert instance.ctl(alice, "exec", session, "--", "sh", "-c", "exit 7").returncode == 7


def test_it_is_as_closed_as_init(instance, alice, session):
    tried = python(instance, alice, session, """
found = wait_for_one()[0]
result = []
for name in ("fd", "map_files", "mem", "environ"):
    try:
        open(f"/proc/{found}/{name}").read() if name in ("mem", "environ") else os.listdir(f"/proc/{found}/{name}")
        result.append(name)
    except OSError:
        pass
print(json.dumps(result))""")
    assert tried == []


def test_it_holds_only_its_channel(instance, alice, session):
    assert eventually(lambda: len(spares_of(instance, session)) == 1, 30)
    pid = spares_of(instance, session)[0]
    assert waits_for_request(pid)


def test_limits_and_streams_are_those_of_the_command(instance, alice, session):
    data = os.urandom(300000)
    assert python(instance, alice, session, "print(json.dumps(wait_for_one()))")
    done = instance.ctl(alice, "exec", "--workdir", "/tmp", "--env", "MINE=1", session, "--",
                        "sh", "-c", "pwd >&2; echo $MINE >&2; echo $2 >&2; cat", "sh", "x" * 60000, "last",
                        input=data, text=False)
    assert done.stderr == b"/tmp\n1\nlast\n"
    assert done.stdout == data


def test_a_session_of_one_command_makes_none(instance, alice):
    done = instance.ctl(alice, "run", "-T", "--", "python3", "-c",
                        FIND + "time.sleep(0.3)\nprint(json.dumps(waiting()))", cwd=alice.workspace())
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_it_ends_with_its_session(instance, alice):
    session = instance.create(alice)
    for _ in range(3):
        assert instance.ctl(alice, "exec", session, "--", "true").returncode == 0
    assert eventually(lambda: len(spares_of(instance, session)) == 1, 30)
    assert instance.ctl(alice, "terminate", session).returncode == 0
    assert eventually(lambda: not spares_of(instance, session), 30)
    instance.ctl(alice, "remove", session)


def spares_of(instance, session):
    inits = [pid for pid in children_of(instance.process.pid) if comm_of(pid) == "sandbox-init" and is_of(pid, session)]
    return [child for pid in inits for child in children_of(pid)[1:] if comm_of(child) == "sandbox-init"]


def is_of(pid, session):
    """Whether a process is in a session's control group: other tests' sessions live on."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="ascii") as f:
        return session in f.read()
    return False
