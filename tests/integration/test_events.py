"""Events.Subscribe: numbers that grow over restarts, cursors, replay then live, slow readers, own events only."""

import contextlib
import json
import os
import signal
import subprocess

from machine import Instance, eventually
from varlink import Call

SUBSCRIBE = "io.sandboxd.Events.Subscribe"


def is_ready(reply):
    return reply["parameters"].get("ready") is True


def kept(instance, user, **parameters):
    """What is kept: events, and the cursor at the end."""
    replies = instance.call(user, SUBSCRIBE, {"follow": False, **parameters}, more=True)
    assert "error" not in replies[0], replies
    assert is_ready(replies[-1]) and not replies[-1].get("continues"), replies[-1]
    return [r["parameters"]["event"] for r in replies if "event" in r["parameters"]], replies[-1]["parameters"]["cursor"]


def error_of(instance, user, parameters):
    reply = instance.call(user, SUBSCRIBE, parameters, more=True)[0]
    return reply.get("error"), reply.get("parameters", {})


def kinds_of(events):
    return [e["kind"] for e in events]


def test_the_life_of_a_session(instance, either):
    _, cursor = kept(instance, either)
    before = instance.head()
    done = instance.sh(either, "curl -s -m 5 http://evil.test:81/; exit 3")
    assert done.returncode == 3
    events, _ = kept(instance, either, cursor=cursor)
    kinds = [k for k in kinds_of(events) if k != "session.warning"]
    assert kinds == ["session.created", "exec.started", "decision.denied", "exec.ended", "session.state", "session.ended",
                     "session.removed"], events
    assert len({e["session"] for e in events}) == 1 and {e["ownerUid"] for e in events} == {either.uid}
    numbers = [e["sequence"] for e in events]
    assert numbers == sorted(set(numbers))
    by_kind = {e["kind"]: e for e in events}
    row = instance.rows(before, action="connect", verdict="deny")[-1]
    denied = by_kind["decision.denied"]
    assert (denied["host"], denied["port"], denied["auditSequence"]) == ("evil.test", 81, row["seq"])
    assert denied["reason"] == row["reason"] and denied["details"]["count"] == 1
    assert by_kind["exec.ended"]["details"]["result"]["exitCode"] == 3
    assert by_kind["session.ended"]["reason"] == "exited"
    assert by_kind["exec.started"]["details"]["commandLine"][0] == "/bin/sh"


def test_rule_of_a_denial(instance, alice, make_profile):
    profile = make_profile([{"id": "no-evil", "action": "deny", "host": "evil.test", "reason": "not here"}])
    _, cursor = kept(instance, alice)
    instance.sh(alice, "curl -s -m 5 http://evil.test/", options=("-p", profile))
    denied = kept(instance, alice, cursor=cursor, kinds=["decision"])[0]
    assert len(denied) == 1
    assert (denied[0]["rule"], denied[0]["reason"], denied[0]["details"]["text"]) == ("no-evil", "rule", "not here")


def test_denials_are_bounded_and_none_is_uncounted(instance, alice):
    """A session that is denied hundreds of times makes few events, whose counts add up to the rows."""
    _, cursor = kept(instance, alice)
    before = instance.head()
    script = ("import http.client\n"
              "for i in range(300):\n"
              " c = http.client.HTTPConnection('127.0.0.1', 3128)\n"
              " c.request('GET', f'http://evil{i}.test/'); c.getresponse().read(); c.close()\n")
    done = instance.ctl(alice, "run", "-T", "-q", "--", "python3", "-c", script, cwd=alice.workspace())
    assert done.returncode == 0, done.stderr
    rows = instance.rows(before, action="request", verdict="deny") + instance.rows(before, action="connect", verdict="deny")
    assert len(rows) == 300

    def all_told():
        found = kept(instance, alice, cursor=cursor, kinds=["decision.denied"])[0]
        return found if sum(e["details"]["count"] for e in found) == 300 else None
    events = eventually(all_told, 10)
    assert events and len(events) < 200 and events[0]["details"]["count"] == 1
    assert len({e["session"] for e in events}) == 1


def test_create_tells_where_its_events_begin(instance, alice):
    made = instance.call(alice, "io.sandboxd.Session.Create", {"context": {"lifetime": "detached"}})[0]["parameters"]
    try:
        events, _ = kept(instance, alice, cursor=made["cursor"], sessions=[made["id"]])
        assert kinds_of(events)[0] == "session.created"
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", made["id"])
    command = {"commandLine": ["true"], "standardOutput": "null"}
    replies = instance.call(alice, "io.sandboxd.Session.Spawn", {"context": {}, "command": command}, more=True)
    events, _ = kept(instance, alice, cursor=replies[0]["parameters"]["cursor"], sessions=[replies[0]["parameters"]["id"]])
    assert kinds_of(events)[0] == "session.created" and "session.ended" in kinds_of(events)


def test_replay_then_ready_then_live(instance, alice):
    instance.sh(alice, "true")
    with Call(instance, alice, SUBSCRIBE, {"kinds": ["session"]}) as call:
        replay = call.until(is_ready)
        assert all(r["continues"] for r in replay)
        assert len(replay) > 3 and all(r["parameters"]["event"]["kind"].startswith("session.") for r in replay[:-1])
        session = instance.create(alice, "--name", "lively")
        live = call.until(lambda r: r["parameters"]["event"]["kind"] == "session.created")
        assert live[-1]["parameters"]["event"]["session"] == session
        assert live[-1]["parameters"]["event"]["details"]["name"] == "lively"
        instance.ctl(alice, "freeze", session)
        frozen = call.until(lambda r: r["parameters"]["event"]["kind"] == "session.state")[-1]["parameters"]
        assert frozen["event"]["state"] == "frozen"
        instance.ctl(alice, "terminate", "--grace", "0s", session)
        call.until(lambda r: r["parameters"]["event"]["kind"] == "session.ended")
        instance.ctl(alice, "remove", session)
        last = call.until(lambda r: r["parameters"]["event"]["kind"] == "session.removed")[-1]["parameters"]
    events, end = kept(instance, alice, cursor=frozen["cursor"], kinds=["session"])
    assert kinds_of(events) == ["session.state", "session.ended", "session.removed"]
    assert events[-1] == last["event"] and kept(instance, alice, cursor=end)[0] == []


def test_filters(instance, alice):
    _, cursor = kept(instance, alice)
    one, two = instance.create(alice, "--name", "first"), instance.create(alice)
    try:
        assert {e["session"] for e in kept(instance, alice, cursor=cursor, sessions=["first"])[0]} == {one}
        assert {e["session"] for e in kept(instance, alice, cursor=cursor, sessions=[one, two])[0]} == {one, two}
        assert kept(instance, alice, cursor=cursor, sessions=[])[0] == []
        assert kept(instance, alice, cursor=cursor, sessions=["0" * 32])[0] == []
        assert set(kinds_of(kept(instance, alice, kinds=["session.created", "exec"])[0])) <= \
            {"session.created", "exec.started", "exec.ended"}
        assert kept(instance, alice, kinds=["sess"])[0] == []
        assert error_of(instance, alice, {"kinds": ["x"] * 65})[1] == {"parameter": "kinds"}
    finally:
        instance.ctl(alice, "terminate", "--all", "--grace", "0s")


def test_own_events_only(instance, alice, bob, root):
    _, cursor = kept(instance, bob)
    _, roots = kept(instance, root)
    instance.sh(alice, "true")
    assert kept(instance, bob, cursor=cursor)[0] == [] and kept(instance, root, cursor=roots)[0] == []
    assert error_of(instance, alice, {"allUsers": True})[0] == "org.varlink.service.PermissionDenied"


def test_cursors_that_are_none(own_instance, alice):
    instance = own_instance
    instance.sh(alice, "true")
    state = instance.call(alice, "io.sandboxd.Manager.Describe")[0]["parameters"]["stateId"]
    _, good = kept(instance, alice)
    assert good.startswith(state + ".")
    number = int(good.split(".")[1])
    for bad in ("", "x", state, state + ".", state + ".x", "0" * 32 + f".{number}", f"{state}.{number + 10**12}",
                f"{state}.0{number}", good + " ", f"{state}.-1", f"{state}.{2**64}"):
        assert error_of(instance, alice, {"cursor": bad})[0] == "io.sandboxd.Events.InvalidCursor", bad
    assert "ExpectedMore" in instance.call(alice, SUBSCRIBE, {})[0]["error"]


def test_numbers_and_events_survive_restarts(own_instance, alice):
    instance = own_instance
    _, first = kept(instance, alice)
    instance.sh(alice, "true")
    events, cursor = kept(instance, alice)
    assert instance.stop() == 0
    instance.start()
    again, same = kept(instance, alice)
    assert again == events and same == cursor
    instance.sh(alice, "exit 2")
    new, _ = kept(instance, alice, cursor=cursor)
    assert new[0]["sequence"] > events[-1]["sequence"] and "exec.ended" in kinds_of(new)
    assert kept(instance, alice, cursor=first)[0] == events + new
    # The worker alone, killed.
    for pid in instance.workers("sandboxd-api"):
        os.kill(pid, signal.SIGKILL)
    after = eventually(lambda: (instance.call(alice, SUBSCRIBE, {"follow": False}, more=True) or None), 10)
    assert [r["parameters"]["event"] for r in after if "event" in r["parameters"]] == events + new


def test_a_session_that_the_daemon_took_along_ends_in_the_events(own_instance, alice):
    instance = own_instance
    over, session = instance.create(alice), instance.create(alice)
    lives = instance.call(alice, "io.sandboxd.Session.Create", {"context": {"lifetime": "detached"}})[0]["parameters"]["id"]
    assert instance.ctl(alice, "terminate", "--grace", "0s", over).returncode == 0
    _, cursor = kept(instance, alice)
    instance.process.kill()
    instance.process.wait()
    instance.restart_if_dead()
    events, _ = kept(instance, alice, cursor=cursor)
    ends = {e["session"]: e.get("reason") for e in events if e["kind"] == "session.ended"}
    assert ends == {session: "daemon-restart", lives: "daemon-restart"}, events
    listed = {r.get("parameters", {}).get("id") for r in instance.call(alice, "io.sandboxd.Session.List", {}, more=True)}
    removed = {e["session"] for e in events if e["kind"] == "session.removed"}
    assert removed == {over, session, lives} - listed
    assert kept(instance, alice, cursor=kept(instance, alice)[1])[0] == []


def flood(instance, user, n):
    """n events at least: two of each command."""
    session = instance.create(user)
    script = ("import json,socket,sys\n"
              "s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);f=s.makefile('rb')\n"
              "b=b''\n"
              "for i in range(int(sys.argv[3])):\n"
              " m={'method':'io.sandboxd.Session.Exec','parameters':{'id':sys.argv[2],'command':"
              "{'commandLine':['true'],'standardOutput':'null'}},'more':True}\n"
              " s.sendall(json.dumps(m).encode()+b'\\0')\n"
              " while True:\n"
              "  while b'\\0' not in b: b+=s.recv(65536)\n"
              "  r,_,b=b.partition(b'\\0')\n"
              "  if b'\"continues\":true' not in r: break\n")
    done = user.run(["/usr/bin/python3", "-c", script, instance.socket, session, str(n // 2 + 1)], timeout=240)
    assert done.returncode == 0, done.stderr
    instance.ctl(user, "terminate", "--grace", "0s", session)


def test_what_is_not_kept_is_known_to_be_lost(own_instance, alice):
    """Old cursors expire, a slow reader is told how many events it missed, and both hold after a restart."""
    instance = own_instance
    instance.sh(alice, "true")
    events, old = kept(instance, alice)
    with Call(instance, alice, SUBSCRIBE, {}) as slow:
        slow.until(is_ready)
        os.kill(slow.child.pid, signal.SIGSTOP)
        flood(instance, alice, 2600)
        error, parameters = error_of(instance, alice, {"cursor": old})
        assert error == "io.sandboxd.Events.CursorExpired"
        from_oldest, end = kept(instance, alice, cursor=parameters["oldestCursor"])
        assert 900 < len(from_oldest) <= 1024 and kept(instance, alice)[0] == from_oldest
        os.kill(slow.child.pid, signal.SIGCONT)
        replies = slow.until(lambda r: r["parameters"].get("cursor") == end)
        gaps = [r["parameters"]["dropped"] for r in replies if r["parameters"].get("gap")]
        seen = [r["parameters"]["event"]["sequence"] for r in replies if "event" in r["parameters"]]
        assert gaps and sum(gaps) + len(seen) >= 2600 and seen == sorted(set(seen))
        assert len(gaps) < 5
    assert instance.stop() == 0
    instance.start()
    assert error_of(instance, alice, {"cursor": old})[0] == "io.sandboxd.Events.CursorExpired"
    again, _ = kept(instance, alice)
    assert again == from_oldest[len(from_oldest) - len(again):] and len(again) > 300


def test_a_damaged_file_is_no_lie(own_instance, alice):
    instance = own_instance
    instance.sh(alice, "true")
    events, cursor = kept(instance, alice)
    assert instance.stop() == 0
    folder = os.path.join(instance.state, "api", str(alice.uid))
    path = max((os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("events-")), key=os.path.getsize)
    with open(path, "ab") as f:
        f.write(b"1795 session.ended")
    instance.start()
    assert kept(instance, alice)[0] == events
    instance.sh(alice, "true")
    new = kept(instance, alice, cursor=cursor)[0]
    assert instance.stop() == 0
    instance.start()
    assert kept(instance, alice, cursor=cursor)[0] == new and new
    assert instance.stop() == 0
    with open(path, "wb") as f:
        f.write(os.urandom(5000))
    instance.start()
    instance.sh(alice, "true")
    assert kept(instance, alice)[0]


def test_limits_that_are_reached(settings, alice):
    with Instance(settings={**settings, "limits": {"sessions_per_user": 1}}) as instance:
        instance.create(alice)
        for _ in range(3):
            assert instance.ctl(alice, "run", "-T", "--", "true", cwd=alice.workspace()).returncode == 125
        reached = kept(instance, alice, kinds=["limit"])[0]
        assert 1 <= len(reached) <= 3 and reached[0]["kind"] == "limit.reached"
        assert (reached[0]["reason"], reached[0]["details"]["limit"]) == ("sessions", 1)


def test_the_verb(instance, alice):
    instance.sh(alice, "curl -s -m 5 http://evil.test/")
    text = instance.ctl(alice, "events", "--kind", "decision").stdout
    assert "evil.test:80" in text.splitlines()[-1] and "decision.denied" in text
    lines = [json.loads(line) for line in instance.ctl(alice, "events", "--json").stdout.splitlines()]
    assert lines[-1]["ready"] and lines[0]["event"]["sequence"]
    follower = instance.ctl_start(alice, "events", "-f", "--json", "--cursor", lines[-1]["cursor"], stdout=-1, text=True)
    try:
        assert json.loads(follower.stdout.readline())["ready"]
        instance.sh(alice, "true")
        assert json.loads(follower.stdout.readline())["event"]["kind"] == "session.created"
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()
    bad = instance.ctl(alice, "events", "--cursor", "x")
    assert bad.returncode == 125 and bad.stderr.count("\n") == 1, bad


def test_rows_that_are_missing_are_an_event(own_instance, alice, root):
    """A log folder that is full: denied without a row, and a gap when it has room again. How many rows, those hear
    who may read everybody's."""
    instance = own_instance
    assert instance.stop() == 0
    audit = os.path.join(instance.state, "audit")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", audit], check=True)
    try:
        instance.start()
        session = instance.create(alice)
        _, cursor = kept(instance, alice)
        _, roots = kept(instance, root)
        asking = instance.ctl_start(alice, "exec", "-q", session, "--", "sh", "-c",
                                    "while :; do curl -s -m 5 http://evil.test/ >/dev/null; done")
        ballast = os.path.join(audit, "ballast")

        def unrecorded():
            with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as f:
                while f.write(b"x" * 4096):
                    pass
            return [e for e in kept(instance, alice, cursor=cursor, kinds=["decision"])[0] if "auditSequence" not in e]
        found = eventually(unrecorded, 90, 0.2)
        asking.kill()
        asking.wait()
        assert found and {e["reason"] for e in found} == {"audit"}
        os.unlink(ballast)
        gap = eventually(lambda: kept(instance, alice, cursor=cursor, kinds=["audit.gap"])[0], 30)
        assert gap and "rows" not in gap[0]["details"] and gap[0]["details"]["firstAtUSec"] <= gap[0]["details"]["lastAtUSec"]
        assert kept(instance, root, cursor=roots, kinds=["audit"])[0][0]["details"]["rows"] >= 1
    finally:
        instance.stop()
        subprocess.run(["umount", "-l", audit], check=False)
