"""Every call that can fail fails once, and every process is killed once at every call; see docs/HACKING.md."""

import pytest

import machine
import tasks


@pytest.mark.parametrize("task_name", [tasks.name_of(task) for task in tasks.TASKS])
def test_points(results, task_name):
    """Nothing crashes or hangs, nothing is unrecorded or stays open, and the next client is served."""
    result = results[task_name]
    assert not result["problems"], "\n".join(result["problems"])
    assert result["points"] >= max(1, result["counted"] // result["task"]["step"]), "calls were not hit"


def test_matrix_of_killed_processes(results):
    killed = {name: result["points"] for name, result in results.items() if result["task"]["action"] == "kill"}
    assert sum(killed.values()) >= 1000, killed
    assert {results[name]["task"]["program"] for name in killed} >= {
        "sandboxd", "sandboxd-api", "sandboxd-audit", "sandboxd-dialer", "sandboxd-egress", "sandboxd-lookup",
        "sandbox-init", "sandboxctl", "reader", *(["sandboxd-watch"] if machine.has_fuse() else [])}
