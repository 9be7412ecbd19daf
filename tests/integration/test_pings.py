"""Whoever tries to ping in a session gets no socket, hears of it at once, and leaves a row."""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import struct
import subprocess

import pytest

import machine
from machine import eventually
from sessions import create, describe, kill_daemon
from varlink import Call

ATTEMPTS = """
import errno, json, socket, sys
def attempt(family, kind, protocol):
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as e:
        return errno.errorcode[e.errno]
    return "made"
inet, inet6, dgram, raw = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM, socket.SOCK_RAW
pings = {attempt(*((inet6, dgram, 58) if i % 2 else (inet, dgram, 1))) for i in range(int(sys.argv[1]))}
others = {attempt(*k) for k in ((inet, raw, 1), (inet6, raw, 58), (inet, raw, 255), (inet, dgram, 58), (inet6, dgram, 1))}
print(json.dumps([sorted(pings), sorted(others)]))"""
numbers = itertools.count()
BPF, PROG_LOAD, PROG_ATTACH, CGROUP_SOCK, SOCK_CREATE = 321, 5, 8, 9, 2


def bpf(command, layout, *values):
    data = ctypes.create_string_buffer(struct.pack("=" + layout, *values).ljust(144, b"\0"))
    return ctypes.CDLL(None, use_errno=True).syscall(BPF, command, data, len(data))


@pytest.fixture(scope="module")
def kernel():
    """One that attaches programs to control groups, asked without the daemon: then the daemon must do it."""
    if os.uname().machine != "x86_64":
        pytest.skip("no programs of control groups: the number of the system call is not known here")
    code = ctypes.create_string_buffer(bytes.fromhex("b7000000010000009500000000000000"))
    licence = ctypes.create_string_buffer(b"GPL")
    program = bpf(PROG_LOAD, "IIQQIIQIIII", CGROUP_SOCK, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0, 0, 0)
    folder = os.path.join(machine.cgroup2_mount(), f"sbxt-pings-{os.getpid()}")
    os.mkdir(folder)
    try:
        group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        works = program >= 0 and bpf(PROG_ATTACH, "IIII", group, program, SOCK_CREATE, 0) >= 0
        os.close(group)
    finally:
        os.rmdir(folder)
    if program >= 0:
        os.close(program)
    if not works:
        pytest.skip("no programs of control groups on this machine")


def doctor(instance, user):
    reply = instance.call(user, "io.sandboxd.Manager.Diagnose")[0]["parameters"]
    return {check["name"]: check for check in reply["checks"]}["pings"]


def count(rows):
    return sum(json.loads(row["detail"] or "{}").get("count", 1) for row in rows)


def rows_of(instance, session, expected):
    """Until they count so many."""
    def look():
        rows = instance.rows(0, entry="icmp", session=session)
        return rows if count(rows) >= expected else None
    found = eventually(look, 30)
    assert found, instance.rows(0, session=session)
    return found


def run(instance, user, *words):
    """In a session of its own, which ends with the command."""
    name = f"pings-{next(numbers)}"
    done = instance.ctl(user, "run", "-q", "-T", "--name", name, *words, cwd=user.workspace(), timeout=120)
    with instance.database() as db:
        session, = db.execute("SELECT id FROM session WHERE name = ?", (name,)).fetchone()
    return done, session


def attempts(instance, user, n, *options):
    done, session = run(instance, user, *options, "--", "python3", "-c", ATTEMPTS, str(n))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), session


def who_may(instance, user, session):
    """The groups that the kernel itself would give sockets for pings in the session's network."""
    group = machine.cgroup2_mount() + describe(instance, user, session)["runtime"]["controlGroup"]
    with open(group + "/cgroup.procs", encoding="ascii") as f:
        pid = f.read().split()[0]
    done = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "cat", "/proc/sys/net/ipv4/ping_group_range"], check=True,
                          stdout=subprocess.PIPE, text=True)
    return done.stdout.split()


def test_doctor(kernel, instance, alice):
    assert doctor(instance, alice)["state"] == "ok"


@pytest.mark.parametrize("target", ["8.8.8.8", "2001:4860:4860::8888", "10.0.2.15"])
def test_ping(kernel, instance, either, target):
    """Debian's own, as a user and as root. It hears of it at once."""
    done, session = run(instance, either, "--", "ping", "-n", "-c", "3", target)
    assert done.returncode not in (0, 1), done.stdout
    assert "bytes from" not in done.stdout and "ermi" in done.stderr, done.stderr
    rows = rows_of(instance, session, 1)
    row = rows[0]
    assert (row["kind"], row["action"], row["verdict"], row["reason"], row["protocol"]) == ("net", "request", "deny", "protocol", "icmp")
    assert (row["ip"], row["port"], row["host"], row["uid"]) == (None, None, None, either.uid)
    # A socket for each family that it might need.
    assert count(rows) <= 2


def test_none_is_missed(kernel, instance, either):
    """A burst is counted: each attempt, in a few rows, also where the session ends with the last one."""
    found, session = attempts(instance, either, 3001)
    assert found == [["EPERM"], ["EPERM"]]
    rows = rows_of(instance, session, 3001)
    assert count(rows) == 3001 and len(rows) < 1000


def test_each_session_has_its_own(kernel, instance, alice, bob):
    sessions = [(attempts(instance, user, n)[1], user, n) for user, n in ((alice, 5), (bob, 7), (alice, 11))]
    for session, user, n in sessions:
        rows = rows_of(instance, session, n)
        assert count(rows) == n and {row["uid"] for row in rows} == {user.uid}


def test_a_session_that_goes_on(kernel, instance, alice):
    """Its later ones as well, one by one."""
    session = create(instance, alice)
    try:
        for n in range(1, 4):
            done = instance.ctl(alice, "exec", "-T", session, "--", "ping", "-4", "-n", "-c", "1", "192.0.2.1", timeout=120)
            assert "ermi" in done.stderr, done
            assert count(rows_of(instance, session, n)) == n
        assert who_may(instance, alice, session)[0] == "0"
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)


def test_without_network(kernel, instance, alice):
    found, session = attempts(instance, alice, 1, "--no-network")
    assert found[0] == ["EPERM"]
    row, = rows_of(instance, session, 1)
    assert (row["verdict"], row["reason"]) == ("deny", "no-network")


def test_it_is_an_event(kernel, instance, alice):
    session = create(instance, alice)
    try:
        with Call(instance, alice, "io.sandboxd.Events.Subscribe", {"kinds": ["decision.denied"], "sessions": [session]}) as call:
            call.until(lambda reply: reply["parameters"].get("ready"))
            assert instance.ctl(alice, "exec", "-T", session, "--", "python3", "-c", ATTEMPTS, "1", timeout=120).returncode == 0
            event = call.next()["parameters"]["event"]
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)
    row, = rows_of(instance, session, 1)
    assert (event["reason"], event["details"]["kind"], event["details"]["count"]) == ("protocol", "net", 1)
    assert event["auditSequence"] == row["seq"]


def test_after_audit_was_killed(kernel, own_instance, alice):
    session = create(own_instance, alice)
    attempt = ["exec", "-T", session, "--", "python3", "-c", ATTEMPTS, "3"]
    assert own_instance.ctl(alice, *attempt, timeout=120).returncode == 0
    assert count(rows_of(own_instance, session, 3)) == 3
    for pid in own_instance.workers("sandboxd-audit"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: own_instance.ctl(alice, *attempt, timeout=120).returncode == 0, 60)
    assert count(rows_of(own_instance, session, 6)) == 6
    own_instance.ctl(alice, "terminate", "--grace", "0s", session)


def test_after_the_daemon_was_killed(kernel, own_instance, alice):
    """What it left attached to the group of all sessions gives way to the program of the next."""
    create(own_instance, alice)
    for _ in range(2):
        kill_daemon(own_instance)
        assert doctor(own_instance, alice)["state"] == "ok"
        found, session = attempts(own_instance, alice, 3)
        assert found == [["EPERM"], ["EPERM"]]
        assert count(rows_of(own_instance, session, 3)) == 3


def test_kernel_without_such_programs(own_instance, either):
    """The namespace's own closed range, and the filter, are enough; the doctor says what is missing."""
    own_instance.stop()
    own_instance.start(environment=machine.without("pings"))
    check = doctor(own_instance, either)
    assert check["state"] == "info" and "EPERM" in check["message"] and check["advice"], check
    session = create(own_instance, either)
    try:
        assert who_may(own_instance, either, session) == ["1", "0"]
        done = own_instance.ctl(either, "exec", "-T", session, "--", "ping", "-n", "-c", "1", "192.0.2.1", timeout=120)
        assert done.returncode not in (0, 1), done
    finally:
        own_instance.ctl(either, "terminate", "--grace", "0s", session)
    assert attempts(own_instance, either, 2)[0] == [["EPERM"], ["EPERM"]]
    assert not own_instance.rows(0, entry="icmp")
