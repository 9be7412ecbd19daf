"""Names and labels of sessions, who their client is, and whose verbs end them."""

import os

import pytest

from machine import eventually
from sessions import SESSION, command, context, create, describe, result, start, state, wait
from varlink import Connection

SECOND = 1000000


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
