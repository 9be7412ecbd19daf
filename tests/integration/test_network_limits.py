"""The network workers at their limits, and what a hostile program or server tries on them."""

import contextlib
import socket
import ssl
import struct
import threading
import time

import pytest

import privsep
from privsep import ALLOW, CLOSE, Channel
from test_egress_worker import (CLOSING, Dns, Rig, Web, connect, eventually, get, handshake, hostile)


@pytest.fixture
def dns():
    return Dns()


@pytest.fixture
def rig(dns):
    r = Rig(False, dns)
    yield r
    r.stop()


@pytest.fixture(scope="module")
def web():
    server = Web()
    yield server
    server.shutdown()


@pytest.fixture
def sink():
    """A server that takes connections and says nothing."""
    server, held = socket.create_server(("127.0.0.1", 0), backlog=2048), []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                held.append(server.accept()[0])

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.close()
    for s in held:
        s.close()


def test_the_end_of_many_connections_is_reported_whole(dns, sink):
    """A session that ends with all its connections open: one close row each, and the dialer serves on."""
    rig, n = hostile(dns), 1000
    try:
        for i in range(n):
            rig.dial(i + 1, 1000 + i, "", sink, 1, (4, socket.inet_aton("127.0.0.1") + bytes(12)))
            name, _, _, fds = rig.egress_end.receive()
            assert name == "CONNECTED"
            socket.close(fds[0])
        rig.launcher_dialer.send("DIALER_SESSION_CLOSE", rig.session)
        time.sleep(1)
        closed = []
        while len(closed) < n:
            message = rig.audit_dialer.receive()
            assert message, f"the dialer has left audit after {len(closed)} of {n} reports"
            assert message[0] == "DIAL_CLOSED"
            closed.append(message[1][1])
        assert sorted(closed) == list(range(1000, 1000 + n))
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(5) == 0


def test_a_dialer_without_audit_makes_way(dns):
    """A channel that broke by itself is not noticed by the launcher: the dialer ends, and its successor gets one."""
    rig = hostile(dns)
    rig.audit_dialer.end.close()
    assert rig.dialer.wait(13) != 0
    rig.launcher_dialer.end.close()
