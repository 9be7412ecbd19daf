"""The hash chain of an audit segment, computed anew from its tables and from nothing of the daemon's code."""

import hashlib
import struct

from machine import KINDS, VERDICTS

ABSENT = b"\xff\xff\xff\xff"


def field(value):
    if value is None:
        return ABSENT
    if isinstance(value, int):
        value = struct.pack(">Q", value)
    elif isinstance(value, str):
        value = value.encode()
    return struct.pack(">I", len(value)) + value


def sha256(data):
    return hashlib.sha256(data).digest()


def genesis(segment):
    return sha256(b"".join(map(field, (segment["machine_id"], segment["n"], segment["prev_head"], segment["pubkey"]))))


def decision_fields(db, row):
    """The fields of a row of `decision`, in the order of the documentation."""
    def one(table, key, column):
        if row[key] is None:
            return None
        return db.execute(f"SELECT * FROM {table} WHERE {column} = ?", (row[key],)).fetchone()

    session = one("session", "session_id", "session_id")
    policy = one("policy", "policy_id", "policy_id")
    rule = one("rule", "rule_id", "rule_id")
    host = one("host", "host_id", "host_id")
    exe = one("exe", "exe_id", "exe_id")
    fields = ["d", row["seq"], row["ts_us"], row["boot_us"], KINDS[row["kind"]], row["action"],
              None if row["verdict"] is None else VERDICTS[row["verdict"]], session and session["id"], row["uid"],
              row["exec"], policy and policy["sha256"], row["generation"], rule and rule["layer"],
              rule and rule["name"], rule and rule["text"], row["entry"], row["protocol"], host and host["name"],
              row["ip"], row["port"], row["method"], row["status"], row["pid"], exe and exe["path"],
              exe and exe["sha256"], row["cred"], row["ref_seq"], row["reason"], row["priv_hash"]]
    return fields


def close_fields(db, row):
    session = row["session_id"] and db.execute("SELECT id FROM session WHERE session_id = ?",
                                               (row["session_id"],)).fetchone()
    return ["f", row["seq"], row["ts_us"], row["conn_seq"], session and session["id"], row["ip"], row["port"],
            row["dur_us"], row["bytes_up"], row["bytes_dn"], row["reason"]]


def fields_of(db, table, row, seen):
    """With the columns of the session, in the first row of the segment that names it."""
    fields = decision_fields(db, row) if table == "decision" else close_fields(db, row)
    if row["session_id"] is not None and row["session_id"] not in seen:
        seen.add(row["session_id"])
        session = db.execute("SELECT * FROM session WHERE session_id = ?", (row["session_id"],)).fetchone()
        if session:
            fields += [session[name] for name in ("id", "uid", "user", "name", "profile", "agent", "agent_session",
                                                  "workspace", "cgroup", "degraded", "started_us")]
    return fields


def problems(db):
    """What is wrong with the chain of this segment; an empty list when nothing is."""
    found = []
    segment = db.execute("SELECT * FROM segment").fetchone()
    head = genesis(segment)
    rows = [(row["seq"], "decision", row) for row in db.execute("SELECT * FROM decision")]
    rows += [(row["seq"], "flow", row) for row in db.execute("SELECT * FROM flow")]
    seen = set()
    expected = segment["first_seq"]
    heads = {}
    for sequence, kind, row in sorted(rows, key=lambda r: r[0]):
        if sequence != expected:
            found.append(f"row {sequence} follows, {expected} was expected")
        expected = sequence + 1
        head = sha256(b"sandboxd-audit-1" + head + b"".join(map(field, fields_of(db, kind, row, seen))))
        heads[sequence] = head
        if head != row["hash"]:
            found.append(f"row {sequence} ({kind}): its hash is another")
            head = row["hash"]
        if kind == "decision" and row["priv_hash"]:
            private = db.execute("SELECT * FROM priv WHERE seq = ?", (sequence,)).fetchone()
            if private and sha256(private["salt"] + b"".join(map(field, (private["path"], private["raw"],
                                                                         private["detail"])))) != row["priv_hash"]:
                found.append(f"row {sequence}: its erasable values are others")
    for policy in db.execute("SELECT * FROM policy"):
        if sha256(policy["body"].encode()) != policy["sha256"]:
            found.append(f"policy {policy['policy_id']}: its digest is another")
    for mark in db.execute("SELECT * FROM checkpoint"):
        if heads.get(mark["upto_seq"]) != mark["head"]:
            found.append(f"checkpoint at {mark['upto_seq']}: its head is another")
    return found


def rehash(db):
    """Makes the chain anew after a change, as somebody would who can write the database."""
    head = genesis(db.execute("SELECT * FROM segment").fetchone())
    rows = [(row["seq"], "decision", row) for row in db.execute("SELECT * FROM decision")]
    rows += [(row["seq"], "flow", row) for row in db.execute("SELECT * FROM flow")]
    seen = set()
    for sequence, table, row in sorted(rows, key=lambda r: r[0]):
        head = sha256(b"sandboxd-audit-1" + head + b"".join(map(field, fields_of(db, table, row, seen))))
        db.execute(f"UPDATE {table} SET hash = ? WHERE seq = ?", (head, sequence))
