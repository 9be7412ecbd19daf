"""Denied paths: whoever tries them is refused, and the attempt is a row with path, process and rule."""

import contextlib
import json
import os
import signal
import subprocess

import pytest

from machine import Instance, children_of, comm_of, eventually, has_fuse

CANARY = "CANARY-0039\n"
SUBSCRIBE = "io.sandboxd.Events.Subscribe"


@pytest.fixture(autouse=True)
def _fuse():
    if not has_fuse():
        pytest.skip("no FUSE on this machine")


def furnish(user):
    """A workspace with a denied file, a denied folder, and the profile that denies them."""
    work = user.workspace()
    user.write(work + "/secret.txt", CANARY)
    user.write(work + "/vault/key", CANARY)
    user.write(work + "/open.txt", "open\n")
    profile = user.write(user.workspace() + "/profile.json", json.dumps({
        "version": 1, "name": "denies", "extends": ["base"],
        "filesystem": {"deny": ["${workspace}/secret.txt", "${workspace}/vault"]}}))
    return work, profile


def attempts(instance, before, session=None, **equal):
    """(path, action, rule, count) of file rows since then."""
    rows = [r for r in instance.rows(before, kind="file", **equal) if session in (None, r["session"])]
    return [(r["path"].decode(errors="replace"), r["action"], r["rule"], json.loads(r["detail"]).get("count", 1)) for r in rows]


def events_after(instance, user, cursor=None):
    parameters = {"follow": False, **({"cursor": cursor} if cursor else {})}
    replies = instance.call(user, SUBSCRIBE, parameters, more=True)
    return [r["parameters"]["event"] for r in replies if "event" in r["parameters"]], replies[-1]["parameters"]["cursor"]


# Command, what it tried, below the workspace.
TRIES = (("cat secret.txt", "/secret.txt", "open"), ("stat secret.txt", "/secret.txt", "stat"),
         ("python3 -c 'open(\"secret.txt\")'", "/secret.txt", "open"), ("echo x >>secret.txt", "/secret.txt", "open"),
         ("python3 -c 'import os; os.listdir(\"vault\")'", "/vault", "list"), ("ls vault", "/vault", "stat"),
         ("cat vault/key", "/vault/key", "lookup"), ("stat vault/key", "/vault/key", "lookup"),
         ("cat vault/absent", "/vault/absent", "lookup"), ("mkdir vault/new", "/vault/new", "lookup"),
         ("cd vault", "/vault", "access"))


def test_attempts_are_rows(instance, either):
    work, profile = furnish(either)
    _, cursor = events_after(instance, either)
    before = instance.head()
    session = instance.create(either, "-p", profile, cwd=work)
    for command, _, _ in TRIES:
        done = instance.ctl(either, "exec", "-q", session, "--", "sh", "-c", command)
        assert done.returncode != 0 and "CANARY" not in done.stdout, (command, done)
        assert "denied" in done.stderr or "can't cd" in done.stderr, (command, done, instance.log_text()[-3000:])
    done = instance.ctl(either, "exec", session, "--", "cat", "open.txt")
    assert done.stdout == "open\n", (done, instance.log_text()[-3000:])

    def found():
        rows = instance.rows(before, kind="file", session=session)
        return rows if {(r["path"].decode(), r["action"], str(r["exec"])) for r in rows} >= wanted else None

    wanted = {(work + path, action, str(i)) for i, (_, path, action) in enumerate(TRIES, 1)}
    rows = eventually(found, 20)
    assert rows, (wanted, attempts(instance, before))
    assert {r["verdict"] for r in rows} == {"deny"} and all(r["pid"] > 0 for r in rows)
    assert {r["rule"] for r in rows} == {"${workspace}/secret.txt", "${workspace}/vault"}
    assert {json.loads(r["detail"])["program"] for r in rows} >= {"cat", "stat", "python3", "sh", "ls", "mkdir"}
    instance.ctl(either, "remove", "-f", session)
    events, _ = events_after(instance, either, cursor)
    denied = [e for e in events if e["kind"] == "decision.denied"]
    # So many a second are told one by one, the rest as one with their number.
    assert {e["path"] for e in denied} <= {work + path for _, path, _ in TRIES}
    assert denied[0]["path"] == work + TRIES[0][1] and sum(e["details"]["count"] for e in denied) >= len(TRIES)
    assert {e["details"]["kind"] for e in denied} == {"file"} and all(e["auditSequence"] > before for e in denied)
    assert os.listdir(work + "/vault") == ["key"]


def test_the_command_line_shows_them(instance, alice):
    work, profile = furnish(alice)
    done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "sh", "-c", "ls -la; cat vault/key", cwd=work)
    assert f"denied: {work}/vault/key (lookup, rule ${{workspace}}/vault)" in done.stderr, done.stderr
    # Who lists a folder looks at all that is in it.
    assert "secret.txt (stat" not in done.stderr
    log = instance.ctl(alice, "audit", "log", "--kind", "file", "--json")
    records = [json.loads(line) for line in log.stdout.splitlines()]
    assert any(r["path"] == work + "/vault/key" and r["decision"] == "deny" and r["process"] == "1" and r["pid"] > 0
               for r in records), log.stdout


def test_credential_folders_of_any_home(instance, either):
    """Masked whether they exist or not; they look empty, and who looks into them is noticed."""
    before = instance.head()
    script = "cat ~/.ssh/id_rsa; stat ~/.aws/credentials; ls ~/.kube; touch ~/.gnupg/x; ls -d ~/.config/gcloud; rmdir ~/.ssh"
    done = instance.sh(either, script, options=("-q",))
    assert done.stdout.splitlines() == [either.home + "/.config/gcloud"], done
    assert "id_rsa: No such file" in done.stderr and "credentials': No such file" in done.stderr, done
    wanted = {(either.home + path, action, "credentials") for path, action in (
        ("/.ssh/id_rsa", "lookup"), ("/.aws/credentials", "lookup"), ("/.kube", "list"), ("/.gnupg/x", "lookup"))}
    assert eventually(lambda: {a[:3] for a in attempts(instance, before)} >= wanted, 20), attempts(instance, before)


def test_nobody_comes_to_the_root_of_the_masks(instance, either):
    """A session has its nodes, one by one, and no way to ask for others."""
    script = "grep -c ' fuse ' /proc/self/mountinfo; ls /run/sandbox/closed; cd /run/sandbox/closed/watched; stat /run/sandbox/closed/watched/d0"
    done = instance.sh(either, script, options=("-q",))
    assert int(done.stdout) >= 8 and done.stderr.count("ermission denied") + done.stderr.count("can't cd") == 3, done


def test_a_rule_that_names_a_folder_opens_it(instance, alice):
    alice.write(alice.home + "/.kube/config", "shown\n")
    profile = alice.write(alice.workspace() + "/profile.json", json.dumps(
        {"version": 1, "name": "kube", "extends": ["base"], "filesystem": {"read": ["~/.kube/config"]}}))
    done = instance.sh(alice, "cat ~/.kube/config", options=("-q", "-p", profile))
    assert done.stdout == "shown\n", done


def test_a_link_of_an_earlier_session_is_not_followed(instance, either):
    """What a session leaves in its home chooses no place for the masks of the next one."""
    work = either.workspace()
    assert instance.ctl(either, "run", "-q", "-T", "--", "true", cwd=work).returncode == 0
    homes = [os.path.join(folder, name) for folder, names, _ in os.walk(os.path.join(instance.state, "homes")) for name in names
             if name == ".ssh" and not os.path.islink(os.path.join(folder, name))]
    assert homes, "no persistent home has a folder for the mask"
    for path in homes:
        os.rmdir(path)
        os.symlink(work, path)
        owner = os.stat(os.path.dirname(path))
        os.lchown(path, owner.st_uid, owner.st_gid)
    either.write(work + "/mine.txt", "mine\n")
    done = instance.ctl(either, "run", "-q", "-T", "--", "sh", "-c", "cat mine.txt; test -d ~/.ssh && test ! -L ~/.ssh && echo masked", cwd=work)
    assert done.stdout == "mine\nmasked\n", done


MANY = """
import os, sys
for i in range(int(sys.argv[1])):
    try:
        os.open(sys.argv[2] % i if "%" in sys.argv[2] else sys.argv[2], os.O_RDONLY)
    except OSError:
        continue
    sys.exit(3)
"""


@pytest.mark.parametrize("name, n", [("vault/key", 3000), ("vault/%d", 6000)])
def test_bursts_are_counted(instance, either, name, n):
    """Nothing is lost, and what a session does a thousand times takes some rows."""
    work, profile = furnish(either)
    before = instance.head()
    done = instance.ctl(either, "run", "-q", "-T", "-p", profile, "--", "python3", "-c", MANY, str(n), name, cwd=work, timeout=300)
    assert done.returncode == 0, done

    def found():
        return [a for a in attempts(instance, before) if a[0].startswith(work + "/vault")]

    assert eventually(lambda: sum(a[3] for a in found()) >= n, 60), sum(a[3] for a in found())
    rows = found()
    assert sum(a[3] for a in rows) == n and len(rows) < n / 4, len(rows)


def test_names_are_bytes(instance, alice):
    """A name of a session's own making is stored as it is, and shown so that it harms nobody."""
    work, profile = furnish(alice)
    before = instance.head()
    code = "import os\nfor n in (b'a\\nb', b'\\xff\\x1b[2J', b'\"}', b'x' * 255):\n" \
           "  try: os.stat(b'vault/' + n)\n  except OSError: pass\n"
    assert instance.ctl(alice, "run", "-q", "-T", "-p", profile, "--", "python3", "-c", code, cwd=work).returncode == 0
    wanted = {os.fsencode(work) + b"/vault/" + n for n in (b"a\nb", b"\xff\x1b[2J", b'"}', b"x" * 255)}
    assert eventually(lambda: {r["path"] for r in instance.rows(before, kind="file")} >= wanted, 20)
    log = instance.ctl(alice, "audit", "log", "--kind", "file", "-n", "4")
    assert "\x1b" not in log.stdout and r"\x1b" in log.stdout, log.stdout


@pytest.fixture(name="own")
def _own():
    with Instance() as daemon:
        yield daemon


# As the guard of a session does: with the session's mounts, as its user, and root's all the same.
LOOK = """
import ctypes, os, sys, time
assert ctypes.CDLL(None).setns(os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY), 0x20000) == 0
os.setegid(int(sys.argv[3]))
os.seteuid(int(sys.argv[2]))
for i in range(600000):
    try:
        os.stat(f"{sys.argv[4]}/own{i}")
        print("found", flush=True)
    except FileNotFoundError:
        pass
    if i == 200:
        print("on", flush=True)
    if i > 200:
        time.sleep(0.001)
"""


def test_nothing_hides_behind_the_daemons_own(own, alice):
    """Who keeps the session looks at masks, too: that is no attempt, and no attempt passes for it."""
    work, profile = furnish(alice)
    session = own.create(alice, "-p", profile, cwd=work)
    held = own.ctl_start(alice, "exec", "-q", session, "--", "sleep", "600")

    def inside():
        return [pid for pid in children_of(own.process.pid) if comm_of(pid) == "sleep"]

    assert eventually(inside, 60)
    before = own.head()
    with subprocess.Popen(["/usr/bin/python3", "-c", LOOK, str(inside()[0]), str(alice.uid), str(alice.gid), work + "/vault"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as look:
        try:
            assert look.stdout.readline() == "on\n"
            done = own.ctl(alice, "exec", "-q", "-T", session, "--", "python3", "-c", MANY, "2000", work + "/vault/%d", timeout=300)
            assert done.returncode == 0, done
            assert eventually(lambda: sum(a[3] for a in attempts(own, before)) >= 2000, 60), attempts(own, before)
            assert look.poll() is None
        finally:
            look.kill()
    own.ctl(alice, "terminate", "--grace", "0s", session)
    held.communicate(timeout=120)
    own.ctl(alice, "remove", session)
    found = attempts(own, before)
    assert sum(a[3] for a in found) == 2000 and not [a for a in found if "/own" in a[0]], found


WAITER = """
import os, sys, time
def attempt():
    try:
        return open("secret.txt").read()
    except OSError as e:
        return "refused: %d\\n" % e.errno
n = 0
print("ready", flush=True)
while True:
    if os.path.exists("go%d" % n):
        with open("new", "w") as f:
            f.write(attempt())
        os.rename("new", "said%d" % n)
        n += 1
    time.sleep(0.02)
"""


@contextlib.contextmanager
def waiter(own, user):
    """A program of a session that tries when it is told to: (session, ask)."""
    work, profile = furnish(user)
    session = own.create(user, "-p", profile, cwd=work)
    child = own.ctl_start(user, "exec", "-q", session, "--", "python3", "-c", WAITER, stdout=-1)
    n = 0

    def ask(wait=True):
        nonlocal n
        said = f"{work}/said{n}"
        user.write(f"{work}/go{n}", "")
        n += 1
        if not wait:
            return None
        assert eventually(lambda: os.path.exists(said), 60)
        with open(said, encoding="utf-8") as f:
            return f.read()

    try:
        assert child.stdout.readline() == b"ready\n"
        yield session, ask
    finally:
        own.ctl(user, "terminate", session)
        own.ctl(user, "remove", "-f", session)
        child.communicate(timeout=120)


def test_a_dead_watch_leaves_masks_closed(own, either):
    """What runs is refused as before; the next watch serves what starts then."""
    with waiter(own, either) as (_, ask):
        assert ask().startswith("refused")
        for _ in range(2):
            old = own.workers("sandboxd-watch")
            os.kill(old[0], signal.SIGKILL)
            assert ask().startswith("refused")
            assert eventually(lambda o=old: own.workers("sandboxd-watch") not in (o, []), 60)
        assert ask().startswith("refused")

        def is_recorded():
            work, profile = furnish(either)
            before = own.head()
            done = own.ctl(either, "run", "-q", "-T", "-p", profile, "--", "cat", "secret.txt", cwd=work)
            assert done.returncode == 1 and done.stdout == "", done
            return eventually(lambda: (work + "/secret.txt", "open") in [a[:2] for a in attempts(own, before)], 3)

        # The first ones may have been made ahead without it.
        assert eventually(is_recorded, 60)


def test_a_session_without_a_watch_says_so(own, alice):
    """Masks are plain ones then: as closed, and nobody hears of attempts."""
    work, profile = furnish(alice)

    def is_said():
        for pid in own.workers("sandboxd-watch"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        session = own.create(alice, "-p", profile, cwd=work)
        done = own.ctl(alice, "exec", "-q", session, "--", "sh", "-c", "cat secret.txt vault/key; ls vault")
        assert done.returncode != 0 and done.stdout == "", done
        warnings = json.loads(own.ctl(alice, "describe", "--json", session).stdout)["runtime"].get("warnings", [])
        own.ctl(alice, "remove", "-f", session)
        return "attempts-not-recorded" in {w["code"] for w in warnings}

    assert eventually(is_said, 60)


def test_audit_that_is_away_hears_of_it_later(own, alice):
    with waiter(own, alice) as (session, ask):
        assert ask().startswith("refused")
        before = own.head()
        old = own.workers("sandboxd-audit")
        for pid in old:
            # Its readers go with it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert ask().startswith("refused")
        assert eventually(lambda: [a for a in attempts(own, before, session) if a[1] == "open"], 60)


def test_a_watch_that_stands_still_holds_nobody(own, alice):
    """Who waits for it can be killed, and the session ends."""
    with waiter(own, alice) as (session, ask):
        assert ask().startswith("refused")
        pid = own.workers("sandboxd-watch")[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            ask(wait=False)
            done = own.ctl(alice, "terminate", session, timeout=60)
            assert done.returncode == 0, done
            assert eventually(lambda: json.loads(own.ctl(alice, "describe", "--json", session).stdout)
                              ["runtime"]["state"] in ("exited", "failed"), 60)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_doctor_knows(instance, alice):
    done = instance.ctl(alice, "doctor", "--json")
    checks = {c["name"]: c for line in done.stdout.splitlines() for c in json.loads(line).get("checks", [json.loads(line)])}
    assert checks["fuse"]["state"] == "ok" and "denied path" in checks["fuse"]["message"], checks["fuse"]
