"""Quotas of one user, and the reserve of root: properties D10, D15, D39, D46, D49."""

import contextlib
import errno
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time

import pytest

import machine
from flood import Flood

INFO = b'{"method":"org.varlink.service.GetInfo"}\0'

# Runs as a user: opens connections, says how they fared, and holds them until its input ends.
HOLD = """
import json, socket, sys
path, n, says = sys.argv[1], int(sys.argv[2]), sys.argv[3]
held, answers = [], []
for _ in range(n):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path) # without a timeout it waits for its place in the queue
    s.settimeout(20)
    held.append(s)
for s in held:
    if not says:
        continue
    data = b""
    try:
        s.sendall(says.encode() + b"\\0")
        while not data.endswith(b"\\0"):
            more = s.recv(65536)
            if not more: break
            data += more
    except OSError: pass
    answers.append(json.loads(data[:-1]) if data.endswith(b"\\0") else None)
print(json.dumps(answers), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(instance, user, n, says=INFO[:-1].decode()):
    """n connections of a user, and what each was answered; None: closed."""
    child = user.popen(["/usr/bin/python3", "-c", HOLD, instance.socket, str(n), says], stdin=subprocess.PIPE,
                       stdout=subprocess.PIPE)
    try:
        yield json.loads(child.stdout.readline())
    finally:
        child.communicate(b"")


@contextlib.contextmanager
def daemon(settings, **limits):
    with machine.Instance(settings={**settings, "limits": limits}) as running:
        yield running
        assert running.process.poll() is None, running.log_text()[-3000:]


def refused(instance, user, resource):
    """How many refusals the log counts, and in how many rows."""
    rows = instance.rows(0, kind="limit", action="reached", uid=user.uid, reason=resource)
    assert all(row["verdict"] == "deny" for row in rows)
    return sum(json.loads(row["detail"])["refused"] for row in rows), len(rows)


def test_d15_connections_of_one_user(settings, alice, bob, root):
    """The 65th gets an error, many more are closed; another user and root are served; counted, not written."""
    with daemon(settings) as instance:
        start = time.monotonic()
        with holder(instance, alice, 200) as answers:
            good = [a for a in answers if a and "vendor" in a["parameters"]]
            over = [a for a in answers if a and a.get("error") == "io.sandboxd.Session.QuotaExceeded"]
            assert len(good) == 64
            assert over and all(a["parameters"] == {"resource": "connections", "limit": 64} for a in over)
            assert len(over) <= 64 and len(good) + len(over) < 200
            for user in (bob, root):
                assert "vendor" in instance.call(user, "org.varlink.service.GetInfo")[0]["parameters"]
            done = instance.ctl(alice, "list")
            assert done.returncode == 125 and "connections" in done.stderr and done.stderr.count("\n") == 1
        assert machine.eventually(lambda: refused(instance, alice, "connections")[0] >= 136)
        assert refused(instance, alice, "connections")[1] <= time.monotonic() - start + 2
        assert machine.eventually(lambda: instance.ctl(alice, "list").returncode == 0)


def test_d15_all_connections_taken(settings, alice, bob, root):
    """Users together have everything: root connects, lists and ends; of another user the first
    few are served, and the next hears why not."""
    with daemon(settings, connections=40, connections_per_user=30) as instance:
        session = instance.create(root)
        with holder(instance, alice, 30), holder(instance, bob, 10):
            with machine.test_user("c") as carol:
                with holder(instance, carol, 6) as answers:
                    assert all("vendor" in a["parameters"] for a in answers[:4])
                    assert answers[4] == {"error": "io.sandboxd.Session.QuotaExceeded",
                                          "parameters": {"resource": "connections"}}
            assert session in instance.ctl(root, "list").stdout
            assert instance.ctl(root, "terminate", session).returncode == 0
            assert instance.sh(root, "echo fine").stdout == "fine\n"


def test_d15_sessions_of_one_user(settings, alice, bob, root):
    with daemon(settings, sessions_per_user=3, sessions=5) as instance:
        mine = [instance.create(alice) for _ in range(3)]
        done = instance.ctl(alice, "create", cwd=alice.workspace())
        assert done.returncode == 125 and "sessions" in done.stderr
        answer = instance.call(alice, "io.sandboxd.Session.Create", {"context": {"workspace": alice.workspace()}})[0]
        assert answer["error"].endswith("QuotaExceeded") and answer["parameters"] == {"resource": "sessions", "limit": 3}
        theirs = [instance.create(bob) for _ in range(2)]
        # All together have as many as may be: not for root.
        answer = instance.call(bob, "io.sandboxd.Session.Create", {"context": {"workspace": bob.workspace()}})[0]
        assert answer["error"].endswith("QuotaExceeded") and answer["parameters"] == {"resource": "sessions"}
        assert instance.sh(root, "echo fine").stdout == "fine\n"
        assert machine.eventually(lambda: refused(instance, alice, "sessions")[0] == 2)
        assert machine.eventually(lambda: refused(instance, bob, "sessions")[0] == 1)
        assert instance.ctl(alice, "terminate", mine[0]).returncode == 0
        assert instance.sh(alice, "echo again").stdout == "again\n"
        assert len(theirs) == 2


def test_d49_failed_starts_count(settings, alice, bob):
    """A loop of starts that fail uses up the rate; a start that would work is then refused, others' are not."""
    with daemon(settings, starts_per_second=1) as instance:
        work = alice.workspace()
        bad = {"context": {"workspace": work, "profile": "no-such-profile"}}
        for _ in range(12):
            answer = instance.call(alice, "io.sandboxd.Session.Create", bad)[0]
            assert "error" in answer
        answer = instance.call(alice, "io.sandboxd.Session.Create", {"context": {"workspace": work}})[0]
        assert answer == {"error": "io.sandboxd.Session.QuotaExceeded", "parameters": {"resource": "starts", "limit": 1}}
        done = instance.sh(alice, "echo no")
        assert done.returncode == 125 and "starts" in done.stderr
        assert instance.sh(bob, "echo fine").stdout == "fine\n"
        assert machine.eventually(lambda: refused(instance, alice, "starts")[0] >= 2)
        assert refused(instance, bob, "starts") == (0, 0)
        # It is a rate.
        assert machine.eventually(lambda: instance.sh(alice, "echo again").stdout == "again\n", 30, 1)


STORM = """
import socket, sys
closed = denied = answered = 0
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    try:
        s.connect(sys.argv[1])
        s.sendall(b'{"method":"org.varlink.service.GetInfo"}\\0')
        if s.recv(10): answered += 1
        else: closed += 1
    except PermissionError: denied += 1
    except OSError: closed += 1
    s.close()
print(answered, closed, denied)
"""


def storm(instance, user, n):
    """How many of so many connections, one after the other, were answered, closed and refused by the kernel."""
    return [int(count) for count in user.run(["/usr/bin/python3", "-c", STORM, instance.socket, str(n)]).stdout.split()]


ACCESS = "system.posix_acl_access"


def access_list(instance):
    """The entries of the access control list of the socket's file: tag (acl(5)), permissions, id."""
    try:
        return list(struct.iter_unpack("<HHI", os.getxattr(instance.socket, ACCESS)[4:]))
    except OSError as e:
        assert e.errno == errno.ENODATA, e
        return []


def shut_out(instance):
    return [uid for tag, permissions, uid in access_list(instance) if tag == 2 and permissions == 0 and uid != 0]


def test_d15_connects_have_a_rate(settings, alice, bob):
    with daemon(settings, connects_per_second=1) as instance:
        answered, closed, denied = storm(instance, alice, 50)
        assert answered >= 4 and closed > 0 and denied == 0
        assert machine.eventually(lambda: refused(instance, alice, "connects")[0] == closed)
        assert "vendor" in instance.call(bob, "org.varlink.service.GetInfo")[0]["parameters"]
        assert machine.eventually(lambda: instance.ctl(alice, "list").returncode == 0, 30, 0.5)


def test_d15_floods_of_connections_are_shut_out(settings, alice, bob, root):
    """Who goes on connecting beyond the rate is refused by the kernel, which costs the daemon nothing; nobody else is,
    and after a second of peace everything is as before."""
    with daemon(settings, connects_per_second=10) as instance:
        assert shut_out(instance) == []
        _, closed, denied = storm(instance, alice, 5000)
        assert denied > 10 * closed, (closed, denied)
        flood = Flood(instance, alice, ["connects"])
        try:
            assert machine.eventually(lambda: shut_out(instance) == [alice.uid], 60, 0.01)
            assert "vendor" in instance.call(bob, "org.varlink.service.GetInfo")[0]["parameters"]
            assert instance.ctl(root, "list").returncode == 0
            # Again and again: each time some are turned away first.
            n = refused(instance, alice, "connects")[0]
            assert machine.eventually(lambda: refused(instance, alice, "connects")[0] > n + 150, 60, 0.2)
            done = instance.ctl(alice, "list")
            while done.returncode == 0:
                done = instance.ctl(alice, "list")
            assert done.returncode == 125 and done.stderr.count("\n") == 1, done
        finally:
            flood.close()
        assert machine.eventually(lambda: instance.ctl(alice, "list").returncode == 0, 30, 0.5)
        assert machine.eventually(lambda: shut_out(instance) == [])


def test_d15_the_rights_of_the_socket_stay_the_administrators(settings, alice, bob):
    """Who may connect is the file's mode, and an access control list of the administrator's: neither is undone by a flood."""
    with daemon(settings, connects_per_second=1) as instance:
        os.chmod(instance.socket, 0o606)
        flood = Flood(instance, alice, ["connects"])
        try:
            assert machine.eventually(lambda: shut_out(instance) == [alice.uid], 60, 0.01)
            assert {permissions for tag, permissions, _ in access_list(instance) if tag in (0x04, 0x10)} <= {0}
        finally:
            flood.close()
        assert machine.eventually(lambda: access_list(instance) == [], 30)
        assert stat.S_IMODE(os.stat(instance.socket).st_mode) == 0o606
        os.chmod(instance.socket, 0o666)
        entries = [(0x01, 6, 2 ** 32 - 1), (0x02, 0, bob.uid), (0x04, 6, 2 ** 32 - 1), (0x10, 6, 2 ** 32 - 1), (0x20, 6, 2 ** 32 - 1)]
        os.setxattr(instance.socket, ACCESS, b"\2\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries))
        n = refused(instance, alice, "connects")[0]
        flood = Flood(instance, alice, ["connects"])
        try:
            assert machine.eventually(lambda: refused(instance, alice, "connects")[0] > n + 500, 60, 0.2)
        finally:
            flood.close()
        assert access_list(instance) == entries


def test_d15_shut_out_ends_with_the_daemon(settings, alice):
    with machine.Instance(settings={**settings, "limits": {"connects_per_second": 1}}) as instance:
        flood = Flood(instance, alice, ["connects"])
        try:
            assert machine.eventually(lambda: shut_out(instance) == [alice.uid], 60, 0.01)
            assert instance.stop() == 0
            assert shut_out(instance) == []
        finally:
            flood.close()


def test_d15_rows_have_a_rate(settings, alice, bob, root):
    """Commands beyond the rate are refused, never run unrecorded; others' are not; one row a second counts them."""
    with daemon(settings, rows_per_second=3) as instance:
        mine, theirs, roots = (instance.create(user) for user in (alice, bob, root))
        work = alice.workspace()
        results = []
        start = time.monotonic()
        for i in range(40):
            done = instance.ctl(alice, "exec", mine, "--", "echo", "ran", cwd=work)
            assert (done.returncode, done.stdout) == (0, "ran\n") or (done.returncode == 125 and done.stdout == "" and
                                                                      "rows" in done.stderr), done
            results.append(done.returncode)
        assert 5 < results.count(0) < 40 + 3 * (time.monotonic() - start)
        lost = results.count(125)
        assert lost > 0
        for user, session in ((bob, theirs), (root, roots)):
            assert instance.ctl(user, "exec", session, "--", "echo", "fine").stdout == "fine\n"
        assert machine.eventually(lambda: refused(instance, alice, "rows")[0] == lost), refused(instance, alice, "rows")
        assert refused(instance, alice, "rows")[1] <= time.monotonic() - start + 2
        assert refused(instance, bob, "rows") == (0, 0)
        ran = instance.rows(0, kind="session", action="exec", session=mine)
        assert len(ran) == results.count(0)


def test_d15_rows_have_a_share(settings, alice, bob, profile, web):
    """One user's rows take a part of the log and no more: then commands, requests and starts are denied without a
    row each."""
    log = {"retention_size": "20M", "segment_size": "4M"}
    url = f"http://allowed.test:{web.server_port}/"
    with machine.Instance(settings={**settings, "limits": {"rows_share": 1}, "audit": log}) as instance:
        mine = instance.create(alice, "-p", profile)
        child = instance.ctl_start(alice, "exec", mine, "--", "sh", "-c", f"cat; curl -s -w '%{{http_code}}' {url}",
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(1000):
            done = instance.ctl(alice, "exec", mine, "--", "true", "y" * 60000)
            if done.returncode:
                break
        assert 100 < n < 999 and done.returncode == 125 and "rows" in done.stderr, (n, done)
        # Of the rest of the share a small row may still be made.
        codes = []
        for _ in range(400):
            codes.append(instance.ctl(alice, "exec", mine, "--", "true").returncode)
        assert codes[-1] == 125
        before = len(instance.rows(0, kind="net"))
        out, _ = child.communicate("")
        assert out.endswith("403") and len(instance.rows(0, kind="net")) == before
        assert instance.sh(alice, "true").returncode == 125
        assert instance.sh(bob, f"curl -s {url}", options=("-p", profile)).stdout == "hello from the test server\n"
        assert machine.eventually(lambda: refused(instance, alice, "rows")[0] >= 3)
        assert refused(instance, bob, "rows") == (0, 0)


# Runs as a user: so many freezes and thaws in turn; how many were done.
FREEZES = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(30)
s.connect(sys.argv[1])
done = 0
for i in range(int(sys.argv[3])):
    call = {"method": "io.sandboxd.Session." + ("Thaw" if done % 2 else "Freeze"), "parameters": {"id": sys.argv[2]}}
    s.sendall(json.dumps(call).encode() + b"\\0")
    data = b""
    while not data.endswith(b"\\0"):
        data += s.recv(65536)
    done += "error" not in json.loads(data[:-1])
print(done)
"""


def test_d15_freezes_have_a_rate(settings, alice, bob):
    """Their rows are about what has happened; so there are not many."""
    with daemon(settings) as instance:
        mine, theirs = instance.create(alice), instance.create(bob)
        before, start = instance.head(), time.monotonic()
        done = int(alice.run(["/usr/bin/python3", "-c", FREEZES, instance.socket, mine, "600"]).stdout)
        assert 100 < done <= 128 + 4 * (time.monotonic() - start + 1)
        assert len([r for r in instance.rows(before, session=mine) if r["action"] in ("freeze", "thaw")]) == done
        assert instance.ctl(bob, "freeze", theirs).returncode == 0 and instance.ctl(bob, "thaw", theirs).returncode == 0
        assert machine.eventually(lambda: refused(instance, alice, "rows")[0] == 600 - done)


# Inside a session: so many requests for what is denied, each with a row of some kilobytes; the last answer's status.
DENIED = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 3128), 20)
f = s.makefile("rb")
for i in range(int(sys.argv[1])):
    s.sendall(b"GET http://denied.test/" + b"x" * 7000 + b" HTTP/1.1\\r\\nHost: denied.test\\r\\n\\r\\n")
    status, size, close = f.readline().split()[1], 0, False
    while (line := f.readline().strip().lower()):
        size = int(line.split()[1]) if line.startswith(b"content-length:") else size
        close = close or line == b"connection: close"
    f.read(size)
    if close:
        s = socket.create_connection(("127.0.0.1", 3128), 20)
        f = s.makefile("rb")
print(status.decode())
"""


def test_d15_sessions_of_root_have_a_share(settings, alice, root):
    """What runs in a session of root's is no more trusted than others': it cannot make everybody's rows the oldest."""
    log = {"retention_size": "20M", "segment_size": "4M"}
    with machine.Instance(settings={**settings, "limits": {"rows_share": 1}, "audit": log}) as instance:
        session = instance.create(alice)
        before = instance.head()
        done = instance.ctl(root, "run", "-T", "--", "python3", "-c", DENIED, "4000", cwd=root.workspace(), timeout=300)
        assert done.stdout == "403\n", done
        n = len(instance.rows(before, kind="net", uid=0))
        assert 1000 < instance.head() - before < 3500, n
        assert machine.eventually(lambda: refused(instance, root, "rows")[0] > 500)
        # Root outside is.
        assert instance.ctl(root, "audit", "verify").returncode == 0 and instance.sh(root, "echo fine").stdout == "fine\n"
        assert instance.ctl(alice, "exec", session, "--", "echo", "fine").stdout == "fine\n"


def test_d49_starts_whose_rows_are_beyond_the_quota(settings, alice, bob):
    with daemon(settings, rows_per_second=1) as instance:
        for _ in range(30):
            done = instance.sh(alice, "true")
        assert done.returncode == 125 and "rows" in done.stderr, done
        assert instance.sh(bob, "echo fine").stdout == "fine\n"
        assert not [p for p in instance.workers("sandbox-init") if machine.children_of(p)[1:]]


@pytest.mark.parametrize("text, words", [
    ({"connections": 0}, "connections"), ({"connections_per_user": 1 << 40}, "connections_per_user"),
    ({"rows_share": 101}, "rows_share"), ({"buffer_per_user": "1"}, "buffer_per_user"), ({"session": 1}, "session"),
    ({"starts_per_second": "7"}, "starts_per_second"), ({"users": -1}, "users")])
def test_settings_are_read_strictly(text, words):
    broken = machine.Instance(settings={"limits": text})
    try:
        with pytest.raises(AssertionError) as e:
            broken.start()
        assert words in str(e.value)
    finally:
        broken.remove()


def test_limits_are_reported(settings, alice):
    with daemon(settings, connections_per_user=7, sessions_per_user=9) as instance:
        found = instance.call(alice, "io.sandboxd.Manager.Describe")[0]["parameters"]
        assert (found["connectionsPerUserMax"], found["sessionsPerUserMax"]) == (7, 9)


def rank_of(pid):
    """Nice value of a process, and the group that its session is scheduled in with its nice value."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        nice = int(f.read().rpartition(b")")[2].split()[16])
    with open(f"/proc/{pid}/autogroup", encoding="ascii") as f:
        group = f.read().split()
    return nice, int(group[-1]) if group else 0


def test_d15_what_all_wait_for_comes_first(own_instance, alice):
    """The processes that serve everybody are scheduled before users' ones; nothing of a user inherits that."""
    session = own_instance.create(alice)
    grouped = os.path.exists("/proc/sys/kernel/sched_autogroup_enabled")
    writer = own_instance.workers("sandboxd-audit")[0]
    for pid in (own_instance.process.pid, writer, *own_instance.workers("sandboxd-dialer")):
        nice, group = rank_of(pid) if grouped else (-10, -10)
        assert (nice, group) == (-10, -10), (machine.program_of(pid), nice, group)
    for name in ("sandboxd-api", "sandboxd-egress", "sandbox-init"):
        assert all(not grouped or rank_of(pid) == (0, 0) for pid in own_instance.workers(name)), name
    assert own_instance.ctl(alice, "exec", session, "--", "nice").stdout == "0\n"


# struct sched_attr; the slice of an ordinary process stands where the runtime of others does, since Linux 6.12.
SLICE = """
import ctypes, struct, sys
libc = ctypes.CDLL(None)
for pid in map(int, sys.argv[1:]):
    data = ctypes.create_string_buffer(48)
    assert libc.syscall(315, pid, data, 48, 0) == 0
    print(struct.unpack("IIQiIQQQ", data.raw)[5])
"""

KEEPS_A_SLICE = r"""
import ctypes, struct, sys
libc = ctypes.CDLL(None)
own = ctypes.create_string_buffer(struct.pack("IIQiIQQQ", 48, 0, 0, 0, 0, 300000, 0, 0), 48)
assert libc.syscall(314, 0, own, 0) == 0
data = ctypes.create_string_buffer(48)
assert libc.syscall(315, 0, data, 48, 0) == 0
sys.exit(struct.unpack("IIQiIQQQ", data.raw)[5] != 300000)
"""


def has_slices():
    """Whether the kernel keeps a slice that a process sets for itself: from Linux 6.12 on."""
    return subprocess.run(["/usr/bin/python3", "-c", KEEPS_A_SLICE], check=False).returncode == 0


@pytest.mark.skipif(not has_slices(), reason="this kernel has no slices of a process's own")
def test_d15_short_turns_for_those_that_others_wait_for(own_instance, alice):
    """Init, that all of a session waits for, has the short turns that the launcher has; a command has what any has."""
    session = own_instance.create(alice)
    held = alice.popen([machine.CTL, "exec", session, "--", "/bin/cat"], stdin=subprocess.PIPE,
                       env=alice.environment(SANDBOXD_ADDRESS=own_instance.address))
    inits = own_instance.workers("sandbox-init")

    def command():
        found = subprocess.run(["pgrep", "-x", "cat", "-u", str(alice.uid)], stdout=subprocess.PIPE, text=True,
                               check=False).stdout.split()
        return int(found[0]) if found else 0
    try:
        assert machine.eventually(command, 30)
        pids = [os.getpid(), own_instance.process.pid, command(), *inits]
        done = subprocess.run(["/usr/bin/python3", "-c", SLICE, *map(str, pids)], stdout=subprocess.PIPE, text=True, check=True)
        slices = [int(n) for n in done.stdout.split()]
    finally:
        held.stdin.close()
        held.wait()
    ours, launcher, inside = slices[:3]
    assert launcher != ours and inside == ours, slices
    assert inits and launcher in slices[3:], slices


def test_d15_descriptors_of_the_launcher(settings, alice, root):
    """Sessions are as many as its descriptors are good for, less those of root."""
    instance = machine.Instance(settings=settings)
    popen = subprocess.Popen

    def limited(argv, **options):
        return popen(["/usr/bin/prlimit", "--nofile=320:320", "--", *argv], **options)
    try:
        subprocess.Popen = limited
        instance.start()
    finally:
        subprocess.Popen = popen
    with contextlib.ExitStack() as stack:
        stack.callback(instance.remove)
        made = 0
        while made < 40:
            done = instance.ctl(alice, "create", cwd=alice.workspace())
            if done.returncode:
                break
            made += 1
        assert 5 <= made < 40 and "sessions" in done.stderr, (made, done)
        assert instance.sh(root, "echo fine").stdout == "fine\n", instance.log_text()[-2000:]
        assert instance.ctl(root, "list").returncode == 0
        assert instance.process.poll() is None


# Runs as root: one connection of each of many users.
MANY_USERS = """
import os, socket, sys
for uid in range(3000000000, 3000000000 + int(sys.argv[2])):
    os.setresuid(uid, uid, 0)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1])
    os.setresuid(0, 0, 0)
"""


def test_d15_more_users_than_are_known(settings, alice, root):
    """One who may use the ids of a whole range (subuid) has them all connect: root is served, and who is known."""
    with daemon(settings) as instance:
        session = instance.create(alice)
        done = root.run(["/usr/bin/python3", "-c", MANY_USERS, instance.socket, "4200"])
        assert done.returncode == 0, done
        assert "vendor" in instance.call(root, "org.varlink.service.GetInfo")[0]["parameters"]
        assert session in instance.ctl(alice, "list").stdout


WATCHERS = """
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
n = 0
while libc.inotify_init1(0) >= 0:
    n += 1
print(n, flush=True)
time.sleep(1000)
"""


def test_d15_inotify_of_a_session(instance, alice, bob, either):
    """The kernel counts a session's instances for root as well, who has 128: others have some while it has all of its own."""
    session = instance.create(alice)
    child = alice.popen([machine.CTL, "--address", instance.address, "exec", session, "--", "python3", "-c", WATCHERS],
                        stdout=subprocess.PIPE, text=True)
    try:
        assert int(child.stdout.readline()) == 32
        script = "import ctypes; assert ctypes.CDLL(None).inotify_init1(0) >= 0"
        assert instance.sh(bob, f"python3 -c '{script}'").returncode == 0
        assert either.run(["/usr/bin/python3", "-c", script]).returncode == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        instance.ctl(alice, "terminate", "--grace", "0", session)
