"""Freezing and thawing: what a frozen session does, and what may be done to it."""

import contextlib
import os
import signal
import time
import uuid

import pytest

import machine
from machine import eventually, processes_with, sleeps_with
from sessions import BEAT, SESSION, beats, command, create, describe, result, start, state, wait

SECOND = 1000000


def test_freeze_and_thaw(instance, alice, beating):
    session, _, path = beating
    before = instance.head()
    assert beats(path)
    frozen = instance.ctl(alice, "freeze", session)
    assert (frozen.returncode, frozen.stdout, frozen.stderr) == (0, "", "")
    size = os.path.getsize(path)
    time.sleep(0.3)
    assert os.path.getsize(path) == size, "a frozen session still runs"
    runtime = describe(instance, alice, session)["runtime"]
    assert runtime["state"] == "frozen" and runtime["frozenByUid"] == alice.uid and runtime["frozenAtUSec"] > 0
    assert "frozen" in instance.ctl(alice, "list").stdout
    again = instance.ctl(alice, "freeze", session)
    assert again.returncode == 0, "freezing twice is no error"
    assert instance.ctl(alice, "thaw", session).returncode == 0
    assert beats(path)
    runtime = describe(instance, alice, session)["runtime"]
    assert runtime["state"] == "running" and "frozenByUid" not in runtime
    rows = eventually(lambda: instance.rows(before, kind="session", session=session, action="thaw"))
    assert rows and len(instance.rows(before, kind="session", session=session, action="freeze")) == 1


def test_frozen_session_starts_nothing(instance, alice, beating):
    session, _, path = beating
    instance.ctl(alice, "freeze", session)
    refused = instance.call(alice, SESSION + "Exec", {"id": session, "command": command("true")})[0]
    assert refused["error"] == SESSION + "InvalidState"
    assert refused["parameters"] == {"id": session, "state": "frozen"}
    refused = instance.call(alice, SESSION + "Signal", {"id": session, "signal": "SIGTERM"})[0]
    assert refused["error"] == SESSION + "InvalidState"
    done = instance.ctl(alice, "exec", session, "--", "true")
    assert done.returncode == 125 and "frozen" in done.stderr and len(done.stderr.splitlines()) == 1
    instance.ctl(alice, "thaw", session)
    assert instance.ctl(alice, "exec", session, "--", "true").returncode == 0


def test_freeze_is_of_a_live_session(instance, alice):
    session = create(instance, alice)
    instance.ctl(alice, "terminate", session)
    for verb in ("Freeze", "Thaw"):
        refused = instance.call(alice, SESSION + verb, {"id": session})[0]
        assert (refused["error"], refused["parameters"]["state"]) == (SESSION + "InvalidState", "exited")


def test_freeze_is_the_owners(instance, alice, bob, beating):
    session, _, path = beating
    refused = instance.call(bob, SESSION + "Freeze", {"id": session})[0]
    assert refused["error"] == SESSION + "NoSuchSession"
    assert beats(path)


@pytest.mark.parametrize("grace", [0, 10 * SECOND])
def test_frozen_session_can_be_terminated(instance, alice, beating, grace):
    session, _, path = beating
    instance.ctl(alice, "freeze", session)
    size = os.path.getsize(path)
    answer = instance.call(alice, SESSION + "Terminate", {"id": session, "graceUSec": grace}, )[0]
    assert result(answer) == {"terminated": 1}
    assert wait(instance, alice, session) == {"reason": "terminated"}
    assert os.path.getsize(path) == size, "it was let go on for its end"


def test_time_limit_of_a_command_in_a_frozen_session(instance, alice):
    """The command is killed, the session stays, and stays frozen."""
    marker = f"71{uuid.uuid4().int % 10**8}"
    session = create(instance, alice)
    process = start(instance, alice, session, "sleep", marker, timeoutUSec=3 * SECOND)
    other = start(instance, alice, session, "sleep", marker + "1")
    assert instance.ctl(alice, "freeze", session).returncode == 0
    assert processes_with(marker)
    found = wait(instance, alice, session, process)
    assert found["reason"] == "timeout" and found["signal"] == "SIGKILL"
    assert eventually(lambda: not processes_with(marker), 20)
    assert state(instance, alice, session) == "frozen" and processes_with(marker + "1")
    instance.ctl(alice, "thaw", session)
    assert instance.ctl(alice, "exec", session, "--", "true").returncode == 0
    processes = {p["process"]: p["state"] for p in describe(instance, alice, session)["runtime"]["processes"]}
    assert processes[process] == "exited" and processes[other] == "running"
    instance.ctl(alice, "terminate", "--grace", "0", session)


def test_client_of_a_frozen_session_goes(instance, alice):
    marker = f"70{uuid.uuid4().int % 10**8}"
    child = instance.ctl_start(alice, "run", "-T", "--name", "cold", "--", "sleep", marker, cwd=alice.workspace())
    assert eventually(lambda: sleeps_with(marker), 20)
    session = describe(instance, alice, "cold")["id"]
    assert instance.ctl(alice, "freeze", "cold").returncode == 0
    child.kill()
    child.wait()
    assert eventually(lambda: not processes_with(marker), 20)
    rows = eventually(lambda: instance.rows(0, kind="session", action="end", session=session), 20)
    assert [row["reason"] for row in rows] == ["client-gone"]


def test_frozen_by_a_user_who_shuts_the_group(instance, alice, beating):
    """The group's folder belongs to the session's user, who may take everybody's right to search it."""
    session, _, path = beating
    group = machine.cgroup2_mount() + describe(instance, alice, session)["runtime"]["controlGroup"]
    assert os.stat(group).st_uid == alice.uid
    os.chmod(group, 0)
    assert instance.ctl(alice, "freeze", session).returncode == 0
    size = os.path.getsize(path)
    time.sleep(0.2)
    assert os.path.getsize(path) == size
    # What the user can write is not what root froze.
    info = os.stat(group + "/cgroup.freeze")
    assert (info.st_uid, info.st_mode & 0o022) == (0, 0)
    assert os.stat(group).st_uid == alice.uid
    assert instance.ctl(alice, "thaw", session).returncode == 0
    assert beats(path)


def test_freeze_survives_the_api_worker(own_instance, alice):
    work = alice.workspace()
    session = create(own_instance, alice, workspace=work)
    start(own_instance, alice, session, "sh", "-c", BEAT)
    assert eventually(lambda: os.path.exists(work + "/beat"), 20)
    own_instance.ctl(alice, "freeze", session)
    for pid in own_instance.workers("sandboxd-api"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    runtime = describe(own_instance, alice, session)["runtime"]
    assert runtime["state"] == "frozen" and runtime["frozenByUid"] == alice.uid
    size = os.path.getsize(work + "/beat")
    time.sleep(0.2)
    assert os.path.getsize(work + "/beat") == size
    assert own_instance.ctl(alice, "thaw", session).returncode == 0
    assert beats(work + "/beat")
    own_instance.ctl(alice, "terminate", "--grace", "0", session)
