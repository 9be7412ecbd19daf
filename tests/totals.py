#!/usr/bin/python3
"""Adds up the JUnit files of a test run and judges its skips: totals.py FOLDER SKIPS STATUS SUITE...
Adds up the last lines of several runs: totals.py --sum STATUS OUTPUT..."""

import fnmatch
import os
import re
import sys
import xml.etree.ElementTree as ElementTree


def load_skips(path):
    """Lines "TEST-GLOB: words of the reason"; both must fit for a skip to be explained."""
    explained = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if line and not line.startswith("#"):
                name, _, reason = line.partition(": ")
                explained.append((name, reason))
    return explained


def is_explained(explained, name, reason):
    return any(fnmatch.fnmatchcase(name, glob) and words in reason for glob, words in explained)


def outcome(case):
    """passed, failed or skipped, and the message of what is not passed."""
    for tag in ("failure", "error"):
        found = case.find(tag)
        if found is not None:
            return "failed", found.get("message") or ""
    found = case.find("skipped")
    if found is not None:
        return "skipped", found.get("message") or ""
    return "passed", ""


def print_line(counts):
    line = f"{counts['passed']} passed, {counts['failed']} failed"
    if counts["skipped"]:
        line += f", {counts['skipped']} skipped"
    print(line)
    return 1 if counts["failed"] else 0


def add_up(status, outputs):
    """A run without a last line of its own has failed, whatever it printed."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for path in outputs:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
        found = re.fullmatch(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?", lines[-1] if lines else "")
        if not found:
            print(f"{os.path.basename(path)}: no totals")
            counts["failed"] += 1
            continue
        for name, number in zip(counts, found.groups(default="0")):
            counts[name] += int(number)
    if status and not counts["failed"]:
        print("a run ended with an error that is no test's")
        counts["failed"] += 1
    return print_line(counts)


def main():
    if sys.argv[1] == "--sum":
        return add_up(int(sys.argv[2]), sys.argv[3:])
    folder, skips, status, suites = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    explained = load_skips(skips)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for suite in suites:
        path = os.path.join(folder, suite + ".xml")
        if not os.path.exists(path):
            print(f"suite {suite}: no result")
            counts["failed"] += 1
            continue
        seen = 0
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            seen += 1
            name = f"{suite}:{case.get('name')}"
            result, message = outcome(case)
            if result == "skipped" and not is_explained(explained, name, message):
                print(f"skip without an explanation in tests/skips.txt: {name}: {message}")
                result = "failed"
            counts[result] += 1
        if not seen:
            print(f"suite {suite}: no tests")
            counts["failed"] += 1
    if status and not counts["failed"]:
        print("a suite ended with an error that is no test's")
        counts["failed"] += 1
    return print_line(counts)


if __name__ == "__main__":
    sys.exit(main())
