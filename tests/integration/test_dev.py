"""The developer script, as the README shows it."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid

import pytest

import machine

# `./dev run` builds what is not up to date: not under the feet of other tests.
pytestmark = pytest.mark.alone

DEV = os.path.join(machine.TOP, "dev")


# What says which build is tested and where its log goes.
KEPT = {name: os.environ[name] for name in ("SANDBOXD_BUILD", "SANDBOXD_TEST_LOG") if name in os.environ}


def dev(root, *arguments, **options):
    options.setdefault("timeout", 180)
    options.setdefault("env", root.environment(**KEPT))
    return root.run([DEV, *arguments], **options)


def test_run(root):
    work = root.workspace()
    done = dev(root, "run", "--", "sh", "-c", "echo inside; id -u; touch made; exit 6", cwd=work)
    assert done.returncode == 6, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "inside" and lines[1] != "0"
    assert os.stat(work + "/made").st_uid == 0
    assert "decisions:" in done.stderr and "exec" in done.stderr.split("decisions:")[1]


def folder_of_instance(pid):
    """As the daemon below this process was told it."""
    for child in machine.children_of(pid):
        with contextlib.suppress(OSError), open(f"/proc/{child}/cmdline", encoding="utf-8", errors="replace") as f:
            for word in f.read().split("\0"):
                if re.fullmatch(r"/run/sandboxd-dev\.\w+/run", word):
                    return os.path.dirname(word)
    raise AssertionError("no daemon below", pid)


def test_run_leaves_nothing(root):
    marker = f"65{uuid.uuid4().int % 10**8}"
    child = root.popen([DEV, "run", "--", "sh", "-c", "cat; :", marker], cwd=root.workspace(), env=root.environment(**KEPT),
                       stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found = machine.eventually(lambda: [p for p in machine.processes_with(marker) if machine.comm_of(p) == "sh"], 60)
    group = machine.group_of(found[0])
    while not os.path.basename(group).startswith("sandboxd-"):
        group = os.path.dirname(group)
    folder = folder_of_instance(child.pid)
    assert os.path.isdir(folder) and os.path.isdir(group), (folder, group)
    child.stdin.close()
    assert child.wait(60) == 0
    assert not os.path.exists(folder) and not os.path.exists(group)


def test_run_denies_and_says_so(root):
    done = dev(root, "run", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://example.test/",
               cwd=root.workspace())
    assert done.stdout == "403", done.stderr
    decisions = done.stderr.split("decisions:")[1]
    assert "deny" in decisions and "example.test" in decisions


def test_run_as_an_ordinary_user(alice):
    done = alice.run([DEV, "run", "--", "true"])
    assert done.returncode == 1 and "root" in done.stderr and len(done.stderr.splitlines()) == 1


def test_run_ends_on_signals(root):
    marker = f"64{uuid.uuid4().int % 10**8}"
    child = root.popen([DEV, "run", "--", "sleep", marker], cwd=root.workspace(), env=root.environment(**KEPT),
                       stderr=subprocess.DEVNULL, start_new_session=True)
    assert machine.eventually(lambda: len(machine.processes_with(marker)) >= 3, 60)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(30) in (130, -2)
    assert machine.eventually(lambda: not machine.processes_with(marker))


def test_instance(root, alice):
    folder = tempfile.mkdtemp(prefix="sandboxd-test-", dir="/run")
    os.chmod(folder, 0o755)
    child = root.popen([DEV, "instance", folder], env=root.environment(**KEPT), stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL)
    try:
        assert child.stdout.readline() == b"ready\n"
        done = alice.run([DEV, "ctl", "run", "-T", "--", "echo", "hello"], cwd=alice.workspace(),
                         env=alice.environment(SANDBOXD_ADDRESS=f"unix:{folder}/run/io.sandboxd", **KEPT))
        assert done.stdout == "hello\n", done.stderr
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        child.stdout.close()
        time.sleep(0.1)
        subprocess.run(["rm", "-rf", folder], check=False)


def test_unknown_commands(root):
    assert dev(root, "nonsense").returncode == 1
    assert dev(root, "test", "nonsense").returncode == 1
