"""Files of the workspace that run outside later (group H): under the shipped profile they are neither written nor made, nor brought
there by moving what is above. What a session was quick enough to make is gone when it has ended."""

import os
import re
import subprocess

import machine
from property import collector

tried, FOUND = collector()

EVIL = "SBXTEVIL"
FILES = (".git/config .git/hooks/pre-commit .git/info/attributes .vscode/tasks.json .idea/workspace.xml .envrc .mcp.json "
         ".claude/settings.json .cursor/rules .husky/pre-commit .gitmodules").split()
HOME_FILES = ".bashrc .bash_profile .profile .zshrc .zshenv .vimrc .exrc .inputrc .xprofile .config/fish/config.fish .pam_environment".split()


def repository(p, files=()):
    """A workspace of the caller's with a repository in it."""
    base = p.user.workspace()
    done = p.user.run(["git", "-c", "init.defaultBranch=main", "init", "-q", base])
    assert done.returncode == 0, done
    for name in files:
        p.user.write(f"{base}/{name}", f"# {name}\n")
    return base


def evil_in(base):
    """Names below it that are, or hold, what a session has put there."""
    found = []
    for folder, _, names in os.walk(base):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.path.isfile(path):
                with open(path, "rb") as f:
                    if EVIL.encode() in f.read():
                        found.append(os.path.relpath(path, base))
    return found


def write_all(names):
    return "; ".join(f"mkdir -p $(dirname {n}); echo {EVIL} >>{n}; echo {EVIL} >{n}.x && mv {n}.x {n}; rm -f {n}.x" for n in names)


def planted(p, base, names, script):
    """Which of the names hold what the session wrote, when it has ended; files that are nobody's business may."""
    done = p.run("-w", base, "--", "sh", "-c", script + "; echo end", cwd="/")
    assert done.stdout.endswith("end\n"), done
    # The guard moves aside what it finds and does not lose it: under such a name it is nobody's configuration.
    return [name for name in evil_in(base) if not re.search(r"\.refused-[0-9a-f]{16}(/|$)", name) and
            any(name == n or name.startswith(n.split("/")[0] + "/") and "/" in n for n in names)]


@tried("H01", "mounts", "what runs outside later and is there is not written", everywhere=True)
def h01_present(p):
    base = repository(p, FILES[1:])
    before = {name: machine.tree_state(base).get(f"{base}/{name}") for name in FILES}
    found = planted(p, base, FILES, write_all(FILES) + f"; rm -rf {' '.join(FILES)}; chmod 777 {' '.join(FILES)}")
    after = machine.tree_state(base)
    return found + [name for name in FILES if after.get(f"{base}/{name}") != before[name]]


@tried("H02", "init", "what is not there cannot be made", everywhere=True)
def h02_absent(p):
    base = p.user.workspace()
    found = planted(p, base, FILES, write_all(FILES))
    return found + [name for name in FILES if os.path.lexists(f"{base}/{name}") and name != ".git"]


@tried("H03", "mounts", "moving what is above brings nothing under the name", everywhere=True)
def h03_parent_moved(p):
    base = repository(p, FILES[1:])
    script = (f"mv .git g; mkdir -p .git/hooks; echo {EVIL} >.git/hooks/pre-commit; echo {EVIL} >.git/config; mv .vscode v; "
              f"mkdir .vscode; echo {EVIL} >.vscode/tasks.json; mkdir n; echo {EVIL} >n/config; mv -T n .git; cp -r .git h; mv h/hooks .git/")
    return planted(p, base, FILES, script)


@tried("H04", "mounts", "no link comes in the place of what is protected", everywhere=True)
def h04_replaced_by_a_link(p):
    base = repository(p, FILES[1:])
    script = (f"mkdir evil; echo {EVIL} >evil/tasks.json; rm -r .vscode; ln -sfn evil .vscode; rm -rf .git/hooks; ln -sfn ../evil .git/hooks; "
              "ln -sfn evil .idea; ln -sf evil/tasks.json .envrc; ln -f evil/tasks.json .mcp.json")
    found = planted(p, base, FILES, script)
    return [name for name in found if not name.startswith("evil/")] + \
        [name for name in (".vscode", ".git/hooks", ".idea", ".envrc") if os.path.islink(f"{base}/{name}")]


class Running:
    """A session that lives in a workspace while the host does something there."""

    def __init__(self, p, base):
        self.p, self.base = p, base
        self.identity = p.instance.create(p.user, "-w", base, cwd="/")

    def __enter__(self):
        return lambda script: self.p.ctl("exec", self.identity, "--", "sh", "-c", f"cd {self.base}; {script}")

    def __exit__(self, *_):
        self.p.ctl("terminate", self.identity)
        self.p.ctl("remove", self.identity)


@tried("H05", "init", "what the host replaces meanwhile stays protected")
def h05_replaced_by_the_host(p):
    base = repository(p)
    with Running(p, base) as inside:
        for number in range(3):
            p.user.run(["git", "-C", base, "config", "a.b", str(number)])
            inside(f"echo '[core] fsmonitor={EVIL}' >>.git/config; true")
    # What was written in the moment before the guard was there is put back, or the session is ended.
    return evil_in(base)


@tried("H06", "init", "what the host removes meanwhile is not made by the session")
def h06_removed_by_the_host(p):
    base = repository(p, FILES[1:])
    with Running(p, base) as inside:
        subprocess.run(["rm", "-rf", base + "/.vscode"], check=True)
        inside(f"mkdir .vscode; echo {EVIL} >.vscode/tasks.json; true")
    return evil_in(base)


@tried("H07", "mounts", "a repository that is a file, and what says where it is, are not written", everywhere=True)
def h07_repository_as_a_file(p):
    main = repository(p)
    p.user.run(["git", "-C", main, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"])
    tree = p.user.base + f"/tree-{p.name}"
    assert p.user.run(["git", "-C", main, "worktree", "add", "-q", tree]).returncode == 0
    with open(tree + "/.git", encoding="utf-8") as f:
        before = f.read()
    script = (f"echo 'gitdir: /tmp/{EVIL}' >.git; echo 'gitdir: /tmp/{EVIL}' >n; mv -f n .git; rm -f .git; ln -s /tmp .git; "
              f"echo {EVIL} >{main}/.git/config; echo {EVIL} >{main}/.git/hooks/post-checkout; echo {EVIL} >{main}/.git/commondir")
    done = p.run("-w", tree, "--", "sh", "-c", script + "; echo end", cwd="/")
    assert done.stdout.endswith("end\n"), done
    if not os.path.isfile(tree + "/.git"):
        return "it is another one outside"
    with open(tree + "/.git", encoding="utf-8") as f:
        return f.read() != before and "the file was changed" or [name for name in evil_in(main + "/.git") if name != "worktrees"]


MODULES = (".git/modules/m/config .git/modules/m/hooks/post-checkout .git/modules/m/info/attributes .git/worktrees/t/config.worktree").split()


@tried("H08", "mounts", "settings and hooks of submodules and worktrees are not written", everywhere=True)
def h08_submodules(p):
    base = repository(p, [name for name in MODULES if "attributes" not in name])
    for name in (".git/modules/m/HEAD", ".git/worktrees/t/HEAD"):
        p.user.write(f"{base}/{name}", "ref: refs/heads/main\n")
    return planted(p, base, MODULES, write_all(MODULES) + f"; mv .git/modules m; mkdir -p .git/modules/m; echo {EVIL} >.git/modules/m/config")


PARTS = ".git/info/attributes .git/config.worktree .git/objects/info/alternates .git/commondir".split()


@tried("H09", "mounts", "attributes, further settings and borrowed objects of a repository are not written", everywhere=True)
def h09_parts_of_a_repository(p):
    base = repository(p)
    return planted(p, base, PARTS, write_all(PARTS)) + [name for name in PARTS if os.path.lexists(f"{base}/{name}")]


@tried("H10", "mounts", "usual places of hooks that the project shares are not written", everywhere=True)
def h10_shared_hooks(p):
    base = repository(p, [".husky/pre-commit"])
    names = [".husky/pre-commit", ".husky/post-merge", ".githooks/pre-commit"]
    return planted(p, base, names, write_all(names) + "; git config core.hooksPath /tmp") + \
        ["core.hooksPath" for line in [p.user.run(["git", "-C", base, "config", "core.hooksPath"]).stdout] if line]


@tried("H14", "mounts", "start files of shells and editors are not made in a workspace", everywhere=True)
def h14_start_files(p):
    base = p.user.workspace()
    return planted(p, base, HOME_FILES, write_all(HOME_FILES)) + [name for name in HOME_FILES if os.path.isfile(f"{base}/{name}")]
