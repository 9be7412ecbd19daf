"""More connections than a worker can hold both descriptors of: those that rest are with the dialer."""

import contextlib
import os
import select
import socket
import struct
import threading

import pytest

from privsep import CLOSE
from test_egress_worker import Dns, Rig, eventually, hostile

# Beside 2,560 that are for others: not for two of each connection.
FILES, HELD = 2900, 240


class Echo:
    """Says again what it hears. What it is told to say is said to all, without being asked."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port, self.held = self.listener.getsockname()[1], {}
        self.is_closed, self.is_patient, self.poll = False, False, select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while not self.is_closed:
            for fd, _ in self.poll.poll(0.2):
                if fd == self.listener.fileno():
                    s = self.listener.accept()[0]
                    self.held[s.fileno()] = s
                    self.poll.register(s, select.EPOLLIN)
                elif not self.answer(fd):
                    self.poll.unregister(fd)
                    if not self.is_patient:
                        self.held.pop(fd).close()

    def answer(self, fd):
        try:
            data = self.held[fd].recv(4096)
            self.held[fd].sendall(data)
        except OSError:
            return False
        return data

    def say(self, data):
        for s in list(self.held.values()):
            s.sendall(data)

    def close(self):
        self.is_closed = True
        self.thread.join()
        self.listener.close()


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def rig():
    r = Rig(False, Dns(), egress_files=FILES)
    r.allows_tcp = 1
    yield r
    r.stop()


def tunnel(rig, port, first):
    s = rig.connect()
    s.settimeout(60)
    s.sendall(f"CONNECT allowed.test:{port} HTTP/1.1\r\nHost: allowed.test:{port}\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        part = s.recv(1)
        assert part, got
        got += part
    assert b" 200 " in got
    exchange(s, first)
    return s


def take(s, n):
    got = b""
    while len(got) < n:
        part = s.recv(n - len(got))
        assert part, got
        got += part
    return got


def exchange(s, data):
    s.sendall(data)
    assert take(s, len(data)) == data


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_many_that_rest_go_on(rig, echo):
    """Each of them speaks again: first the clients, then the servers, without being asked."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(tunnel(rig, echo.port, b"\1first %d" % i)) for i in range(HELD)]
        assert descriptors(rig.egress.pid) < FILES - 2560 + 40 < 2 * HELD
        for i, s in enumerate(held):
            exchange(s, b"again %d" % i)
        echo.say(b"unasked")
        for s in held:
            assert take(s, 7) == b"unasked"
        assert not rig.closed
        # All at once.
        for i, s in enumerate(held):
            s.sendall(b"%04d" % i)
        for i, s in enumerate(held):
            assert take(s, 4) == b"%04d" % i


def test_room_is_found_behind_many_that_do_not_rest(rig, echo):
    """Of the oldest each has one end that may still speak; those that rest came after them. Nothing happens in any of
    them when the last one comes."""
    echo.is_patient = True
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(tunnel(rig, echo.port, b"\1first %d" % i)) for i in range(150)]
        for s in held:
            s.shutdown(socket.SHUT_WR)
        for i in range(15):
            stack.enter_context(tunnel(rig, echo.port, b"\1later %d" % i))
        for _ in range(20):
            stack.enter_context(rig.connect())
        stack.enter_context(tunnel(rig, echo.port, b"\1last"))
        assert not rig.closed


def test_the_end_of_one_that_rests_is_noticed(rig, echo):
    """Whoever ends: the server, the client, or the dialer for the session."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(tunnel(rig, echo.port, b"\1first %d" % i)) for i in range(HELD)]
        for s in held[:40]:
            s.shutdown(socket.SHUT_WR)
            assert s.recv(1) == b""
        for s in held[:40]:
            s.close()
        eventually(lambda: len(rig.closed) == 40)
        for s in list(echo.held.values()):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_WR)
        for s in held[40:80]:
            assert s.recv(1) == b""
            s.close()
        eventually(lambda: len(rig.closed) >= 80)
        rig.launcher_dialer.send("DIALER_SESSION_CLOSE", rig.session)
        for s in held[80:]:
            with contextlib.suppress(ConnectionResetError):
                assert s.recv(1) == b""
        eventually(lambda: len(rig.closed) == HELD)


def closes(end):
    """Messages until the end of the channel."""
    names = []
    while message := end.receive():
        names.append(message[0])
    return names


NOTHING_READ = bytes(16)
# Each may come back eight times: all together more often than a worker may leave unread.
NUMBERS = range(42, 51)


def dial(rig, echo, numbers):
    for i in numbers:
        rig.dial(i, i, "", echo.port, 1, (4, socket.inet_aton("127.0.0.1") + bytes(12)))
        name, _, _, fds = rig.egress_end.receive()
        assert name == "CONNECTED"
        os.close(fds[0])


def bring_back(rig, number, token):
    """The next token."""
    rig.egress_end.send("CONNECTION_PARK", number)
    rig.egress_end.send("CONNECTION_WANTED", number, token)
    name, values, _, fds = rig.egress_end.receive()
    assert (name, values[0], len(fds)) == ("CONNECTION_BACK", number, 1)
    os.close(fds[0])
    return values[1]


@pytest.mark.parametrize("attack", ["unknown", "twice", "not parked", "too often", "unread"])
def test_a_worker_that_lies_about_what_rests(echo, attack):
    rig, token = hostile(Dns()), NOTHING_READ
    try:
        dial(rig, echo, NUMBERS)
        if attack == "unknown":
            rig.egress_end.send("CONNECTION_PARK", 4300)
        elif attack == "twice":
            rig.egress_end.send("CONNECTION_PARK", 42)
            rig.egress_end.send("CONNECTION_PARK", 42)
        elif attack == "not parked":
            rig.egress_end.send("CONNECTION_WANTED", 42, token)
        elif attack == "too often":
            for i in [*NUMBERS] * 8:
                token = bring_back(rig, i, token)
            rig.egress_end.send("CONNECTION_PARK", 42)
        else:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for i in [*NUMBERS] * 8:
                    rig.egress_end.send("CONNECTION_PARK", i)
                    rig.egress_end.send("CONNECTION_WANTED", i, NOTHING_READ)
        assert closes(rig.egress_end).count("CONNECTION_BACK") <= 64
        for _ in NUMBERS:
            name, values, _, _ = rig.audit_dialer.receive()
            assert name == "DIAL_CLOSED" and values[1] in NUMBERS and CLOSE[values[8]] == "egress-gone"
        assert rig.dialer.poll() is None
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0


def test_what_rests_stirs_once_and_comes_back(echo):
    """A connection that rests is told of when its server speaks; its bytes are where they were."""
    rig = hostile(Dns())
    try:
        dial(rig, echo, [42])
        rig.egress_end.send("CONNECTION_PARK", 42)
        eventually(lambda: len(echo.held) == 1)
        for part in (b"one", b"two"):
            echo.say(part)
        assert rig.egress_end.receive()[:2] == ("CONNECTION_STIRS", (42,))
        rig.egress_end.send("CONNECTION_WANTED", 42, NOTHING_READ)
        name, values, _, fds = rig.egress_end.receive()
        assert (name, values[0]) == ("CONNECTION_BACK", 42)
        with socket.socket(fileno=fds[0]) as s:
            s.setblocking(True)
            assert take(s, 6) == b"onetwo"
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0


def test_what_is_over_does_not_come_back(echo):
    """Its server resets it while it rests."""
    rig = hostile(Dns())
    try:
        dial(rig, echo, [42])
        rig.egress_end.send("CONNECTION_PARK", 42)
        eventually(lambda: len(echo.held) == 1)
        with echo.held.popitem()[1] as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        name, values, _, _ = rig.audit_dialer.receive()
        assert name == "DIAL_CLOSED" and values[1] == 42
        assert rig.egress_end.receive()[:2] == ("CONNECTION_STIRS", (42,))
        rig.egress_end.send("CONNECTION_WANTED", 42, NOTHING_READ)
        name, values, _, fds = rig.egress_end.receive()
        assert (name, values, fds) == ("CONNECTION_GONE", (42,), [])
        assert rig.dialer.poll() is None
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0
