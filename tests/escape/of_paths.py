"""Paths that a caller names, and what is made of them (group T). The attacker is whoever asks for the session."""

import ctypes
import os
import shutil
import socket
import subprocess

import machine
from property import collector

tried, FOUND = collector()


def refused(p, path, *options, deadline=60):
    """What is wrong, where a session starts in this workspace or nobody says why not."""
    done = p.run("-w", path, *options, "--", "echo", "started", cwd="/", timeout=deadline)
    if done.returncode == 125 and not done.stdout and len(done.stderr.strip().splitlines()) == 1:
        return None
    return f"{path[:200]!r}: {done.returncode} {done.stdout[:100]!r} {done.stderr[:300]!r}"


def all_refused(p, paths):
    return [text for text in (refused(p, path) for path in paths) if text]


@tried("T01", "identity", "a workspace is opened with the caller's rights")
def t01_rights_of_the_caller(p):
    closed = p.world.other.workspace()
    os.chmod(closed, 0o700)
    p.world.other.write(closed + "/secret", "of another user\n", 0o600)
    found = all_refused(p, ["/root", "/etc/shadow", "/etc/ssl/private", "/var/spool/cron"])
    done = p.run("-w", closed, "--", "sh", "-c", "cat secret; echo x >>secret; id -u", cwd="/")
    if "of another user" in done.stdout or (p.user.uid and done.returncode != 125):
        found.append(str(done))
    with open(closed + "/secret", encoding="utf-8") as f:
        assert f.read() == "of another user\n"
    return found


@tried("T02", "identity", "to be able to name a folder is not enough")
def t02_no_path_only_descriptors(p):
    """A folder below one that only lets pass: it can be found, and not be read."""
    inner = p.world.other.workspace()
    p.world.other.write(inner + "/passed/f", "of another user\n", 0o644)
    os.chmod(inner + "/passed", 0o711)
    done = p.run("-w", inner + "/passed", "--", "sh", "-c", "ls; cat f", cwd="/")
    return (p.user.uid and done.returncode != 125 or "of another user" in done.stdout and p.user.uid) and str(done)


@tried("T03", "mounts", "links on the way are not followed for the caller")
def t03_links(p):
    target = p.world.other.workspace()
    os.chmod(target, 0o700)
    base = p.user.workspace()
    os.symlink(target, base + "/last")
    os.symlink(os.path.dirname(target), base + "/middle")
    os.symlink("last", base + "/again")
    os.symlink("round", base + "/round")
    found = [refused(p, path) for path in (base + "/last", f"{base}/middle/{os.path.basename(target)}", base + "/again",
                                           base + "/round", base + "/last/.")]
    return p.user.uid and [text for text in found if text]


def created(p, path):
    """Asked for without the command line, which would have made the path canonical."""
    reply = p.instance.call(p.user, "io.sandboxd.Session.Create", {"context": {"workspace": path, "lifetime": "detached"}})
    if not reply or "error" in reply[0]:
        return None
    identity = reply[0]["parameters"]["id"]
    seen = p.ctl("exec", identity, "--", "pwd").stdout
    p.ctl("terminate", identity)
    return path[:100], seen


@tried("T04", "mounts", "magic links are no workspaces")
def t04_magic_links(p):
    paths = ["/proc/self/cwd", "/proc/self/root", "/proc/self/root/tmp", f"/proc/{os.getpid()}/cwd", f"/proc/{os.getpid()}/root",
             "/proc/self/fd/0", "/dev/fd/0", "/proc/thread-self/cwd", f"/proc/self/root{p.work}",
             f"/proc/{p.world.sleeper.pid}/root{p.work}", f"/proc/{p.world.sleeper.pid}/cwd"]
    return [found for found in (created(p, path) for path in paths) if found]


@tried("T05", "policy", "odd spellings are refused or made canonical, never cut")
def t05_spellings(p):
    found = []
    for path in (p.work + "/../../..", p.work + "/..", "relative", "", "//", p.work + "\0/etc", p.work + "//", "/" + "a" * 5000,
                 "/" + "a/" * 2500, p.work + "/" + "b/" * 2040, p.work + "\ufffe", "~", "${home}", "$HOME", p.work + "\n"):
        made = created(p, path)
        if made and made[1] != p.work + "\n":
            found.append(made)
    return found


@tried("T08", "mounts", "what a user mounts in namespaces of their own the daemon does not see")
def t08_mounts_of_the_user(p):
    base = p.user.workspace()
    p.user.write(base + "/w/mine", "mine\n")
    child = p.user.popen(["unshare", "-Urm", "sh", "-c", f"mount --bind /etc {base}/w && ls {base}/w/passwd && exec sleep 600"],
                         stdout=subprocess.PIPE)
    try:
        assert b"passwd" in child.stdout.readline(), "the user cannot mount"
        done = p.run("-w", base + "/w", "--", "ls", cwd="/")
        return done.stdout != "mine\n" and str(done)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@tried("T09", "policy", "the system, a home and what is the daemon's are no workspaces")
def t09_no_workspaces(p):
    found = all_refused(p, ["/", "/home", p.user.home, os.path.dirname(p.user.home), "/etc", "/proc", "/sys", "/dev", "/run", "/tmp",
                            "/var", "/usr", "/boot", p.user.home + "/.ssh", p.user.home + "/.aws", "/var/lib/sandboxd",
                            "/run/sandboxd"])
    # Wherever it was told to keep them; nobody but root comes that far.
    for path in (p.instance.state, p.instance.state + "/audit", p.instance.state + "/api", p.instance.runtime, p.instance.folder):
        done = p.run("-w", path, "--", "ls", "-A", cwd="/")
        if done.returncode != 125:
            found.append(f"{path}: {done.stdout[:200]}")
    below = p.user.workspace()
    assert p.run("-w", below, "--", "true", cwd="/").returncode == 0, "what lies below a home is one"
    return found


@tried("T10", "mounts", "sessions in one tree, or one in another's, share it and nothing else")
def t10_one_tree(p):
    _, work = p.session()
    os.makedirs(work + "/inner", exist_ok=True)
    shutil.chown(work + "/inner", p.user.uid, p.user.gid)
    p.exec(f"echo shared >{work}/inner/f; echo private >/tmp/t10; sleep 0.01")
    done = p.run("-w", work + "/inner", "--", "sh", "-c", f"cat f; cat /tmp/t10; ls {work} | grep -vx inner; echo two >g", cwd="/")
    seen = p.exec(f"cat {work}/inner/g").stdout
    return (done.stdout != "shared\n" or seen != "two\n") and str(done)


@tried("T11", "mounts", "file systems of the kernel's own are no workspaces, nor shown below one")
def t11_file_systems(p):
    base = p.user.workspace()
    found = all_refused(p, ["/proc/sys", "/sys/kernel", machine.cgroup2_mount(), "/dev/pts", "/dev/mqueue"])
    for kind in ("proc", "sysfs", "devpts"):
        os.mkdir(f"{base}/{kind}")
        if subprocess.run(["mount", "-t", kind, "sbxt", f"{base}/{kind}"], check=False, stderr=subprocess.DEVNULL).returncode != 0:
            continue
        try:
            text = refused(p, f"{base}/{kind}")
            if text:
                found.append(text)
            done = p.run("-w", base, "--", "ls", "-A", kind, cwd="/")
            if done.stdout:
                found.append(f"{kind} below a workspace: {done.stdout[:100]}")
        finally:
            subprocess.run(["umount", f"{base}/{kind}"], check=True)
    return found


@tried("T12", "mounts", "a file, a FIFO, a socket and a device are no workspaces, and hold nobody up")
def t12_no_folders(p):
    base = p.user.workspace()
    p.user.write(base + "/file", "x")
    os.mkfifo(base + "/fifo")
    os.mknod(base + "/device", 0o020666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(base + "/socket")
        for name in ("fifo", "device", "socket"):
            os.chown(f"{base}/{name}", p.user.uid, p.user.gid)
        return all_refused(p, [f"{base}/{name}" for name in ("file", "fifo", "device", "socket", "absent", "file/x")])


@tried("T13", "mounts", "each mount below what is shown is as hardened as its top")
def t13_attributes(p):
    base = p.user.workspace()
    os.makedirs(base + "/a/b")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "suid,dev,exec,mode=1777", "sbxt", base + "/a"], check=True)
    try:
        os.mkdir(base + "/a/b")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "suid,dev,mode=1777", "sbxt", base + "/a/b"], check=True)
        try:
            script = f"awk '$5 ~ \"{base}\" && ($6 !~ /nosuid/ || $6 !~ /nodev/{{}})' /proc/self/mountinfo; touch {base}/a/b/x && echo written"
            loose = p.run("-w", base, "--", "sh", "-c", script.format(""), cwd="/").stdout
            script = script.format(" || $6 !~ /^ro/")
            shown = p.sh(script + " 2>/dev/null", "--read", base).stdout
            return [line for line in loose.splitlines() if line != "written"] + shown.splitlines()
        finally:
            subprocess.run(["umount", base + "/a/b"], check=True)
    finally:
        subprocess.run(["umount", base + "/a"], check=True)


@tried("T14", "user namespace", "files of others in a workspace are nobody's inside, and not writable")
def t14_files_of_others(p):
    base = p.user.workspace()
    other = p.world.other
    for name, uid in (("of-other", other.uid), ("of-high", 1879048192 if p.user.uid else 12345)):
        with open(f"{base}/{name}", "w", encoding="utf-8") as f:
            f.write("of another\n")
        os.chown(f"{base}/{name}", uid, uid)
        os.chmod(f"{base}/{name}", 0o644)
    done = p.run("-w", base, "--", "sh", "-c", "for f in of-other of-high; do ( echo x >>$f ) 2>/dev/null && echo written; "
                 "chmod 666 $f 2>/dev/null && echo changed; stat -c %u $f; done", cwd="/")
    return [line for line in done.stdout.splitlines() if line != "65534"] or (len(done.stdout.split()) != 2 and str(done))


@tried("T15", "mounts", "a start makes nothing in the user's tree")
def t15_no_files(p):
    base = p.user.workspace()
    p.user.write(base + "/sub/f", "x")
    before = machine.tree_state(base)
    p.run("-w", base, "--deny", base + "/absent/deep", "--deny", base + "/sub/f", "--read", base + "/sub", "--", "true", cwd="/")
    after = machine.tree_state(base)
    return [path for path in set(before) | set(after) if before.get(path) != after.get(path)]


N_BELOW = int(os.environ.get("SANDBOXD_ENTRIES", "1000"))


@tried("T17", "mounts", "many mounts below a workspace are refused or shown, and cost nobody else")
def t17_many_mounts(p):
    base = p.user.workspace()
    os.mkdir(base + "/m")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"sbxt", f"{base}/m".encode(), b"tmpfs", 0, None) == 0
    try:
        libc.mount(None, f"{base}/m".encode(), None, 1 << 18, None)
        os.mkdir(base + "/m/d")
        target = f"{base}/m/d".encode()
        for _ in range(N_BELOW):
            if libc.mount(target, target, None, 4096, None) != 0:
                break
        done = p.run("-w", base, "--", "echo", "started", cwd="/", timeout=120)
        assert (done.returncode, done.stdout) in ((0, "started\n"), (125, "")), done
        assert p.sh("echo runs").stdout == "runs\n"
    finally:
        assert libc.umount2(f"{base}/m".encode(), 2) == 0


@tried("T18", "identity", "a connection keeps who made it, whatever its process is later")
def t18_identity_of_the_connection(p):
    """The groups are those of the moment of connect(), also for a process that has dropped them since."""
    script = ("import json, os, socket, sys\n"
              "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
              "if os.getuid() == 0: os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
              "s.sendall(json.dumps({'method': 'io.sandboxd.Session.Spawn', 'parameters': {'context': {'workspace': sys.argv[2]}, "
              "'command': {'commandLine': ['id', '-u'], 'standardOutput': 'log'}}}).encode() + b'\\0')\n"
              "print(s.recv(65536).split(b'\\0')[0].decode())\n")
    done = p.user.run(["/usr/bin/python3", "-c", script, p.instance.socket, p.work])
    assert '"parameters"' in done.stdout, done
    before = p.instance.rows(0, kind="session", action="start")[-1]
    return before["uid"] != p.user.uid and f"the session is of {before['uid']}"


@tried("T20", "policy", "no order of what is shown brings back what is denied")
def t20_order(p):
    base = p.user.workspace()
    p.user.write(base + "/sub/deep/secret", "SBXTSECRET\n")
    own = p.profile(filesystem={"deny": [base + "/sub"]})
    found = []
    for options in (["-p", own, "--write", base + "/sub/deep"], ["--write", base + "/sub/deep", "-p", own],
                    ["-p", own, "--write", base + "/sub"], ["-p", own, "--write", base + "/sub/deep/secret"], ["-p", own, "--read", base],
                    ["--deny", base + "/sub/deep/secret", "--write", base + "/sub"],
                    ["--write", base + "/sub", "--deny", base + "/sub/deep"],
                    ["--read", base, "--deny", base + "/sub"], ["--write", base + "/sub", "--deny", base + "/sub"]):
        done = p.sh(f"cat {base}/sub/deep/secret", *options)
        if "SBXTSECRET" in done.stdout:
            found.append(options)
    return found
