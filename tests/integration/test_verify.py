"""Signed checkpoints, and `audit verify`: each kind of change is named, and what is no change is not."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile

import pytest

import chain
from machine import Instance, eventually


def folder_of(instance):
    return os.path.join(instance.state, "audit")


def checkpoints_of(instance):
    """Lines of the file: (sequence, hash, time, signature)."""
    with open(os.path.join(folder_of(instance), "checkpoints"), encoding="ascii") as f:
        return [(int(line.split()[0]), line.split()[1], int(line.split()[2]), line.split()[3]) for line in f]


def verify(instance, user, *options):
    done = instance.ctl(user, "audit", "verify", "--json", *options)
    assert done.returncode in (0, 1), done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["valid"] == (done.returncode == 0)
    return verdict


def bad_row(instance, user, *options):
    return verify(instance, user, *options).get("firstBadSequence")


@contextlib.contextmanager
def opened(path):
    """The database as somebody with the file has it: without triggers and constraints in the way."""
    with contextlib.closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys=OFF")
        db.execute("PRAGMA ignore_check_constraints=ON")
        for name, in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        yield db


def fill_log(instance, user, profile, web):
    """Rows of every kind that there is: allowed, denied, closes, commands."""
    for host in ("allowed.test", "evil.test"):
        instance.ctl(user, "run", "-T", "-p", profile, "--name", "work", "--", "curl", "-s",
                     f"http://{host}:{web.server_port}/", cwd=user.workspace())
    assert eventually(instance.closes)


def signed(instance, user):
    """Waits until all rows are signed."""
    return eventually(lambda: (lambda v: v["valid"] and v.get("signedSequence", 0) >= v["headSequence"] - 1 and v)
                      (verify(instance, user)), 20, 0.5)


@pytest.fixture(scope="module")
def logged(settings, alice, profile, web):
    with Instance(settings=settings) as running:
        fill_log(running, alice, profile, web)
        yield running


def test_rows_are_signed(logged, root):
    verdict = signed(logged, root)
    assert verdict and verdict["checkpoints"] >= 1 and verdict["firstSequence"] == 1
    with logged.database() as db:
        marks = {row["upto_seq"]: row for row in db.execute("SELECT * FROM checkpoint")}
        hashes = {row[0]: row[1].hex() for row in db.execute("SELECT seq, hash FROM decision UNION SELECT seq, hash FROM flow")}
        key, = {row[0] for row in db.execute("SELECT pubkey FROM segment")}
        assert chain.problems(db) == []
    lines = checkpoints_of(logged)
    assert lines and {line[0] for line in lines} == set(marks)
    assert all(hashes[sequence] == digest == marks[sequence]["head"].hex() and usec == marks[sequence]["ts_us"] and
               signature == marks[sequence]["sig"].hex() for sequence, digest, usec, signature in lines)
    assert key.hex() == verdict["publicKey"]


def test_a_signature_by_other_means(logged, root, tmp_path):
    """OpenSSL's own program agrees about what was signed."""
    signed(logged, root)
    sequence, digest, usec, signature = checkpoints_of(logged)[-1]
    with open(os.path.join(folder_of(logged), "key.pub"), encoding="ascii") as f:
        key = bytes.fromhex(f.read().strip())
    (tmp_path / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + key)
    (tmp_path / "signature").write_bytes(bytes.fromhex(signature))
    for text, is_signed in ((f"sandboxd-checkpoint-1 {sequence} {digest} {usec}\n", True),
                            (f"sandboxd-checkpoint-1 {sequence + 1} {digest} {usec}\n", False)):
        (tmp_path / "text").write_text(text, encoding="ascii")
        done = subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "key",
                               "-sigfile", "signature", "-in", "text"], cwd=tmp_path, capture_output=True)
        assert (done.returncode == 0) == is_signed, done


def test_the_key_is_the_workers_alone(logged):
    info = os.stat(os.path.join(folder_of(logged), "key"))
    audit, = logged.workers("sandboxd-audit")[:1]
    with open(f"/proc/{audit}/status", encoding="ascii") as f:
        uid = int([line for line in f if line.startswith("Uid:")][0].split()[1])
    assert info.st_mode & 0o777 == 0o600 and info.st_uid == uid != 0
    assert os.stat(os.path.join(folder_of(logged), "checkpoints")).st_uid == uid


def test_verify_is_for_auditors(logged, alice, root):
    done = logged.ctl(alice, "audit", "verify")
    assert done.returncode == 125 and "permission denied" in done.stderr and not done.stdout
    before = logged.head()
    assert logged.ctl(root, "audit", "verify").returncode == 0
    rows = logged.rows(before, kind="admin", action="verify")
    assert [r["uid"] for r in rows] == [0], "that somebody verified is a row"


# What a query shows, as statements that change the row :seq, and the column whose row is meant.
CONNECT = "SELECT max(seq) FROM decision WHERE kind = 2 AND action = 'connect' AND verdict = 2"
DENIED = "SELECT max(seq) FROM decision WHERE kind = 2 AND verdict = 0"
EXEC = "SELECT max(seq) FROM decision WHERE action = 'exec'"
CLOSE = "SELECT max(seq) FROM flow"
START = "SELECT min(seq) FROM decision WHERE action = 'start' AND kind = 1"
BY_HOST = "SELECT min(seq) FROM decision WHERE host_id = (SELECT host_id FROM host WHERE name = 'evil.test')"
BY_RULE = "SELECT min(seq) FROM decision WHERE rule_id = (SELECT max(rule_id) FROM rule)"
BY_POLICY = "SELECT min(seq) FROM decision WHERE policy_id = (SELECT max(policy_id) FROM policy)"
OF_SESSION = "(SELECT session_id FROM decision WHERE seq = :seq)"

CHANGES = {column: (CONNECT, f"UPDATE decision SET {column} = {value} WHERE seq = :seq") for column, value in {
    "ts_us": "ts_us + 1", "boot_us": "boot_us + 1", "kind": "3", "action": "'refuse'", "verdict": "1",
    "uid": "uid + 4294967296", "exec": "7", "generation": "generation + 1", "policy_id": "NULL", "rule_id": "NULL",
    "entry": "'dns'", "protocol": "'udp'", "host_id": "NULL", "ip": "x'01020304'", "port": "port + 1",
    "method": "'PUT'", "status": "200", "pid": "1", "cred": "'token'", "ref_seq": "1", "reason": "'other'",
    "priv_hash": "x'" + 32 * "00" + "'", "hash": "x'" + 32 * "00" + "'", "session_id": "NULL"}.items()}
CHANGES |= {f"flow.{column}": (CLOSE, f"UPDATE flow SET {column} = {value} WHERE seq = :seq") for column, value in {
    "ts_us": "ts_us + 1", "conn_seq": "conn_seq + 100000", "session_id": "NULL", "ip": "NULL", "port": "port + 1",
    "dur_us": "dur_us + 1", "bytes_up": "bytes_up + 1", "bytes_dn": "NULL", "reason": "'other'",
    "hash": "x'" + 32 * "00" + "'"}.items()}
CHANGES |= {f"session.{column}": (START, f"UPDATE session SET {column} = {value} WHERE session_id = {OF_SESSION}")
            for column, value in {"id": "replace(id, substr(id, 1, 1), 'f') || 'x'", "uid": "uid + 1",
                                  "user": "'root'", "name": "'other'", "profile": "'other'", "agent": "'x'",
                                  "agent_session": "'x'", "workspace": "x'00'", "started_us": "started_us + 1"}.items()}
CHANGES |= {
    "host.name": (BY_HOST, "UPDATE host SET name = 'good.test' WHERE name = 'evil.test'"),
    "rule.name": (BY_RULE, "UPDATE rule SET name = name || '-2' WHERE rule_id = (SELECT max(rule_id) FROM rule)"),
    "rule.text": (BY_RULE, "UPDATE rule SET text = text || ' ' WHERE rule_id = (SELECT max(rule_id) FROM rule)"),
    "policy.sha256": (BY_POLICY, "UPDATE policy SET sha256 = x'" + 32 * "00" +
                      "' WHERE policy_id = (SELECT max(policy_id) FROM policy)"),
    "policy.body": (BY_POLICY, "UPDATE policy SET body = body || ' ' WHERE policy_id = (SELECT max(policy_id) FROM policy)"),
    "priv.raw": (EXEC, "UPDATE priv SET raw = x'00' WHERE seq = :seq"),
    "priv.path": (EXEC, "UPDATE priv SET path = x'78' WHERE seq = :seq"),
    "priv.detail": (EXEC, "UPDATE priv SET detail = 'x' WHERE seq = :seq"),
    "priv.salt": (EXEC, "UPDATE priv SET salt = x'00' WHERE seq = :seq"),
    "a value behind a NUL": (DENIED, "UPDATE decision SET reason = reason || char(0) || 'but allowed' WHERE seq = :seq"),
    "a row dropped": (DENIED, "DELETE FROM decision WHERE seq = :seq"),
    "a close dropped": (CLOSE, "DELETE FROM flow WHERE seq = :seq"),
    "two rows of one number": (CONNECT, "INSERT INTO flow SELECT :seq, ts_us, 999999, session_id, ip, port, dur_us, bytes_up,"
                               " bytes_dn, reason, hash FROM flow LIMIT 1"),
    "private values of a row without": (CLOSE, "INSERT INTO priv(seq, salt, raw) SELECT min(seq), x'00', x'78' FROM decision"),
}
EXPECTED = {"private values of a row without": "SELECT min(seq) FROM decision", "policy.body": BY_POLICY}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_while_the_daemon_runs(logged, root, what):
    """And is no more when it was taken back."""
    select, change = CHANGES[what]
    assert bad_row(logged, root) is None
    with opened(logged.segments()[-1]) as db:
        sequence = db.execute(select).fetchone()[0]
        expected = db.execute(EXPECTED.get(what, select)).fetchone()[0]
        saved = {table: db.execute(f"SELECT * FROM {table}").fetchall()
                 for table in ("decision", "flow", "session", "host", "rule", "policy", "priv")}
        assert sequence and db.execute(change, {"seq": sequence}).rowcount > 0, "nothing was changed"
        found = verify(logged, root)
        for table, rows in saved.items():
            marks = ",".join("?" * len(rows[0]))
            key = rows[0].keys()[0]
            known = [row[key] for row in rows]
            db.execute(f"DELETE FROM {table} WHERE {key} <= {max(known)} AND {key} NOT IN ({','.join(map(str, known))})")
            db.executemany(f"INSERT OR REPLACE INTO {table} VALUES({marks})", map(tuple, rows))
    assert found.get("firstBadSequence") == expected, found
    assert found["message"]
    assert bad_row(logged, root) is None


def test_a_command_that_hashes_like_another(logged, alice, root):
    """Lengths and values that stand in the arguments themselves: what was run cannot become part of the salt."""
    words = ("true", "", "", "", "", "", "", "\x02ls")
    assert logged.ctl(alice, "run", "-T", "--", *words, cwd=alice.workspace()).returncode == 0
    with opened(logged.segments()[-1]) as db:
        row = tuple(db.execute("SELECT * FROM priv WHERE raw = ?", ("\0".join(words).encode(),)).fetchone())
        sequence, salt, path, raw, detail = row
        assert path is None and detail is None
        db.execute("UPDATE priv SET salt = ?, path = x'', raw = x'6c73' WHERE seq = ?",
                   (salt + chain.field(None) + len(raw).to_bytes(4, "big") + b"true", sequence))
        found = bad_row(logged, root)
        db.execute("INSERT OR REPLACE INTO priv VALUES(?,?,?,?,?)", row)
    assert found == sequence
    assert bad_row(logged, root) is None


def test_erased_values_are_no_break(logged, root):
    with opened(logged.segments()[-1]) as db:
        rows = [tuple(row) for row in db.execute("SELECT * FROM priv WHERE seq = (SELECT max(seq) FROM priv)")]
        db.execute("DELETE FROM priv WHERE seq = ?", (rows[0][0],))
        verdict = verify(logged, root)
        db.executemany("INSERT INTO priv VALUES(?,?,?,?,?)", rows)
    assert verdict["valid"] and verdict["erased"] == 1


def test_a_head_that_was_kept(logged, root):
    verdict = verify(logged, root)
    sequence, digest = verdict["headSequence"], verdict["headHash"]
    assert verify(logged, root, "--head", f"{sequence}:{digest}")["valid"]
    other = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    assert bad_row(logged, root, "--head", f"{sequence}:{other}") == sequence
    head = logged.head()
    assert bad_row(logged, root, "--head", f"{head + 1000}:{digest}") > head
    text = logged.ctl(root, "audit", "verify")
    last = text.stdout.splitlines()[-1].split()
    assert last[0] == "head" and verify(logged, root, "--head", last[1])["valid"]
    for wrong in ("5", "5:zz", "0:" + digest, ":" + digest):
        assert logged.ctl(root, "audit", "verify", "--head", wrong).returncode == 125


def test_a_part_and_a_key(logged, root):
    verdict = signed(logged, root)
    assert verify(logged, root, "--pubkey", verdict["publicKey"])["valid"]
    assert verify(logged, root, "--pubkey", "00" * 32)["firstBadSequence"] == 1
    part = verify(logged, root, "--from", "3", "--to", "5")
    assert part["valid"] and part["checked"] == 3 and part["headSequence"] == 5
    with opened(logged.segments()[-1]) as db:
        old = db.execute("SELECT reason FROM decision WHERE seq = 4").fetchone()[0]
        db.execute("UPDATE decision SET reason = 'x' WHERE seq = 4")
        found = [bad_row(logged, root, "--from", str(n)) for n in (1, 4, 5)]
        db.execute("UPDATE decision SET reason = ? WHERE seq = 4", (old,))
    assert found == [4, 4, None]


# ---- while the daemon is stopped ----


@pytest.fixture(scope="module")
def stopped_copy(settings, alice, root, profile, web):
    """State of a daemon that has ended in order; with_copy() gives each test its own."""
    with Instance(settings=settings) as running:
        fill_log(running, alice, profile, web)
        assert signed(running, root)
        instance = running.sh(alice, "true")
        assert instance.returncode == 0 and signed(running, root)
        running.stop()
        folder = tempfile.mkdtemp(prefix="sbxt-verify-", dir="/var/tmp")
        subprocess.run(["cp", "-a", running.state, folder], check=True)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def changed(settings, folder, change):
    """A daemon on a copy that change(audit folder) has been at."""
    state = tempfile.mkdtemp(prefix="sbxt-state-", dir="/var/tmp")
    os.chmod(state, 0o755)
    try:
        subprocess.run(["cp", "-a", os.path.join(folder, "state/."), state], check=True)
        change(os.path.join(state, "audit"))
        with Instance(settings=settings, state=state) as running:
            yield running
    finally:
        shutil.rmtree(state)


def database_of(audit):
    return sorted(os.path.join(audit, f) for f in os.listdir(audit) if f.endswith(".db"))[-1]


def head_of(audit):
    with opened(database_of(audit)) as db:
        return db.execute("SELECT max(coalesce((SELECT max(seq) FROM decision), 0),"
                          " coalesce((SELECT max(seq) FROM flow), 0))").fetchone()[0]


def cut(audit, after):
    with opened(database_of(audit)) as db:
        for table, key in (("decision", "seq"), ("flow", "seq"), ("priv", "seq"), ("checkpoint", "upto_seq")):
            db.execute(f"DELETE FROM {table} WHERE {key} > ?", (after,))


def test_an_ended_log_is_signed_to_its_end(settings, stopped_copy, root):
    heads = []
    with changed(settings, stopped_copy, lambda audit: heads.append(head_of(audit))) as running:
        assert heads[0] in [line[0] for line in checkpoints_of(running)]
        assert verify(running, root)["valid"]


def test_rows_cut_below_a_checkpoint_of_the_file(settings, stopped_copy, root):
    """Named also after the daemon has gone on: it does not use a number twice."""
    heads = []

    def change(audit):
        heads.append(head_of(audit))
        cut(audit, heads[0] - 3)

    with changed(settings, stopped_copy, change) as running:
        assert bad_row(running, root) == heads[0] - 2
        assert running.rows(heads[0])[0]["seq"] == heads[0] + 1
        gaps = running.rows(heads[0], kind="admin", action="gap")
        assert [r["reason"] for r in gaps] == ["missing-rows"]
        assert "rows are missing" in running.log_text()


def test_rows_cut_together_with_their_checkpoints(settings, stopped_copy, root):
    """Nothing in the folder shows it; what was kept elsewhere does."""
    kept = []

    def change(audit):
        with open(os.path.join(audit, "checkpoints"), encoding="ascii") as f:
            lines = f.readlines()
        before = int(lines[-2].split()[0])
        with opened(database_of(audit)) as db:
            digest, = db.execute("SELECT hash FROM decision WHERE seq = ?", (before + 1,)).fetchone() or \
                db.execute("SELECT hash FROM flow WHERE seq = ?", (before + 1,)).fetchone()
        kept.append(f"{before + 1}:{digest.hex()}")
        cut(audit, before)
        with open(os.path.join(audit, "checkpoints"), "w", encoding="ascii") as f:
            f.writelines(lines[:-1])

    with changed(settings, stopped_copy, change) as running:
        assert verify(running, root)["valid"]
        sequence = int(kept[0].split(":")[0])
        assert bad_row(running, root, "--head", kept[0]) == sequence


def test_a_row_changed_and_all_hashes_made_anew(settings, stopped_copy, root):
    """Whoever can write the database can make a chain, but no signatures."""
    first = []

    def change(audit):
        with opened(database_of(audit)) as db:
            sequence = db.execute("SELECT max(seq) FROM decision WHERE action = 'connect'").fetchone()[0]
            db.execute("UPDATE decision SET reason = 'forged' WHERE seq = ?", (sequence,))
            chain.rehash(db)
            assert chain.problems(db) != []  # the checkpoints alone
            first.append(db.execute("SELECT min(upto_seq) FROM checkpoint WHERE upto_seq >= ?", (sequence,)).fetchone()[0])

    with changed(settings, stopped_copy, change) as running:
        verdict = verify(running, root)
        assert verdict.get("firstBadSequence") == first[0], verdict
        assert "signed" in verdict["message"]


@pytest.mark.parametrize("where", ["file", "database"])
def test_a_forged_checkpoint(settings, stopped_copy, root, where):
    found = []

    def change(audit):
        path = os.path.join(audit, "checkpoints")
        with open(path, encoding="ascii") as f:
            lines = f.readlines()
        words = lines[-1].split()
        found.append(int(words[0]))
        forged = ("0" if words[3][0] != "0" else "1") + words[3][1:]
        if where == "file":
            with open(path, "w", encoding="ascii") as f:
                f.writelines(lines[:-1] + [" ".join(words[:3] + [forged]) + "\n"])
        else:
            with opened(database_of(audit)) as db:
                db.execute("UPDATE checkpoint SET sig = ? WHERE upto_seq = ?", (bytes.fromhex(forged), found[0]))

    with changed(settings, stopped_copy, change) as running:
        verdict = verify(running, root)
        assert verdict.get("firstBadSequence") == found[0] and "signed" in verdict["message"]


def test_a_damaged_line_of_the_file(settings, stopped_copy, root):
    def change(audit):
        path = os.path.join(audit, "checkpoints")
        with open(path, encoding="ascii") as f:
            lines = f.readlines()
        with open(path, "w", encoding="ascii") as f:
            f.writelines(["nonsense\n"] + lines)

    with changed(settings, stopped_copy, change) as running:
        assert bad_row(running, root) == 1


def test_a_torn_line_is_cut_and_no_error(settings, stopped_copy, root):
    def change(audit):
        with open(os.path.join(audit, "checkpoints"), "a", encoding="ascii") as f:
            f.write("123 abc")

    with changed(settings, stopped_copy, change) as running:
        assert signed(running, root)
        with open(os.path.join(folder_of(running), "checkpoints"), encoding="ascii") as f:
            text = f.read()
        assert "abc" not in text.split() and all(len(line.split()) == 4 for line in text.splitlines())


def test_a_replaced_key(settings, stopped_copy, root):
    heads = []

    def change(audit):
        heads.append(head_of(audit))
        os.unlink(os.path.join(audit, "key"))

    with changed(settings, stopped_copy, change) as running:
        verdict = verify(running, root)
        assert verdict["firstBadSequence"] == heads[0] + 1 and "key" in verdict["message"]
        assert [r["reason"] for r in running.rows(heads[0], action="gap")] == ["key-replaced"]
        # The old rows hold still, and the new ones by themselves.
        assert verify(running, root, "--to", str(heads[0]))["valid"]
        assert verify(running, root, "--from", str(heads[0] + 1))["valid"]


def test_a_damaged_key_is_no_key(settings, stopped_copy):
    def change(audit):
        with open(os.path.join(audit, "key"), "r+", encoding="ascii") as f:
            f.write("zz")

    with pytest.raises(AssertionError, match="signing key"):
        with changed(settings, stopped_copy, change):
            pass


def test_a_byte_of_the_file_changed(settings, stopped_copy, root):
    """Not by SQL: the name of a host where it stands in the file."""
    def change(audit):
        path = database_of(audit)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=DELETE")
        with open(path, "r+b") as f:
            data = f.read()
            assert b"evil.test" in data
            f.seek(0)
            f.write(data.replace(b"evil.test", b"eviI.test"))

    with changed(settings, stopped_copy, change) as running:
        with running.database(running.segments()[0]) as db:
            expected = db.execute("SELECT min(seq) FROM decision LEFT JOIN host USING(host_id) LEFT JOIN priv USING(seq)"
                                  " WHERE name = 'eviI.test' OR instr(raw, CAST('eviI.test' AS BLOB))").fetchone()[0]
        assert bad_row(running, root) == expected
