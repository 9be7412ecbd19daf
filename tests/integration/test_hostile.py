"""A worker that has been taken over gets nothing that policy denies, and its nonsense ends it alone."""

import contextlib
import os
import re
import shutil
import socket
import struct
import threading

import pytest

import machine
import stubs

ATTACKS = 21
POOL = 4  # workers that the launcher has ready, at most


class ResetServer:
    """Resets whatever connects and says something."""

    def __init__(self):
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.server_port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                with self.listener.accept()[0] as connection:
                    self.accepted += 1
                    connection.recv(1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Hostile:
    """A daemon whose egress workers are the test's, and do what `mode` says from their start on."""

    def __init__(self, instance, servers):
        self.ports = [server.server_port for server in servers]
        self.instance, self.folder = instance, os.path.join(instance.folder, "libexec")
        os.mkdir(self.folder)
        for name in os.listdir(machine.BUILD + "/libexec"):
            real = "real-" if name == "sandboxd-egress" else ""
            os.symlink(os.path.realpath(f"{machine.BUILD}/libexec/{name}"), f"{self.folder}/{real}{name}")
        shutil.copy(machine.BUILD + "/tests/integration/hostile-egress", self.folder + "/sandboxd-egress")
        with open(self.folder + "/board", "wb") as f:
            f.write(struct.pack("IIII", 0, *self.ports))

    def mode(self, name):
        with open(self.folder + "/mode.new", "w", encoding="ascii") as f:
            f.write(name)
        os.rename(self.folder + "/mode.new", self.folder + "/mode")

    def begin(self, name):
        self.instance.stop()
        self.instance.libexec = self.folder
        self.mode(name)
        return self.instance.start()

    def reports(self):
        return re.findall(r"hostile ([\w-]+): (.*)", self.instance.log_text())

    def has(self, name, text):
        return (name, text) in self.reports()

    def session_of(self, user, profile, mode, is_there):
        """The pool holds workers of the mode before, until as many sessions have taken them."""
        self.mode(mode)
        for _ in range(POOL):
            self.instance.ctl(user, "terminate", self.instance.create(user, "-p", profile))
        session = self.instance.create(user, "-p", profile)
        assert machine.eventually(is_there, 60), self.instance.log_text()[-2000:]
        return session


@pytest.fixture
def servers():
    """Allowed, denied, allowed and good for nothing."""
    found = [stubs.HttpStub(), stubs.HttpStub(), ResetServer()]
    yield found
    for server in found:
        server.close()


@pytest.fixture
def hostile(settings, servers):
    with machine.Instance(settings=settings) as instance:
        yield Hostile(instance, servers)


def test_taken_over_egress_worker(hostile, servers, alice, make_profile, allow_rule, dns):
    questions = len(dns.questions)
    allowed, denied, resets = servers
    instance = hostile.begin("asks")
    good, bad, reset = hostile.ports
    profile = make_profile([allow_rule("allowed.test", good), dict(allow_rule("allowed.test", reset), id="resets"),
                            {"id": "metadata", "action": "allow", "host": "metadata.test", "ports": [80]}])
    session = instance.create(alice, "-p", profile)
    assert machine.eventually(lambda: hostile.has("finished", "all"), 120), instance.log_text()[-2000:]
    found = dict(hostile.reports())
    found.pop("finished")

    # What the kernel lets it do.
    calls, memory = found.pop("calls"), found.pop("memory")
    if not machine.IS_SANITIZED:  # a sanitizer needs more of both
        assert calls == "open" and memory == "shared 0, code 0, large 0"
    assert found.pop("listener") == "options" and found.pop("connected") == "options"
    assert found.pop("revoked") == "send 0, receive 0"
    assert found.pop("revival") == "sent 0" and found.pop("revival-inside") == "sent 0"

    # What policy lets it do.
    assert found.pop("allowed") == "verdict 2, descriptors 1", "the worker of the test does not work"
    assert len(found) >= 11
    for name, text in found.items():
        assert "descriptors 0" in text, (name, text)
        assert "verdict 2" not in text or name == "denied-address", (name, text)
    assert "evil.test" not in {name for name, _ in dns.questions[questions:]}
    assert denied.accepted == 0 and allowed.accepted == 2 and resets.accepted == 1
    # Everything that was asked for has its row, and what was allowed is what policy allows.
    allows = instance.rows(0, kind="net", verdict="allow")
    assert {(r["host"], r["port"]) for r in allows} <= {("allowed.test", good), ("allowed.test", reset), ("metadata.test", 80)}
    denials = instance.rows(0, kind="net", verdict="deny")
    assert {("evil.test", good), ("allowed.test", bad)} <= {(r["host"], r["port"]) for r in denials}
    assert instance.process.poll() is None
    # Its end is no end of the session, which has no network but runs.
    assert instance.ctl(alice, "exec", session, "--", "echo", "runs").stdout == "runs\n"


def fetch(hostile, user, session):
    return hostile.instance.ctl(user, "exec", "--timeout", "60s", session, "--", "curl", "-sS", "-m", "50", "-o", "/dev/null", "-w",
                        "%{http_code}", f"http://allowed.test:{hostile.ports[0]}/").stdout


def test_whoever_breaks_the_protocol_ends(hostile, servers, alice, bob, make_profile, allow_rule):
    """Each attack is the end of its worker, and nobody else's; no row of it is another session's."""
    allowed, denied, _ = servers
    instance = hostile.begin("real")
    profile = make_profile([allow_rule("allowed.test", hostile.ports[0])])
    quiet = instance.create(bob, "-p", profile)
    assert fetch(hostile, bob, quiet) == "200"
    shared = [instance.workers(name) for name in ("sandboxd-audit", "sandboxd-dialer")]
    hostile.session_of(alice, profile, "attacks", lambda: hostile.has("attack", "0"))
    for n in range(ATTACKS):
        assert machine.eventually(lambda n=n: hostile.has("attack", str(n)), 60), (n, instance.log_text()[-3000:])
        if n % 5 == 0:
            assert fetch(hostile, bob, quiet) == "200"
    # The last one is over, too.
    assert machine.eventually(lambda: hostile.has("attack", str(ATTACKS)), 60)
    assert fetch(hostile, bob, quiet) == "200" and denied.accepted == 0
    rows = instance.rows(0, kind="net")
    assert {r["host"] for r in rows if r["session"] == quiet} == {"allowed.test"}
    assert quiet not in {r["session"] for r in rows if r["host"] != "allowed.test"}
    assert {r["session"] for r in rows if r["verdict"] == "allow"} == {quiet}
    assert instance.process.poll() is None
    assert [instance.workers(name) for name in ("sandboxd-audit", "sandboxd-dialer")] == shared


def test_flood_of_questions_stalls_nobody(hostile, servers, alice, bob, make_profile, allow_rule):
    """A worker that asks without end has its share; others are answered meanwhile, and its session can be ended."""
    instance = hostile.begin("real")
    profile = make_profile([allow_rule("allowed.test", hostile.ports[0])])
    quiet = instance.create(bob, "-p", profile)
    assert fetch(hostile, bob, quiet) == "200"
    loud = hostile.session_of(alice, profile, "flood", lambda: hostile.has("flood", "begins"))
    for _ in range(5):
        assert fetch(hostile, bob, quiet) == "200"
    denials = instance.rows(0, kind="net", verdict="deny")
    assert loud in {r["session"] for r in denials} and quiet not in {r["session"] for r in denials}
    assert {r["host"] for r in denials} == {"flood.test"}
    instance.ctl(alice, "terminate", loud)
    assert fetch(hostile, bob, quiet) == "200"
