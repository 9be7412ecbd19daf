"""Sessions full of system calls and paths by chance, looked at from outside; and workspaces that no daemon would like.

SANDBOXD_FUZZ_CALLS=N makes it N calls for each caller, SANDBOXD_FUZZ_SEED=S the ones of that run."""

import os
import random
import subprocess

import pytest

import fuse
import machine

N_CALLS = int(os.environ.get("SANDBOXD_FUZZ_CALLS", "40000"))


class Outside:
    """What a session must leave as it is."""

    def __init__(self, instance, user, other):
        self.instance = instance
        self.canaries = [user.write(user.home + "/canary/f", "mine\n"), other.write(other.home + "/canary/f", "theirs\n", 0o666)]
        for owner in (user, other):
            os.chmod(owner.home + "/canary", 0o777)
        self.folders = [os.path.dirname(path) for path in self.canaries]
        self.files = ["/etc/passwd", "/etc/hostname", "/bin/sh", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
                      *(f"{machine.BUILD}/libexec/{name}" for name in os.listdir(machine.BUILD + "/libexec"))]
        self.sleeper = user.popen(["sleep", "7000"])
        self.before = self.state()

    def state(self):
        contents = {}
        for path in self.files[1:]:
            with open(path, "rb") as f:
                contents[path] = hash(f.read())
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
            mounts = [line for line in f if self.instance.folder in line or any(folder in line for folder in self.folders)]
        return [machine.tree_state(folder) for folder in self.folders], contents, mounts, os.getpriority(os.PRIO_PROCESS, self.sleeper.pid)

    def close(self):
        self.sleeper.kill()
        self.sleeper.wait()


@pytest.mark.parametrize("who", ["user", "root"])
def test_calls_by_chance(instance, user, other, compiled, who):
    seed = int(os.environ.get("SANDBOXD_FUZZ_SEED", random.randrange(1 << 32)))
    print("seed", seed)
    outside = Outside(instance, user, other)
    try:
        with machine.root_user() as root:
            caller = root if who == "root" else user
            work = caller.workspace()
            subprocess.run(["cp", compiled("fuzz_calls"), work + "/fuzz-calls"], check=True)
            launcher = instance.process.pid
            given = [*outside.canaries, *outside.folders, instance.socket, instance.state, f"/proc/{launcher}/root", "/etc/passwd", "/bin/sh"]
            done = instance.ctl(caller, "run", "-T", "-w", work, "--", "./fuzz-calls", str(seed), str(N_CALLS), *given, cwd="/",
                                timeout=60 + N_CALLS // 100)
            assert done.returncode != 125, (seed, done)
            assert instance.process.poll() is None and instance.process.pid == launcher, seed
            assert outside.sleeper.poll() is None, seed
            after = outside.state()
            assert after == outside.before, (seed, [(a, b) for a, b in zip(outside.before, after) if a != b])
            assert instance.sh(caller, "echo runs").stdout == "runs\n", seed
            assert instance.sh(other, "echo runs").stdout == "runs\n", seed
    finally:
        outside.close()


def test_t19_file_system_of_the_user(instance, user):
    """Nobody but the user may come in, root neither: opened with the user's rights, it works or is refused with a word."""
    work = user.workspace()
    folder = fuse.HungFolder(work, user, "nobody at all", allow_other=False)
    try:
        with pytest.raises(PermissionError):
            os.listdir(work)
        done = instance.ctl(user, "run", "-T", "-w", work, "--", "echo", "started", cwd="/", timeout=60)
        assert (done.returncode, done.stdout) in ((0, "started\n"), (125, "")), done
        assert done.returncode == 0 or len(done.stderr.strip().splitlines()) == 1, done
        assert instance.sh(user, "echo runs").stdout == "runs\n"
    finally:
        folder.close()
