"""Where a connection ceases to be varlink, and where it stays: Attach with upgrade against the real daemon."""

import contextlib
import struct

import pytest

from wire import message

ATTACH = "io.sandboxd.Session.Attach"


@contextlib.contextmanager
def echo_session(connect, user):
    """A detached session with a `cat` whose streams the daemon carries; its id."""
    c = connect(user)
    session = c.call("io.sandboxd.Session.Create", {"context": {"lifetime": "detached"}})["parameters"]["id"]
    try:
        reply = c.call("io.sandboxd.Session.Exec", {"id": session, "command": {
            "commandLine": ["cat"], "standardInput": "stream", "standardOutput": "stream", "standardError": "null"}})
        assert "error" not in reply, reply
        yield session
    finally:
        c.call("io.sandboxd.Session.Terminate", {"id": session, "graceUSec": 0})
        c.call("io.sandboxd.Session.Remove", {"id": session})


def frame(kind, payload):
    return struct.pack(">BBHI", kind, 0, 0, len(payload)) + payload


def read_frames(c, wanted):
    """The payload of output frames, once there is as much as wanted."""
    data, found = c.buffer, b""
    while len(found) < wanted:
        while len(data) >= 8 and len(data) >= 8 + struct.unpack(">I", data[4:8])[0]:
            kind, size = data[0], struct.unpack(">I", data[4:8])[0]
            found += data[8:8 + size] if kind == 2 else b""
            data = data[8 + size:]
        if len(found) < wanted:
            more = c.socket.recv(65536)
            assert more, (found, data)
            data += more
    return found


def test_upgrade_without_bytes_behind_it(connect, alice):
    with echo_session(connect, alice) as session:
        c = connect(alice)
        reply = c.call(ATTACH, {"id": session}, upgrade=True)
        assert "error" not in reply and not reply.get("continues")
        c.send(frame(1, b"through frames\n"))
        assert read_frames(c, 15) == b"through frames\n"
        c.send(message("org.varlink.service.GetInfo"))
        assert b"vendor" not in c.socket.recv(65536), "frames, not calls"


def test_calls_before_an_upgrade(connect, alice):
    """Pipelined in front of it they are answered, in order."""
    with echo_session(connect, alice) as session:
        c = connect(alice)
        c.send(message("org.varlink.service.GetInfo") * 3 + message(ATTACH, {"id": session}, upgrade=True))
        assert all("vendor" in c.receive()["parameters"] for _ in range(3))
        assert "error" not in c.receive()
        c.send(frame(1, b"x\n"))
        assert read_frames(c, 2) == b"x\n"


@pytest.mark.parametrize("behind", [frame(1, b"too early\n"), b"x", b"\0", message("org.varlink.service.GetInfo")],
                         ids=["frame", "byte", "nul", "call"])
def test_bytes_behind_an_upgrade_are_refused(connect, alice, behind):
    """Sent before the reply said that they may be: nothing of them is swallowed into the stream."""
    with echo_session(connect, alice) as session:
        c = connect(alice)
        c.send(message(ATTACH, {"id": session}, upgrade=True) + behind)
        assert c.receive() is None
        c = connect(alice)
        assert "error" not in c.call(ATTACH, {"id": session}, upgrade=True)
        c.send(frame(1, b"second\n"))
        assert read_frames(c, 7) == b"second\n"


def test_a_refused_upgrade_stays_varlink(connect, alice):
    c = connect(alice)
    assert c.call(ATTACH, {"id": "no-such"}, upgrade=True)["error"] == "io.sandboxd.Session.NoSuchSession"
    assert c.call(ATTACH, {"id": "no-such", "framing": 1}, upgrade=True)["error"] == "org.varlink.service.InvalidParameter"
    assert "vendor" in c.call("org.varlink.service.GetInfo")["parameters"]


def test_upgrade_with_descriptors(connect, alice):
    """Attach takes none."""
    with echo_session(connect, alice) as session, open("/dev/null", "rb") as null:
        c = connect(alice)
        c.send(message(ATTACH, {"id": session}, upgrade=True), [null.fileno()])
        assert c.receive() is None
