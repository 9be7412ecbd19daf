"""org.varlink.certification: a service and a client on the daemon's own library, with each other, with those of another
implementation (Debian's varlink-go), and with peers that are wrong."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading

import pytest

from interfaces import Interface
from machine import BUILD, TOP, check_reports, eventually
from wire import Connection, message

NAME = "org.varlink.certification"
OURS = {"server": lambda path: [os.path.join(BUILD, "tests/conformance/certification-server"), path],
        "client": lambda path: [os.path.join(BUILD, "tests/conformance/certification-client"), "unix:" + path]}
GO = {"server": lambda path: ["varlink-go-certification", "-varlink", "unix:" + path],
      "client": lambda path: ["varlink-go-certification", "-client", "-varlink", "unix:" + path]}


@contextlib.contextmanager
def service(argv):
    folder = tempfile.mkdtemp(prefix="sbxt-cert-", dir="/run")
    path = os.path.join(folder, "socket")
    child = subprocess.Popen(argv(path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert eventually(lambda: os.path.exists(path) or child.poll() is not None, 30) and child.poll() is None
        yield path
        assert child.poll() is None, "the service has died"
    finally:
        child.kill()
        check_reports(child.communicate()[1])
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server():
    """Ours."""
    with service(OURS["server"]) as path:
        yield path


def run_client(argv, path):
    done = subprocess.run(argv(path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=60, check=False)
    check_reports(done.stderr)
    return done


def has_passed_ours(done):
    return done.returncode == 0 and done.stdout.endswith("\nall right\n")


def has_passed_go(done):
    """Its exit status says nothing."""
    return done.stdout.rstrip().endswith("End: 'true'")


def test_our_client_with_the_service_of_go():
    with service(GO["server"]) as path:
        done = run_client(OURS["client"], path)
        assert has_passed_ours(done), done
        assert re.findall(r"^org\.varlink\.certification\.(\w+)$", done.stdout, re.M) == [
            "Start", *(f"Test{i:02}" for i in range(1, 12)), "End"]


def test_the_client_of_go_with_our_service(server):
    done = run_client(GO["client"], server)
    assert has_passed_go(done), done
    assert done.stdout.count("Receive: 'Reply number ") == 10


def test_our_client_with_our_service(server):
    for _ in range(3):
        assert has_passed_ours(run_client(OURS["client"], server))


def test_both_name_the_same_interface(server):
    """Members and types of our text are those of the other implementation's, comments apart."""
    with service(GO["server"]) as path, Connection(path) as c:
        theirs = c.call("org.varlink.service.GetInterfaceDescription", {"interface": NAME})["parameters"]["description"]
    with Connection(server) as c:
        ours = c.call("org.varlink.service.GetInterfaceDescription", {"interface": NAME})["parameters"]["description"]
    with open(os.path.join(TOP, "tests/conformance", NAME + ".varlink"), encoding="utf-8", newline="") as f:
        assert f.read() == ours
    ours, theirs = Interface(ours), Interface(theirs)
    assert (ours.types, ours.errors) == (theirs.types, theirs.errors)
    assert {k: v[:2] for k, v in ours.methods.items()} == {k: v[:2] for k, v in theirs.methods.items()}


# ---- our service compares each message with the only one that is right ----

CALLS = ["Start", *(f"Test{i:02}" for i in range(1, 12)), "End"]
FLAGS = {"Test10": {"more": True}, "Test11": {"oneway": True}}


def go_on_until(c, last):
    """A right client up to the call; its parameters, then."""
    parameters, client_id = {}, None
    for name in CALLS:
        given = {**parameters, **({"client_id": client_id} if client_id else {})}
        if name == last:
            return given
        c.send_call(f"{NAME}.{name}", given, **FLAGS.get(name, {}))
        if name == "Test11":
            parameters = {}
            continue
        replies = [c.receive()]
        while replies[-1].get("continues"):
            replies.append(c.receive())
        assert all("error" not in reply for reply in replies), replies
        parameters = dict(replies[0]["parameters"])
        if name == "Start":
            client_id = parameters.pop("client_id")
        if name == "Test10":
            parameters = {"last_more_replies": [reply["parameters"]["string"] for reply in replies]}
    return None


def is_refused(reply):
    return reply is not None and reply.get("error") == NAME + ".CertificationError" and \
        set(reply["parameters"]) == {"wants", "got"}


@pytest.mark.parametrize("name", CALLS)
def test_right_calls_pass(server, name):
    with Connection(server) as c:
        given = go_on_until(c, name)
        c.send_call(f"{NAME}.{name}", given, **FLAGS.get(name, {}))
        if name == "Test11":
            assert c.call(f"{NAME}.End", {"client_id": given["client_id"]}) == {"parameters": {"all_ok": True}}
        else:
            assert "error" not in c.receive()


def changes(value):
    """Values that are almost the same."""
    if isinstance(value, bool):
        return [not value, int(value), str(value).lower()]
    if isinstance(value, (int, float)):
        return [value + 1, -value, str(value), True]
    if isinstance(value, str):
        return [value + "x", value.upper() + ".", "", 1, [value]]
    if isinstance(value, list):
        return [value[:-1], value + value[-1:], list(reversed(value)) if value != value[::-1] else [], {}]
    if isinstance(value, dict):
        return [{**value, "zz": 1}, {k: v for k, v in list(value.items())[1:]}, []]
    return [0, "", False]


@pytest.mark.parametrize("name", CALLS[2:-1])
def test_wrong_values_are_refused(server, name):
    with Connection(server) as c:
        fields = [k for k in go_on_until(c, name) if k != "client_id"]
    for field in fields:
        n, done = 1, 0
        while done < n:
            with Connection(server) as c:
                given = go_on_until(c, name)
                wrong = changes(given[field])
                n = len(wrong)
                c.send_call(f"{NAME}.{name}", {**given, field: wrong[done]}, **FLAGS.get(name, {}))
                if name == "Test11":
                    c.send_call(f"{NAME}.End", {"client_id": given["client_id"]})
                    assert c.receive() == {"error": NAME + ".ClientIdError"}, wrong[done]
                else:
                    assert is_refused(c.receive()), wrong[done]
            done += 1


@pytest.mark.parametrize("name", CALLS)
def test_wrong_messages_are_refused(server, name):
    """Flags that do not belong there, further parameters, other methods."""
    right = FLAGS.get(name, {})
    wrong = [flags for flags in ({}, {"more": True}, {"more": False}, {"oneway": False}, {"upgrade": False}, {"a.b": {}})
             if flags != right]
    for flags in wrong:
        with Connection(server) as c:
            assert is_refused(c.call(f"{NAME}.{name}", go_on_until(c, name), **flags)), flags
    if name != "Test11":
        with Connection(server) as c:
            assert is_refused(c.call(f"{NAME}.{name}", {**go_on_until(c, name), "further": 1}, **right))
    if name != "Start":
        with Connection(server) as c:
            given = go_on_until(c, name)
            other = CALLS[CALLS.index(name) - 1]
            assert is_refused(c.call(f"{NAME}.{other}" if other != "Start" else f"{NAME}.End", given))


def test_clients_are_told_apart(server):
    with Connection(server) as one, Connection(server) as two:
        first, second = go_on_until(one, "Test02"), go_on_until(two, "Test01")
        assert first["client_id"] != second["client_id"]
        assert is_refused(one.call(f"{NAME}.Test02", {**first, "client_id": second["client_id"]}))
        for wrong in ("", "client-", "no"):
            assert two.call(f"{NAME}.Test01", {"client_id": wrong}) == {"error": NAME + ".ClientIdError"}
        assert "error" not in one.call(f"{NAME}.Test02", first)


# ---- our client notices services that are wrong ----

class Liar:
    """Stands between our client and our service, and changes one reply."""

    def __init__(self, server, number, change):
        self.folder = tempfile.mkdtemp(prefix="sbxt-liar-", dir="/run")
        self.path = os.path.join(self.folder, "socket")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.server, self.number, self.change = server, number, change
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        client, _ = self.listener.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self.server)
            threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
            data, seen = b"", 0
            with contextlib.suppress(OSError):
                while more := server.recv(65536):
                    data += more
                    while b"\0" in data:
                        text, data = data.split(b"\0", 1)
                        client.sendall((self.change(text) if seen == self.number else text) + b"\0")
                        seen += 1

    @staticmethod
    def pump(source, target):
        with contextlib.suppress(OSError):
            while more := source.recv(65536):
                target.sendall(more)
        # Also after a client that left replies unread: that is a reset, not an end.
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.thread.join(30)
        self.listener.close()
        shutil.rmtree(self.folder)


LIES = {
    "the-same": (3, lambda text: text, True),
    "other-order": (5, lambda text: b'{"parameters":{"string":"a lot of string","float":3.141592653589793,"int":2,"bool":false}}',
                    True),
    "more-in-the-reply": (2, lambda text: b'{"parameters":{"int":1},"com.example.x":{}}', True),
    "value": (1, lambda text: text.replace(b"true", b"false"), False),
    "type": (1, lambda text: text.replace(b"true", b'"true"'), False),
    "continues": (2, lambda text: text[:-1] + b',"continues":true}', False),
    "continues-missing": (11, lambda text: text.replace(b',"continues":true', b""), False),
    "error": (2, lambda text: b'{"error":"a.b.C","parameters":{}}', False),
    "error-and-continues": (2, lambda text: b'{"error":"a.b.C","continues":true}', False),
    "reply-number": (12, lambda text: text.replace(b"Reply number", b"Reply nunber"), False),
    "not-json": (4, lambda text: text[:-1], False),
    "empty": (4, lambda text: b"", False),
    "array": (4, lambda text: b"[]", False),
    "duplicate": (1, lambda text: b'{"parameters":{"bool":true,"bool":true}}', False),
    "unknown-key": (1, lambda text: text[:-1] + b',"junk":1}', False),
    "a-call": (1, lambda text: b'{"method":"a.b.C"}', False),
    "nul-escape": (4, lambda text: text.replace(b"ping", b"ping\\u0000"), False),
    "enum": (9, lambda text: text.replace(b'"two"', b'"four"', 1), False),
    "not-all-right": (20, lambda text: text.replace(b"true", b"false"), False),
}


@pytest.mark.parametrize("name", LIES)
def test_our_client_looks_at_replies(server, name):
    number, change, passes = LIES[name]
    liar = Liar(server, number, change)
    try:
        assert has_passed_ours(run_client(OURS["client"], liar.path)) == passes
    finally:
        liar.close()


# ---- upgrade ----

CONVERT = "org.example.upper.Convert"


def test_upgrade(server):
    with Connection(server) as c:
        assert c.call(CONVERT, upgrade=True) == {}
        for data in (b"abc", b"\0x\0", b"{}\0"):
            c.send(data)
            assert c.socket.recv(100) == data.upper()


def test_upgrade_is_required(server):
    with Connection(server) as c:
        assert c.call(CONVERT) == {"error": "org.varlink.service.ExpectedUpgrade"}
        assert "error" not in c.call("org.varlink.service.GetInfo")


def test_refused_upgrades_stay_varlink(server):
    with Connection(server) as c:
        assert c.call(CONVERT, {"x": 1}, upgrade=True)["error"] == "org.varlink.service.InvalidParameter"
        assert "error" not in c.call("org.varlink.service.GetInfo")


@pytest.mark.parametrize("behind", [b"abc", b"\0", message("org.varlink.service.GetInfo")])
def test_bytes_behind_an_upgrade_are_refused(server, behind):
    """Sent before the reply allowed it."""
    with Connection(server) as c:
        c.send(message(CONVERT, upgrade=True) + behind)
        assert c.receive() is None


def test_calls_before_an_upgrade(server):
    with Connection(server) as c:
        c.send(message("org.varlink.service.GetInfo") * 3 + message(CONVERT, upgrade=True))
        assert all("vendor" in c.receive()["parameters"] for _ in range(3))
        assert c.receive() == {}
        c.send(b"abc")
        assert c.socket.recv(100) == b"ABC"


def test_bytes_that_come_with_the_reply(server):
    with Connection(server) as c:
        assert c.call(CONVERT, {"greeting": "hello"}, upgrade=True) == {}
        assert (c.buffer or c.socket.recv(100)) == b"hello"
