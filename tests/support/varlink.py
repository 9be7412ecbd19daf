"""A varlink client that stays: calls with more, replies one by one, as any user."""

import json
import os
import select
import subprocess
import time

# Runs as the user: what comes on standard input goes to the socket, and the other way round; `pause` on
# standard input cannot be a message, so reading can be held up.
PIPE = r"""
import os, socket, sys, threading
s = socket.socket(socket.AF_UNIX)
if len(sys.argv) > 2:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(sys.argv[2]))
s.connect(sys.argv[1])
def up():
    while True:
        b = os.read(0, 65536)
        if not b:
            os._exit(0)
        s.sendall(b)
threading.Thread(target=up, daemon=True).start()
while True:
    b = s.recv(65536)
    if not b:
        os._exit(0)
    while b:
        b = b[os.write(1, b):]
"""


class Connection:
    """A connection of a user's that stays open, for several calls."""

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

    def next(self, timeout=60):
        """The next reply; None at the end of the connection."""
        end = time.monotonic() + timeout
        while b"\0" not in self.data:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no reply in {timeout} s")
            part = os.read(self.child.stdout.fileno(), 65536)
            if not part:
                return None
            self.data += part
        part, _, self.data = self.data.partition(b"\0")
        return json.loads(part)

    def reply(self, timeout=60):
        """As next(), also None when there is none in time."""
        try:
            return self.next(timeout)
        except TimeoutError:
            return None

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


class Call(Connection):
    """One open call, with more, on a connection of its own."""

    def __init__(self, instance, user, method, parameters=None, **flags):
        super().__init__(instance, user)
        self.send(method, parameters or {}, **(flags or {"more": True}))

    def until(self, condition, timeout=60):
        """Replies up to and with the first that the condition holds for."""
        found = []
        while True:
            reply = self.next(timeout)
            assert reply is not None, found
            found.append(reply)
            if condition(reply):
                return found
