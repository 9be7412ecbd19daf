"""Calls about sessions, and what a test does to those who keep them."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time

from machine import eventually
from varlink import PIPE

SESSION = "io.sandboxd.Session."


class Connection:
    """A varlink connection of a user that stays open, for several calls."""

    def __init__(self, instance, user):
        self.child = user.popen(["/usr/bin/python3", "-c", PIPE, instance.socket], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
        self.data = b""

    def send(self, method, parameters=None, **flags):
        message = {"method": method, **flags}
        if parameters is not None:
            message["parameters"] = parameters
        self.child.stdin.write(json.dumps(message).encode() + b"\0")
        self.child.stdin.flush()

    def reply(self, timeout=60):
        """The next reply; None when there is none in time or the connection has ended."""
        end = time.monotonic() + timeout
        while b"\0" not in self.data:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0, end - time.monotonic()))
            part = os.read(self.child.stdout.fileno(), 65536) if ready else b""
            if not part:
                return None
            self.data += part
        part, _, self.data = self.data.partition(b"\0")
        return json.loads(part)

    def call(self, method, parameters=None, **flags):
        self.send(method, parameters, **flags)
        return self.reply()

    def close(self):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def result(reply):
    assert "error" not in reply, reply
    return reply.get("parameters", {})


def context(user, **more):
    return {"workspace": user.workspace(), "profile": "agent", "lifetime": "detached", **more}


def command(*words, **more):
    return {"commandLine": list(words), "standardInput": "null", "standardOutput": "null", **more}


def create(instance, user, **more):
    return result(instance.call(user, SESSION + "Create", {"context": context(user, **more)})[0])["id"]


def describe(instance, user, session):
    return result(instance.call(user, SESSION + "Describe", {"id": session})[0])


def state(instance, user, session):
    return describe(instance, user, session)["runtime"]["state"]


def start(instance, user, session, *words, **more):
    """Runs a command without waiting for its end; its number."""
    reply = instance.call(user, SESSION + "Exec", {"id": session, "command": command(*words, **more)})[0]
    return result(reply)["process"]


def wait(instance, user, session, process=None):
    parameters = {"id": session, **({"process": process} if process else {})}
    with Connection(instance, user) as connection:
        return result(connection.call(SESSION + "Wait", parameters))["result"]


def beats(path):
    """Whether a program that appends to a file goes on."""
    size = os.path.getsize(path)
    return eventually(lambda: os.path.getsize(path) > size, 20)


BEAT = "while :; do echo >> beat; sleep 0.01; done"


def kill_api(instance):
    for pid in instance.workers("sandboxd-api"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_daemon(instance):
    instance.process.kill()
    instance.process.wait()
    instance.process.stdout.close()
    instance.process = None
    instance.start()


def stored(instance, user):
    folder = f"{instance.state}/api/{user.uid}"
    return [name for name in os.listdir(folder) if len(name) == 32], folder
