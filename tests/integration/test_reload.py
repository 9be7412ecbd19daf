"""Settings and profiles loaded anew while the daemon runs: all or nothing, with a row before they count."""

import contextlib
import grp
import json
import os
import signal
import subprocess
import threading

import pytest

import machine
import stubs
from machine import Instance, eventually

RELOAD = "io.sandboxd.Policy.Reload"
DENIED = "org.varlink.service.PermissionDenied"
INVALID = "io.sandboxd.Policy.InvalidPolicy"


def reload(instance, user, method=RELOAD, timeout=90):
    """(error, parameters) of one call."""
    data = instance.raw_call(user, json.dumps({"method": method}).encode() + b"\0", timeout=timeout)
    reply = json.loads(data.split(b"\0")[0])
    return reply.get("error"), reply.get("parameters", {})


def describe(instance, user):
    return instance.call(user, "io.sandboxd.Manager.Describe")[0]["parameters"]


def generation(instance, user):
    return describe(instance, user)["policyGeneration"]


def loads(instance):
    """(verdict, reason, detail) of the rows about loads."""
    return [(r["verdict"], r["reason"], r["detail"]) for r in instance.rows(kind="policy", action="reload")]


def write_profile(instance, name, content):
    folder = os.path.join(instance.config, "policies")
    os.makedirs(folder, mode=0o755, exist_ok=True)
    instance.write_config(f"policies/{name}.json", content)
    return os.path.join(folder, name + ".json")


@pytest.fixture
def admin(bob):
    """bob as a member of sandboxd-admins; the group is made where the machine has none."""
    try:
        group = grp.getgrnam("sandboxd-admins")
        is_made = False
    except KeyError:
        subprocess.run(["groupadd", "--system", "sandboxd-admins"], check=True)
        group, is_made = grp.getgrnam("sandboxd-admins"), True
    user = machine.User(bob.name)
    user.groups = [*bob.groups, group.gr_gid]
    yield user
    if is_made:
        subprocess.run(["groupdel", "sandboxd-admins"], check=True)


@pytest.fixture
def grouped(admin, settings):
    """A daemon that was started when the group existed."""
    assert admin.uid
    with Instance(settings=settings) as instance:
        yield instance


def test_a_quota_that_then_holds(own_instance, settings, alice, root):
    instance = own_instance
    before = generation(instance, alice)
    first = instance.create(alice)
    second = instance.create(alice)
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 2}})
    third = instance.create(alice)
    error, reply = reload(instance, root)
    assert error is None, reply
    assert reply == {"generation": before + 1, "changed": True, "closedConnections": 0, "diagnostics": []}
    assert describe(instance, alice)["sessionsPerUserMax"] == 2 and generation(instance, alice) == before + 1
    refused = instance.ctl(alice, "create", cwd=alice.workspace())
    assert refused.returncode == 125 and "too many sessions" in refused.stderr
    # What runs goes on, under its own policy.
    assert instance.ctl(alice, "exec", first, "--", "echo", "on").stdout == "on\n"
    for session in (second, third):
        instance.ctl(alice, "terminate", "--grace", "0s", session)
    assert instance.sh(alice, "true").returncode == 0
    # The same again is no change.
    assert reload(instance, root)[1]["changed"] is False
    assert generation(instance, alice) == before + 1
    details = [json.loads(detail) for verdict, _, detail in loads(instance) if verdict is None]
    assert [(d["generation"], d["changed"]) for d in details] == [(before + 1, True), (before + 1, False)]
    assert [r["uid"] for r in instance.rows(action="reload")] == [0, 0]


def test_what_the_kernel_must_prevent(own_instance, settings, alice, root):
    """Where nothing but the kernel's own refusal is good enough, no session starts without it."""
    instance = own_instance
    checks = [json.loads(line) for line in instance.ctl(alice, "doctor", "--json").stdout.splitlines()]
    prevents = {check["name"]: check["state"] for check in checks}["bpf-lsm"] == "ok"
    running = instance.create(alice)
    for wanted, starts in (("prevent", prevents), ("any", True)):
        instance.write_config("sandboxd.json", {**settings, "sessions": {**settings.get("sessions", {}), "protect": wanted}})
        assert reload(instance, root)[0] is None
        done = instance.ctl(alice, "run", "-T", "-q", "--", "echo", "started", cwd=alice.workspace())
        assert (done.returncode, done.stdout) == ((0, "started\n") if starts else (125, "")), done.stderr
        assert starts or "sessions.protect" in done.stderr
        assert instance.ctl(alice, "exec", running, "--", "echo", "on").stdout == "on\n"
    instance.write_config("sandboxd.json", {**settings, "sessions": {"protect": "always"}})
    assert reload(instance, root)[0] is not None


def test_the_row_is_there_before_it_counts(own_instance, settings, alice, root):
    """Whoever sees the new value finds the row, from the moment on that it can be seen."""
    seen = []
    done = threading.Event()

    def look():
        while not done.is_set() and not seen:
            if describe(own_instance, alice)["sessionsPerUserMax"] == 7:
                seen.append(len(loads(own_instance)))

    own_instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 7}})
    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert reload(own_instance, root)[0] is None
        assert eventually(lambda: seen, 30)
    finally:
        done.set()
        thread.join()
    assert seen == [1]


def test_a_resolver_that_is_then_asked(own_instance, web, make_profile, allow_rule, alice, root):
    other = stubs.DnsStub({"new.test": ["127.0.0.1"]})
    profile = make_profile([allow_rule("new.test", web.server_port)])
    script = f"curl -s -o /dev/null -w '%{{http_code}}' http://new.test:{web.server_port}/"
    session = own_instance.create(alice, "-p", profile)
    try:
        assert own_instance.ctl(alice, "exec", session, "--", "sh", "-c", script).stdout == "502"
        own_instance.write_config("sandboxd.json", {"resolver": {"servers": [f"127.0.0.1:{other.port}"]}})
        assert reload(own_instance, root)[0] is None
        # A session that runs already, too.
        answer = eventually(lambda: own_instance.ctl(alice, "exec", session, "--", "sh", "-c", script).stdout == "200"
                            or None, 30)
        assert answer, own_instance.log_text()[-2000:]
    finally:
        other.close()


def test_the_log_by_its_new_sizes(own_instance, settings, alice, root):
    """Audit, too, goes by them at once: the quota of rows is hers."""
    instance = own_instance
    text = {**settings, "limits": {"rows_per_second": 1}, "audit": {"segment_size": "2M", "retention_size": "64M"}}
    instance.write_config("sandboxd.json", text)
    assert reload(instance, root)[0] is None
    failed = False
    for _ in range(40):
        failed = failed or instance.sh(alice, "true").returncode != 0
    assert failed and eventually(lambda: instance.rows(kind="limit", reason="rows"), 10)
    instance.write_config("sandboxd.json", settings)
    assert reload(instance, root)[0] is None
    assert eventually(lambda: instance.sh(alice, "true").returncode == 0, 20)


def test_profiles_count_from_the_reload_on(own_instance, alice, root):
    instance = own_instance
    mine = {"version": 1, "name": "mine", "extends": ["base"], "environment": {"set": {"CANARY": "one"}}}
    path = write_profile(instance, "mine", mine)
    assert "no profile" in instance.ctl(alice, "run", "-p", "mine", "--", "true", cwd=alice.workspace()).stderr
    assert reload(instance, root)[1]["changed"] is True
    assert instance.sh(alice, "echo $CANARY", options=("-p", "mine")).stdout == "one\n"
    running = instance.create(alice, "-p", "mine")
    mine["environment"]["set"]["CANARY"] = "two"
    write_profile(instance, "mine", mine)
    assert instance.sh(alice, "echo $CANARY", options=("-p", "mine")).stdout == "one\n"
    listed = instance.call(alice, "io.sandboxd.Policy.Describe")[0]["parameters"]
    assert path in listed["files"] and listed["generation"] == 2
    assert reload(instance, root)[0] is None
    again = instance.call(alice, "io.sandboxd.Policy.Describe")[0]["parameters"]
    assert again["generation"] == 3 and again["digest"] != listed["digest"]
    assert instance.sh(alice, "echo $CANARY", options=("-p", "mine")).stdout == "two\n"
    assert instance.ctl(alice, "exec", running, "--", "sh", "-c", "echo $CANARY").stdout == "one\n"
    rows = {r["generation"] for r in instance.rows(kind="session", action="start")}
    assert rows == {2, 3}
    os.unlink(path)
    assert reload(instance, root)[1]["changed"] is True
    assert "no profile" in instance.ctl(alice, "run", "-p", "mine", "--", "true", cwd=alice.workspace()).stderr


@pytest.mark.parametrize("broken, line, column, key, word", [
    ("{\n  \"limits\": {\n    \"sessions_per_user\": \"many\" } }", 3, 26, "limits.sessions_per_user", "expected"),
    ("{\n\n", 3, 1, None, ""),
    ('{"state_dir": "/elsewhere"}', 1, 15, "state_dir", ""),
    ('{"sessions": {"root_uid": 1234}}', 1, 27, "sessions.root_uid", "restart"),
], ids=["wrong type", "no JSON", "unknown key", "not while it runs"])
def test_invalid_settings(own_instance, alice, root, broken, line, column, key, word):
    instance = own_instance
    before = describe(instance, alice)
    instance.write_config("sandboxd.json", broken)
    error, reply = reload(instance, root)
    assert error == INVALID and reply["generation"] == before["policyGeneration"]
    (found,) = reply["diagnostics"][:1]
    assert (found["file"], found["line"], found["severity"]) == ("sandboxd.json", line, "failure"), found
    assert found.get("key") == key and word in found["message"] and found["column"] == column, found
    told = instance.ctl(root, "policy", "reload")
    assert told.returncode == 125 and f"sandboxd.json:{line}:{column}: " in told.stderr and told.stdout == ""
    assert f"sandboxd.json:{line}:{column}: " in instance.log_text() and "old ones stay" in instance.log_text()
    after = describe(instance, alice)
    assert after["sessionsPerUserMax"] == 256 and after["policyGeneration"] == before["policyGeneration"]
    assert instance.sh(alice, "true").returncode == 0
    assert eventually(lambda: len(loads(instance)) == 2, 10)
    assert all(verdict == "deny" and reason == "invalid" and f"sandboxd.json:{line}:{column}: " in detail
               for verdict, reason, detail in loads(instance))


def test_one_broken_profile_and_nothing_counts(own_instance, settings, alice, root):
    instance = own_instance
    path = write_profile(instance, "broken", '{"version": 1,\n "name": "broken", "extends": ["nowhere"]}')
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 3}})
    error, reply = reload(instance, root)
    assert error == INVALID and reply["diagnostics"][0]["file"] == path, reply
    assert describe(instance, alice)["sessionsPerUserMax"] == 256
    write_profile(instance, "broken", {"version": 1, "name": "broken", "extends": ["base"]})
    os.chmod(path, 0o666)
    error, reply = reload(instance, root)
    assert error == INVALID and "writable by others" in reply["diagnostics"][0]["message"]
    os.chmod(path, 0o644)
    assert reload(instance, root)[0] is None and describe(instance, alice)["sessionsPerUserMax"] == 3


def test_who_may(grouped, settings, alice, admin):
    instance = grouped
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 5}})
    assert reload(instance, alice) == (DENIED, {})
    assert describe(instance, alice)["sessionsPerUserMax"] == 256
    told = instance.ctl(alice, "policy", "reload")
    assert told.returncode == 125 and "sandboxd-admins" in told.stderr
    assert eventually(lambda: len(loads(instance)) == 2, 10)
    assert [(r["verdict"], r["reason"], r["uid"]) for r in instance.rows(action="reload")] \
        == [("deny", "not-permitted", alice.uid)] * 2
    # The service's own method is root's, the policy's the administrators', too.
    assert reload(instance, admin, "io.systemd.service.Reload")[0] == DENIED
    assert describe(instance, alice)["sessionsPerUserMax"] == 256
    assert reload(instance, admin)[0] is None
    assert instance.rows(action="reload", verdict=None)[-1]["uid"] == admin.uid
    assert describe(instance, alice)["sessionsPerUserMax"] == 5


def test_the_command_line(own_instance, settings, alice, root):
    instance = own_instance
    assert instance.ctl(root, "policy", "reload").stdout == "generation 1: nothing has changed\n"
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 9}})
    shown = json.loads(instance.ctl(root, "policy", "reload", "--json").stdout)
    assert shown == {"generation": 2, "changed": True, "closedConnections": 0, "diagnostics": []}
    instance.write_config("sandboxd.json", settings)
    assert instance.ctl(root, "policy", "reload").stdout == "generation 3\n"
    assert "takes no argument" in instance.ctl(root, "policy", "reload", "x").stderr


def test_everybody_hears_of_it(own_instance, settings, alice, bob, root):
    for user in (alice, bob):
        describe(own_instance, user)
    own_instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 9}})
    assert reload(own_instance, root)[0] is None
    assert reload(own_instance, root)[1]["changed"] is False
    for user in (alice, bob):
        found = own_instance.call(user, "io.sandboxd.Events.Subscribe", {"follow": False}, more=True)
        events = [r["parameters"]["event"] for r in found if "event" in r["parameters"]]
        assert [(e["kind"], e["details"]) for e in events] == [("policy.reloaded", {"generation": 2})]


def test_sighup(own_instance, settings, alice, root):
    instance = own_instance
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 4}})
    instance.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: describe(instance, alice)["sessionsPerUserMax"] == 4, 30)
    assert [json.loads(detail)["signal"] for _, _, detail in loads(instance)] == [True]
    instance.write_config("sandboxd.json", "{")
    instance.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: len(loads(instance)) == 2, 30)
    assert loads(instance)[1][0] == "deny" and describe(instance, alice)["sessionsPerUserMax"] == 4
    assert instance.process.poll() is None and instance.sh(alice, "true").returncode == 0


def test_many_at_once_come_one_after_the_other(own_instance, settings, alice, root):
    """Each caller gets a reading of its own, or hears that too many wait; numbers never go back."""
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(reload(own_instance, root))) for _ in range(6)]
    for n, thread in enumerate(threads):
        # As a whole: the one before may be reading.
        own_instance.write_config("next", {**settings, "limits": {"sessions_per_user": 10 + n}})
        os.rename(own_instance.config + "/next", own_instance.config + "/sandboxd.json")
        thread.start()
    for thread in threads:
        thread.join()
    assert all(error is None for error, _ in replies), replies
    assert describe(own_instance, alice)["sessionsPerUserMax"] == 15
    found = [json.loads(detail)["generation"] for _, _, detail in loads(own_instance)]
    assert len(found) == 6 and found == sorted(found)
    assert max(r["generation"] for _, r in replies) == generation(own_instance, alice)


class Stuck:
    """A configuration whose child never ends by itself: it is stopped as soon as it is seen."""

    def __init__(self, instance):
        self.instance = instance
        self.found = None
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        path = f"/proc/{self.instance.process.pid}/task/{self.instance.process.pid}/children"
        while not self.found and not self.ends.is_set():
            with open(path, encoding="utf-8") as f:
                children = f.read().split()
            for pid in map(int, children):
                if machine.program_of(pid) == "sandboxd-lookup":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                        self.found = pid

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


def test_the_child_is_killed_in_the_middle(own_instance, settings, alice, root):
    instance = own_instance
    describe(instance, root)
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 6}})
    replies = []
    n_caught = 0
    for _ in range(20):
        replies.clear()
        with Stuck(instance) as stuck:
            caller = threading.Thread(target=lambda: replies.append(reload(instance, root)))
            caller.start()
            if eventually(lambda: stuck.found or replies, 30) and stuck.found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stuck.found, signal.SIGKILL)
            caller.join()
        if replies[0][0] is None:
            # It was done before it was seen: once more, with something else.
            instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 300 + n_caught}})
            continue
        n_caught += 1
        break
    assert n_caught, "no child was seen"
    assert replies[0][0] == "io.systemd.System", replies
    assert eventually(lambda: loads(instance)[-1][:2] == ("deny", "failed"), 10), loads(instance)
    assert instance.process.poll() is None and instance.sh(alice, "true").returncode == 0
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 8}})
    assert reload(instance, root)[0] is None and describe(instance, alice)["sessionsPerUserMax"] == 8


def test_no_row_no_effect(own_instance, settings, alice, root):
    """While audit stands still nothing changes; and what was given up does not come later."""
    instance = own_instance
    before = describe(instance, alice)
    describe(instance, root)
    (audit,) = [pid for pid in instance.workers("sandboxd-audit")
                if instance.process.pid == parent_of(pid)]
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 11}})
    os.kill(audit, signal.SIGSTOP)
    try:
        error, reply = reload(instance, root)
        assert error == "io.systemd.System" and reply.get("errnoName") == "ETIMEDOUT", (error, reply)
        still = describe(instance, alice)
        assert (still["sessionsPerUserMax"], still["policyGeneration"]) == (256, before["policyGeneration"])
    finally:
        os.kill(audit, signal.SIGCONT)
    # It refuses what is older than the deadline: the next one has the row of its own only.
    assert reload(instance, root)[0] is None
    assert describe(instance, alice)["sessionsPerUserMax"] == 11
    assert eventually(lambda: [v for v, _, _ in loads(instance)].count(None) == 1, 10), loads(instance)


def parent_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return int(f.read().rpartition(")")[2].split()[1])


def test_audit_is_killed_in_the_middle(own_instance, settings, alice, root):
    """The row may be there and nobody knows: another one says that it did not count."""
    instance = own_instance
    describe(instance, root)
    (audit,) = [pid for pid in instance.workers("sandboxd-audit") if instance.process.pid == parent_of(pid)]
    instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 12}})
    os.kill(audit, signal.SIGSTOP)
    error, _ = reload(instance, root)
    assert error == "io.systemd.System"
    os.kill(audit, signal.SIGKILL)
    assert eventually(lambda: [r for r in loads(instance) if r[1] == "failed" and "did not count" in r[2]], 30)
    assert describe(instance, alice)["sessionsPerUserMax"] == 256
    assert eventually(lambda: reload(instance, root)[0] is None, 30)
    assert describe(instance, alice)["sessionsPerUserMax"] == 12


def test_what_was_loaded_lasts_over_restarts_of_parts(settings, alice, root):
    with Instance(settings=settings) as instance:
        write_profile(instance, "mine", {"version": 1, "name": "mine", "extends": ["base"]})
        instance.write_config("sandboxd.json", {**settings, "limits": {"sessions_per_user": 13}})
        assert reload(instance, root)[0] is None
        write_profile(instance, "mine", "{")
        for program in ("sandboxd-api", "sandboxd-audit", "sandboxd-dialer"):
            for pid in instance.workers(program):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: instance.sh(alice, "true", options=("-p", "mine")).returncode == 0, 30)
        after = describe(instance, alice)
        assert (after["sessionsPerUserMax"], after["policyGeneration"]) == (13, 2)
