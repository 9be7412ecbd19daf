"""Callers inside a session, where somebody made the socket visible: PermissionDenied from every method, and no more."""

import glob
import json
import os
import re

from machine import TOP, eventually

ASK = r"""
import json, socket, sys
path, methods = sys.argv[1], json.load(sys.stdin)
found = {}
for method in methods:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(path)
    s.sendall(json.dumps({"method": method, "parameters": {}, "more": True}).encode() + b"\0")
    data = b""
    while b"\0" not in data:
        more = s.recv(4096)
        if not more:
            break
        data += more
    found[method] = data.decode()
    s.close()
json.dump(found, sys.stdout)
"""


def methods():
    found = []
    for path in glob.glob(os.path.join(TOP, "proto/idl/*.varlink")):
        with open(path, encoding="utf-8") as f:
            text = f.read()
        interface = re.search(r"^interface (\S+)", text, re.M).group(1)
        found += [f"{interface}.{name}" for name in re.findall(r"^method (\w+)", text, re.M)]
    return found


def inside(instance, user, code, *arguments, input=None):
    done = instance.ctl(user, "run", "-T", "--read", instance.runtime, "--", "python3", "-c", code, instance.socket, *arguments,
                        cwd=user.workspace(), input=input)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_method_is_denied(own_instance, either):
    names = methods()
    assert len(names) > 50
    before = own_instance.head()
    found = json.loads(inside(own_instance, either, ASK, input=json.dumps(names)))
    for name in names:
        message = json.loads(found[name].rstrip("\0"))
        assert message["error"] == "org.varlink.service.PermissionDenied", name
    # Only the session itself left rows, and its owner is served as before.
    assert {r["action"] for r in own_instance.rows(before)} <= {"load", "start", "exec", "exit", "end", "limit", "refuse"}
    assert "error" not in own_instance.call(either, "io.systemd.service.Ping")[0]


HOG = r"""
import socket, sys, time
held = []
for _ in range(400):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    try:
        s.connect(sys.argv[1])
        s.sendall(b"x" * 70000)
    except OSError:
        s.close()
        continue
    held.append(s)
print("held", flush=True)
sys.stdin.read()
"""


def test_they_use_up_nothing_of_their_owner(own_instance, alice, bob):
    """Neither its connections nor its worker's memory, and others notice nothing."""
    instance = own_instance
    hog = instance.ctl_start(alice, "run", "-T", "--read", instance.runtime, "--", "python3", "-c", HOG, instance.socket,
                             cwd=alice.workspace(), stdin=-1, stdout=-1, text=True)
    try:
        assert hog.stdout.readline() == "held\n"
        assert eventually(lambda: instance.call(bob, "io.systemd.service.Ping"), 20)

        def is_served():
            replies = instance.call(alice, "io.sandboxd.Session.List", {}, more=True)
            return replies and "error" not in replies[0]
        assert eventually(is_served, 30)
    finally:
        hog.communicate("", timeout=60)
    assert len(os.listdir(f"/proc/{instance.process.pid}/fd")) < 300
