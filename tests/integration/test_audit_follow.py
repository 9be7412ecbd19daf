"""Audit.Query with follow: history, ready, then rows as they are committed; in order, none lost, none twice."""

import json
import os
import signal


from machine import Instance, eventually
from varlink import Call

QUERY = "io.sandboxd.Audit.Query"


def is_ready(reply):
    return reply["parameters"].get("ready") is True


def sequences(replies):
    return [r["parameters"]["record"]["sequence"] for r in replies if "record" in r["parameters"]]


def history(instance, user, **filters):
    replies = instance.call(user, QUERY, filters, more=True)
    assert is_ready(replies[-1]), replies[-1]
    return sequences(replies)


def followers(instance):
    """Readers are grandchildren of the audit writer."""
    return len(instance.workers("sandboxd-audit"))


def test_history_then_ready_then_live(instance, either):
    instance.sh(either, "true")
    with Call(instance, either, QUERY, {"follow": True, "uid": either.uid}) as call:
        old = call.until(is_ready)
        assert all(r["continues"] for r in old) and sequences(old)[:-1]
        assert sequences(old) == history(instance, either, uid=either.uid)
        for code in range(3):
            instance.sh(either, f"exit {code}")
            live = call.until(lambda r: r["parameters"]["record"]["action"] == "end")
            actions = [r["parameters"]["record"]["action"] for r in live]
            assert actions[0] in ("start", "load") and actions[-1] == "end" and "exit" in actions
            assert [r["parameters"]["record"]["status"] for r in live if r["parameters"]["record"]["action"] == "exit"] == [code]


def test_no_row_is_lost_or_doubled_at_the_switch(instance, alice):
    """Rows are written all the time, at the moment of the switch, too."""
    busy = instance.ctl_start(alice, "run", "-T", "-q", "--", "python3", "-c",
                              "import http.client\n"
                              "for i in range(1500):\n"
                              " c = http.client.HTTPConnection('127.0.0.1', 3128)\n"
                              " c.request('GET', f'http://evil{i}.test/'); c.getresponse().read(); c.close()\n",
                              cwd=alice.workspace())
    calls = []
    try:
        for _ in range(4):
            call = Call(instance, alice, QUERY, {"follow": True, "kinds": ["net", "session"]})
            calls.append((call, call.until(is_ready)))
        assert busy.wait(120) == 0
        expected = []

        def is_over():
            expected[:] = history(instance, alice, kinds=["net", "session"])
            return len(expected) > 1500
        assert eventually(is_over, 20)
        for call, replies in calls:
            found = sequences(replies + call.until(lambda r: r["parameters"]["record"]["sequence"] == expected[-1]))
            assert found == expected
        assert any(len(sequences(replies)) < len(expected) for _, replies in calls)
    finally:
        busy.kill()
        busy.wait()
        for call, _ in calls:
            call.close()


def test_filters_hold_for_what_comes(instance, alice, bob, root):
    before = instance.head()
    with Call(instance, alice, QUERY, {"follow": True, "afterSequence": before, "decisions": ["deny"], "host": "*.evil.test"}) as denied, \
            Call(instance, bob, QUERY, {"follow": True, "afterSequence": before}) as theirs, \
            Call(instance, root, QUERY, {"follow": True, "afterSequence": before}) as everybodys:
        assert sequences(denied.until(is_ready)) == []
        theirs.until(is_ready)
        everybodys.until(is_ready)
        instance.sh(alice, "curl -s -m 5 http://other.test/; curl -s -m 5 http://x.evil.test/")
        record = denied.next()["parameters"]["record"]
        assert (record["host"], record["decision"]) == ("x.evil.test", "deny")
        instance.sh(bob, "exit 9")
        own = theirs.until(lambda r: r["parameters"]["record"]["action"] == "end")
        assert {r["parameters"]["record"]["uid"] for r in own} == {bob.uid}
        seen = everybodys.until(lambda r: r["parameters"]["record"]["sequence"] >= sequences(own)[-1])
        assert set(sequences(own)) <= set(sequences(seen)) and record["sequence"] in sequences(seen)
        assert sequences(seen) == sorted(set(sequences(seen)))
    # One look at others' rows is one row, however long it lasts.
    reads = [r for r in instance.rows(before, action="read") if r["uid"] == 0]
    assert len(reads) == 1 and json.loads(reads[0]["detail"])["follow"] is True


def test_newest_then_follow(instance, alice):
    instance.sh(alice, "true")
    with Call(instance, alice, QUERY, {"follow": True, "limit": 2}) as call:
        assert len(sequences(call.until(is_ready))) == 2
        instance.sh(alice, "true")
        assert call.next()["parameters"]["record"]["sequence"]


def test_over_segments(settings, alice):
    """The log goes on in a new file, the follower with it; what was retired before it was asked for is said."""
    with Instance(settings={**settings, "audit": {"segment_size": "1M"}}) as instance:
        with Call(instance, alice, QUERY, {"follow": True}) as call:
            replies = call.until(is_ready)
            session = instance.create(alice)
            while len(instance.segments()) < 3:
                done = instance.ctl(alice, "exec", session, "--", "true", *["x" * 60000])
                assert done.returncode == 0, done.stderr
            instance.ctl(alice, "terminate", "--grace", "0s", session)

            def end():
                newest = instance.call(alice, QUERY, {"kinds": ["session"], "limit": 1}, more=True)[0]["parameters"]["record"]
                return newest["sequence"] if newest["action"] == "end" else None
            last = eventually(end, 10)
            replies += call.until(lambda r: r["parameters"]["record"]["sequence"] == last)
        assert sequences(replies) == history(instance, alice)
        instance.stop()
        os.unlink(instance.segments()[0])
        instance.start()
        answer = instance.call(alice, QUERY, {"afterSequence": 1}, more=True)[0]
        assert answer["error"] == "io.sandboxd.Audit.NoSuchSequence" and answer["parameters"]["oldestSequence"] > 2
        oldest = answer["parameters"]["oldestSequence"]
        assert "error" not in instance.call(alice, QUERY, {"afterSequence": oldest - 1}, more=True)[0]


def test_a_reader_ends_with_its_client(instance, alice):
    before = followers(instance)
    calls = [Call(instance, alice, QUERY, {"follow": True, "limit": 1}) for _ in range(3)]
    for call in calls:
        call.until(is_ready)
    assert followers(instance) == before + 3
    for call in calls:
        call.close()
    assert eventually(lambda: followers(instance) == before, 20)


def test_a_slow_reader_holds_up_nobody_and_misses_nothing(instance, alice, bob):
    with Call(instance, alice, QUERY, {"follow": True}) as slow:
        slow.until(is_ready)
        os.kill(slow.child.pid, signal.SIGSTOP)
        first = instance.head()
        session = instance.create(alice)
        for _ in range(60):
            assert instance.ctl(alice, "exec", session, "--", "true", "y" * 50000).returncode == 0
        instance.ctl(alice, "terminate", "--grace", "0s", session)
        assert instance.sh(bob, "exit 3").returncode == 3
        expected = [s for s in history(instance, alice) if s > first]
        os.kill(slow.child.pid, signal.SIGCONT)
        found = sequences(slow.until(lambda r: r["parameters"]["record"]["sequence"] == expected[-1]))
        assert [s for s in found if s > first] == expected


def test_when_audit_goes_the_call_ends(own_instance, alice):
    with Call(own_instance, alice, QUERY, {"follow": True}) as call:
        call.until(is_ready)
        # The first is the writer; with it, the first of its pid namespace, go the others.
        os.kill(own_instance.workers("sandboxd-audit")[0], signal.SIGKILL)
        last = call.until(lambda r: "error" in r)[-1]
        assert last["error"] == "io.sandboxd.Audit.LogUnavailable"
    assert eventually(lambda: own_instance.sh(alice, "exit 4").returncode == 4, 20)


def test_the_verb(instance, alice):
    follower = instance.ctl_start(alice, "audit", "log", "-f", "-n", "1", "--json", stdout=-1, text=True)
    try:
        first = json.loads(follower.stdout.readline())
        instance.sh(alice, "true")
        second = json.loads(follower.stdout.readline())
        assert second["sequence"] > first["sequence"]
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()
