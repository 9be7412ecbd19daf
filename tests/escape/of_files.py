"""Files: what takes a second session, another profile or a look from outside (groups F, P, V)."""

import contextlib
import os
import shutil
import subprocess

import machine
from property import collector

tried, FOUND = collector()


@tried("F05", "mounts", "what is written in the workspace is the caller's on disk", everywhere=True)
def f05_owner_on_disk(p):
    p.sh("echo x >made-here; mkdir folder-here; ln -s x link-here")
    found = {name: os.lstat(f"{p.work}/{name}") for name in ("made-here", "folder-here", "link-here")}
    p.sh("rm -rf made-here folder-here link-here")
    return [name for name, info in found.items() if (info.st_uid, info.st_gid) != (p.user.uid, p.user.gid)]


@tried("F12", "stdio", "what is passed as standard input is a file, and stays for reading", everywhere=True)
def f12_reopened_file(p):
    path = p.user.write(os.path.join(p.user.base, "read-only-input"), "input\n")
    with open(path, "rb") as f:
        done = p.sh("cat; ( exec 5<>/proc/self/fd/0 ) && echo reopened; ( echo x >>/proc/self/fd/0 ) && echo written; "
                    "( echo x >/dev/stdin ) && echo again; true", stdin=f)
    with open(path, encoding="utf-8") as f:
        assert f.read() == "input\n", "the file outside was changed"
    assert done.stdout.startswith("input\n"), done
    for kind in ("/", "/dev/zero"):
        fd = os.open(kind, os.O_RDONLY)
        try:
            refused = p.run("--", "sh", "-c", "echo started; readlink /proc/self/fd/0", stdin=fd)
        finally:
            os.close(fd)
        assert refused.returncode == 125 or kind not in refused.stdout.split(), refused
    return done.stdout[len("input\n"):]


@tried("F13", "stdio", "streams that the daemon makes cannot be turned round; a terminal is the session's")
def f13_streams_of_the_daemon(p):
    identity, _ = p.session()
    script = ("for n in 1 2; do ( exec 5<>/proc/self/fd/$n ) && echo turned $n; ( : </proc/self/fd/$n ) && echo read $n; done; "
              "readlink /proc/self/fd/0")
    name = f"streams-{p.name}"
    made = p.run("--detach", "--name", name, "--", "/bin/sh", "-c", script)
    assert made.returncode == 0, made
    text = machine.eventually(lambda: "/null" in p.ctl("logs", name).stdout and p.ctl("logs", name).stdout, 20)
    done = p.ctl("exec", "-t", identity, "--", "sh", "-c", "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2")
    names = set(done.stdout.split())
    assert names and all(name.startswith("/dev/pts/") for name in names), done
    return [line for line in (text or "no output").splitlines() if not line.endswith("/null")]


@tried("F21", "mounts", "what is mounted below a read-only folder is read-only, too", everywhere=True)
def f21_mounts_below(p):
    shown = p.user.workspace()
    os.mkdir(shown + "/below")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "sbxt", shown + "/below"], check=True)
    try:
        done = p.sh(f"ls -d {shown}/below && for f in {shown} {shown}/below; do touch $f/x && echo written; "
                    f"mkdir $f/d && echo made; done 2>/dev/null; true", "--read", shown)
        return [line for line in done.stdout.splitlines() if line in ("written", "made")] or \
            (os.listdir(shown + "/below")) or ("below" not in done.stdout and done.stderr)
    finally:
        subprocess.run(["umount", shown + "/below"], check=True)


HIDDEN = {".ssh/id_sbxt": "SBXTSECRET", ".netrc": "SBXTSECRET", ".config/gh/hosts.yml": "SBXTSECRET"}


@contextlib.contextmanager
def secrets(user):
    """In the home of this user, taken away again; what is there already is left alone."""
    made = []
    try:
        for name, content in HIDDEN.items():
            path = os.path.join(user.home, name)
            if os.path.lexists(path):
                continue
            top = path
            while not os.path.lexists(os.path.dirname(top)):
                top = os.path.dirname(top)
            user.write(path, content + "\n", 0o644)
            made.append(top)
        yield
    finally:
        for top in made:
            if os.path.isdir(top):
                shutil.rmtree(top, ignore_errors=True)
            elif os.path.lexists(top):
                os.unlink(top)


@tried("F22", "mounts", "what is hidden is empty, and takes nothing", everywhere=True)
def f22_hidden_folders(p):
    with secrets(p.user):
        done = p.sh("ls -A ~/.ssh; touch ~/.ssh/x && echo written; mkdir ~/.ssh/d && echo made; rmdir ~/.ssh && echo gone; true",
                    "-p", "host")
        subprocess.run(["rm", "-rf", p.user.home + "/.ssh/d"], check=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(p.user.home + "/.ssh/x")
            return "a file outside"
    return done.stdout


@tried("F23", "mounts", "hidden files have no content and cannot be written", everywhere=True)
def f23_hidden_files(p):
    with secrets(p.user):
        done = p.sh("cat ~/.netrc; ( echo x >~/.netrc ) && echo written; ( echo x >>~/.netrc ) && echo added; "
                    "rm -f ~/.netrc && test ! -e ~/.netrc && test -w ~ && echo gone; true", "-p", "host")
        if not os.path.exists(p.user.home + "/.netrc"):
            return "it is gone outside"
        with open(p.user.home + "/.netrc", encoding="utf-8") as f:
            assert "x" not in f.read()
    return done.stdout


@tried("F25", "mounts", "moving the folder above does not bring a hidden one back", everywhere=True)
def f25_parent_moved(p):
    with secrets(p.user):
        done = p.sh("mv ~/.config ~/.c2 && cat ~/.c2/gh/hosts.yml; cat ~/.config/gh/hosts.yml; true", "-p", "host")
        if os.path.lexists(p.user.home + "/.c2"):
            os.rename(p.user.home + "/.c2", p.user.home + "/.config")
            return "moved outside"
        assert os.path.isdir(p.user.home + "/.config")
    return done.stdout


@tried("F26", "mounts", "where a link from a secret's place leads is hidden as well", everywhere=True)
def f26_linked_secret(p):
    link, data = p.user.home + "/.gnupg", p.user.home + "/sbxt-data"
    if os.path.lexists(link):
        link = p.user.home + "/.password-store"
    p.user.write(data + "/key", "SBXTSECRET\n", 0o644)
    os.symlink(data, link)
    try:
        done = p.sh(f"cat {link}/key {data}/key /proc/self/root{data}/key; true", "-p", "host")
    finally:
        os.unlink(link)
        shutil.rmtree(data)
    return done.stdout


@tried("P12", "pid namespace", "another session of the same user shows nothing of its processes")
def p12_other_session(p):
    marker = f"71{os.getpid()}.{p.user.uid}"
    child = p.instance.ctl_start(p.user, "exec", p.session("second")[0], "--", "sleep", marker, stdout=subprocess.DEVNULL)
    try:
        assert machine.eventually(lambda: machine.sleeps_with(marker), 20), "nothing runs"
        pids = machine.sleeps_with(marker)
        looked = " ".join(f"/proc/{pid}/{name}" for pid in pids for name in
                          ("environ", "maps", "mem", "syscall", "stack", "wchan", "auxv", "cmdline", "root", "fd"))
        return p.exec(f"ls -d {looked} 2>/dev/null; grep -l '[7]{marker[1:]}' /proc/[0-9]*/cmdline 2>/dev/null; true").stdout
    finally:
        p.instance.ctl(p.user, "exec", p.session("second")[0], "--", "sh", "-c", "kill -9 -1")
        child.wait(30)


@tried("P21", "mounts", "the machine's id and serial numbers are not the host's", everywhere=True)
def p21_fingerprints(p):
    done = p.exec("cat /etc/machine-id /var/lib/dbus/machine-id /sys/class/dmi/id/*serial /sys/class/dmi/id/product_uuid "
                  "/sys/devices/virtual/dmi/id/*serial 2>/dev/null; true")
    with open("/etc/machine-id", encoding="utf-8") as f:
        own = f.read().strip()
    return own and own in done.stdout or [line for line in done.stdout.splitlines() if len(line.strip()) not in (0, 32)]


@tried("N12", "mounts", "what the host mounts later does not appear")
def n12_later_mounts(p):
    _, work = p.session()
    os.mkdir(work + "/late")
    shutil.chown(work + "/late", p.user.uid, p.user.gid)
    subprocess.run(["mount", "-t", "tmpfs", "sbxt", work + "/late"], check=True)
    try:
        with open(work + "/late/canary", "w", encoding="utf-8") as f:
            f.write("of the host\n")
        return p.exec(f"ls -A {work}/late; grep {work}/late /proc/self/mountinfo; true").stdout
    finally:
        subprocess.run(["umount", work + "/late"], check=True)
        os.rmdir(work + "/late")


def own_mounts(p):
    """Those of this machine that have to do with the daemon or the workspace."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
        return [line for line in f if p.work in line or p.instance.folder in line]


@tried("N13", "mounts", "what a session mounts the host never sees")
def n13_no_mounts_outside(p):
    before = own_mounts(p)
    child = p.start("run", "-T", "--", "sh", "-c", "echo up; read line", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"up\n"
        return [line for line in own_mounts(p) if line not in before]
    finally:
        child.stdin.close()
        child.wait(60)
        child.stdout.close()


CONFINED = ("grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status; "
            "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; "
            "cut -d' ' -f3- /proc/self/mountinfo; ulimit -a; umask; grep -E '^Sig(Ign|Blk)' /proc/self/status; "
            "touch /usr/x /x 2>&1; ls -A /proc/1/root 2>&1")


@tried("N21", "identity", "a second command is confined like the first")
def n21_second_command(p):
    first, second = (p.exec(CONFINED).stdout for _ in range(2))
    assert "NoNewPrivs:\t1" in first, first
    terminal = p.ctl("exec", "-t", p.session()[0], "--", "/bin/sh", "-c", CONFINED).stdout.replace("\r", "")
    return [line for text in (second, terminal) for line in text.splitlines() if line not in first.splitlines()]
