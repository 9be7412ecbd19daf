"""Parts that do not answer: workers, and the machine's name service."""

import os
import socket
import subprocess
import threading


import machine


def test_a_worker_that_is_never_ready(settings, alice, bob):
    """It is killed and started again; what its user asked meanwhile is answered then, and others do not wait."""
    instance = machine.Instance(settings=settings)
    folder = os.path.join(instance.folder, "libexec")
    os.mkdir(folder)
    for name in os.listdir(machine.BUILD + "/libexec"):
        os.symlink(os.path.realpath(f"{machine.BUILD}/libexec/{name}"), f"{folder}/{name}")
    os.rename(folder + "/sandboxd-api", folder + "/real-sandboxd-api")
    os.symlink(machine.BUILD + "/tests/integration/stand-in", folder + "/sandboxd-api")
    instance.libexec = folder
    script = os.path.join(instance.folder, f"hostile-{alice.uid}")
    with open(script, "w", encoding="ascii") as f:
        f.write("import sys, time\nprint('hostile mute', file=sys.stderr, flush=True)\ntime.sleep(1000)\n")
    with instance:
        child = instance.ctl_start(alice, "list", stdout=subprocess.DEVNULL)
        assert machine.eventually(lambda: "hostile mute" in instance.log_text(), 20)
        os.unlink(script)
        assert instance.sh(bob, "echo fine").stdout == "fine\n"
        assert child.wait(90) == 0
        assert "sandboxd-api" in instance.log_text() and "was not ready after" in instance.log_text()


class MuteService:
    """A name service cache that accepts and never answers."""

    def __init__(self, folder):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(folder, "socket"))
        os.chmod(os.path.join(folder, "socket"), 0o666)
        os.chmod(folder, 0o755)
        self.listener.listen(64)
        self.accepted = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                self.accepted.append(self.listener.accept()[0])
            except OSError:
                return


class InOwnMounts(machine.Instance):
    """A daemon that finds the mute service where the C library looks for one."""

    def start(self, timeout=60, environment=None):
        run, start = subprocess.Popen, super().start
        script = f"mount --bind {self.folder}/nscd /run/nscd && exec \"$@\""

        def popen(argv, **options):
            return run(["unshare", "-m", "--propagation", "private", "sh", "-ec", script, "sh", *argv], **options)
        subprocess.Popen = popen
        try:
            return start(timeout, environment)
        finally:
            subprocess.Popen = run


def test_a_name_service_that_never_answers(settings, alice, root):
    """The daemon starts, says so, and goes by the machine's own files: root and local users are served."""
    os.makedirs("/run/nscd", exist_ok=True)
    instance = InOwnMounts(settings=settings)
    os.mkdir(os.path.join(instance.folder, "nscd"))
    service = MuteService(os.path.join(instance.folder, "nscd"))
    with instance:
        for user in (root, alice):
            done = instance.ctl(user, "list", timeout=60)
            assert done.returncode == 0, (done, instance.log_text())
        assert service.accepted
        assert "the name service did not answer" in instance.log_text()
        assert instance.sh(alice, "id -un", timeout=90).stdout.strip() == alice.name, instance.log_text()[-2000:]
    service.listener.close()
