#!/usr/bin/python3
"""One of the processes that try fault points side by side: tasks as lines of JSON come in, results go out."""

import json
import os
import sys
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(TESTS, "support"), os.path.join(TESTS, "fault")]

import answers  # noqa: E402
import ladder  # noqa: E402
import machine  # noqa: E402
import points  # noqa: E402
import stubs  # noqa: E402


points.FLOWS.update(ladder=ladder.run, answers=answers.run)


def main():
    dns = stubs.DnsStub({"allowed.test": ["127.0.0.1"], "evil.test": ["127.0.0.1"]})
    web = stubs.HttpStub()
    lane = None
    with machine.test_user("f") as user:
        try:
            for line in sys.stdin:
                if lane is None:
                    lane = points.Lane(user, dns, web)
                try:
                    result = lane.run(json.loads(line))
                except Exception as e:  # a lane that is not understood is a finding, and the next task has a new one
                    result = {"task": json.loads(line), "points": 0, "counted": 0, "seconds": 0, "slow": [],
                              "problems": [*lane.problems, f"{type(e).__name__}: {e} {lane.instance.log_text()[-1500:]}"]}
                if result["problems"]:
                    lane.instance.remove()
                    lane = None
                print(json.dumps(result), flush=True)
        finally:
            if lane:
                lane.instance.remove()


if __name__ == "__main__":
    main()
