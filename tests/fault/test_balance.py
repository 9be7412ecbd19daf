"""After many sessions every count is what it was: descriptors, processes, threads, control groups, namespaces, mounts,
allocations that are not freed, and memory."""

import re

import pytest

import machine
import points
import stubs

CYCLES = 1000
# Allocations that may be more after so many sessions. Audit keeps the first row of each session of the segment that it
# writes, in two, and pages of the store up to a bound: less than what one more for each session would be.
MEASURED = {"sandboxd": 20, "sandboxd-api": 20, "sandboxd-audit": 2 * CYCLES + CYCLES // 2, "sandboxd-dialer": 20}


@pytest.fixture
def lane():
    dns = stubs.DnsStub({"allowed.test": ["127.0.0.1"], "evil.test": ["127.0.0.1"]})
    web = stubs.HttpStub()
    with machine.test_user("f") as user:
        lane = points.Lane(user, dns, web)
        try:
            lane.ensure_runs()
            yield lane
        finally:
            lane.instance.remove()
            dns.close()
            web.close()


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def first_of(instance, name):
    return instance.process.pid if name == "sandboxd" else instance.workers(name)[0]


def measure(lane):
    """Once everything is quiet."""
    counts = lane.steady_counts()
    return (counts, {name: lane.instance.page.live[points.PROGRAMS.index(name)] for name in MEASURED},
            {name: resident_kib(first_of(lane.instance, name)) for name in MEASURED})


def cycles(lane, name, n):
    for i in range(n):
        if i % 10 == 0:
            point = points.Point(lane, "cycle")
            point.program, point.file = "", f"{name}{i}"
            head = lane.instance.head()
            assert lane.session_flow(point), point.said
            lane.check_records(point, head)
            continue
        done = lane.instance.ctl(lane.user, "run", "-T", "--", "true", cwd=lane.work)
        assert done.returncode == 0, done.stderr


def test_balance_after_many_sessions(lane):
    # What is made once: caches, tables that have grown, names in the store's dictionary.
    cycles(lane, "before", CYCLES // 5)
    counts, live, resident = measure(lane)
    cycles(lane, "cycle", CYCLES)
    lane.check_balance(counts)
    _, live_now, resident_now = measure(lane)
    print({name: (live[name], live_now[name], resident[name], resident_now[name]) for name in MEASURED})
    for name in MEASURED:
        assert live_now[name] - live[name] <= MEASURED[name], (name, live, live_now)
        assert resident_now[name] < resident[name] * 1.25 + 1024, (name, resident, resident_now)
    assert not lane.open_in_log()
    assert not lane.problems, lane.problems
