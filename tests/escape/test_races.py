"""Whoever starts a session names paths; meanwhile somebody exchanges what is behind them. What a session then sees is the right
thing or nothing, and nothing that the paths could lead to is read or written.

SANDBOXD_RACES=N makes it N starts of each kind instead of a few."""

import json
import os
import socket

import pytest

import machine

N_STARTS = int(os.environ.get("SANDBOXD_RACES", "2"))
SECRET = "SBXTOFANOTHER"


class Scene:
    """The attacker's folders, a victim's folder, and who starts the sessions."""

    def __init__(self, attacker, victim, caller):
        self.attacker, self.caller = attacker, caller
        # For an attacker who starts the sessions: what he may read outside, and must not write or be shown. For root as the caller:
        # what only root may read.
        self.treasure = victim.workspace()
        victim.write(self.treasure + "/secret", SECRET + "\n", 0o600 if victim.uid == 0 else 0o644)
        victim.write(self.treasure + "/sub/secret", SECRET + "\n", 0o600 if victim.uid == 0 else 0o644)
        os.chmod(self.treasure, 0o700 if victim.uid == 0 else 0o777)
        self.base = attacker.workspace()
        self.before = machine.tree_state(self.treasure)
        self.pairs = []

    def folder(self, name):
        """A folder that is a link to the treasure every other moment."""
        path = f"{self.base}/{name}"
        self.attacker.write(path + "/mine", "mine\n")
        self.attacker.write(path + "/sub/mine", "mine\n")
        os.symlink(self.treasure, path + ".link")
        os.lchown(path + ".link", self.attacker.uid, self.attacker.gid)
        self.pairs += [path, path + ".link"]
        return path

    def file(self, name):
        path = f"{self.base}/{name}"
        self.attacker.write(path, "mine\n")
        os.symlink(self.treasure + "/secret", path + ".link")
        os.lchown(path + ".link", self.attacker.uid, self.attacker.gid)
        self.pairs += [path, path + ".link"]
        return path

    def untouched(self):
        return machine.tree_state(self.treasure) == self.before


def attack(paths):
    """What the session tries with each path, and with the same names below the workspace."""
    return "; ".join(f"cat {p} {p}/secret {p}/sub/secret {p}/mine; echo x >>{p}; echo x >{p}/planted; rm -rf {p}/secret; "
                     f"chmod 777 {p}/sub" for p in paths) + "; cat mine; true"


def kinds(scene):
    """Name: what is asked for, the paths that the session then tries. Each opens something else in the launcher or in init. The
    command line would look first what is behind a path, as its caller: it is not asked."""
    steady = scene.caller.workspace()
    work, below, read, write, deny = (scene.folder(name) for name in ("work", "below", "read", "write", "deny"))
    secret, input_file = scene.file("denied-file"), scene.file("read-file")
    content = json.dumps({"version": 1, "name": "raced", "extends": ["agent"], "filesystem": {"deny": [deny + "/sub"]}})
    inside = scene.base + "/inside"
    scene.attacker.write(inside + "/f", "mine\n")
    scene.attacker.write(inside + "/.env", "mine\n")
    os.symlink(scene.treasure + "/secret", inside + "/.env.link")
    scene.pairs += [inside + "/.env", inside + "/.env.link"]
    return {
        "workspace": ({"workspace": work}, [work, "."]),
        "below": ({"workspace": below + "/sub"}, [below, "."]),
        "read": ({"workspace": steady, "read": [read]}, [read]),
        "read-file": ({"workspace": steady, "read": [input_file]}, [input_file]),
        "write": ({"workspace": steady, "write": [write]}, [write]),
        "write-below": ({"workspace": steady, "write": [write + "/sub"]}, [write, write + "/sub"]),
        "deny": ({"workspace": inside, "deny": [deny], "write": [deny]}, [deny]),
        "deny-file": ({"workspace": steady, "deny": [secret], "write": [secret]}, [secret]),
        "env": ({"workspace": inside}, [inside + "/.env", inside + "/.env.link"]),
        "profile": ({"workspace": steady, "profileContent": content, "write": [deny]}, [deny + "/sub"]),
        "workdir": ({"workspace": steady, "write": [work], "workingDirectory": work}, [work, "."]),
        "host": ({"workspace": steady, "profile": "host"}, [read + "/planted"]),
    }


def call(instance, user, method, parameters):
    """One call on a connection that the kernel says is this user's."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(120)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        try:
            s.connect(instance.socket)
        finally:
            os.seteuid(0)
            os.setegid(0)
        s.sendall(json.dumps({"method": "io.sandboxd.Session." + method, "parameters": parameters}).encode() + b"\0")
        data = b""
        while b"\0" not in data:
            part = s.recv(65536)
            assert part, "the connection has ended"
            data += part
    return json.loads(data.partition(b"\0")[0])


def session(instance, caller, context, script):
    """What a session says, or None where none starts."""
    made = call(instance, caller, "Create", {"context": {**context, "lifetime": "detached", "removeOnExit": True}})
    if "error" in made:
        return None
    identity = made["parameters"]["id"]
    done = instance.ctl(caller, "exec", "-T", identity, "--", "sh", "-c", script, cwd="/", timeout=120)
    call(instance, caller, "Terminate", {"id": identity})
    return done.stdout


def race(instance, scene, swapper):
    counts = {}
    raced = kinds(scene)
    child = scene.attacker.popen([swapper, *scene.pairs])
    try:
        for _ in range(N_STARTS):
            for kind, (context, paths) in raced.items():
                seen = session(instance, scene.caller, context, attack(paths))
                assert SECRET not in (seen or ""), (kind, seen)
                result = "refused" if seen is None else "shown" if "mine" in seen else "nothing"
                counts[kind, result] = counts.get((kind, result), 0) + 1
                assert scene.untouched(), (kind, seen)
    finally:
        child.kill()
        child.wait()
    print(counts)
    for a, b in zip(scene.pairs[::2], scene.pairs[1::2]):
        if os.path.islink(a):
            os.rename(a, a + ".x")
            os.rename(b, a)
    assert "mine\n" in session(instance, scene.caller, raced["workspace"][0], "cat mine")


@pytest.mark.parametrize("who", ["user", "root"])
def test_t06_exchanged_paths(instance, compiled, who):
    """By the user who starts the session, towards another user's folder; and by a user in whose folder root starts one."""
    with machine.test_user("x") as attacker, machine.test_user("y") as other, machine.root_user() as root:
        if who == "user":
            race(instance, Scene(attacker, other, attacker), compiled("swapper"))
        else:
            race(instance, Scene(attacker, root, root), compiled("swapper"))


def test_t07_moved_parents(instance, compiled):
    """The folder above moves, all the time: to and fro with one in which the same name is a link."""
    with machine.test_user("x") as attacker, machine.test_user("y") as other:
        scene = Scene(attacker, other, attacker)
        right, wrong = scene.base + "/right", scene.base + "/wrong"
        attacker.write(right + "/a/b/mine", "mine\n")
        attacker.write(wrong + "/f", "mine\n")
        os.symlink(scene.treasure, wrong + "/a")
        os.makedirs(scene.treasure + "/b", exist_ok=True)
        with open(scene.treasure + "/b/secret", "w", encoding="utf-8") as f:
            f.write(SECRET + "\n")
        scene.before = machine.tree_state(scene.treasure)
        child = attacker.popen([compiled("swapper"), right, wrong])
        try:
            for _ in range(5 * N_STARTS):
                seen = session(instance, attacker, {"workspace": right + "/a/b"}, attack([right + "/a/b", "."]))
                assert SECRET not in (seen or "") and scene.untouched(), seen
        finally:
            child.kill()
            child.wait()
