"""The daemon itself: who serves, what the machine can enforce, drain, and the interface that all services have."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time

import pytest

import machine
from machine import Instance, eventually
from varlink import Call

MANAGER = "io.sandboxd.Manager."
SERVICE = "io.systemd.service."
DENIED = "org.varlink.service.PermissionDenied"


def ask(instance, user, method, parameters=None):
    """Error or None, and the parameters."""
    reply = instance.call(user, method, parameters)[0]
    return reply.get("error"), reply.get("parameters", {})


def describe(instance, user):
    error, parameters = ask(instance, user, MANAGER + "Describe")
    assert error is None
    return parameters


@contextlib.contextmanager
def member_of(group):
    """A user whose one more group it is; the group exists as long."""
    made = subprocess.run(["groupadd", "-r", group], check=False, stderr=subprocess.DEVNULL).returncode == 0
    try:
        with machine.test_user(group[9:12]) as user:
            subprocess.run(["usermod", "-aG", group, user.name], check=True)
            user.groups = os.getgrouplist(user.name, user.gid)
            yield user
    finally:
        if made:
            subprocess.run(["groupdel", group], check=False)


@pytest.fixture(scope="module")
def admin():
    with member_of("sandboxd-admins") as user:
        yield user


@pytest.fixture(scope="module")
def auditor():
    with member_of("sandboxd-auditors") as user:
        yield user


@pytest.fixture
def grouped(admin, auditor, settings):
    """A daemon that was started when both groups existed."""
    assert admin.uid and auditor.uid
    with Instance(settings=settings) as instance:
        yield instance


# ---- Describe ----

def test_identities(own_instance, alice, bob):
    instance = own_instance
    first = describe(instance, alice)
    assert first["version"] in instance.ctl(alice, "--version").stdout and len(first["instanceId"]) == 32
    assert abs(first["startedAtUSec"] / 1e6 - time.time()) < 600
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        assert first["bootId"] == f.read().strip().replace("-", "")
    assert (first["callerUid"], describe(instance, bob)["callerUid"]) == (alice.uid, bob.uid)
    assert describe(instance, bob)["stateId"] == first["stateId"]
    assert instance.stop() == 0
    instance.start()
    second = describe(instance, alice)
    assert second["stateId"] == first["stateId"] and second["instanceId"] != first["instanceId"]
    assert second["startedAtUSec"] > first["startedAtUSec"]
    assert instance.stop() == 0
    with open(os.path.join(instance.state, "id"), "w", encoding="ascii") as f:
        f.write("torn")
    instance.start()
    third = describe(instance, alice)["stateId"]
    assert third != first["stateId"] and instance.stop() == 0
    instance.start()
    assert describe(instance, alice)["stateId"] == third


def test_groups_come_from_the_connection(grouped, admin, auditor, alice, root):
    def seen(user):
        found = describe(grouped, user)
        return found["callerIsAdmin"], found["callerIsAuditor"], found["callerIsApprover"]
    assert seen(alice) == (False, False, False) and seen(root) == (True, True, False)
    assert seen(admin) == (True, False, False) and seen(auditor) == (False, True, False)
    # The same user without the group in its credentials is not a member.
    groups, admin.groups = admin.groups, [admin.gid]
    try:
        assert seen(admin) == (False, False, False)
    finally:
        admin.groups = groups


def test_numbers_are_the_callers_own(grouped, admin, auditor, alice, root):
    session = grouped.create(alice)
    try:
        assert describe(grouped, alice)["sessions"] == 1
        assert describe(grouped, auditor)["sessions"] == 0
        assert describe(grouped, admin)["sessions"] == describe(grouped, root)["sessions"] == 1
        assert describe(grouped, auditor)["auditHeadSequence"] == describe(grouped, root)["auditHeadSequence"]
        assert describe(grouped, root)["auditHeadSequence"] == grouped.head()
        assert "auditHeadSequence" not in describe(grouped, alice) and "auditHeadSequence" not in describe(grouped, admin)
    finally:
        grouped.ctl(alice, "terminate", "--grace", "0s", session)
    assert eventually(lambda: describe(grouped, root)["sessions"] == 0)


def test_audit_that_is_away_is_not_writable(own_instance, alice):
    assert describe(own_instance, alice)["auditWritable"] is True
    pid = own_instance.workers("sandboxd-audit")
    for one in pid:
        os.kill(one, signal.SIGSTOP)
    try:
        assert describe_slowly(own_instance, alice)["auditWritable"] is False
    finally:
        for one in pid:
            os.kill(one, signal.SIGCONT)
    assert eventually(lambda: describe(own_instance, alice)["auditWritable"] is True, 20)


def describe_slowly(instance, user):
    with Call(instance, user, MANAGER + "Describe", more=False) as call:
        return call.next(30)["parameters"]


# ---- Diagnose ----

def diagnose(instance, user):
    with Call(instance, user, MANAGER + "Diagnose", more=False) as call:
        found = call.next(30)["parameters"]
    checks = {c["name"]: c for c in found["checks"]}
    assert len(checks) == len(found["checks"])
    assert all(c["state"] in ("ok", "info", "warning", "failure") and c["message"] for c in found["checks"])
    assert found["healthy"] == all(c["state"] != "failure" for c in found["checks"])
    return found["healthy"], checks


def test_doctor_says_what_is_there(instance, alice):
    healthy, checks = diagnose(instance, alice)
    needed = {"landlock", "openat2", "mount-api", "clone-into-cgroup", "cgroup-kill", "seccomp", "user-namespace",
              "network-namespace", "network-redirect"}
    used = {"protected-paths", "landlock-scoping", "peer-pidfd", "pass-rights", "fuse", "bpf-lsm", "fexit", "cgroup-memory", "cgroup-pids",
            "cgroup-cpu", "cgroup-io", "pings", "cgroup-devices"}
    assert healthy and needed | used | {"audit-store", "audit-worker", "dialer-worker", "egress-workers", "masks"} <= set(checks)
    assert all(checks[name]["state"] == "ok" for name in needed - {"network-redirect"})
    assert all("advice" in c for c in checks.values() if c["state"] in ("warning", "failure"))
    done = instance.ctl(alice, "doctor")
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= len(checks)
    lines = [json.loads(line) for line in instance.ctl(alice, "doctor", "--json").stdout.splitlines()]
    assert [line["name"] for line in lines] == list(checks)


def test_doctor_agrees_with_the_kernel(instance, alice):
    """What can be looked at from here as well is as the doctor says, and as sessions report it."""
    from machine import cgroup2_mount
    _, checks = diagnose(instance, alice)
    with open(cgroup2_mount() + "/cgroup.controllers", encoding="utf-8") as f:
        controllers = f.read().split()
    for name in ("memory", "pids", "cpu", "io"):
        assert (checks["cgroup-" + name]["state"] == "ok") <= (name in controllers)
    a, b = socket.socketpair()
    try:
        a.getsockopt(socket.SOL_SOCKET, 77, 4)
        has_pidfd = True
    except OSError:
        has_pidfd = False
    a.close()
    b.close()
    assert (checks["peer-pidfd"]["state"] == "ok") == has_pidfd
    session = instance.create(alice)
    try:
        described = instance.call(alice, "io.sandboxd.Session.Describe", {"id": session})[0]["parameters"]["runtime"]
        degraded = {d["layer"] for d in described.get("degraded", [])}
        layers = {"protected-paths", "landlock-scoping", "peer-pidfd", "pass-rights", "fuse", "bpf-lsm", "fexit", "cgroup-memory", "cgroup-pids",
                  "cgroup-cpu", "cgroup-io"}
        assert degraded == {name for name in layers if checks[name]["state"] != "ok"}
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)


def test_doctor_sees_workers_that_are_gone(own_instance, alice):
    instance = own_instance
    assert diagnose(instance, alice)[0]
    pids = instance.workers("sandboxd-audit")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        healthy, checks = diagnose(instance, alice)
        assert not healthy and checks["audit-store"]["state"] == "failure"
        assert instance.ctl(alice, "doctor").returncode == 1
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: diagnose(instance, alice)[0], 30)
    for pid in instance.workers("sandboxd-dialer"):
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: diagnose(instance, alice)[0], 30)


def test_doctor_tries_the_disk(own_instance, alice):
    """A log folder on a full file system: the writer has had no row to write and still it shows."""
    instance = own_instance
    assert diagnose(instance, alice)[1]["audit-store"]["state"] in ("ok", "warning")
    assert instance.stop() == 0
    audit = os.path.join(instance.state, "audit")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", audit], check=True)
    try:
        instance.start()
        assert diagnose(instance, alice)[1]["audit-store"]["state"] == "warning"
        with contextlib.suppress(OSError), open(os.path.join(audit, "filler"), "wb", buffering=0) as f:
            while f.write(b"x" * 4096):
                pass
        assert eventually(lambda: diagnose(instance, alice)[1]["audit-store"]["state"] == "failure", 20)
        os.unlink(os.path.join(audit, "filler"))
        assert eventually(lambda: diagnose(instance, alice)[1]["audit-store"]["state"] == "warning", 20)
    finally:
        instance.stop()
        subprocess.run(["umount", "-l", audit], check=False)


# ---- Drain ----

def test_who_may_drain(grouped, alice, auditor, admin):
    for user in (alice, auditor):
        assert ask(grouped, user, MANAGER + "Drain", {"graceUSec": 0})[0] == DENIED
        assert ask(grouped, user, MANAGER + "Drain", {"cancel": True})[0] == DENIED
    assert describe(grouped, alice)["draining"] is False
    assert ask(grouped, admin, MANAGER + "Drain") == (None, {"remaining": 0})
    assert describe(grouped, alice)["draining"] is True
    assert ask(grouped, admin, MANAGER + "Drain", {"cancel": True}) == (None, {"remaining": 0})
    assert describe(grouped, alice)["draining"] is False
    assert [r["uid"] for r in grouped.rows(action="drain")] == [admin.uid] * 2


def test_drain(own_instance, alice, bob, root):
    instance = own_instance
    one, two = instance.create(alice), instance.create(bob)
    events = Call(instance, bob, "io.sandboxd.Events.Subscribe", {"kinds": ["daemon"]})
    events.until(lambda r: r["parameters"].get("ready"))
    assert ask(instance, root, MANAGER + "Drain", {"graceUSec": 0}) == (None, {"remaining": 2})
    event = events.next()["parameters"]["event"]
    assert (event["kind"], event["state"]) == ("daemon.draining", "draining")
    events.close()
    assert diagnose(instance, alice)[1]["draining"]["state"] == "warning"
    for user in (alice, bob, root):
        for method, more in (("Create", {}), ("Spawn", {"command": {"commandLine": ["true"], "standardOutput": "null"}})):
            assert ask(instance, user, "io.sandboxd.Session." + method, {"context": {}, **more})[0] == \
                "io.sandboxd.Session.ShuttingDown"
    done = instance.ctl(alice, "run", "-T", "--", "true", cwd=alice.workspace())
    assert done.returncode == 125 and "draining" in done.stderr
    # What runs goes on.
    assert instance.ctl(alice, "exec", one, "--", "sh", "-c", "exit 4").returncode == 4
    with Call(instance, root, MANAGER + "Drain", more=False) as waiting:
        instance.ctl(alice, "terminate", "--grace", "0s", one)
        assert ask(instance, root, MANAGER + "Drain", {"graceUSec": 100000}) == (None, {"remaining": 1})
        instance.ctl(bob, "terminate", "--grace", "0s", two)
        assert waiting.next()["parameters"] == {"remaining": 0}
    assert ask(instance, root, MANAGER + "Drain", {"cancel": True})[0] is None
    assert instance.sh(alice, "exit 5").returncode == 5


def test_cancel_ends_the_wait(own_instance, alice, root):
    instance = own_instance
    session = instance.create(alice)
    with Call(instance, root, MANAGER + "Drain", more=False) as waiting:
        assert eventually(lambda: describe(instance, root)["draining"], 10)
        assert instance.ctl(root, "drain", "--cancel").stdout == "1\n"
        assert waiting.next()["parameters"] == {"remaining": 1}
    assert instance.ctl(alice, "exec", session, "--", "true").returncode == 0
    assert ask(instance, root, MANAGER + "Drain", {"cancel": True, "graceUSec": 1})[1] == {"parameter": "graceUSec"}
    assert ask(instance, root, MANAGER + "Drain", {"graceUSec": -1})[1] == {"parameter": "graceUSec"}


def test_a_drain_outlives_its_client_and_ends_with_the_daemon(own_instance, alice, root):
    instance = own_instance
    session = instance.create(alice)
    with Call(instance, root, MANAGER + "Drain", more=False):
        assert eventually(lambda: describe(instance, alice)["draining"], 10)
    # A worker that is started now hears of it, too.
    for pid in instance.workers("sandboxd-api"):
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: instance.call(alice, MANAGER + "Describe"), 10)
    assert describe(instance, alice)["draining"] is True
    assert ask(instance, alice, "io.sandboxd.Session.Create", {"context": {}})[0] == "io.sandboxd.Session.ShuttingDown"
    instance.ctl(alice, "terminate", "--grace", "0s", session)
    assert instance.stop() == 0
    instance.start()
    assert describe(instance, alice)["draining"] is False and instance.sh(alice, "true").returncode == 0


# ---- io.systemd.service ----

def test_the_generic_interface(grouped, alice, admin, auditor, root):
    for user in (alice, admin, auditor, root):
        assert ask(grouped, user, SERVICE + "Ping") == (None, {})
        info = ask(grouped, user, "org.varlink.service.GetInfo")[1]
        assert "io.systemd.service" in info["interfaces"]
    text = ask(grouped, alice, "org.varlink.service.GetInterfaceDescription", {"interface": "io.systemd.service"})[1]
    for method in ("Ping", "Reload", "SetLogLevel", "GetLogLevel", "GetEnvironment"):
        assert f"method {method}(" in text["description"]
    for user in (alice, admin, auditor):
        for method, parameters in (("Reload", None), ("SetLogLevel", {"level": 7}), ("GetLogLevel", None),
                                   ("GetEnvironment", None)):
            assert ask(grouped, user, SERVICE + method, parameters)[0] == DENIED, method
    assert ask(grouped, root, SERVICE + "GetLogLevel") == (None, {"level": 6})


def test_the_log_level_is_everybodys(own_instance, alice, root):
    instance = own_instance
    assert ask(instance, root, SERVICE + "SetLogLevel", {"level": 3}) == (None, {})
    assert ask(instance, root, SERVICE + "GetLogLevel") == (None, {"level": 3})
    for level in (-1, 8, 2**31):
        assert ask(instance, root, SERVICE + "SetLogLevel", {"level": level})[1] == {"parameter": "level"}
    # The launcher warns of a worker that was killed, the dialer of audit that is gone.
    before = instance.log_text()
    for level, is_quiet in ((3, True), (6, False)):
        assert ask(instance, root, SERVICE + "SetLogLevel", {"level": level}) == (None, {})
        for pid in instance.workers("sandboxd-dialer"):
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: instance.sh(alice, "exit 6").returncode == 6, 20)
        if is_quiet:
            assert instance.log_text() == before
        else:
            assert eventually(lambda: "was killed" in instance.log_text()[len(before):], 20)


def test_the_environment(settings, root):
    with Instance(settings=settings) as instance:
        assert instance.stop() == 0
        instance.start(environment={"SANDBOXD_CANARY": "a b\x1b"})
        environment = ask(instance, root, SERVICE + "GetEnvironment")[1]["environment"]
        assert r"SANDBOXD_CANARY=a b\x1b" in environment and all("=" in v for v in environment)


def test_reload(own_instance, alice, root):
    instance = own_instance
    assert describe(instance, alice)["sessionsPerUserMax"] == 256
    with open(os.path.join(instance.config, "sandboxd.json"), encoding="utf-8") as f:
        old = json.load(f)
    instance.write_config("sandboxd.json", {**old, "limits": {"sessions_per_user": 1}})
    assert describe(instance, alice)["sessionsPerUserMax"] == 256
    assert ask(instance, root, SERVICE + "Reload") == (None, {})
    assert describe(instance, alice)["sessionsPerUserMax"] == 1
    kinds = [r["parameters"]["event"]["kind"] for r in instance.call(alice, "io.sandboxd.Events.Subscribe", {"follow": False},
                                                                     more=True) if "event" in r["parameters"]]
    assert kinds == ["policy.reloaded"]
    session = instance.create(alice)
    assert instance.ctl(alice, "run", "-T", "--", "true", cwd=alice.workspace()).returncode == 125
    instance.write_config("sandboxd.json", '{"limits": {"sessions_per_user": "many"}}')
    error, _ = ask(instance, root, SERVICE + "Reload")
    assert error == "io.systemd.System" and describe(instance, alice)["sessionsPerUserMax"] == 1
    instance.ctl(alice, "terminate", "--grace", "0s", session)
    assert [r["verdict"] for r in instance.rows(action="reload")] == [None, "deny"]
