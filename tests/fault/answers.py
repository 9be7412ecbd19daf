"""sandboxd-lookup, asked as the launcher asks it: whatever call fails, it gives the whole answer or none. The launcher
is not needed for this, so that each of some thousand calls takes milliseconds."""

import os
import signal
import subprocess
import tempfile
import time

import points

DEADLINE_SECONDS = 30


def profiles_of(pid):
    """The sealed bundle of profiles that this launcher holds, as a descriptor."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if os.readlink(path).startswith("/memfd:bundle"):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    raise AssertionError("the launcher holds no profiles")


class Question:
    def __init__(self, lane, words, extra=None, settings=None):
        """extra: makes the descriptor at number 3; settings: a path for number 4."""
        self.lane, self.words, self.extra, self.settings = lane, words, extra, settings
        self.instance, self.page = lane.instance, lane.instance.page

    def start(self, out, err):
        """Descriptors 3 and 4 as from the launcher."""
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
                   (os.POSIX_SPAWN_DUP2, err.fileno(), 2)]
        extra = self.extra() if self.extra else None
        # Far away from the numbers that they get.
        far = [os.dup2(fd, number, inheritable=False) for fd, number in ((extra, 200),) if fd is not None]
        if extra is not None:
            actions.append((os.POSIX_SPAWN_DUP2, 200, 3))
        if self.settings:
            actions.append((os.POSIX_SPAWN_OPEN, 4, self.settings, os.O_RDONLY, 0))
        try:
            return os.posix_spawn(os.path.join(self.instance.libexec, "sandboxd-lookup"),
                                  ["sandboxd-lookup", "--uid", "65534", "--gid", "65534", *self.words],
                                  {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, file_actions=actions), extra
        finally:
            for fd in far:
                os.close(fd)

    def ask(self, classes, at, action):
        """Status (negative: a signal, None: no end), answer, complaints."""
        self.instance.arm("sandboxd-lookup", classes, at, action)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid, extra = self.start(out, err)
            status = wait(pid)
            self.page.target = 0
            answer = os.pread(out.fileno(), 1 << 22, 0)
            if extra is not None:
                # The answer to "resolver" is in there, too.
                answer += os.pread(extra, 1 << 22, 0)
                os.close(extra)
            return status, answer, os.pread(err.fileno(), 1 << 16, 0).decode(errors="replace")


def wait(pid):
    end = time.monotonic() + DEADLINE_SECONDS
    pidfd = os.pidfd_open(pid)
    try:
        points.select.select([pidfd], [], [], DEADLINE_SECONDS)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(pidfd)


def questions(lane):
    launcher = lane.instance.process.pid
    settings = os.path.join(lane.instance.folder, "config/sandboxd.json")
    return [Question(lane, ["workers"]),
            Question(lane, ["identity", str(lane.user.uid)]),
            Question(lane, ["resolver"], extra=lambda: os.memfd_create("hosts")),
            Question(lane, ["load"], extra=lambda: profiles_of(launcher), settings=settings)]


def judge(lane, question, at, whole, got):
    """What one disturbed answer may be."""
    status, answer, complaint = got
    name = f"{question.words[0]} {at} {lane.instance.where()}"
    if status == 0 and answer != whole:
        lane.wrong(f"{name}: another answer: {complaint[-200:]!r}")
    elif status is None:
        lane.wrong(f"{name}: no end")
    elif status < 0 and lane.instance.page.caller < points.LIBRARIES:
        lane.wrong(f"{name}: crashed by signal {-status}")
    elif status > 0 and not complaint:
        lane.wrong(f"{name}: status {status} without a word")


def run(lane, task):
    """Every call of every question."""
    lane.problems = []
    lane.ensure_runs()
    began, fired, counted, ends = time.monotonic(), 0, 0, {}
    for question in questions(lane):
        lane.point = points.Point(lane, f"answer {question.words[0]}")
        first = question.ask(task["classes"], 1, points.COUNT)
        n = question.page.count
        again = question.ask(task["classes"], 1, points.COUNT)
        if first[0] != 0 or again[:2] != first[:2]:
            lane.wrong(f"undisturbed: {first[0]} {first[2]} {again[0]} {again[2]}")
            continue
        counted += min(n, question.page.count)
        for at in range(task["first"], min(n, question.page.count) + 1, task["step"]):
            got = question.ask(task["classes"], at, points.FAIL)
            if not question.page.fired:
                lane.wrong(f"call {at} of {n} was not reached")
                break
            fired += 1
            judge(lane, question, at, first[1], got)
            ends[got[0]] = ends.get(got[0], 0) + 1
            if len(lane.problems) >= 5:
                break
    lane.point = None
    lane.instance.disarm()
    return {"task": task, "points": fired, "counted": counted, "seconds": round(time.monotonic() - began, 1),
            "slow": [], "problems": lane.problems,
            "ends": {"whole answer": ends.get(0, 0), "none": ends.get(1, 0),
                     "crashed in a library": sum(n for status, n in ends.items() if status and status < 0)}}
