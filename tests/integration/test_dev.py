"""The developer script, as the README shows it."""

import os
import signal
import subprocess
import tempfile
import time

import machine

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


def test_run_leaves_nothing(root):
    before = set(os.listdir("/run"))
    cgroups = machine.count_cgroups()
    dev(root, "run", "--", "true", cwd=root.workspace())
    assert {n for n in set(os.listdir("/run")) - before if n.startswith("sandboxd-dev")} == set()
    assert machine.eventually(lambda: machine.count_cgroups() <= cgroups + 1)


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
    marker = "65123457"
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
    assert dev(root, "vm").returncode == 1
    assert dev(root, "test", "nonsense").returncode == 1
