"""Protected paths in a writable workspace."""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

import machine
from machine import eventually

GIT = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "protocol.file.allow=always"]
BASE = os.path.join(os.path.dirname(__file__), "..", "..", "policies", "base.json")


def protected():
    """The names that the profile `base` protects."""
    with open(BASE) as f:
        text = "\n".join(line for line in f.read().splitlines() if not line.lstrip().startswith("//"))
    return [path.split("/", 1)[1] for path in json.loads(re.sub(r"//[^\"]*$", "", text, flags=re.M))["filesystem"]["protect"]]


def git(user, work, *arguments):
    done = user.run([*GIT, "-C", work, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def repository(user, work=None):
    work = work or user.workspace()
    git(user, work, "init", "-q", "-b", "main")
    user.write(work + "/f", "f\n")
    git(user, work, "add", "f")
    git(user, work, "commit", "-q", "-m", "first")
    return work


def tree(work):
    """Names, kinds and contents, but for what git itself changes when it works."""
    found = {}
    for folder, folders, names in os.walk(work):
        for name in folders + names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, work)
            kind = os.lstat(path).st_mode
            found[relative] = (kind, open(path, "rb").read() if os.path.isfile(path) and not os.path.islink(path) else "")
    return found


@pytest.fixture
def session(instance, either):
    """start(work): runs scripts in one session of that workspace."""
    made = []

    def start(work, *options):
        name = instance.create(either, *options, cwd=work)
        made.append(name)
        return lambda script: instance.ctl(either, "exec", name, "--", "sh", "-c", script, cwd=work)

    yield start
    for name in made:
        instance.ctl(either, "terminate", name)


def covers(inside, work, path):
    """It lies under a read-only mount of its own inside."""
    table = inside("cat /proc/self/mountinfo").stdout
    return any(line.split()[4] == f"{work}/{path}" and line.split()[5].startswith("ro") for line in table.splitlines())


# ---- what is there ----

def test_what_exists_is_not_written(instance, either):
    work = repository(either)
    for name in (".envrc", ".vscode/tasks.json", ".git/info/attributes", ".mcp.json"):
        either.write(f"{work}/{name}", "mine\n")
    before = tree(work)
    done = instance.sh(either, """
        for f in .git/config .envrc .vscode/tasks.json .git/info/attributes .mcp.json .git/hooks/new .vscode/new; do
            (echo evil >>$f) 2>/dev/null && echo written $f
        done
        for f in .git .git/config .git/hooks .git/info .vscode .envrc; do
            python3 -c 'import os, sys; os.rename(sys.argv[1], "gone")' $f 2>/dev/null && echo moved $f
        done
        for f in .git/config .git/hooks .vscode .envrc; do
            rm -rf $f 2>/dev/null && echo removed $f
            chmod 777 $f 2>/dev/null && echo changed $f
        done
        ln .git/config link 2>/dev/null && echo linked
        ln -sfn elsewhere .vscode 2>/dev/null && test -L .vscode && echo replaced
        python3 -c 'import os; os.rename("f", ".envrc")' 2>/dev/null && echo renamed over
        echo end""", workspace=work)
    assert "written" not in done.stdout and "moved" not in done.stdout and done.stdout.endswith("end\n"), done.stdout
    assert "removed" not in done.stdout and "changed" not in done.stdout, done.stdout
    assert "linked" not in done.stdout and "replaced" not in done.stdout and "renamed" not in done.stdout, done.stdout
    after = tree(work)
    for name in (".git/config", ".envrc", ".vscode/tasks.json", ".git/info/attributes", ".mcp.json", "f"):
        assert after.get(name) == before[name], name
    assert not os.path.exists(work + "/.git/hooks/new") and not os.path.exists(work + "/.vscode/new")


def test_what_is_absent_cannot_be_made(instance, either):
    work = repository(either)
    names = [name.replace("*", "x") for name in protected()]
    absent = [name for name in names if not os.path.lexists(f"{work}/{name}")]
    assert len(absent) > 50
    before = set(tree(work))
    script = "\n".join(f"mkdir -p {os.path.dirname(name) or '.'}; echo evil >{name}" for name in absent)
    done = instance.sh(either, script + "\necho end", workspace=work)
    assert done.stdout.endswith("end\n")
    assert [name for name in absent if os.path.lexists(f"{work}/{name}")] == []
    folders = {os.path.dirname(name) for name in absent}
    assert {name for name in set(tree(work)) - before if not any((f + "/").startswith(name + "/") for f in folders)} == set()


@pytest.mark.parametrize("script", [
    "mkdir .vscode && echo evil >.vscode/tasks.json",
    "ln -s /etc/passwd .envrc",
    "ln -s elsewhere .git",
    "echo evil >x; ln x .envrc; rm x",
    "mkfifo .envrc",
    "echo evil >.git",
    "echo evil >x; mv x .envrc",
    "touch .envrc.refused; for i in $(seq 2 99); do touch .envrc.refused-$i; done; echo evil >x; mv x .envrc",
    "echo evil >.envrc; chmod 555 .",
    "echo evil >x; mv x .envrc; chmod 0 .",
    "chmod 300 .; echo x >y; echo evil >.envrc; while test -e .envrc; do sleep 0.1; done",
])
def test_whatever_it_is_made_by(instance, either, script):
    work = either.workspace()
    assert instance.sh(either, script + " 2>/dev/null; echo end", workspace=work).stdout.endswith("end\n")
    assert not set(os.listdir(work)) & {".vscode", ".envrc", ".git"}, os.listdir(work)


def test_what_was_brought_there_is_not_lost(instance, either):
    """It may be somebody's only copy."""
    work = either.workspace()
    either.write(work + "/src/main.c", "mine\n")
    either.write(work + "/g/config", "evil\n")
    either.write(work + "/g/hooks/pre-commit", "evil\n")
    instance.sh(either, "mv src .claude; mv g .git", workspace=work)
    [aside] = [name for name in os.listdir(work) if name.startswith(".claude")]
    assert aside.startswith(".claude.refused-") and open(f"{work}/{aside}/main.c").read() == "mine\n"
    assert sorted(name.split("-")[0] for name in os.listdir(work + "/.git")) == ["config.refused", "hooks.refused"]


@pytest.mark.parametrize("mode", ["555", "311", "000"])
def test_modes_keep_nothing_there(instance, either, mode):
    """git needs no more of a folder than to look a name up in it."""
    work = either.workspace()
    done = instance.sh(either, f"""mkdir -p g/hooks; echo evil >g/hooks/pre-commit; echo evil >g/config
        python3 -c 'import os; os.chmod("g/hooks", 0o{mode}); os.chmod("g", 0o{mode}); os.rename("g", ".git")'; echo end""",
        workspace=work)
    assert done.stdout.endswith("end\n"), done.stderr
    assert os.path.isdir(work + "/.git") and not set(os.listdir(work + "/.git")) & {"hooks", "config"}
    assert os.stat(work + "/.git").st_mode & 0o777 == int(mode, 8)


def test_what_is_too_much_hides_nothing(instance, either):
    """One place that cannot be gone through, and others that come after it."""
    work = either.workspace()
    instance.sh(either, """mkdir -p g/modules v; cd g/modules; seq 600 | xargs mkdir; cd ../..; echo evil >g/config; echo evil >v/tasks.json
        echo evil >e
        python3 -c 'import os; [os.rename(a, b) for a, b in (("g", ".git"), ("v", ".vscode"), ("e", ".envrc"))]'""", workspace=work)
    assert not set(os.listdir(work)) & {".vscode", ".envrc"}, os.listdir(work)
    assert not set(os.listdir(work + "/.git")) & {"config", "modules"}
    assert instance.sh(either, "echo again", workspace=work).stdout == "again\n"


def test_an_end_by_error_sweeps(instance, either, session):
    """More below the host's folder than anybody looks at: the session ends, and leaves no more than others."""
    work = repository(either)
    os.mkdir(work + "/.git/modules")
    os.chown(work + "/.git/modules", either.uid, either.gid)
    inside = session(work)
    inside("""cd .git/modules; python3 -c 'import os; [os.mkdir(str(i)) for i in range(600)]
os.chdir("../.."); os.mkdir(".vscode"); open(".envrc", "w"); open(".vscode/tasks.json", "w")'; sleep 600""")
    assert eventually(lambda: not set(os.listdir(work)) & {".vscode", ".envrc"}, 30), os.listdir(work)


def test_many_folders_that_come_and_go(instance, either):
    work = repository(either)
    done = instance.sh(either, """mkdir -p .git/modules; cd .git/modules
        for i in $(seq 40); do mkdir $(seq $((i * 40)) $((i * 40 + 39))); sleep 0.02; rmdir *; done; echo end""", workspace=work)
    assert done.stdout == "end\n", done.stderr


def test_nothing_is_left_by_the_last_breath(instance, either):
    """What runs until it is killed makes such files until then."""
    work = repository(either)
    before = set(tree(work))
    for _ in range(5):
        instance.sh(either, """(while :; do echo evil >.envrc; mkdir -p .vscode; echo x >.vscode/tasks.json; done
            ) 2>/dev/null & sleep 0.1""", workspace=work)
        assert set(tree(work)) == before


def test_nothing_is_left_by_a_killed_daemon(own_instance, alice):
    work = repository(alice)
    before = set(tree(work))
    name = own_instance.create(alice, cwd=work)
    loop = own_instance.ctl_start(alice, "exec", name, "--", "sh", "-c",
                                  "while :; do echo evil >.envrc; mkdir -p .vscode; echo x >.vscode/y; touch f2; done", cwd=work,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert eventually(lambda: os.path.exists(work + "/f2"), 30)
    own_instance.stop(signal.SIGKILL)
    own_instance.start()
    loop.wait(60)
    own_instance.ctl(alice, "list")
    assert eventually(lambda: set(tree(work)) == before | {"f2"}, 30), set(tree(work)) - before


# ---- what the host does meanwhile ----

def test_the_host_replaces_it(either, session):
    work = repository(either)
    inside = session(work)
    assert covers(inside, work, ".git/config")
    git(either, work, "config", "a.b", "c")
    assert eventually(lambda: covers(inside, work, ".git/config"), 30)
    assert inside("echo evil >>.git/config").returncode != 0
    assert inside("git config a.b").stdout == "c\n"
    assert "evil" not in open(work + "/.git/config").read()


def test_the_host_makes_it(either, session):
    work = either.workspace()
    inside = session(work)
    either.write(work + "/.vscode/tasks.json", "mine\n")
    repository(either, work)
    for name in (".vscode", ".git/config", ".git/hooks"):
        assert eventually(lambda name=name: covers(inside, work, name), 30), name
    assert inside("echo evil >.vscode/tasks.json").returncode != 0
    assert inside("mv .git g").returncode != 0
    assert open(work + "/.vscode/tasks.json").read() == "mine\n"
    assert git(either, work, "status", "--porcelain") == "?? .vscode/\n"


def test_the_host_removes_it(either, session):
    work = repository(either)
    either.write(work + "/.vscode/tasks.json", "mine\n")
    inside = session(work)
    assert covers(inside, work, ".vscode")
    os.unlink(work + "/.vscode/tasks.json")
    os.rmdir(work + "/.vscode")
    inside("mkdir .vscode; echo evil >.vscode/tasks.json")
    assert eventually(lambda: not os.path.exists(work + "/.vscode"), 30)


def test_two_sessions(either, session):
    """What one makes is the host's for the other, and goes all the same."""
    work = repository(either)
    before = set(tree(work))
    one, other = session(work), session(work)
    for inside in (one, other, one):
        inside("echo evil >.envrc; mkdir .idea; echo evil >.idea/x")
        assert eventually(lambda: set(tree(work)) == before, 30), set(tree(work)) - before
    assert one("echo evil >>.git/config").returncode != 0
    assert other("echo evil >>.git/config").returncode != 0


# ---- git ----

def test_git_works(instance, either):
    part, work = repository(either), repository(either)
    git(either, work, "submodule", "--quiet", "add", part, "part")
    git(either, work, "commit", "-q", "-m", "with a part")
    done = instance.sh(either, """
        set -e
        export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=n@x GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=n@x
        echo two >>f; git commit -qam second
        git branch side; git checkout -q side; echo three >>f; git stash -q; git stash pop -q; git commit -qam third
        git checkout -q main; git merge -q side
        git worktree add -q -b tree wt
        cd wt; echo four >g; git add g; git commit -qm fourth; git rebase -q --exec true HEAD~1; cd ..
        git worktree remove wt
        git submodule status; git submodule foreach -q git status --porcelain
        cd part; echo p >>f; git commit -qam part; cd ..
        git add part; git commit -qm parts; git rebase -q HEAD~1; git gc -q; git fsck --no-progress
        echo end""", workspace=work)
    assert done.stdout.endswith("end\n"), done.stdout + done.stderr
    assert git(either, work, "log", "--format=%s", "main").split() == ["parts", "third", "second", "with", "a", "part", "first"]
    assert git(either, work, "status", "--porcelain") == ""
    assert git(either, work, "log", "--format=%s", "tree").startswith("fourth")


def test_parts_of_a_repository_are_kept(instance, either):
    part, work = repository(either), repository(either)
    git(either, work, "submodule", "--quiet", "add", part, "part")
    before = open(work + "/.git/modules/part/config").read()
    done = instance.sh(either, """
        echo evil >>.git/modules/part/config; echo evil >.git/modules/part/hooks/post-commit
        python3 -c 'import os; os.rename(".git/modules", "m")'; python3 -c 'import os; os.rename(".git/modules/part", "p")'
        mkdir -p .git/modules/new; echo evil >.git/modules/new/config
        echo end""", workspace=work)
    assert done.stdout == "end\n"
    assert open(work + "/.git/modules/part/config").read() == before
    assert not os.path.exists(work + "/.git/modules/part/hooks/post-commit")
    assert not os.path.exists(work + "/.git/modules/new/config")
    assert git(either, work + "/part", "status", "--porcelain") == ""


def test_parts_with_longer_names(instance, either):
    """A submodule's name is its path, and it has submodules of its own."""
    leaf, middle, work = repository(either), repository(either), repository(either)
    git(either, middle, "submodule", "--quiet", "add", leaf, "objects/leaf")
    git(either, middle, "commit", "-q", "-m", "with a leaf")
    git(either, work, "submodule", "--quiet", "add", middle, "third_party/libs/zlib")
    git(either, work, "submodule", "--quiet", "add", leaf, "objects/leaf")
    git(either, work, "submodule", "--quiet", "update", "--init", "--recursive")
    git(either, work, "commit", "-q", "-m", "with parts")
    modules = work + "/.git/modules"
    folders = ["third_party/libs/zlib", "third_party/libs/zlib/modules/objects/leaf", "objects/leaf"]
    before = [open(f"{modules}/{folder}/config").read() for folder in folders]
    done = instance.sh(either, """
        m() { python3 -c 'import os, sys; os.rename(sys.argv[1], "gone")' $1 2>/dev/null && echo moved $1; }
        cd .git/modules; echo evil >HEAD; echo evil >third_party/HEAD
        for d in %s; do
            echo evil >>$d/config; echo evil >$d/hooks/post-commit; echo ../x >$d/commondir; echo evil >$d/config.worktree
            m $d/config; m $d/hooks; m $d
        done
        m third_party; m third_party/libs; m third_party/libs/zlib/modules; m objects
        cd ../..; git -C third_party/libs/zlib -c user.name=n -c user.email=n@x commit -q --allow-empty -m part 2>&1 && echo end""" %
                       " ".join(folders), workspace=work)
    assert done.stdout.endswith("end\n") and "moved" not in done.stdout, done.stdout + done.stderr
    for folder, text in zip(folders, before):
        assert open(f"{modules}/{folder}/config").read() == text
        for name in ("hooks/post-commit", "commondir", "config.worktree"):
            assert not os.path.lexists(f"{modules}/{folder}/{name}"), (folder, name)


def test_many_parts_hide_none(instance, either):
    """More directories than are looked at end the session, and no later one begins before somebody has looked."""
    leaf, work = repository(either), repository(either)
    git(either, work, "submodule", "--quiet", "add", leaf, "third_party/zlib")
    instance.sh(either, """cd .git/modules; python3 -c 'import os
for i in range(50):
    for j in range(100):
        os.makedirs(f"a{i}/b{j}")'
        cd third_party/zlib; echo ../x >commondir; cd ../../../..; echo evil >.envrc; sleep 600""", workspace=work, timeout=120)
    assert not os.path.lexists(work + "/.git/modules/third_party/zlib/commondir") and not os.path.lexists(work + "/.envrc")
    again = instance.sh(either, "echo evil >>.git/modules/third_party/zlib/config; echo began", workspace=work)
    assert again.returncode == 125 and "began" not in again.stdout, again
    assert "more directories below .git than can be looked at" in again.stderr, again.stderr
    for made in glob.glob(work + "/.git/modules/a[0-9]*"):
        shutil.rmtree(made)
    assert instance.sh(either, "echo began", workspace=work).stdout == "began\n"


def test_what_is_too_far_down_is_said(instance, either):
    work = repository(either)
    folder = work + "/.git/modules/" + "/".join("d" * 40)
    either.run(["mkdir", "-p", folder])
    either.write(folder + "/HEAD", "ref: refs/heads/main\n")
    either.write(folder + "/config", "mine\n")
    done = instance.sh(either, "sleep 1", workspace=work)
    assert done.returncode == 0 and ".git/modules/d/d" in done.stderr, done


def test_parts_that_the_host_adds(either, session):
    leaf, work = repository(either), repository(either)
    inside = session(work)
    git(either, work, "submodule", "--quiet", "add", leaf, "a/b/c")
    assert eventually(lambda: covers(inside, work, ".git/modules/a/b/c/config"), 30)
    inside("echo evil >.git/modules/a/b/c/commondir; mkdir -p .git/modules/a/d; echo evil >.git/modules/a/d/config")
    assert eventually(lambda: sorted(os.listdir(work + "/.git/modules/a")) == ["b", "d"] and os.listdir(work + "/.git/modules/a/d") == [], 30)
    assert not os.path.exists(work + "/.git/modules/a/b/c/commondir")


def test_worktrees_that_are_there(instance, either):
    """Git in the host's worktree takes its repository from there; the session's own come and go."""
    work, tree_of = repository(either), either.workspace()
    os.rmdir(tree_of)
    git(either, work, "worktree", "add", "-q", "-b", "other", tree_of)
    name = os.path.basename(tree_of)
    done = instance.sh(either, """cd .git/worktrees; echo ../../../evil >%s/commondir; mv %s/commondir c; mv %s gone; rm -f %s/gitdir; rm -rf %s
        cd ../..; git worktree add -q -b mine wt && git worktree remove wt && git worktree add -q wt mine && mv .git/worktrees/wt .git/worktrees/x \
            && mv .git/worktrees/x .git/worktrees/wt && git worktree remove wt && echo end""" % ((name,) * 5), workspace=work)
    assert done.stdout.endswith("end\n"), done.stderr
    folder = f"{work}/.git/worktrees/{name}"
    assert open(folder + "/commondir").read() == "../..\n" and open(folder + "/gitdir").read() == tree_of + "/.git\n"


def test_states_of_other_checkouts(instance, either):
    """Whoever goes on with a rebase there runs what it says."""
    work, other = repository(either), either.workspace()
    os.rmdir(other)
    git(either, work, "worktree", "add", "-q", "-b", "side", other)
    entry = ".git/worktrees/" + os.path.basename(other)
    before = set(tree(work))
    instance.sh(either, f"""cd {entry}; mkdir rebase-merge; echo exec evil >rebase-merge/git-rebase-todo
        mkdir x; echo evil >x/next; mv x rebase-apply; mkdir sequencer; echo evil >sequencer/todo; ln -s /tmp sequencer""", workspace=work)
    assert {name for name in set(tree(work)) - before if ".refused-" not in name} == set()
    assert git(either, other, "status", "--porcelain") == "" and "rebase" not in git(either, other, "status")


def test_git_file_and_git_link(instance, either):
    main = repository(either)
    tree_of = either.workspace()
    os.rmdir(tree_of)
    git(either, main, "worktree", "add", "-q", "-b", "other", tree_of)
    text = open(tree_of + "/.git").read()
    instance.sh(either, "echo gitdir: evil >.git; mv .git g; rm -f .git; echo gitdir: evil >.git", workspace=tree_of)
    assert open(tree_of + "/.git").read() == text and sorted(os.listdir(tree_of)) == [".git", "f"]

    work = repository(either)
    os.makedirs(work + "/store")
    os.chown(work + "/store", either.uid, either.gid)
    os.rename(work + "/.git", work + "/store/repository")
    os.symlink("store/repository", work + "/.git")
    os.lchown(work + "/.git", either.uid, either.gid)
    before = open(work + "/store/repository/config").read()
    done = instance.sh(either, """echo evil >>.git/config; echo evil >>store/repository/config; rm -f .git; mv store s
        ln -sfn elsewhere .git; echo evil >store/repository/hooks/x; git -c user.name=n -c user.email=n@x commit -q --allow-empty -m y
        echo end""", workspace=work)
    assert done.stdout == "end\n"
    assert os.readlink(work + "/.git") == "store/repository"
    assert open(work + "/store/repository/config").read() == before
    assert not os.path.exists(work + "/store/repository/hooks/x")
    assert git(either, work, "log", "-1", "--format=%s") == "y\n"


# ---- the guard ----

def guard_of(instance, user, name):
    described = json.loads(instance.ctl(user, "describe", "--json", name).stdout)
    group = machine.cgroup2_mount() + described["runtime"]["controlGroup"]
    [guard] = [int(pid) for pid in open(group + "/cgroup.procs") if machine.comm_of(int(pid)) == "sandbox-guard"]
    return guard


def test_the_guard_is_out_of_reach(instance, either):
    work = repository(either)
    done = instance.sh(either, """
        for p in /proc/[0-9]*; do grep -q sandbox-guard $p/comm && g=${p#/proc/}; done
        kill -9 $g 2>/dev/null && echo killed; kill -9 -1 2>/dev/null
        cat /proc/$g/environ /proc/$g/maps 2>/dev/null; ls /proc/$g/fd /proc/$g/root/ 2>/dev/null
        grep -q sandbox-guard /proc/$g/comm && echo there""", workspace=work)
    assert done.stdout == "there\n"


def test_a_session_ends_with_its_guard(own_instance, alice):
    work = repository(alice)
    name = own_instance.create(alice, cwd=work)
    os.kill(guard_of(own_instance, alice, name), signal.SIGKILL)
    assert eventually(lambda: json.loads(own_instance.ctl(alice, "describe", "--json", name).stdout or "{}")
                      .get("runtime", {}).get("state") in ("exited", "failed", None), 30)


# ---- the policy ----

def test_policy(instance, either):
    work = repository(either)
    either.write(work + "/.vscode/tasks.json", "mine\n")

    def check(path):
        return instance.ctl(either, "policy", "check", "file", "write", f"{work}/{path}", cwd=work)

    assert check(".git/config").returncode != 0 and ".git/config" in check(".git/config").stdout
    assert check(".git/modules/a/hooks/x").returncode != 0 and check(".git/modules/a/b/modules/c/config").returncode != 0
    assert check(".git/modules/a/b/index").returncode == 0
    assert check("f").returncode == 0 and check(".git/index").returncode == 0
    granted = either.write(either.base + "/granted.json", json.dumps(
        {"version": 1, "name": "granted", "extends": ["base"], "filesystem": {"write": ["${workspace}/.vscode"]}}))
    instance.sh(either, "echo yours >.vscode/tasks.json; echo evil >.envrc", workspace=work, options=["-p", granted])
    assert open(work + "/.vscode/tasks.json").read() == "yours\n" and not os.path.exists(work + "/.envrc")
    for wrong in ("/etc/x", "~/x", "${workspace}", "${workspace}/a/*", "${workspace}/*.c/x", "${workspace}/" + "a/" * 8 + "a"):
        text = json.dumps({"version": 1, "name": "wrong", "extends": ["base"], "filesystem": {"protect": [wrong]}})
        done = instance.ctl(either, "policy", "validate", either.write(either.base + "/wrong.json", text))
        assert done.returncode != 0 and "protect" in done.stdout + done.stderr, wrong


def test_warnings_tell(instance, either):
    work = repository(either)
    name = instance.create(either, cwd=work)
    instance.ctl(either, "exec", name, "--", "sh", "-c", "echo evil >.envrc")

    def codes():
        described = json.loads(instance.ctl(either, "describe", "--json", name).stdout)
        return [w["code"] for w in described["runtime"]["warnings"] if ".envrc" in w["message"]]

    assert eventually(lambda: codes() == ["protected-path-refused"], 30), codes()
    told = [json.loads(line) for line in instance.ctl(either, "events", "--json", "--session", name).stdout.splitlines()]
    assert [e.get("event", e).get("kind") for e in told if "protected-path-refused" in str(e) and ".envrc" in str(e)] == ["session.warning"], told
    instance.ctl(either, "terminate", name)


# ---- what git itself begins inside ----

def refused_in(folder):
    return [name for name in tree(folder) if ".refused-" in name]


def test_git_init_inside(instance, either):
    """A repository that begins in the session is one: with settings that nobody outside would run or follow."""
    work = either.workspace()
    done = instance.sh(either, """
        set -e
        git init -q -b main; git config user.name q; git config user.email q@x; git config pull.rebase true; echo x >f; git add f; git commit -qm first
        git remote add origin https://example.org/x.git; git config branch.main.remote origin; git config branch.main.merge refs/heads/main
        git branch side; git checkout -q side; git stash list; git gc -q; git config --get remote.origin.url; git init -q; echo end""", workspace=work)
    assert done.stdout == "https://example.org/x.git\nend\n", done.stdout + done.stderr
    assert refused_in(work) == []
    assert git(either, work, "config", "pull.rebase") == "true\n" and git(either, work, "log", "--format=%s", "main") == "first\n"
    # From here on it is the host's.
    again = instance.sh(either, "git config a.b c; echo evil >>.git/config; echo evil >.git/hooks/pre-commit; git log --format=%s main", workspace=work)
    assert again.stdout == "first\n" and "evil" not in open(work + "/.git/config").read()
    assert not os.path.exists(work + "/.git/hooks/pre-commit")


def test_submodules_inside(instance, alice):
    """One is added, and those that the host has not initialized come without a word in its settings."""
    part, work, cloned = repository(alice), repository(alice), alice.workspace()
    url = "https://example.org/part"
    near = f"-c protocol.file.allow=always -c url.{part}.insteadOf={url}"
    script = f"""
        set -e
        git="git -c user.name=n -c user.email=n@x {near}"
        $git submodule --quiet add {url} deep/part 2>/dev/null; $git commit -qm parts
        cd deep/part; git config core.worktree; git config pull.rebase true; echo y >>f; $git commit -qam more; $git fetch -q; cd ../..
        git submodule status | grep -c deep/part; git submodule foreach -q git remote; echo end"""
    done = instance.sh(alice, script, workspace=work, options=["--read", part])
    assert done.stdout == "../../../../deep/part\n1\norigin\nend\n", done.stdout + done.stderr
    assert refused_in(work) == []
    assert git(alice, work, "submodule", "status").split()[1] == "deep/part"
    assert git(alice, work + "/deep/part", "config", "pull.rebase") == "true\n"
    git(alice, work + "/deep/part", "checkout", "-q", "HEAD~1")
    git(alice, work, "clone", "-q", work, cloned)
    done = instance.sh(alice, f"git -c submodule.active=. {near} submodule --quiet update && cat deep/part/f; git submodule update --init",
                       workspace=cloned, options=["--read", part])
    assert done.stdout == "f\n" and ".git/config: Device or resource busy" in done.stderr, done.stdout + done.stderr
    assert refused_in(cloned) == [] and git(alice, cloned + "/deep/part", "log", "--format=%s") == "first\n"


@pytest.mark.parametrize("line", [
    "[core]\\n\\tfsmonitor = touch x", "[core]\\n\\thooksPath = /tmp", "[core]\\n\\tworktree = ../..", "[core]\\n\\tbare = true", "[include]\\n\\tpath = x",
    "[alias]\\n\\tst = !touch x", "[core]\\n\\tfilemode = true\\\\\\nfsmonitor = x", "[core] fsmonitor = x", "[remote \"x\"]\\n\\turl = ext::sh -c x",
    "[remote \"x\"]\\n\\turl = ./evil", "[branch \"main\"]\\n\\tremote = evil", "[remote \"x\"]\\n\\turl = $PWD/evil", "[remote \"x\"]\\n\\turl = /proc/self/cwd/evil.git",
    "[remote \"x\"]\\n\\turl = file:///%2fproc/self/cwd/evil.git", "[submodule \"x\"]\\n\\tupdate = !x",
    "[core]\\n\\tfsmonitor=x", "[core \"x\"]\\n\\tfilemode = true", "[CORE]\\n\\tSSHCommand = x", "[user]\\n\\tname = \"x\"", "[user]\\n\\tname = x\\r", "garbage",
])
def test_settings_that_do_not_stay(instance, either, line):
    """All that names a program, a file, a place: the file is put aside, whether it begins so or comes to it."""
    for script in (f"git init -q; printf '%b\\n' '{line}' >>.git/config",
                   f"git init -q; (cat .git/config; printf '%b\\n' '{line}') >x; mv x .git/config",
                   f"mkdir .git; printf '%b\\n' '{line}' >.git/config"):
        work = either.workspace()
        done = instance.sh(either, (script + "; echo end").replace("$PWD", work), workspace=work)
        assert done.stdout == "end\n", done.stderr
        assert not os.path.lexists(work + "/.git/config"), open(work + "/.git/config").read()


# Each keeps a way to write what the guard has read; nothing is written by it.
WAYS = {
    "descriptor": 'kept = os.open(path, os.O_RDWR)',
    "appending": 'kept = os.open(path, os.O_WRONLY | os.O_APPEND)',
    "mapping": 'fd = os.open(path, os.O_RDWR); kept = mmap.mmap(fd, 0); os.close(fd)',
    "hard-link": 'os.link(path, ".git/other")',
    "hard-link-before": 'os.rename(path, ".git/other"); os.link(".git/other", path)',
    "descriptor-before": 'shutil.copy(path, ".git/x"); kept = os.open(".git/x", os.O_RDWR); os.rename(".git/x", path)',
    "mapping-before": 'shutil.copy(path, ".git/x"); fd = os.open(".git/x", os.O_RDWR); kept = mmap.mmap(fd, 0); os.close(fd); os.rename(".git/x", path)',
    "link": 'os.rename(path, ".git/x"); os.symlink("x", path)',
    "fifo": 'os.unlink(path); os.mkfifo(path)',
    "folder": 'os.unlink(path); os.mkdir(path)',
    "size": 'open(path, "a").write("\\n" * 20000)',
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_round_the_look(instance, either, way):
    """A file that could still be written by another way is none that was looked at: it goes, without a byte written."""
    work = either.workspace()
    either.write(work + "/way.py", f"""
import mmap, os, shutil, time
path = ".git/config"
size = os.stat(path).st_size
{WAYS[way]}
end = time.monotonic() + 60
while os.path.lexists(path) and time.monotonic() < end:
    time.sleep(0.02)
print("there" if os.path.lexists(path) else "gone")
""")
    done = instance.sh(either, "git init -q && /usr/bin/python3 way.py", workspace=work)
    assert done.stdout == "gone\n", done


def test_hooks_that_do_not_stay(instance, either):
    for script in ("mv .git/hooks/pre-commit.sample .git/hooks/pre-commit", "echo evil >.git/hooks/post-commit", "ln -s x .git/hooks/pre-push",
                   "mkdir h; echo evil >h/pre-commit; rm -r .git/hooks; mv h .git/hooks", "ln -s /tmp .git/hooks2; mv -T .git/hooks h; mv -T .git/hooks2 .git/hooks"):
        work = either.workspace()
        done = instance.sh(either, "git init -q; " + script + "; echo end", workspace=work)
        assert done.stdout == "end\n", done.stderr
        hooks = work + "/.git/hooks"
        assert not os.path.islink(hooks) and all(name.endswith(".sample") for name in (os.listdir(hooks) if os.path.isdir(hooks) else [])), script


def test_a_list_of_submodules_that_does_not_stay(instance, either):
    for text in ("[submodule \"a\"]\\n\\tpath = ../x", "[submodule \"../a\"]\\n\\tpath = x", "[submodule \"a\"]\\n\\turl = -x", "[submodule \"a\"]\\n\\tupdate = !x",
                 "[core]\\n\\tfilemode = true", "[submodule \"a\"]\\n\\tpath = .git/x", "[submodule \"a\"]\\n\\turl = ext::x",
                 "[submodule \"a\"]\\n\\turl = ./evil.git"):
        work = repository(either)
        instance.sh(either, f"printf '%b\\n' '{text}' >.gitmodules", workspace=work)
        assert not os.path.exists(work + "/.gitmodules"), text


def is_still(pid):
    """It slept through the last second."""
    def slept():
        return re.search(r"^voluntary_ctxt_switches:\s*(\d+)", open(f"/proc/{pid}/status").read(), re.M)[1]
    before = slept()
    time.sleep(1)
    return slept() == before


def test_remotes_by_files(instance, either):
    """Before its settings named remotes, files did; git still reads them, and a push to a folder runs the hooks in it."""
    for begin in ("true", "rm -rf .git; git init -q; git -c user.name=n -c user.email=n@x commit -q --allow-empty -m first"):
        work = repository(either)
        instance.sh(either, begin + """; git init -q --bare evil; mkdir -p .git/remotes .git/branches
            echo ./evil >.git/branches/origin; printf 'URL: ./evil\\nPush: refs/heads/*:refs/heads/*\\n' >.git/remotes/origin""", workspace=work)
        pushed = either.run([*GIT, "-C", work, "push"])
        assert pushed.returncode != 0 and not os.path.exists(work + "/.git/remotes/origin"), pushed


def test_remotes_by_files_of_a_submodule(instance, either):
    """The same for one that the host has, and for one that a session adds."""
    work = repository(either)
    part = work + "/.git/modules/part"
    git(either, work, "init", "-q", "--bare", part)
    instance.sh(either, """cd .git/modules; for m in part new; do mkdir -p $m/remotes $m/branches $m/objects $m/refs
        printf 'URL: ./evil\\n' >$m/remotes/origin; echo ./evil >$m/branches/origin; echo 'ref: refs/heads/main' >$m/HEAD; done""", workspace=work)
    for name in ("part", "new"):
        for path in ("remotes/origin", "branches/origin"):
            assert not os.path.exists(f"{work}/.git/modules/{name}/{path}"), (name, path)


def test_the_guard_rests(instance, either):
    """Reading what it has looked at is no reason to look again, nor is its own look."""
    work = either.workspace()
    name = instance.create(either, cwd=work)
    guard = guard_of(instance, either, name)
    for script in ("git init -q; git config user.name q; ls .git/hooks | grep -c sample", "git config user.name", "git config user.name r", "cat .git/config"):
        done = instance.ctl(either, "exec", name, "--", "sh", "-c", script, cwd=work)
        assert done.returncode == 0, done
        assert eventually(lambda: is_still(guard), 30), script
    instance.ctl(either, "terminate", name)


def test_the_host_takes_a_new_repository_over(either, session):
    work = either.workspace()
    inside = session(work)
    inside("git init -q; git config user.name q")
    git(either, work, "config", "core.pager", "mine")
    assert eventually(lambda: covers(inside, work, ".git/config"), 30)
    assert inside("echo evil >>.git/config").returncode != 0
    assert git(either, work, "config", "core.pager") == "mine\n"
