"""Denials by pattern: whatever in the workspace matches shows nothing, by whatever way it is asked for."""

import os
import subprocess

import pytest

DENY = {"filesystem": {"deny": ["**/.env", "${workspace}/**/*.pem", "top?.key", "${workspace}/a/**/secret*/x", "**/vault"]}}
HIDDEN = [".env", "sub/.env", "sub/deep/er/.env", "k.pem", "sub/tls/k.pem", "top1.key", "a/secret/x", "a/b/c/secrets/x",
          "vault/one", "sub/vault/deep/two"]
SHOWN = [".envrc", "env", "sub/xenv", "sub/k.pem.txt", "top12.key", "sub/top1.key", "b/secret/x", "a/x", "sub/vaults"]


@pytest.fixture
def work(either):
    folder = either.workspace()
    for name in HIDDEN:
        either.write(os.path.join(folder, name), f"CANARY {name}\n", 0o644)
    for name in SHOWN:
        either.write(os.path.join(folder, name), f"shown {name}\n", 0o644)
    return folder


@pytest.fixture
def patterns(make_profile):
    return make_profile(**DENY)


def test_matches_show_nothing(instance, either, work, patterns):
    done = instance.sh(either, "grep -rhs . . | sort; echo --; cat " + " ".join(HIDDEN) + " 2>/dev/null; echo --; ls vault sub/vault",
                       workspace=work, options=["-p", patterns])
    shown, read, listed = done.stdout.split("--\n")
    assert shown.splitlines() == sorted(f"shown {name}" for name in SHOWN), done
    assert "CANARY" not in read and "one" not in listed and "deep" not in listed, done
    tricks = ["mv .env x; cat x", "ln .env y; cat y", "ln -s .env z; cat z", "cat /proc/self/root$PWD/sub/.env", "mv sub/tls t; cat t/k.pem",
              "exec 5<>.env; cat <&5", "cp vault/one o; cat o", "chmod 777 .env; cat .env", "mv vault v; cat v/one", "rm -rf sub; cat sub/.env"]
    for trick in tricks:
        done = instance.sh(either, f"{trick}; true", workspace=work, options=["-p", patterns])
        assert "CANARY" not in done.stdout, (trick, done)
    left = subprocess.run(["grep", "-rhs", "CANARY", work], stdout=subprocess.PIPE, text=True, check=False).stdout
    assert sorted(left.splitlines()) == sorted(f"CANARY {name}" for name in HIDDEN), left


def test_links_lead_nowhere(instance, either, patterns):
    work = either.workspace()
    either.write(work + "/plain", "CANARY\n", 0o644)
    either.write(work + "/other", "shown\n", 0o644)
    os.symlink("plain", work + "/k.pem")
    os.symlink("nowhere", work + "/l.pem")
    done = instance.sh(either, "cat k.pem plain; cat other", workspace=work, options=["-p", patterns])
    assert done.stdout == "shown\n", done


def test_what_cannot_be_listed_is_hidden(instance, alice, patterns):
    """A session could open its own folder for itself afterwards."""
    work = alice.workspace()
    alice.write(work + "/shut/.env", "CANARY\n", 0o644)
    os.chmod(work + "/shut", 0o100)
    done = instance.sh(alice, "chmod 700 shut; cat shut/.env; true", workspace=work, options=["-p", patterns])
    assert done.returncode == 0 and "CANARY" not in done.stdout, done


def test_beyond_the_bounds_nothing_starts(instance, alice, patterns):
    work = alice.workspace()
    deep = "d/" * 60
    subprocess.run(["mkdir", "-p", os.path.join(work, deep)], check=True)
    subprocess.run(["chown", "-R", f"{alice.uid}:{alice.gid}", work], check=True)
    done = instance.sh(alice, "echo started", workspace=work, options=["-p", patterns])
    assert (done.returncode, done.stdout) == (125, "") and "too deep" in done.stderr, done
    assert instance.sh(alice, "echo started", workspace=work).stdout == "started\n"


def test_of_a_bounded_walk_only_what_can_match_is_looked_at(instance, alice, make_profile):
    work = alice.workspace()
    subprocess.run(["mkdir", "-p", os.path.join(work, "d/" * 60)], check=True)
    subprocess.run(["chown", "-R", f"{alice.uid}:{alice.gid}", work], check=True)
    alice.write(work + "/a.key", "CANARY\n", 0o644)
    done = instance.sh(alice, "cat a.key; echo started", workspace=work, options=["-p", make_profile(filesystem={"deny": ["*.key"]})])
    assert done.stdout == "started\n", done


def test_flags_and_questions(instance, alice):
    work = alice.workspace()
    alice.write(work + "/sub/.env", "CANARY\n", 0o644)
    done = instance.sh(alice, "cat sub/.env; echo end", workspace=work, options=["--deny", "**/.env"])
    assert done.stdout == "end\n", done
    text = '{"version": 1, "filesystem": {"deny": ["**/.env"]}}'
    for path, decision in (("sub/.env", "deny"), ("sub/.env/below", "deny"), ("sub/env", "allow")):
        reply, = instance.call(alice, "io.sandboxd.Policy.Check",
                               {"profileContent": text, "workspace": work, "file": {"operation": "read", "path": f"{work}/{path}"}})
        assert reply["parameters"]["decision"] == decision, (path, reply)
    for bad in ("/opt/*.pem", "~/**/x", "${workspace}/[ab]", "**x/y", "a/" * 20 + "*"):
        done = instance.sh(alice, "true", workspace=work, options=["--deny", bad])
        assert done.returncode == 125 and bad in done.stderr, (bad, done)
