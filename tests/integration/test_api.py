"""What the api worker promises its clients: layers, environment, records, and clients that misbehave."""

import json
import os
import signal
import subprocess
import time

import pytest

from machine import eventually


def variables(instance, user, profile, environment, *options):
    done = instance.ctl(user, "run", "-T", "-p", profile, *options, "--", "env", "-0", cwd=user.workspace(),
                        environment=environment)
    assert done.returncode == 0, done
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


def test_variables_that_policy_lets_pass(instance, either, make_profile):
    profile = make_profile(environment={"pass": ["MINE", "BIG", "SET", "LINES", "BYTES"], "set": {"SET": "policy"}})
    theirs = {"MINE": "1", "OTHER": "canary", "BIG": "x" * 5000, "SET": "client", "LINES": "a\nb", "BYTES": "\udcff",
              "LANG": "C.UTF-8", "MINE_TOO": "canary"}
    found = variables(instance, either, profile, theirs)
    assert (found["MINE"], found["SET"], found["LANG"]) == ("1", "policy", "C.UTF-8")
    assert not {"OTHER", "BIG", "LINES", "BYTES", "MINE_TOO"} & set(found)
    assert variables(instance, either, profile, theirs, "--env", "MINE=2")["MINE"] == "2"


def test_candidates_have_bounds(instance, alice, make_profile):
    profile = make_profile(environment={"pass": ["V10", "LAST"]})
    many = {f"V{i}": "\x1b" * 3000 for i in range(200)}
    found = variables(instance, alice, profile, {**many, "LAST": "1"})
    assert "V10" in found or "LAST" in found
    replies = instance.call(alice, "io.sandboxd.Session.Create",
                            {"context": {"passEnvironment": [f"A{i}=1" for i in range(1025)]}})
    assert replies[0]["parameters"] == {"parameter": "context.passEnvironment"}


def test_candidates_are_not_kept(instance, alice):
    secret = "canary" + os.urandom(8).hex()
    session = instance.create(alice, "--env", "MINE=1", environment={"LANG": "C", "SECRET": secret})
    try:
        described = instance.call(alice, "io.sandboxd.Session.Describe", {"id": session})[0]["parameters"]
        assert "passEnvironment" not in described["context"] and secret not in str(described)
        assert described["context"]["environment"] == ["MINE=1"]
        found = instance.ctl(alice, "exec", session, "--", "env", environment={"LANG": "de_DE.UTF-8", "SECRET": secret})
        assert "LANG=C\n" in found.stdout and "MINE=1\n" in found.stdout and secret not in found.stdout
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)


def test_the_log_shows_commands(instance, alice):
    """The words of a command, escaped; an empty one is one, too."""
    words = ["echo", "-n", "true \x1b[31m\u202e\n\\", "a b", "", "last"]
    assert instance.ctl(alice, "run", "-T", "--name", "logged", "--", *words, cwd=alice.workspace()).returncode == 0
    records = [json.loads(line) for line in instance.ctl(alice, "audit", "log", "--json").stdout.splitlines()]
    shown = [r for r in records if r["action"] == "exec"][-1]
    assert shown["details"]["commandLine"] == ["echo", "-n", r"true \x1b[31m\xe2\x80\xae\x0a\x5c", "a b", "", "last"]
    assert all("commandLine" not in r.get("details", {}) for r in records if r["action"] != "exec")
    text = instance.ctl(alice, "audit", "log", "-n", "20").stdout
    assert r"echo -n true \x1b[31m" in text and "\x1b" not in text and "\u202e" not in text


def test_usual_names_of_secrets_are_denied(instance, alice):
    work = alice.workspace()
    names = (".env", ".env.local", ".env.production", "id_rsa", "id_ed25519", "credentials.json", "secrets.json",
             "secrets.yaml", "service-account.json", "terraform.tfstate", "terraform.tfvars", ".vault_pass", "kubeconfig")
    for name in names:
        alice.write(f"{work}/{name}", "SECRETBYTES\n")
    done = instance.sh(alice, f"for f in {' '.join(names)}; do cat $f; cp $f x; cat x; mv $f y; cat y; done; true",
                       workspace=work)
    assert done.returncode == 0 and "SECRETBYTES" not in done.stdout
    for name in names:
        with open(f"{work}/{name}", encoding="utf-8") as f:
            assert f.read() == "SECRETBYTES\n"


def test_a_command_beside_the_one_of_run(instance, alice):
    """What is run in a session beside the command that it was made for neither ends it nor gives it its result."""
    running = instance.ctl_start(alice, "run", "-T", "--name", "beside", "--", "sh", "-c", "sleep 2; exit 7",
                                 cwd=alice.workspace())
    assert eventually(lambda: "beside" in instance.ctl(alice, "list").stdout)
    assert instance.ctl(alice, "exec", "beside", "--", "sh", "-c", "exit 3").returncode == 3
    assert instance.ctl(alice, "exec", "beside", "--", "/nonexistent").returncode == 127
    assert instance.ctl(alice, "exec", "beside", "--", "true", "x" * 120000, "y" * 120000).returncode == 125
    slow = instance.ctl_start(alice, "exec", "beside", "--", "sleep", "100")
    assert running.wait(20) == 7
    assert slow.wait(20) == 137
    assert "beside" not in instance.ctl(alice, "list", "-a").stdout


def test_exec_says_what_was_denied(instance, alice):
    session = instance.create(alice)
    try:
        command = ("curl", "-s", "-m", "5", "http://evil.test/")
        first = instance.ctl(alice, "exec", session, "--", *command)
        assert first.stderr.count("denied: evil.test") == 1, first
        assert instance.ctl(alice, "exec", "-q", session, "--", *command).stderr == ""
        assert instance.ctl(alice, "exec", session, "--", "true").stderr == ""
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)


@pytest.mark.parametrize("context, field", [
    ({"limits": {"filesMax": 1}}, "context.limits.filesMax"),
    ({"limits": {"filesMax": 2 ** 40}}, "context.limits.filesMax"),
    ({"workingDirectory": "/proc/1/root"}, "context.workingDirectory"),
    ({"workingDirectory": "/home/../etc"}, "context.workingDirectory"),
])
def test_values_that_no_session_can_have(instance, alice, context, field):
    replies = instance.call(alice, "io.sandboxd.Session.Create", {"context": context})
    assert replies == [{"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": field}}]


def test_long_command_lines_are_cut_in_descriptions(instance, alice):
    """All of a session's commands fit into one reply and take little memory."""
    session = instance.create(alice)
    try:
        command = {"commandLine": ["true", "\u00e4" * 20000, "\x01" * 9000], "standardInput": "null",
                   "standardOutput": "null"}
        message = json.dumps({"method": "io.sandboxd.Session.Exec", "parameters": {"id": session, "command": command}})
        replies = instance.raw_call(alice, (message.encode() + b"\0") * 60, timeout=20)
        assert replies.count(b'"process"') == 60
        described = instance.call(alice, "io.sandboxd.Session.Describe", {"id": session})
        processes = described[0]["parameters"]["runtime"]["processes"]
        assert len(processes) == 60
        assert all(p["commandLine"][0] == "true" and p["commandLine"][1].startswith("\u00e4" * 100) and
                   p["commandLine"][1].endswith("...") and len(str(p["commandLine"])) < 400 for p in processes)
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)


def test_all_that_came_before_the_end_is_answered(instance, alice):
    """A client that sends calls and closes its sending side gets each answer, also those that take a while."""
    session = instance.create(alice)
    try:
        command = {"commandLine": ["true"], "standardInput": "null", "standardOutput": "null"}
        message = json.dumps({"method": "io.sandboxd.Session.Exec", "parameters": {"id": session, "command": command}})
        for number in (1, 2, 7):
            replies = instance.raw_call(alice, (message.encode() + b"\0") * number + b'{"method":')
            assert replies.count(b'"process"') == number
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)


STUFF = r"""
import json, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(1)
s.sendall(sys.argv[2].encode() + b"\0")
s.recv(65536)
try:
    while True:
        s.send(b'{"method":"org.varlink.service.GetInfo"}\0' * 100)
except TimeoutError:
    print("full", flush=True)
time.sleep(100)
"""


def test_a_client_that_dies_behind_a_full_input_is_noticed(instance, alice):
    spawn = {"method": "io.sandboxd.Session.Spawn", "more": True,
             "parameters": {"context": {"name": "stuffed"}, "command": {"commandLine": ["sleep", "100"],
                            "standardInput": "null", "standardOutput": "null"}}}
    client = alice.popen(["/usr/bin/python3", "-c", STUFF, instance.socket, json.dumps(spawn)],
                         stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline().strip() in ("full", b"full")
        time.sleep(1.5)
        assert "stuffed" in instance.ctl(alice, "list").stdout
    finally:
        client.send_signal(signal.SIGKILL)
        client.communicate()
    assert eventually(lambda: "stuffed" not in instance.ctl(alice, "list").stdout)


def test_descriptions_for_people_are_escaped(instance, alice):
    odd = "a\u202eb\u009b31mc\x1b[31m"
    context = {"lifetime": "detached", "labels": {"odd": odd}, "agent": odd}
    session = instance.call(alice, "io.sandboxd.Session.Create", {"context": context})[0]["parameters"]["id"]
    try:
        assert instance.call(alice, "io.sandboxd.Session.Describe", {"id": session})[0]["parameters"]["context"] == context
        for verb in (("describe", session), ("list",), ("audit", "log"), ("describe", odd), ("terminate", odd)):
            done = instance.ctl(alice, *verb)
            assert not set("\u202e\u009b\x1b") & set(done.stdout + done.stderr), verb
    finally:
        instance.ctl(alice, "terminate", "--grace", "0s", session)
