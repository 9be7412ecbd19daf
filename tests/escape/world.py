"""The machine as a victim: a user with secrets, sockets of daemons, a terminal; and the five places in which a
property is tried."""

import array
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import pty
import select
import shutil
import socket
import subprocess
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))

import machine  # noqa: E402
import stubs  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ENVIRONMENT = {
    "SBXT_CANARY": "1", "AWS_SECRET_ACCESS_KEY": "x", "SBXT_TOKEN": "x", "SBXT_KEY": "x", "SBXT_PASSWORD": "x",
    "SSH_AUTH_SOCK": "/tmp/ssh-sbxt/agent.1", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/x", "DISPLAY": ":97",
    "WAYLAND_DISPLAY": "wayland-0", "DOCKER_HOST": "unix:///run/docker.sock", "VSCODE_IPC_HOOK_CLI": "/run/x",
    "TMUX": "/tmp/x", "STY": "x", "NOTIFY_SOCKET": "/run/x", "CREDENTIALS_DIRECTORY": "/run/x",
    "GLIBC_TUNABLES": "glibc.malloc.check=0", "GCONV_PATH": "/nonexistent", "BASH_ENV": "/nonexistent",
    "ENV": "/nonexistent", "PYTHONSTARTUP": "/nonexistent", "PYTHONPATH": "/nonexistent", "PERL5LIB": "/nonexistent",
    "JAVA_TOOL_OPTIONS": "-x", "GIT_SSH_COMMAND": "/nonexistent",
}
PLACES = ("host", "bwrap", "firejail", "user", "root")


def shut(listener):
    """Whoever waits at it goes on."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


MARK = "=sbxt="
# Each script in a shell and with a deadline of its own; what is left of it does not hold the next one up.
TOGETHER = f"""for name in "$@"; do echo "{MARK}begin $name"; timeout -k 1 60 sh tries/$name </dev/null 2>/dev/null
printf '\\n{MARK}end %s\\n' $?; done"""


def judge(prop, status, out, err):
    lines = [line for line in out.splitlines() if line.strip()]
    text = "; ".join(lines)[:300] or err.strip()[:300]
    if prop.script.startswith(("./probe", "./setuid", "./capable")):
        return {0: "holds", 1: "open"}.get(status, "unknown"), text or f"status {status}"
    if status != 0 and not lines:
        return "unknown", f"status {status}: {text}"
    return ("open" if lines else "holds"), text


class Place:
    """Where a property is tried that is more than a script: sessions of one caller under the profile `agent`."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.user = world.root if name == "root" else world.user
        self.instance = world.instance
        self.work = world.work[name]
        self._sessions = {}
        self.counter = 0

    @property
    def uid_inside(self):
        return self.user.uid or 1879048192

    def run(self, *arguments, **more):
        """sandboxctl run with these arguments."""
        more.setdefault("cwd", self.work)
        return self.instance.ctl(self.user, "run", "-T", *arguments, **more)

    def sh(self, script, *options, **more):
        """A script in a session that starts: what is refused would hold whatever the property is."""
        done = self.run(*options, "--", "/bin/sh", "-c", script, **more)
        assert done.returncode != 125, done
        return done

    def session(self, name="first"):
        """One that lives as long as the place, in a workspace of its own."""
        if name not in self._sessions:
            work = self.user.workspace()
            shutil.copy(self.world.probe, work + "/probe")
            self._sessions[name] = (self.instance.create(self.user, cwd=work), work)
        return self._sessions[name]

    def exec(self, script, name="first", **more):
        return self.instance.ctl(self.user, "exec", self.session(name)[0], "--", "/bin/sh", "-c", script, **more)

    def start(self, *arguments, **more):
        """sandboxctl in the background; who starts it ends it."""
        more.setdefault("cwd", self.work)
        return self.instance.ctl_start(self.user, *arguments, **more)

    def ctl(self, *arguments, **more):
        return self.instance.ctl(self.user, *arguments, **more)

    def profile(self, **content):
        """A profile of the caller's own that adds to the profile agent."""
        self.counter += 1
        return self.user.write(os.path.join(self.user.base, f"profile-{self.name}{self.counter}.json"),
                               json.dumps({"version": 1, "name": f"own{self.counter}", "extends": ["agent"], **content}))

    def close(self):
        for identity, _ in self._sessions.values():
            self.ctl("terminate", identity)
        self._sessions = {}


class Elsewhere(Exception):
    """What is asked for has no counterpart without the daemon."""


class Outside:
    """The same without a daemon: on the host, in bubblewrap, in firejail. What an option of sandboxctl asks for nobody there does."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.user, self.work = world.user, world.work[name]

    def __getattr__(self, name):
        raise Elsewhere(name)

    def run(self, *arguments, cwd=None, environment=None, **more):
        options, command = arguments[:arguments.index("--")], arguments[arguments.index("--") + 1:]
        folder = options[options.index("-w") + 1] if "-w" in options else self.work
        _, usual = self.world.options(self.name)
        try:
            return self.user.run(self.world.command(list(command), self.name, folder), cwd=folder,
                                 env={**usual["env"], **(environment or {})}, **more)
        except OSError as e:
            return subprocess.CompletedProcess(command, 125, "", f"{e}\n")

    def sh(self, script, *options, **more):
        return self.run(*options, "--", "/bin/sh", "-c", script, **more)

    def exec(self, script, **more):
        return self.sh(script, **more)


class World:
    def __init__(self, stack):
        self.stack = stack
        # Some of the sockets have fixed names: one world at a time.
        self.lock = stack.enter_context(open("/run/lock/sbxt-escape", "w", encoding="utf-8"))
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.user = stack.enter_context(machine.test_user("e"))
        self.other = stack.enter_context(machine.test_user("o"))
        self.root = stack.enter_context(machine.root_user())
        self.group = f"sbxtg{os.getpid()}"
        subprocess.run(["groupadd", self.group], check=True)
        stack.callback(subprocess.run, ["groupdel", "-f", self.group], check=False)
        subprocess.run(["usermod", "-a", "-G", self.group, self.user.name], check=True)
        self.user.groups = os.getgrouplist(self.user.name, self.user.gid)
        self.probe = os.path.join(tempfile.mkdtemp(prefix="sbxt-probe-", dir="/var/tmp"), "probe")
        stack.callback(shutil.rmtree, os.path.dirname(self.probe))
        os.chmod(os.path.dirname(self.probe), 0o755)
        self.listeners = {}
        self._compile()
        self._files()
        self._sockets()
        self._processes()
        self._messages()
        self.dns = stubs.DnsStub({})
        stack.callback(self.dns.close)
        self.web = stubs.HttpStub()
        stack.callback(self.web.close)
        self.instance = stack.enter_context(
            machine.Instance(settings={"resolver": {"servers": [f"127.0.0.1:{self.dns.port}"]}}))
        self.work = {place: self._workspace(self.root if place == "root" else self.user) for place in PLACES}
        self.places = {name: Place(self, name) for name in ("user", "root")}
        self.found = {}
        stack.callback(lambda: [place.close() for place in self.places.values()])

    def _compile(self):
        sources = [os.path.join(HERE, name) for name in ("probe.c", "probe_calls.c", "probe_processes.c")]
        subprocess.run(["gcc", "-O1", "-static", "-pthread", "-D_GNU_SOURCE", "-o", self.probe, *sources], check=True)
        self.foreign = None
        if platform.machine() == "x86_64":
            self.foreign = os.path.join(os.path.dirname(self.probe), "foreign")
            subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-o", self.foreign, os.path.join(HERE, "foreign.S")], check=True)

    def _keep(self, path):
        """Removes it at the end, with the folders that had to be made for it."""
        top = path
        while not os.path.lexists(os.path.dirname(top)):
            top = os.path.dirname(top)
        self.stack.callback(lambda: shutil.rmtree(top) if os.path.isdir(top) and not os.path.islink(top)
                            else os.path.lexists(top) and os.unlink(top))

    def _files(self):
        for user in (self.user, self.root):
            for name in (".ssh/id_sbxt", ".aws/credentials"):
                path = os.path.join(user.home, name)
                if not os.path.lexists(path):
                    self._keep(path)
                    user.write(path, "secret\n", 0o600)
        self.other.write(self.other.home + "/readable", "of another user\n")
        # The same secret at a second place of the host.
        self.second = f"/srv/sbxt-second-{os.getpid()}"
        os.mkdir(self.second)
        subprocess.run(["mount", "--bind", self.user.home + "/.ssh", self.second], check=True)
        self.stack.callback(os.rmdir, self.second)
        self.stack.callback(subprocess.run, ["umount", "-l", self.second], check=False)
        with open("/proc/self/mountinfo", encoding="utf-8") as f:
            self.root_device = next(line.split()[2] for line in f if line.split()[4] == "/")
        os.mkdir(self.other.home + "/mounted")
        subprocess.run(["mount", "-t", "tmpfs", "sbxt", self.other.home + "/mounted"], check=True)
        self.stack.callback(subprocess.run, ["umount", "-l", self.other.home + "/mounted"], check=False)
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            path = folder + "/sbxt-canary"
            self._keep(path)
            with open(path, "w", encoding="utf-8") as f:
                f.write("canary\n")

    def _messages(self):
        """What processes of the host have for each other: a queue, a semaphore, names without files."""
        self.label = f"sbxt-{os.getpid()}"
        libc = ctypes.CDLL(None, use_errno=True)
        queue = libc.mq_open(f"/{self.label}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
        self.stack.callback(libc.mq_unlink, f"/{self.label}".encode())
        self.stack.callback(os.close, queue)
        for name in (self.label, "sem." + self.label):
            path = "/dev/shm/" + name
            with open(path, "w", encoding="utf-8") as f:
                f.write("of the host\n")
            os.chmod(path, 0o666)
            self.stack.callback(os.unlink, path)
        self.abstract = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        for number, listener in enumerate(self.abstract):
            self.stack.callback(listener.close)
            listener.bind("\0" + self.label + "." + str(number))
        self.abstract[0].listen(64)
        self.datagrams = [f"/tmp/{self.label}.dgram", f"/run/{self.label}.dgram", f"/dev/shm/{self.label}.dgram"]
        for path in self.datagrams:
            taker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            taker.bind(path)
            os.chmod(path, 0o666)
            self.stack.callback(os.unlink, path)
            self.stack.callback(taker.close)

    def drain(self):
        """Who has connected to the stand-ins since the last time, by path."""
        found = []
        for path, listener in self.listeners.items():
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    found.append(path)
        return found

    @staticmethod
    def _serves(path):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                return False
            except OSError:
                pass
        return True

    def _listen(self, path, uid):
        if os.path.lexists(path):
            if self._serves(path):
                return
            # Nobody listens: left by a run that was killed, and it would make the test's own check fail.
            os.unlink(path)
        self._keep(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = os.path.dirname(path)
        while part.startswith(("/run/user/", "/tmp/ssh-sbxt", "/tmp/tmux")):
            os.chown(part, uid, uid)
            part = os.path.dirname(part)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        os.chmod(path, 0o666)
        os.chown(path, uid, uid)
        listener.listen(64)
        self.listeners[path] = listener
        self.stack.callback(listener.close)

    def _processes(self):
        terminal = pty.openpty()
        self.stack.callback(lambda: [os.close(fd) for fd in terminal])
        """One of the user's own, memory that it shares with whoever finds it, and the namespaces that it is in."""
        self.sleeper = self.user.popen(["sleep", "7000"])
        self.stack.callback(self.sleeper.wait)
        self.stack.callback(self.sleeper.kill)
        made = self.user.run(["ipcmk", "-M", "4096", "-p", "0666"]).stdout.split()[-1]
        self.stack.callback(subprocess.run, ["ipcrm", "-m", made], check=False)
        self.shared_memory = made
        kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
        self.namespaces = " ".join("-e " + os.readlink(f"/proc/self/ns/{kind}").replace("[", "\\[") for kind in kinds)

    def _sockets(self):
        self.run_socket = f"/run/sbxt-{os.getpid()}.sock"
        self.tmp_socket = f"/tmp/sbxt-{os.getpid()}.sock"
        for path in (self.run_socket, self.tmp_socket, "/run/docker.sock", "/run/containerd/containerd.sock",
                     "/run/dbus/system_bus_socket", "/run/systemd/notify", "/run/systemd/journal/socket",
                     "/run/snapd.socket", "/run/cups/cups.sock"):
            self._listen(path, 0)
        uid = self.user.uid
        for path in ("bus", "systemd/private", "gnupg/S.gpg-agent", "keyring/control", "wayland-0", "pipewire-0",
                     "vscode-sbxt.sock"):
            self._listen(f"/run/user/{uid}/{path}", uid)
        for path in ("/tmp/ssh-sbxt/agent.1", "/tmp/.X11-unix/X97", f"/tmp/tmux-{uid}/default"):
            self._listen(path, uid)

    def user_folder(self):
        """A new one of the user's outside of the home, with a file."""
        folder = tempfile.mkdtemp(prefix="sbxt-shown-", dir="/srv")
        self.stack.callback(shutil.rmtree, folder)
        os.chmod(folder, 0o755)
        shutil.chown(folder, self.user.uid, self.user.gid)
        self.user.write(folder + "/f", "of the user\n")
        return folder

    def _workspace(self, user):
        path = user.workspace()
        shutil.copy(self.probe, path + "/probe")
        os.chown(path + "/probe", user.uid, user.gid)
        with open(path + "/group-file", "w", encoding="utf-8") as f:
            f.write("of the group\n")
        shutil.chown(path + "/group-file", self.other.uid, self.group)
        os.chmod(path + "/group-file", 0o640)
        user.write(os.path.dirname(path) + "/beside", "of the user\n")
        user.write(path + "/.env", "SECRET=of the user\n")
        self._privileged(path)
        self._giver(path + "/giver")
        return path

    def _privileged(self, path):
        """Programs and nodes that root has put there."""
        for name in ("setuid", "capable"):
            shutil.copy(self.probe, f"{path}/{name}")
        os.chmod(path + "/setuid", 0o6755)
        os.setxattr(path + "/capable", "security.capability", struct.pack("<5I", 0x02000001, 0xffffffff, 0, 0xffffffff, 0))
        os.mknod(path + "/memory", 0o020666, os.makedev(1, 1))
        os.mknod(path + "/zeros", 0o020666, os.makedev(1, 5))
        for name in ("memory", "zeros"):
            os.chmod(f"{path}/{name}", 0o666)
        if self.foreign:
            shutil.copy(self.foreign, path + "/foreign")
            os.chmod(path + "/foreign", 0o755)

    def _giver(self, path):
        """Gives whoever connects a reference to a process of the user outside."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(64)
        self.stack.callback(listener.close)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    process = os.pidfd_open(self.sleeper.pid)
                    with connection, contextlib.suppress(OSError):
                        connection.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [process]))])
                    os.close(process)

        threading.Thread(target=serve, daemon=True).start()
        self.stack.callback(shut, listener)

    def script(self, prop, place):
        user = self.root if place == "root" else self.user
        return prop.script.format(
            home=user.home, other_home=self.other.home, other_name=self.other.name, uid=self.user.uid,
            tmp_canary="/tmp/sbxt-canary", tmp_socket=self.tmp_socket, run_socket=self.run_socket, host_pid=os.getpid(),
            host_port=self.web.server_port, user_pid=self.sleeper.pid, state=self.instance.state, socket=self.instance.socket,
            shared_memory=self.shared_memory, namespaces=self.namespaces, group=self.group, label=self.label,
            datagrams=",".join(self.datagrams), root_device=self.root_device, second=self.second)

    def command(self, inner, place, folder=None):
        """The whole command line that runs inner there."""
        work = folder or self.work[place]
        if place == "bwrap":
            inner = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
                     "--die-with-parent", "--chdir", work, *inner]
        elif place == "firejail":
            # With its default profile, as somebody would use it who only reads its first page.
            inner = ["firejail", "--quiet", "--net=none", "--", *inner]
        elif place in ("user", "root"):
            inner = [machine.CTL, "run", "-p", "agent", "-w", work, "--", *inner]
        return [self.probe, "caller", *inner]

    def options(self, place):
        user = self.root if place == "root" else self.user
        return user, {"cwd": self.work[place],
                      "env": user.environment(SANDBOXD_ADDRESS=self.instance.address, **ENVIRONMENT)}

    def attempt(self, prop, place):
        """("holds" | "open" | "unknown" | "none", what it printed), in a session of its own."""
        if prop.run:
            return self._call(prop, place)
        user, options = self.options(place)
        command = self.command(["/bin/sh", "-c", self.script(prop, place)], place)
        if prop.id == "X01":
            status, out, err = self._in_terminal(user, command, options)
        else:
            done = user.run(command, timeout=60, **options)
            status, out, err = done.returncode, done.stdout, done.stderr
        return judge(prop, status, out, err)

    def _call(self, prop, place):
        """Of those that are tried from outside as well: most are about sessions."""
        if place not in self.places and not prop.everywhere:
            return "none", ""
        try:
            text = prop.run(self.places.get(place) or Outside(self, place))
        except Elsewhere:
            return "none", ""
        except OSError as e:
            if place in self.places:
                raise
            return "unknown", str(e)
        except AssertionError as e:
            text = str(e) or "an assertion"
        return ("open", str(text)[:1000]) if text else ("holds", "")

    def attempt_all(self, props, place):
        """Results by id; those of one place share one session, each in a shell of its own."""
        together = [p for p in props if p.script and not p.alone]
        user, options = self.options(place)
        folder = self.work[place] + "/tries"
        shutil.rmtree(folder, ignore_errors=True)
        for prop in together:
            user.write(f"{folder}/{prop.id}", self.script(prop, place) + "\n")
        done = user.run(self.command(["/bin/sh", "-c", TOGETHER, "sh", *[p.id for p in together]], place),
                        timeout=300, **options)
        results = {}
        for part in done.stdout.split(MARK + "begin ")[1:]:
            name, _, rest = part.partition("\n")
            out, mark, status = rest.partition(MARK + "end ")
            prop = next(p for p in together if p.id == name)
            results[name] = judge(prop, int(status.split()[0]), out, "") if mark else ("unknown", "it ended the shell: " + out[:200])
        for prop in props:
            if prop.id not in results:
                results[prop.id] = self.attempt(prop, place)
        return results

    def result(self, prop, place, props):
        """Of the first time that anything was tried there."""
        if place not in self.found:
            self.found[place] = self.attempt_all([p for p in props if not p.run], place)
        if prop.id not in self.found[place]:
            self.found[place][prop.id] = self.attempt(prop, place)
        return self.found[place][prop.id]

    @staticmethod
    def _in_terminal(user, command, options):
        master, slave = pty.openpty()
        os.chown(os.ttyname(slave), user.uid, -1)

        def take_terminal():
            import termios
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)

        child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal, **options)
        os.close(slave)
        out, end = b"", time.monotonic() + 30
        while time.monotonic() < end:
            ready, _, _ = select.select([master], [], [], 0.1)
            if ready:
                try:
                    data = os.read(master, 65536)
                except OSError:
                    break
                if not data:
                    break
                out += data
            elif child.poll() is not None:
                break
        if child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(2)
        if child.poll() is None:
            child.kill()
        child.wait()
        os.close(master)
        return child.returncode, out.decode(errors="replace"), ""


@contextlib.contextmanager
def world():
    with contextlib.ExitStack() as stack:
        yield World(stack)
