"""How sessions live on and end: freezing, limits of time, who their client is, names and labels, what is kept."""

import contextlib
import json
import os
import re
import signal
import socket
import time
import uuid

import pytest

import machine
from machine import eventually, processes_with

SESSION = "io.sandboxd.Session."
SECOND = 1000000


class Connection:
    """A varlink connection of a user that stays open, for several calls."""

    def __init__(self, instance, user):
        code = ("import socket,sys,threading\n"
                "s=socket.socket(socket.AF_UNIX);s.connect(%r)\n"
                "def up():\n"
                " while True:\n"
                "  b=sys.stdin.buffer.raw.read(65536)\n"
                "  if not b: break\n"
                "  s.sendall(b)\n"
                " s.close()\n"
                "threading.Thread(target=up,daemon=True).start()\n"
                "while True:\n"
                " b=s.recv(65536)\n"
                " if not b: break\n"
                " sys.stdout.buffer.write(b);sys.stdout.buffer.flush()\n" % instance.socket)
        self.child = user.popen(["/usr/bin/python3", "-c", code], stdin=machine.subprocess.PIPE,
                                stdout=machine.subprocess.PIPE)
        self.data = b""

    def send(self, method, parameters=None, **flags):
        message = {"method": method, **flags}
        if parameters is not None:
            message["parameters"] = parameters
        self.child.stdin.write(json.dumps(message).encode() + b"\0")
        self.child.stdin.flush()

    def reply(self, timeout=60):
        """The next reply; None when there is none in time or the connection has ended."""
        end = time.monotonic() + timeout
        while b"\0" not in self.data:
            ready, _, _ = machine.select.select([self.child.stdout], [], [], max(0, end - time.monotonic()))
            part = os.read(self.child.stdout.fileno(), 65536) if ready else b""
            if not part:
                return None
            self.data += part
        part, _, self.data = self.data.partition(b"\0")
        return json.loads(part)

    def call(self, method, parameters=None, **flags):
        self.send(method, parameters, **flags)
        return self.reply()

    def close(self):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def result(reply):
    assert "error" not in reply, reply
    return reply.get("parameters", {})


def context(user, **more):
    return {"workspace": user.workspace(), "profile": "agent", "lifetime": "detached", **more}


def command(*words, **more):
    return {"commandLine": list(words), "standardInput": "null", "standardOutput": "null", **more}


def create(instance, user, **more):
    return result(instance.call(user, SESSION + "Create", {"context": context(user, **more)})[0])["id"]


def describe(instance, user, session):
    return result(instance.call(user, SESSION + "Describe", {"id": session})[0])


def state(instance, user, session):
    return describe(instance, user, session)["runtime"]["state"]


def start(instance, user, session, *words, **more):
    """Runs a command without waiting for its end; its number."""
    reply = instance.call(user, SESSION + "Exec", {"id": session, "command": command(*words, **more)})[0]
    return result(reply)["process"]


def wait(instance, user, session, process=None):
    parameters = {"id": session, **({"process": process} if process else {})}
    with Connection(instance, user) as connection:
        return result(connection.call(SESSION + "Wait", parameters))["result"]


def beats(path):
    """Whether a program that appends to a file goes on."""
    size = os.path.getsize(path)
    return eventually(lambda: os.path.getsize(path) > size, 20)


BEAT = "while :; do echo >> beat; sleep 0.01; done"


@pytest.fixture
def beating(instance, alice):
    """A session with a command that writes all the time: id, number of the command, path of its file."""
    work = alice.workspace()
    session = create(instance, alice, workspace=work)
    process = start(instance, alice, session, "sh", "-c", BEAT)
    assert eventually(lambda: os.path.exists(work + "/beat"), 20)
    yield session, process, work + "/beat"
    instance.call(alice, SESSION + "Terminate", {"id": session, "graceUSec": 0})


# ---- freeze and thaw ----

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
    assert eventually(lambda: len(processes_with(marker)) == 2, 20)
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


# ---- limits of time ----

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


# ---- what is kept ----

def kill_api(instance):
    for pid in instance.workers("sandboxd-api"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_daemon(instance):
    instance.process.kill()
    instance.process.wait()
    instance.process.stdout.close()
    instance.process = None
    instance.start()


def stored(instance, user):
    folder = f"{instance.state}/api/{user.uid}"
    return [name for name in os.listdir(folder) if len(name) == 32], folder


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


# ---- requestId ----

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


# ---- names and labels ----

def listed(instance, user, **filters):
    replies = instance.call(user, SESSION + "List", filters, more=True)
    assert "continues" not in replies[-1] and "error" not in replies[-1], replies[-1]
    return [r["parameters"]["id"] for r in replies[:-1]]


def test_labels_and_states(own_instance, alice, bob):
    red = create(own_instance, alice, labels={"colour": "red", "team/x": "1"})
    blue = create(own_instance, alice, labels={"colour": "blue", "team/x": "1"})
    plain = create(own_instance, alice)
    create(own_instance, bob, labels={"colour": "red"})
    own_instance.ctl(alice, "freeze", blue)
    own_instance.ctl(alice, "terminate", plain)
    assert listed(own_instance, alice) == [red, blue, plain]
    assert listed(own_instance, alice, labels={"colour": "red"}) == [red]
    assert listed(own_instance, alice, labels={"team/x": "1"}) == [red, blue]
    assert listed(own_instance, alice, labels={"team/x": "1", "colour": "green"}) == []
    assert listed(own_instance, alice, states=["frozen", "exited"]) == [blue, plain]
    assert listed(own_instance, alice, states=["running"], labels={"colour": "blue"}) == []
    assert listed(own_instance, alice, ownerUid=alice.uid) == [red, blue, plain]
    shown = own_instance.ctl(alice, "list", "--label", "team/x=1", "--state", "frozen").stdout
    assert blue in shown and red not in shown
    assert describe(own_instance, alice, red)["runtime"]["labels"] == {"colour": "red", "team/x": "1"}
    session = own_instance.create(alice, "--label", "k=v", "--label", "e=")
    assert describe(own_instance, alice, session)["context"]["labels"] == {"k": "v", "e": ""}
    assert own_instance.ctl(alice, "list", "--label", "k=v", "--json").stdout.count("\n") == 1


@pytest.mark.parametrize("labels", [{"": "x"}, {"a b": "x"}, {"k" * 64: "x"}, {"k": "x" * 256}, {"ä": "x"},
                                    {f"k{i}": "" for i in range(65)}])
def test_labels_have_bounds(instance, alice, labels):
    refused = instance.call(alice, SESSION + "Create", {"context": context(alice, labels=labels)})[0]
    assert refused["error"] == "org.varlink.service.InvalidParameter"
    assert refused["parameters"]["parameter"] == "context.labels"


def test_every_verb_takes_a_name(instance, alice, bob):
    create(instance, alice, name="verbs")
    taken = instance.call(alice, SESSION + "Create", {"context": context(alice, name="verbs")})[0]
    assert taken["error"] == SESSION + "NameExists" and taken["parameters"]["name"] == "verbs"
    create(instance, bob, name="verbs")
    start(instance, alice, "verbs", "sleep", "1000")
    for verb in (("describe", "verbs"), ("freeze", "verbs"), ("thaw", "verbs"), ("signal", "verbs", "TERM"),
                 ("wait", "verbs", "1"), ("exec", "verbs", "--", "true"), ("terminate", "verbs"), ("wait", "verbs"),
                 ("remove", "verbs")):
        done = instance.ctl(alice, *verb)
        assert done.returncode == (143 if verb == ("wait", "verbs", "1") else 0), (verb, done)
    assert instance.ctl(bob, "terminate", "verbs").returncode == 0
    assert instance.ctl(bob, "remove", "verbs").returncode == 0
    for bad in ("Upper", "-x", "", "a" * 64, "a/b", "0" * 32, "ä"):
        refused = instance.call(alice, SESSION + "Create", {"context": context(alice, name=bad)})[0]
        assert refused["parameters"] == {"parameter": "context.name"}, bad


def test_described_context_makes_the_same_session(instance, alice, make_profile):
    """Also of a profile that came as a descriptor."""
    session = instance.create(alice, "-p", make_profile(limits={"tasks": 77}), "--label", "a=b", "--env", "X=1",
                              "--read", "/usr/share")
    found = describe(instance, alice, session)
    assert '"tasks": 77' in found["context"]["profileContent"]
    again = result(instance.call(alice, SESSION + "Create", {"context": found["context"]})[0])["id"]
    twin = describe(instance, alice, again)
    assert twin["context"] == found["context"]
    assert twin["runtime"]["policyDigest"] == found["runtime"]["policyDigest"]
    assert instance.ctl(alice, "exec", again, "--", "sh", "-c", "echo $X").stdout == "1\n"
    for each in (session, again):
        instance.ctl(alice, "terminate", "--grace", "0", each)


# ---- whose session it is ----

def test_lifetime_of_a_connection(instance, alice):
    for lifetime, lives in (("connection", False), (None, False), ("detached", True)):
        with Connection(instance, alice) as connection:
            made = connection.call(SESSION + "Create", {"context": context(alice, lifetime=lifetime)})
            session = result(made)["id"]
            process = result(connection.call(SESSION + "Exec", {"id": session,
                                                                "command": command("sleep", "1000")}))["process"]
            assert process
        if lives:
            assert instance.ctl(alice, "exec", session, "--", "true").returncode == 0
            assert state(instance, alice, session) == "running"
            instance.ctl(alice, "terminate", "--grace", "0", session)
        else:
            assert wait(instance, alice, session) == {"reason": "client-gone"}


def test_terminate_with_grace(instance, alice):
    """SIGTERM first; who does not listen is killed when the time is over."""
    work = alice.workspace()
    session = create(instance, alice, workspace=work)
    start(instance, alice, session, "sh", "-c", "trap 'echo bye > said; exit 0' TERM; touch up; "
                                                "while :; do sleep 0.05; done")
    assert eventually(lambda: os.path.exists(work + "/up"), 20)
    done = instance.call(alice, SESSION + "Terminate", {"id": session, "graceUSec": 600 * SECOND}, )[0]
    assert result(done) == {"terminated": 1} and os.path.exists(work + "/said")
    deaf = create(instance, alice)
    start(instance, alice, deaf, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    done = instance.call(alice, SESSION + "Terminate", {"id": deaf, "graceUSec": SECOND // 2})[0]
    assert result(done) == {"terminated": 1}
    assert wait(instance, alice, deaf) == {"reason": "terminated"}


def test_terminate_all_is_ones_own(own_instance, alice, bob):
    mine = [create(own_instance, alice) for _ in range(3)]
    other = create(own_instance, bob)
    done = own_instance.call(alice, SESSION + "Terminate", {"all": True, "graceUSec": 0})[0]
    assert result(done) == {"terminated": 3}
    assert [state(own_instance, alice, s) for s in mine] == ["exited"] * 3
    assert state(own_instance, bob, other) == "running"
    for wrong in ({}, {"id": other, "all": True}, {"all": True, "ownerUid": alice.uid}):
        assert own_instance.call(alice, SESSION + "Terminate", wrong)[0]["parameters"] == {"parameter": "id"}
