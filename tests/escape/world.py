"""The machine as a victim: a user with secrets, sockets of daemons, a terminal; and the five places in which a
property is tried."""

import contextlib
import fcntl
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import tempfile
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
        subprocess.run(["gcc", "-O1", "-static", "-D_GNU_SOURCE", "-o", self.probe, os.path.join(HERE, "probe.c")], check=True)
        self._files()
        self._sockets()
        self._processes()
        self.dns = stubs.DnsStub({})
        stack.callback(self.dns.close)
        self.web = stubs.HttpStub()
        stack.callback(self.web.close)
        self.instance = stack.enter_context(
            machine.Instance(settings={"resolver": {"servers": [f"127.0.0.1:{self.dns.port}"]}}))
        self.work = {place: self._workspace(self.root if place == "root" else self.user) for place in PLACES}

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
        os.mkdir(self.other.home + "/mounted")
        subprocess.run(["mount", "-t", "tmpfs", "sbxt", self.other.home + "/mounted"], check=True)
        self.stack.callback(subprocess.run, ["umount", "-l", self.other.home + "/mounted"], check=False)
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            path = folder + "/sbxt-canary"
            self._keep(path)
            with open(path, "w", encoding="utf-8") as f:
                f.write("canary\n")

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
        self.stack.callback(listener.close)

    def _processes(self):
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

    def _workspace(self, user):
        path = user.workspace()
        shutil.copy(self.probe, path + "/probe")
        os.chown(path + "/probe", user.uid, user.gid)
        with open(path + "/group-file", "w", encoding="utf-8") as f:
            f.write("of the group\n")
        shutil.chown(path + "/group-file", self.other.uid, self.group)
        os.chmod(path + "/group-file", 0o640)
        user.write(os.path.dirname(path) + "/beside", "of the user\n")
        return path

    def script(self, prop, place):
        user = self.root if place == "root" else self.user
        return prop.script.format(
            home=user.home, other_home=self.other.home, other_name=self.other.name, uid=self.user.uid,
            tmp_canary="/tmp/sbxt-canary", tmp_socket=self.tmp_socket, run_socket=self.run_socket, host_pid=os.getpid(),
            host_port=self.web.server_port, user_pid=self.sleeper.pid, state=self.instance.state, socket=self.instance.socket,
            shared_memory=self.shared_memory, namespaces=self.namespaces, group=self.group)

    def command(self, prop, place):
        work = self.work[place]
        inner = ["/bin/sh", "-c", self.script(prop, place)]
        if place == "bwrap":
            inner = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
                     "--die-with-parent", "--chdir", work, *inner]
        elif place == "firejail":
            # With its default profile, as somebody would use it who only reads its first page.
            inner = ["firejail", "--quiet", "--net=none", "--", *inner]
        elif place in ("user", "root"):
            inner = [machine.CTL, "run", "-p", "agent", "-w", work, "--", *inner]
        return [self.probe, "caller", *inner]

    def attempt(self, prop, place):
        """("holds" | "open" | "unknown", what it printed)."""
        user = self.root if place == "root" else self.user
        environment = user.environment(SANDBOXD_ADDRESS=self.instance.address, **ENVIRONMENT)
        options = {"cwd": self.work[place], "env": environment}
        if prop.id == "X01":
            status, out, err = self._in_terminal(user, self.command(prop, place), options)
        else:
            done = user.run(self.command(prop, place), timeout=60, **options)
            status, out, err = done.returncode, done.stdout, done.stderr
        lines = [line for line in out.splitlines() if line.strip()]
        text = "; ".join(lines)[:200] or err.strip()[:200]
        if prop.script.startswith("./probe"):
            return {0: "holds", 1: "open"}.get(status, "unknown"), text
        if status != 0 and not lines:
            return "unknown", f"status {status}: {text}"
        return ("open" if lines else "holds"), text

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
