"""The network workers at their limits, and what a hostile program or server tries on them."""

import contextlib
import os
import select
import socket
import sqlite3
import ssl
import struct
import threading
import time
import types

import pytest

import machine
import privsep
from privsep import CLOSE, Channel
from test_egress_worker import CLOSING, Dns, Rig, connect, eventually, get, handshake, hostile


@pytest.fixture
def names():
    return Dns()


@pytest.fixture
def rig(names):
    r = Rig(False, names)
    yield r
    r.stop()


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


def test_the_end_of_many_connections_is_reported_whole(names, sink):
    """A session that ends with all its connections open: one close row each, and the dialer serves on."""
    rig, n = hostile(names), 1000
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
        assert rig.dialer.wait(60) == 0


def test_connections_leave_room_for_sessions(names, sink):
    """Where there are too many connections further ones fail; what the launcher sends still arrives."""
    rig = hostile(names, files_max=400)
    try:
        answers, held = [], []
        for i in range(500):
            rig.dial(i + 1, 1000 + i, "", sink, 1, (4, socket.inet_aton("127.0.0.1") + bytes(12)))
            name, _, _, fds = rig.egress_end.receive()
            answers.append(name)
            held += fds
        assert 200 < answers.count("CONNECTED") < 320 and answers[-1] == "CONNECT_FAILED"
        for fd in held:
            os.close(fd)
        # Had the descriptor not fitted, this would have been its end.
        for _ in range(3):
            mine, end = Channel.pair()
            rig.launcher_dialer.send("DIALER_EGRESS_ATTACH", rig.session, 2, fds=[end.fileno()])
            end.close()
            mine.end.close()
        time.sleep(0.3)
        assert rig.dialer.poll() is None
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0


def test_a_dialer_without_audit_makes_way(names):
    """A channel that broke by itself is not noticed by the launcher: the dialer ends, and its successor gets one."""
    rig = hostile(names)
    rig.audit_dialer.end.close()
    assert rig.dialer.wait(13) != 0
    rig.launcher_dialer.end.close()


def test_new_name_servers_answer_what_the_old_ones_were_asked(names, sink):
    """A look-up that waits for a server that is no more is asked again, not failed."""
    mute = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mute.bind(("127.0.0.1", 0))
    rig = hostile(types.SimpleNamespace(port=mute.getsockname()[1]))
    try:
        rig.dial(1, 1000, "allowed.test", sink, 1)
        assert select.select([mute], [], [], 10)[0]
        servers = [(4, socket.inet_aton("127.0.0.1") + bytes(12), names.port)] + [(0, bytes(16), 0)] * 3
        rig.launcher_dialer.send("DIALER_RESOLVER", 1, *[v for s in servers for v in s], fds=[privsep.sealed(b"\n")])
        name, _, _, fds = rig.egress_end.receive()
        assert name == "CONNECTED"
        socket.close(fds[0])
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0
        mute.close()


class Script:
    """A server that does with each connection what the test says."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.server_port = self.listener.getsockname()[1]

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(self.listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()


def read_head(s):
    got = b""
    while not got.endswith(b"\r\n\r\n") and (part := s.recv(1)):
        got += part
    return got


def test_an_early_answer_leaves_no_half_request(rig):
    """A server that answers and does not read: once a body waits in the worker, its connection takes no more."""
    size, accepted, data = 20_000, [], b""
    server = Script(accepted.append)
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def post():
        n = len(rig.decided)
        s.sendall(get(server, method="POST", more=f"Content-Length: {size}\r\n") + b"x" * size)
        eventually(lambda: len(rig.decided) > n and len(accepted) == len([d for d in rig.decided if d["wants"]]))
        time.sleep(0.02)
        accepted[-1].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert b" 200 " in read_head(s) and s.recv(2) == b"ok"

    with rig.connect() as s:
        while len(accepted) < 2 and len(rig.decided) < 250:
            post()
        accepted[0].settimeout(0.5)
        for _ in range(3):
            with contextlib.suppress(OSError):
                while part := accepted[0].recv(1 << 20):
                    data += part
            post()
    assert len(data) > 20 * size
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        assert head.startswith(b"POST / ") and not rest[:size].strip(b"x"), "a request went into the body of another"
        data = rest[size:]


def test_early_data_behind_the_hello(rig):
    """E28: A resumed session sends its first bytes with the hello; they belong to the verdict about its name."""
    got, ready = [], threading.Event()

    def serve(s):
        got.append(s.recv(65536))
        ready.set()

    server = Script(serve)
    name = b"allowed.test"
    extension = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + struct.pack("!H", len(extension)) + extension
    hello = b"\x01" + struct.pack("!I", len(body))[1:] + body
    data = b"\x16\x03\x01" + struct.pack("!H", len(hello)) + hello + b"\x14\x03\x03\0\x01\x01" + b"\x17\x03\x03\0\x03abc"
    s, head = connect(rig, "allowed.test", server.server_port)
    with s:
        assert b" 200 " in head
        s.sendall(data)
        assert ready.wait(3) and got == [data]
    assert len(rig.decided) == 1


def test_tls_under_a_rule_for_http(rig):
    """CONNECT is decided before anybody knows what for; what opens it for http opens it for nothing else."""
    rig.allows_tls = 0
    seen = []
    server = Script(lambda s: seen.append(s.recv(65536)))
    s, head = connect(rig, "allowed.test", server.server_port)
    assert b" 200 " in head
    with pytest.raises((ssl.SSLError, OSError)), handshake(s, "allowed.test"):
        pass
    eventually(lambda: len(rig.decided) == 2 and rig.closed)
    assert rig.decided[1]["malformed"] and rig.closed[0]["sent"] == 0
    assert seen == [] or seen == [b""]


def test_tls_to_an_address_has_no_name(rig):
    """Which names belong to an address is not for the client to say."""
    server = Script(lambda s: s.recv(65536))
    s, head = connect(rig, "127.0.0.1", server.server_port)
    assert b" 200 " in head
    with pytest.raises((ssl.SSLError, OSError)), handshake(s, "evil.test"):
        pass
    eventually(lambda: len(rig.decided) == 2 and rig.closed)
    assert rig.decided[1]["raw"] == b"evil.test" and rig.closed[0]["sent"] == 0


def test_refusals_in_tunnels_wait_their_turn(rig, sink):
    """Many at once: each has its row, and the worker never asks more at a time than audit takes."""
    n, lock, original = 300, threading.Lock(), rig.on_decide

    def answer(values, tail):
        with lock:
            original(values, tail)

    tunnels = []
    for _ in range(n):
        s, head = connect(rig, "allowed.test", sink)
        assert b" 200 " in head
        tunnels.append(s)
    asked = []
    rig.on_decide = lambda values, tail: asked.append((values, tail))
    for s in tunnels:
        s.sendall(b"\x00junk")
    time.sleep(1)
    assert 0 < len(asked) <= 64, len(asked)
    rig.on_decide = answer
    for values, tail in asked:
        answer(values, tail)
    eventually(lambda: len(rig.decided) == 2 * n, 10)
    assert all(row["malformed"] and row["raw"] == b"\x00junk" for row in rig.decided[n:])
    for s in tunnels:
        s.settimeout(5)
        assert s.recv(10) == b""
        s.close()


def test_idle_connections_end(names, sink):
    rig = Rig(False, names, egress_options=("--idle-seconds", "2"))
    try:
        web = Script(lambda s: (read_head(s), time.sleep(1.5), s.sendall(b"HTTP/1.1 200 OK\r\n\r\n"), time.sleep(1.5),
                                s.sendall(b"slow"), s.close()))
        started = time.monotonic()
        with rig.connect() as s:
            s.sendall(f"GET http://allowed.test:{sink}/ HTTP/1.1\r\nHost: allowed.test:{sink}\r\n\r\n".encode())
            s.settimeout(6)
            assert s.recv(10) == b"" and 1.5 < time.monotonic() - started < 5
        # Slow is not idle.
        assert rig.ask(get(web)).endswith(b"slow")
        eventually(lambda: len(rig.closed) == 2)
        assert CLOSE[rig.closed[0]["reason"]] == "idle"
    finally:
        rig.stop()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rests(rig):
    """Three seconds in which nothing happens cost the worker nothing; one that is called again and again takes what it can get."""
    before = cpu_seconds(rig.egress.pid)
    time.sleep(3)
    return cpu_seconds(rig.egress.pid) - before < 0.3


def fill(s):
    """Sends until nobody takes anything any more."""
    s.setblocking(False)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            s.send(bytes(65536))
            end = time.monotonic() + 1
        except BlockingIOError:
            time.sleep(0.05)


def test_a_body_that_the_server_does_not_take(rig):
    """The client has more, the server's buffers are full: until that changes nobody calls."""
    held = []
    server = Script(lambda s: (held.append(s), read_head(s), time.sleep(120)))
    with rig.connect() as s:
        s.sendall(get(server, method="POST", more="Content-Length: 1000000000\r\n"))
        fill(s)
        assert held and rests(rig)


def test_a_client_that_says_more_than_was_answered(rig):
    """Further requests, more than fit, behind one that the server has not answered; then the end of what the client says."""
    held = []
    server = Script(lambda s: (held.append(s), read_head(s), time.sleep(120)))
    with rig.connect() as s:
        s.sendall(get(server))
        fill(s)
        assert held and rests(rig)
    with rig.connect() as s:
        s.sendall(get(server))
        eventually(lambda: len(held) == 2, 20)
        s.shutdown(socket.SHUT_WR)
        assert rests(rig)


def test_a_server_that_speaks_into_a_hello(rig):
    """Where anything may be spoken the first bytes are heard out for a second; what the server says meanwhile waits."""
    rig.allows_tcp = 1
    server = Script(lambda s: (s.sendall(b"hello"), time.sleep(120)))
    before, n = cpu_seconds(rig.egress.pid), 0
    for _ in range(5):
        s, head = connect(rig, "allowed.test", server.server_port)
        with s:
            assert b" 200 " in head
            s.sendall(b"\x16\x03")
            s.settimeout(30)
            n += len(s.recv(5))
    assert n == 25 and cpu_seconds(rig.egress.pid) - before < 0.5


BAD_HEADS = {
    "two status lines": b"HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a megabyte of fields": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(1000)) + b"\r\n",
    "one long field": b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n",
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    "a line feed alone": b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok",
    "a return alone": b"HTTP/1.1 200 OK\r\nX: y\rSet-Cookie: z\r\nContent-Length: 2\r\n\r\nok",
    "no end": b"HTTP/1.1 200 OK\r\nContent-Le",
    "nothing": b"",
}


@pytest.mark.parametrize("what", BAD_HEADS)
def test_answers_that_are_none(rig, what):
    """E44: what a server says is read like a request; nothing of it that cannot be read reaches the client."""
    def serve(s):
        read_head(s)
        with contextlib.suppress(OSError):
            s.sendall(BAD_HEADS[what])

    server = Script(serve)
    got = rig.ask(get(server, more=CLOSING))
    assert got.startswith(b"HTTP/1.1 502 ") and b"X:" not in got, got[:200]


def test_an_answer_that_does_not_begin(names):
    """E44: a byte now and then is not idle, and no answer."""
    rig = Rig(False, names, egress_options=("--idle-seconds", "2"))
    ended = threading.Event()

    def serve(s):
        read_head(s)
        with contextlib.suppress(OSError):
            s.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                s.sendall(b"y")
                time.sleep(0.1)
        ended.set()

    try:
        server = Script(serve)
        with rig.connect() as s:
            s.settimeout(60)
            s.sendall(get(server))
            assert read_head(s).startswith(b"HTTP/1.1 504 ")
        assert ended.wait(60)
        eventually(lambda: rig.closed, 20)
        assert CLOSE[rig.closed[0]["reason"]] == "idle"
    finally:
        rig.stop()


def test_what_nobody_reads_is_not_kept(rig):
    """E71: full connections of one session: the worker's memory stays small."""
    def serve(s):
        read_head(s)
        with contextlib.suppress(OSError):
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            while True:
                s.sendall(bytes(1 << 20))

    server, clients = Script(serve), []
    for _ in range(600):
        s = rig.connect()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(get(server))
        clients.append(s)
    time.sleep(4)
    with open(f"/proc/{rig.egress.pid}/status") as status:
        resident = [int(line.split()[1]) for line in status if line.startswith("VmRSS")][0]
    for s in clients:
        s.close()
    assert resident < 130_000, resident


def test_no_network_is_the_reason(instance, alice, profile, web):
    before = instance.head()
    done = instance.ctl(alice, "run", "-T", "-p", profile, "--no-network", "--", "curl", "-sS", "-i", "-m", "5",
                        f"http://allowed.test:{web.server_port}/", cwd=alice.workspace())
    assert "403" in done.stdout and "no-network" in done.stdout, done.stdout + done.stderr
    row, = instance.rows(before, kind="net")
    assert (row["verdict"], row["reason"], row["host"]) == ("deny", "no-network", "allowed.test")


def test_a_rule_for_http_opens_no_tls(instance, alice, make_profile):
    seen = []
    server = Script(lambda s: seen.append(s.recv(65536)))
    rule = {"id": "h", "action": "allow", "host": "allowed.test", "cidr": "127.0.0.1/32",
            "ports": [server.server_port], "protocol": "http"}
    before = instance.head()
    done = instance.ctl(alice, "run", "-T", "-p", make_profile([rule]), "--", "curl", "-sSk", "-m", "5",
                        f"https://allowed.test:{server.server_port}/", cwd=alice.workspace())
    assert done.returncode != 0
    rows = instance.rows(before, kind="net")
    assert [(r["verdict"], r["protocol"]) for r in rows] == [("allow", "any"), ("deny", "tls")], rows
    assert not b"".join(seen)


def test_the_log_is_kept_to_its_size(settings, alice):
    """Segments and retention are what CONFIG/sandboxd.json says; that old ones went is a row."""
    sizes = {**settings, "audit": {"segment_size": "1M", "retention_size": "2M"}}
    with machine.Instance(settings=sizes) as instance:
        session = instance.create(alice)
        folder = os.path.join(instance.state, "audit")

        def segments():
            return sorted(name for name in os.listdir(folder) if name.endswith(".db"))

        for _ in range(60):
            instance.ctl(alice, "exec", session, "--", "/bin/true", "y" * 60000)
            if segments()[0] != "audit-000001.db":
                break
        assert segments()[0] != "audit-000001.db" and len(segments()) <= 4, segments()
        size = sum(os.path.getsize(os.path.join(folder, name)) for name in segments())
        assert size < 5 << 20
        newest = sqlite3.connect(os.path.join(folder, segments()[-1]))
        assert eventually(lambda: newest.execute("SELECT count(*) FROM decision WHERE action='prune'").fetchone()[0])\
            is None
        newest.close()
        # The chain goes on over them, and so does the daemon.
        assert instance.ctl(alice, "exec", session, "--", "/bin/true").returncode == 0
