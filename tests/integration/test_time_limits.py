"""Limits of time: of a whole session, of one in which nothing runs, of a command."""

import uuid

import pytest

from machine import eventually, processes_with
from sessions import SESSION, command, context, create, result, start, wait
from varlink import Connection

SECOND = 1000000


@pytest.mark.parametrize("frozen", [False, True])
def test_runtime_ends_the_session(instance, alice, frozen):
    marker = f"69{uuid.uuid4().int % 10**8}"
    session = create(instance, alice, limits={"runtimeMaxUSec": 5 * SECOND})
    process = start(instance, alice, session, "sleep", marker)
    if frozen:
        assert instance.ctl(alice, "freeze", session).returncode == 0
    assert wait(instance, alice, session) == {"reason": "runtime"}
    assert wait(instance, alice, session, process)["reason"] == "runtime"
    assert not processes_with(marker)
    rows = eventually(lambda: instance.rows(0, kind="session", action="end", session=session), 20)
    assert [row["reason"] for row in rows] == ["runtime"]


def test_runtime_of_run(instance, alice):
    done = instance.ctl(alice, "run", "-T", "--runtime", "1s", "--", "sleep", "1000", cwd=alice.workspace())
    assert done.returncode == 137 and "runtime" in done.stderr


def test_idle_ends_a_session_without_commands(instance, alice):
    session = create(instance, alice, limits={"idleMaxUSec": 1 * SECOND})
    assert wait(instance, alice, session) == {"reason": "idle"}


def test_a_session_with_a_command_is_not_idle(instance, alice):
    with Connection(instance, alice) as connection:
        connection.send(SESSION + "Create", {"context": context(alice, name="busy",
                                                                limits={"idleMaxUSec": 2 * SECOND})})
        connection.send(SESSION + "Exec", {"id": "busy", "command": command("sleep", "5")})
        session = result(connection.reply())["id"]
        process = result(connection.reply())["process"]
    assert wait(instance, alice, session, process)["reason"] == "exited"
    # Now nothing runs any more.
    assert wait(instance, alice, session) == {"reason": "idle"}


@pytest.mark.parametrize("key", ["runtime", "idle"])
def test_limits_of_policy(instance, alice, make_profile, key):
    session = instance.create(alice, "-p", make_profile(limits={key: "1s"}))
    assert wait(instance, alice, session) == {"reason": key}


def test_limits_of_the_command_line(instance, alice):
    session = instance.create(alice, "--idle", "1s")
    assert wait(instance, alice, session) == {"reason": "idle"}
    for bad in ("0", "-1s", "soon"):
        done = instance.ctl(alice, "create", "--idle", bad, cwd=alice.workspace())
        assert done.returncode == 125 and len(done.stderr.splitlines()) == 1
