"""Which points there are: a task is one flow, disturbed at every call of some classes in one of the programs."""

import os

# A start has more calls than a run of the tests has time for, nearly all inside libseccomp, SQLite and libcrypto. Of some
# tasks every step-th call is taken, and of the last ones, which are the program's own, each; the same ones in each run.
# With SANDBOXD_FAULT_FIRST=2 it is those beside them, with SANDBOXD_FAULTS=all every call.
FIRST = int(os.environ.get("SANDBOXD_FAULT_FIRST", 1))
IS_ALL = os.environ.get("SANDBOXD_FAULTS") == "all"

TAIL = 48
KILLED_AT = ["open", "write", "accept", "commit", "spawn", "step"]


def name_of(task):
    return "-".join((task["action"], task["flow"], task["program"],
                     "calls" if task["classes"] == KILLED_AT else "+".join(task["classes"])))


def task(action, flow, program, *classes, step=1):
    step = 1 if IS_ALL else step
    return {"action": action, "flow": flow, "program": program, "classes": list(classes) or KILLED_AT, "step": step,
            "first": 1 + (FIRST - 1) % step, "tail": TAIL if action == "fail" else 0}


# The longest first, so that the last ones end together.
TASKS = [
    task("fail", "start", "sandboxd", "alloc", "open", "write", "spawn"),
    task("fail", "session", "sandboxd-api", "alloc"),
    task("kill", "start", "sandboxd-audit", step=5),
    task("fail", "session", "sandboxd-egress", "alloc"),
    task("kill", "session", "sandboxd"),
    task("fail", "session", "sandboxd-audit", "alloc"),
    task("fail", "session", "sandboxctl", "alloc"),
    task("kill", "session", "sandbox-init"),
    task("kill", "start", "sandboxd", step=2),
    task("kill", "start", "sandboxd-egress"),
    task("fail", "start", "sandboxd-egress", "alloc", step=37),
    task("kill", "restart", "sandboxd-api", step=3),
    task("fail", "start", "sandboxd-dialer", "alloc", step=17),
    task("fail", "start", "sandboxd-audit", "alloc", step=151),
    task("kill", "session", "sandboxd-audit"),
    task("kill", "session", "sandboxd-egress"),
    task("kill", "session", "sandboxd-api"),
    task("kill", "session", "sandboxd-dialer"),
    task("kill", "session", "sandboxctl"),
    task("kill", "session", "sandbox-init-child"),
    task("kill", "rows", "reader"),
    task("kill", "start", "sandboxd-lookup"),
    task("kill", "start", "sandboxd-dialer"),
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
    task("fail", "restart", "sandboxd-api", "alloc", step=37),
    task("fail", "restart", "sandboxd-api", "open", "write"),
    task("fail", "rows", "reader", "open", "write", "spawn"),
    task("fail", "start", "sandboxd-lookup", "alloc", step=151),
    task("fail", "start", "sandboxd-lookup", "open", "write"),
    task("fail", "start", "sandboxd-audit", "open", "write", "commit", "spawn"),
    task("fail", "start", "sandboxd-dialer", "open", "write"),
    task("fail", "start", "sandboxd-egress", "open", "write"),
]
