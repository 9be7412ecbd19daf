"""What the fault tests share: the page that the programs under test look at, an instance of them, the flow that each
point disturbs, and what must hold after it."""

import collections
import contextlib
import ctypes
import json
import mmap
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

import machine

FOLDER = os.path.join(machine.BUILD, "tests/fault")
PROGRAMS = ("", "sandboxd", "sandboxd-api", "sandboxd-audit", "sandboxd-dialer", "sandboxd-egress", "sandboxd-lookup",
            "sandbox-init", "sandboxctl", "reader", "sandboxd-child", "sandbox-init-child", "sandboxd-watch")
WORKERS = (*PROGRAMS[1:7], "sandboxd-watch")
CLASSES = ("alloc", "open", "write", "accept", "commit", "spawn", "step")
COUNT, FAIL, STOP = range(3)
# A flow in which the call that is to be hit does not come is tried again so often.
TRIES = 5
# Calls beyond those that were counted at first.
BEYOND = 32
# How long the counts may take to be back, from one session to the next; and to come to rest at first.
BALANCE_SECONDS = (1, 2, 4, 8, 15, 30)
STEADY_SECONDS = 60
# What something has failed in takes less, or hangs.
HANGING_SECONDS = 3
# What the launcher says of a worker that was ended by SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV or SIGSYS.
CRASH = re.compile(r"was killed by signal (4|6|7|8|11|31)\b")
# Callers are told from the beginning of the program; libraries are far away from it.
LIBRARIES = 1 << 32
# Parts of names that are different each time.
UNIQUE = re.compile(r"[0-9a-f]{32}|[0-9]+")


class Rung(ctypes.Structure):
    """page.h"""
    _fields_ = [("pid", ctypes.c_int32), ("state", ctypes.c_uint32), ("caller", ctypes.c_uint64)]


class Page(ctypes.Structure):
    """page.h"""
    _fields_ = [("target", ctypes.c_uint32), ("classes", ctypes.c_uint32), ("action", ctypes.c_uint32),
                ("at", ctypes.c_uint32), ("count", ctypes.c_uint32), ("fired", ctypes.c_uint32),
                ("is_stopped", ctypes.c_uint32), ("pid", ctypes.c_int32), ("own_pid", ctypes.c_int32),
                ("call", ctypes.c_uint32), ("caller", ctypes.c_uint64), ("clock_skew_nsec", ctypes.c_int64),
                ("live", ctypes.c_int64 * 16), ("counts", (ctypes.c_uint32 * 7) * 16),
                ("is_ladder", ctypes.c_uint32), ("next", ctypes.c_uint32), ("last", ctypes.c_uint32),
                ("stride", ctypes.c_uint32), ("up_count", ctypes.c_uint32), ("rungs", Rung * 16384)]


def call_names():
    """Names of the calls by their numbers."""
    names = ["", "malloc", "calloc", "realloc", "aligned", "fork", "syscall", "fcntl", "epoll_ctl", "recvmsg", "epoll_wait",
             "waitid", "poll"]
    with open(os.path.join(machine.TOP, "tests/fault/calls.def"), encoding="utf-8") as f:
        names += [line.split("(")[1].split(",")[0] for line in f if line.startswith(("CALL(", "GNU("))]
    return names


CALLS = call_names()


def descendants(pid):
    """All processes below one, by the kernel's lists of children: quicker than a look at all of /proc."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as f:
                    found += map(int, f.read().split())
    return found[1:]


class FaultInstance(machine.Instance):
    """A daemon of the test builds, in a folder of its own with its page."""

    def __init__(self, **options):
        super().__init__(**options)
        self.libexec = tempfile.mkdtemp(prefix="run-", dir=FOLDER)
        os.chmod(self.libexec, 0o755)
        for name in (*PROGRAMS[1:9], "sandboxd-watch", "libsandboxd-fault.so", "fault-visitor", "fault-as"):
            os.link(os.path.join(FOLDER, name), os.path.join(self.libexec, name))
        with open(os.path.join(self.libexec, "page"), "w+b") as f:
            os.fchmod(f.fileno(), 0o666)
            f.truncate(ctypes.sizeof(Page))
            self.memory = mmap.mmap(f.fileno(), ctypes.sizeof(Page))
        self.page = Page.from_buffer(self.memory)
        self.launcher = os.path.join(self.libexec, "sandboxd")
        self.ctl_path = os.path.join(self.libexec, "sandboxctl")

    def remove(self):
        self.disarm()
        super().remove()
        shutil.rmtree(self.libexec, ignore_errors=True)

    def arm(self, program, classes, at, action):
        """The at-th call of these classes in this program; earlier deaths are long ago for the launcher."""
        page = self.page
        page.target = page.is_ladder = 0
        page.clock_skew_nsec += 11 * 10**9
        page.classes = sum(1 << CLASSES.index(name) for name in classes)
        page.action, page.at, page.count, page.fired, page.is_stopped = action, at, 0, 0, 0
        self.is_killed = False
        page.target = PROGRAMS.index(program)

    def disarm(self):
        self.page.target = 0
        self.page.is_stopped = 0
        self.is_killed = False

    def where(self):
        page = self.page
        return f"{CALLS[page.call]} at {page.caller:#x}"

    def stopped_pid(self):
        """The process that waits to be killed, as this machine knows it."""
        if self.page.pid:
            return self.page.pid
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{pid}/status", encoding="utf-8") as f:
                    status = dict(line.split(":", 1) for line in f if ":" in line)
                if int(status["NSpid"].split()[-1]) == self.page.own_pid and status["State"].split()[0] == "R":
                    return pid
        return 0

    def start_watched(self, timeout=60):
        """True: ready; False: it ended; None: neither in time."""
        self.launch()
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.kill_stopped()
            pause = 0.0005 if self.page.action == STOP and not self.is_killed else 0.1
            if select.select([self.process.stdout], [], [], pause)[0]:
                return os.read(self.process.stdout.fileno(), 64).startswith(b"ready")
            self.pass_time(end - timeout)
        return None

    def ctl_start(self, user, *arguments, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([os.path.join(self.libexec, "fault-as"), str(user.uid), str(user.gid), self.ctl_path, *arguments],
                                env=user.environment(SANDBOXD_ADDRESS=self.address), **options)

    def ctl(self, user, *arguments, timeout=60, **options):
        child = self.ctl_start(user, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace", **options)
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise AssertionError(f"{arguments[0]} took more than {timeout} s") from None
        return subprocess.CompletedProcess(arguments, child.returncode, out, err)

    def workers(self, name=None):
        """As machine.py finds them, which looks at every process of the machine."""
        found = [(pid, machine.program_of(pid)) for pid in descendants(self.process.pid)]
        return [pid for pid, program in found if program == name or (name is None and program.startswith("sandbox"))]

    def log_size(self):
        return os.path.getsize(self.log) if os.path.exists(self.log) else 0

    def log_since(self, size):
        """What the daemon has said since the log was so long."""
        if not os.path.exists(self.log):
            return ""
        with open(self.log, "rb") as f:
            f.seek(size)
            return f.read().decode(errors="replace")

    def remains(self):
        """Processes that run a program of this instance."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{entry}/exe")
                    if target.startswith(self.libexec + "/") and not target.endswith("sandboxctl"):
                        found.append((int(entry), os.path.basename(target)))
        return found

    def watch(self, child, timeout):
        """Whether this client ends in time; who stops meanwhile is killed."""
        pidfd = os.pidfd_open(child.pid)
        try:
            end = time.monotonic() + timeout
            while time.monotonic() < end:
                self.kill_stopped()
                pause = 0.0005 if self.page.action == STOP and not self.is_killed else 0.1
                if select.select([pidfd], [], [], pause)[0]:
                    return True
                self.pass_time(end - timeout)
            return False
        finally:
            os.close(pidfd)

    def pass_time(self, since):
        """libseccomp loops where some of its allocations fail: the launcher's patience with it need not be sat out."""
        if self.page.fired and self.page.action == FAIL and time.monotonic() > since + HANGING_SECONDS:
            self.page.clock_skew_nsec += 10**9

    def kill_stopped(self):
        """Kills who has stopped; tells whether somebody had."""
        if not self.page.is_stopped:
            return False
        pid = self.stopped_pid()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.page.is_stopped = 0
            self.is_killed = True
        return pid != 0


def comm_state(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as f:
        return f.read().rpartition(b")")[2].split()[0].decode()
    return "Z"


def descriptors(pid):
    """What a process has open, by kind."""
    found = collections.Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[UNIQUE.sub("N", os.readlink(f"/proc/{pid}/fd/{fd}"))] += 1
    return sorted(found.items())


def difference(before, now):
    """In words, for whoever looks for what has stayed."""
    def items(value):
        if isinstance(value, list):
            return sum((collections.Counter(dict(of_one)) for of_one in value), collections.Counter())
        return value
    words = []
    for key, old in ((key, old) for key, old in before.items() if now.get(key) != old):
        old, new = items(old), items(now.get(key, 0))
        if isinstance(old, collections.Counter) and isinstance(new, collections.Counter):
            words += [f"{key}: {what}: {old[what]} -> {new[what]}" for what in {**old, **new} if old[what] != new[what]]
            words += [f"{key}: {len(before[key])} -> {len(now[key])} processes"]
        else:
            words.append(f"{key}: {old} -> {new}")
    return ", ".join(words)


# Flows that are not of this file: functions of the lane and the task (lane.py).
FLOWS = {}


class Point:
    """One disturbed flow: what its clients said, and what is wrong with it."""

    def __init__(self, lane, name):
        self.lane, self.name = lane, name
        self.said = []
        self.id = None
        self.log_size = lane.instance.log_size()

    def call(self, *arguments, timeout=60):
        """A client of the instance; whoever stops meanwhile is killed. The end in time is part of what is tested."""
        lane = self.lane
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = lane.instance.ctl_start(lane.user, *arguments, stdout=out, stderr=err, cwd=lane.work)
            if not lane.instance.watch(child, timeout):
                child.kill()
                lane.wrong(f"{arguments[0]} did not end")
            child.wait()
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(arguments, child.returncode, out.read().decode(errors="replace"),
                                               err.read().decode(errors="replace"))
        self.said.append(f"{arguments[0]}: {done.returncode} {done.stdout[:100]!r} {done.stderr[:300]!r}")
        if done.returncode == 125 and not done.stderr.strip():
            lane.wrong(f"{arguments[0]} failed without a word")
        return done


class Lane:
    """One instance and one user, and point after point."""

    number = 0

    def __init__(self, user, dns, web):
        self.user, self.dns, self.web = user, dns, web
        self.work = user.workspace()
        self.problems = []
        self.point = None
        self.said = []
        self.was_success = False
        self.group = None
        self.instance = FaultInstance(settings={"resolver": {"servers": [f"127.0.0.1:{dns.port}"]}})
        self.visitor = os.path.join(self.instance.libexec, "fault-visitor")
        self.profile = os.path.join(self.instance.folder, "profile.json")
        with open(self.profile, "w", encoding="utf-8") as f:
            json.dump({"version": 1, "name": "fault", "extends": ["agent"], "filesystem": {"read": [self.visitor]},
                       "network": {"rules": [{"id": "t", "action": "allow", "host": "allowed.test",
                                              "ports": [web.server_port], "cidr": "127.0.0.1/32"}]}}, f)

    def wrong(self, what):
        point = self.point
        self.problems.append(f"{point.name if point else ''}: {what}; {self.instance.where()}; "
                             f"{point.said if point else ''}")

    # What a client does

    # Each flow tells whether all of it went as it goes when nothing disturbs it.

    def session_flow(self, point):
        made = point.call("create", "-p", self.profile)
        if made.returncode != 0:
            return False
        if len(made.stdout.strip()) != 32:
            self.wrong("create says no id")
            return False
        point.id = made.stdout.strip()
        point.visit = point.call("exec", point.id, "--", self.visitor, point.file, str(self.web.server_port))
        ends = [point.call(verb, point.id).returncode for verb in ("terminate", "remove")]
        return point.visit.returncode == 0 and point.visit.stdout == "200 403\n" and ends == [0, 0]

    def rows_flow(self, point):
        done = point.call("audit", "log", "--json", "-n", "3")
        return done.returncode == 0 and len([json.loads(line) for line in done.stdout.splitlines()]) == 3

    def start_flow(self, point):
        """The daemon comes up, or ends with a word; then nothing of it is left."""
        instance = self.instance
        is_ready = instance.start_watched()
        point.said.append(f"start: {'ready' if is_ready else 'ended'} {instance.log_since(point.log_size)[:400]!r}")
        if is_ready is None:
            self.wrong("the start did not end")
        if is_ready:
            return True
        if instance.process.poll() is None:
            instance.process.kill()
        status = instance.process.wait()
        instance.process.stdout.close()
        instance.process = None
        if status != -signal.SIGKILL and (status == 0 or instance.log_size() == point.log_size):
            self.wrong(f"the start failed without a word, status {status}")
        if not machine.eventually(lambda: not instance.remains(), 30):
            self.wrong(f"processes that are left: {instance.remains()}")
        return False

    def restart_flow(self, point):
        """The death of a worker, and the start of the next one."""
        self.end_workers(point.program)
        return point.call("run", "-T", "--", "true").returncode == 0

    def end_workers(self, program):
        pids = self.instance.workers(program)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The launcher has heard of it.
        machine.eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 20, 0.001)

    # What must hold then

    def check_records(self, point, head):
        rows = self.instance.rows(head)
        net = [row for row in rows if row["kind"] == "net"]
        path = "/" + point.file
        got = [request for request in self.web.requests if request[1] == path]
        allowed = [row for row in net if row["verdict"] == "allow" and row["host"] == "allowed.test"]
        denied = [row for row in net if row["verdict"] == "deny" and row["host"] == "evil.test"]
        if len(got) > len(allowed):
            self.wrong(f"{len(got)} requests, {len(allowed)} rows")
        if any("evil.test" in request[2].get("Host", "") for request in got):
            self.wrong("a denied request went out")
        if os.path.exists(os.path.join(self.work, point.file)):
            os.unlink(os.path.join(self.work, point.file))
            if not [row for row in rows if row["action"] == "exec"]:
                self.wrong("a command without a row")
        visit = getattr(point, "visit", None)
        # Where no row can be written the answer is no, and the gap is what is recorded.
        if visit and visit.stdout.strip().endswith(" 403") and not denied and point.program != "sandboxd-audit":
            self.wrong("a denial without a row")
        if point.id and not [r for r in rows if r["action"] == "start" and r["session"] == point.id]:
            self.wrong("a session without a row")

    def check_crashes(self, point):
        """No process ends by a fault of its own: but json-c and libseccomp do where their own calls fail."""
        crashes = [line for line in self.instance.log_since(point.log_size).splitlines() if CRASH.search(line)]
        is_of_library = point.program in ("sandboxd-api", "sandboxd-egress") and self.instance.page.caller >= LIBRARIES
        if crashes and not is_of_library:
            self.wrong(f"crashed: {crashes}")

    def check_serves(self):
        """A client that comes now is served: at once, or after the pause that follows deaths."""
        end, pause = time.monotonic() + 60, 0.02
        said = self.point.log_size if self.point else 0
        while True:
            done = self.instance.ctl(self.user, "run", "-q", "-T", "-p", self.profile, "--", self.visitor,
                                     "again", str(self.web.server_port), cwd=self.work, timeout=60)
            if done.returncode == 0 and done.stdout == "200 403\n":
                return
            if time.monotonic() > end or self.instance.process.poll() is not None:
                self.wrong(f"does not serve afterwards: {done.returncode} {done.stdout} {done.stderr}; "
                           f"{self.instance.log_since(said)[-1500:]}")
                return
            # Pauses between attempts are part of the product; nobody has to sit them out here. But a worker that a slow
            # machine is about to start must not be late by the daemon's clock again and again.
            self.instance.page.clock_skew_nsec += 2 * 10**9
            time.sleep(pause)
            pause = min(pause * 1.25, 2)

    def restore(self):
        """A helper of audit that was killed stays away until audit is started again."""
        pids = self.instance.workers("sandboxd-audit")
        if len(pids) == 4 and all(comm_state(pid) != "Z" for pid in pids):
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.check_serves()

    def sessions(self):
        done = self.instance.ctl(self.user, "list", "--json", cwd=self.work, timeout=60)
        return [json.loads(line)["id"] for line in done.stdout.splitlines()]

    def tidy(self):
        """Sessions that a cut-off client left behind are its user's to remove."""
        for name in self.sessions():
            self.instance.ctl(self.user, "terminate", name, cwd=self.work, timeout=60)
            self.instance.ctl(self.user, "remove", name, cwd=self.work, timeout=60)

    # Counts

    def counts(self):
        found = {"mounts": self.mounts(), "groups": len(self.groups()),
                 "namespaces": self.launcher_namespaces()}
        for name in WORKERS:
            pids = [self.instance.process.pid] if name == "sandboxd" else self.instance.workers(name)
            found[name] = sorted(descriptors(pid) for pid in pids)
            found[name + " threads"] = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)
        found["processes"] = len(descendants(self.instance.process.pid))
        return found

    def launcher_namespaces(self):
        found = 0
        for fd in os.listdir(f"/proc/{self.instance.process.pid}/fd"):
            with contextlib.suppress(OSError):
                found += os.readlink(f"/proc/{self.instance.process.pid}/fd/{fd}").startswith(("net:", "mnt:", "user:"))
        return found

    def mounts(self):
        """Mounts of this machine that have to do with this instance: there is to be none."""
        words = (self.instance.folder, self.instance.libexec, self.user.home)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
            return sum(any(word in line for word in words) for line in f)

    def groups(self):
        """Control groups of this instance's sessions."""
        if not self.group:
            for pid in self.instance.workers("sandbox-init"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as f:
                    own = next(line[3:].strip() for line in f if line.startswith("0::"))
                    self.group = machine.cgroup2_mount() + own[:own.rindex("/")]
        return [folder for folder, _, _ in os.walk(self.group)] if self.group else []

    def steady_counts(self):
        """Once what is prepared ahead is there again, and what has ended is gone."""
        last, times = None, 0
        end = time.monotonic() + STEADY_SECONDS
        while times < 4:
            now = None
            with contextlib.suppress(OSError):
                now = self.counts()
            times = times + 1 if now is not None and now == last and self.is_prepared(now) else 0
            last = now
            assert time.monotonic() < end, f"the counts do not come to rest: {now}"
            time.sleep(0.1)
        return last

    def is_prepared(self, counts):
        """Blank sessions, workers for them and the spare namespace of the user are there."""
        return (counts["groups"], len(counts["sandboxd-egress"]), len(counts["sandboxd-api"]),
                len(counts["sandboxd-lookup"]), counts["namespaces"]) == (4, 3, 1, 0, 7)

    def check_balance(self, before):
        now = {}

        def is_back():
            nonlocal now
            with contextlib.suppress(OSError):
                now = self.counts()
            return now == before
        for seconds in BALANCE_SECONDS:
            if machine.eventually(is_back, seconds, 0.05):
                break
            # Time passes quickly, and of a user who has nothing left nothing is kept: neither a worker nor a namespace
            # that is made ahead. The next session brings both back.
            self.instance.page.clock_skew_nsec += 11 * 10**9
            self.check_serves()
        else:
            self.wrong("not back where it was: " + difference(before, now))
        if not machine.eventually(lambda: not self.open_in_log(), 20, 0.05):
            self.wrong(f"sessions that are open in the log: {self.open_in_log()}")

    def open_in_log(self):
        open_ids = set()
        for row in self.instance.rows(0, kind="session"):
            if row["action"] == "start" and row["verdict"] != "deny":
                open_ids.add(row["session"])
            elif row["action"] == "end":
                open_ids.discard(row["session"])
        return open_ids

    # Point after point

    def run(self, task):
        """All points of one task (tasks.py). First the calls of undisturbed flows are counted: each of them is to be hit.
        Then on, until a flow has twice ended without a call to hit, or some more: what a start reads grows with each."""
        if task["flow"] in FLOWS:
            return FLOWS[task["flow"]](self, task)
        self.problems = []
        action = {"fail": FAIL, "kill": STOP}[task["action"]]
        at, missed, tries, fired, before = task["first"], 0, 0, 0, None
        if task["flow"] != "start":
            self.ensure_runs()
            self.check_serves()
            before = self.steady_counts()
        began, slow = time.monotonic(), []
        counted = self.count_calls(task)
        while missed < 2 and at <= counted + BEYOND and len(self.problems) < 5:
            since = time.monotonic()
            is_hit = self.run_point(task, at, action)
            is_over = not is_hit and self.was_success
            if time.monotonic() - since > 1:
                slow.append(f"{at}: {time.monotonic() - since:.1f} s {self.instance.where()} {self.said}")
            fired += is_hit
            tries += 1
            if not is_hit and (at <= counted or not is_over) and tries < TRIES:
                continue
            if not is_hit and at <= counted:
                # What the flow works on may have become less since: what is kept of sessions that have ended.
                counted = self.count_calls(task)
            if not is_hit and at <= counted:
                self.wrong(f"call {at} of {counted} was not reached: {self.said}")
            elif not is_hit and not is_over:
                self.wrong(f"without a call that was hit the flow did not succeed: {self.said}")
            missed = 0 if is_hit or at <= counted else missed + 1
            at, tries = max(at + 1, min(at + task["step"], counted - task["tail"])), 0
            if before and (fired % 16 == 0 or missed == 2 or at > counted + BEYOND):
                if task["flow"] == "restart":
                    # It may do without what it could not get, e.g. a timer's descriptor: one that has all is compared.
                    self.end_workers(task["program"])
                    self.check_serves()
                self.check_balance(before)
        return {"task": task, "points": fired, "counted": counted, "seconds": round(time.monotonic() - began, 1),
                "slow": slow, "problems": self.problems}

    def count_calls(self, task):
        """The least number of calls in a few flows that nothing disturbs, and that therefore succeed."""
        found = []
        for _ in range(TRIES):
            self.run_point(task, 1, COUNT)
            if self.was_success:
                found.append(self.instance.page.count)
            if len(found) == 3:
                return min(found)
        self.wrong(f"the flow does not succeed when nothing disturbs it: {self.said}")
        return 0

    def run_point(self, task, at, action):
        instance = self.instance
        Lane.number += 1
        point = self.point = Point(self, f"{task['action']} {task['program']} {'+'.join(task['classes'])} {at}")
        point.program, point.file = task["program"], f"f{Lane.number}"
        is_start = task["flow"] == "start"
        if is_start and instance.process:
            instance.stop(signal.SIGKILL)
        head = 0 if is_start else instance.head()
        instance.arm(task["program"], task["classes"], at, action)
        self.was_success = getattr(self, task["flow"] + "_flow")(point)
        # Who is hit after the last client has ended is killed now.
        instance.page.target = 0
        is_hit = bool(instance.page.fired)
        if is_hit and action == STOP and not machine.eventually(lambda: instance.is_killed or instance.kill_stopped(), 20,
                                                                0.0005):
            # A process of a session, whose end the daemon does not wait for longer than a moment, is killed with it.
            if not task["program"].startswith("sandbox-init"):
                self.wrong("who stopped was not found")
        instance.disarm()
        if is_hit and (task["program"], action) == ("sandboxd", STOP) and instance.process:
            instance.process.wait(60)
        if instance.process and instance.process.poll() is not None:
            if (task["program"], action) != ("sandboxd", STOP) and not is_start:
                self.wrong("the launcher is gone: " + instance.log_text()[-1500:])
            instance.restart_if_dead()
        elif not instance.process:
            instance.start()
        if is_hit:
            self.check_serves()
            if not (self.was_success and task["flow"] == "session"):
                self.tidy()
            self.restore()
        if not is_start:
            self.check_records(point, head)
        if task["flow"] in ("session", "rows"):
            self.check_crashes(point)
        self.point, self.said = None, point.said
        return is_hit

    def ensure_runs(self):
        if not self.instance.process:
            self.instance.start()
