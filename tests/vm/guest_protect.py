#!/usr/bin/python3
"""Runs inside the virtual machine, as root: protected paths where the kernel itself refuses to change them. One line of
JSON per trial, as guest.py has it.

The hardest attacker is one that no other layer holds: a process of root's, in the host's namespaces, that was put into
the session's control group. What it is refused, the programs refuse; and that its calls are right is seen where it does
the same in a folder beside."""

import ctypes
import glob
import json
import os
import re
import struct
import subprocess
import sys
import time

import guest
from guest import GROUP, eventually, sh

WORK = "/home/alice/work"
CONTROL = "/run/control"  # another file system: on the same one no overlay may be written at all
FOLDERS = "/sys/fs/bpf/sandboxd-*"

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_BPF = 321
PROG_GET_NEXT_ID = 11
OBJ_GET = 7
MAP_GET_NEXT_KEY = 4
AT_FDCWD = -100
EXCHANGE = 2
FOLLOW = 0x400


# ---- what the kernel has ----

def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    return LIBC.syscall(SYS_BPF, command, buffer, 128), buffer


def programs():
    """Numbers of all that are loaded."""
    found, last = [], 0
    while True:
        done, buffer = bpf(PROG_GET_NEXT_ID, struct.pack("=II", last, 0))
        if done < 0:
            return found
        last = struct.unpack_from("=II", buffer.raw)[1]
        found.append(last)


def sessions_known():
    """Groups that the programs have rules for."""
    path = ctypes.create_string_buffer(glob.glob(FOLDERS)[0].encode() + b"/sessions")
    fd, _ = bpf(OBJ_GET, struct.pack("=QII", ctypes.addressof(path), 0, 0))
    assert fd >= 0
    found, key = [], None
    try:
        while True:
            following = ctypes.create_string_buffer(8)
            current = ctypes.create_string_buffer(key, 8) if key else None
            done, _ = bpf(MAP_GET_NEXT_KEY, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(current) if current else 0,
                                                        ctypes.addressof(following), 0))
            if done < 0:
                return found
            key = following.raw
            found.append(struct.unpack("=Q", key)[0])
    finally:
        os.close(fd)


def pins():
    return sorted(name for folder in glob.glob(FOLDERS) for name in os.listdir(folder))


# ---- the workspace ----

def make_tree(top):
    sh(f"rm -rf {top}; install -d -o alice -g alice {top}")
    made = sh(f"""set -e
        cd {top}; git init -q .; git config user.email a@b; git config user.name a
        echo one >file; git add file; git commit -qm one
        mkdir -p .vscode sub; echo '{{}}' >.vscode/settings.json; echo export A=1 >.envrc
        echo {{}} >.vscode/extra.json; mkdir .zed; echo free >free; ln .git/config linked; mkdir -p prepared/hooks; echo evil >prepared/hooks/pre-commit
        echo other >other; mkdir empty upper work""", "alice")
    assert made.returncode == 0, made.stdout


def exchange(a, b):
    if LIBC.renameat2(AT_FDCWD, a.encode(), AT_FDCWD, b.encode(), EXCHANGE) < 0:
        raise OSError(ctypes.get_errno(), a)


def write(path, flags=os.O_WRONLY):
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, b"evil")
    finally:
        os.close(fd)


def nameless(directory, path):
    fd = os.open(directory, os.O_WRONLY | os.O_TMPFILE)
    try:
        # os.link() follows no links, whatever it is told.
        if LIBC.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, path.encode(), FOLLOW) < 0:
            raise OSError(ctypes.get_errno(), path)
    finally:
        os.close(fd)


def overlay(lower, upper, work, name):
    done = subprocess.run(["unshare", "-m", "sh", "-c", f"mkdir -p /run/over && mount -t overlay o "
                           f"-o lowerdir={lower},upperdir={upper},workdir={work} /run/over && echo evil >>/run/over/{name}"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise OSError(1, name)


def socket_at(path):
    import socket
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)


# In this order, each after those before it.
ATTEMPTS = [
    ("write", lambda: write(".git/config")),
    ("append", lambda: write(".git/config", os.O_WRONLY | os.O_APPEND)),
    ("truncate by open", lambda: os.close(os.open(".envrc", os.O_RDONLY | os.O_TRUNC))),
    ("truncate", lambda: os.truncate(".envrc", 0)),
    ("create absent", lambda: write(".git/hooks/pre-push", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    ("create absent at the top", lambda: write(".mcp.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    ("create a lock", lambda: write(".git/config.lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    ("create deep", lambda: os.makedirs(".vscode/a/b")),
    ("create absent folder", lambda: os.mkdir(".idea")),
    ("file where a folder is above", lambda: write(".config", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    ("link where a folder is above", lambda: os.symlink("prepared", ".hg")),
    ("symbolic link", lambda: os.symlink("/tmp/x", ".husky")),
    ("hard link to", lambda: os.link("other", ".zshrc")),
    ("hard link from", lambda: os.link(".envrc", "mine")),
    ("hard link of the host's", lambda: write("linked")),
    ("without a name", lambda: nameless(".", ".bashrc")),
    ("fifo", lambda: os.mkfifo(".profile")),
    ("socket", lambda: socket_at(".zshenv")),
    ("rename to", lambda: os.rename("free", ".inputrc")),
    ("rename over", lambda: os.rename("other", ".envrc")),
    ("exchange", lambda: exchange("prepared/hooks", ".git/hooks")),
    ("rename of what is above", lambda: os.rename(".git", "moved")),
    ("chmod", lambda: os.chmod(".vscode/settings.json", 0o777)),
    ("chown", lambda: os.chown(".vscode/settings.json", 0, 0)),
    ("times", lambda: os.utime(".vscode/settings.json")),
    ("attribute", lambda: os.setxattr(".vscode/settings.json", "trusted.a", b"b")),
    ("through an overlay", lambda: overlay("empty", ".vscode", "work", "settings.json")),
    ("rename from", lambda: os.rename(".vscode/settings.json", "settings")),
    ("unlink", lambda: os.unlink(".vscode/extra.json")),
    ("remove", lambda: os.rmdir(".zed")),
]


def undo(top):
    """What the attempts of the control need that an earlier one took."""
    for name in ("free", "other"):
        with open(f"{top}/{name}", "w", encoding="ascii") as f:
            f.write(name)


def attack(group, top):
    """The errors of all attempts, made by a process in the group; None: it was not refused."""
    with open(f"{group}/cgroup.procs", "w", encoding="ascii") as f:
        f.write("0")
    os.chdir(top)
    found = {}
    for name, attempt in ATTEMPTS:
        try:
            attempt()
            found[name] = None
        except OSError as error:
            found[name] = error.errno
        if name == "rename of what is above" and found[name] is None:
            os.rename("moved", ".git")
        if name in ("rename to", "rename over", "unlink") and found[name] is None:
            undo(".")
    print(json.dumps(found))


def in_group(session, *arguments):
    group = next(folder for folder, _, _ in os.walk(GROUP) if folder.endswith("/" + session))
    done = subprocess.run([sys.executable, __file__, arguments[0], group, *arguments[1:]], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout.splitlines()[-1])


class Session:
    def __init__(self, user="alice", options=""):
        self.user = user
        done = subprocess.run(["setpriv", "--reuid", user, "--regid", user, "--init-groups", "env", f"HOME=/home/{user}", "sandboxctl",
                               "create", *options.split()] if user != "root" else ["sandboxctl", "create", *options.split()],
                              cwd=WORK, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        self.id = done.stdout.split()[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        sh(f"sandboxctl terminate --grace 0s {self.id}; sandboxctl remove {self.id}", None if self.user == "root" else self.user)

    def start(self, program):
        return subprocess.Popen(["setpriv", "--reuid", "alice", "--regid", "alice", "--init-groups", "sandboxctl", "exec", self.id, "--",
                                 "python3", program], cwd=WORK, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                env={"HOME": "/home/alice", "PATH": os.environ["PATH"]})

    def run(self, script):
        return sh(f"sandboxctl exec {self.id} -- sh -c '{script}'", None if self.user == "root" else self.user)


# ---- trials ----

def the_doctor_says_that_the_kernel_refuses():
    checks = [json.loads(line) for line in sh("sandboxctl doctor --json").stdout.splitlines()]
    found = {check["name"]: check for check in checks}["bpf-lsm"]
    return found["state"] == "ok" or [found, sh("journalctl -u sandboxd --no-pager -n 40").stdout]


def the_folder_of_pins_is_roots_alone():
    folders = glob.glob(FOLDERS)
    status = os.stat(folders[0])
    return len(folders) == 1 and status.st_uid == 0 and status.st_mode & 0o7777 == 0o700 and \
        {"sessions", "marks", "on_open", "on_rename"} <= set(pins()) or [folders, pins()]


def whoever_is_in_the_group_is_refused_everything():
    make_tree(WORK)
    make_tree(CONTROL)
    with Session() as session:
        refused = in_group(session.id, "attack", WORK)
        control = in_group(session.id, "attack", CONTROL)
    wrong = {name: error for name, error in refused.items() if error != 1}
    failed = {name: error for name, error in control.items() if error is not None}
    return not wrong and not failed and len(refused) == len(ATTEMPTS) or {"not refused": wrong, "does not work": failed}


def whoever_is_not_in_the_group_is_refused_nothing():
    make_tree(WORK)
    with Session():
        done = sh("set -e; git config a.b c; echo x >.git/hooks/pre-push; mv .vscode v; mv v .vscode; rm .envrc; git branch side", "alice")
    return done.returncode == 0 or done.stdout


def what_the_host_renames_stays_what_it_was():
    make_tree(WORK)
    with Session() as session:
        sh("mv .git hidden; mv .vscode editor; mv .envrc plain", "alice")
        tried = [session.run(script) for script in (
            "echo evil >>hidden/config", "echo evil >hidden/hooks/post-merge", "echo evil >hidden/commondir", "echo evil >editor/new",
            "echo evil >>plain", "rm plain", "mv editor elsewhere")]
        free = session.run("echo fine >hidden/description && echo fine >new")
        sh("mv hidden .git; mv editor .vscode; mv plain .envrc", "alice")
        seen = sh("grep -rl evil .git .vscode .envrc", "alice").stdout
    return all(done.returncode != 0 for done in tried) and free.returncode == 0 and not seen or \
        [[done.stdout for done in tried], free.stdout, seen]


# It ends by itself, whatever becomes of the test.
RACE = """import os, time
end = time.monotonic() + 100
print("on", flush=True)
while not os.path.exists("stop") and time.monotonic() < end:
    for path in (".envrc", ".vscode/settings.json", ".vscode/tasks.json", "away/settings.json", "away/tasks.json", ".idea"):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT)
            os.write(fd, b"evil")
            os.close(fd)
        except OSError:
            pass
    time.sleep(0.001)
"""
ROUNDS = 100


def planted():
    found = [name for name in (".idea", ".vscode/tasks.json", "away/tasks.json") if os.path.exists(f"{WORK}/{name}")]
    for name in (".envrc", ".vscode/settings.json", "away/settings.json"):
        try:
            with open(f"{WORK}/{name}", "rb") as f:
                found += [name] if b"evil" in f.read() else []
        except FileNotFoundError:
            pass
    return found


def nothing_is_planted_while_the_host_replaces_and_renames():
    make_tree(WORK)
    with open(f"{WORK}/race.py", "w", encoding="ascii") as f:
        f.write(RACE)
    seen = []
    with Session() as session:
        with session.start("race.py") as attacker:
            first = attacker.stdout.readline()
            for i in range(ROUNDS):
                os.rename(f"{WORK}/.vscode", f"{WORK}/away")
                seen += planted()
                os.rename(f"{WORK}/away", f"{WORK}/.vscode")
                with open(f"{WORK}/new", "w", encoding="ascii") as f:
                    f.write(f"export A={i}\n")
                os.chmod(f"{WORK}/new", 0o666)
                os.rename(f"{WORK}/new", f"{WORK}/.envrc")
                seen += planted()
            with open(f"{WORK}/stop", "w", encoding="ascii"):
                pass
            attacker.wait(150)
    seen += planted()
    return first == "on\n" and not seen or [first, seen]


DESCRIPTOR = """import os, sys
fd = os.open("plain", os.O_RDWR)
print("open", flush=True)
sys.stdin.readline()
for call in (lambda: os.write(fd, b"evil"), lambda: os.pwrite(fd, b"evil", 0), lambda: os.ftruncate(fd, 0),
             lambda: __import__("mmap").mmap(fd, 4), lambda: __import__("mmap").mmap(fd, 4, prot=1),
             lambda: os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)):
    try:
        call()
        print("done")
    except OSError as error:
        print(error.errno)
"""


def a_descriptor_from_before_is_worth_nothing():
    make_tree(WORK)
    for name, content in (("plain", "export B=2\n"), ("hold.py", DESCRIPTOR)):
        with open(f"{WORK}/{name}", "w", encoding="ascii") as f:
            f.write(content)
    os.chown(f"{WORK}/plain", os.stat(WORK).st_uid, os.stat(WORK).st_gid)
    with Session() as session:
        with session.start("hold.py") as holder:
            first = holder.stdout.readline()
            os.rename(f"{WORK}/plain", f"{WORK}/.envrc")
            said = holder.communicate("go\n", timeout=120)[0]
        with open(f"{WORK}/.envrc", encoding="ascii") as f:
            content = f.read()
    words = said.split()
    return first == "open\n" and len(words) == 6 and "done" not in words and content == "export B=2\n" or [first, words, content]


def git_works_in_a_session():
    make_tree(WORK)
    done = sh("""sandboxctl run -T -q -- sh -exc '
        echo two >>file; git add file; git commit -qm two; git branch side; git checkout -q side; echo three >>file
        git stash -q; git stash pop -q; git commit -qam three; git checkout -q -; git merge -q side
        git worktree add -q -b tree tree; cd tree; echo four >g; git add g; git commit -qm four; cd ..
        git worktree remove tree; git tag t; git gc -q; git reset -q --hard; git status --porcelain
        mkdir inner; cd inner; git init -q .; git config a.b c; cd ..; git fsck' 2>&1""", "alice")
    log = sh("git log --oneline --all | wc -l; git fsck 2>&1; git config --get a.b", "alice").stdout.split("\n")
    return done.returncode == 0 and log[0] == "4" or [done.stdout, log]


def two_sessions_in_one_workspace():
    make_tree(WORK)
    with Session() as first:
        with Session() as second:
            sh("mv .vscode editor", "alice")
            both = [s.run("echo evil >>editor/settings.json").returncode != 0 for s in (first, second)]
        still = first.run("echo evil >>editor/settings.json").returncode != 0
        free = first.run("echo fine >new").returncode == 0
    later = sh("sandboxctl run -T -q -- sh -c 'echo mine >>editor/settings.json'", "alice").returncode == 0
    return both == [True, True] and still and free and later or [both, still, free, later]


def a_session_of_root():
    make_tree(WORK)
    sh(f"chown -R root:root {WORK}")
    with Session("root") as session:
        tried = [session.run(script).returncode for script in ("echo evil >.git/hooks/pre-push", "mkdir .idea", "echo evil >>.envrc", "mv .git moved")]
        fine = session.run("echo fine >new && mkdir -p a/b")
        there = os.path.exists(f"{WORK}/.git/hooks/pre-push") or os.path.exists(f"{WORK}/.idea")
    sh(f"chown -R alice:alice {WORK}")
    return 0 not in tried and fine.returncode == 0 and not there or [tried, fine.stdout, there]


def nothing_is_left_of_sessions():
    gone = eventually(lambda: not sessions_known(), 60)
    return gone or sessions_known()


def a_killed_daemon_finds_its_programs_again():
    make_tree(WORK)
    guest.status()
    before, names, pid = programs(), pins(), guest.main_pid()
    session = Session()
    known = len(sessions_known())
    os.kill(pid, 9)
    again = eventually(lambda: guest.main_pid() not in (0, pid) and guest.status())
    found = programs()
    with Session() as later:
        refused = later.run("mkdir .idea").returncode != 0
        only = len(sessions_known())
    return again and known == 1 and only == 1 and refused and set(before) & set(found) and pins() == names and \
        len([p for p in found if p in before]) >= len(names) - 3 or [again, known, only, refused, before, found, session.id]


def a_stop_takes_the_programs_away():
    with_them = len(programs())
    links = len([name for name in pins() if name.startswith("on_")])
    sh("systemctl stop sandboxd.service")
    gone = eventually(lambda: not glob.glob(FOLDERS) and len(programs()) <= with_them - links, 60)
    again = eventually(lambda: bool(guest.status()) and bool(glob.glob(FOLDERS)))
    return gone and again and links >= 16 or [gone, again, links, with_them, len(programs()), pins()]


def without_the_program_the_guard_keeps_them():
    make_tree(WORK)
    sh("systemctl stop sandboxd.service; mv /usr/local/libexec/sandboxd/sandboxd-bpf /root/")
    try:
        checks = [json.loads(line) for line in sh("sandboxctl doctor --json").stdout.splitlines()]
        found = {check["name"]: check for check in checks}["bpf-lsm"]
        with Session() as session:
            session.run("mkdir .idea; echo evil >>.git/config")
            gone = eventually(lambda: not os.path.exists(f"{WORK}/.idea"), 60)
            kept = "evil" not in open(f"{WORK}/.git/config", encoding="ascii").read()
        with open("/etc/sandboxd/sandboxd.json", "w", encoding="utf-8") as f:
            f.write('{"sessions": {"protect": "prevent"}}\n')
        sh("systemctl reload sandboxd")
        refused = sh("sandboxctl run -T -- true", "alice")
    finally:
        sh("mv /root/sandboxd-bpf /usr/local/libexec/sandboxd/; systemctl restart sandboxd.service")
    demanded = sh("sandboxctl run -T -q -- true", "alice")
    sh("rm /etc/sandboxd/sandboxd.json; systemctl reload sandboxd")
    return found["state"] == "warning" and "sandboxd-bpf" in found["advice"] and gone and kept and refused.returncode == 125 and \
        "sessions.protect" in refused.stdout and demanded.returncode == 0 or [found, gone, kept, refused.stdout, demanded.stdout]


TRIALS = [the_doctor_says_that_the_kernel_refuses, the_folder_of_pins_is_roots_alone, whoever_is_in_the_group_is_refused_everything,
          whoever_is_not_in_the_group_is_refused_nothing, what_the_host_renames_stays_what_it_was,
          nothing_is_planted_while_the_host_replaces_and_renames, a_descriptor_from_before_is_worth_nothing, git_works_in_a_session,
          two_sessions_in_one_workspace, a_session_of_root, nothing_is_left_of_sessions, a_killed_daemon_finds_its_programs_again,
          a_stop_takes_the_programs_away, without_the_program_the_guard_keeps_them]


def main():
    if len(sys.argv) > 1:
        return globals()[sys.argv[1]](*sys.argv[2:])
    guest.make_users()
    os.makedirs(WORK, exist_ok=True)
    for trial in TRIALS:
        try:
            result = trial()
        except Exception as error:  # pylint: disable=broad-except
            result = f"{type(error).__name__}: {error}"
        print(json.dumps({"trial": re.sub("_", " ", trial.__name__), "result": result, "after": round(time.monotonic())}), flush=True)
    print(json.dumps({"journal": sh("journalctl -u sandboxd --no-pager -n 60").stdout}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
