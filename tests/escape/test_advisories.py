"""What others were taken by, tried on us: a test for each advisory that no property and no other suite tries. Where the others
are tried stands in advisories.txt."""

import contextlib
import ctypes
import glob
import hashlib
import json
import os
import socket
import subprocess

import pytest

import machine

SECRET = "SBXTOFTHEUSER"


@pytest.fixture
def work(user):
    if not os.path.exists(user.home + "/.ssh"):
        user.write(user.home + "/.ssh/id_sbxt", SECRET + "\n", 0o600)
    return user.workspace()


def run(instance, user, work, script, *options, **more):
    done = instance.ctl(user, "run", "-T", "-w", work, *options, "--", "/bin/bash", "-c", script, cwd="/", **more)
    assert done.returncode != 125, done
    return done


def digests():
    found = {}
    for path in [*glob.glob(machine.BUILD + "/libexec/*"), machine.CTL, f"{machine.BUILD}/daemon/launcher/sandboxd"]:
        with open(path, "rb") as f:
            found[path] = hashlib.sha256(f.read()).hexdigest()
    return found


# Until it is told to stop; what could be opened is a line.
OPENERS = r"""
while test ! -e stop; do
    for f in /proc/[0-9]*/exe /proc/[0-9]*/task/[0-9]*/exe; do ( : >>$f ) 2>/dev/null && readlink -f $f; done
done
"""


def test_cve_2019_5736_programs_that_come_in_are_not_written(instance, user, work):
    """Whoever enters a running session brings a program along: none can be opened for writing through /proc."""
    before = digests()
    identity = instance.create(user, "-w", work, cwd="/")
    child = instance.ctl_start(user, "exec", "-T", identity, "--", "/bin/bash", "-c", OPENERS, stdout=subprocess.PIPE)
    try:
        for _ in range(15):
            assert instance.ctl(user, "exec", "-T", identity, "--", "/bin/true").returncode == 0
    finally:
        user.write(work + "/stop", "")
        opened = child.communicate(timeout=120)[0].decode()
        instance.ctl(user, "terminate", identity)
    assert not [line for line in opened.splitlines() if not line.startswith(work)], opened
    assert digests() == before


def test_cve_2024_21626_folders_by_descriptors_are_none(instance, user, work):
    """Where a command starts is a path of the session's: no descriptor that init has open leads out."""
    identity = instance.create(user, "-w", work, cwd="/")
    os.mkdir(work + "/sub")
    assert instance.ctl(user, "exec", "--workdir", work + "/sub", identity, "--", "pwd").stdout.strip() == work + "/sub"
    root = os.stat("/")
    try:
        for folder in [f"/proc/self/fd/{n}" for n in range(40)] + ["/proc/1/cwd", "/proc/1/root", "/proc/self/cwd/../../../../..", "/dev/fd/9"]:
            done = instance.ctl(user, "exec", "--workdir", folder, identity, "--", "/bin/sh", "-c",
                                f"readlink /proc/self/cwd; stat -c %d:%i .; stat -c %d:%i /; cat {user.home}/.ssh/id_sbxt ./etc/shadow")
            lines = done.stdout.splitlines()
            assert not lines or (lines[0].startswith("/") and f"{root.st_dev}:{root.st_ino}" not in lines[1:]), (folder, done)
            assert SECRET not in done.stdout and "root:" not in done.stdout, (folder, done)
    finally:
        instance.ctl(user, "terminate", identity)


def test_cve_2025_31133_52565_52881_devices_of_the_workspace_are_no_devices(instance, user, work):
    """Links at the names that a root has: what masks and streams are made of is not looked up there."""
    os.makedirs(work + "/dev")
    for name, target in (("dev/null", "/proc/sys/kernel/core_pattern"), ("dev/console", "/proc/sysrq-trigger"), ("dev/pts", "/proc/sys"),
                         ("proc", "/sys"), ("sys", "/proc")):
        os.symlink(target, f"{work}/{name}")
    with open("/proc/sys/kernel/core_pattern", encoding="utf-8") as f:
        before = f.read()
    done = run(instance, user, work, "stat -Lc %F:%t:%T /dev/null; echo '|/bin/false' >/dev/null; "
               "head -c1 /proc/kallsyms /proc/keys; echo x >dev/null; echo x >dev/console; stat -fc %T proc/../..", "--deny", work + "/dev/null")
    assert done.stdout.splitlines()[0] == "character special file:1:3", done
    with open("/proc/sys/kernel/core_pattern", encoding="utf-8") as f:
        assert f.read() == before


def test_cve_2024_23651_23653_ends_delete_nothing_behind_links(instance, user, work):
    """What is taken away at a session's end was the session's to change: links in it lead out."""
    treasure = user.workspace()
    user.write(treasure + "/sub/f", "mine\n")
    before = machine.tree_state(treasure)
    script = (f"for d in /tmp /var/tmp /dev/shm ~; do cd $d && for n in a b .cache; do rm -rf $n; ln -sfn {treasure} $n; done; "
              f"mkdir -p x && ln -sfn {treasure}/sub x/sub; done; rm -rf ~/.local; ln -sfn {treasure} ~/.local; true")
    for home in ("empty", "persistent", "persistent"):
        run(instance, user, work, script, "--home", home)
    instance.ctl(user, "prune")
    instance.stop()
    instance.start()
    assert run(instance, user, work, "echo runs", "--home", "persistent").stdout == "runs\n"
    assert machine.tree_state(treasure) == before


def test_cve_2021_4034_no_arguments_at_all(instance, user):
    """argc 0: what the program takes for its arguments are its variables."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = os.path.realpath(machine.CTL).encode()
    for variables in ([], [b"run", b"--", b"true"], [b"GCONV_PATH=.", b"SANDBOXD_ADDRESS=" + instance.address.encode()]):
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            for fd in (0, 1, 2):
                os.dup2(os.open("/dev/null", os.O_RDWR), fd)
            environment = (ctypes.c_char_p * (len(variables) + 1))(*variables, None)
            libc.execve(program, (ctypes.c_char_p * 1)(None), environment)
            os._exit(99)
        _, status = os.waitpid(pid, 0)
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 99), (variables, status)


def test_firejail_7154_no_session_configures_the_next(instance, user, work):
    """Rules that a session leaves where rules are looked for: the next one is no wider."""
    wide = json.dumps({"version": 1, "name": "agent", "filesystem": {"root": "host", "home": "persistent", "write": [user.home]},
                       "network": {"default": "allow"}})
    script = (f"for d in ~/.config/sandboxd {user.home}/.config/sandboxd /etc/sandboxd {instance.config}; do "
              f"for f in policy.json agent.json sandboxd.json policies/agent.json profiles/agent.json; do mkdir -p $(dirname $d/$f); "
              f"printf '%s' '{wide}' >$d/$f; done; done; for f in .sandboxd.json sandboxd.json .sandboxd/policy.json .sandboxd/agent.json; do "
              f"mkdir -p $(dirname $f); printf '%s' '{wide}' >$f; done; true")
    looked = f"cat {user.home}/.ssh/id_sbxt; touch {user.home}/planted; ls /etc/shadow; true"
    first = run(instance, user, work, looked)
    run(instance, user, work, script, "--home", "persistent")
    assert not os.path.exists(user.home + "/.config/sandboxd")
    for options in ((), ("--home", "persistent")):
        done = instance.ctl(user, "run", "-T", *options, "--", "/bin/bash", "-c", looked, cwd=work)
        assert done.returncode in (0, 125) and done.stdout == first.stdout == "", done
    assert not os.path.exists(user.home + "/planted")


def test_cve_2025_59532_2026_50548_no_command_widens_by_its_folder(instance, user, work):
    """Writable is what the session was started with, wherever a later command says that it works."""
    beside = user.workspace()
    user.write(beside + "/f", "mine\n")
    os.symlink(beside, work + "/link")
    identity = instance.create(user, "-w", work, "--read", beside, cwd="/")
    try:
        for folder in (beside, work + "/link", "/usr", "/", work + "/../" + os.path.basename(beside), user.home):
            done = instance.ctl(user, "exec", "--workdir", folder, identity, "--", "/bin/sh", "-c",
                                "touch sbxt-made && pwd; echo x >>f; rm -f f; true", cwd=beside)
            assert not os.path.exists(f"{folder}/sbxt-made"), (folder, done)
        with open(beside + "/f", encoding="utf-8") as f:
            assert f.read() == "mine\n"
    finally:
        instance.ctl(user, "terminate", identity)


LOADER = next(iter(glob.glob("/lib64/ld-linux-*.so.2") + glob.glob("/lib/ld-linux-*.so.1")))
ATTEMPT = "cat {home}/.ssh/id_sbxt; cat .env; echo x >>{beside}/f; echo reached >/dev/tcp/127.0.0.1/{port}"
# The same program by other names, and the same command by other ways to start one.
WAYS = ["eval \"$ATTEMPT\"", "/proc/self/root/bin/bash -c \"$ATTEMPT\"", "cp /bin/bash ./innocent && ./innocent -c \"$ATTEMPT\"",
        LOADER + " /bin/bash -c \"$ATTEMPT\"", "eval \"$ATTEMPT\" & wait", "cat <(eval \"$ATTEMPT\" 2>&1)",
        "echo x > >(eval \"$ATTEMPT\"; cat); sleep 0.2", "setsid bash -c \"$ATTEMPT\"", "( ( bash -c \"$ATTEMPT\" & ) & ); sleep 0.2",
        "while read l; do echo \"$l\"; done <~/.ssh/id_sbxt; while read l; do echo \"$l\"; done <.env; printf x >>{beside}/f",
        "env -i bash -c \"$ATTEMPT\"", "python3 -c \"import os; os.system(os.environ['ATTEMPT'])\""]


def test_ona_2026_b02_b24_cve_2026_22708_names_and_ways_change_no_verdict(instance, user, work):
    """By an alias of the root, a copy, the loader, built-ins, in the background, from substitutions, as a daemon."""
    beside = user.workspace()
    user.write(beside + "/f", "mine\n")
    user.write(work + "/.env", SECRET + "\n")
    listener = socket.socket()
    with listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        attempt = ATTEMPT.format(home=user.home, beside=beside, port=listener.getsockname()[1])
        for way in WAYS:
            script = f"export ATTEMPT='{attempt}'\n{way.format(beside=beside)}\ntrue"
            outside = user.run(["/bin/bash", "-c", script], cwd=work)
            assert SECRET in outside.stdout, ("it does nothing outside, either", way, outside)
            user.write(beside + "/f", "mine\n")
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
            done = run(instance, user, work, script)
            assert SECRET not in done.stdout + done.stderr, (way, done)
            with pytest.raises(BlockingIOError):
                listener.accept()
            with open(beside + "/f", encoding="utf-8") as f:
                assert f.read() == "mine\n", way


def test_b07_what_no_rule_shows_is_not_read(instance, user, work):
    """A profile that says nothing."""
    own = user.write(user.base + "/nothing.json", json.dumps({"version": 1, "name": "nothing"}))
    done = run(instance, user, work, f"cat {user.home}/.ssh/id_sbxt ~/.ssh/id_sbxt /etc/shadow; ls -A {user.home}/.ssh; touch /usr/x {user.home}/x; true",
               "-p", own)
    assert done.stdout == "" and not os.path.exists(user.home + "/x"), done


def test_srt_token_on_argv_no_process_tells_a_credential(instance, user, work):
    """Whoever may read the tables of processes finds nothing there that opens a session or its way out."""
    identity = instance.create(user, "-w", work, cwd="/")
    child = instance.ctl_start(user, "exec", identity, "--", "sh", "-c", "echo up; exec sleep 600", stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"up\n"
        inside = instance.ctl(user, "exec", identity, "--", "sh", "-c", "env | grep -i _proxy; true").stdout
        assert "@" not in inside, "a proxy that asks for a word"
        for pid in [instance.process.pid, *instance.workers()]:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                text = f.read().decode(errors="replace")
            assert identity not in text and "proxy" not in text.lower() and user.home not in text, text
    finally:
        instance.ctl(user, "terminate", identity)
        child.wait(60)
        child.stdout.close()
