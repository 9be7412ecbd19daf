"""Commands in sessions: exact ends, terminals, nothing left behind."""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import fcntl
import time
import uuid

import pytest

from machine import CTL, OWN_MOUNTS, count_fds, count_mounts, eventually, processes_with, sleeps_with


@pytest.fixture(scope="module")
def session(instance, alice):
    found = instance.create(alice)
    yield found
    instance.ctl(alice, "terminate", found)
    instance.ctl(alice, "remove", found)


def test_run_says_hello(instance, caller):
    done = instance.ctl(caller, "run", "-T", "--", "echo", "hello", cwd=caller.workspace())
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_every_exit_status(instance, alice, session):
    for status in range(256):
        done = instance.ctl(alice, "exec", session, "--", "/bin/sh", "-c", f"exit {status}")
        assert done.returncode == status


@pytest.mark.parametrize("number", [1, 2, 3, 6, 8, 9, 10, 11, 13, 14, 15, 31, 34, 64])
def test_signals(instance, alice, session, number):
    done = instance.ctl(alice, "exec", session, "--", "python3", "-c",
                        f"import os, signal\nif {number} not in (9,): signal.signal({number}, signal.SIG_DFL)\n"
                        f"os.kill(os.getpid(), {number})")
    assert done.returncode == 128 + number


def test_signals_of_run(instance, either):
    done = instance.sh(either, "kill -SEGV $$")
    assert done.returncode == 128 + signal.SIGSEGV


def test_command_not_found(instance, either):
    done = instance.ctl(either, "run", "-T", "--", "no-such-program-at-all", cwd=either.workspace())
    assert done.returncode == 127 and "no-such-program-at-all" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_command_not_executable(instance, either):
    work = either.workspace()
    either.write(work + "/plain", "no program\n", 0o644)
    assert instance.ctl(either, "run", "-T", "--", "./plain", cwd=work).returncode == 126
    assert instance.ctl(either, "run", "-T", "--", "/usr", cwd=work).returncode == 126
    either.write(work + "/script", "#!/no/such/interpreter\n", 0o755)
    assert instance.ctl(either, "run", "-T", "--", "./script", cwd=work).returncode in (126, 127)


def test_timeout(instance, alice):
    marker = f"77{uuid.uuid4().int % 10**8}"
    start = time.monotonic()
    done = instance.ctl(alice, "run", "-T", "--timeout", "1s", "--", "sh", "-c",
                        f"trap '' TERM; setsid sleep {marker} & sleep {marker}", cwd=alice.workspace())
    assert done.returncode == 124
    assert time.monotonic() - start < 8
    assert eventually(lambda: not processes_with(marker))


def test_timeout_of_exec_leaves_the_session(instance, alice, session):
    marker = f"76{uuid.uuid4().int % 10**8}"
    child = instance.ctl_start(alice, "exec", session, "--", "sleep", marker)
    assert eventually(lambda: sleeps_with(marker))
    done = instance.ctl(alice, "exec", "--timeout", "500ms", session, "--", "sleep", "60")
    assert done.returncode == 124
    [pid] = sleeps_with(marker)
    assert instance.ctl(alice, "exec", session, "--", "echo", "on").stdout == "on\n"
    os.kill(pid, signal.SIGKILL)
    assert child.wait(60) == 137


def test_stdin_and_arguments_are_exact(instance, either):
    data = bytes(range(256)) * 1000
    done = instance.ctl(either, "run", "-T", "--", "cat", input=data, text=False, cwd=either.workspace())
    assert done.stdout == data
    arguments = ["", "a b", "--", "-p", "$HOME", "\n", "ä", "*", "'\""]
    done = instance.ctl(either, "run", "-T", "--", "python3", "-c", "import sys; print(sys.argv[1:])", *arguments,
                        cwd=either.workspace())
    assert done.stdout == str(arguments) + "\n"


def test_outputs_stay_apart(instance, alice):
    done = instance.sh(alice, "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_command_string(instance, alice):
    done = instance.ctl(alice, "run", "-T", "-c", "echo a | tr a b; exit 7", cwd=alice.workspace())
    assert (done.returncode, done.stdout) == (7, "b\n")


def test_environment(instance, either):
    hostile = {"LD_PRELOAD": "/x", "AWS_SECRET_ACCESS_KEY": "canary", "SSH_AUTH_SOCK": "/x", "BASH_ENV": "/x",
               "PYTHONPATH": "/x", "DISPLAY": ":0", "FOO_TOKEN": "canary", "NODE_OPTIONS": "--x", "GIT_DIR": "/x"}
    done = instance.ctl(either, "run", "-T", "--env", "MINE=1", "--env", "THEIRS", "--", "env", "-0",
                        cwd=either.workspace(), environment={**hostile, "THEIRS": "2"})
    found = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    assert found["MINE"] == "1" and found["THEIRS"] == "2"
    for name in hostile:
        assert name not in found
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        assert found[name] == "http://127.0.0.1:3128", name
    assert found["NODE_USE_ENV_PROXY"] == "1"
    assert found["NO_PROXY"] == "localhost,127.0.0.0/8,::1"
    for folder in found["PATH"].split(":"):
        assert folder.startswith("/")


def test_workdir(instance, alice):
    work = alice.workspace()
    os.mkdir(work + "/sub")
    done = instance.ctl(alice, "run", "-T", "-w", work, "--workdir", work + "/sub", "--", "pwd", cwd="/")
    assert done.stdout == work + "/sub\n", done.stderr


def test_daemonised_children_end_with_run(instance, either):
    marker = f"75{uuid.uuid4().int % 10**8}"
    done = instance.sh(either, f"(setsid sleep {marker} >/dev/null 2>&1 </dev/null &) ; sleep 0.2; echo done")
    assert done.stdout == "done\n"
    assert eventually(lambda: not processes_with(marker), 20)


def test_daemonised_children_end_with_their_session(instance, alice):
    marker = f"74{uuid.uuid4().int % 10**8}"
    session = instance.create(alice)
    instance.ctl(alice, "exec", session, "--", "sh", "-c", f"(setsid sleep {marker} >/dev/null 2>&1 </dev/null &)")
    assert instance.ctl(alice, "terminate", session).returncode == 0
    assert eventually(lambda: not processes_with(marker), 20)
    instance.ctl(alice, "remove", session)


def test_thousand_zombies(instance, alice):
    script = ("import os, time\n"
              "for _ in range(1000):\n"
              " if os.fork() == 0:\n"
              "  if os.fork() == 0: os._exit(0)\n"
              "  os._exit(0)\n"
              " os.wait()\n"
              "time.sleep(0.5)\n"
              "states = [open(f'/proc/{p}/stat').read().rpartition(')')[2].split()[0] for p in os.listdir('/proc')"
              " if p.isdigit()]\n"
              "print(states.count('Z'))\n")
    done = instance.ctl(alice, "run", "-T", "--", "python3", "-c", script, cwd=alice.workspace())
    assert done.stdout == "0\n", done.stderr


def test_unreaped_zombies_end_with_the_session(instance, alice):
    script = ("import os\nn = 0\n"
              "try:\n"
              " while n < 1000:\n"
              "  if os.fork() == 0: os._exit(0)\n"
              "  n += 1\n"
              "except OSError: pass\nprint(n > 200)\n")
    done = instance.ctl(alice, "run", "-T", "--", "python3", "-c", script, cwd=alice.workspace())
    assert done.stdout == "True\n" and done.returncode == 0


def test_full_pipes(instance, alice):
    work = alice.workspace()
    done = alice.run(["sh", "-c", f"{CTL} run -T -- yes | head -c 3000000 | wc -c"], cwd=work,
                     env=alice.environment(SANDBOXD_ADDRESS=instance.address), timeout=30)
    assert done.stdout.strip() == "3000000"


def test_reader_that_never_reads(instance, alice):
    child = instance.ctl_start(alice, "run", "-T", "--", "yes", cwd=alice.workspace(), stdout=subprocess.PIPE)
    time.sleep(1)
    assert instance.ctl(alice, "run", "-T", "--", "echo", "others", cwd=alice.workspace()).stdout == "others\n"
    child.kill()
    child.communicate()


def test_killed_client_ends_its_session(instance, either):
    marker = f"73{uuid.uuid4().int % 10**8}"
    before = instance.head()
    child = instance.ctl_start(either, "run", "-T", "--", "sleep", marker, cwd=either.workspace())
    assert eventually(lambda: sleeps_with(marker))
    child.kill()
    child.wait()
    assert eventually(lambda: not processes_with(marker), 20)
    # The end of an earlier test's session may be written behind `before`; a start never is.
    session = instance.rows(before, kind="session", action="start")[0]["session"]
    ends = eventually(lambda: instance.rows(before, kind="session", action="end", session=session))
    assert [row["reason"] for row in ends] == ["client-gone"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signalled_client(instance, alice, number):
    """What ends sandboxctl ends the command."""
    marker = f"72{uuid.uuid4().int % 10**8}"
    child = instance.ctl_start(alice, "run", "-T", "--", "sleep", marker, cwd=alice.workspace())
    assert eventually(lambda: sleeps_with(marker))
    child.send_signal(number)
    assert child.wait(60) in (128 + number, -number)
    assert eventually(lambda: not processes_with(marker), 20)


def test_detached_session_lives_on(instance, alice):
    session = instance.create(alice)
    listed = instance.ctl(alice, "list").stdout
    assert session in listed
    described = instance.ctl(alice, "describe", session)
    assert described.returncode == 0 and session in described.stdout
    assert instance.ctl(alice, "terminate", session).returncode == 0
    assert instance.ctl(alice, "remove", session).returncode == 0
    assert session not in instance.ctl(alice, "list").stdout


def test_wait_and_signal(instance, alice):
    session = instance.create(alice)
    child = instance.ctl_start(alice, "exec", session, "--", "sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.1; done")
    time.sleep(0.5)
    assert instance.ctl(alice, "signal", session, "USR1").returncode == 0
    assert child.wait(60) == 9
    waiting = instance.ctl_start(alice, "wait", session, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.2)
    assert instance.ctl(alice, "terminate", session).returncode == 0
    waiting.communicate(timeout=10)
    instance.ctl(alice, "remove", session)


def test_names(instance, alice, bob):
    session = instance.create(alice, "--name", "mine")
    assert instance.ctl(alice, "exec", "mine", "--", "echo", "x").stdout == "x\n"
    assert instance.ctl(bob, "exec", "mine", "--", "echo", "x").returncode == 125
    assert instance.ctl(alice, "create", "--name", "mine", cwd=alice.workspace()).returncode == 125
    instance.ctl(alice, "terminate", session)
    instance.ctl(alice, "remove", session)


def test_foreign_sessions(instance, alice, bob, session):
    """Another user's session is as if it did not exist: same answer as an id that was never given."""
    never = "0123456789abcdef" * 2
    for verb in (["exec", "ID", "--", "id"], ["describe", "ID"], ["terminate", "ID"], ["signal", "ID", "KILL"],
                 ["remove", "ID"], ["wait", "ID"]):
        answers = []
        for which in (session, never):
            done = instance.ctl(bob, *[which if word == "ID" else word for word in verb], timeout=10)
            assert done.returncode == 125, (verb, done)
            answers.append((done.stdout, done.stderr.replace(which, "ID")))
        assert answers[0] == answers[1], verb
    assert session not in instance.ctl(bob, "list").stdout
    assert instance.ctl(alice, "exec", session, "--", "echo", "alive").stdout == "alive\n"


def test_root_session_is_not_uid_0(instance, root):
    work = root.workspace()
    done = instance.ctl(root, "run", "-T", "--", "sh", "-c",
                        "id -u; id -g; id -G; touch f; mkdir d; stat -c '%u:%g' f; cat /proc/self/uid_map; "
                        "cat /etc/shadow; chown 1 f", cwd=work)
    lines = done.stdout.splitlines()
    assert lines[0] != "0" and lines[1] != "0", done
    assert "0" not in lines[2].split()
    assert lines[3].split(":")[0] == lines[0]
    assert lines[4].split()[:2] == [lines[0], lines[0]] and len(lines) == 5
    for name in ("f", "d"):
        info = os.stat(f"{work}/{name}")
        assert (info.st_uid, info.st_gid) == (0, 0)


def test_root_as_a_user(instance, root, alice):
    done = instance.ctl(root, "run", "-T", "--user", alice.name, "-w", alice.workspace(), "--", "id", "-u")
    # Either it works, or it says that it does not; it never runs as anybody else.
    assert done.stdout.strip() == str(alice.uid) or (done.returncode == 125 and "--user" in done.stderr), done
    done = instance.ctl(alice, "run", "-T", "--user", "root", "--", "id", "-u", cwd=alice.workspace())
    assert done.returncode == 125


def test_second_exec_is_confined_alike(instance, alice, session):
    script = ("grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status; "
              "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; "
              "cut -d' ' -f3- /proc/self/mountinfo")
    first = instance.ctl(alice, "exec", session, "--", "sh", "-c", script).stdout
    second = instance.ctl(alice, "exec", session, "--", "sh", "-c", script).stdout
    assert first == second and "NoNewPrivs:\t1" in first


def test_hundred_sessions_leave_nothing(own_instance, alice):
    instance = own_instance
    instance.stop()
    instance.prefix = OWN_MOUNTS
    instance.start()
    kept = instance.create(alice)
    instance.sh(alice, "true")
    pids = [instance.process.pid, *instance.workers("sandboxd-audit"), *instance.workers("sandboxd-dialer"),
            *instance.workers("sandboxd-api")]

    def counts():
        return [count_fds(pid) for pid in pids] + [len(instance.groups(alice, kept)), count_mounts(instance.process.pid)]

    time.sleep(1)
    before = counts()
    work = alice.workspace()
    for _ in range(100):
        assert instance.ctl(alice, "run", "-T", "--", "true", cwd=work).returncode == 0
    # The counts of the daemon's descriptors come back to what they were, but for one or two in flight.
    assert eventually(lambda: all(now <= then for now, then in zip(counts(), before)), 5), (before, counts())


# ---- terminals ----

class Terminal:
    def __init__(self, instance, user, *arguments, rows=33, columns=111):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.output = b""

        def control():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)

        os.chown(os.ttyname(slave), user.uid, -1)
        self.child = subprocess.Popen([CTL, *arguments], stdin=slave, stdout=slave, stderr=slave, preexec_fn=control,
                                      cwd=user.workspace(), env=user.environment(SANDBOXD_ADDRESS=instance.address))

    def send(self, data):
        os.write(self.master, data)

    def read_until(self, pattern, timeout=60):
        end = time.monotonic() + timeout
        while not re.search(pattern, self.output):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"no {pattern!r} in {self.output!r}")
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"no {pattern!r} in {self.output!r}")
            self.output += data
        return self.output

    def wait(self, timeout=60):
        end = time.monotonic() + timeout
        while self.child.poll() is None and time.monotonic() < end:
            ready, _, _ = select.select([self.master], [], [], 0.05)
            if ready:
                self.output += os.read(self.master, 65536)
        assert self.child.poll() is not None, self.output
        while select.select([self.master], [], [], 0)[0]:
            self.output += os.read(self.master, 65536)
        return self.child.returncode

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminal(instance):
    made = []

    def make(user, *arguments, **options):
        made.append(Terminal(instance, user, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_terminal(terminal, either):
    t = terminal(either, "run", "--", "sh", "-c", "tty; stty size; test -t 0 && test -t 1 && echo both; ps -o tty= -p $$; exit 5")
    assert t.wait() == 5, t.output
    lines = t.output.decode().replace("\r", "").split("\n")
    assert lines[0].startswith("/dev/pts/") or lines[0] == "/dev/console"
    assert lines[1] == "33 111" and lines[2] == "both"


def test_terminal_is_restored(terminal, alice):
    t = terminal(alice, "run", "--", "true")
    assert t.wait() == 0
    assert termios.tcgetattr(t.slave) == t.before


def test_terminal_resize(terminal, alice):
    t = terminal(alice, "run", "--", "sh", "-c", "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.1; done")
    t.read_until(b"up")
    fcntl.ioctl(t.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
    t.child.send_signal(signal.SIGWINCH)
    t.read_until(b"44 99")
    assert t.wait() == 0


def test_terminal_interrupt(terminal, either):
    t = terminal(either, "run", "--", "sleep", "60")
    time.sleep(0.7)
    t.send(b"\x03")
    assert t.wait() == 130


def test_terminal_job_control(terminal, alice):
    t = terminal(alice, "run", "--", "bash", "--norc", "-i")
    t.read_until(rb"\$ ")
    t.send(b"sleep 50\n")
    time.sleep(0.5)
    t.send(b"\x1a")
    t.read_until(b"Stopped")
    t.send(b"jobs; fg\n")
    time.sleep(0.5)
    t.send(b"\x03")
    time.sleep(0.3)
    t.send(b"echo st$?atus; exit 3\n")
    t.read_until(b"st130atus")
    assert t.wait() == 3


def test_terminal_end_of_file(terminal, alice):
    t = terminal(alice, "run", "--", "cat")
    t.send(b"line\n")
    t.read_until(b"line\r\nline")
    t.send(b"\x04")
    assert t.wait() == 0


def test_terminal_hang_up(instance, terminal, alice):
    marker = f"71{uuid.uuid4().int % 10**8}"
    t = terminal(alice, "run", "--", "sleep", marker)
    assert eventually(lambda: sleeps_with(marker))
    t.child.kill()
    assert eventually(lambda: not processes_with(marker), 20)


def test_much_output_through_a_terminal(terminal, alice):
    t = terminal(alice, "run", "--", "sh", "-c", "seq 1 20000; echo the-end")
    assert t.wait(20) == 0
    assert b"20000\r\nthe-end" in t.output
