"""requestId: a call that is made again does its work once."""

import contextlib
import json
import os
import signal
import time
import uuid

import pytest

from machine import eventually, processes_with
from sessions import SESSION, command, context, create, describe, kill_api, kill_daemon, result, stored, wait
from varlink import Connection

SECOND = 1000000


def spawn(user, request, *words, more=None, **context_more):
    return {"context": context(user, **context_more), "command": command(*words), "requestId": request, **(more or {})}


def starts(instance, session=None):
    return [row["session"] for row in instance.rows(0, kind="session", action="start")]


def test_request_of_create(instance, alice, bob):
    parameters = {"context": context(alice), "requestId": "one"}
    first = result(instance.call(alice, SESSION + "Create", parameters)[0])
    again = result(instance.call(alice, SESSION + "Create", parameters)[0])
    assert "existing" not in first and again["existing"] is True and again["id"] == first["id"]
    assert again["runtime"]["state"] == "running"
    # Written otherwise it is the same call.
    turned = {"requestId": "one", "context": {**dict(reversed(list(parameters["context"].items()))), "name": None}}
    assert result(instance.call(alice, SESSION + "Create", turned)[0])["id"] == first["id"]
    for other in ({**parameters, "context": {**parameters["context"], "labels": {"a": "b"}}},):
        refused = instance.call(alice, SESSION + "Create", other)[0]
        assert refused == {"error": SESSION + "RequestIdConflict",
                           "parameters": {"requestId": "one", "id": first["id"]}}
    refused = instance.call(alice, SESSION + "Spawn", spawn(alice, "one", "true"))[0]
    assert refused["error"] == SESSION + "RequestIdConflict"
    # Another user's ids are another's.
    other = result(instance.call(bob, SESSION + "Create", {"context": context(bob), "requestId": "one"})[0])
    assert "existing" not in other and other["id"] != first["id"]
    instance.ctl(alice, "terminate", first["id"])
    assert result(instance.call(alice, SESSION + "Create", parameters)[0])["runtime"]["state"] == "exited"
    instance.ctl(alice, "remove", first["id"])
    gone = instance.call(alice, SESSION + "Create", parameters)[0]
    assert (gone["error"], gone["parameters"]) == (SESSION + "NoSuchSession", {"id": first["id"]})
    instance.ctl(bob, "terminate", "--all")


def test_request_of_spawn(instance, alice):
    work = alice.workspace()
    parameters = spawn(alice, "two", "sh", "-c", "echo >> count; exit 5", workspace=work, removeOnExit=True)
    first = result(instance.call(alice, SESSION + "Spawn", parameters)[0])
    assert eventually(lambda: instance.ctl(alice, "describe", first["id"]).returncode == 125, 20)
    # The session is forgotten, the answer is not.
    for more in ({}, {"more": True}):
        replies = instance.call(alice, SESSION + "Spawn", parameters, **more)
        again = result(replies[-1])
        assert again["existing"] is True and (again["id"], again["process"]) == (first["id"], first["process"])
        assert again["result"] == {"exitCode": 5, "reason": "exited"} and len(replies) == 1
    with open(work + "/count", encoding="utf-8") as f:
        assert f.read() == "\n"


def test_request_of_exec(instance, alice, beating):
    session, _, _ = beating
    work = os.path.dirname(beating[2])
    parameters = {"id": session, "requestId": "three",
                  "command": command("sh", "-c", "echo >> execs; while [ ! -e on ]; do sleep 0.05; done; exit 6")}
    first = result(instance.call(alice, SESSION + "Exec", parameters)[0])
    with Connection(instance, alice) as connection:
        connection.send(SESSION + "Exec", parameters, more=True)
        reply = connection.reply()
        assert reply["continues"] and "result" not in reply["parameters"]
        assert (reply["parameters"]["existing"], reply["parameters"]["process"]) == (True, first["process"])
        alice.write(work + "/on", "")
        reply = connection.reply()
        assert reply["parameters"]["result"] == {"exitCode": 6, "reason": "exited"} and "continues" not in reply
    again = result(instance.call(alice, SESSION + "Exec", parameters)[0])
    assert again["result"] == {"exitCode": 6, "reason": "exited"}
    other = {**parameters, "command": command("true")}
    assert instance.call(alice, SESSION + "Exec", other)[0]["error"] == SESSION + "RequestIdConflict"
    with open(work + "/execs", encoding="utf-8") as f:
        assert f.read() == "\n"


def test_equal_calls_that_race(instance, alice):
    """Many at once make one session, and each is told how it ended."""
    work = alice.workspace()
    parameters = spawn(alice, "race", "sh", "-c", "echo >> count; sleep 1; exit 2", workspace=work)
    before = len(starts(instance))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(instance, alice)) for _ in range(8)]
        for connection in connections:
            connection.send(SESSION + "Spawn", parameters, more=True)
        ids, made = set(), 0
        for connection in connections:
            replies = [connection.reply()]
            while replies[-1].get("continues"):
                replies.append(connection.reply())
            ids.add(result(replies[-1])["id"])
            made += not any(r["parameters"].get("existing") for r in replies)
            assert replies[-1]["parameters"]["result"] == {"exitCode": 2, "reason": "exited"}
    assert len(ids) == 1 and made == 1 and len(starts(instance)) == before + 1
    with open(work + "/count", encoding="utf-8") as f:
        assert f.read() == "\n"


def test_request_that_failed_may_be_made_again(instance, alice):
    parameters = {"context": context(alice, workspace="/no/such/folder"), "requestId": "late"}
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(instance, alice)) for _ in range(3)]
        for connection in connections:
            connection.send(SESSION + "Create", parameters)
        assert [c.reply()["error"] for c in connections] == [SESSION + "PathRefused"] * 3
    missing = spawn(alice, "missing", "no-such-program")
    for _ in range(2):
        assert instance.call(alice, SESSION + "Spawn", missing)[0]["error"] == SESSION + "CommandNotFound"
    good = {"context": context(alice), "requestId": "late"}
    assert "existing" not in result(instance.call(alice, SESSION + "Create", good)[0])


def test_second_of_equal_calls_keeps_the_session(instance, alice):
    """The one who asked first goes; the session lives for the other."""
    work = alice.workspace()
    parameters = spawn(alice, "heir", "sh", "-c", "while [ ! -e on ]; do sleep 0.05; done; exit 3", workspace=work,
                       lifetime="connection")
    with Connection(instance, alice) as heir:
        with Connection(instance, alice) as first:
            first.send(SESSION + "Spawn", parameters, more=True)
            assert first.reply()["continues"]
            heir.send(SESSION + "Spawn", parameters, more=True)
            assert heir.reply()["continues"]
        time.sleep(0.3)
        alice.write(work + "/on", "")
        assert heir.reply()["parameters"]["result"] == {"exitCode": 3, "reason": "exited"}


@pytest.mark.parametrize("bad", ["", "x" * 129, "ä" * 129])
def test_request_ids_are_bounded(instance, alice, bad):
    for method, parameters in (("Create", {"context": context(alice)}),
                               ("Spawn", {"context": context(alice), "command": command("true")}),
                               ("Exec", {"id": "0" * 32, "command": command("true")})):
        refused = instance.call(alice, SESSION + method, {**parameters, "requestId": bad})[0]
        assert refused == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": "requestId"}}
    created = instance.call(alice, SESSION + "Create", {"context": context(alice), "requestId": uuid.uuid4().hex + "ä" * 96})[0]
    assert result(created)["id"]


def test_requests_survive_workers_and_restarts(own_instance, alice):
    work = alice.workspace()
    created = {"context": context(alice), "requestId": "c"}
    spawned = spawn(alice, "s", "sh", "-c", "echo >> count; sleep 3; exit 5", workspace=work)
    session = result(own_instance.call(alice, SESSION + "Create", created)[0])["id"]
    first = result(own_instance.call(alice, SESSION + "Spawn", spawned)[0])
    execed = {"id": session, "command": command("sleep", "1000"), "requestId": "e"}
    process = result(own_instance.call(alice, SESSION + "Exec", execed)[0])["process"]
    for blow in (kill_api, kill_api, kill_daemon):
        blow(own_instance)
        again = result(own_instance.call(alice, SESSION + "Create", created)[0])
        assert again["existing"] and again["id"] == session
        again = result(own_instance.call(alice, SESSION + "Exec", execed)[0])
        assert again["existing"] and again["process"] == process
        assert again.get("result") == (None if blow is kill_api else {"reason": "daemon-restart"})
        with Connection(own_instance, alice) as connection:
            connection.send(SESSION + "Spawn", spawned, more=True)
            reply = connection.reply()
            while reply.get("continues"):
                reply = connection.reply()
            again = result(reply)
            assert again["existing"] and again["id"] == first["id"]
            assert again["result"] == {"exitCode": 5, "reason": "exited"}
        conflict = own_instance.call(alice, SESSION + "Create", {"context": context(alice), "requestId": "c"})[0]
        assert conflict["error"] == SESSION + "RequestIdConflict"
    with open(work + "/count", encoding="utf-8") as f:
        assert f.read() == "\n"


def test_request_in_a_session_that_leaves_nothing(own_instance, alice):
    """Such a session is not stored at once; what was asked for in it by an id is, whenever its worker dies."""
    work = alice.workspace()
    # More deaths in ten seconds would have the daemon wait before it starts another.
    for n in range(4):
        with Connection(own_instance, alice) as connection:
            session = result(connection.call(SESSION + "Create", {"context": context(
                alice, workspace=work, lifetime="connection", removeOnExit=True)}))["id"]
            parameters = {"id": session, "requestId": f"r{n}", "command": command("sh", "-c", f"echo >> r{n}; sleep 1000")}
            connection.send(SESSION + "Exec", parameters)
            time.sleep(0.001 * n)
            kill_api(own_instance)
            connection.reply(30)
        with Connection(own_instance, alice) as connection:
            result(connection.call(SESSION + "Exec", parameters))
            assert eventually(lambda f=f"{work}/r{n}": os.path.exists(f))
        with open(f"{work}/r{n}", encoding="utf-8") as f:
            assert f.read() == "\n", n
        own_instance.ctl(alice, "terminate", "--grace", "0", session)


# Four deaths in ten seconds are enough for the daemon to wait before it starts another: three for each daemon.
@pytest.mark.parametrize("first", range(0, 12, 3))
def test_worker_that_dies_in_the_middle_of_requests(own_instance, alice, first):
    """Whenever it dies: the same call again makes no second session."""
    for n in range(first, first + 3):
        work = alice.workspace()
        parameters = spawn(alice, f"m{n}", "sh", "-c", "echo >> count; exit 4", workspace=work)
        before = own_instance.head()
        with Connection(own_instance, alice) as connection:
            connection.send(SESSION + "Spawn", parameters)
            # Later and later, over all that a start does.
            time.sleep(0.004 * n)
            kill_api(own_instance)
            connection.reply(30)
        with Connection(own_instance, alice) as connection:
            connection.send(SESSION + "Spawn", parameters, more=True)
            reply = connection.reply()
            while reply and reply.get("continues"):
                reply = connection.reply()
            assert reply and result(reply)["result"]["reason"] == "exited", reply
        with open(work + "/count", encoding="utf-8") as f:
            assert f.read() == "\n", (n, own_instance.rows(before))


def is_dead(pid):
    """Also where its parent has not heard of it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


def replace_worker(instance, change):
    """The api worker dies; what it left is changed before there is another."""
    launcher = instance.process.pid
    os.kill(launcher, signal.SIGSTOP)
    try:
        workers = instance.workers("sandboxd-api")
        kill_api(instance)
        for pid in workers:
            assert eventually(lambda pid=pid: is_dead(pid), 30)
        change()
    finally:
        os.kill(launcher, signal.SIGCONT)


def forget_progress(folder, session, as_number=None):
    """The store as a worker leaves it that dies as soon as it asked for a command."""
    with open(f"{folder}/{session}", "rb+") as f:
        lines = f.readlines()
        processes = [line for line in lines if "process" in json.loads(line)]
        first = processes[0]
        assert json.loads(first)["state"] == "starting" and len(processes) > 1
        if as_number:
            first = first.replace(b'"process":1,', b'"process":%d,' % as_number)
        f.seek(0)
        f.truncate()
        f.writelines([line for line in lines if line not in processes] + [first])
    with open(f"{folder}/requests", "rb+") as f:
        lines = [line for line in f.readlines() if "key" in json.loads(line) and "session" not in json.loads(line)]
        assert len(lines) == 1
        f.seek(0)
        f.truncate()
        f.writelines(lines)


@pytest.mark.parametrize("what", ["runs", "ends-meanwhile", "is-over", "was-never-asked-for"])
def test_what_a_worker_did_not_store(own_instance, alice, what):
    """Its successor learns of init what became of a command, and runs none twice."""
    work = alice.workspace()
    session = create(own_instance, alice, workspace=work)
    marker = uuid.uuid4().hex
    parameters = {"id": session, "requestId": "lost",
                  "command": command("sh", "-c", "echo >> count; while [ ! -e on ]; do sleep 0.05; done; exit 6", marker)}
    before = own_instance.head()
    process = result(own_instance.call(alice, SESSION + "Exec", parameters)[0])["process"]
    assert process == "1"
    if what == "is-over":
        alice.write(work + "/on", "")
        assert wait(own_instance, alice, session, process)["exitCode"] == 6

    def change():
        if what == "ends-meanwhile":
            alice.write(work + "/on", "")
            assert eventually(lambda: not processes_with(marker), 60)
        forget_progress(stored(own_instance, alice)[1], session, 2 if what == "was-never-asked-for" else None)
    replace_worker(own_instance, change)

    with Connection(own_instance, alice) as connection:
        connection.send(SESSION + "Exec", parameters, more=True)
        reply = result(connection.reply())
        if what == "was-never-asked-for":
            assert "existing" not in reply and int(reply["process"]) > 2
        else:
            assert reply["existing"] is True and reply["process"] == process
        if what == "runs":
            described = describe(own_instance, alice, session)["runtime"]["processes"]
            assert [p["state"] for p in described] == ["running"]
        alice.write(work + "/on", "")
        while "result" not in reply:
            reply = result(connection.reply())
    known = {} if what == "is-over" else {"exitCode": 6}
    assert reply["result"] == {"reason": "exited", **known}
    with open(work + "/count", encoding="utf-8") as f:
        assert len(f.read()) == (2 if what == "was-never-asked-for" else 1)

    # A further command's exit behind them: none comes late.
    assert own_instance.ctl(alice, "exec", session, "--", "true").returncode == 0

    def ends():
        return [(row["status"], row["reason"]) for row in own_instance.rows(before, action="exit")]
    # Rows of exits are as many as commands that began: of one that is over, the row that was written.
    expected = {"was-never-asked-for": [(None, "setup-failed"), (6, "exited"), (0, "exited")]}
    assert eventually(lambda: ends() == expected.get(what, [(6, "exited"), (0, "exited")]), 30), ends()


def test_requests_are_bounded(own_instance, alice):
    """A day's worth; beyond it calls are refused, and what is a day old makes room."""
    own_instance.ctl(alice, "list")
    own_instance.stop()
    folder = f"{own_instance.state}/api/{alice.uid}"
    owner = os.stat(folder)
    now = int(time.time() * SECOND)

    def write(n, age):
        with open(folder + "/requests", "w", encoding="ascii") as f:
            for i in range(n):
                f.write(json.dumps({"request": f"r{i}", "key": uuid.uuid4().hex, "digest": "00" * 32, "isSpawn": False,
                                    "createdAtUSec": now - age, "session": uuid.uuid4().hex, "process": 0}) + "\n")
        os.chown(folder + "/requests", owner.st_uid, owner.st_gid)
    write(8192, 3600 * SECOND)
    own_instance.start()
    refused = own_instance.call(alice, SESSION + "Create", {"context": context(alice), "requestId": "new"})[0]
    assert refused["error"] == SESSION + "QuotaExceeded" and refused["parameters"]["resource"] == "requestIds"
    assert own_instance.call(alice, SESSION + "Create", {"context": context(alice), "requestId": "r7"})[0]["error"] == \
        SESSION + "RequestIdConflict"
    create(own_instance, alice)
    own_instance.stop()
    write(8192, 25 * 3600 * SECOND)
    own_instance.start()
    for request in ("new", "r7"):
        made = own_instance.call(alice, SESSION + "Create", {"context": context(alice), "requestId": request})[0]
        assert "existing" not in result(made)


def test_requests_without_a_store_are_refused(own_instance, alice):
    own_instance.ctl(alice, "list")
    folder = f"{own_instance.state}/api/{alice.uid}"
    os.chmod(folder, 0o500)
    refused = own_instance.call(alice, SESSION + "Create", {"context": context(alice), "requestId": "x"})[0]
    assert refused["error"] == "io.systemd.System" and refused["parameters"]["errnoName"] == "EACCES"
    os.chmod(folder, 0o700)
    made = own_instance.call(alice, SESSION + "Create", {"context": context(alice), "requestId": "x"})[0]
    assert "existing" not in result(made)


def test_damaged_requests(own_instance, alice):
    parameters = {"context": context(alice), "requestId": "x"}
    result(own_instance.call(alice, SESSION + "Create", parameters)[0])
    own_instance.stop()
    path = f"{own_instance.state}/api/{alice.uid}/requests"
    with open(path, "ab") as f:
        f.write(b'{"request":"x","session":"no id"}\n')
    own_instance.start()
    assert "existing" not in result(own_instance.call(alice, SESSION + "Create", parameters)[0])
    assert f"requests in the store of uid {alice.uid} is damaged" in own_instance.log_text()
