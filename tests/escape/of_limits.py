"""What can be used up, and by whom (group Q)."""

import contextlib
import json
import os
import socket
import subprocess

import fuse
import machine
from property import collector

tried, FOUND = collector()


def held(p, *command):
    """Runs it in a session until it says that it has used everything up; gives its words."""
    return Held(p, command)


class Held:
    def __init__(self, p, command):
        self.child = p.start("run", "-T", "--", *command, stdout=subprocess.PIPE)

    def __enter__(self):
        return self.child.stdout.readline().decode().split()

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


@tried("Q07", "limits", "who uses up what the kernel counts for a user stops neither that user nor others")
def q07_kernel_objects(p):
    with held(p, "./probe", "Q07") as words:
        assert words and words[0] == "used" and int(words[1]) < 100000, words
        done = p.user.run(["sh", "-c", "echo a | cat; python3 -c 'import os; os.pipe()' && echo b"])
        assert done.stdout == "a\nb\n", done
        assert p.world.other.run(["python3", "-c", "import os, ctypes; os.pipe(); print(ctypes.CDLL(None).inotify_init() >= 0)"]
                                 ).stdout == "True\n"
        assert p.instance.sh(p.world.other, "echo runs").stdout == "runs\n"
        assert p.ctl("list", timeout=30).returncode == 0


def write_tree(base, depth):
    """As many folders in one another, made and taken away by descriptors: no path is that long."""
    at = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", 0o755, dir_fd=at)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def remove_tree(base):
    """Without going deeper than two levels: what lies deeper is moved up."""
    subprocess.run(["rm", "-rf", base], check=True)


@tried("Q13", "init", "deep trees, many entries and many links do not hold a start up")
def q13_large_trees(p):
    many = int(os.environ.get("SANDBOXD_ENTRIES", "2000"))
    base = p.user.workspace()
    os.mkdir(base + "/deep")
    os.mkdir(base + "/many")
    write_tree(base + "/deep", int(os.environ.get("SANDBOXD_DEPTH", many // 2)))
    for number in range(many):
        os.mknod(f"{base}/many/{number}")
    with open(base + "/linked", "w", encoding="utf-8"):
        for number in range(min(many, 30000)):
            os.link(base + "/linked", f"{base}/many/l{number}")
    try:
        for options in ((), ("-p", "host"), ("--deny", base + "/many/1", "--read", base + "/deep")):
            done = p.run("-w", base, *options, "--", "sh", "-c", "echo started; cat many/1", cwd="/", timeout=120)
            # Beyond half a million of them patterns are not looked for, and nothing starts: with a word, and soon.
            too_many = many + int(os.environ.get("SANDBOXD_DEPTH", 0)) > 500000 and "more than 500000 files" in done.stderr
            assert done.stdout == "started\n" or (too_many and done.returncode == 125 and not done.stdout), done
    finally:
        remove_tree(base)


ODD = ["a\nb", "\x1b]0;title\x07", "\x1b[2J", "-rf", "$(touch pwned)", "`touch pwned`", "x" * 255, "\u202egnp.exe", "a\tb\rc", ";ls", "*"]


def hostile_bytes(text):
    """What no listing may let through: control bytes but for the ends of lines and what sets columns apart."""
    return [hex(ord(c)) for c in text if (ord(c) < 32 and c not in "\n\t") or 0x7f <= ord(c) < 0xa0 or
            0x202a <= ord(c) <= 0x202e or 0x2066 <= ord(c) <= 0x2069]


@tried("Q14", "api", "odd names in a workspace are shown escaped and mean nothing")
def q14_odd_names(p):
    base = p.user.workspace()
    found = []
    for number, name in enumerate(ODD):
        folder = os.path.join(base, name)
        os.mkdir(folder)
        os.chown(folder, p.user.uid, p.user.gid)
        label = f"odd-{p.name}{number}"
        made = p.ctl("create", "-w", folder, "--name", label, cwd="/")
        if made.returncode != 0:
            found += [(name, byte) for byte in hostile_bytes(made.stderr)]
            continue
        p.ctl("exec", label, "--", "sh", "-c", f"true '{name if chr(39) not in name else ''}'", name)
        p.ctl("exec", label, "--", name)
        shown = [p.ctl(*verb).stdout for verb in (("list",), ("describe", label), ("list", "--json"), ("describe", "--json", label),
                                                  ("audit", "log", "-n", "20"), ("audit", "log", "--json", "-n", "20"))]
        shown.append(p.run("-w", folder + "/absent", "--", "true", cwd="/").stderr)
        found += [(name, byte) for text in shown for byte in hostile_bytes(text)]
        p.ctl("terminate", label)
        p.ctl("remove", label)
    return found or [name for name in ("pwned",) if os.path.exists(os.path.join(base, name))]


@tried("Q16", "api", "output that nobody reads is not kept without end")
def q16_unread_output(p):
    name = f"flood-{p.name}"
    made = p.run("--detach", "--name", name, "--", "sh", "-c", "yes | head -c 100000000; echo over >&2; sleep 600")
    assert made.returncode == 0, made
    try:
        assert machine.eventually(lambda: "over" in p.ctl("logs", name).stderr, 60), "the command is held up"
        sizes = [resident_mib(pid) for pid in p.instance.workers()]
        return max(sizes) > 200 and f"a worker has {max(sizes)} MiB"
    finally:
        p.ctl("terminate", name)
        p.ctl("remove", name)


def resident_mib(pid):
    with contextlib.suppress(OSError, StopIteration):
        with open(f"/proc/{pid}/status", encoding="utf-8") as f:
            return int(next(line for line in f if line.startswith("VmRSS:")).split()[1]) // 1024
    return 0


@tried("Q20", "api", "a file system that never answers holds up who asked, and nobody else")
def q20_silent_file_system(p):
    folder = p.user.workspace()
    hung = fuse.HungFolder(folder, p.user, "sandbox-init")
    try:
        child = p.start("run", "-T", "-w", folder, "--", "true", cwd="/", stderr=subprocess.DEVNULL)
        assert machine.eventually(lambda: hung.hung, 20), "nobody opened it"
        assert p.instance.sh(p.world.other, "echo runs").stdout == "runs\n"
        assert p.ctl("list", timeout=30).returncode == 0
        child.kill()
        child.wait()
    finally:
        hung.close()


@tried("Q21", "clients", "what lies where a file of the daemon's or the client's is read does not hold it up")
def q21_files_that_are_none(p):
    found = []
    for number, make in enumerate((os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir, sparse,
                                   lambda path: os.mknod(path, 0o020666, os.makedev(1, 5)))):
        base = p.user.workspace()
        for name in (".sandboxd.json", "policy.json"):
            make(f"{base}/{name}")
            os.chown(f"{base}/{name}", p.user.uid, p.user.gid, follow_symlinks=False)
        for options in ((), ("-p", base + "/policy.json")):
            done = p.run("-w", base, *options, "--", "echo", "started", cwd=base, timeout=60)
            if (done.returncode, done.stdout) not in ((125, ""), (0, "started\n")) or (options and done.returncode == 0):
                found.append((number, options, done))
    return found


def sparse(path):
    with open(path, "wb") as f:
        f.truncate(1 << 40)


@tried("Q22", "mounts", "a session cannot take all terminals of the machine")
def q22_terminals(p):
    with held(p, "./probe", "Q22") as words:
        n = int(words[1])
        assert p.instance.ctl(p.world.other, "run", "-t", "--", "echo", "runs", cwd=p.world.other.workspace()
                              ).stdout.strip() == "runs"
        return n > 512 and f"{n} terminals"


LIMITS = ("memoryMaxBytes", "swapMaxBytes", "tasksMax", "cpuQuotaPercent", "ioMaxBytesPerSec", "filesMax", "runtimeMaxUSec",
          "idleMaxUSec", "outputMaxBytes")


@tried("Q23", "policy", "limits that are no limits are refused, never wrapped")
def q23_odd_limits(p):
    found = []
    for value in ("0", "-1", "9223372036854775808", "18446744073709551616", "17179869184G", "1e9", "", " 1", "0x10", "1.5", "\u0661"):
        for option in ("--memory", "--tasks"):
            done = p.run(option, value, "--", "echo", "started")
            if done.returncode != 125 or done.stdout:
                found.append((option, value, done.returncode))
    calls = [(key, value) for key in LIMITS for value in (-1, -2**63, 2**63, 2**64, 2**64 + 1, *([0] if key != "swapMaxBytes" else []))]
    for key, value in calls:
        message = {"method": "io.sandboxd.Session.Create", "parameters": {"context": {"limits": {key: value}}}}
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(p.instance.socket)
            s.sendall(json.dumps(message).encode() + b"\0")
            with contextlib.suppress(ConnectionResetError):
                data = s.recv(65536)
                if data and b'"error"' not in data:
                    found.append((key, value))
    return found


@tried("Q19", "limits", "who has too many connections is refused, others are not")
def q19_connections_of_a_user(p):
    script = ("import socket, sys\nheld = []\ntry:\n"
              "  for _ in range(3000):\n    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)\n"
              "except OSError: pass\nprint('held', len(held), flush=True)\nsys.stdin.read()\n")
    child = p.user.popen(["/usr/bin/python3", "-c", script, p.instance.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline().startswith(b"held")
        other = p.world.other
        return other.uid != p.user.uid and p.instance.ctl(other, "list", timeout=60).returncode != 0 and "another user is not answered"
    finally:
        child.communicate(b"")
        # Who came too fast is shut out for a while; what is tried next is not about that.
        machine.eventually(lambda: p.ctl("list").returncode == 0, 60)
