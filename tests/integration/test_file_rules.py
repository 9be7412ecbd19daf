"""What a policy says of files: homes that last, workspaces that are shown only, memory of its own."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading

import pytest


def profile(user, filesystem, **more):
    """A profile of the caller's own."""
    user.counter += 1
    return user.write(os.path.join(user.base, f"profile{user.counter}.json"),
                      json.dumps({"version": 1, "name": f"own{user.counter}", "extends": ["base"],
                                  "filesystem": filesystem, **more}))


# ---- homes that last ----

def homes_of(instance, user):
    folder = f"{instance.state}/homes/{user.uid or 1879048192}"
    return [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []


def test_home_lasts(instance, either):
    work = either.workspace()
    assert instance.sh(either, "echo kept >~/f; mkdir ~/d; ls -A ~/.cache 2>&1", workspace=work).returncode != 125
    assert instance.sh(either, "cat ~/f; ls -d ~/d >/dev/null && echo there", workspace=work).stdout == "kept\nthere\n"
    assert not os.path.exists(either.home + "/f")


def test_homes_are_apart(instance, either):
    """One for each workspace and profile."""
    work, other = either.workspace(), either.workspace()
    own = profile(either, {"home": "persistent"})
    instance.sh(either, "echo kept >~/f", workspace=work)
    assert instance.sh(either, "cat ~/f", workspace=other).stdout == ""
    assert instance.sh(either, "cat ~/f", workspace=work, options=["-p", own]).stdout == ""
    assert instance.sh(either, "cat ~/f", workspace=work, options=["--home", "empty"]).stdout == ""
    assert instance.sh(either, "cat ~/f", workspace=work).stdout == "kept\n"


def test_homes_of_users_are_apart(instance, alice, bob):
    work = alice.workspace()
    os.chmod(work, 0o777)
    for folder in (alice.home, alice.base):
        os.chmod(folder, 0o755)
    assert instance.sh(alice, "echo of-alice >~/f; echo made", workspace=work).stdout == "made\n"
    done = instance.sh(bob, f"cat ~/f {alice.home}/f; find / -xdev -name f -type f 2>/dev/null | head", workspace=work)
    assert "of-alice" not in done.stdout


def test_nobody_reaches_a_home_from_outside(instance, alice, bob):
    """Not even its user: the folders above it are root's."""
    instance.sh(alice, "echo kept >~/f", workspace=alice.workspace())
    [home] = [path for path in homes_of(instance, alice) if os.path.exists(path + "/f")][:1]
    for user in (alice, bob):
        assert user.run(["cat", home + "/f"]).returncode != 0
        assert user.run(["ls", instance.state + "/homes"]).returncode != 0
    found = os.stat(home)
    assert (found.st_uid, found.st_mode & 0o777) == (alice.uid, 0o700)


def test_the_callers_home_does_not_show(instance, either):
    path = os.path.join(either.home, ".sbxt-canary")
    either.write(path, "CANARY\n", 0o600)
    try:
        done = instance.sh(either, "cat ~/.sbxt-canary; touch ~/.sbxt-made; true")
        assert "CANARY" not in done.stdout
        assert not os.path.exists(either.home + "/.sbxt-made")
    finally:
        os.unlink(path)


def test_credentials_that_a_home_keeps_are_its_own(instance, alice):
    """A login inside is kept for the next session, and is not the one outside."""
    work = alice.workspace()
    outside = alice.write(alice.home + "/.netrc", "outside\n", 0o600)
    try:
        instance.sh(alice, "echo inside >~/.netrc", workspace=work)
        assert instance.sh(alice, "cat ~/.netrc", workspace=work).stdout == "inside\n"
        with open(outside, encoding="utf-8") as f:
            assert f.read() == "outside\n"
    finally:
        os.unlink(outside)


@pytest.mark.parametrize("left", ["ln -s / ~/{0}", "echo x >~/{0}", "mkfifo ~/{0}", "ln -s ../../../../etc ~/{0}",
                                  "ln -s ~ ~/{0}"])
def test_what_is_left_in_a_home_misleads_nobody(instance, alice, left):
    """Mount points for the workspace and for folders of tools lie in it."""
    work = alice.workspace(f"deep{abs(hash(left))}/w")
    first = os.path.relpath(work, alice.home).split("/")[0]
    tools = alice.home + "/.local/bin"
    os.makedirs(tools, exist_ok=True)
    for part in (alice.home + "/.local", tools):
        os.chown(part, alice.uid, alice.gid)
    own = profile(alice, {"home": "persistent", "read": ["~/.local/bin"]})
    options = ["-p", own]
    before = set(homes_of(instance, alice))
    instance.sh(alice, "true", workspace=work, options=options)
    [home] = set(homes_of(instance, alice)) - before
    for name in (first, ".local"):
        shutil.rmtree(os.path.join(home, name))
        subprocess.run(["sh", "-c", left.format(name).replace("~", home)], check=True)
        os.lchown(os.path.join(home, name), alice.uid, alice.gid)
    before = set(os.listdir("/etc"))
    done = instance.sh(alice, "pwd; echo here >made; ls -d ~/.local/bin", workspace=work, options=options)
    assert done.stdout.split() == [work, tools], done
    # Programs that make users have files of theirs there, for a moment.
    new = set(os.listdir("/etc")) - before
    assert os.path.exists(work + "/made") and not new & {"made", "w", "bin", ".local", first}


def test_two_sessions_share_a_home(instance, alice):
    work = alice.workspace()
    session = instance.create(alice, cwd=work)
    try:
        instance.sh(alice, "echo second >~/f", workspace=work)
        assert instance.ctl(alice, "exec", session, "--", "sh", "-c", "cat ~/f").stdout == "second\n"
    finally:
        instance.ctl(alice, "terminate", session)
        instance.ctl(alice, "remove", session)


def test_a_home_of_somebody_else_is_refused(instance, alice):
    """Whatever root did there by mistake."""
    work = alice.workspace()
    before = set(homes_of(instance, alice))
    instance.sh(alice, "true", workspace=work)
    [home] = set(homes_of(instance, alice)) - before
    os.chown(home, 0, 0)
    done = instance.sh(alice, "echo runs", workspace=work)
    assert done.returncode == 125 and "persistent home" in done.stderr and done.stdout == ""
    assert instance.sh(alice, "echo runs", workspace=work, options=["--home", "empty"]).stdout == "runs\n"


def test_home_is_no_way_to_setuid(instance, alice):
    work = alice.workspace()
    before = set(homes_of(instance, alice))
    instance.sh(alice, "true", workspace=work)
    [home] = set(homes_of(instance, alice)) - before
    shutil.copy("/usr/bin/id", home + "/id")
    os.chmod(home + "/id", 0o4755)
    subprocess.run(["mknod", "-m", "666", home + "/null", "c", "1", "3"], check=True)
    done = instance.sh(alice, "~/id -u; cat ~/null && echo opened; "
                              "awk '$6 !~ /nosuid/' /proc/self/mountinfo", workspace=work)
    assert done.stdout == f"{alice.uid}\n", done


# ---- workspaces that are shown only ----

def test_read_only_workspace(instance, either):
    work = either.workspace()
    either.write(work + "/f", "shown\n", 0o600)
    own = profile(either, {"workspace": "read-only"})
    done = instance.sh(either, "cat f; touch x; echo y >f; mkdir d; rm f; mv f g; chmod 777 f; ln f h; echo z >~/z && "
                               "echo home", workspace=work, options=["-p", own])
    assert done.stdout == "shown\nhome\n", done
    assert os.listdir(work) == ["f"] and os.stat(work + "/f").st_mode & 0o777 == 0o600


def test_read_only_workspace_by_the_interface(instance, alice):
    work = alice.workspace()
    reply = instance.call(alice, "io.sandboxd.Session.Create",
                          {"context": {"workspace": work, "lifetime": "detached", "workspaceMode": "read_only"}})[0]
    session = reply["parameters"]["id"]
    assert instance.ctl(alice, "exec", session, "--", "touch", "x").returncode == 1
    instance.ctl(alice, "terminate", session)
    instance.ctl(alice, "remove", session)
    assert os.listdir(work) == []


def test_a_user_layer_narrows_the_workspace_only(instance, alice):
    """What a profile shows read-only no layer of the user makes writable."""
    work = alice.workspace()
    own = profile(alice, {"workspace": "read-only"})
    for layer, result in (({"workspace": "direct"}, 1), ({"workspace": "read-only"}, 1)):
        context = {"workspace": work, "lifetime": "detached", "profileContent": open(own, encoding="utf-8").read(),
                   "userPolicy": json.dumps({"version": 1, "filesystem": layer})}
        session = instance.call(alice, "io.sandboxd.Session.Create", {"context": context})[0]["parameters"]["id"]
        assert instance.ctl(alice, "exec", session, "--", "touch", "x").returncode == result
        instance.ctl(alice, "terminate", session)
        instance.ctl(alice, "remove", session)
    assert os.listdir(work) == []


# ---- memory of its own ----

def test_tmpfs(instance, either):
    """It hides what lies below it, ends with the session and has the size that it has."""
    work = either.workspace()
    either.write(work + "/build/old", "x\n")
    own = profile(either, {"tmpfs": {"${workspace}/build": "2M", "~/cache": "1M", "/scratch": "1M", "${workspace}/none": "1M"}})
    script = ("ls -A build; echo new >build/f; ls build; head -c 3M /dev/zero >build/big 2>/dev/null || echo full; "
              "echo x >~/cache/f && echo x >/scratch/f && ls none; df -k --output=size build | tail -1")
    done = instance.sh(either, script, workspace=work, options=["-p", own])
    assert done.stdout.split() == ["f", "full", "2048"], done
    assert os.listdir(work + "/build") == ["old"] and not os.path.exists(work + "/none")


def test_tmpfs_over_a_denied_path_stays_denied(instance, alice):
    work = alice.workspace()
    alice.write(work + "/private/f", "secret\n")
    own = profile(alice, {"tmpfs": {"${workspace}/private": "1M"}, "deny": ["${workspace}/private"]})
    done = instance.sh(alice, "cat private/f; echo x >private/g && echo written", workspace=work, options=["-p", own])
    assert done.stdout == "", done


@pytest.mark.parametrize("place", ["/", "/proc", "/proc/sys", "/etc", "/usr/bin", "/dev", "/run/sandbox", "${workspace}", "rel",
                                   "/a/../b", "/run"])
def test_tmpfs_has_its_places(instance, alice, place):
    own = profile(alice, {"tmpfs": {place: "1M"}})
    done = instance.sh(alice, "echo runs", options=["-p", own])
    assert done.returncode == 125 and done.stdout == "" and "filesystem.tmpfs" in done.stderr, done


# ---- sockets ----

@contextlib.contextmanager
def greeter(user, path, mode=0o600):
    """Somebody who says hello on a socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, mode)
        os.chown(path, user.uid, user.gid)
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"hello\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            os.unlink(path)


GREET = ("python3 -c 'import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
         "print(s.recv(9).decode(), end=\"\")' %s 2>/dev/null")


def test_sockets(instance, either):
    """The one that is named, and none beside it."""
    folder = either.workspace()
    with greeter(either, folder + "/named") as named, greeter(either, folder + "/other") as other:
        own = profile(either, {"sockets": [named, folder + "/absent"]})
        done = instance.sh(either, f"{GREET % named}; {GREET % other}; ls {folder}; "
                                   f"echo x >{named} || echo closed; rm -f {named}; mv {named} x; true",
                           options=["-p", own])
        assert done.stdout.split() == ["hello", "named", "closed"], done
        assert instance.sh(either, GREET % named).stdout == ""
        assert sorted(os.listdir(folder)) == ["named", "other"]


def test_sockets_of_others(instance, alice, bob):
    """What the caller may not connect to outside is not shown inside."""
    folder = bob.workspace()
    for part in (bob.home, bob.base):
        os.chmod(part, 0o755)
    with greeter(bob, folder + "/s") as path:
        own = profile(alice, {"sockets": [path]})
        assert instance.sh(alice, f"{GREET % path}; ls {path}", options=["-p", own]).stdout == ""


def test_sockets_are_sockets(instance, alice):
    path = alice.write(os.path.join(alice.base, "no-socket"), "secret\n")
    own = profile(alice, {"sockets": [path]})
    done = instance.sh(alice, f"cat {path}", options=["-p", own])
    assert done.returncode == 125 and done.stdout == "", done


def test_the_daemons_socket_says_no(instance, alice):
    """On a connection made inside every method is refused, also where a policy shows the socket."""
    own = profile(alice, {"sockets": [instance.socket]})
    code = ("import socket; s=socket.socket(socket.AF_UNIX); s.connect(%r); "
            "s.sendall(b\'{\"method\":\"io.sandboxd.Session.List\"}\\0\'); print(s.recv(4096))" % instance.socket)
    work = alice.workspace()
    alice.write(work + "/c.py", code.replace("\\'", "'"))
    done = instance.sh(alice, "python3 c.py", workspace=work, options=["-p", own])
    assert "PermissionDenied" in done.stdout, done


# ---- groups ----

@pytest.fixture(scope="module")
def member(alice):
    """A user with a group of its own choice, and another one."""
    names = [f"sbxtk{os.getpid()}", f"sbxtl{os.getpid()}"]
    for name in names:
        subprocess.run(["groupadd", name], check=True)
        subprocess.run(["usermod", "-a", "-G", name, alice.name], check=True)
    before, alice.groups = alice.groups, os.getgrouplist(alice.name, alice.gid)
    yield alice, names
    alice.groups = before
    for name in names:
        subprocess.run(["groupdel", "-f", name], check=True)


def test_groups(member):
    user, (kept, other) = member
    import machine
    with machine.Instance() as instance:
        work = user.workspace()
        for name in (kept, other):
            user.write(f"{work}/{name}", name + "\n")
            shutil.chown(f"{work}/{name}", 0, name)
            os.chmod(f"{work}/{name}", 0o640)
        own = profile(user, {}, groups=[kept, "sbxt-nobody-has-it", "root"])
        done = instance.sh(user, f"cat {kept} {other}; id -G; echo x >f; chgrp {os.stat(f'{work}/{kept}').st_gid} f && echo given; "
                                 f"chgrp {os.stat(f'{work}/{other}').st_gid} f", workspace=work, options=["-p", own])
        gid = os.stat(f"{work}/{kept}").st_gid
        assert done.stdout == f"{kept}\n{user.gid} {gid}\ngiven\n", done
        assert "sbxt-nobody-has-it" in done.stderr and "root: the caller" in done.stderr
        assert instance.sh(user, f"cat {kept}; id -G", workspace=work).stdout == f"{user.gid}\n"


def test_groups_of_root(instance, root):
    """Root's own group is kept by nobody, and its sessions have one of their own."""
    own = profile(root, {}, groups=["root"])
    done = instance.sh(root, "id -G; id -u", options=["-p", own])
    assert done.stdout == "1879048192\n1879048192\n" and "root: the caller" in done.stderr, done


def test_groups_are_those_of_the_connection(member):
    """Somebody whose processes are not in the group yet (or no longer) gets no session with it."""
    user, (kept, _) = member
    import machine
    with machine.Instance() as instance:
        own = profile(user, {}, groups=[kept])
        with_groups, user.groups = user.groups, [user.gid]
        try:
            done = instance.sh(user, "echo runs", options=["-p", own])
        finally:
            user.groups = with_groups
        assert done.returncode == 125 and done.stdout == "" and "group" in done.stderr, done


# ---- the caller's home, masked ----

SECRETS = (".ssh/id_sbxt", ".aws/credentials", ".netrc", ".config/gh/hosts.yml", ".npmrc", ".bash_history", ".docker/config.json")


@contextlib.contextmanager
def furnished(user):
    """Secrets and ordinary files in the caller's home."""
    made = []
    for name in (*SECRETS, ".config/tool/settings", "sbxt-notes/deep/n.txt", ".sbxtrc"):
        path = os.path.join(user.home, name)
        if os.path.lexists(path):
            continue
        top = path
        while not os.path.lexists(os.path.dirname(top)):
            top = os.path.dirname(top)
        made.append(top)
        user.write(path, ("SECRETBYTES " if name in SECRETS else "ordinary ") + name + "\n", 0o644)
    try:
        yield
    finally:
        for path in made:
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)


LOOK = ("cat ~/.config/tool/settings ~/sbxt-notes/deep/n.txt ~/.sbxtrc; "
        "for f in " + " ".join(SECRETS) + "; do cat ~/$f ~/./$f /proc/self/root/$HOME/$f; stat ~/$f; done; "
        "find ~/.ssh ~/.aws ~/.config/gh -type f; cat ~/.config/*/* | grep SECRET; "
        "touch ~/x ~/.config/x ~/.config/tool/x ~/sbxt-notes/x; echo x >>~/.sbxtrc; mv ~/.config ~/.c2; rm ~/.sbxtrc; true")


def test_masked_home(instance, alice):
    own = profile(alice, {"home": "masked"})
    os.symlink(".ssh/id_sbxt", alice.home + "/sbxt-link")
    try:
        with furnished(alice):
            done = instance.sh(alice, LOOK + "; cat ~/sbxt-link; ( : >~/new ) 2>/dev/null && echo written; mkdir ~/.config/d && echo made; true", options=["-p", own])
            assert done.stdout.splitlines() == ["ordinary .config/tool/settings", "ordinary sbxt-notes/deep/n.txt",
                                                "ordinary .sbxtrc"], done
            assert not os.path.exists(alice.home + "/x") and not os.path.exists(alice.home + "/.config/tool/x")
    finally:
        os.unlink(alice.home + "/sbxt-link")


def test_masked_home_of_root(instance, root):
    """What everybody may read of it: its sessions have a uid of their own."""
    own = profile(root, {"home": "masked"})
    with furnished(root):
        done = instance.sh(root, "cat ~/.sbxtrc; " + LOOK, options=["-p", own])
        assert "ordinary .sbxtrc" in done.stdout and "SECRETBYTES" not in done.stdout, done


def test_secrets_that_appear_later_do_not_show(instance, alice):
    """New ones, and ones that are renamed over what was there: no mask could have stayed."""
    own = profile(alice, {"home": "masked"})
    with furnished(alice):
        for name in (".aws/credentials", ".netrc"):
            os.unlink(os.path.join(alice.home, name))
        os.rmdir(alice.home + "/.aws")
        session = instance.create(alice, "-p", own)
        try:
            for name in (".aws/credentials", ".netrc", ".ssh/new", ".config/gh/new"):
                alice.write(os.path.join(alice.home, name), "SECRETBYTES\n")
            for name in (".npmrc", ".ssh/id_sbxt"):
                os.rename(alice.write(os.path.join(alice.home, "sbxt-new"), "SECRETBYTES\n"), os.path.join(alice.home, name))
            alice.write(alice.home + "/sbxt-notes/new", "later\n")
            done = instance.ctl(alice, "exec", session, "--", "sh", "-c",
                                LOOK + "; cat ~/.ssh/new ~/.config/gh/new ~/sbxt-notes/new; true")
            assert "SECRETBYTES" not in done.stdout and "later" in done.stdout, done
        finally:
            instance.ctl(alice, "terminate", session)
            instance.ctl(alice, "remove", session)
            shutil.rmtree(alice.home + "/.aws")
            os.unlink(alice.home + "/.netrc")


def test_denials_in_a_masked_home(instance, alice):
    """Also of what does not exist; and a folder of it may be writable."""
    own = profile(alice, {"home": "masked", "deny": ["~/sbxt-notes/deep", "~/.config/later", "~/.sbxtrc"], "write": ["~/.config/tool"]})
    with furnished(alice):
        session = instance.create(alice, "-p", own)
        try:
            alice.write(alice.home + "/.config/later", "DENIED\n")
            done = instance.ctl(alice, "exec", session, "--", "sh", "-c",
                                "cat ~/.sbxtrc ~/sbxt-notes/deep/n.txt ~/.config/later; ls ~/sbxt-notes; echo new >~/.config/tool/settings")
            # What is denied has a mask, whether it exists or not.
            assert done.stdout == "deep\n", done
            with open(alice.home + "/.config/tool/settings", encoding="utf-8") as f:
                assert f.read() == "new\n"
        finally:
            instance.ctl(alice, "terminate", session)
            instance.ctl(alice, "remove", session)
            os.unlink(alice.home + "/.config/later")


# ---- the host's root ----

@pytest.fixture
def on_host():
    """A folder of the host that no session has of its own, and one of a daemon."""
    folder = f"/sbxt-{os.getpid()}"
    os.mkdir(folder)
    with open(folder + "/f", "w", encoding="utf-8") as f:
        f.write("of the host\n")
    os.mkdir("/var/lib/sbxt-host")
    with open("/var/lib/sbxt-host/f", "w", encoding="utf-8") as f:
        f.write("of a daemon\n")
    with open("/etc/sbxt-host.conf", "w", encoding="utf-8") as f:
        f.write("of etc\n")
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree("/var/lib/sbxt-host")
    os.unlink("/etc/sbxt-host.conf")


def test_root_host(instance, either, bob, on_host):
    bob.write(bob.home + "/readable", "of bob\n")
    os.chmod(bob.home, 0o755)
    path = f"/run/sbxt-{os.getpid()}.sock"
    own = profile(either, {"root": "host"})
    with greeter(either, path, 0o666), furnished(either):
        done = instance.sh(either, f"cat {on_host}/f /var/lib/sbxt-host/f /etc/sbxt-host.conf; cat {bob.home}/readable; ls /home; "
                                   f"cat /etc/shadow; find /var/log /boot /run/user /var/lib/sandboxd {instance.folder} -mindepth 1; {GREET % path}; "
                                   "cat /etc/machine-id; "
                                   f"touch {on_host}/x /var/lib/sbxt-host/x /etc/x /x /srv/x /var/x; echo x >{on_host}/f; "
                                   "grep -c . /etc/resolv.conf >/dev/null; getent passwd $(id -u) >/dev/null && echo known; "
                                   + LOOK + "; find /tmp /var/tmp -mindepth 1; echo x >/tmp/x && echo x >~/y && echo own",
                           options=["-p", own])
        expected = ["of the host", "of a daemon", "of etc"]
        if either.uid:
            expected += [either.name]
        assert done.stdout.splitlines() == [*expected, "known", "own"], done
        assert sorted(os.listdir(on_host)) == ["f"] and not os.path.exists("/var/lib/sbxt-host/x")


def test_root_host_with_denials(instance, alice, on_host):
    own = profile(alice, {"root": "host", "home": "masked", "deny": [on_host, "/var/lib/sbxt-host/f", "/etc/sbxt-host.conf", "/srv/later"]})
    session = instance.create(alice, "-p", own)
    os.mkdir("/srv/later")
    try:
        with furnished(alice):
            done = instance.ctl(alice, "exec", session, "--", "sh", "-c",
                                f"find {on_host} /srv/later /var/lib/sbxt-host -mindepth 1; ls -d {on_host} /srv/later; cat /etc/sbxt-host.conf {on_host}/f; true")
            assert done.stdout == "", done
            done = instance.sh(alice, LOOK, options=["-p", own])
            assert "SECRETBYTES" not in done.stdout and "ordinary .sbxtrc" in done.stdout, done
    finally:
        os.rmdir("/srv/later")
        instance.ctl(alice, "terminate", session)
        instance.ctl(alice, "remove", session)


def test_home_elsewhere_is_not_shown_by_the_host(instance, alice):
    """With root: host and a home that is empty or masked, wherever the home lies."""
    folder = f"/srv/sbxt-{os.getpid()}"
    shutil.copytree(alice.home, folder, symlinks=True, ignore=shutil.ignore_patterns("work"))
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.lchown(os.path.join(parent, name), alice.uid, alice.gid)
    os.chown(folder, alice.uid, alice.gid)
    work = alice.workspace()
    subprocess.run(["usermod", "-d", folder, alice.name], check=True)
    before, alice.home = alice.home, folder
    try:
        import machine
        with furnished(alice), machine.Instance() as other:
            for home in ("empty", "masked", "persistent"):
                own = profile(alice, {"root": "host", "home": home})
                done = other.sh(alice, f"{LOOK}; cat {folder}/.ssh/id_sbxt; echo end", workspace=work, options=["-p", own])
                assert "SECRETBYTES" not in done.stdout and done.stdout.endswith("end\n"), done
                assert ("ordinary" in done.stdout) == (home == "masked"), done
    finally:
        alice.home = before
        subprocess.run(["usermod", "-d", before, alice.name], check=True)
        shutil.rmtree(folder)


def test_where_a_secret_leads_is_hidden(instance, alice):
    """The folder itself, or one above it, is a link to a place that the host's root shows."""
    folder = f"/srv/sbxt-{os.getpid()}"
    alice.write(folder + "/ssh/id_sbxt", "SECRETBYTES\n", 0o644)
    alice.write(folder + "/config/gh/hosts.yml", "SECRETBYTES\n", 0o644)
    alice.write(folder + "/config/tool", "ordinary\n", 0o644)
    links = {".ssh": folder + "/ssh", ".config": folder + "/config"}
    for name, target in links.items():
        os.symlink(target, os.path.join(alice.home, name))
    try:
        for home in ("empty", "masked"):
            own = profile(alice, {"root": "host", "home": home})
            done = instance.sh(alice, f"cat {folder}/ssh/* {folder}/config/gh/* ~/.ssh/* ~/.config/gh/*; cat {folder}/config/tool",
                               options=["-p", own])
            assert done.stdout == "ordinary\n", done
    finally:
        for name in links:
            os.unlink(os.path.join(alice.home, name))
        shutil.rmtree(folder)


# ---- homes that somebody spoiled, or that lie elsewhere ----

@pytest.mark.parametrize("closed", ["~", "~/.local", "~ ~/.local"])
def test_what_a_session_closed_opens_to_the_next(instance, alice, closed):
    """Mount points lie in it: the way to them is the user's own, and no reason not to start."""
    top = "closed" + closed.count("~") * "x" + closed.count("l") * "y"
    work = alice.workspace(f"{top}/w")
    tools = alice.home + "/.local/bin"
    os.makedirs(tools, exist_ok=True)
    for part in (alice.home + "/.local", tools):
        os.chown(part, alice.uid, alice.gid)
    own = profile(alice, {"home": "persistent"})
    done = instance.sh(alice, f"echo kept >~/f; mkdir -p ~/other; chmod 0 ~/other {closed}; true", workspace=work,
                       options=["-p", own])
    assert done.returncode == 0, done
    done = instance.sh(alice, "pwd; cat ~/f; ls -d ~/.local/bin", workspace=work, options=["-p", own])
    assert done.stdout.split() == [work, "kept", tools], done


def test_a_home_that_was_never_given_away(instance, alice):
    """The daemon ended between making it and giving it to its user."""
    work = alice.workspace()
    before = set(homes_of(instance, alice))
    own = profile(alice, {"home": "persistent"})
    instance.sh(alice, "true", workspace=work, options=["-p", own])
    [home] = set(homes_of(instance, alice)) - before
    shutil.rmtree(home)
    os.mkdir(home, 0o700)
    assert instance.sh(alice, "echo kept >~/f; cat ~/f", workspace=work, options=["-p", own]).stdout == "kept\n"
    assert os.stat(home).st_uid == alice.uid


def test_folders_put_together_keep_their_rights(member, root):
    """What a session without the group could not list, and what nobody else could, it cannot list there either."""
    user, (kept, other) = member
    import machine
    folder = f"/srv/sbxt-rights-{os.getpid()}"
    work = user.workspace()
    try:
        for name, group, mode in (("kept", kept, 0o750), ("other", other, 0o750), ("all", other, 0o755), ("search", other, 0o751)):
            os.makedirs(f"{folder}/{name}")
            for file in ("open", "denied"):
                user.write(f"{folder}/{name}/{file}", "SECRETBYTES\n" if file == "denied" else "shown\n", 0o644)
            shutil.chown(f"{folder}/{name}", 0, group)
            os.chmod(f"{folder}/{name}", mode)
        denied = [f"{folder}/{name}/denied" for name in ("kept", "other", "all", "search")]
        own = profile(user, {"root": "host", "deny": denied}, groups=[kept])
        with machine.Instance() as instance:
            done = instance.sh(user, "for d in kept other all search; do echo $d $(stat -c %a:%g $d) $(ls $d 2>/dev/null) "
                                     "$(cat $d/open 2>/dev/null); done; cat */denied", workspace=work,
                               options=["-p", own, "--workdir", folder])
        gid = os.stat(f"{folder}/kept").st_gid
        lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert "SECRETBYTES" not in done.stdout, done
        assert lines["kept"] == f"750:{gid} open shown", done
        assert lines["all"].startswith("755:") and lines["all"].endswith(" open shown"), done
        assert lines["other"].split(":")[0] == "750" and "open" not in lines["other"] and "shown" not in lines["other"], done
        assert lines["search"].startswith("751:") and lines["search"].endswith(" shown") and "open" not in lines["search"], done
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_home_behind_a_link(instance, alice):
    """As where /home is a link to /data/home: its real name is the one that counts, for all that is said of ~."""
    base = f"/srv/sbxt-real-{os.getpid()}"
    link = f"/srv/sbxt-link-{os.getpid()}"
    folder = f"{base}/{alice.name}"
    shutil.copytree(alice.home, folder, symlinks=True, ignore=shutil.ignore_patterns("work"))
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.lchown(os.path.join(parent, name), alice.uid, alice.gid)
    os.chown(folder, alice.uid, alice.gid)
    os.symlink(base, link)
    work = alice.workspace()
    subprocess.run(["usermod", "-d", f"{link}/{alice.name}", alice.name], check=True)
    before, alice.home = alice.home, folder
    try:
        import machine
        with furnished(alice), machine.Instance() as other:
            for home in ("empty", "masked", "persistent"):
                own = profile(alice, {"root": "host", "home": home})
                done = other.sh(alice, f"{LOOK}; cat {folder}/.ssh/id_sbxt {link}/{alice.name}/.ssh/id_sbxt; echo end",
                                workspace=work, options=["-p", own])
                assert "SECRETBYTES" not in done.stdout and done.stdout.endswith("end\n"), done
                assert ("ordinary" in done.stdout) == (home == "masked"), done
            # What appears later is hidden as well, and the home itself is no workspace by any of its names.
            session = other.create(alice, "-p", profile(alice, {"root": "host", "home": "masked"}), cwd=work)
            alice.write(folder + "/.aws/later", "SECRETBYTES\n", 0o644)
            done = other.ctl(alice, "exec", session, "--", "sh", "-c", f"cat {folder}/.aws/later ~/.aws/later; echo end")
            assert done.stdout == "end\n", done
            for name in (folder, f"{link}/{alice.name}"):
                done = other.ctl(alice, "run", "-T", "-w", name, "--", "true")
                assert done.returncode == 125, (name, done)
            other.ctl(alice, "terminate", "--grace", "0", session)
    finally:
        alice.home = before
        subprocess.run(["usermod", "-d", before, alice.name], check=True)
        shutil.rmtree(base)
        os.unlink(link)
