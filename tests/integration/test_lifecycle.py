"""How sessions live on and end: freezing, limits of time, who their client is, names and labels, what is kept."""

import contextlib
import json
import os
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
