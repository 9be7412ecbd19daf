"""Workspaces that are linked worktrees of git: their repository comes with them, and only theirs."""

import json
import os
import shutil
import time

import pytest

import machine
from machine import eventually
from test_protect import GIT, git, repository, session, tree  # noqa: F401 (session is a fixture)

ENV = "export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=n@x GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=n@x; "


def worktree(user, main, branch="side"):
    """A linked worktree of main, and what git calls it there."""
    path = user.workspace()
    os.rmdir(path)
    git(user, main, "worktree", "add", "-q", "-b", branch, path)
    return path, f"{main}/.git/worktrees/{os.path.basename(path)}"


def warnings_of(instance, user, name):
    described = json.loads(instance.ctl(user, "describe", "--json", name).stdout)
    return {w["code"]: w["message"] for w in described["runtime"]["warnings"]}


def warned(instance, user, work, *options):
    """What a session there is told about its repository."""
    name = instance.create(user, *options, cwd=work)
    try:
        return warnings_of(instance, user, name).get("repository-missing", "")
    finally:
        instance.ctl(user, "terminate", "--grace", "0", name)


def own(user, path):
    os.lchown(path, user.uid, user.gid)
    return path


# ---- what comes ----

def test_git_works_in_a_worktree(instance, either):
    main = repository(either)
    work, _ = worktree(either, main)
    other, entry = worktree(either, main, "other")
    before = tree(main + "/.git")
    done = instance.sh(either, ENV + """
        set -e
        echo two >>f; git commit -qam second; git branch b; git checkout -q b; echo three >>f; git stash -q; git stash pop -q
        git commit -qam third; git checkout -q side; git merge -q b; git log --format=%s | head -1
        git worktree list >list; git worktree add -q -b inner wt; cd wt; echo x >g; git add g; git commit -qm inner; git rebase -q --exec true HEAD~1; cd ..; git worktree remove wt
        git rebase -q --exec true HEAD~1; git gc -q; git fsck --no-progress --no-dangling; rm list; git status --porcelain; echo end""", workspace=work)
    assert done.stdout == "third\nend\n" and done.returncode == 0, done.stdout + done.stderr
    assert git(either, main, "log", "--format=%s", "side").split() == ["third", "second", "first"]
    assert git(either, main, "log", "--format=%s", "-1", "inner") == "inner\n"
    for user_of in (main, work, other):
        assert git(either, user_of, "status", "--porcelain") == ""
    after = tree(main + "/.git")
    assert os.path.exists(entry + "/HEAD")
    for name in ("config", "HEAD"):
        assert after[name] == before[name], name
    assert {name for name in after if name.startswith("hooks")} == {name for name in before if name.startswith("hooks")}


def test_only_its_repository_comes(instance, either):
    """Neither the other checkouts nor what lies beside."""
    main = repository(either)
    either.write(main + "/secret", "secret\n")
    work, _ = worktree(either, main)
    other, _ = worktree(either, main, "other")
    done = instance.sh(either, f"ls -A {main}; cat {main}/secret {main}/f {other}/f; touch {main}/x {other}/x; mv {main}/.git {main}/g; echo end",
                       workspace=work)
    assert done.stdout == ".git\nend\n", done.stdout
    assert sorted(os.listdir(main)) == [".git", "f", "secret"] and sorted(os.listdir(other)) == [".git", "f"]


def test_it_is_protected_alike(instance, either):
    main = repository(either)
    work, entry = worktree(either, main)
    other, theirs = worktree(either, main, "other")
    resting, rebased = worktree(either, main, "rebased")
    done = either.run([*GIT, "-C", resting, "rebase", "-q", "--force-rebase", "--exec", "false", "--root"])
    assert os.path.exists(rebased + "/rebase-merge/git-rebase-todo"), done.stderr
    before = tree(main)
    done = instance.sh(either, f"""
        cd {main}/.git
        for f in config config.worktree commondir hooks/pre-commit info/attributes objects/info/alternates modules/m/config modules/m/hooks/x \
                 {entry}/commondir {entry}/gitdir {entry}/config.worktree rebase-merge/git-rebase-todo rebase-apply/x sequencer/todo \
                 {theirs}/rebase-merge/git-rebase-todo {theirs}/rebase-apply/x {theirs}/sequencer/todo {rebased}/rebase-merge/git-rebase-todo; do
            mkdir -p $(dirname $f) 2>/dev/null; (echo evil >>$f) 2>/dev/null; (echo evil >n; mv -f n $f) 2>/dev/null; rm -f n; rm -f $f 2>/dev/null
            (echo evil >$f) 2>/dev/null
        done
        rm -rf hooks config {entry}/gitdir; ln -sfn /tmp hooks; mv hooks h; mv worktrees w; mv {entry} {entry}x
        cd {work}; echo gitdir: /tmp >.git; rm -f .git; mv .git g; {ENV} git commit -q --allow-empty -m fine; echo end""", workspace=work)
    assert done.stdout.endswith("end\n"), done.stdout
    after = tree(main)
    for name, state in before.items():
        if state[1] != "" and not any(part in name for part in ("/logs", "index", "/refs/", "HEAD", "COMMIT_EDITMSG")):
            assert after.get(name) == state, name
    evil = [name for name, (_, content) in after.items() if content and b"evil" in content and ".refused-" not in name]
    assert evil == [], evil
    for name in ("commondir", "config.worktree", "rebase-merge", "rebase-apply", "sequencer", "modules/m/config"):
        assert not os.path.exists(f"{main}/.git/{name}"), name
    assert not {"rebase-merge", "rebase-apply", "sequencer"} & set(os.listdir(theirs)), os.listdir(theirs)
    assert git(either, work, "log", "-1", "--format=%s") == "fine\n"


def test_the_host_replaces_it_there(instance, either, session):
    main = repository(either)
    work, _ = worktree(either, main)
    inside = session(work)
    for number in range(3):
        git(either, main, "config", "a.b", str(number))
        either.write(main + "/.git/hooks/post-commit", "#!/bin/sh\n", 0o755)
        assert eventually(lambda: inside(f"echo evil >>{main}/.git/config").returncode != 0, 30)
        assert eventually(lambda: inside(f"echo evil >>{main}/.git/hooks/post-commit").returncode != 0, 30)
    # What was written before the guard was there has been taken back by the next look, or is none of git's.
    git(either, main, "config", "a.b", "last")
    assert inside("git config a.b").stdout == "last\n"


def test_two_sessions_of_one_repository(instance, either, session):
    main = repository(either)
    work, _ = worktree(either, main)
    other, _ = worktree(either, main, "other")
    inside, there, at_main = session(work), session(other), session(main)
    for run, text in ((inside, "one"), (there, "two"), (at_main, "three")):
        assert run(ENV + f"git commit -q --allow-empty -m {text}; echo evil >{main}/.git/commondir; echo evil >>{main}/.git/config").returncode != 0
        assert eventually(lambda: not os.path.exists(main + "/.git/commondir"), 30)
    assert [git(either, folder, "log", "-1", "--format=%s") for folder in (work, other, main)] == ["one\n", "two\n", "three\n"]
    assert "evil" not in open(main + "/.git/config", encoding="utf-8").read()


def test_no_litter_of_a_worktree(own_instance, alice):
    """Neither an end nor a killed daemon leaves anything in the repository or beside it."""
    main = repository(alice)
    work, _ = worktree(alice, main)
    before = set(tree(main)), set(tree(work))
    assert own_instance.sh(alice, f"echo evil >{main}/.git/commondir; mkdir {main}/.git/modules; true", workspace=work).returncode == 0
    os.rmdir(main + "/.git/modules")
    name = own_instance.create(alice, cwd=work)
    loop = own_instance.ctl_start(alice, "exec", name, "--", "sh", "-c", f"while :; do echo evil >{main}/.git/commondir; touch f2; done", cwd=work)
    assert eventually(lambda: os.path.exists(work + "/f2"), 30)
    own_instance.process.kill()
    own_instance.restart_if_dead()
    loop.wait(60)

    def is_clean():
        try:
            return (set(tree(main)), set(tree(work))) == (before[0], before[1] | {"f2"})
        except FileNotFoundError:  # it is being put in order
            return False
    assert eventually(is_clean, 60)


def test_modes_of_the_workspace(instance, either):
    """Read-only is read-only, and so is what protects all of .git."""
    main = repository(either)
    work, _ = worktree(either, main)
    script = f"git log --format=%s -1; touch {main}/.git/x && echo written; {ENV} git commit -q --allow-empty -m x && echo committed"
    for files in ({"workspace": "read-only"}, {"protect": ["${workspace}/.git"]}):
        text = json.dumps({"version": 1, "name": "mode", "extends": ["base"], "filesystem": files})
        done = instance.sh(either, script, workspace=work, options=["-p", either.write(either.base + "/mode.json", text)])
        assert done.stdout == "first\n", done.stdout + done.stderr


def test_relative_names(instance, either):
    """As later gits write them."""
    main = repository(either)
    work, entry = worktree(either, main)
    either.write(work + "/.git", f"gitdir: {os.path.relpath(entry, work)}\n")
    either.write(entry + "/gitdir", os.path.relpath(work + "/.git", entry) + "\n")
    assert warned(instance, either, work) == ""


# ---- what does not ----

def test_what_the_policy_closes(instance, either):
    main = repository(either)
    work, entry = worktree(either, main)
    either.write(main + "/.git/lfs/objects/x", "secret\n")

    def shows(deny):
        text = json.dumps({"version": 1, "name": "closed", "extends": ["base"], "filesystem": {"deny": [deny]}})
        profile = either.write(either.base + "/closed.json", text)
        done = instance.sh(either, f"git log --format=%s -1 2>/dev/null; cat {main}/.git/lfs/objects/x 2>/dev/null; echo end",
                           workspace=work, options=["-p", profile])
        assert done.stdout.endswith("end\n"), done.stderr
        return done.stdout.split()[:-1], done.stderr

    assert shows("/nowhere")[0] == ["first", "secret"]
    for deny in (main, main + "/.git", "${workspace}/.git", "${workspace}/.g*"):
        shown, said = shows(deny)
        assert shown == [] and "the policy denies it" in said, (deny, shown, said)
    assert shows(main + "/.git/lfs")[0] == ["first"]


@pytest.mark.parametrize("bound, mode", [("none", "missing"), ("read", "read"), ("write", "write")])
def test_the_ceiling_bounds_it(alice, bound, mode):
    main = repository(alice)
    work, _ = worktree(alice, main)
    ceiling = {"version": 1, "name": "ceiling", "network": {"default": "allow"},
               "filesystem": {"read": [main] if bound == "read" else [], "write": [work] + ([main] if bound == "write" else [])}}
    with machine.Instance(ceiling=ceiling) as instance:
        done = instance.sh(alice, f"git log --format=%s -1 2>/dev/null; {ENV} git commit -q --allow-empty -m more 2>/dev/null && echo written; echo end",
                           workspace=work)
        assert done.stdout.split() == {"missing": ["end"], "read": ["first", "end"], "write": ["first", "written", "end"]}[mode], done
        assert ("ceiling" in done.stderr) == (mode == "missing") or mode == "read", done.stderr


def hostile_link_in_path(user, main, work, entry):
    os.rename(main, main + "-moved")
    own(user, os.symlink(main + "-moved", main) or main)


def hostile_repository_elsewhere(user, main, work, entry):
    """The worktree's directory says that the repository is another one."""
    user.write(entry + "/commondir", repository(user) + "/.git\n")


def hostile_nobody_knows_it(user, main, work, entry):
    user.write(entry + "/gitdir", user.workspace() + "/.git\n")


def hostile_another_name(user, main, work, entry):
    """The file itself, but under another name."""
    os.link(work + "/.git", main + "/copy")
    user.write(entry + "/gitdir", main + "/copy\n")


def hostile_anything(user, main, work, entry):
    """A folder of the user's that is no repository, with all that it takes but one."""
    shutil.rmtree(main + "/.git/objects")


def hostile_anothers(user, main, work, entry):
    for folder, folders, names in os.walk(main + "/.git"):
        for name in [".", *folders, *names]:
            os.lchown(os.path.join(folder, name), 65534, 65534)


def hostile_link_as_entry(user, main, work, entry):
    os.rename(entry, main + "/entry")
    own(user, os.symlink(main + "/entry", entry) or entry)


def hostile_fifo(user, main, work, entry):
    os.unlink(entry + "/gitdir")
    os.mkfifo(entry + "/gitdir")
    own(user, entry + "/gitdir")


def hostile_bytes(user, main, work, entry):
    user.write(work + "/.git", f"gitdir: {entry}\x1b[31m\nfoo\n")


def hostile_length(user, main, work, entry):
    user.write(work + "/.git", f"gitdir: {entry}/{'./' * 5000}\n")


HOSTILE = [value for name, value in sorted(globals().items()) if name.startswith("hostile_")]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda f: f.__name__[len("hostile_"):])
def test_what_is_not_believed(instance, either, change):
    """Both sides must name each other, by no link, and all of it is the user's: else nothing is shown, and the session is told."""
    main = repository(either)
    work, entry = worktree(either, main)
    assert warned(instance, either, work) == ""
    change(either, main, work, entry)
    # A persistent home keeps the folder that it was shown at.
    done = instance.sh(either, f"find {main} -type f; echo end", workspace=work)
    assert done.stdout == "end\n", done.stdout
    assert "git does not work" in warned(instance, either, work)


def test_what_holds_the_workspace_does_not_come(instance, either):
    """A bare repository with its worktrees in it: with it came the others."""
    main = repository(either)
    bare = either.workspace()
    git(either, main, "clone", "-q", "--bare", main, bare + "/all")
    for name in ("one", "two"):
        git(either, bare + "/all", "worktree", "add", "-q", "-b", name, f"{bare}/all/{name}")
    assert "it holds the workspace" in warned(instance, either, bare + "/all/one")
    assert instance.sh(either, f"ls -A {bare}/all", workspace=bare + "/all/one").stdout == "one\n"


def test_a_session_plants_no_worktree(instance, either):
    """What one session writes does not bring a repository to the next that the first one could not write."""
    main, work = repository(either), either.workspace()
    instance.sh(either, f"""mkdir -p sub e/worktrees/x e/objects e/refs; echo ref: x >e/HEAD; touch e/config
        echo 'gitdir: {main}/.git/worktrees/x' >sub/.git; mkdir -p s2; echo "gitdir: {work}/e/worktrees/x" >s2/.git
        echo {work}/s2/.git >e/worktrees/x/gitdir; echo {main}/.git >e/worktrees/x/commondir""", workspace=work)
    for name in ("sub", "s2"):
        assert "git does not work" in warned(instance, either, f"{work}/{name}")
        assert instance.sh(either, f"ls {main}; echo end", workspace=f"{work}/{name}").stdout == "end\n"


def test_the_report_tells_of_it(instance, either):
    main = repository(either)
    work, _ = worktree(either, main)
    time.sleep(1.1)  # the clock of files is coarse
    name = instance.create(either, cwd=work)
    instance.ctl(either, "exec", name, "--", "sh", "-c", f"mkdir {main}/.git/lfs; echo x >{main}/.git/lfs/x.service; echo y >Makefile; " + ENV +
                 "git add Makefile; git commit -qm x")
    told = json.loads(instance.ctl(either, "report", "--json", name).stdout)
    paths = {entry["path"] for entry in told["handOver"]}
    assert paths == {"Makefile", main + "/.git/lfs/x.service"}, paths
    instance.ctl(either, "terminate", "--grace", "0", name)
