"""The egress and dialer workers alone: the test is their launcher and their audit."""

import contextlib
import http.server
import json
import os
import re
import secrets
import select
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

import privsep
from privsep import ALLOW, CLOSE, DENY, Channel

BUILD = os.environ.get("SANDBOXD_BUILD", os.path.join(privsep.REPO, "build"))
NOBODY = 65534
POLICY = {"version": 1, "network": {"default": "deny", "rules": [
    {"id": "t", "action": "allow", "host": "allowed.test", "cidr": "127.0.0.1/32", "ports": ["1-65535"]},
    {"id": "o", "action": "allow", "host": "other.test", "cidr": "127.0.0.1/32", "ports": ["1-65535"]},
    {"id": "l", "action": "allow", "cidr": "127.0.0.1/32", "ports": ["1-65535"]},
    {"id": "r", "action": "allow", "host": "rebound.test", "ports": ["1-65535"]},
    {"id": "n", "action": "allow", "host": "nothing.test", "ports": ["1-65535"]},
    {"id": "s", "action": "allow", "host": "silent.test", "cidr": "127.0.0.0/8", "ports": ["1-65535"]}]}}
HOSTS = {"allowed.test": ["127.0.0.1"], "other.test": ["127.0.0.1"], "rebound.test": ["127.0.0.2"],
         "silent.test": [f"127.0.1.{i}" for i in range(1, 17)]}


class Web(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        web = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                body = b""
                if self.headers.get("Transfer-Encoding"):
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                web.seen.append((self.command, self.path, dict(self.headers), body, self.client_address))
                if self.path == "/chunks":
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for part in (b"one", b"two" * 1000):
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.write(b"0\r\n\r\n")
                    return
                if self.path == "/close":
                    self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nuntil close")
                    self.close_connection = True
                    return
                if self.path == "/split":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nxxx")
                    self.close_connection = True
                    return
                answer = body or b"hello"
                if self.path.startswith("/big"):
                    answer = b"x" * 5_000_000
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_POST = do_HEAD = answer

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Dns:
    def __init__(self):
        self.questions = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, peer = self.sock.recvfrom(4096)
            except OSError:
                return
            at, labels = 12, []
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            name, kind = ".".join(labels).lower(), struct.unpack_from("!H", query, at + 1)[0]
            self.questions.append((name, kind))
            found = HOSTS.get(name, []) if kind == 1 else []
            head = query[:2] + struct.pack("!HHHHH", 0x8180 if name in HOSTS else 0x8183, 1, len(found), 0, 0)
            answers = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(a) for a in found)
            self.sock.sendto(head + query[12:at + 5] + answers, peer)


def start(name, end, confined, options=(), files_max=None):
    command = [f"{BUILD}/daemon/{name}/sandboxd-{name}", "--uid", str(NOBODY), "--gid", str(NOBODY), *options]
    if confined:
        command = ["unshare", "--mount"] + command
    if files_max:
        command = ["prlimit", f"--nofile={files_max}:{files_max}"] + command
    with end:
        return subprocess.Popen(command, pass_fds=(3,), preexec_fn=lambda: os.dup2(end.fileno(), 3),
                                **({} if confined else {"user": NOBODY, "group": NOBODY, "extra_groups": []}))


class Rig:
    """Both workers, with a launcher and an audit that decide as `verdicts` says."""

    def __init__(self, confined, dns, egress_options=(), egress_files=None):
        self.session, self.sequence, self.decided = secrets.token_bytes(16), 100, []
        self.allows_tls, self.allows_tcp = 1, 0
        self.bounds = [0] * 7
        self.refused, self.closed, self.audit_sleeps = [], [], False
        self.verdicts = lambda host, decide: ALLOW if host in ("allowed.test", "other.test", "rebound.test",
                                                               "nothing.test", "") else DENY
        self.launcher_dialer, end = Channel.pair()
        self.dialer = start("dialer", end, confined)
        self.launcher_egress, end = Channel.pair()
        self.egress = start("egress", end, confined, egress_options, egress_files)
        assert self.launcher_dialer.receive()[0] == "DIALER_READY"
        assert self.launcher_egress.receive()[0] == "EGRESS_READY"
        self.start_dialer(dns)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.egress_audit, end = Channel.pair()
        dialer_end, egress_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.launcher_dialer.send("DIALER_EGRESS_ATTACH", self.session, 1, fds=[dialer_end.fileno()])
        self.launcher_egress.send("EGRESS_START", 1, 0,
                                  fds=[end.fileno(), egress_end.fileno(), self.listener.fileno()])
        self.is_stopping = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def another_session(self):
        """Its id, and the end of its egress worker."""
        session = secrets.token_bytes(16)
        self.launcher_dialer.send("DIALER_SESSION_OPEN", session, fds=[privsep.sealed(self.block)])
        egress, end = Channel.pair()
        self.launcher_dialer.send("DIALER_EGRESS_ATTACH", session, 9, fds=[end.fileno()])
        return session, egress

    def start_dialer(self, dns):
        servers = [(4, socket.inet_aton("127.0.0.1") + bytes(12), dns.port)] + [(0, bytes(16), 0)] * 3
        table = privsep.sealed(b"\n")
        self.launcher_dialer.send("DIALER_RESOLVER", 1, *[v for s in servers for v in s], fds=[table])
        self.audit_dialer, end = Channel.pair()
        self.launcher_dialer.send("DIALER_AUDIT_ATTACH", fds=[end.fileno()])
        self.block = subprocess.run([f"{BUILD}/tests/unit/compile_policy"], input=json.dumps(POLICY).encode(),
                                    stdout=subprocess.PIPE, check=True).stdout
        self.launcher_dialer.send("DIALER_SESSION_OPEN", self.session, fds=[privsep.sealed(self.block)])

    def run(self):
        ends = [self.egress_audit.end, self.audit_dialer.end]
        while ends and not self.is_stopping:
            ready, _, _ = select.select(ends, [], [], 0.1)
            for end in ready:
                if not (self.hear_egress() if end is self.egress_audit.end else self.hear_dialer()):
                    ends.remove(end)

    def hear_egress(self):
        for message in self.egress_audit.receive_packet():
            if not message:
                return False
            if not self.audit_sleeps:
                self.on_decide(*message[1:3])
        return True

    def hear_dialer(self):
        for message in self.audit_dialer.receive_packet():
            if not message:
                return False
            self.on_dialer(message[0], message[1])
        return True

    def on_decide(self, values, tail):
        (request, entry, protocol, port, malformed, wants, n_raw, n_path, _, family, raw_address, host,
         method) = values
        host = privsep.text(host)
        self.sequence += 1
        verdict = DENY if malformed else self.verdicts(host, values)
        self.decided.append({"host": host, "port": port, "entry": entry, "malformed": malformed, "wants": wants,
                             "raw": tail[:n_raw], "path": tail[n_raw:n_raw + n_path], "verdict": verdict,
                             "method": privsep.text(method), "sequence": self.sequence})
        self.egress_audit.send("VERDICT", request, self.sequence, verdict, 1 if verdict == DENY else 0, b"rule",
                               b"because", self.allows_tls, self.allows_tcp, *self.bounds)
        if verdict == ALLOW and wants:
            self.dial(request, self.sequence, host, port, protocol, (family, raw_address))

    def dial(self, request, sequence, host, port, protocol, address=(0, bytes(16)), session=None):
        self.audit_dialer.send("DIAL", session or self.session, request, sequence, 0, port, protocol, *address, 0, host.encode())

    def on_dialer(self, name, values):
        if name == "DIAL_REFUSED":
            self.refused.append(values)
            self.egress_audit.send("VERDICT", values[1], values[2] + 1000, DENY, 4, b"", b"", 0, 0, *[0] * 7)
        else:
            keys = ("session", "sequence", "duration", "sent", "received", "family", "address", "port", "reason")
            self.closed.append(dict(zip(keys, values)))

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=8)

    def ask(self, data, sock=None):
        """What comes until the worker closes."""
        with sock or self.connect() as s:
            s.sendall(data)
            got = b""
            with contextlib.suppress(ConnectionResetError):
                while part := s.recv(65536):
                    got += part
            return got

    def stop(self):
        self.is_stopping = True
        self.thread.join(5)
        for channel in (self.launcher_egress, self.launcher_dialer):
            channel.end.close()
        for process in (self.egress, self.dialer):
            try:
                assert process.wait(60) == 0
            finally:
                if process.poll() is None:
                    process.kill()


def eventually(check, seconds=5):
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:
        time.sleep(0.02)
    assert check()


@pytest.fixture(scope="module")
def web():
    server = Web()
    yield server
    server.shutdown()


@pytest.fixture
def dns():
    return Dns()


@pytest.fixture(params=["plain", "confined"])
def rig(request, dns):
    if os.getuid() != 0:
        pytest.skip("needs root")
    r = Rig(request.param == "confined", dns)
    yield r
    r.stop()


def get(web, host="allowed.test", path="/", more="", version="1.1", method="GET"):
    authority = f"{host}:{web.server_port}"
    return f"{method} http://{authority}{path} HTTP/{version}\r\nHost: {authority}\r\n{more}\r\n".encode()


CLOSING = "Connection: close\r\n"


def test_allowed(rig, web, dns):
    got = rig.ask(get(web, path="/a?b=c", more=CLOSING + "Proxy-Authorization: x\r\nX-Y: z\r\n"))
    assert got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"\r\n\r\nhello")
    method, path, headers, _, _ = web.seen[-1]
    assert (method, path, headers["Host"]) == ("GET", "/a?b=c", f"allowed.test:{web.server_port}")
    assert headers["X-Y"] == "z" and not {"Proxy-Authorization", "Connection"} & set(headers)
    row, = rig.decided
    assert (row["host"], row["path"], row["method"], row["wants"]) == ("allowed.test", b"/a?b=c", "GET", 1)
    assert sorted(dns.questions) == [("allowed.test", 1), ("allowed.test", 28)]
    eventually(lambda: len(rig.closed) == 1)
    closed = rig.closed[0]
    assert closed["sequence"] == row["sequence"] and CLOSE[closed["reason"]] == "done"
    assert closed["sent"] > 50 and closed["received"] > len("hello")
    assert closed["address"][:4] == bytes([127, 0, 0, 1]) and closed["port"] == web.server_port


def test_bytes_are_counted_exactly(rig, web):
    got = rig.ask(get(web, path="/close"))
    assert got.endswith(b"until close")
    eventually(lambda: rig.closed)
    assert rig.closed[0]["received"] in (len(b"HTTP/1.0 200 OK\r\n\r\nuntil close"),
                                         len(b"HTTP/1.0 200 OK\r\n\r\nuntil close") + 1)


def test_denied(rig, web, dns):
    got = rig.ask(get(web, "evil.test", more=CLOSING))
    head, _, body = got.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 403 Forbidden\r\n")
    decision = [line for line in head.split("\r\n") if line.startswith("Sandboxd-Decision: ")]
    assert json.loads(decision[0].split(": ", 1)[1]) == {
        "rule": "rule", "host": "evil.test", "port": web.server_port, "reason": "default", "ask_id": None}
    assert "evil.test" in body and "rule" in body and f"--allow-host evil.test:{web.server_port}" in body
    assert not dns.questions and not rig.closed


def test_keep_alive_with_denied_second_host(rig, web):
    n = len(web.seen)
    with rig.connect() as s:
        s.sendall(get(web) + get(web) + get(web, "evil.test") + get(web) + get(web, "other.test", more=CLOSING))
        got = b""
        while part := s.recv(65536):
            got += part
    assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"200", b"200", b"403", b"200", b"200"]
    assert [(r["host"], r["wants"]) for r in rig.decided] == [
        ("allowed.test", 1), ("allowed.test", 0), ("evil.test", 1), ("allowed.test", 1), ("other.test", 1)]
    assert len(web.seen) == n + 4


@pytest.mark.parametrize("head", [
    b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
    b"GET http://allowed.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nHost: allowed.test\r\n\r\n",
    b"POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET http://allowed.test/ HTTP/1.1\nHost: allowed.test\n\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x03\x01\x00\r\n", b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n",
    b"CONNECT EVIL.example HTTP/1.1\r\n\r\n",
    b"GET http://127.1/ HTTP/1.1\r\nHost: 127.1\r\n\r\n",
])
def test_malformed(rig, head):
    got = rig.ask(head)
    assert got.startswith(b"HTTP/1.1 400 "), got
    row, = rig.decided
    assert row["malformed"] and not row["wants"] and row["host"] == ""


def test_trace(rig):
    assert rig.ask(b"TRACE http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    assert rig.decided[0]["malformed"] and rig.decided[0]["method"] == "TRACE"


def test_bodies(rig, web):
    body = os.urandom(3_000_000)
    got = rig.ask(get(web, method="POST", more=f"Content-Length: {len(body)}\r\n" + CLOSING) + body)
    assert got.partition(b"\r\n\r\n")[2] == body
    chunks = b"".join(b"%x;e=1\r\n%s\r\n" % (len(body[i:i + 70001]), body[i:i + 70001])
                      for i in range(0, len(body), 70001)) + b"0\r\nTrailer: x\r\n\r\n"
    got = rig.ask(get(web, method="POST", more="Transfer-Encoding: chunked\r\n" + CLOSING) + chunks)
    assert got.partition(b"\r\n\r\n")[2] == body
    got = rig.ask(get(web, path="/big", more=CLOSING))
    assert len(got.partition(b"\r\n\r\n")[2]) == 5_000_000
    assert rig.ask(get(web, path="/chunks", more=CLOSING)).endswith(b"\r\n0\r\n\r\n")
    assert rig.ask(get(web, path="/chunks", version="1.0")).endswith(b"\r\n\r\none" + b"two" * 1000)
    assert rig.ask(get(web, path="/close")).endswith(b"\r\n\r\nuntil close")
    got = rig.ask(get(web, path="/big", method="HEAD", more=CLOSING))
    assert b"Content-Length: 5000000" in got and got.endswith(b"\r\n\r\n")


def test_bad_chunk_never_completes_a_request(rig, web):
    n = len(web.seen)
    got = rig.ask(get(web, method="POST", more="Transfer-Encoding: chunked\r\n") + b"3\r\nabc\r\n-1\r\n")
    assert got.startswith(b"HTTP/1.1 400 ")
    assert len(web.seen) == n
    eventually(lambda: rig.decided[-1]["malformed"])


def test_bad_response(rig, web):
    """E44."""
    assert rig.ask(get(web, path="/split", more=CLOSING)).startswith(b"HTTP/1.1 502 ")


def connect(rig, host, port):
    s = rig.connect()
    s.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        part = s.recv(1)
        if not part:
            break
        got += part
    return s, got


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                    "/CN=allowed.test", "-keyout", f"{folder}/key", "-out", f"{folder}/cert"], check=True,
                   stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/cert", f"{folder}/key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one(peer):
        with contextlib.suppress(OSError):
            with context.wrap_socket(peer, server_side=True) as s:
                data = b""
                while not data.endswith(b"\n") and (part := s.recv(65536)):
                    data += part
                s.sendall(b"%d" % len(data))

    def serve():
        while True:
            threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def handshake(s, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(s, server_hostname=name)


def test_connect_tls(rig, tls):
    s, got = connect(rig, "allowed.test", tls)
    assert got.startswith(b"HTTP/1.1 200 ")
    with handshake(s, "allowed.test") as t:
        t.sendall(b"x" * 1_000_000 + b"\n")
        assert t.recv(100) == b"1000001"
    eventually(lambda: rig.closed)
    assert rig.closed[0]["sent"] > 1_000_000
    assert len(rig.decided) == 1


@pytest.mark.parametrize("name", ["evil.test", None])
def test_connect_with_other_sni(rig, tls, name):
    s, got = connect(rig, "allowed.test", tls)
    assert got.startswith(b"HTTP/1.1 200 ")
    with pytest.raises((ssl.SSLError, OSError)), handshake(s, name):
        pass
    eventually(lambda: len(rig.decided) == 2 and rig.closed)
    assert rig.decided[1]["malformed"] and rig.decided[1]["raw"] == (name or "").encode()
    assert rig.closed[0]["sent"] == 0 and CLOSE[rig.closed[0]["reason"]] == "policy"


def test_connect_to_literal_needs_no_name(rig, tls):
    s, got = connect(rig, "127.0.0.1", tls)
    assert got.startswith(b"HTTP/1.1 200 ")
    with handshake(s, None):
        pass


def test_connect_http(rig, web):
    s, got = connect(rig, "allowed.test", web.server_port)
    assert got.startswith(b"HTTP/1.1 200 ")
    authority = f"allowed.test:{web.server_port}"
    got = rig.ask(f"GET /in HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode(), s)
    assert got.startswith(b"HTTP/1.1 200 ")
    s, got = connect(rig, "allowed.test", web.server_port)
    got = rig.ask(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", s)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert web.seen[-1][1] == "/in"


def test_connect_other_protocol(rig, web):
    for opening in (b"SSH-2.0-x\r\n", b"\x00\x01\x02", b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n"):
        n = len(rig.decided)
        s, got = connect(rig, "allowed.test", web.server_port)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b" 200 " not in rig.ask(opening, s)
        eventually(lambda: len(rig.decided) == n + 2)
        assert rig.decided[-1]["malformed"]


def test_connect_denied_with_bytes_behind(rig, web):
    n = len(web.seen)
    got = rig.ask(b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n" + get(web))
    assert got.startswith(b"HTTP/1.1 403 ") and got.count(b"HTTP/1.1") == 1
    assert len(web.seen) == n and len(rig.decided) == 1


def test_rebinding(rig, web):
    n = len(web.seen)
    got = rig.ask(get(web, "rebound.test", more=CLOSING))
    assert got.startswith(b"HTTP/1.1 403 ") and b'"reason":"address"' in got
    assert len(rig.refused) == 1 and rig.refused[0][4][:4] == bytes([127, 0, 0, 2])
    assert len(web.seen) == n and not rig.closed


def test_failures_upstream(rig, web):
    assert rig.ask(get(web, "nothing.test", more=CLOSING)).startswith(b"HTTP/1.1 502 ")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        got = rig.ask(f"GET http://allowed.test:{port}/ HTTP/1.0\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 502 ")
    eventually(lambda: len(rig.closed) == 2)
    assert [CLOSE[c["reason"]] for c in rig.closed] == ["resolve", "refused"]


def test_policy_is_matched_again(rig, web, dns):
    """An audit that allows what the session's policy denies gets no connection."""
    rig.verdicts = lambda host, decide: ALLOW
    got = rig.ask(get(web, "evil.test", more=CLOSING))
    assert got.startswith(b"HTTP/1.1 403 ")
    assert len(rig.refused) == 1 and not dns.questions


def test_audit_sleeps(rig, web):
    rig.audit_sleeps = True
    started = time.monotonic()
    got = rig.ask(get(web))
    assert got.startswith(b"HTTP/1.1 503 ") and 5 < time.monotonic() - started < 8


def test_session_close_cuts(rig, web):
    with rig.connect() as s:
        s.sendall(get(web))
        assert s.recv(65536).startswith(b"HTTP/1.1 200 ")
        rig.launcher_dialer.send("DIALER_SESSION_CLOSE", rig.session)
        eventually(lambda: rig.closed)
    assert CLOSE[rig.closed[0]["reason"]] == "session-ended"
    assert rig.egress.wait(60) is not None
    rig.egress.wait = lambda *_: 0


def test_nothing_is_left_behind(rig, web):
    """Descriptors of both workers after hostile, cut and ordinary requests."""
    def count():
        return [len(os.listdir(f"/proc/{p.pid}/fd")) for p in (rig.egress, rig.dialer)]

    rig.ask(get(web, more=CLOSING))
    eventually(lambda: rig.closed)
    time.sleep(0.5)  # the worker sees our end a little later
    before = count()
    for i in range(200):
        with rig.connect() as s:
            s.sendall([get(web)[:20], get(web), get(web, "evil.test"), os.urandom(300), get(web, path="/big")][i % 5])
            if i % 5:
                s.recv(100)
    rig.ask(get(web, more=CLOSING))
    eventually(lambda: count() == before, 10)


def hostile(dns, confined=False, files_max=None):
    """A dialer whose egress worker is the test."""
    rig = Rig.__new__(Rig)
    rig.session, rig.refused, rig.closed = secrets.token_bytes(16), [], []
    rig.launcher_dialer, end = Channel.pair()
    rig.dialer = start("dialer", end, confined, files_max=files_max)
    assert rig.launcher_dialer.receive()[0] == "DIALER_READY"
    rig.start_dialer(dns)
    rig.egress_end, end = Channel.pair()
    rig.launcher_dialer.send("DIALER_EGRESS_ATTACH", rig.session, 2, fds=[end.fileno()])
    return rig


@pytest.mark.parametrize("attack", ["garbage", "foreign", "dial", "sequence"])
def test_hostile_egress(dns, web, attack):
    rig = hostile(dns)
    try:
        rig.dial(7, 42, "allowed.test", web.server_port, 1)
        name, values, _, fds = rig.egress_end.receive()
        assert (name, values) == ("CONNECTED", (7, 42))
        if attack == "garbage":
            rig.egress_end.end.send(b"\xff" * 40)
        elif attack == "foreign":
            rig.egress_end.send("CONNECTION_DONE", 43, 0, 0)
        elif attack == "dial":
            rig.egress_end.send("DIAL", rig.session, 1, 1, 0, 80, 1, 0, bytes(16), 0, b"evil.test")
        else:
            rig.egress_end.sent = 5
            rig.egress_end.send("CONNECTION_DONE", 42, 0, 0)
        assert rig.egress_end.receive() is None
        name, values, _, _ = rig.audit_dialer.receive()
        assert name == "DIAL_CLOSED" and values[1] == 42 and CLOSE[values[8]] == "egress-gone"
        # The descriptor that it got is of no more use to it.
        with socket.socket(fileno=fds[0]) as s, pytest.raises(OSError):
            s.send(b"GET / HTTP/1.0\r\n\r\n")
        assert rig.dialer.poll() is None
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0


@pytest.fixture
def silent():
    """A port of all of 127.0.0.0/8 where nothing is accepted, and nothing refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("0.0.0.0", 0))
        listener.listen(0)
        for _ in range(4):
            s = stack.enter_context(socket.socket())
            s.setblocking(False)
            s.connect_ex(("127.0.1.1", listener.getsockname()[1]))
        yield listener.getsockname()[1]


def test_attempts_leave_room_for_others(dns, web, silent):
    """Names with many silent addresses: they are tried side by side only as long as as many descriptors are left for others."""
    rig = hostile(dns, files_max=1024)
    try:
        session, egress = rig.another_session()
        for i in range(60):
            rig.dial(100 + i, 100 + i, "silent.test", silent, 1)
        eventually(lambda: len(os.listdir(f"/proc/{rig.dialer.pid}/fd")) > 380, 60)
        for i in range(8):
            rig.dial(1000 + i, 1000 + i, "allowed.test", web.server_port, 1, session=session)
            name, values, _, fds = egress.receive()
            assert (name, values[0]) == ("CONNECTED", 1000 + i), (i, name, values)
            os.close(fds[0])
            time.sleep(0.25)
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0


def test_done_ends_the_connection_for_everybody(dns, web):
    rig = hostile(dns)
    try:
        rig.dial(7, 42, "allowed.test", web.server_port, 1)
        _, _, _, fds = rig.egress_end.receive()
        rig.egress_end.send("CONNECTION_DONE", 42, 0, 0)
        assert rig.audit_dialer.receive()[0] == "DIAL_CLOSED"
        with socket.socket(fileno=fds[0]) as s, pytest.raises(OSError):
            s.send(b"x")
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0


def test_a_connection_that_is_over_begins_no_other(dns):
    """To the kernel a socket that was connected without waiting is still connecting, until somebody asks."""
    with socket.create_server(("127.0.0.1", 0)) as resets, socket.create_server(("127.0.0.1", 0)) as other:
        rig = hostile(dns)
        try:
            rig.dial(7, 42, "allowed.test", resets.getsockname()[1], 1)
            _, _, _, fds = rig.egress_end.receive()
            # It would cut the connection before anybody could try.
            rig.dialer.send_signal(signal.SIGSTOP)
            peer, _ = resets.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with socket.socket(fileno=fds[0]) as s:
                assert select.select([s], [], [], 10)[0]
                for _ in range(6):
                    with contextlib.suppress(OSError):
                        s.sendto(b"x", socket.MSG_FASTOPEN, other.getsockname())
            assert not select.select([other], [], [], 0.3)[0]
        finally:
            rig.dialer.send_signal(signal.SIGCONT)
            rig.launcher_dialer.end.close()
            assert rig.dialer.wait(60) == 0


def test_audit_gone_cuts_everything(dns, web):
    rig = hostile(dns)
    try:
        rig.dial(7, 42, "allowed.test", web.server_port, 1)
        _, _, _, fds = rig.egress_end.receive()
        rig.audit_dialer.end.close()
        with socket.socket(fileno=fds[0]) as s:
            s.settimeout(5)
            assert s.recv(10) == b""
            with pytest.raises(OSError):
                s.send(b"x")
    finally:
        rig.launcher_dialer.end.close()
        assert rig.dialer.wait(60) == 0
