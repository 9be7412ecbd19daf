"""What is kept of sessions: over the death of workers, a restart, until retention ends; damaged stores."""

import os
import re
import signal
import time
import uuid

import pytest

import machine
from machine import eventually
from sessions import SESSION, context, create, describe, kill_api, kill_daemon, result, start, stored, wait
from varlink import Connection

SECOND = 1000000


def test_results_survive_the_api_worker(own_instance, alice):
    work = alice.workspace()
    session = create(own_instance, alice, workspace=work, name="kept", labels={"a": "1"}, environment=["MINE=here"])
    over = start(own_instance, alice, session, "sh", "-c", "exit 7")
    assert wait(own_instance, alice, session, over) == {"exitCode": 7, "reason": "exited"}
    before = describe(own_instance, alice, session)
    running = start(own_instance, alice, session, "sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 9")
    missed = start(own_instance, alice, session, "sh", "-c", "while [ ! -e now ]; do sleep 0.05; done; exit 8")
    limited = start(own_instance, alice, session, "sleep", "1000", timeoutUSec=3 * SECOND)
    for pid in own_instance.workers("sandboxd-api"):
        os.kill(pid, signal.SIGSTOP)
    alice.write(work + "/now", "")
    time.sleep(0.5)
    kill_api(own_instance)
    after = describe(own_instance, alice, session)
    assert after["context"] == before["context"]
    for key in ("name", "labels", "workspace", "profile", "createdAtUSec", "policyDigest", "controlGroup"):
        assert after["runtime"][key] == before["runtime"][key], key
    assert wait(own_instance, alice, session, over) == {"exitCode": 7, "reason": "exited"}
    assert wait(own_instance, alice, session, missed) == {"exitCode": 8, "reason": "exited"}
    alice.write(work + "/go", "")
    assert wait(own_instance, alice, session, running) == {"exitCode": 9, "reason": "exited"}
    assert wait(own_instance, alice, session, limited)["reason"] == "timeout"
    assert own_instance.ctl(alice, "exec", "kept", "--", "sh", "-c", "echo $MINE").stdout == "here\n"
    assert own_instance.ctl(alice, "terminate", "--grace", "0", "kept").returncode == 0
    assert wait(own_instance, alice, session) == {"reason": "terminated"}
    kill_api(own_instance)
    assert wait(own_instance, alice, session) == {"reason": "terminated"}
    assert wait(own_instance, alice, session, running) == {"exitCode": 9, "reason": "exited"}


def test_limits_survive_the_api_worker(own_instance, alice):
    session = create(own_instance, alice, limits={"runtimeMaxUSec": 5 * SECOND})
    start(own_instance, alice, session, "sleep", "1000")
    idle = create(own_instance, alice, limits={"idleMaxUSec": 3 * SECOND})
    kill_api(own_instance)
    assert wait(own_instance, alice, session) == {"reason": "runtime"}
    assert wait(own_instance, alice, idle) == {"reason": "idle"}


def test_end_that_the_api_worker_never_heard_of(own_instance, alice):
    session = create(own_instance, alice)
    init = describe(own_instance, alice, session)["runtime"]["init"]["pid"]
    for pid in own_instance.workers("sandboxd-api"):
        os.kill(pid, signal.SIGSTOP)
    os.kill(init, signal.SIGKILL)
    assert eventually(lambda: own_instance.rows(0, kind="session", action="end", session=session), 20)
    kill_api(own_instance)
    assert wait(own_instance, alice, session) == {"reason": "terminated"}


@pytest.mark.parametrize("is_killed", [True, False])
def test_results_after_a_restart_of_the_daemon(own_instance, alice, bob, is_killed):
    session = create(own_instance, alice, name="through", labels={"a": "b"})
    over = start(own_instance, alice, session, "sh", "-c", "exit 3")
    assert wait(own_instance, alice, session, over)["exitCode"] == 3
    running = start(own_instance, alice, session, "sleep", "1000")
    ended = create(own_instance, alice)
    own_instance.ctl(alice, "terminate", ended)
    before = describe(own_instance, alice, session)
    if is_killed:
        kill_daemon(own_instance)
    else:
        own_instance.stop()
        own_instance.start()
    assert wait(own_instance, alice, "through") == {"reason": "daemon-restart"}
    assert wait(own_instance, alice, session, over) == {"exitCode": 3, "reason": "exited"}
    assert wait(own_instance, alice, session, running)["reason"] == "daemon-restart"
    assert wait(own_instance, alice, ended) == {"reason": "terminated"}
    after = describe(own_instance, alice, session)
    assert after["context"] == before["context"] and after["runtime"]["state"] == "exited"
    assert after["runtime"]["result"] == {"reason": "daemon-restart"} and after["runtime"]["endedAtUSec"] > 0
    assert "daemon-restart" in own_instance.ctl(alice, "list", "-a").stdout
    assert session not in own_instance.ctl(bob, "list", "-a").stdout
    rows = eventually(lambda: own_instance.rows(0, kind="session", action="end", session=session), 20)
    assert [row["reason"] for row in rows] == ["daemon-restart"]
    # What Describe() gives can be given to Create() again; the name is free when the former is forgotten.
    taken = own_instance.call(alice, SESSION + "Create", {"context": after["context"]})[0]
    assert taken["error"] == SESSION + "NameExists" and taken["parameters"]["id"] == session
    assert own_instance.ctl(alice, "remove", "through").returncode == 0
    again = result(own_instance.call(alice, SESSION + "Create", {"context": after["context"]})[0])["id"]
    assert describe(own_instance, alice, again)["context"] == before["context"]


def test_retention_ends(settings, alice):
    with machine.Instance(settings={**settings, "sessions": {"retention": "2s"}}) as instance:
        session = create(instance, alice)
        instance.ctl(alice, "terminate", session)
        gone = {"error": SESSION + "NoSuchSession", "parameters": {"id": session}}
        assert eventually(lambda: instance.call(alice, SESSION + "Wait", {"id": session}) == [gone], 20, 0.2)
        assert stored(instance, alice)[0] == []


def test_what_is_removed_is_gone(own_instance, alice):
    first, second, third = (create(own_instance, alice) for _ in range(3))
    assert sorted(stored(own_instance, alice)[0]) == sorted([first, second, third])
    for session in (first, second):
        own_instance.ctl(alice, "terminate", session)
    assert own_instance.ctl(alice, "remove", third).returncode == 125, "it lives"
    assert own_instance.ctl(alice, "remove", first).returncode == 0
    assert own_instance.ctl(alice, "prune", "--older", "1h").stdout == "0\n"
    assert own_instance.ctl(alice, "prune").stdout == "1\n"
    assert stored(own_instance, alice)[0] == [third]
    for session in (first, second):
        assert own_instance.ctl(alice, "describe", session).returncode == 125
    own_instance.ctl(alice, "run", "-T", "--", "true", cwd=alice.workspace())
    own_instance.ctl(alice, "run", "-T", "--keep", "--name", "stays", "--", "sh", "-c", "exit 4", cwd=alice.workspace())
    assert wait(own_instance, alice, "stays") == {"reason": "exited"}
    assert wait(own_instance, alice, "stays", "1") == {"exitCode": 4, "reason": "exited"}
    assert len(stored(own_instance, alice)[0]) == 2


def test_remove_on_exit(instance, alice):
    with Connection(instance, alice) as connection:
        session = result(connection.call(SESSION + "Create", {"context": context(alice, removeOnExit=True)}))["id"]
    with Connection(instance, alice) as waiting:
        waiting.send(SESSION + "Wait", {"id": session})
        time.sleep(0.2)
        instance.ctl(alice, "terminate", "--grace", "0", session)
        assert result(waiting.reply())["result"] == {"reason": "terminated"}, "whoever waits is told first"
    assert instance.ctl(alice, "describe", session).returncode == 125


def damage(instance, user, change):
    """An ended session whose file is changed while the daemon is not there."""
    session = create(instance, user, name="odd")
    instance.ctl(user, "terminate", session)
    instance.stop()
    names, folder = stored(instance, user)
    assert names == [session]
    path = f"{folder}/{session}"
    with open(path, "rb") as f:
        content = f.read()
    info = os.stat(path)
    assert info.st_mode & 0o777 == 0o600 and info.st_uid != user.uid
    with open(path, "wb") as f:
        f.write(change(content))
    instance.start()
    return session, folder


@pytest.mark.parametrize("name, change", [
    ("noise", lambda c: b"\0\xff" * 4000), ("empty", lambda c: b""), ("half", lambda c: c[:len(c) // 3]),
    ("number", lambda c: c.replace(b'"createdAtUSec":', b'"createdAtUSec":-')),
    ("type", lambda c: c.replace(b'"context":{', b'"context":{"labels":3,')),
    ("reason", lambda c: c.replace(b'"end":"terminated"', b'"end":"bored"')),
    ("name", lambda c: c.replace(b'"name":"odd"', b'"name":"../odd"')),
    ("middle", lambda c: c.replace(b"\n", b"\n{\n", 1)),
    ("huge", lambda c: c + b"[" * (9 << 20)),
    ("environment", lambda c: re.sub(rb'"environment":\[[^]]*\]', b'"environment":[null]', c, count=1)),
    ("warnings", lambda c: re.sub(rb'"warnings":\[', b'"warnings":[3,', c, count=1).replace(b"[3,]", b"[3]")),
    ("command", lambda c: c + b'{"process":1,"state":"exited","startedAtUSec":1,"endedAtUSec":2,"timeoutUSec":0,"status":0,'
                              b'"reason":"exited","commandLine":["true",null]}\n'),
    ("no command", lambda c: c + b'{"process":1,"state":"exited","startedAtUSec":1,"endedAtUSec":2,"timeoutUSec":0,"status":0,'
                                 b'"reason":"exited","commandLine":[]}\n'),
    ("scalar", lambda c: c + b"7\n"),
])
def test_damaged_store(own_instance, alice, name, change):
    session, folder = damage(own_instance, alice, change)
    assert own_instance.ctl(alice, "list", "-a").stdout == ""
    assert own_instance.ctl(alice, "describe", session).returncode == 125
    assert own_instance.sh(alice, "echo works").stdout == "works\n"
    if name not in ("half",):
        assert f"{session} in the store of uid {alice.uid} is damaged" in own_instance.log_text()
        assert os.path.exists(f"{folder}/{session}.damaged")
    again = create(own_instance, alice, name="odd")
    own_instance.ctl(alice, "terminate", again)


def test_a_line_that_was_cut_is_left_out(own_instance, alice):
    session, _ = damage(own_instance, alice, lambda c: c + b'{"process":1,"sta')
    assert wait(own_instance, alice, session) == {"reason": "terminated"}
    assert "damaged" not in own_instance.log_text()


def test_kept_sessions_are_bounded(own_instance, alice):
    def copy(content):
        folder = f"{own_instance.state}/api/{alice.uid}"
        owner = os.stat(folder)
        for _ in range(300):
            path = f"{folder}/{uuid.uuid4().hex}"
            with open(path, "wb") as f:
                f.write(content.replace(b'"name":"odd"', b'"name":""'))
            os.chown(path, owner.st_uid, owner.st_gid)
        return content
    damage(own_instance, alice, copy)
    listed = own_instance.ctl(alice, "list", "-a", "--json").stdout.splitlines()
    assert 200 < len(listed) <= 256
    assert len(stored(own_instance, alice)[0]) == len(listed)


def test_store_that_cannot_be_written(own_instance, alice):
    """The session runs; that its end will not be known later is said."""
    own_instance.ctl(alice, "list")
    folder = f"{own_instance.state}/api/{alice.uid}"
    os.chmod(folder, 0o500)
    session = create(own_instance, alice)
    assert [w["code"] for w in describe(own_instance, alice, session)["runtime"]["warnings"]].count("not-stored") == 1
    assert own_instance.ctl(alice, "exec", session, "--", "true").returncode == 0
    os.chmod(folder, 0o700)
    own_instance.ctl(alice, "terminate", session)
