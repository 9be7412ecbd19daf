"""Allocations at the start of a worker: thousands, nearly all inside libraries, so a start of the daemon for each would
take hours. Here the launcher itself starts the next process when one has died, and each takes the next call for its
own to fail. A process that comes up all the same has to serve; after some dozens, and at the end, every count is
what it was."""

import contextlib
import itertools
import os
import signal
import time

import machine
import points

# Calls between two looks at whether the daemon serves, and whether its counts are back.
AT_ONCE, BALANCED = 64, 512
NONE, STARTED, FIRED, UP, MISSED = range(5)
NEVER = 1 << 30
# So long nothing may happen, after a call has failed and before: then the launcher's patience is not sat out.
HANGING_SECONDS, SLOW_SECONDS = 0.3, 10
POLL_SECONDS = 0.002


class Ladder:
    """One program's, in a lane whose daemon runs."""

    def __init__(self, lane, task):
        self.lane, self.task = lane, task
        self.instance, self.page = lane.instance, lane.instance.page
        self.program = task["program"]
        self.survived, self.dead, self.in_libraries = 0, 0, 0
        self.session = None

    def arm(self, first, last):
        self.lane.instance.arm(self.program, self.task["classes"], NEVER,
                               points.FAIL if self.task["action"] == "fail" else points.STOP)
        page = self.page
        page.target = 0
        page.next, page.last = first, last
        page.is_ladder = 1
        page.target = points.PROGRAMS.index(self.program)

    def disarm(self):
        self.page.target = 0
        self.page.is_ladder = 0

    def keep_user(self):
        """A worker of a user who has a session is started again by itself."""
        if self.program == "sandboxd-api":
            done = self.instance.ctl(self.lane.user, "create", "-p", self.lane.profile, cwd=self.lane.work)
            assert done.returncode == 0, done.stderr
            self.session = done.stdout.strip()

    def drop_session(self):
        if self.session:
            for verb in ("terminate", "remove"):
                self.instance.ctl(self.lane.user, verb, self.session, cwd=self.lane.work)
            self.session = None

    def kill_workers(self):
        for pid in self.instance.workers(self.program):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def count(self):
        """The least number of calls in a few starts that nothing disturbs."""
        found = []
        for _ in range(3):
            self.page.up_count = 0
            self.arm(NEVER, 0)
            self.kill_workers()
            assert machine.eventually(lambda: self.page.up_count > 0, 30, 0.01), "does not start again"
            self.disarm()
            self.lane.check_serves()
            found.append(self.page.up_count)
        return min(found)

    def is_alive(self, rung):
        return points.comm_state(rung.pid) != "Z"

    def climb(self, todo):
        """Until each call of these was hit, somebody has come up with one, or nothing happens."""
        page = self.page
        for at in todo:
            page.rungs[at].state = NONE
        self.arm(todo[0], todo[-1])
        self.kill_workers()
        since, seen = time.monotonic(), None
        while True:
            rungs = [page.rungs[at] for at in todo]
            states = [rung.state for rung in rungs]
            if UP in states or MISSED in states:
                break
            if page.next > todo[-1] and not any(state in (STARTED, FIRED) and self.is_alive(rung)
                                                for state, rung in zip(states, rungs)):
                break
            if (page.next, states) != seen:
                seen, since = (page.next, states), time.monotonic()
            elif time.monotonic() > since + 60:
                self.lane.wrong(f"nothing happens any more at call {page.next}: {states}")
                break
            elif time.monotonic() > since + (SLOW_SECONDS if STARTED in states else HANGING_SECONDS):
                page.clock_skew_nsec += 2 * 10**9
                time.sleep(0.02)
            time.sleep(POLL_SECONDS)
        self.disarm()

    def serve_with(self, pids):
        """Who came up serves: of the pool's workers, which are taken in turn, each."""
        for _ in range(4 if self.program == "sandboxd-egress" else 1):
            self.lane.check_serves()
            if not any(pid in self.instance.workers(self.program) for pid in pids):
                return

    def check_crashes(self, numbers):
        said = [line for line in self.instance.log_since(self.lane.point.log_size).splitlines() if points.CRASH.search(line)]
        for at in numbers if said else ():
            rung = self.page.rungs[at]
            crashed = [line for line in said if f"{self.program}[{rung.pid}]" in line]
            if crashed and rung.caller < points.LIBRARIES:
                self.lane.wrong(f"call {at} at {rung.caller:#x}: {crashed}")
            self.in_libraries += bool(crashed)

    def hit(self, numbers):
        """Each of these calls in a process of its own; those that no process came to."""
        lane, page, todo, tries = self.lane, self.page, numbers, 0
        while todo and tries < points.TRIES and len(lane.problems) < 5:
            self.climb(todo)
            n_before = len(todo)
            up = [page.rungs[at].pid for at in todo if page.rungs[at].state == UP]
            todo = list(itertools.dropwhile(lambda at: page.rungs[at].state in (FIRED, UP), todo))
            tries = 0 if len(todo) < n_before else tries + 1
            if up:
                self.serve_with(up)
            else:
                lane.check_serves()
        done = numbers[:len(numbers) - len(todo)]
        self.check_crashes(done)
        self.survived += sum(page.rungs[at].state == UP for at in done)
        self.dead += sum(page.rungs[at].state == FIRED for at in done)
        return todo

    def run(self):
        lane, step = self.lane, self.task["step"]
        lane.problems = []
        lane.ensure_runs()
        lane.check_serves()
        before = lane.steady_counts()
        began = time.monotonic()
        self.keep_user()
        counted = self.count()
        self.page.stride = step
        todo, n_hit = list(range(self.task["first"], counted + 1, step)), 0
        while todo and len(lane.problems) < 5:
            lane.point = points.Point(lane, f"{self.program} {todo[0]}")
            numbers, todo = todo[:AT_ONCE], todo[AT_ONCE:]
            missed = self.hit(numbers)
            n_hit += len(numbers) - len(missed)
            if missed:
                counted = min(counted, self.count())
                if self.page.rungs[missed[0]].state != MISSED and missed[0] <= counted:
                    lane.wrong(f"call {missed[0]} of {counted} was not reached")
            if n_hit % BALANCED == 0 or not todo:
                self.drop_session()
                lane.check_balance(before)
                if todo:
                    self.keep_user()
        self.drop_session()
        lane.point = None
        return {"task": self.task, "points": n_hit, "counted": counted, "seconds": round(time.monotonic() - began, 1),
                "slow": [], "problems": lane.problems,
                "ends": {"died": self.dead, "served": self.survived, "crashed in a library": self.in_libraries}}


def run(lane, task):
    return Ladder(lane, task).run()
