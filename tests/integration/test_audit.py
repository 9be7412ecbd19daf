"""Rows: complete, in order, chained, before the effect; and what happens when they cannot be written."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import uuid

import pytest

import chain
from machine import Instance, children_of, comm_of, eventually, processes_with, program_of, talk, waits_for_request


def test_rows_of_a_session(instance, caller, profile, web):
    before = instance.head()
    marker = uuid.uuid4().hex
    done = instance.ctl(caller, "run", "-T", "-p", profile, "--name", "named", "--", "sh", "-c",
                        f"curl -s http://allowed.test:{web.server_port}/ >/dev/null; : {marker}; exit 3",
                        cwd=caller.workspace())
    assert done.returncode == 3
    loads = instance.rows(before, kind="policy")
    assert all((r["action"], r["uid"]) == ("load", caller.uid) for r in loads) and len(loads) <= 1
    # The end of the session before may be among the rows: it is queued, nobody waits for it.
    session = instance.rows(before, action="start")[0]["session"]
    rows = eventually(lambda: [r for r in [instance.rows(before, session=session)] if r[-1]["action"] == "end"])[0]
    assert [(r["kind"], r["action"]) for r in rows] == \
        [("session", "start"), ("session", "exec"), ("net", "connect"), ("session", "exit"), ("session", "end")]
    start, execution, connect, exited, end = rows
    assert len({r["session"] for r in rows}) == 1 and start["session"]
    assert {r["uid"] for r in rows} == {caller.uid}
    assert marker.encode() in execution["raw"] and execution["raw"].split(b"\0")[:2] == [b"sh", b"-c"]
    assert execution["exec"] == exited["exec"] == 1
    assert exited["status"] == 3 and end["reason"] in ("exited", "terminated")
    close = eventually(lambda: instance.closes(before))
    assert [c["conn_seq"] for c in close] == [connect["seq"]]
    with instance.database() as db:
        row = db.execute("SELECT * FROM session WHERE id = ?", (start["session"],)).fetchone()
    assert (row["uid"], row["user"], row["name"]) == (caller.uid, caller.name, "named")
    assert [r["boot_us"] for r in rows] == sorted(r["boot_us"] for r in rows)


def test_refused_starts_are_rows(instance, alice):
    before = instance.head()
    assert instance.ctl(alice, "run", "-T", "-w", "/root", "--", "true", cwd="/").returncode == 125
    assert instance.ctl(alice, "run", "-T", "-p", "no-such-profile", "--", "true", cwd=alice.workspace()).returncode == 125
    # Queued behind decisions: nobody waits for them.
    rows = eventually(lambda: [r for r in [instance.rows(before, action="refuse")] if len(r) >= 2])[0]
    assert len(rows) == 2 and all((r["kind"], r["action"], r["verdict"], r["uid"], r["session"]) ==
                        ("session", "refuse", "deny", alice.uid, None) for r in rows), rows


def test_the_chain(instance, alice, root, profile, web):
    for host in ("allowed.test", "evil.test"):
        instance.ctl(alice, "run", "-T", "-p", profile, "--", "curl", "-s", f"http://{host}:{web.server_port}/",
                     cwd=alice.workspace())
    instance.ctl(root, "audit", "log")
    time.sleep(0.3)
    for path in instance.segments():
        with instance.database(path) as db:
            assert chain.problems(db) == []


def test_the_chain_sees_changes(instance, alice):
    """The check itself: each kind of change is found in a copy."""
    instance.sh(alice, "true")
    folder = tempfile.mkdtemp(prefix="sbxt-chain-", dir="/var/tmp")
    try:
        for number, change in enumerate((
                "UPDATE decision SET reason = 'x' WHERE seq = (SELECT max(seq) FROM decision)",
                "UPDATE session SET uid = uid + 1", "DELETE FROM decision WHERE seq = (SELECT min(seq) FROM decision)",
                "UPDATE priv SET raw = x'00'", "UPDATE segment SET machine_id = 'x'")):
            path = f"{folder}/{number}.db"
            with instance.database() as db, contextlib.closing(sqlite3.connect(path)) as copy:
                db.backup(copy)
                copy.execute("PRAGMA foreign_keys=OFF")
                for name, in copy.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                    copy.execute(f"DROP TRIGGER {name}")
                copy.execute(change)
                copy.commit()
                copy.row_factory = sqlite3.Row
                assert chain.problems(copy), change
    finally:
        shutil.rmtree(folder)


def test_rows_cannot_be_changed_in_place(instance):
    with instance.database() as db:
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
        journal = db.execute("PRAGMA journal_mode").fetchone()[0]
    assert {"d_u", "d_d", "f_u", "f_d", "s_u", "c_u", "c_d"} <= names and journal == "wal"


def test_the_store_is_private(instance, alice):
    assert alice.run(["sh", "-c", f"cat {instance.segments()[0]}"]).returncode != 0
    assert alice.run(["ls", os.path.join(instance.state, "audit")]).returncode != 0


def lines(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_log_shows_own_rows_only(instance, alice, bob, root):
    for user in (alice, bob):
        instance.sh(user, "true")
    for user in (alice, bob):
        rows = lines(instance.ctl(user, "audit", "log", "--json"))
        # What administrators did with one's sessions is one's own, too.
        assert {r["uid"] for r in rows if (r["kind"], r["action"]) != ("admin", "act")} == {user.uid}
    before = instance.head()
    assert {alice.uid, bob.uid} <= {r["uid"] for r in lines(instance.ctl(root, "audit", "log", "--json"))}
    reads = instance.rows(before, kind="admin", action="read")
    assert len(reads) == 1 and reads[0]["uid"] == 0, "a look at others' rows is a row"


def test_log_filters(instance, alice, profile, web):
    for host in ("allowed.test", "evil.test"):
        instance.ctl(alice, "run", "-T", "-p", profile, "--", "curl", "-s", f"http://{host}:{web.server_port}/",
                     cwd=alice.workspace())

    def log(*options):
        return lines(instance.ctl(alice, "audit", "log", "--json", *options))

    everything = log()
    sequences = [r["sequence"] for r in everything]
    assert sequences == sorted(sequences)
    denied = log("--decision", "deny")
    assert denied and {r["decision"] for r in denied} == {"deny"}
    assert {r["kind"] for r in log("--kind", "net")} == {"net"}
    assert {r["host"] for r in log("--host", "evil.test")} == {"evil.test"}
    assert {r["rule"] for r in log("--rule", "t")} == {"t"}
    session = everything[-1]["session"]
    assert {r["session"] for r in log("--session", session)} == {session}
    assert len(log("-n", "2")) == 2
    assert not log("--until", "2001-01-01")
    text = instance.ctl(alice, "audit", "log", "--decision", "deny", "-n", "1")
    assert "evil.test" in text.stdout and "deny" in text.stdout


def test_log_escapes(instance, alice):
    """Bytes from inside never reach the reader's terminal as they are."""
    odd = "\x1b]52;c;x\x07\nforged line\x9b\u202e"
    instance.ctl(alice, "run", "-T", "--", "echo", odd, cwd=alice.workspace())
    for options in ([], ["--json"]):
        done = instance.ctl(alice, "audit", "log", "-n", "20", *options, text=False)
        for byte in (b"\x1b", b"\x07", b"\x9b", "\u202e".encode()):
            assert byte not in done.stdout
        assert not [line for line in done.stdout.splitlines() if line.startswith(b"forged")]


def test_hostile_hosts_are_stored_and_shown_escaped(instance, alice, profile):
    talk(instance, alice, profile, [[b"CONNECT a\x1b]0;x\x07.test:80 HTTP/1.1\r\nHost: x\r\n\r\n"]])
    done = instance.ctl(alice, "audit", "log", text=False)
    assert b"\x1b" not in done.stdout


@contextlib.contextmanager
def stopped(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_audit_stopped(own_instance, alice, profile, web, settings):
    """No new session, command, connection or request; what runs goes on."""
    marker = f"69{uuid.uuid4().int % 10**8}"
    session = own_instance.create(alice, "-p", profile)
    running = own_instance.ctl_start(alice, "exec", session, "--", "sh", "-c",
                                     f"while :; do date >>alive; sleep 0.1; done; : {marker}")
    loop = own_instance.ctl_start(alice, "exec", session, "--", "sh", "-c",
                                  f"while :; do curl -s -m 10 -o /dev/null -w '%{{http_code}}\\n' "
                                  f"http://allowed.test:{web.server_port}/ >>codes; sleep 0.1; done")
    found = own_instance.ctl(alice, "exec", session, "--", "pwd").stdout.strip()
    assert eventually(lambda: os.path.exists(found + "/codes") and "200" in open(found + "/codes").read())
    with stopped([p for p in own_instance.workers("sandboxd-audit")]):
        time.sleep(0.5)
        requests, size = len(web.requests), os.path.getsize(found + "/alive")
        started = time.monotonic()
        done = own_instance.ctl(alice, "run", "-T", "--", "echo", "started", cwd=alice.workspace(), timeout=30)
        assert done.returncode == 125 and done.stdout == ""
        assert time.monotonic() - started < 15
        done = own_instance.ctl(alice, "exec", session, "--", "echo", "started", timeout=30)
        assert done.returncode == 125 and done.stdout == ""
        init = json.loads(own_instance.ctl(alice, "describe", "--json", session).stdout)["runtime"]["init"]["pid"]
        assert eventually(lambda: [p for p in children_of(init) if comm_of(p) == "sandbox-init" and
                                   not waits_for_request(p)] == [init]), "a command still waits for its row"
        time.sleep(1)
        assert len(web.requests) == requests, "a request passed without a row"
        assert eventually(lambda: os.path.getsize(found + "/alive") > size, 3), "what was recorded does not run on"
    assert eventually(lambda: own_instance.sh(alice, "echo back").stdout == "back\n", 10)
    for child in (running, loop):
        child.kill()
        child.wait()


def test_audit_disk_full(settings, alice, profile, web):
    """State on a small file system of its own that is filled up."""
    state = tempfile.mkdtemp(prefix="sbxt-state-", dir="/run")
    os.chmod(state, 0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=755", "sbxt", state], check=True)
    try:
        with Instance(settings=settings, state=state) as small:
            session = small.create(alice, "-p", profile)
            url = f"http://allowed.test:{web.server_port}/"
            get = ["exec", session, "--", "curl", "-s", "-m", "15", "-o", "/dev/null", "-w", "%{http_code}", url]
            assert small.ctl(alice, *get).stdout == "200"
            running = small.ctl_start(alice, "exec", session, "--", "sh", "-c", "while :; do date >>alive; sleep 0.1; done")
            work = small.ctl(alice, "exec", session, "--", "pwd").stdout.strip()
            fill(state + "/ballast-of-the-test")
            requests = len(web.requests)
            # What the store keeps in reserve may take a few rows more.
            refused = False
            for _ in range(2000):
                done = small.ctl(alice, "run", "-T", "--", "echo", "started", cwd=work, timeout=30)
                fill(state + "/ballast-of-the-test", "ab")
                if done.returncode == 125:
                    assert done.stdout == ""
                    refused = True
                    break
            assert refused, "sessions start although no row can be written"
            size = os.path.getsize(work + "/alive")
            for _ in range(3):
                done = small.ctl(alice, "run", "-T", "--", "echo", "started", cwd=work, timeout=30)
                assert (done.returncode, done.stdout) == (125, "")
            # A command's rows take less than a session's: a few of them may still find room.
            for _ in range(200):
                requests = len(web.requests)
                done = small.ctl(alice, *get, timeout=30)
                if done.returncode == 125:
                    break
            assert done.returncode == 125 and done.stdout == ""
            assert len(web.requests) == requests
            assert eventually(lambda: os.path.getsize(work + "/alive") > size, 3)
            os.unlink(state + "/ballast-of-the-test")
            assert eventually(lambda: small.ctl(alice, *get).stdout == "200", 20, 0.5), small.log_text()[-2000:]
            running.kill()
            running.wait()
            with small.database() as db:
                assert chain.problems(db) == []
                assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    finally:
        subprocess.run(["umount", "-l", state], check=True)
        os.rmdir(state)


def fill(path, mode="wb"):
    with open(path, mode.replace("a", "a") if "b" in mode else mode + "b") as f:
        try:
            while True:
                f.write(b"x" * 65536)
                f.flush()
        except OSError:
            pass
        with contextlib.suppress(OSError):
            while True:
                os.write(f.fileno(), b"x" * 512)


def test_requests_in_flight_when_the_disk_is_full_are_denied(settings, alice, profile, web):
    """E73: a running session asks while no row can be written: 403 or an end, never an answer of the server."""
    state = tempfile.mkdtemp(prefix="sbxt-state-", dir="/run")
    os.chmod(state, 0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=755", "sbxt", state], check=True)
    try:
        with Instance(settings=settings, state=state) as small:
            before = len(web.requests)
            session = small.create(alice, "-p", profile)
            work = small.ctl(alice, "exec", session, "--", "pwd").stdout.strip()
            loop = small.ctl_start(alice, "exec", session, "--", "sh", "-c",
                                   f"while :; do curl -s -m 10 -o /dev/null -w '%{{http_code}}\\n' "
                                   f"http://allowed.test:{web.server_port}/ >>codes; done")
            assert eventually(lambda: os.path.exists(work + "/codes") and "200" in open(work + "/codes").read())

            def committed():
                with small.database() as db:
                    return db.execute("SELECT count(*) FROM decision WHERE action = 'connect' AND verdict = 2").fetchone()[0]

            deadline = time.monotonic() + 60
            with open(work + "/codes", encoding="utf-8") as codes:
                while time.monotonic() < deadline:
                    fill(state + "/ballast-of-the-test", "ab")
                    if codes.read().split()[-1:] not in ([], ["200"]):
                        break
                    time.sleep(0.1)
                else:
                    raise AssertionError("requests go on although no row can be written")
            requests = len(web.requests)
            time.sleep(2)
            assert len(web.requests) - before <= committed() and len(web.requests) - requests <= 1
            loop.kill()
            loop.wait()
    finally:
        subprocess.run(["umount", "-l", state], check=True)
        os.rmdir(state)


def test_a_restart_closes_what_was_open(settings, alice, profile, web):
    """After kill -9 of everything: an end row for each session, a close row for each connection, one chain."""
    with Instance(settings=settings) as first:
        marker = f"68{uuid.uuid4().int % 10**8}"
        session = first.create(alice, "-p", profile)
        child = first.ctl_start(alice, "exec", session, "--", "sh", "-c",
                                f"curl -s -N http://allowed.test:{web.server_port}/slow & sleep {marker}",
                                stdout=subprocess.PIPE)
        assert child.stdout.read(3) == b"xxx"
        pids = [first.process.pid] + first.workers()
        first.stop(signal.SIGKILL)
        child.kill()
        child.communicate()
        assert eventually(lambda: not [p for p in pids if os.path.exists(f"/proc/{p}") and
                                       program_of(p).startswith("sandboxd")], 5)
        with Instance(settings=settings, folder=first.folder) as second:
            ends = eventually(lambda: second.rows(0, kind="session", action="end", session=session))
            assert [r["reason"] for r in ends] == ["daemon-restart"]
            connect, = second.rows(0, kind="net", action="connect")
            assert [c["conn_seq"] for c in second.closes()] == [connect["seq"]]
            assert eventually(lambda: not processes_with(marker))
            for path in second.segments():
                with second.database(path) as db:
                    assert chain.problems(db) == []


@pytest.mark.parametrize("kind", ["connect"])
def test_every_allowed_connect_has_its_end(instance, kind):
    """Over all that the tests before did: an allowed connect has exactly one close row or one refuse row."""
    def open_connections():
        rows = instance.rows(0, kind="net")
        closes = [c["conn_seq"] for c in instance.closes()]
        refused = [r["ref_seq"] for r in rows if r["action"] == "refuse"]
        ends = closes + refused
        return [r["seq"] for r in rows if r["action"] == kind and r["verdict"] == "allow" and
                ends.count(r["seq"]) != 1]

    # A further request on an open connection is a row, too, and its connection's close stands for it.
    assert eventually(lambda: len(open_connections()) <= 3, 5), open_connections()[:10]
