"""The daemon's own processes and files: properties D04, D06, D20, D22, D25, D27 to D33, D35, D40, D42, D47 and D50."""

import contextlib
import ctypes
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time

import pytest

import machine

# reference/session-start, and KILL: workers and sessions are other users' processes.
CAPABILITIES = {"SYS_ADMIN": 21, "SETUID": 7, "SETGID": 6, "NET_ADMIN": 12, "CHOWN": 0, "SYS_CHROOT": 18, "KILL": 5,
                "NET_BIND_SERVICE": 10}
SERVING = ("daemon/launcher/", "daemon/api/", "daemon/audit/", "daemon/dialer/", "daemon/egress/", "daemon/loop/")
DAEMON = os.path.join(machine.TOP, "daemon")


def sources(folder):
    for base, _, names in os.walk(folder):
        for name in sorted(names):
            if name.endswith((".c", ".h")):
                with open(os.path.join(base, name), encoding="utf-8") as f:
                    yield os.path.relpath(os.path.join(base, name), machine.TOP), \
                        re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def command(instance):
    return [os.path.join(machine.BUILD, "daemon/launcher/sandboxd"), "--config-dir", instance.config, "--state-dir",
            instance.state, "--runtime-dir", instance.runtime, "--libexec-dir", instance.libexec, "--policy-dir",
            machine.POLICIES, "--print-ready"]


def refuses(argv, timeout=60, **options):
    """What the daemon says when it does not start; an assertion if it does."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             start_new_session=True, **options)
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.terminate()
        out, err = child.communicate(timeout=30)
        raise AssertionError(f"it runs: {out!r} {err!r}") from None
    assert child.returncode != 0 and "ready" not in out, (out, err)
    return err


def test_d04_no_decision_by_a_process_id():
    """A pid is for people and for the one look that a pidfd proves. What serves clients takes none; what makes
    processes may name its own child, which it has not reaped, and nobody else's."""
    wrong = []
    for name, text in sources(DAEMON):
        if re.search(r'"/proc/%', text) and name.startswith(SERVING):
            wrong.append(f"{name}: /proc/PID")
        if re.search(r"(?<![\w.>])(kill|killpg|tgkill|waitpid|process_vm_readv)\s*\(", text) and name.startswith(SERVING):
            wrong.append(f"{name}: a call that takes a pid")
    assert not wrong, "\n".join(wrong)
    peer = dict(sources(DAEMON))["daemon/launcher/peer.c"]
    # The group of the peer's pid counts only with a pidfd that was opened before and still names it.
    assert "SYS_pidfd_open" in peer or "SO_PEERPIDFD" in peer


def test_d06_the_socket_is_never_wider(own_instance):
    """During the start, and with a stale socket and a link in the way."""
    seen, ends = set(), threading.Event()
    own_instance.stop()

    def look():
        while not ends.is_set():
            with contextlib.suppress(OSError):
                st = os.lstat(own_instance.socket)
                seen.add((stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid))

    with contextlib.suppress(FileNotFoundError):
        os.unlink(own_instance.socket)
    thread = threading.Thread(target=look)
    thread.start()
    own_instance.start()
    ends.set()
    thread.join()
    assert seen and all(kind == stat.S_IFSOCK and uid == 0 and not mode & ~0o666 for kind, mode, uid in seen), seen
    st = os.stat(own_instance.runtime)
    assert st.st_uid == 0 and not st.st_mode & 0o022
    own_instance.stop()
    # Stale: nobody listens.
    if not os.path.exists(own_instance.socket):
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(own_instance.socket)
    own_instance.start()
    own_instance.stop()
    # A link that somebody left is not followed.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(own_instance.socket)
    os.symlink(own_instance.folder + "/elsewhere", own_instance.socket)
    refuses(command(own_instance))
    assert not os.path.lexists(own_instance.folder + "/elsewhere")
    os.unlink(own_instance.socket)
    os.chmod(own_instance.runtime, 0o775)
    assert "writable by nobody else" in refuses(command(own_instance))
    os.chmod(own_instance.runtime, 0o755)


@pytest.fixture(scope="module")
def stopped():
    instance = machine.Instance()
    yield instance
    instance.remove()


def break_file(kind, instance, path):
    if kind == "group-writable":
        os.chmod(path, 0o664)
    elif kind == "owner":
        os.chown(path, 65534, 65534)
    elif kind == "link":
        os.rename(path, path + ".real")
        os.symlink(path + ".real", path)
    elif kind == "hard link":
        os.link(path, path + ".second")
    elif kind == "fifo":
        os.unlink(path)
        os.mkfifo(path, 0o600)
    elif kind == "too large":
        with open(path, "ab") as f:
            f.truncate(2 * 1024 * 1024)
    elif kind == "folder":
        os.chmod(instance.config, 0o777)
    elif kind == "folder's owner":
        os.chown(instance.config, 65534, 65534)
    elif kind == "folder is a link":
        os.rename(instance.config, instance.config + ".real")
        os.symlink(instance.config + ".real", instance.config)


@pytest.mark.parametrize("kind", ["group-writable", "owner", "link", "hard link", "fifo", "too large", "folder",
                                  "folder's owner", "folder is a link"])
def test_d20_settings_that_others_touched_refuse_the_start(kind):
    instance = machine.Instance(settings={})
    try:
        instance.start()
        instance.stop()
        break_file(kind, instance, os.path.join(instance.config, "sandboxd.json"))
        assert "it is not read" in refuses(command(instance))
    finally:
        instance.remove()


@pytest.mark.parametrize("kind", ["group-writable", "owner", "link", "hard link", "fifo", "too large", "folder",
                                  "folder's owner", "folder is a link"])
def test_d20_settings_that_others_touched_are_not_loaded(kind):
    """Nor is a profile: what was loaded before stays."""
    root = machine.User("root")
    with machine.Instance(settings={}) as instance:
        os.mkdir(os.path.join(instance.config, "policies"), 0o755)
        for name in ("sandboxd.json", "policies/mine.json"):
            is_profile = name.startswith("policies")
            if is_profile and kind.startswith("folder"):
                continue
            instance.write_config("policies/mine.json", {"version": 1, "name": "mine", "extends": ["base"]})
            assert "error" not in instance.call(root, "io.sandboxd.Policy.Reload")[0]
            before = instance.call(root, "io.sandboxd.Policy.Describe")
            break_file(kind, instance, os.path.join(instance.config, name))
            if kind.startswith("folder is"):
                instance.config += ".real"
            with contextlib.suppress(OSError):
                # What it would say is good.
                if not kind.startswith("folder") and kind not in ("fifo", "too large"):
                    instance.write_config(name, {"version": 1, "name": "mine"} if is_profile
                                          else {"limits": {"sessions_per_user": 1}})
            reply = instance.call(root, "io.sandboxd.Policy.Reload")[0]
            assert reply["error"] == "io.sandboxd.Policy.InvalidPolicy", reply
            assert "it is not read" in reply["parameters"]["diagnostics"][0]["message"], reply
            assert instance.call(root, "io.sandboxd.Policy.Describe") == before
            if not kind.startswith("folder"):
                for path in (instance.config + "/" + name, instance.config + "/" + name + ".real",
                             instance.config + "/" + name + ".second"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                instance.write_config("sandboxd.json", {})


def test_d22_a_storm_of_signals(alice):
    """SIGHUP while files break and mend, and SIGKILL in between: each value that anybody sees was written by us as a
    whole, generations only grow, and the daemon starts again."""
    values = [256, *range(20, 60)]
    with machine.Instance(settings={}) as instance:
        def look():
            found = instance.call(alice, "io.sandboxd.Manager.Describe")[0]["parameters"]
            return found["policyGeneration"], found["sessionsPerUserMax"], found["connectionsPerUserMax"]

        for life in range(2):
            seen = [look()]
            for n in values[1:]:
                text = json.dumps({"limits": {"sessions_per_user": n, "connections_per_user": n + 1000}})
                # A file appears whole: half-written ones are among the broken.
                instance.write_config("next", text if n % 3 else text[:-5])
                os.rename(instance.config + "/next", instance.config + "/sandboxd.json")
                instance.process.send_signal(1)
                if n % 8 == 0:
                    seen.append(look())
            instance.write_config("sandboxd.json", {"limits": {"sessions_per_user": 77, "connections_per_user": 1077}})
            if life == 1:
                break
            instance.process.send_signal(1)
            instance.process.kill()
            instance.process.wait()
            instance.restart_if_dead()
            assert look()[1:] == (77, 1077), "what is on disk counts at the start"
        instance.process.send_signal(1)
        assert machine.eventually(lambda: look()[1:] == (77, 1077), 30)
        seen.append(look())
        assert [g for g, _, _ in seen] == sorted(g for g, _, _ in seen), seen
        assert all(c == s + 1000 or (s, c) == (256, 64) for _, s, c in seen), seen
        assert instance.process.poll() is None and instance.sh(alice, "true").returncode == 0


def test_d22_a_broken_reload_changes_nothing(alice):
    """Parse all, then swap: with broken settings a reload is refused and the old ones hold; a storm of reloads while
    sessions start leaves each start with the one or the other."""
    with machine.Instance(settings={}) as instance:
        def reload():
            data = b'{"method":"io.systemd.service.Reload"}\0'
            return json.loads(instance.raw_call(machine.User("root"), data, timeout=10).split(b"\0")[0])

        assert "error" not in reload()
        for broken in ("{", '{"unknown": 1}', '{"resolver": 5}', ""):
            instance.write_config("sandboxd.json", broken)
            assert reload().get("error"), broken
            assert instance.sh(alice, "echo lives").stdout == "lives\n"
        running = instance.create(alice)
        for n in range(30):
            instance.write_config("sandboxd.json", "{" if n % 2 else "{}")
            assert ("error" in reload()) == bool(n % 2)
        assert instance.ctl(alice, "exec", running, "--", "echo", "on").stdout == "on\n"
        assert instance.process.poll() is None


def test_d25_sql_is_constant_and_the_store_defends_itself(instance):
    text = dict(sources(os.path.join(DAEMON, "audit")))
    users = [name for name in text if "sqlite3_" in text[name]]
    assert users == ["daemon/audit/sql.c"]
    sql = text[users[0]]
    for word in ("SQLITE_DBCONFIG_DEFENSIVE", "SQLITE_DBCONFIG_TRUSTED_SCHEMA", "sqlite3_limit", "sqlite3_prepare_v"):
        assert word in sql, word
    assert "sqlite3_enable_load_extension" not in sql and "sqlite3_mprintf" not in sql
    # No text is made at run time: where statements are written nothing is printed into them.
    for name in text:
        assert not re.search(r'printf\([^;]*"[^"]*\b(SELECT|INSERT|DELETE|UPDATE|CREATE)\b', text[name]), name
    folder = os.path.join(instance.state, "audit")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    for name in os.listdir(folder):
        st = os.lstat(os.path.join(folder, name))
        # The public half of the signing key is for everybody who can reach it.
        assert not stat.S_ISREG(st.st_mode) or not st.st_mode & 0o077 or name == "key.pub", name


class Trace:
    """System calls of the launcher alone, from its execve to the end of a start, a session, a refusal and a stop."""

    def __init__(self, alice):
        self.folder = tempfile.mkdtemp(prefix="sbxt-trace-", dir="/run")
        self.path = os.path.join(self.folder, "calls")
        with machine.Instance() as instance:
            instance.stop()
            self.instance_folder = instance.folder
            child = subprocess.Popen(["strace", "-qq", "-y", "-s", "256", "-o", self.path, *command(instance)],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                     start_new_session=True)
            try:
                assert child.stdout.readline() == b"ready\n"
                assert instance.sh(alice, "echo inside", timeout=120).stdout == "inside\n"
                instance.ctl(alice, "run", "-p", "no-such-profile", "--", "true", timeout=120)
                self.workspace = alice.home
            finally:
                for pid in machine.children_of(child.pid)[1:]:
                    if machine.comm_of(pid) == "sandboxd":
                        os.kill(pid, 15)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(60)
                child.kill()
                child.stdout.close()
        with open(self.path, encoding="utf-8", errors="replace") as f:
            self.lines = f.read().splitlines()
        shutil.rmtree(self.folder)

    def calls(self, *names):
        return [line for line in self.lines if re.match(r"(?:\d+ +)?(%s)\(" % "|".join(names), line)]


@pytest.fixture(scope="module")
def trace(alice):
    found = Trace(alice)
    assert len(found.lines) > 300, "the trace is empty"
    return found


def paths(lines):
    return [path for line in lines for path in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]


def test_d27_the_launcher_asks_no_name_service(trace):
    opened = paths(trace.calls("open", "openat", "openat2", "stat", "newfstatat"))
    assert not [p for p in opened if re.search(r"nsswitch|libnss|/etc/(passwd|group|shadow|services|protocols)$|locale|"
                                              r"gconv|/etc/ssl|nscd", p) and "/etc/" not in p.rpartition("/")[0] + "x/"
                or "nsswitch" in p or "libnss" in p], opened
    # Addresses of nobody, in a namespace of its own: whether connections are brought to the worker.
    assert not [line for line in trace.calls("connect") if "nscd" in line or
                ("AF_INET" in line and not re.search(r'htons\(443\).*"(192\.0\.2\.1|2001:db8::1)"', line))]
    assert not [line for line in trace.calls("socket") if re.search(r"AF_INET6?, SOCK_DGRAM", line)
                and "NETLINK" not in line and "SOCK_CLOEXEC" not in line]


def test_d28_programs_start_by_descriptor(trace):
    assert len(trace.calls("execve", "execveat")) == 1, "the launcher itself executes nothing"
    users = [name for name, text in sources(DAEMON) if re.search(r"\bSYS_exec|\bexecv|\bposix_spawn|\bfexecve", text)]
    assert set(users) <= {"daemon/isolate/spawn.c", "daemon/isolate/worker.c", "daemon/init/child.c",
                          "daemon/isolate/filter_list.h"}, users
    spawn = dict(sources(DAEMON))["daemon/isolate/spawn.c"]
    assert re.search(r'SYS_execveat, program_fd, ""', spawn) and "AT_EMPTY_PATH" in spawn


def test_d29_the_launcher_writes_nothing_below_users_folders(trace, alice):
    writing = [line for line in trace.calls("open", "openat", "openat2", "creat")
               if re.search(r"O_WRONLY|O_RDWR|O_CREAT", line) and "= -1" not in line]
    assert writing
    ours = (trace.instance_folder, "/dev/null", "/sys/fs/cgroup", "/proc/", "/dev/ptmx", "/dev/fuse", "/dev/net")
    for line in writing:
        shown = re.search(r"= \d+<([^>]*)", line)
        path = shown.group(1) if shown else ""
        allowed = path.startswith(ours) or "cgroup" in path or path.startswith(("/memfd:", "anon_inode:", "/etc/"))
        # /etc/NAME: a copy that is made in a tmpfs of our own, seen from inside it.
        assert allowed or "O_TMPFILE" in line or "/" not in path.strip("/"), line
    # Nothing that the user named is opened, for whatever purpose.
    assert not [line for line in trace.calls("open", "openat", "openat2", "open_tree", "stat", "newfstatat", "chdir")
                if alice.home in line]
    for line in trace.calls("chown", "lchown", "chmod"):
        raise AssertionError("by path: " + line)


def test_d30_nothing_temporary_has_a_name(trace):
    made = [line for line in trace.calls("open", "openat", "openat2", "mkdir", "mkdirat", "symlink", "symlinkat", "mknodat")
            if re.search(r'"/(tmp|var/tmp|dev/shm)/', line) and ("O_CREAT" in line or not line.startswith("open"))]
    assert not made, made
    assert trace.calls("memfd_create"), "what it makes for others is memory"
    text = "".join(text for _, text in sources(DAEMON))
    assert not re.search(r"\b(mkstemp|mkostemp|mkdtemp|tmpfile|tempnam|P_tmpdir)\b", text)


def test_d31_capabilities_of_the_launcher_are_the_table(instance):
    expected = sum(1 << n for n in CAPABILITIES.values())
    status = status_of(instance.process.pid)
    assert int(status["CapEff"], 16) == expected and int(status["CapPrm"], 16) == expected
    assert int(status["CapInh"], 16) == 0 and int(status["CapAmb"], 16) == 0
    # DAC_OVERRIDE and FOWNER are in the bounding set for workers that have not confined themselves yet.
    beyond = int(status["CapBnd"], 16) & ~expected
    assert beyond & ~(1 << 8 | 1 << 1 | 1 << 3) == 0, hex(beyond)
    assert not int(status["CapBnd"], 16) & (1 << 2 | 1 << 16 | 1 << 19 | 1 << 39), "DAC_READ_SEARCH, modules, ptrace, bpf"


ATTACK = r"""
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
uid, end = os.getuid(), time.monotonic() + float(sys.argv[1])
tries = 0
while time.monotonic() < end:
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/comm") as f:
                if not f.read().startswith("sandbox-init"):
                    continue
            if os.stat(f"/proc/{entry}").st_uid not in (uid, 0):
                continue
            pidfd = os.pidfd_open(int(entry))
        except OSError:
            continue
        tries += 1
        if libc.syscall(438, pidfd, 3, 0) >= 0 or libc.syscall(438, pidfd, 0, 0) >= 0:
            print("pidfd_getfd", flush=True)
        if libc.ptrace(0x4206, int(entry), 0, 0) >= 0:
            print("ptrace", flush=True)
        for name in ("mem", "environ", "maps", "fd/3", "ns/mnt"):
            try:
                fd = os.open(f"/proc/{entry}/{name}", os.O_RDONLY)
                # Of a process that has ended these are empty; one that became a command meanwhile is the user's.
                text = os.read(fd, 4096) if name in ("environ", "maps") else b"?"
                os.close(fd)
                with open(f"/proc/{entry}/comm") as f:
                    if text and f.read().startswith("sandbox-init"):
                        print(name, text[:60], flush=True)
            except OSError:
                pass
        os.close(pidfd)
print("tries", tries, flush=True)
"""


def test_d33_init_is_out_of_reach_from_its_first_moment(instance, alice):
    """The user's own programs outside, at every pid 1 of theirs while sessions start."""
    attacker = alice.popen(["/usr/bin/python3", "-c", ATTACK, "8"], stdout=subprocess.PIPE, text=True)
    n = 0
    while attacker.poll() is None:
        assert instance.sh(alice, "true", timeout=60).returncode == 0
        n += 1
    out = attacker.stdout.read().split("\n")
    attacker.stdout.close()
    assert n > 2 and int(out[-2].split()[1]) > 20, (n, out)
    assert out[:-2] == [], sorted(set(out))


def sees_only(pid, shown):
    """Of this machine's files a worker has folders that match, and else what leads to them."""
    root = f"/proc/{pid}/root"
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as f:
        mounts = {line.split()[4] for line in f} - {"/"}
    assert all(re.fullmatch(shown, mount) for mount in mounts), (pid, mounts)
    assert bool(mounts) == bool(shown), (pid, mounts)
    for folder, folders, files in os.walk(root):
        here = folder[len(root):]
        folders[:] = [name for name in folders if f"{here}/{name}" not in mounts]
        assert not files, (pid, here, files)
        assert not here or any(mount.startswith(here + "/") for mount in mounts), (pid, here)


def is_nobody(pid, name, shown):
    """Its user ids, once it has confined itself, in which the filter comes last; until then it has read nothing."""
    assert machine.eventually(lambda: status_of(pid)["Seccomp"] != "0", 30), name
    status = status_of(pid)
    assert all(int(status[c], 16) == 0 for c in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")), name
    assert status["Seccomp"] == "2" and len(status["NSpid"].split()) > 1, name
    sees_only(pid, shown)
    return tuple(status["Uid"].split())


def is_running(pid):
    with contextlib.suppress(OSError):
        return status_of(pid)["State"][0] not in "ZX"
    return False


def test_d35_workers_are_nobody(instance, alice):
    assert instance.sh(alice, "true").returncode == 0
    instance.create(alice)
    uids = set()
    api = f"{re.escape(instance.state)}/api/[0-9]+|{re.escape(instance.config)}/policies|{re.escape(machine.POLICIES)}"
    shown = {"sandboxd-api": api, "sandboxd-audit": re.escape(instance.state) + "/audit", "sandboxd-dialer": "",
             "sandboxd-egress": "", **({"sandboxd-watch": ""} if machine.has_fuse() else {})}
    for name in shown:
        pids = instance.workers(name)
        assert pids, name
        for pid in pids:
            try:
                found = is_nobody(pid, name, shown[name])
            except (AssertionError, OSError):
                if is_running(pid):
                    raise
                continue  # the worker of a session that has ended
            uids.add((name, found))
    assert len(uids) == len({u for _, u in uids}) == len(shown) and all("0" not in u for _, u in uids), uids


def test_d42_listen_fds_of_somebody_else_are_ignored(own_instance):
    """A socket from the environment only where LISTEN_PID is ours, it is named, and it is one that listens."""
    own_instance.stop()
    here = own_instance.folder

    def start(pid, fd, name="varlink"):
        """Serves on the socket in the runtime folder? On the given one?"""
        script = (f'export LISTEN_PID={pid} LISTEN_FDS=1 LISTEN_FDNAMES={name} NOTIFY_SOCKET={here}/nobody; '
                  f'exec "$@" 3<&{fd}')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(own_instance.socket)
        child = subprocess.Popen(["/bin/bash", "-c", script, "bash", *command(own_instance)], pass_fds=[fd],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 start_new_session=True)
        try:
            assert child.stdout.readline() == b"ready\n"
            return os.path.exists(own_instance.socket)
        finally:
            child.terminate()
            child.wait(30)
            child.stdout.close()

    given = os.path.join(here, "given")
    with socket.socket(socket.AF_UNIX) as listener, open("/dev/null", "rb") as file, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        listener.bind(given)
        listener.listen()
        # Somebody else's pid, or none: its own socket.
        for pid in ("1", "$(($$ + 1))", "0", "x"):
            assert start(pid, listener.fileno()), pid
        # Ours, but not what it says: no file, no other kind of socket, no other name.
        assert start("$$", file.fileno())
        assert start("$$", datagram.fileno())
        assert start("$$", listener.fileno(), name="other")
        # Ours and right: this one, and no second.
        assert not start("$$", listener.fileno())


def test_d47_workers_leave_no_core_and_no_memory(instance, alice):
    """Whoever is the same user as a worker reads nothing of it: not dumpable, no core, no /proc/PID/mem."""
    instance.create(alice)
    workers = {"sandboxd-api", "sandboxd-audit", "sandboxd-dialer", "sandboxd-egress"} | (
        {"sandboxd-watch"} if machine.has_fuse() else set())
    pids = [(name, pid) for name in workers for pid in instance.workers(name) if status_of(pid)["NoNewPrivs"] == "1"]
    assert {name for name, _ in pids} == workers
    for name, pid in pids:
        with open(f"/proc/{pid}/limits", encoding="utf-8") as f:
            assert re.search(r"Max core file size +0 +0 ", f.read()), name
        uid = int(status_of(pid)["Uid"].split()[0])
        code = ("import ctypes,os\n"
                "l=ctypes.CDLL(None)\n"
                f"print(l.ptrace(0x4206,{pid},0,0))\n"
                f"fd=os.pidfd_open({pid}); print(l.syscall(438,fd,3,0))\n"
                f"for n in 'mem','environ','maps','fd/3':\n"
                f"  try: os.open('/proc/{pid}/'+n,os.O_RDONLY); print(n)\n"
                "  except OSError: print(-1)\n")
        done = subprocess.run(["/usr/bin/python3", "-c", code], user=uid, group=uid, extra_groups=[], text=True,
                              stdout=subprocess.PIPE, check=False)
        assert done.stdout.split() == ["-1"] * 6, (name, done.stdout)
    text = "".join(text for _, text in sources(os.path.join(DAEMON, "audit")))
    assert "explicit_bzero" in text or "OPENSSL_cleanse" in text or "EVP_PKEY_free" in text


# What the kernel lacks, as strace makes the launcher believe.
MISSING = {"landlock": ("landlock_create_ruleset", "ENOSYS", "Landlock"),
           "openat2": ("openat2", "ENOSYS", ""),
           "mounts": ("open_tree", "ENOSYS", ""),
           "attributes": ("mount_setattr", "ENOSYS", ""),
           "clone3": ("clone3", "ENOSYS", ""),
           "seccomp": ("seccomp", "ENOSYS", "")}


@pytest.mark.parametrize("name", MISSING)
def test_d50_a_kernel_that_lacks_what_it_must_have_is_refused(name):
    call, error, word = MISSING[name]
    instance = machine.Instance()
    try:
        said = refuses(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                        f"inject={call}:error={error}", *command(instance)])
        assert "sandboxd" in said and word in said, said
    finally:
        instance.remove()
