"""Calls about sessions, and what a test does to those who keep them."""

import contextlib
import os
import signal

from machine import eventually
from varlink import Connection

SESSION = "io.sandboxd.Session."


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
