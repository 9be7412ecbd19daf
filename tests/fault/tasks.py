"""Which points there are: a task is one flow, disturbed at every call of some classes in one of the programs."""

import os

import machine

# Of some tasks every step-th call is taken, and of the last ones each; the same ones in each run. With
# SANDBOXD_FAULT_FIRST=2 it is those beside them, with SANDBOXD_FAULTS=all every call.
FIRST = int(os.environ.get("SANDBOXD_FAULT_FIRST", 1))
IS_ALL = os.environ.get("SANDBOXD_FAULTS") == "all"

TAIL = 48
KILLED_AT = ["open", "write", "accept", "commit", "spawn", "step"]


def name_of(task):
    return "-".join((task["action"], task["flow"], task["program"],
                     "calls" if task["classes"] == KILLED_AT else "+".join(task["classes"])))


def task(action, flow, program, *classes, step=1, is_sample=False):
    """is_sample: another task has every call of these, in a flow that is cheaper (ladder, answers)."""
    step = 1 if IS_ALL and not is_sample else step
    return {"action": action, "flow": flow, "program": program, "classes": list(classes) or KILLED_AT, "step": step,
            "first": 1 + (FIRST - 1) % step, "tail": TAIL if action == "fail" else 0}


# The longest first, so that the last ones end together.
TASKS = [
    task("fail", "ladder", "sandboxd-audit", "alloc", step=19),
    task("fail", "ladder", "sandboxd-api", "alloc", step=17),
    task("fail", "answers", "sandboxd-lookup", "alloc", step=9),
    task("fail", "start", "sandboxd", "alloc", "open", "write", "spawn", step=5),
    task("fail", "session", "sandboxd-api", "alloc", step=7),
    task("kill", "start", "sandboxd-audit", step=9),
    task("fail", "session", "sandboxd-egress", "alloc", step=5),
    task("kill", "session", "sandboxd", step=3),
    task("fail", "session", "sandboxd-audit", "alloc", step=4),
    task("fail", "session", "sandboxctl", "alloc", step=5),
    task("kill", "session", "sandbox-init", step=4),
    task("kill", "start", "sandboxd", step=5),
    task("kill", "start", "sandboxd-egress", step=3),
    task("fail", "ladder", "sandboxd-egress", "alloc", step=2),
    task("kill", "restart", "sandboxd-api", step=5),
    task("fail", "ladder", "sandboxd-dialer", "alloc", step=2),
    task("kill", "session", "sandboxd-audit", step=2),
    task("kill", "session", "sandboxd-egress", step=2),
    task("kill", "session", "sandboxd-api"),
    task("kill", "session", "sandboxd-dialer"),
    task("kill", "session", "sandboxctl"),
    task("kill", "session", "sandboxd-watch"),
    task("fail", "session", "sandboxd-watch", "alloc"),
    task("fail", "session", "sandboxd-watch", "open", "write"),
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
    task("fail", "restart", "sandboxd-api", "alloc", step=1511, is_sample=True),
    task("fail", "restart", "sandboxd-api", "open", "write"),
    task("fail", "rows", "reader", "alloc", step=61),
    task("fail", "rows", "reader", "open", "write", "spawn"),
    task("kill", "ladder", "sandboxd-audit", step=3),
    task("kill", "ladder", "sandboxd-dialer"),
    task("kill", "ladder", "sandboxd-egress"),
    task("kill", "ladder", "sandboxd-api"),
    task("fail", "start", "sandboxd-lookup", "alloc", step=1511, is_sample=True),
    task("fail", "start", "sandboxd-audit", "alloc", step=1511, is_sample=True),
    task("fail", "start", "sandboxd-dialer", "alloc", step=151, is_sample=True),
    task("fail", "start", "sandboxd-egress", "alloc", step=377, is_sample=True),
    task("fail", "start", "sandboxd-lookup", "open", "write"),
    task("fail", "start", "sandboxd-watch", "open", "write"),
    task("kill", "start", "sandboxd-watch"),
    task("fail", "start", "sandboxd-audit", "open", "write", "commit", "spawn"),
    task("fail", "start", "sandboxd-dialer", "open", "write"),
    task("fail", "start", "sandboxd-egress", "open", "write"),
]
# Without FUSE nobody starts it.
TASKS = [t for t in TASKS if t["program"] != "sandboxd-watch" or machine.has_fuse()]
