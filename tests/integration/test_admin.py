"""Root and the group sandboxd-admins act on others' sessions; nobody else does, nor sees that there are any."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import uuid

import pytest

from machine import Instance, User, eventually, sleeps_with, test_user as make_user

ID = "0123456789abcdef" * 2


@contextlib.contextmanager
def member(group, suffix):
    with make_user(suffix) as user:
        subprocess.run(["gpasswd", "-a", user.name, group], check=True, stdout=subprocess.DEVNULL)
        yield User(user.name)


@pytest.fixture(scope="module")
def admin():
    with member("sandboxd-admins", "adm") as user:
        yield user


@pytest.fixture(scope="module")
def auditor():
    with member("sandboxd-auditors", "aud") as user:
        yield user


@pytest.fixture(params=["admin", "root"])
def administrator(request):
    return request.getfixturevalue(request.param)


def parameters_of(reply):
    return reply.get("parameters", {})


def session_of(instance, user, *options):
    """A detached session with a command that can be found; its id and the command's marker."""
    marker = f"67{uuid.uuid4().int % 10**9}"
    session = instance.create(user, *options)
    child = instance.ctl_start(user, "exec", session, "--", "sleep", marker, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    assert eventually(lambda: sleeps_with(marker))
    return session, marker, child


@pytest.fixture
def session(instance, alice):
    made, marker, child = session_of(instance, alice)
    yield made, marker
    instance.ctl(alice, "terminate", "--grace", "0", made)
    child.kill()
    child.wait()


def listed(instance, user, *options):
    done = instance.ctl(user, "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_administrator_describes_and_signals(instance, alice, administrator, session):
    made, marker = session
    before = instance.head()
    reply, = instance.call(administrator, "io.sandboxd.Session.Describe", {"id": made})
    assert parameters_of(reply)["id"] == made and parameters_of(reply)["runtime"]["ownerUid"] == alice.uid
    rows = eventually(lambda: instance.rows(before, kind="admin", action="act"))
    assert [(r["uid"], r["session"], r["reason"]) for r in rows] == [(administrator.uid, made, "Describe")]
    # The owner sees that somebody did.
    shown = [json.loads(line) for line in instance.ctl(alice, "audit", "log", "--json", "--kind", "admin").stdout.splitlines()]
    assert (administrator.uid, "Describe") in [(r["uid"], r["reason"]) for r in shown]
    assert instance.call(administrator, "io.sandboxd.Session.Signal", {"id": made, "signal": "SIGKILL"}) == [{"parameters": {}}]
    assert eventually(lambda: not sleeps_with(marker))


def test_an_administrator_runs_a_command(instance, alice, administrator, session):
    """With descriptors of its own, as the session's user."""
    made, _ = session
    done = instance.ctl(administrator, "exec", made, "--", "sh", "-c", "id -u; cat; exit 7", input="through\n")
    assert done.returncode == 7 and done.stdout == f"{alice.uid}\nthrough\n", done


def test_an_administrator_attaches(instance, alice, administrator):
    """By an upgraded connection, both ways, to the command's end."""
    done = instance.ctl(alice, "run", "--detach", "--", "sh", "-c", "echo logged; sleep 1000", cwd=alice.workspace())
    made = done.stdout.split()[-1]
    assert eventually(lambda: instance.ctl(administrator, "logs", made).stdout == "logged\n")
    child = instance.ctl_start(administrator, "attach", "--replay", "100", made, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "logged\n"
    assert instance.ctl(alice, "signal", made, "SIGKILL").returncode == 0
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (137, ""), err
    instance.ctl(alice, "terminate", "--grace", "0", made)


def test_an_administrator_waits(instance, alice, administrator):
    made = instance.create(alice)
    child = instance.ctl_start(administrator, "wait", made, stdout=subprocess.PIPE, text=True)
    assert eventually(lambda: [r for r in instance.rows(0, action="act", session=made) if r["reason"] == "Wait"])
    assert instance.ctl(alice, "terminate", "--grace", "0", made).returncode == 0
    assert child.communicate(timeout=20)[0] == "terminated\n" and child.returncode == 0
    # Ended ones are found as well, and may be forgotten.
    reply, = instance.call(administrator, "io.sandboxd.Session.Describe", {"id": made})
    assert parameters_of(reply)["runtime"]["state"] == "exited"
    assert parameters_of(instance.call(administrator, "io.sandboxd.Session.Terminate", {"id": made})[0]) == {"terminated": 0}
    assert instance.ctl(administrator, "remove", made).returncode == 0
    reply, = instance.call(alice, "io.sandboxd.Session.Describe", {"id": made})
    assert reply["error"].endswith("NoSuchSession")


def test_an_administrator_lists(instance, alice, bob, administrator, session):
    made, _ = session
    own = instance.create(administrator)
    of_bob = instance.create(bob, "--label", "who=bob")
    try:
        everybody = {s["id"]: s["runtime"]["ownerUid"] for s in listed(instance, administrator, "--all-users")}
        assert everybody[made] == alice.uid and everybody[own] == administrator.uid and everybody[of_bob] == bob.uid
        assert {s["runtime"]["ownerUid"] for s in listed(instance, administrator)} == {administrator.uid}
        assert {s["runtime"]["ownerUid"] for s in listed(instance, administrator, "--of", bob.name)} == {bob.uid}
        filtered = [s["id"] for s in listed(instance, administrator, "--all-users", "--label", "who=bob")]
        assert filtered == [of_bob]
        assert listed(instance, administrator, "--of", "4000000000") == []
        text = instance.ctl(administrator, "list", "--all-users").stdout
        assert "UID" in text.splitlines()[0] and str(bob.uid) in text
    finally:
        for user, one in ((administrator, own), (bob, of_bob)):
            instance.ctl(user, "terminate", "--grace", "0", one)


def test_an_administrator_terminates(instance, alice, administrator, session):
    made, marker = session
    before = instance.head()
    reply, = instance.call(administrator, "io.sandboxd.Session.Terminate", {"id": made, "graceUSec": 0})
    assert parameters_of(reply) == {"terminated": 1}
    assert not sleeps_with(marker)
    rows = eventually(lambda: instance.rows(before, action="act"))
    assert [(r["uid"], r["session"], r["reason"]) for r in rows] == [(administrator.uid, made, "Terminate")]
    end = eventually(lambda: instance.rows(before, action="end", session=made))
    assert [r["reason"] for r in end] == ["terminated"]
    assert parameters_of(instance.call(alice, "io.sandboxd.Session.Wait", {"id": made})[0])["result"]["reason"] == "terminated"


def test_an_orderly_end_has_its_grace(instance, alice, administrator):
    """SIGTERM first, which the command may use; and no longer than it says."""
    workspace = alice.workspace()
    made = instance.create(alice, cwd=workspace)
    child = instance.ctl_start(alice, "exec", made, "--", "sh", "-c",
                               "trap 'echo cleaned >done; exit 0' TERM; touch ready; while :; do sleep 0.1; done")
    assert eventually(lambda: os.path.exists(workspace + "/ready"))
    reply, = instance.call(administrator, "io.sandboxd.Session.Terminate", {"id": made, "graceUSec": 30_000_000})
    assert parameters_of(reply) == {"terminated": 1}
    with open(workspace + "/done", encoding="ascii") as f:
        assert f.read() == "cleaned\n"
    child.wait()


# Calls that wait for the end of a session; says so when some were refused, which is when there are as many as there may be.
MANY_CALLS = """
import json, select, socket, sys, time
call = json.dumps({"method": "io.sandboxd.Session.Terminate", "parameters": {"id": sys.argv[2], "graceUSec": 120_000_000}}).encode() + b"\\0"
calls = []
while len(calls) < 300:
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    try:
        s.sendall(call)
        calls.append(s)
    except BrokenPipeError:  # too many a second
        time.sleep(0.1)
refused = set()
while len(refused) < 40:
    refused.update(select.select([s for s in calls if s not in refused], [], [])[0])
print("full", flush=True)
sys.stdin.read()
"""


def test_root_can_end_sessions_whatever_administrators_wait_for(alice, admin, root):
    with Instance(settings={"limits": {"connections_per_user": 400, "connections": 1000, "connects_per_second": 5000}}) as own:
        made, _, child = session_of(own, alice)
        stubborn = own.ctl_start(alice, "exec", made, "--", "sh", "-c", "trap : TERM; echo up; while :; do sleep 1; done",
                                 stdout=subprocess.PIPE, text=True)
        assert stubborn.stdout.readline() == "up\n"
        calls = admin.popen(["/usr/bin/python3", "-c", MANY_CALLS, own.socket, made], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True)
        assert calls.stdout.readline() == "full\n"
        reply, = own.call(root, "io.sandboxd.Session.Terminate", {"id": made, "graceUSec": 0})
        assert parameters_of(reply) == {"terminated": 1}
        for waiting in (calls, stubborn, child):
            waiting.kill()
            waiting.wait()


def test_an_administrator_terminates_a_users_and_all(own_instance, alice, bob, root, admin):
    made = {user.name: own_instance.create(user) for user in (alice, bob, root, admin)}
    assert own_instance.ctl(admin, "terminate", "--of", str(alice.uid), "--grace", "0").returncode == 0
    left = {s["id"] for s in listed(own_instance, root, "--all-users")}
    assert left == {made[user.name] for user in (bob, root, admin)}
    done = own_instance.ctl(admin, "terminate", "--all", "--grace", "0", "--json")
    assert json.loads(done.stdout) == {"terminated": 3}
    assert listed(own_instance, root, "--all-users") == []


def test_all_means_own_for_users(own_instance, alice, bob):
    of_bob = own_instance.create(bob)
    own_instance.create(alice)
    done = own_instance.ctl(alice, "terminate", "--all", "--grace", "0", "--json")
    assert json.loads(done.stdout) == {"terminated": 1}
    assert [s["id"] for s in listed(own_instance, bob)] == [of_bob]


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_end_needs_no_worker_of_the_owner(own_instance, alice, root, how):
    """Also with a grace time that the worker would have to keep."""
    made, marker, child = session_of(own_instance, alice)
    workers = [p for p in own_instance.workers("sandboxd-api") if worker_uid(p) == alice.uid]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGSTOP)
    if how == "killed":
        # Again and again: nobody is there to be asked.
        os.kill(workers[0], signal.SIGKILL)
    try:
        reply, = own_instance.call(root, "io.sandboxd.Session.Terminate", {"id": made})
        assert parameters_of(reply) == {"terminated": 1}
        assert not sleeps_with(marker)
        # A list of all leaves out who does not answer.
        assert listed(own_instance, root, "--all-users", "-a") == [] or how == "killed"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[0], signal.SIGCONT)
        child.kill()
        child.wait()


def worker_uid(pid):
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read().split(b"\0")
        return int(words[words.index(b"--uid") + 1])
    return None


# Every method of Session that names one, with what else it needs.
METHODS = {
    "Describe": {}, "Wait": {}, "Remove": {}, "Freeze": {}, "Thaw": {}, "Terminate": {},
    "Signal": {"signal": "SIGTERM"}, "Exec": {"command": {"commandLine": ["true"], "standardOutput": "null"}},
    "Attach": {"process": "1"}, "Logs": {"process": "1"}, "Resize": {"columns": 80, "rows": 24}, "Forward": {"port": 80},
}
FLAGS = {"Attach": {"upgrade": True}, "Logs": {"more": True}, "Exec": {"more": True}}


def answer(instance, user, method, name):
    reply, = instance.call(user, "io.sandboxd.Session." + method, {"id": name, **METHODS.get(method, {})}, **FLAGS.get(method, {}))
    return reply


def test_every_method_that_names_a_session(instance, bob, session):
    """All that are declared with an id: whether METHODS knows them or not."""
    made, _ = session
    reply, = instance.call(bob, "org.varlink.service.GetInterfaceDescription", {"interface": "io.sandboxd.Session"})
    text = re.sub(r"#.*", "", reply["parameters"]["description"])
    named = [name for name, arguments in re.findall(r"method (\w+)\(([^)]*)\)", text) if re.search(r"\bid: \??string", arguments)]
    assert set(METHODS) <= set(named)
    for method in named:
        replies = [answer(instance, bob, method, name) for name in (made, ID)]
        for reply, name in zip(replies, (made, ID)):
            assert "error" in reply and reply.get("parameters", {}).pop("id", name) == name, (method, reply)
        assert replies[0] == replies[1], method


@pytest.mark.parametrize("method", METHODS)
def test_foreign_and_unknown_look_alike(instance, bob, auditor, session, method):
    """To users and to auditors; by id and by name."""
    made, marker = session
    for user in (bob, auditor):
        answers = []
        for name in (made, ID):
            reply = answer(instance, user, method, name)
            assert reply.pop("parameters") == {"id": name}
            answers.append(reply)
        assert answers[0] == answers[1] == {"error": "io.sandboxd.Session.NoSuchSession"}
    assert sleeps_with(marker)


def calls_of(pid, path, act):
    """The names of the system calls of a process while something is done, in their order."""
    child = subprocess.Popen(["strace", "-qq", "-o", path, "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: re.search(r"^TracerPid:\s+[1-9]", status_of(pid), re.M))
        act()
        # The connection's end is the last of it.
        assert eventually(lambda: "close(" in read(path))
    finally:
        child.terminate()
        child.wait()
    return [name for name in re.findall(r"^(\w+)\(", read(path), re.M) if name not in ("epoll_wait", "clock_gettime")]


def status_of(pid):
    return read(f"/proc/{pid}/status")


def read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("method", METHODS)
def test_foreign_and_unknown_take_the_same_steps(instance, bob, session, method, tmp_path):
    """No clock tells them apart: the worker does the same for both, and asks nobody."""
    made, _ = session
    answer(instance, bob, method, ID)
    worker, = [p for p in instance.workers("sandboxd-api") if worker_uid(p) == bob.uid]
    number = 0

    def steps(name):
        nonlocal number
        number += 1
        return calls_of(worker, str(tmp_path / str(number)), lambda: answer(instance, bob, method, name))

    # Its timers may add a step to one of them; what differs by intent would in each pair.
    assert eventually(lambda: steps(made) == steps(ID), 60)


def test_what_is_not_for_others(instance, alice, bob, auditor, session):
    made, marker = session
    before = instance.head()
    for user in (bob, auditor):
        for method, parameters, flags in (("List", {"allUsers": True}, {"more": True}),
                                          ("List", {"ownerUid": alice.uid}, {"more": True}),
                                          ("Terminate", {"ownerUid": alice.uid}, {}),
                                          ("Terminate", {"all": True}, {})):
            reply = instance.call(user, "io.sandboxd.Session." + method, parameters, **flags)[-1]
            assert reply.get("error") == "org.varlink.service.PermissionDenied" or \
                reply == {"parameters": {"terminated": 0}}, (method, reply)
    assert sleeps_with(marker)
    assert not instance.rows(before, action="act")


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_id_is_unknown_to_administrators(instance, administrator, method):
    reply = answer(instance, administrator, method, ID)
    assert (reply["error"], parameters_of(reply)) == ("io.sandboxd.Session.NoSuchSession", {"id": ID})


def test_admins_see_no_rows_of_others_and_auditors_all(instance, alice, admin, auditor, session):
    rows = [json.loads(line) for line in instance.ctl(admin, "audit", "log", "--json").stdout.splitlines()]
    assert {r["uid"] for r in rows} <= {admin.uid}
    assert instance.ctl(admin, "audit", "verify").returncode == 125
    before = instance.head()
    rows = [json.loads(line) for line in instance.ctl(auditor, "audit", "log", "--json").stdout.splitlines()]
    assert alice.uid in {r["uid"] for r in rows}
    assert [r["uid"] for r in instance.rows(before, kind="admin", action="read")] == [auditor.uid]
    assert instance.ctl(auditor, "audit", "verify").returncode == 0


def test_an_administrator_that_goes_away_leaves_nothing(instance, alice, root, session):
    """A call that waits ends with its client, in the owner's worker too."""
    made, _ = session
    worker, = [p for p in instance.workers("sandboxd-api") if worker_uid(p) == alice.uid]

    def count():
        return len(os.listdir(f"/proc/{worker}/fd"))

    before = count()
    for _ in range(5):
        child = instance.ctl_start(root, "wait", made, stdout=subprocess.DEVNULL)
        assert eventually(lambda: count() > before)
        child.kill()
        child.wait()
        assert eventually(lambda: count() <= before, 10)


def test_bytes_of_an_upgraded_call_pass_both_ways(instance, alice, root, session):
    """More than the buffers hold, and the end of one direction before the other's."""
    made, _ = session
    command = {"commandLine": ["cat"], "standardInput": "stream", "standardOutput": "stream", "standardError": "null"}
    reply, = instance.call(alice, "io.sandboxd.Session.Exec", {"id": made, "command": command})
    process = parameters_of(reply)["process"]
    data = os.urandom(1 << 20)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
        s.settimeout(60)
        s.connect(instance.socket)
        call = {"method": "io.sandboxd.Session.Attach", "upgrade": True,
                "parameters": {"id": made, "process": process, "framing": "raw"}}
        s.sendall(json.dumps(call).encode() + b"\0")
        answer = b""
        while not answer.endswith(b"\0"):
            answer += s.recv(1)
        assert json.loads(answer[:-1])["parameters"]["framing"] == "raw", answer
        sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        sender.start()
        found = b""
        while len(found) <= len(data):
            part = s.recv(1 << 16)
            if not part:
                break
            found += part
        sender.join()
    assert found == data


def test_an_attached_administrator_that_is_gone_is_noticed(instance, alice, root, session):
    """Though the command neither reads nor writes: hanging up means the same as to its owner's own client."""
    made, _ = session
    for user in (alice, root):
        marker = f"68{uuid.uuid4().int % 10**9}"
        command = {"commandLine": ["sleep", marker], "standardInput": "stream", "standardOutput": "stream", "standardError": "null"}
        reply, = instance.call(alice, "io.sandboxd.Session.Exec", {"id": made, "command": command})
        child = instance.ctl_start(user, "attach", "--hang-up", made, parameters_of(reply)["process"], stdin=subprocess.PIPE)
        assert eventually(lambda: parameters_of(instance.call(alice, "io.sandboxd.Session.Describe", {"id": made})[0])
                          ["runtime"]["attached"] == 1)
        child.kill()
        child.wait()
        child.stdin.close()
        assert eventually(lambda m=marker: not sleeps_with(m), 15), user.name


def test_words_of_others_do_not_reach_the_terminal(instance, alice, root):
    """As JSON neither: what a user calls sessions is the same text, and moves no cursor."""
    label = "a\x9b31m\u202eb\x7f\u200bc\\d\"e\u00e9\U0001f512"
    made = instance.create(alice, "--label", f"who={label}")
    try:
        raw = instance.ctl(root, "list", "--all-users", "--json", text=False).stdout
        mine, = [s for s in map(json.loads, raw.decode().splitlines()) if s["id"] == made]
        assert mine["runtime"]["labels"] == {"who": label}
        assert not set(raw.decode()) & set("\x9b\u202e\x7f\u200b") and "\u00e9\U0001f512" in raw.decode()
    finally:
        instance.ctl(alice, "terminate", "--grace", "0", made)
