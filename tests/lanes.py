#!/usr/bin/python3
"""Runs one suite in two processes of pytest side by side, most of its time being waiting, and what is marked `alone`
after them: lanes.py SUITE JUNIT [OPTION OF PYTEST]...
What the files of earlier runs took: lanes.py --seconds JUNIT...

Which file runs in which process is the same for the same files: the longest first, by tests/seconds.txt, each to the
process that has less so far. Two processes meet nowhere: their users and folders are named by their pids, their servers
take ports that are free. A test that counts or measures what the whole machine does is marked `alone`.

The first process writes to the terminal, what the other one wrote follows whole when both have ended. An interrupt
goes to both, once; they take away what they made."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

TESTS = os.path.dirname(os.path.abspath(__file__))
N_LANES = 2
# Of a file that nobody has measured.
USUAL_SECONDS = 10


def load_seconds():
    """Lines "SECONDS SUITE/FILE"."""
    with open(os.path.join(TESTS, "seconds.txt"), encoding="utf-8") as f:
        lines = [line.split() for line in f if line.strip() and not line.startswith("#")]
    return {name: float(seconds) for seconds, name in lines}


def files_of(suite):
    return sorted(f"{suite}/{name}" for name in os.listdir(os.path.join(TESTS, suite))
                  if re.fullmatch(r"test_\w+\.py", name))


def deal(files, seconds, n_lanes=N_LANES):
    """Lists of files, as even as their lengths let them be."""
    lanes = [[] for _ in range(n_lanes)]
    lengths = [0.0] * n_lanes
    for name in sorted(files, key=lambda name: (-seconds.get(name, USUAL_SECONDS), name)):
        lane = lengths.index(min(lengths))
        lanes[lane].append(name)
        lengths[lane] += seconds.get(name, USUAL_SECONDS)
    return [sorted(lane) for lane in lanes if lane]


def has_alone(name):
    with open(os.path.join(TESTS, name), encoding="utf-8") as f:
        return "pytest.mark.alone" in f.read()


class Lane:
    """A process of pytest in a process group of its own: an interrupt reaches it from here, and what it started from it."""

    def __init__(self, files, junit, options, marks, output=None):
        self.junit = junit
        self.output = output
        argv = [sys.executable, "-m", "pytest", "-c", os.path.join(TESTS, "pytest.ini"), "--rootdir", TESTS, "-m", marks,
                "--junit-xml", junit, *options, *(os.path.join(TESTS, name) for name in files)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output and subprocess.STDOUT,
                                        process_group=0)

    def wait(self):
        while True:
            with contextlib.suppress(InterruptedError):
                return self.process.wait()

    def print_output(self):
        if self.output:
            self.output.seek(0)
            sys.stdout.buffer.write(self.output.read())
            sys.stdout.buffer.flush()
            self.output.close()


class Run:
    def __init__(self):
        self.lanes = []
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.on_signal)

    def on_signal(self, number, _frame):
        self.signal = number
        for lane in self.lanes:
            if lane.process.poll() is None:
                lane.process.send_signal(signal.SIGINT)

    def side_by_side(self, lanes_of_files, folder, options, marks):
        """Whether there were some and all passed. None begins after a signal."""
        if self.signal or not lanes_of_files:
            return False
        begun = []
        for number, files in enumerate(lanes_of_files):
            # Not with the context: the file is read after the last lane has ended.
            output = tempfile.TemporaryFile() if number else None
            junit = os.path.join(folder, f"{len(self.lanes)}.xml")
            begun.append(Lane(files, junit, options, marks, output))
            self.lanes.append(begun[-1])
        statuses = [lane.wait() for lane in begun]
        for lane in begun:
            lane.print_output()
        return not any(statuses)

    def merge(self, path):
        """One file as of one process; false if a process has left none."""
        root = ElementTree.Element("testsuites")
        is_whole = True
        for lane in self.lanes:
            try:
                root.extend(ElementTree.parse(lane.junit).getroot().iter("testsuite"))
            except (OSError, ElementTree.ParseError) as e:
                print(f"no results of a process: {e}")
                is_whole = False
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
        return is_whole


def print_seconds(paths):
    """Lines of tests/seconds.txt; the results do not say what was alone."""
    sums = {}
    for path in paths:
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = case.get("classname").replace(".", "/") + ".py"
            sums[name] = sums.get(name, 0.0) + float(case.get("time"))
    for name, seconds in sorted(sums.items(), key=lambda item: (-item[1], item[0])):
        print(f"{seconds:3.0f} {name}")


def main():
    if sys.argv[1] == "--seconds":
        print_seconds(sys.argv[2:])
        return 0
    suite, junit, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    files = files_of(suite)
    run = Run()
    with tempfile.TemporaryDirectory() as folder:
        is_good = run.side_by_side(deal(files, load_seconds()), folder, options, "not alone")
        alone = [name for name in files if has_alone(name)]
        if alone:
            is_good = run.side_by_side([alone], folder, options, "alone") and is_good
        is_good = run.merge(junit) and is_good
    if run.signal:
        return 128 + run.signal
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
