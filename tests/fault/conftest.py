"""Runs the points of all tasks side by side, once for the session, and prints what each found."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading

import pytest

import machine
import tasks

HERE = os.path.dirname(os.path.abspath(__file__))
# What each task found, as soon as it is through.
LOG = os.path.join(machine.BUILD, "tests/fault/results.txt")


def pytest_configure(config):
    if os.getuid() != 0:
        raise pytest.UsageError("the fault tests need root")


def line_of(name, result):
    ends = ", ".join(f"{n} {how}" for how, n in result.get("ends", {}).items())
    return (f"{name:44} {result['points']:5} points {result['seconds']:6} s  "
            f"{len(result['problems']) or 'nothing'} found{f' ({ends})' if ends else ''}")


class Lanes:
    """Processes that take one task after another. A point waits more than it works: more of them than processors."""

    def __init__(self, todo):
        self.results = {}
        with contextlib.suppress(FileNotFoundError):
            os.unlink(LOG)
        self.todo = queue.Queue()
        for task in todo:
            self.todo.put(task)
        self.threads = [threading.Thread(target=self.work)
                        for _ in range(min(6, 2 * (os.cpu_count() or 2), len(todo)))]
        for thread in self.threads:
            thread.start()

    def join(self):
        for thread in self.threads:
            thread.join()
        return self.results

    def give_up(self):
        with contextlib.suppress(queue.Empty):
            while True:
                self.todo.get_nowait()

    def work(self):
        with subprocess.Popen([sys.executable, os.path.join(HERE, "lane.py")], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as lane:
            while True:
                try:
                    task = self.todo.get_nowait()
                except queue.Empty:
                    lane.stdin.close()
                    lane.wait(60)
                    return
                lane.stdin.write(json.dumps(task) + "\n")
                lane.stdin.flush()
                line = lane.stdout.readline()
                result = json.loads(line) if line else {"task": task, "points": 0, "counted": 0, "seconds": 0, "slow": [],
                                                        "problems": ["the lane has died"]}
                self.results[tasks.name_of(task)] = result
                with open(LOG, "a", encoding="utf-8") as log:
                    log.write("\n    ".join([line_of(tasks.name_of(task), result), *result["problems"]]) + "\n")


RESULTS = {}


@pytest.fixture(scope="session", autouse=True)
def lanes(request):
    """They begin with the first test, whichever it is: what runs before theirs runs beside them."""
    wanted = {item.callspec.params["task_name"] for item in request.session.items if hasattr(item, "callspec")
              and "task_name" in item.callspec.params}
    is_matrix = any("matrix" in item.name for item in request.session.items)
    if not os.path.exists(os.path.join(machine.BUILD, "tests/fault/sandboxd")):
        pytest.skip("this build has no programs for fault tests")
    lanes = Lanes([task for task in tasks.TASKS if tasks.name_of(task) in wanted or
                   (is_matrix and task["action"] == "kill")])
    yield lanes
    lanes.give_up()
    lanes.join()


@pytest.fixture(scope="session")
def results(lanes):
    RESULTS.update(lanes.join())
    return RESULTS


def pytest_terminal_summary(terminalreporter):
    if not RESULTS:
        return
    terminalreporter.section("fault points")
    for name, result in sorted(RESULTS.items()):
        terminalreporter.write_line(line_of(name, result))
    for action in ("fail", "kill"):
        n = sum(result["points"] for result in RESULTS.values() if result["task"]["action"] == action)
        terminalreporter.write_line(f"{action}: {n} points")
    terminalreporter.write_line("each call" if tasks.IS_ALL else f"of some tasks a part: first call {tasks.FIRST}")
