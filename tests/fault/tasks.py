"""Which points there are: a task is one flow, disturbed at every call of some classes in one of the programs."""

import os
import time

# A start has more calls than a run of the tests has time for: of some tasks each day another part, or that of a given
# day, or with SANDBOXD_FAULTS=all every call.
DAY = int(os.environ.get("SANDBOXD_FAULT_DAY", time.time() // 86400))
IS_ALL = os.environ.get("SANDBOXD_FAULTS") == "all"

KILLED_AT = ["open", "write", "accept", "commit", "spawn", "step"]


def name_of(task):
    return "-".join((task["action"], task["flow"], task["program"],
                     "calls" if task["classes"] == KILLED_AT else "+".join(task["classes"])))


def task(action, flow, program, *classes, step=1):
    step = 1 if IS_ALL else step
    return {"action": action, "flow": flow, "program": program, "classes": list(classes) or KILLED_AT, "step": step,
            "first": 1 + DAY % step}


# The longest first, so that the last ones end together.
TASKS = [
    task("kill", "start", "sandboxd", step=2),
    task("fail", "session", "sandboxd-api", "alloc"),
    task("fail", "session", "sandboxd-egress", "alloc"),
    task("fail", "session", "sandboxd-audit", "alloc"),
    task("kill", "session", "sandbox-init"),
    task("kill", "session", "sandboxd"),
    task("fail", "session", "sandboxctl", "alloc"),
    task("fail", "start", "sandboxd", "alloc", "open", "write", "spawn"),
    task("kill", "session", "sandboxd-egress"),
    task("kill", "session", "sandboxd-api"),
    task("kill", "session", "sandboxd-audit"),
    task("kill", "session", "sandboxd-dialer"),
    task("kill", "session", "sandboxctl"),
    task("kill", "session", "sandbox-init-child"),
    task("kill", "rows", "reader"),
    task("kill", "start", "sandboxd-lookup"),
    task("kill", "start", "sandboxd-audit", step=4),
    task("kill", "start", "sandboxd-dialer"),
    task("kill", "start", "sandboxd-egress"),
    task("fail", "session", "sandboxd", "alloc"),
    task("fail", "session", "sandboxd", "open"),
    task("fail", "session", "sandboxd", "write"),
    task("fail", "session", "sandboxd", "accept"),
    task("fail", "session", "sandboxd", "spawn"),
    task("fail", "session", "sandboxd-api", "open"),
    task("fail", "session", "sandboxd-api", "write"),
    task("fail", "session", "sandboxd-audit", "open"),
    task("fail", "session", "sandboxd-audit", "write"),
    task("fail", "session", "sandboxd-audit", "commit"),
    task("fail", "session", "sandboxd-dialer", "alloc"),
    task("fail", "session", "sandboxd-dialer", "open"),
    task("fail", "session", "sandboxd-dialer", "write"),
    task("fail", "session", "sandboxd-egress", "open"),
    task("fail", "session", "sandboxd-egress", "write"),
    task("fail", "session", "sandboxd-egress", "accept"),
    task("fail", "session", "sandbox-init", "alloc"),
    task("fail", "session", "sandbox-init", "open"),
    task("fail", "session", "sandbox-init", "write"),
    task("fail", "session", "sandbox-init", "spawn"),
    task("fail", "session", "sandboxctl", "open"),
    task("fail", "session", "sandboxctl", "write"),
    task("fail", "restart", "sandboxd-api", "alloc", step=149),
    task("fail", "restart", "sandboxd-api", "open", "write"),
    task("fail", "start", "sandboxd-audit", "alloc", step=151),
    task("fail", "start", "sandboxd-dialer", "alloc", step=17),
    task("fail", "start", "sandboxd-egress", "alloc", step=37),
    task("kill", "restart", "sandboxd-api", step=3),
    task("fail", "rows", "reader", "open", "write", "spawn"),
    task("fail", "start", "sandboxd-lookup", "alloc", step=151),
    task("fail", "start", "sandboxd-lookup", "open", "write"),
    task("fail", "start", "sandboxd-audit", "open", "write", "commit", "spawn"),
    task("fail", "start", "sandboxd-dialer", "open", "write"),
    task("fail", "start", "sandboxd-egress", "open", "write"),
]
