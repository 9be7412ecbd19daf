"""What a session leaves behind and may take effect outside: its report names it (group H)."""

import json
import os
import re
import time

import pytest

from source_of_lists import described, is_reported, protected


@pytest.fixture
def told(instance, user):
    """told(work, script, after): kinds and paths of what is handed over, and what has changed, when the session has ended and after()."""
    made = []

    def run(work, script, after=lambda: None):
        time.sleep(1.1)  # the clock of files is coarse
        name = f"told{os.getpid()}-{len(made)}"
        made.append(name)
        done = instance.ctl(user, "run", "-T", "--keep", "--name", name, "--", "sh", "-c", script + "\necho end", cwd=work)
        assert done.stdout.endswith("end\n"), done
        after()
        reply = json.loads(instance.ctl(user, "report", "--json", name).stdout)
        assert reply["truncated"] is False
        texts = [instance.ctl(user, "report", *options, name).stdout for options in ((), ("--markdown",))]
        for entry in reply["handOver"]:
            if re.fullmatch(r"[\w./-]+", entry["path"]):
                assert all(entry["path"] in text for text in texts), entry
        return {(entry["kind"], entry["path"]) for entry in reply["handOver"]}, set(reply["changed"])

    yield run
    for name in made:
        instance.ctl(user, "remove", name)


def test_h11_h12_repositories_that_appear(user, told):
    work = user.workspace()
    user.run(["git", "init", "-q", work])
    user.run(["git", "init", "-q", work + "/there"])
    found, _ = told(work, """
        git init -q --bare deep/er/bare.git; git init -q sub; git init -q "odd name"
        mkdir -p hand/objects hand/refs; echo ref: refs/heads/x >hand/HEAD; echo '[core]' >hand/config
        mkdir -p in/disguise; git init -q --separate-git-dir in/disguise/data in/tree
        echo "#!/bin/sh" >sub/.git/hooks/post-checkout; git -C sub config core.fsmonitor evil""")
    repositories = {path for kind, path in found if kind == "repository"}
    assert repositories == {"deep/er/bare.git", "sub/.git", "odd name/.git", "hand", "in/disguise/data"}, repositories
    assert {("git-config", "sub/.git/config"), ("hook", "sub/.git/hooks/post-checkout"), ("git-config", "in/tree/.git")} <= found, found


def test_h13_interpreters_of_the_project(user, told):
    work = user.workspace()
    names = [".venv/bin/python", ".venv/bin/activate", ".venv/lib/python3/site-packages/x.pth", "venv/pyvenv.cfg", "sitecustomize.py",
             "lib/sitecustomize.py", "node_modules/.bin/tsc", "a/node_modules/.bin/eslint", "venv/bin/pip"]
    for name in names:
        user.write(f"{work}/{name}", "old\n", 0o755)
    user.write(work + "/untouched/node_modules/.bin/x", "old\n")
    found, changed = told(work, "; ".join(f"echo evil >>{name}" for name in names))
    assert {("build-file", name) for name in names} == found, found
    assert set(names) == changed


def test_h15_recipes(user, told):
    work = user.workspace()
    names = (".mise.toml .tool-versions .npmrc .cargo/config.toml Makefile package.json pyproject.toml conftest.py build.rs CMakeLists.txt "
             ".github/workflows/x.yml Dockerfile compose.yaml go.mod setup.py configure deep/below/Makefile .gitlab-ci.yml").split()
    user.write(work + "/kept/Makefile", "old\n")
    found, changed = told(work, "; ".join(f"mkdir -p $(dirname {name}); echo evil >>{name}" for name in names) + "; echo x >plain.c")
    assert {("build-file", name) for name in names} == found, found
    assert changed == {*names, "plain.c"}


def test_h18_what_is_no_ordinary_file(user, told):
    work = user.workspace()
    user.write(work + "/file", "x\n")
    user.write(work + "/program", "x\n", 0o755)
    found, _ = told(work, r"""
        ln -s /etc/passwd absolute; ln -s ../../x above; mkdir in; ln -s ../.. in/up; ln -s ../file in/fine; ln file second; mkfifo pipe
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'; echo x >"$(printf 'a\033[2Jb')"; echo x >new; chmod +x new""", lambda: os.chmod(user.write(work + "/raised", "x"), 0o4755))
    assert {("symlink-outside", "absolute"), ("symlink-outside", "above"), ("symlink-outside", "in/up"), ("hard-link", "file"),
            ("hard-link", "second"), ("special-file", "pipe"), ("special-file", "socket"), ("executable", "new"),
            ("setuid", "raised")} <= found, found
    odd = [path for kind, path in found if kind == "odd-name"]
    assert len(odd) == 1 and "\x1b" not in odd[0]
    assert not {path for _, path in found} & {"in/fine", "program"}


def test_h22_one_list(instance, user):
    """What is protected is what the words about it say, what the report looks for, and what a session finds."""
    names = protected()
    assert len(names) > 60
    assert described() == names
    assert [name for name in names if not is_reported(name)] == []
    work = user.workspace()
    user.run(["git", "init", "-q", work])
    for path in [part for name in names for part in (name.replace("*", "some"), name.replace("*", "some") + "/x")]:
        done = instance.ctl(user, "policy", "check", "file", "write", f"{work}/{path}", cwd=work)
        assert done.returncode != 0, (path, done.stdout)
