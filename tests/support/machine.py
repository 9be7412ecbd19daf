"""What tests share: users, private instances of the daemon, the command line, the audit database."""

import contextlib
import errno
import json
import os
import pwd
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SANDBOXD_BUILD", os.path.join(TOP, "build"))
CTL = os.path.join(BUILD, "client/ctl/sandboxctl")
POLICIES = os.path.join(TOP, "policies")
KINDS = ("", "session", "net", "dns", "file", "credential", "git", "approval", "policy", "limit", "admin")
VERDICTS = ("deny", "ask", "allow")
# Sanitized programs need so many times as long.
IS_SANITIZED = "SANDBOXD_TEST_LOG" in os.environ
PATIENCE = 4 if IS_SANITIZED else 1


def eventually(condition, timeout=5.0, interval=0.02):
    """The first true value of condition(), or its last value when the time is up (seconds, for programs that are not sanitized)."""
    end = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value or time.monotonic() >= end:
            return value
        time.sleep(interval)


def check_reports(text):
    """A program of a sanitized build has found a fault in itself."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    assert "ERROR: AddressSanitizer" not in text and "ERROR: LeakSanitizer" not in text \
        and "runtime error: " not in text, text


class User:
    """An ordinary user of this machine, or root."""

    def __init__(self, name):
        entry = pwd.getpwnam(name)
        self.name = name
        self.uid = entry.pw_uid
        self.gid = entry.pw_gid
        self.home = entry.pw_dir
        self.groups = os.getgrouplist(name, entry.pw_gid)
        self.base = os.path.join(self.home, "work") if self.uid else tempfile.mkdtemp(prefix="sbxt-", dir="/srv")
        if self.uid == 0:
            os.chmod(self.base, 0o755)
        self.counter = 0

    def popen(self, argv, **options):
        options.setdefault("cwd", self.home)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", self.environment())
        if self.uid:
            options.update(user=self.uid, group=self.gid, extra_groups=self.groups, umask=0o022)
        return subprocess.Popen(argv, **options)

    def run(self, argv, timeout=60, input=None, text=True, **options):
        """As subprocess.run() with both outputs captured."""
        if input is not None:
            options["stdin"] = subprocess.PIPE
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        child = self.popen(argv, text=text, errors="replace" if text else None, **options)
        try:
            out, err = child.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            raise AssertionError(f"{argv} took more than {timeout} s; stdout {out!r}, stderr {err!r}") from None
        check_reports(err)
        return subprocess.CompletedProcess(argv, child.returncode, out, err)

    def environment(self, **more):
        env = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": "/bin/bash", "LANG": "C.UTF-8",
               "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "xterm"}
        env.update(more)
        return env

    def workspace(self, name=None):
        """A new folder of this user."""
        self.counter += 1
        path = os.path.join(self.base, name or f"w{self.counter}")
        os.makedirs(path)
        for part in (self.base, path):
            os.chown(part, self.uid, self.gid)
        return path

    def write(self, path, content, mode=0o644):
        """A file of this user; folders are made."""
        missing = []
        folder = os.path.dirname(path)
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            os.mkdir(folder)
            os.chown(folder, self.uid, self.gid)
        with open(path, "wb" if isinstance(content, bytes) else "w") as f:
            f.write(content)
        os.chmod(path, mode)
        os.chown(path, self.uid, self.gid)
        return path


@contextlib.contextmanager
def test_user(suffix):
    """A user that exists for as long as the context."""
    name = f"sbxt{os.getpid()}{suffix}"
    subprocess.run(["useradd", "-m", "-s", "/bin/bash", name], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    try:
        user = User(name)
        os.chmod(user.home, 0o755)
        yield user
    finally:
        subprocess.run(["userdel", "-f", "-r", name], check=False, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def root_user():
    user = User("root")
    try:
        yield user
    finally:
        shutil.rmtree(user.base, ignore_errors=True)


def children_of(pid):
    """All descendants of a process of this machine, itself first."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{entry}/stat", "rb") as f:
                    parents[int(entry)] = int(f.read().rpartition(b")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def group_of(pid):
    """The folder of a process's control group."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as f:
        return cgroup2_mount() + next(line[3:].strip() for line in f if line.startswith("0::"))


def cpu_of(pid):
    """Seconds of processor time, user and system."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rests(pid):
    """Whether it has nearly no use for a processor, for a second."""
    before = cpu_of(pid)
    time.sleep(1)
    return cpu_of(pid) - before < 0.1


def comm_of(pid):
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    return ""


# Before the daemon's command: mounts of its own, so that those that others make meanwhile are not counted with them.
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")


def waits_for_request(pid):
    """Whether it is the process that init makes ahead for the next command: it holds no gate of a row."""
    with contextlib.suppress(OSError):
        return comm_of(pid) == "sandbox-init" and sorted(map(int, os.listdir(f"/proc/{pid}/fd"))) == [0, 1, 2, 3, 4]
    return False


def has_fuse():
    """Whether a file system of a process's own can be had: what the watch and some tests need."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EPERM):
            return False
        raise
    return True


def without(what):
    """The environment of a daemon whose kernel lacks it: nft (nftables) or pings (programs of control groups)."""
    return {"LD_PRELOAD": os.path.join(BUILD, f"tests/integration/libwithout-{what}.so"),
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}


class Instance:
    """A private daemon with its own folders, as `./dev instance` starts it."""

    def __init__(self, settings=None, state=None, ceiling=None, folder=None):
        self.folder = folder or tempfile.mkdtemp(prefix="sandboxd-test-", dir="/run")
        self.is_own_folder = folder is None
        os.chmod(self.folder, 0o755)
        self.config = os.path.join(self.folder, "config")
        self.state = state or os.path.join(self.folder, "state")
        self.runtime = os.path.join(self.folder, "run")
        for path in (self.config, self.state, self.runtime):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o755)
        self.socket = os.path.join(self.runtime, "io.sandboxd")
        self.address = "unix:" + self.socket
        self.log = os.path.join(self.folder, "log")
        self.libexec = os.path.join(BUILD, "libexec")
        self.launcher = os.path.join(BUILD, "daemon/launcher/sandboxd")
        self.ctl_path = CTL
        self.prefix = []  # of the daemon's command, e.g. to start it in a network namespace
        self.process = None
        if settings is not None:
            self.write_config("sandboxd.json", settings)
        if ceiling is not None:
            self.write_config("ceiling.json", ceiling)

    def write_config(self, name, value):
        with open(os.path.join(self.config, name), "w", encoding="utf-8") as f:
            f.write(value if isinstance(value, str) else json.dumps(value))

    def launch(self, environment=None):
        argv = [*self.prefix, self.launcher, "--config-dir", self.config, "--state-dir",
                self.state, "--runtime-dir", self.runtime, "--libexec-dir", self.libexec,
                "--policy-dir", POLICIES, "--print-ready"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            start_new_session=True, env={**os.environ, **(environment or {})})

    def start(self, timeout=60, environment=None):
        self.launch(environment)
        end = time.monotonic() + timeout
        line = b""
        while b"\n" not in line:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            part = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            if not part:
                self.stop()
                raise AssertionError(f"the daemon is not ready: {self.log_text()}")
            line += part
        assert line.splitlines()[0] == b"ready", line
        return self

    def stop(self, how=signal.SIGTERM, timeout=60):
        if not self.process:
            return None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = None
        self.process.stdout.close()
        self.process = None
        return status

    def restart_if_dead(self):
        """A daemon that is gone leaves its sessions to the next start. Tells whether it was."""
        if not self.process or self.process.poll() is None:
            return False
        self.process.stdout.close()
        self.process = None
        self.start()
        return True

    def remove(self):
        self.restart_if_dead()
        self.stop()
        if self.is_own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_):
        if os.environ.get("SANDBOXD_TEST_LOG") and os.path.exists(self.log):
            with open(os.environ["SANDBOXD_TEST_LOG"], "a", encoding="utf-8") as f:
                f.write(self.log_text())
        self.remove()

    def log_text(self):
        with contextlib.suppress(OSError):
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return f.read()
        return ""

    def workers(self, name=None):
        """Pids of the daemon's own processes, by program name (sandboxd-audit, ...)."""
        found = [pid for pid in children_of(self.process.pid)[1:] if comm_of(pid).startswith("sandbox")]
        return [pid for pid in found if name is None or program_of(pid) == name]

    def ctl(self, user, *arguments, **options):
        environment = options.pop("environment", {})
        options["env"] = user.environment(SANDBOXD_ADDRESS=self.address, **environment)
        return user.run([self.ctl_path, *map(os.fspath, arguments)], **options)

    def ctl_start(self, user, *arguments, **options):
        environment = options.pop("environment", {})
        options["env"] = user.environment(SANDBOXD_ADDRESS=self.address, **environment)
        return user.popen([self.ctl_path, *map(os.fspath, arguments)], **options)

    def sh(self, user, script, workspace=None, options=(), **more):
        """A shell script in a session of its own."""
        more.setdefault("cwd", workspace or user.workspace())
        return self.ctl(user, "run", "-T", *options, "--", "/bin/sh", "-c", script, **more)

    def create(self, user, *options, **more):
        more.setdefault("cwd", user.workspace())
        made = self.ctl(user, "create", *options, **more)
        assert made.returncode == 0, made.stderr
        return made.stdout.split()[-1]

    def groups(self, user, session):
        """The folders of this daemon's control groups, its own and those below it; told by any session of it."""
        described = json.loads(self.ctl(user, "describe", "--json", session).stdout)
        base = os.path.dirname(cgroup2_mount() + described["runtime"]["controlGroup"])
        return {folder for folder, _, _ in os.walk(base)}

    def segments(self):
        folder = os.path.join(self.state, "audit")
        return [os.path.join(folder, f) for f in sorted(os.listdir(folder))
                if f.startswith("audit-") and f.endswith(".db")]

    @contextlib.contextmanager
    def database(self, path=None):
        connection = sqlite3.connect(f"file:{path or self.segments()[-1]}?mode=ro", uri=True, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            yield connection
        finally:
            connection.close()

    def head(self):
        with self.database() as db:
            return db.execute("SELECT max(coalesce((SELECT max(seq) FROM decision), 0),"
                              " coalesce((SELECT max(seq) FROM flow), 0))").fetchone()[0]

    def rows(self, after=0, **equal):
        """Rows of the log as dictionaries, oldest first, with kind and verdict by name; close rows are not among
        them (closes())."""
        with self.database() as db:
            found = db.execute(
                "SELECT d.*, s.id AS session, h.name AS host, r.name AS rule, r.layer AS rule_layer,"
                " p.raw AS raw, p.path AS path, p.detail AS detail FROM decision d"
                " LEFT JOIN session s USING(session_id) LEFT JOIN host h USING(host_id)"
                " LEFT JOIN rule r USING(rule_id) LEFT JOIN priv p USING(seq) WHERE d.seq > ? ORDER BY d.seq",
                (after,)).fetchall()
        rows = []
        for row in map(dict, found):
            row["kind"] = KINDS[row["kind"]]
            row["verdict"] = None if row["verdict"] is None else VERDICTS[row["verdict"]]
            if all(row[key] == value for key, value in equal.items()):
                rows.append(row)
        return rows

    def closes(self, after=0):
        with self.database() as db:
            return [dict(row) for row in db.execute(
                "SELECT f.*, s.id AS session FROM flow f LEFT JOIN session s USING(session_id) WHERE f.seq > ?"
                " ORDER BY f.seq", (after,))]

    def raw_call(self, user, data, timeout=5):
        """Bytes to the socket as this user, and what comes back until silence or the end."""
        code = ("import socket,sys\n"
                "s=socket.socket(socket.AF_UNIX);s.settimeout(%r);s.connect(%r)\n"
                "try:\n s.sendall(sys.stdin.buffer.read());s.shutdown(1)\n"
                " while True:\n"
                "  b=s.recv(65536)\n"
                "  if not b: break\n"
                "  sys.stdout.buffer.write(b)\n"
                "except OSError: pass\n" % (timeout, self.socket))
        return user.run(["/usr/bin/python3", "-c", code], input=data, text=False, timeout=timeout + 10).stdout

    def call(self, user, method, parameters=None, **flags):
        """One varlink call; the replies as dictionaries."""
        message = {"method": method, **flags}
        if parameters is not None:
            message["parameters"] = parameters
        # Those with flags may stay open, or be answered by nothing.
        data = self.raw_call(user, json.dumps(message).encode() + b"\0", timeout=5 if flags else 60)
        return [json.loads(part) for part in data.split(b"\0") if part]


def program_of(pid):
    """File name of a process's program, also where it was deleted or comm says something else."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").replace(" (deleted)", ""))
    return comm_of(pid)


def count_fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def cgroup2_mount():
    with open("/proc/self/mounts", encoding="utf-8") as f:
        for line in f:
            _, target, kind, *_ = line.split()
            if kind == "cgroup2":
                return target
    return None


def count_mounts(pid):
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as f:
        return sum(1 for _ in f)


def tree_state(root):
    """Names, types, owners, modes and contents below a folder, to see that nothing changed."""
    state = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            content = None
            if name in files and not os.path.islink(path) and os.path.isfile(path):
                with open(path, "rb") as f:
                    content = f.read()
            elif os.path.islink(path):
                content = os.readlink(path)
            state[path] = (info.st_mode, info.st_uid, info.st_gid, content)
    return state


def processes_with(marker):
    """Pids on this machine whose command line has the marker as an argument."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                with open(f"/proc/{entry}/cmdline", "rb") as f:
                    if marker.encode() in f.read().split(b"\0"):
                        found.append(int(entry))
    return found


def sleeps_with(marker):
    """Those of them that are sleep itself: neither the client that asked for it nor a shell around it."""
    return [pid for pid in processes_with(marker) if comm_of(pid) == "sleep"]


# The beginning of programs that run inside.
READ_ALL = """
import json, socket, sys
def read(s):
    s.settimeout(60)
    data = b""
    try:
        while part := s.recv(65536):
            data += part
    except OSError:
        pass
    return data
"""

# Reads {"requests": [[base64, ...], ...]}: for each entry one connection to the proxy, on which the parts are sent
# one after another, each after the previous answer; prints the answers of each connection.
TALK = r"""
import base64, json, socket, sys
found = []
for parts in json.load(sys.stdin):
    answers = []
    s = socket.create_connection(("127.0.0.1", 3128), 5)
    s.settimeout(3)
    for part in parts:
        data = b""
        try:
            s.sendall(base64.b64decode(part))
            while b"\r\n\r\n" not in data:
                more = s.recv(65536)
                if not more:
                    break
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.strip().lower() == b"content-length":
                    length = int(value)
            while len(body) < length:
                more = s.recv(65536)
                if not more:
                    break
                body += more
            answers.append([base64.b64encode(head).decode(), base64.b64encode(body).decode()])
        except OSError as e:
            answers.append([base64.b64encode(data).decode(), ""])
            break
    # Whether the other side has closed: b"" means yes.
    s.settimeout(0.3)
    try:
        is_closed = s.recv(1) == b""
    except TimeoutError:
        is_closed = False
    except OSError:
        is_closed = True
    s.close()
    found.append([answers, is_closed])
json.dump(found, sys.stdout)
"""


class Answer:
    def __init__(self, head, body):
        import base64
        self.head = base64.b64decode(head)
        self.body = base64.b64decode(body)
        words = self.head.split(b"\r\n")[0].split()
        self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else None
        self.headers = {}
        for line in self.head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            self.headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")

    def __repr__(self):
        return f"Answer({self.status}, {self.head!r}, {self.body[:80]!r})"


def talk(instance, user, profile, connections):
    """Raw bytes to the proxy from inside a session: for each connection a list of requests; returns for each
    ([Answer, ...], whether the proxy closed it)."""
    import base64
    data = json.dumps([[base64.b64encode(part).decode() for part in parts] for parts in connections])
    done = instance.ctl(user, "run", "-T", "-p", profile, "--", "python3", "-c", TALK, input=data,
                        cwd=user.workspace(), timeout=120)
    assert done.returncode == 0, done.stderr
    return [([Answer(*answer) for answer in answers], is_closed) for answers, is_closed in json.loads(done.stdout)]
