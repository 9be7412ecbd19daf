"""Profiles that are shipped: what each is for works, and none shows a credential of the caller."""

import json
import os
import re
import shutil

import pytest

from machine import POLICIES

SHIPPED = ["base", "agent", "build", "host", "offline"]
AGENTS = sorted(name[:-5] for name in os.listdir(POLICIES + "/agents"))
SECRETS = [".ssh/id_sbxt", ".aws/credentials", ".netrc", ".npmrc", ".config/gh/hosts.yml", ".git-credentials", ".claude.json",
           ".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json", ".local/share/opencode/auth.json",
           ".config/goose/secrets.yaml", ".bash_history", ".kube/config", ".mozilla/firefox/p/logins.json"]
# What is the program's own: the folder that its settings lie in, or their file.
OWN = {"aider": (".aider",), "claude-code": (".claude/",), "codex": (".codex/",), "gemini-cli": (".gemini/",),
       "goose": (".config/goose/",), "opencode": (".local/share/opencode/",)}


@pytest.fixture(scope="module")
def secrets(alice):
    before = set(os.listdir(alice.home))
    for name in SECRETS:
        alice.write(os.path.join(alice.home, name), f"PROFILE-CANARY {name}\n", 0o644)
    yield
    for name in set(os.listdir(alice.home)) - before - {"work"}:
        path = os.path.join(alice.home, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def leaks(instance, user, profile, homes="~"):
    done = instance.sh(user, f"grep -rhs PROFILE-CANARY {homes} /proc/self/root$HOME; cd ~; cat {' '.join(SECRETS)}; echo end",
                       options=["-p", profile])
    assert done.stdout.endswith("end\n"), done
    return {line.split()[1] for line in done.stdout.splitlines()[:-1]}


@pytest.mark.parametrize("name", SHIPPED)
def test_no_credentials(instance, alice, secrets, name):
    assert not leaks(instance, alice, name)


@pytest.mark.parametrize("name", AGENTS)
def test_samples_show_their_own(instance, alice, secrets, name):
    found = leaks(instance, alice, f"{POLICIES}/agents/{name}.json")
    assert all(secret.startswith(OWN[name]) for secret in found), found


@pytest.mark.parametrize("name", AGENTS)
def test_samples_grant_their_own_only(name):
    with open(f"{POLICIES}/agents/{name}.json", encoding="utf-8") as f:
        policy = json.loads(re.sub(r"^//.*$", "", f.read(), flags=re.M))
    assert set(policy) == {"version", "name", "description", "extends", "filesystem"} and policy["extends"] == ["agent"]
    word = {"claude-code": "claude", "gemini-cli": "gemini"}.get(name, name)
    own = policy["filesystem"].get("tmpfs", {})
    assert set(policy["filesystem"]) - {"tmpfs"} == {"read", "write"}
    for path in policy["filesystem"]["read"] + policy["filesystem"]["write"] + list(own):
        assert path.startswith("~/") and path[2:].split("/")[-1 if "/" not in path[2:] else 0].startswith(".")
        assert any(part.lstrip(".").startswith(word) for part in path[2:].split("/")), path


@pytest.mark.parametrize("name", AGENTS)
def test_samples_have_a_page(name):
    """Which says of each path what the sample does with it, and names no other."""
    with open(f"{POLICIES}/agents/{name}.json", encoding="utf-8") as f:
        of = json.loads(re.sub(r"^//.*$", "", f.read(), flags=re.M))["filesystem"]
    with open(f"{POLICIES}/../docs/profiles/agents/{name}.md", encoding="utf-8") as f:
        rows = [line.split("|")[1:3] for line in f if line.startswith("| `")]
    said = {path: word.strip() for paths, word in rows for path in re.findall(r"`([^`]+)`", paths)}
    words = {"read": "read", "write": "writable", "tmpfs": "own, empty"}
    assert said == {path: words[key] for key, paths in of.items() for path in paths}


@pytest.mark.parametrize("name, path", [("claude-code", ".claude/shell-snapshots/snapshot.sh"), ("gemini-cli", ".gemini/tmp/bin/rg"),
                                        ("opencode", ".local/share/opencode/bin/server")])
def test_samples_do_not_change_what_runs_outside(instance, alice, name, path):
    """Such a program keeps files that it executes: a session must not choose what the one outside runs."""
    full = os.path.join(alice.home, path)
    alice.write(full, "of the host\n", 0o755)
    try:
        done = instance.sh(alice, f"mkdir -p ~/{os.path.dirname(path)}; echo of the session >~/{path}; true",
                           options=["-p", f"{POLICIES}/agents/{name}.json"])
        assert done.returncode == 0, done.stderr
        with open(full, encoding="utf-8") as f:
            assert f.read() == "of the host\n"
    finally:
        os.unlink(full)


@pytest.mark.parametrize("name", SHIPPED)
def test_workspaces(instance, either, name):
    work = either.workspace()
    either.write(work + "/.env", "of the project\n")
    done = instance.sh(either, "echo x >made; cat made" + ("" if name == "base" else "; cat .env"), workspace=work,
                       options=["-p", name])
    assert done.stdout == "x\n", done
    assert os.stat(work + "/made").st_uid == either.uid


def test_build_keeps_caches_and_reaches_nothing(instance, alice):
    work = alice.workspace()
    instance.sh(alice, "mkdir -p ~/.cache/tool && echo warm >~/.cache/tool/f", workspace=work, options=["-p", "build"])
    done = instance.sh(alice, "cat ~/.cache/tool/f; curl -s -o /dev/null -w '%{http_code}\\n' http://allowed.test/; "
                              "df --output=size -BG /tmp | tail -1", workspace=work, options=["-p", "build"])
    assert done.stdout.split() == ["warm", "403", "8G"], done


def test_host_reads_the_machine(instance, alice):
    alice.write(alice.home + "/sbxt-notes", "a note\n")
    done = instance.sh(alice, "cat ~/sbxt-notes; ls -d /var/lib/dpkg; ls -A /run | grep -vxE 'lock|sandbox'; touch ~/x /var/lib/x",
                       options=["-p", "host"])
    os.unlink(alice.home + "/sbxt-notes")
    assert done.stdout == "a note\n/var/lib/dpkg\n", done
