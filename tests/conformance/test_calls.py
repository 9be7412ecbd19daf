"""Calls whose types are right and whose values are anything: D13, D45."""

import os
import random
import socket

import pytest

import interfaces
from machine import eventually
from wire import Connection

IDL = interfaces.load()
TEXTS = ["", "x", "a" * 64, "a" * 65000, "%s%n%5$n", "\u202e\u0001\x1b[31m", "/", "/etc/passwd", "..", "../../x", "~", "~root", "${home}",
         "${workspace}/**", "/proc/self/root", "/tmp", "*", "*.com", "*.example.net", "a.example:80", "a.example:99999", "[::1]:80",
         "1.2.3.4", "10.0.0.0/8", "http://a.example/\r\nx: y", "https://user:pw@a.example:443/", "agent", "offline", "none",
         "{}", "[", '{"version":1,"name":"x"}', '{"version":1,"name":"x","network":{"default":"allow"}}', "K=V", "=", "K", "SIGKILL",
         "SIGNOPE", "9", "-1", "root", "0", "4294967295", "io.sandboxd.Session", "running", "net", "allow", "deny", "raw",
         "sandboxd.stream1", "file_descriptor", "0" * 32, "f" * 32, "\u00e4\u20ac\U0001f600", "'; DROP TABLE decision; --"]
NUMBERS = [0, 1, -1, 2, 7, 8, 63, 64, 80, 255, 65535, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53, 2 ** 63 - 1, -2 ** 63]


class Maker:
    """Random values of a type, with the ids that exist among the texts."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.known = ["x"]

    def text(self):
        return self.rng.choice(self.known if self.rng.random() < 0.3 else TEXTS)

    def value(self, interface, kind, depth=0):
        rng, (what, is_nullable, rest) = self.rng, interface.resolve(kind)
        if is_nullable and depth and rng.random() < 0.5:
            return None
        if what == "struct":
            return {name: self.value(interface, t, depth + 1) for name, t in rest.items()
                    if not t[1] or rng.random() < (0.25 if depth else 0.6)}
        if what == "array":
            return [self.value(interface, rest, depth + 1) for _ in range(rng.choice((0, 1, 1, 2, 5, 40)))]
        if what == "map":
            return {self.text(): self.value(interface, rest, depth + 1) for _ in range(rng.choice((0, 1, 3)))}
        if what == "enum":
            return rng.choice(rest)
        return {"bool": lambda: rng.random() < 0.5, "int": lambda: rng.choice(NUMBERS), "float": lambda: rng.random(),
                "string": self.text, "object": dict}[what]()


def descriptors(rng):
    """Some that a client may pass, and some that it may not."""
    makers = [lambda: os.open("/dev/null", os.O_RDWR), lambda: os.pipe(), lambda: os.open("/usr", os.O_RDONLY),
              lambda: os.memfd_create("x"), lambda: socket.socketpair(), lambda: os.open("/etc/passwd", os.O_PATH)]
    found = []
    for _ in range(rng.choice((0, 0, 0, 1, 1, 3))):
        made = rng.choice(makers)()
        for one in made if isinstance(made, tuple) else (made,):
            found.append(one if isinstance(one, int) else one.detach())
    return found


def one_call(path, user, maker):
    """A random call on a connection of its own; whether it was answered."""
    name = maker.rng.choice(list(IDL))
    method = maker.rng.choice(list(IDL[name].methods))
    parameters = maker.value(IDL[name], IDL[name].methods[method][0])
    flags = maker.rng.choice(({}, {}, {"more": True}, {"more": True}, {"oneway": True}, {"upgrade": True}))
    fds = descriptors(maker.rng) if "FileDescriptor" in str(IDL[name].methods[method][0]) else []
    try:
        with Connection(path, user, timeout=1) as c:
            c.send_call(f"{name}.{method}", parameters, fds, **flags)
            reply = None if flags.get("oneway") else c.receive()
    except (TimeoutError, ValueError, OSError):
        return False
    finally:
        for fd in fds:
            os.close(fd)
    if reply and "id" in reply.get("parameters", {}):
        maker.known.append(reply["parameters"]["id"])
    assert reply is None or reply.get("error") != "io.systemd.System" or "errnoName" in reply["parameters"]
    return reply is not None


@pytest.mark.parametrize("seed", [1, 2])
def test_D13_D45_calls_with_any_values(own_daemon, alice, seed):
    """Answered, refused or cut off: no process of the daemon ends, and it serves afterwards."""
    maker = Maker(seed)
    with Connection(own_daemon.socket, alice) as c:
        assert "parameters" in c.call("org.varlink.service.GetInfo")
    pids = {p for name in ("sandboxd-api", "sandboxd-audit", "sandboxd-dialer") for p in own_daemon.workers(name)}
    answered = sum(one_call(own_daemon.socket, alice, maker) for _ in range(700))
    assert answered > 200, answered
    assert own_daemon.process.poll() is None and pids <= set(own_daemon.workers()), own_daemon.log_text()[-3000:]

    def serves():
        done = own_daemon.sh(alice, "echo served")
        return done.stdout == "served\n"
    assert own_daemon.ctl(alice, "terminate", "--grace", "0s", "--all").returncode == 0
    assert eventually(serves, 30, 0.5), own_daemon.log_text()[-3000:]
