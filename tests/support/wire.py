"""A varlink client that can send what no client should: bytes, cuts, descriptors."""

import json
import os
import socket


class Connection:
    """To the socket of an instance, by path; as another user than root where one is given."""

    def __init__(self, path, user=None, timeout=30):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.buffer = b""
        self.fds = []
        if user and user.uid:
            self._connect_as(path, user)
        else:
            self.socket.connect(path)

    def _connect_as(self, path, user):
        """The kernel keeps who called connect()."""
        groups = os.getgroups()
        os.setgroups(user.groups)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        try:
            self.socket.connect(path)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def send(self, data, fds=()):
        """One sendmsg() where there are descriptors. False: the other side has closed."""
        try:
            if fds:
                assert socket.send_fds(self.socket, [data], list(fds)) == len(data)
            else:
                self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send_call(self, method, parameters=None, fds=(), **flags):
        return self.send(message(method, parameters, **flags), fds)

    def receive(self):
        """The next reply, or None when the other side has closed; descriptors are added to fds."""
        while b"\0" not in self.buffer:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 65536, 16)
            except ConnectionResetError:
                data, fds = b"", []
            self.fds += fds
            if not data:
                return None
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, parameters=None, fds=(), **flags):
        """One call, one reply (None: closed)."""
        self.send_call(method, parameters, fds, **flags)
        return self.receive()

    def finish(self):
        """No more will be sent: all replies that still come."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        found = []
        while (reply := self.receive()) is not None:
            found.append(reply)
        assert self.buffer == b"", self.buffer[:200]
        return found


def message(method, parameters=None, **flags):
    """The bytes of a call."""
    found = {"method": method, **flags}
    if parameters is not None:
        found["parameters"] = parameters
    return json.dumps(found, separators=(",", ":")).encode() + b"\0"
