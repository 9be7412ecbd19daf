"""Processes and messages between them: signals, ends, two sessions side by side (groups R, S, I, L)."""

import os
import signal
import subprocess
import time

import machine
from property import collector

tried, FOUND = collector()


@tried("R02", "pid namespace", "a signal to all reaches the session only")
def r02_signal_to_all(p):
    done = p.sh("trap '' TERM KILL; kill -TERM -1; kill -KILL -1; echo still here")
    assert "still here" in done.stdout, done
    return p.world.sleeper.poll() is not None and "a process of the user outside has gone"


@tried("R13", "cgroup", "what a command leaves behind ends with its session")
def r13_left_behind(p):
    marker = f"72{os.getpid()}.{p.user.uid}"
    p.sh(f"setsid sh -c '( setsid sleep {marker} & ) & sleep {marker} &' ; (( sleep {marker} & ) & ); true")
    return not machine.eventually(lambda: not machine.processes_with(marker), 20) and "still runs"


@tried("R14", "cgroup", "a session ends with its client, unless it is detached")
def r14_client_dies(p):
    marker = f"73{os.getpid()}.{p.user.uid}"
    identity, _ = p.session()
    child = p.start("run", "-T", "--", "sleep", marker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert machine.eventually(lambda: machine.sleeps_with(marker), 20), "nothing runs"
        before = p.instance.head()
    finally:
        child.kill()
        child.wait()
    assert machine.eventually(lambda: not machine.processes_with(marker), 20), "it runs on"
    ends = machine.eventually(lambda: [row for row in p.instance.rows(before - 3, kind="session", action="end")
                                       if "client-gone" in str(dict(row))], 20)
    assert ends, "no row says why"
    return p.ctl("exec", identity, "--", "true").returncode != 0 and "the detached one is gone"


@tried("R16", "pid namespace", "whatever a session stops and locks, the daemon answers")
def r16_stops_and_locks(p):
    name = f"stops-{p.name}"
    child = p.start("run", "-T", "--name", name, "--", "./probe", "R16", stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"stopped\n"
        assert p.ctl("list", timeout=30).returncode == 0
        assert p.instance.ctl(p.world.other, "list", timeout=30).returncode == 0
        assert p.sh("echo runs", timeout=60).stdout == "runs\n"
        assert p.ctl("terminate", name, timeout=60).returncode == 0
        child.wait(60)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@tried("S34", "seccomp", "refused calls do not fill the log")
def s34_flood_of_refusals(p):
    before = len(p.instance.log_text())
    done = p.run("--", "./probe", "S34", timeout=120)
    assert done.returncode == 0, done
    return len(p.instance.log_text()) - before > 65536 and "the daemon's log grew"


DEFIANT = ["xdg-open http://sbxt.test/", "sensible-browser http://sbxt.test/", "notify-send sbxt", "xclip -o",
           "systemd-run --user true", "dbus-send --session --print-reply --dest=org.freedesktop.DBus / "
           "org.freedesktop.DBus.ListNames", "ssh-add -l", "xdpyinfo", "tmux ls", "code --version"]


@tried("I22", "mounts", "programs that would ask the desktop reach nobody", everywhere=True)
def i22_desktop(p):
    p.world.drain()
    environment = {"DISPLAY": ":97", "SSH_AUTH_SOCK": "/tmp/ssh-sbxt/agent.1",
                   "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{p.world.user.uid}/bus",
                   "XDG_RUNTIME_DIR": f"/run/user/{p.world.user.uid}"}
    script = "; ".join(f"timeout 5 {command} >/dev/null 2>&1" for command in DEFIANT)
    done = p.sh("export " + " ".join(f"{k}={v}" for k, v in environment.items()) + f"; {script}; echo done")
    assert done.stdout == "done\n", done
    return p.world.drain()


SERVE = r"""
import ctypes, os, socket, sys
name = sys.argv[1]
a = socket.socket(socket.AF_UNIX); a.bind("\0" + name); a.listen()
t = socket.socket(); t.bind(("0.0.0.0", 7411)); t.listen()
s = socket.socket(socket.AF_INET6); s.setsockopt(41, 26, 1); s.bind(("::", 7411)); s.listen()
for f in ("/tmp/", "/dev/shm/", "/var/tmp/", os.path.expanduser("~/")):
    open(f + name, "w").write("of the other session\n")
    u = socket.socket(socket.AF_UNIX)
    if os.path.lexists(f + name + ".sock"):
        os.unlink(f + name + ".sock")
    u.bind(f + name + ".sock"); u.listen(); globals()[f] = u
libc = ctypes.CDLL(None)
print("shm", libc.shmget(0x5b78, 4096, 0o1666), libc.msgget(0x5b78, 0o1666), libc.semget(0x5b78, 1, 0o1666), flush=True)
sys.stdin.read()
"""
REACH = r"""
import ctypes, os, socket, sys
name = sys.argv[1]
def attempt(what, family, address):
    s = socket.socket(family)
    s.settimeout(3)
    try:
        s.connect(address)
        s.send(b"x")
        if family == socket.AF_UNIX or s.recv(1) == b"":
            print(what)
    except OSError:
        pass
attempt("abstract", socket.AF_UNIX, "\0" + name)
for f in ("/tmp/", "/dev/shm/", "/var/tmp/", os.path.expanduser("~/")):
    if os.path.lexists(f + name):
        print(f + name)
    attempt(f, socket.AF_UNIX, f + name + ".sock")
for address in ("127.0.0.1", "::1"):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.settimeout(3)
    if s.connect_ex((address, 7411)) == 0:
        print("port", address)
libc = ctypes.CDLL(None)
for call in (libc.shmget, libc.msgget, libc.semget):
    arguments = (0x5b78, 0) if call is libc.msgget else (0x5b78, 0, 0)
    if call(*arguments) >= 0:
        print("memory or messages")
"""


class Neighbour:
    """A second session of the same user that serves at all places where two processes can meet."""

    def __init__(self, p):
        self.p, self.name = p, f"sbxt-meet-{os.getpid()}"
        for which in ("first", "second"):
            _, work = p.session(which)
            p.user.write(work + "/serve.py", SERVE)
            p.user.write(work + "/reach.py", REACH)

    def __enter__(self):
        self.child = self.p.instance.ctl_start(self.p.user, "exec", self.p.session("second")[0], "--", "python3", "serve.py",
                                               self.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.child.stdout.readline().split()
        assert line and line[0] == b"shm" and b"-1" not in line, line
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait(60)
        self.child.stdout.close()

    def reached(self, which):
        return self.p.exec(f"python3 reach.py {self.name}", which).stdout.split("\n")[:-1]


@tried("I21", "network namespace", "two sessions of one user cannot talk")
def i21_two_sessions(p):
    with Neighbour(p) as neighbour:
        assert neighbour.reached("second"), "the test reaches nothing where it should"
        return neighbour.reached("first")


@tried("L09", "mounts", "two sessions share no files, messages, ports, processes, signals and keys")
def l09_two_sessions(p):
    marker = f"74{os.getpid()}.{p.user.uid}"
    with Neighbour(p) as neighbour:
        found = neighbour.reached("first")
    child = p.instance.ctl_start(p.user, "exec", p.session("second")[0], "--", "sleep", marker, stdout=subprocess.DEVNULL)
    try:
        assert machine.eventually(lambda: machine.sleeps_with(marker), 20), "nothing runs"
        pids = " ".join(map(str, machine.sleeps_with(marker)))
        script = (f"for p in {pids}; do kill -0 $p && echo signal; ls -d /proc/$p && echo process; done; kill -9 -1; "
                  f"cat {p.session('second')[1]}/serve.py && echo workspace; ./probe N20")
        found += [line for line in p.exec(script + " 2>/dev/null").stdout.splitlines() if line]
        assert machine.sleeps_with(marker), "a signal has reached the other session"
    finally:
        p.instance.ctl(p.user, "exec", p.session("second")[0], "--", "sh", "-c", "kill -9 -1")
        child.wait(30)
    return found


CLAIM = r"""
import array, os, socket, sys
for n in range(40):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    try:
        s.sendmsg([b'{"method":"org.varlink.service.GetInfo"}\0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        sys.stdout.write(s.recv(4096).decode(errors="replace"))
    except OSError as e:
        sys.stdout.write(str(e))
    for fd in fds:
        os.close(fd)
    s.close()
"""


@tried("I20", "seccomp", "descriptors that a session passes to the daemon are dropped")
def i20_passed_descriptors(p):
    own = p.profile(filesystem={"sockets": [p.instance.socket]})
    p.user.write(p.work + "/claim.py", CLAIM)
    p.sh("true", "-p", own)
    pids = [p.instance.process.pid, *p.instance.workers("sandboxd-api")]
    # Eight hundred are passed; sessions made ahead take some of the launcher meanwhile.
    before = {pid: machine.count_fds(pid) for pid in pids}
    done = p.sh(f"python3 claim.py {p.instance.socket}", "-p", own)
    assert "PermissionDenied" in done.stdout or "not permitted" in done.stdout or "reset" in done.stdout, done
    assert '"vendor"' not in done.stdout, done
    return not machine.eventually(lambda: all(machine.count_fds(pid) <= n + 200 for pid, n in before.items()), 20) and \
        {pid: (n, machine.count_fds(pid)) for pid, n in before.items()}


@tried("L02", "cgroup", "nothing is left of a session that has ended")
def l02_end(p):
    identity = p.instance.create(p.user)
    groups = p.instance.groups(p.user, p.session()[0])
    marker = f"75{os.getpid()}.{p.user.uid}"
    child = p.instance.ctl_start(p.user, "exec", identity, "--", "sh", "-c", f"sleep {marker} & sleep {marker}",
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert machine.eventually(lambda: machine.sleeps_with(marker), 20), "nothing runs"
    [pid, *_] = machine.sleeps_with(marker)
    namespaces = {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "net", "pid", "user", "ipc")}
    assert p.ctl("terminate", identity).returncode == 0
    child.wait(30)
    assert not machine.processes_with(marker), "processes are left"
    left = machine.eventually(lambda: not namespaces & namespaces_in_use() or None, 20)
    assert left, "namespaces are left"
    p.ctl("remove", identity)
    gone = machine.eventually(lambda: not [g for g in p.instance.groups(p.user, p.session()[0]) - groups if identity in g] or None, 20)
    return not gone and "control groups are left"


def namespaces_in_use():
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            for kind in ("mnt", "net", "pid", "user", "ipc"):
                try:
                    found.add(os.readlink(f"/proc/{entry}/ns/{kind}"))
                except OSError:
                    pass
    return found


@tried("L05", "pid namespace", "a process number that comes again is nobody else")
def l05_numbers_come_again(p):
    """A signal to a command that has ended reaches none that has its number now."""
    identity, _ = p.session()
    marker = f"76{os.getpid()}.{p.user.uid}"
    made = p.instance.call(p.user, "io.sandboxd.Session.Exec",
                           {"id": identity, "command": {"commandLine": ["/bin/sleep", marker]}})[0]["parameters"]
    [outside] = machine.eventually(lambda: machine.sleeps_with(marker), 20)
    inside = inner_pid(outside)
    os.kill(outside, signal.SIGKILL)
    assert machine.eventually(lambda: not machine.sleeps_with(marker), 20)
    child, init = None, init_of(p, marker)
    for attempt in range(12):
        # The process of the next command is there already: the one behind it gets the number.
        if attempt % 4 == 0:
            subprocess.run(["nsenter", "-t", str(init), "-p", "sh", "-c",
                            f"echo {inside - 1} >/proc/sys/kernel/ns_last_pid"], check=True)
        child = p.instance.ctl_start(p.user, "exec", identity, "--", "sleep", marker, stdout=subprocess.DEVNULL)
        [outside] = machine.eventually(lambda: machine.sleeps_with(marker), 20)
        if inner_pid(outside) == inside or attempt == 11:
            break
        os.kill(outside, signal.SIGKILL)
        child.wait(30)
    try:
        p.instance.call(p.user, "io.sandboxd.Session.Signal",
                        {"id": identity, "process": made["process"], "signal": "SIGKILL"})
        assert inner_pid(outside) == inside, "the number did not come again"
        return machine.sleeps_with(marker) != [outside] and "another command was hit"
    finally:
        for pid in machine.sleeps_with(marker):
            os.kill(pid, signal.SIGKILL)
        child.wait(30)


def inner_pid(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return int(next(line for line in f if line.startswith("NSpid:")).split()[-1])


def init_of(p, marker):
    """Some process of the session's that lives long enough: pid 1 of the namespace of a short command."""
    child = p.instance.ctl_start(p.user, "exec", p.session()[0], "--", "sleep", marker + "1", stdout=subprocess.DEVNULL)
    [pid] = machine.eventually(lambda: machine.sleeps_with(marker + "1"), 20)
    with open(f"/proc/{pid}/stat", "rb") as f:
        parent = int(f.read().rpartition(b")")[2].split()[1])
    os.kill(pid, signal.SIGKILL)
    child.wait(30)
    return parent


@tried("L07", "init", "ends are told as they were: each status, each signal, a stop and its end")
def l07_ends(p):
    for status in (0, 1, 2, 77, 126, 127, 128, 200, 255):
        assert p.exec(f"exit {status}").returncode == status, status
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGTERM, signal.SIGUSR1,
                   signal.SIGALRM):
        assert p.exec(f"kill -{int(number)} $$").returncode == 128 + number, number
    started = time.monotonic()
    done = p.exec("( sleep 0.2; kill -CONT $$ ) & kill -STOP $$; wait; exit 5")
    assert time.monotonic() - started >= 0.1
    return done.returncode != 5 and done
