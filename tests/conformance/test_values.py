"""What values mean where the texts leave it open: absent and null, names, lengths, the last reply. D14: keys of policy."""

import json
import os

import pytest

INVALID = "org.varlink.service.InvalidParameter"


def replies_of(c, method, parameters=None):
    c.send_call(method, parameters, more=True)
    found = [c.receive()]
    while found[-1].get("continues"):
        found.append(c.receive())
    return found


def test_null_is_as_absent(connect, alice):
    c = connect(alice)
    assert replies_of(c, "io.sandboxd.Session.List") == replies_of(c, "io.sandboxd.Session.List", {
        "states": None, "labels": None, "allUsers": None})
    made = c.call("io.sandboxd.Session.Create", {"context": {"name": None, "labels": None, "limits": None, "mounts": None},
                                                 "requestId": None})
    assert "error" not in made, made
    assert "error" not in c.call("io.sandboxd.Session.Terminate", {"id": made["parameters"]["id"], "all": None, "graceUSec": 0})


def test_empty_is_not_null(connect, alice):
    """No state at all is a filter that nothing passes, or an error: never all sessions."""
    c = connect(alice)
    assert "error" not in c.call("io.sandboxd.Session.Create", {"context": {"name": "empty"}})
    replies = replies_of(c, "io.sandboxd.Session.List", {"states": []})
    assert "error" in replies[-1] or len(replies) == 1, replies
    replies = replies_of(c, "io.sandboxd.Audit.Query", {"kinds": [], "limit": 5})
    assert "error" in replies[-1] or len(replies) == 1, replies


def test_the_last_reply_carries_nothing(connect, alice):
    c = connect(alice)
    assert "error" not in c.call("io.sandboxd.Session.Create", {"context": {"name": "listed"}})
    replies = replies_of(c, "io.sandboxd.Session.List")
    assert len(replies) >= 2 and not replies[-1].get("parameters")
    assert all(reply["continues"] and reply["parameters"] for reply in replies[:-1])


def test_lifetime_null_is_connection(connect, alice):
    from machine import eventually
    c, other = connect(alice), connect(alice)
    for name, context in (("life-absent", {}), ("life-null", {"lifetime": None})):
        assert "error" not in c.call("io.sandboxd.Session.Create", {"context": {"name": name, **context}})

    def is_over(name):
        reply = other.call("io.sandboxd.Session.Describe", {"id": name})
        return "error" in reply or reply["parameters"]["runtime"]["state"] in ("exited", "failed")
    assert not is_over("life-absent") and not is_over("life-null")
    c.close()
    assert eventually(lambda: is_over("life-absent") and is_over("life-null"), 30)


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "_a", "a b", "a/b", "../a", ".", "..", "a\n", "\u00e4", "a" * 64, "0" * 32,
                                  "deadbeef" * 4, "a\u0001", "a%s", "a;b"])
def test_names_of_sessions(connect, alice, name):
    assert connect(alice).call("io.sandboxd.Session.Create", {"context": {"name": name}}) == {
        "error": INVALID, "parameters": {"parameter": "context.name"}}


def test_names_that_are_good(connect, alice):
    c = connect(alice)
    for name in ("a", "0", "a.b-c_d", "9" * 63, "deadbeef" * 3, "g" * 32):
        made = c.call("io.sandboxd.Session.Create", {"context": {"name": name}})
        assert "error" not in made, (name, made)
        assert "error" not in c.call("io.sandboxd.Session.Terminate", {"id": name, "graceUSec": 0})
        assert "error" not in c.call("io.sandboxd.Session.Remove", {"id": name})


def test_policy_texts_are_as_long_as_a_message(connect):
    """Other strings end at 64 KiB."""
    text = '{"version":1,"name":"x"}' + " " * 200000
    reply = connect().call("io.sandboxd.Policy.Validate", {"content": text})
    assert reply["parameters"] == {"valid": True, "diagnostics": []}


def test_longer_policy_texts_come_by_descriptor(connect):
    for size, is_taken in ((1_000_000, True), (17_000_000, False)):
        fd = os.memfd_create("policy", os.MFD_CLOEXEC)
        os.write(fd, b'{"version":1,"name":"x"}')
        os.lseek(fd, 0, os.SEEK_END)
        os.write(fd, b" " * size)
        os.lseek(fd, 0, os.SEEK_SET)
        reply = connect().call("io.sandboxd.Policy.Validate", {"contentFileDescriptor": 0}, [fd])
        os.close(fd)
        assert reply is not None
        assert ("error" not in reply and reply["parameters"]["valid"]) == is_taken, str(reply)[:300]


POLICY = {"version": 1, "name": "x", "filesystem": {"read": ["/opt"]},
          "network": {"default": "deny", "rules": [{"id": "a", "action": "allow", "host": "a.example", "ports": [443]}]},
          "limits": {"tasks": 100}, "environment": {"pass": ["LANG"], "set": {"CI": "1"}}, "ask": {"timeout": "25s"}}
PLACES = [(), ("filesystem",), ("network",), ("network", "rules", 0), ("limits",), ("environment",), ("ask",)]


def test_the_policy_itself_is_valid(connect):
    reply = connect().call("io.sandboxd.Policy.Validate", {"content": json.dumps(POLICY)})
    assert reply["parameters"]["valid"], reply


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)) or "top")
@pytest.mark.parametrize("value", [None, True, {}, []], ids=json.dumps)
def test_D14_unknown_keys_of_policy(connect, place, value):
    """A misspelt restriction is an error that names it, with its line."""
    policy = json.loads(json.dumps(POLICY))
    inner = policy
    for key in place:
        inner = inner[key]
    inner["zzUnknown"] = value
    reply = connect().call("io.sandboxd.Policy.Validate", {"content": json.dumps(policy, indent=1)})["parameters"]
    assert not reply["valid"]
    found = [d for d in reply["diagnostics"] if d["severity"] == "failure" and d["key"].endswith("zzUnknown")]
    assert found and found[0]["line"] > 1, reply


@pytest.mark.parametrize("version", [0, 2, -1, 1.0, "1", None, 2 ** 63, 10 ** 30])
def test_D14_versions_of_policy(connect, version):
    content = json.dumps({"version": version, "name": "x"})
    assert not connect().call("io.sandboxd.Policy.Validate", {"content": content})["parameters"]["valid"]
    assert not connect().call("io.sandboxd.Policy.Validate", {"content": '{"name":"x"}'})["parameters"]["valid"]


@pytest.mark.parametrize("kind, keys", [("ports", [0, -1, 65536, 2 ** 32 + 80, "0", "80-79", "1-65536", 80.5, "0x50", " 80"]),
                                        ("tasks", [0, -1, 2 ** 63, 1.5, "many", "1e3"]),
                                        ("memory", ["0", "-1G", "17179869184G", "1X", "", "1e9", "G", "9" * 40])])
def test_D13_numbers_of_policy(connect, kind, keys):
    c = connect()
    for value in keys:
        policy = json.loads(json.dumps(POLICY))
        if kind == "ports":
            policy["network"]["rules"][0]["ports"] = [value]
        else:
            policy["limits"][kind] = value
        reply = c.call("io.sandboxd.Policy.Validate", {"content": json.dumps(policy)})["parameters"]
        assert not reply["valid"], (kind, value)
