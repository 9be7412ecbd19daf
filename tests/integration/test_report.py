"""What a session leaves behind: report."""

import json
import os
import queue
import subprocess
import threading
import time

import pytest

from machine import eventually


def report(instance, user, session, *options):
    done = instance.ctl(user, "report", *options, session)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def kept(instance, either):
    """run(work, script, …): the id of a session that has ended and is kept."""
    made = []

    def run(work, script, *options):
        name = f"report{os.getpid()}-{len(made)}"
        done = instance.ctl(either, "run", "-T", "--keep", "--name", name, *options, "--", "sh", "-c", script, cwd=work)
        assert done.returncode == 0, done.stderr
        made.append(name)
        return name

    yield run
    for name in made:
        instance.ctl(either, "remove", name)


def test_kinds(instance, either, kept):
    work = either.workspace()
    either.write(work + "/old", "old\n")
    either.write(work + "/old-program", "#!/bin/sh\n", 0o755)
    either.write(work + "/AGENTS.md", "old\n")
    either.run(["git", "init", "-q", work])
    time.sleep(1.1)  # the clock of files is coarse
    name = kept(work, r"""
        echo x >Makefile; echo x >plain; mkdir -p deep/er; echo x >deep/er/conftest.py
        ln -s /etc/passwd out; ln -s ../../x deep/up; ln -s ../plain deep/in; echo '#!/bin/sh' >tool; chmod +x tool
        ln plain plain2; mkfifo pipe; echo x >"$(printf 'a\nb')"; git init -q sub; echo y >>AGENTS.md
        echo evil >.envrc; chmod u+s tool 2>/dev/null; true""")
    told = json.loads(report(instance, either, name, "--json"))
    kinds = {(entry["path"], entry["kind"]) for entry in told["handOver"]}
    assert {("Makefile", "build-file"), ("deep/er/conftest.py", "build-file"), ("out", "symlink-outside"),
            ("deep/up", "symlink-outside"), ("tool", "executable"), ("plain", "hard-link"), ("plain2", "hard-link"),
            ("pipe", "special-file"), ("sub/.git", "repository"), ("sub/.git/config", "git-config"),
            ("AGENTS.md", "agent-config")} <= kinds, kinds
    assert {entry["target"] for entry in told["handOver"] if entry["path"] in ("out", "deep/up")} == {"/etc/passwd", "../../x"}
    odd = [path for path, kind in kinds if kind == "odd-name"]
    assert len(odd) == 1 and "\n" not in odd[0]
    assert {"plain", "Makefile", "deep/in"} <= set(told["changed"])
    assert not {"old", "old-program"} & (set(told["changed"]) | {path for path, _ in kinds})
    assert told["truncated"] is False and not any(path.startswith(".git/") for path in told["changed"])

    for options, line in ((), "\nLook at these"), (("--markdown",), "\n## Look at these"):
        text = report(instance, either, name, *options)
        assert line in text and "Makefile" in text and "symlink-outside" in text and ".envrc" in text
        assert "a\nb" not in text


def test_hosts_and_questions(instance, either, kept):
    work = either.workspace()
    name = kept(work, "for i in 1 2 3; do curl -s http://nowhere.test:81/ >/dev/null; done; true")
    told = json.loads(report(instance, either, name, "--json"))
    [place] = [p for p in told["hosts"] if p["host"] == "nowhere.test" and p["port"] == 81]
    assert place["denied"] == 3 and place["allowed"] == 0
    assert place["questions"] == 3 and told["questions"] == 3
    assert told["sentBytes"] == 0 and told["receivedBytes"] == 0
    assert "nowhere.test:81" in report(instance, either, name)


def test_while_it_runs_and_of_whom(instance, alice, bob):
    work = alice.workspace()
    session = instance.create(alice, cwd=work)
    instance.ctl(alice, "exec", session, "--", "sh", "-c", "echo x >Makefile")
    told = json.loads(report(instance, alice, session, "--json"))
    assert [entry["path"] for entry in told["handOver"]] == ["Makefile"] and told["runtime"]["state"] == "running"
    for name in (session, "0" * 32):
        done = instance.ctl(bob, "report", name)
        assert done.returncode == 125 and f"no session {name}" in done.stderr
    instance.ctl(alice, "terminate", session)


def test_a_hostile_tree(instance, either, kept):
    """It ends, says that there is more, and is no way to what the owner may not see."""
    work = either.workspace()
    name = kept(work, r"""
        mkdir many; cd many; python3 -c 'for i in range(12000): open("f%d" % i, "w").close()'; cd ..
        python3 -c 'import os
for i in range(300):
    os.mkdir("d"); os.chdir("d")
open("bottom", "w").close()'
        mkdir closed; echo x >closed/Makefile; chmod 0 closed; ln -s / all; mkfifo p""")
    told = json.loads(report(instance, either, name, "--json"))
    assert told["truncated"] is True and told["changed"]
    assert not any(path.startswith("all/") for path in told["changed"])
    os.chmod(work + "/closed", 0o755)


TRACE = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
print("ready", flush=True)
while True:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f:
                name = f.read()
            if name == "sandboxd-lookup\\n" and os.stat(f"/proc/{pid}").st_uid == os.getuid():
                if libc.ptrace(0x4206, int(pid), 0, 0) == 0:  # PTRACE_SEIZE
                    print("traced", flush=True)
                    time.sleep(1000)
        except OSError:
            pass
"""


def test_a_child_that_its_user_holds_on_to(instance, alice, bob):
    """Of a report's child its user is the tracer and does not wait for it: nobody else notices."""
    work = alice.workspace()
    for n in range(2000):
        alice.write(f"{work}/file{n}", "")
    session = instance.create(alice, cwd=work)
    tracer = alice.popen(["/usr/bin/python3", "-c", TRACE], stdout=subprocess.PIPE, text=True)
    try:
        assert tracer.stdout.readline() == "ready\n"
        lines = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line) for line in tracer.stdout], daemon=True).start()

        def is_traced():
            instance.ctl(alice, "report", session)
            return not lines.empty()
        assert eventually(is_traced, 120, 0), "never caught"
        assert instance.sh(bob, "echo fine").stdout == "fine\n"
        assert instance.ctl(bob, "status").returncode == 0
    finally:
        tracer.kill()
        tracer.wait()
        tracer.stdout.close()
        instance.ctl(alice, "terminate", "--grace", "0", session)
    assert eventually(lambda: instance.ctl(alice, "report", session).returncode == 0, 60)
