"""Keys of network rules beyond host and port: which requests, how much, how many, how long. Each at its limit, through
the doors that a session has, with the row that says so."""

import collections
import contextlib
import datetime
import json
import socket
import ssl
import threading

import pytest

from machine import eventually, talk

# Reads a list of steps, each [what, ...], and prints what each gave. Connections have names.
INSIDE = r"""
import base64, json, socket, sys, time
open_ones = {}
def read_head(s):
    got = b""
    while b"\r\n\r\n" not in got:
        part = s.recv(1)
        if not part:
            break
        got += part
    return got.decode("latin-1")
def through(door, host, port):
    s = socket.create_connection(("127.0.0.1", 3128), 20)
    s.settimeout(60)
    if door == "connect":
        s.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        return s, read_head(s).split("\r\n\r\n")[0]
    s.sendall(b"\5\1\0\5\1\0\3" + bytes([len(host)]) + host.encode() + port.to_bytes(2, "big"))
    answer = b""
    while len(answer) < 12:
        part = s.recv(12 - len(answer))
        if not part:
            break
        answer += part
    return s, answer[2:4].hex()
def rest(s):
    got = b""
    try:
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
    except ConnectionError:
        pass
    return got
def run(what, *a):
    if what == "open":
        open_ones[a[0]], answer = through(*a[1:])
        return answer
    if what == "plain":
        open_ones[a[0]] = socket.create_connection(("127.0.0.1", 3128), 20)
        open_ones[a[0]].settimeout(60)
        return None
    s = open_ones[a[0]]
    if what == "send":
        try:
            s.sendall(base64.b64decode(a[1]))
            return True
        except ConnectionError:
            return False
    if what == "fill":
        try:
            s.sendall(b"x" * a[1])
            return True
        except ConnectionError:
            return False
    if what == "end":
        try:
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return None
    if what == "head":
        return read_head(s)
    if what == "rest":
        return len(rest(s))
    if what == "text":
        return rest(s).decode("latin-1")
    if what == "until-closed":
        # The other keeps talking while the first is silent.
        other, n = open_ones[a[1]], 0
        s.settimeout(0.2)
        while n < 300:
            n += 1
            other.sendall(b"x")
            try:
                if not s.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        other.sendall(b"y")
        return n
    if what == "close":
        s.close()
        return None
    raise ValueError(what)
for line in sys.stdin:
    print(json.dumps(run(*json.loads(line))), flush=True)
"""


class Inside:
    """A process in a session that does what it is told, step by step."""

    def __init__(self, instance, user, profile):
        self.process = instance.ctl_start(user, "run", "-T", "-p", profile, "--", "python3", "-c", INSIDE,
                                          cwd=user.workspace(), stdin=-1, stdout=-1, stderr=-1)

    def __call__(self, *step):
        self.process.stdin.write(json.dumps(step).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.process.stderr.close()


class Server:
    """Takes connections; serve(connection, bytes so far) may answer. Notes what each one sent."""

    def __init__(self, serve=None):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.got, self.ended, self.serve = collections.defaultdict(bytes), [], serve
        self.accepted = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                # Counted before anybody can know what it sent.
                self.accepted += 1
                threading.Thread(target=self.read, args=(connection, self.accepted - 1), daemon=True).start()

    def read(self, connection, i):
        with contextlib.suppress(OSError), connection:
            while part := connection.recv(65536):
                self.got[i] += part
                if self.serve and self.serve(connection, self.got[i]):
                    break
            self.ended.append(i)

    def close(self):
        self.listener.close()


@pytest.fixture
def sink():
    server = Server()
    yield server
    server.close()


def rule(host, port, **keys):
    return {"id": "t", "action": "allow", "host": host, "cidr": "127.0.0.1/32", "ports": [port], **keys}


def net_rows(instance, after, **equal):
    return instance.rows(after, kind="net", **equal)


def close_of(instance, row):
    found = eventually(lambda: [c for c in instance.closes(row["seq"]) if c["conn_seq"] == row["seq"]], 20)
    assert len(found) == 1, row
    return found[0]


def b64(data):
    import base64
    return base64.b64encode(data).decode()


LIMIT = 100_000
AROUND = [LIMIT - 1, LIMIT, LIMIT + 1]
DOORS = ["connect", "socks5"]
GRANTED = {"connect": "HTTP/1.1 200 Connection established", "socks5": "0500"}


# ---- bytes ----

@pytest.mark.parametrize("door", DOORS)
def test_max_upload_of_a_tunnel(instance, caller, make_profile, sink, door):
    profile = make_profile([rule("allowed.test", sink.port, protocol="tcp", max_upload=str(LIMIT))])
    for i, n in enumerate(AROUND):
        before = instance.head()
        with Inside(instance, caller, profile) as inside:
            assert inside("open", "a", door, "allowed.test", sink.port) == GRANTED[door]
            inside("fill", "a", n)
            inside("end", "a")
            inside("rest", "a")
        assert eventually(lambda: i in sink.ended, 20)
        assert len(sink.got[i]) == min(n, LIMIT)
        row, = net_rows(instance, before)
        closed = close_of(instance, row)
        assert closed["bytes_up"] == min(n, LIMIT)
        assert (closed["reason"] == "max-upload") == (n > LIMIT), closed


@pytest.mark.parametrize("door", DOORS)
def test_max_download_of_a_tunnel(instance, alice, make_profile, door):
    sizes = list(AROUND)

    def serve(connection, _):
        connection.sendall(b"d" * sizes.pop(0))
        return True

    server = Server(serve)
    profile = make_profile([rule("allowed.test", server.port, protocol="tcp", max_download=str(LIMIT))])
    for n in AROUND:
        before = instance.head()
        with Inside(instance, alice, profile) as inside:
            assert inside("open", "a", door, "allowed.test", server.port) == GRANTED[door]
            inside("fill", "a", 1)
            assert inside("rest", "a") == min(n, LIMIT)
        row, = net_rows(instance, before)
        assert (close_of(instance, row)["reason"] == "max-download") == (n > LIMIT)
    server.close()


def post(port, size, more=""):
    return (f"POST http://allowed.test:{port}/p HTTP/1.1\r\nHost: allowed.test:{port}\r\n{more}"
            f"Content-Length: {size}\r\n\r\n").encode() + b"u" * size


def test_max_upload_of_plain_http(instance, caller, make_profile):
    """Heads count: what the close row calls sent is what the limit is about. What does not fit is not begun."""
    def answer(connection, got):
        head, _, body = got.partition(b"\r\n\r\n")
        if len(body) == 50:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server = Server(answer)
    request = post(server.port, 50)
    before = instance.head()
    (_, _), = talk(instance, caller, make_profile([rule("allowed.test", server.port)]), [[request]])
    size = close_of(instance, net_rows(instance, before)[0])["bytes_up"]
    assert size == len(server.got[0])
    for limit, status in ((size + 1, 200), (size, 200), (size - 1, 413)):
        profile = make_profile([rule("allowed.test", server.port, max_upload=str(limit))])
        n, before = server.accepted, instance.head()
        ((got,), _), = talk(instance, caller, profile, [[request]])
        assert got.status == status, limit
        assert server.got[n] == (server.got[0] if status == 200 else b"")
        closed = close_of(instance, net_rows(instance, before)[0])
        assert closed["bytes_up"] == (size if status == 200 else 0)
        assert (closed["reason"] == "max-upload") == (status != 200)
    server.close()


def test_max_upload_of_chunks(instance, alice, make_profile):
    """Nobody knows how long it will be: what may go goes, then it is cut."""
    server = Server()
    profile = make_profile([rule("allowed.test", server.port, max_upload="10K")])
    before = instance.head()
    head = (f"POST http://allowed.test:{server.port}/c HTTP/1.1\r\nHost: allowed.test:{server.port}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n").encode()
    with Inside(instance, alice, profile) as inside:
        inside("plain", "a")
        inside("send", "a", b64(head + b"800\r\n" + b"c" * 2048 + b"\r\n"))
        assert eventually(lambda: server.got[0].endswith(b"c" * 2048 + b"\r\n"), 20)
        inside("send", "a", b64(b"4000\r\n" + b"c" * 16384 + b"\r\n0\r\n\r\n"))
        assert " 413 " in inside("text", "a").splitlines()[0]
    assert eventually(lambda: server.ended, 20)
    assert len(server.got[0]) == 10240
    closed = close_of(instance, net_rows(instance, before)[0])
    assert (closed["reason"], closed["bytes_up"]) == ("max-upload", 10240)
    server.close()


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
def test_max_download_of_plain_http(instance, alice, make_profile, framing):
    body = b"d" * 50_000
    if framing == "length":
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    elif framing == "chunks":
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    else:
        whole = b"HTTP/1.0 200 OK\r\n\r\n" + body
    server = Server(lambda connection, _: connection.sendall(whole) or True)
    get = f"GET http://allowed.test:{server.port}/ HTTP/1.1\r\nHost: allowed.test:{server.port}\r\n\r\n".encode()
    for limit in (len(whole) + 1, len(whole), len(whole) - 1):
        profile = make_profile([rule("allowed.test", server.port, max_download=str(limit))])
        before = instance.head()
        with Inside(instance, alice, profile) as inside:
            inside("plain", "a")
            inside("send", "a", b64(get))
            inside("end", "a")
            text = inside("text", "a")
        row, = net_rows(instance, before)
        reason = close_of(instance, row)["reason"]
        got = text.partition("\r\n\r\n")[2].count("d")
        assert text.startswith("HTTP/1.1 200")
        if limit >= len(whole):
            assert got == len(body) and reason != "max-download", (limit, got, reason)
        else:
            assert got <= len(body) and reason == "max-download", (limit, got, reason)
            assert framing == "chunks" or got < len(body) or framing == "close"
            assert framing != "length" or got == len(body) - 1
            assert framing != "chunks" or not text.endswith("0\r\n\r\n")
    server.close()


def test_a_head_beyond_max_download_is_an_error(instance, alice, make_profile):
    server = Server(lambda c, _: c.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500 + b"\r\nContent-Length: 0\r\n\r\n") or True)
    profile = make_profile([rule("allowed.test", server.port, max_download="100")])
    get = f"GET http://allowed.test:{server.port}/ HTTP/1.1\r\nHost: allowed.test:{server.port}\r\n\r\n".encode()
    before = instance.head()
    ((answer,), _), = talk(instance, alice, profile, [[get]])
    assert answer.status == 502 and b"max_download" in answer.body
    assert close_of(instance, net_rows(instance, before)[0])["reason"] == "max-download"
    server.close()


def test_curl_is_told(instance, alice, make_profile, web):
    """A file too big for its rule: an answer that says why, no half of it at the server."""
    profile = make_profile([rule("allowed.test", web.server_port, max_upload="1M")])
    requests = len(web.requests)
    done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "sh", "-c",
                        "head -c 1100000 /dev/zero >big; head -c 900000 /dev/zero >small; for f in big small; do "
                        f"curl -sS -o answer -w '%{{http_code}} ' -T $f http://allowed.test:{web.server_port}/$f; done; "
                        "exit 0", cwd=alice.workspace())
    assert done.stdout == "413 200 ", done.stderr
    assert [path for _, path, _ in web.requests[requests:]] == ["/small"]


# ---- how many ----

@pytest.mark.parametrize("door", DOORS)
def test_max_connections(instance, caller, make_profile, sink, door):
    profile = make_profile([rule("allowed.test", sink.port, protocol="tcp", max_connections=3)])
    before = instance.head()
    with Inside(instance, caller, profile) as inside, Inside(instance, caller, profile) as other:
        for name in "abc":
            assert inside("open", name, door, "allowed.test", sink.port) == GRANTED[door]
        answer = inside("open", "d", door, "allowed.test", sink.port)
        if door == "connect":
            assert answer.startswith("HTTP/1.1 403") and '"reason":"max-connections"' in answer and '"rule":"t"' in answer
        else:
            assert answer == "0502"
        # Each session has its own.
        assert other("open", "a", door, "allowed.test", sink.port) == GRANTED[door]
        denied, = net_rows(instance, before, verdict="deny")
        assert (denied["reason"], denied["rule"], denied["action"]) == ("max-connections", "t", "connect")
        inside("close", "b")
        assert eventually(lambda: instance.closes(before), 20)
        assert inside("open", "e", door, "allowed.test", sink.port) == GRANTED[door]
        assert inside("open", "f", door, "allowed.test", sink.port) != GRANTED[door]
    assert len(net_rows(instance, before, verdict="allow")) == 5
    assert eventually(lambda: len(instance.closes(before)) == 5, 20)


def test_many_at_once_are_counted_before_their_commit(instance, alice, make_profile):
    """All asked for in one moment: no more are allowed than the rule says."""
    server = Server()
    profile = make_profile([rule("allowed.test", server.port, max_connections=5)])
    script = ("import socket\nopen_ones = []\nget = b'GET http://allowed.test:%d/ HTTP/1.1\\r\\nHost: allowed.test:%d\\r\\n\\r\\n'\n"
              "for i in range(40): open_ones.append(socket.create_connection(('127.0.0.1', 3128), 20))\n"
              "for s in open_ones: s.sendall(get)\nn = 0\n"
              "for s in open_ones:\n s.settimeout(3 if n >= 35 else 20)\n"
              " try: n += s.recv(12) == b'HTTP/1.1 403'\n except TimeoutError: pass\n"
              "print(n)\n") % (server.port, server.port)
    before = instance.head()
    # The five that hang are waited for; the others answer at once.
    done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "python3", "-c",
                        script.replace("settimeout(3 if n >= 35 else 20)", "settimeout(3)"), cwd=alice.workspace(), timeout=120)
    assert done.stdout == "35\n", done.stderr
    assert len(net_rows(instance, before, verdict="allow")) == 5
    assert len(net_rows(instance, before, verdict="deny", reason="max-connections")) == 35
    server.close()


@pytest.mark.parametrize("door", DOORS)
def test_one_after_the_other_is_one_at_a_time(instance, alice, make_profile, sink, door):
    """The next may be asked for before everybody has heard that the last one is over."""
    profile = make_profile([rule("allowed.test", sink.port, protocol="tcp", max_connections=1)])
    before = instance.head()
    with Inside(instance, alice, profile) as inside:
        for _ in range(50):
            assert inside("open", "a", door, "allowed.test", sink.port) == GRANTED[door]
            inside("close", "a")
    assert [row["verdict"] for row in net_rows(instance, before)] == ["allow"] * 50


def test_failed_connections_are_not_counted_for_ever(instance, alice, make_profile, allow_rule):
    profile = make_profile([rule("closed.test", 9, max_connections=1)])
    for _ in range(3):
        before = instance.head()
        done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "sh", "-c",
                            "for i in 1 2 3; do curl -s -o /dev/null -w '%{http_code} ' http://closed.test:9/; sleep 0.3; done",
                            cwd=alice.workspace())
        assert set(done.stdout.split()) <= {"502", "403"} and done.stdout.startswith("502 "), done.stdout
        assert eventually(lambda: len(instance.closes(before)) >= 1, 10)


# ---- how long ----

@pytest.mark.parametrize("door", DOORS)
def test_idle(instance, alice, make_profile, sink, door):
    """The silent one is closed, the one that talks lives on: side by side."""
    profile = make_profile([rule("allowed.test", sink.port, protocol="tcp", idle="2s")])
    before = instance.head()
    with Inside(instance, alice, profile) as inside:
        for name in ("silent", "talks"):
            assert inside("open", name, door, "allowed.test", sink.port) == GRANTED[door]
        inside("fill", "silent", 1)
        assert inside("until-closed", "silent", "talks") < 300
        assert eventually(lambda: sink.got[1].endswith(b"y"), 10)
        silent, talks = net_rows(instance, before)
        assert close_of(instance, silent)["reason"] == "idle"
        assert not [c for c in instance.closes(before) if c["conn_seq"] == talks["seq"]]


def test_idle_between_requests_and_in_an_answer(instance, alice, make_profile):
    def serve(connection, got):
        if b"/hang" not in got:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server = Server(serve)
    profile = make_profile([rule("allowed.test", server.port, idle="1s")])
    before = instance.head()
    with Inside(instance, alice, profile) as inside:
        for name, path in (("kept", "/"), ("hangs", "/hang")):
            inside("plain", name)
            inside("send", name, b64(f"GET http://allowed.test:{server.port}{path} HTTP/1.1\r\n"
                                     f"Host: allowed.test:{server.port}\r\n\r\n".encode()))
        assert inside("text", "kept").endswith("ok")
        inside("text", "hangs")
    for row in net_rows(instance, before):
        assert close_of(instance, row)["reason"] == "idle"
    server.close()


def utc(seconds):
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("door", DOORS)
def test_expires(instance, alice, make_profile, sink, door):
    """E72: before: allowed. Then what is open is closed, with a row, and nothing new is allowed."""
    for seconds in (8, 30, 90):
        profile = make_profile([rule("allowed.test", sink.port, protocol="tcp", expires=utc(seconds))],
                               network={"default": "deny"})
        before = instance.head()
        with Inside(instance, alice, profile) as inside:
            # On a busy machine the session may have started too late.
            if inside("open", "a", door, "allowed.test", sink.port) != GRANTED[door]:
                continue
            inside("fill", "a", 10)
            assert inside("rest", "a") == 0
            assert inside("open", "b", door, "allowed.test", sink.port) != GRANTED[door]
            connected, denied = net_rows(instance, before)
            assert (connected["verdict"], denied["verdict"], denied["reason"]) == ("allow", "deny", "default")
            assert close_of(instance, connected)["reason"] == "expired"
            assert eventually(lambda: sink.ended, 10)
            return
    pytest.fail("no session started in time")


def test_the_longer_of_two_rules_keeps_a_connection(instance, alice, make_profile, sink):
    both = [rule("allowed.test", sink.port, protocol="tcp", expires=utc(4)),
            {**rule("allowed.test", sink.port, protocol="tcp"), "id": "stays"}]
    profile = make_profile(both)
    before = instance.head()
    with Inside(instance, alice, profile) as inside:
        assert inside("open", "a", "connect", "allowed.test", sink.port) == GRANTED["connect"]
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=5)
        assert eventually(lambda: datetime.datetime.now(datetime.timezone.utc) > end, 30)
        inside("send", "a", b64(b"still here"))
        assert eventually(lambda: sink.got[0] == b"still here", 10)
        assert not instance.closes(before)


# ---- TLS ----

def hello(name):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("tls", [None, "sni", "any"])
def test_tls(instance, alice, make_profile, sink, door, tls):
    """sni, as where nothing is said: the hello names the host. any: it is not looked at."""
    profile = make_profile([rule("allowed.test", sink.port, **({"tls": tls} if tls else {}))])
    before = instance.head()
    with Inside(instance, alice, profile) as inside:
        for i, name in enumerate(("allowed.test", "other.test", None)):
            data = hello(name)
            is_passed = tls == "any" or name == "allowed.test"
            assert inside("open", str(i), door, "allowed.test", sink.port) == GRANTED[door]
            inside("send", str(i), b64(data))
            if is_passed:
                assert eventually(lambda i=i, data=data: sink.got[i] == data, 10), (tls, name)
                inside("end", str(i))
            # An alert, not a byte to the server.
            assert inside("rest", str(i)) == (0 if is_passed else 7)
            assert sink.got[i] == (data if is_passed else b"")
    denied = net_rows(instance, before, verdict="deny")
    assert [row["reason"] for row in denied] == ([] if tls == "any" else ["malformed"] * 2)


def test_tls_any_opens_nothing_else(instance, alice, make_profile, sink):
    profile = make_profile([rule("allowed.test", sink.port, protocol="tls", tls="any")])
    with Inside(instance, alice, profile) as inside:
        for name, data in (("a", b"SSH-2.0-x\r\n"), ("b", b"\0\1\2"), ("c", b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n")):
            inside("open", name, "connect", "allowed.test", sink.port)
            inside("send", name, b64(data))
            inside("rest", name)
    assert not any(sink.got.values())


# ---- methods and paths ----

def request(method, path, port, more="", host="allowed.test"):
    return f"{method} http://{host}:{port}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n{more}\r\n".encode()


@pytest.fixture
def api_profile(make_profile, web):
    return make_profile([rule("allowed.test", web.server_port, protocol="http", methods=["GET", "POST"],
                              paths=["/v1/**", "/one/*/end", "/caf\u00e9"])], network={"default": "deny"})


def test_methods_and_paths(instance, caller, api_profile, web):
    port = web.server_port
    wanted = [("GET", "/v1/", 200), ("GET", "/v1/a/b", 200), ("GET", "/v1/a?x=/../y;z", 200), ("GET", "/one/x/end", 200),
              ("GET", "/caf%c3%a9", 200), ("HEAD", "/v1/a", 403), ("PUT", "/v1/a", 403), ("DELETE", "/v1/a", 403),
              ("OPTIONS", "/v1/a", 403), ("GET", "/v1", 403), ("GET", "/", 403), ("GET", "", 403), ("GET", "/V1/a", 403),
              ("GET", "/one/x/y/end", 403), ("GET", "/v2/v1/a", 403), ("GET", "?/v1/a", 403)]
    before, requests = instance.head(), len(web.requests)
    answers = talk(instance, caller, api_profile,
                   [[request(method, path, port, "Connection: close\r\n")] for method, path, _ in wanted])
    assert [(m, p, a[0].status) for (m, p, _), (a, _) in zip(wanted, answers)] == wanted
    assert [path for _, path, _ in web.requests[requests:]] == [p for _, p, status in wanted if status == 200]
    rows = net_rows(instance, before)
    assert [row["verdict"] for row in rows] == ["allow" if status == 200 else "deny" for *_, status in wanted]
    assert {row["reason"] for row in rows if row["verdict"] == "deny"} == {"default"}


UNCLEAR = ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/.%2E/admin", "/v1/./a", "/v1/%2e/a", "//v1/a", "/v1//a", "/v1/a%2fb",
           "/v1/a%2Fb", "/v1/a%5cb", "/v1/a\\b", "/v1/%252e%252e/admin", "/v1/a;x=1", "/v1/a%3bx", "/v1/a%00",
           "/v1/%0d%0aX:y", "/v1/%ff", "/v1/%c0%ae%c0%ae/", "/v1/%u002e", "/v1/%", "/v1/%2", "/v1/..", "/v1/" + "a" * 5000]


def test_unclear_paths_are_denied(instance, alice, api_profile, web):
    before, requests = instance.head(), len(web.requests)
    answers = talk(instance, alice, api_profile, [[request("GET", path, web.server_port)] for path in UNCLEAR])
    assert [(p, a[0].status) for p, (a, _) in zip(UNCLEAR, answers)] == [(p, 403) for p in UNCLEAR]
    assert len(web.requests) == requests
    rows = net_rows(instance, before)
    assert [(row["verdict"], row["reason"]) for row in rows] == [("deny", "path")] * len(UNCLEAR)
    assert [row["path"].decode() for row in rows] == UNCLEAR
    assert json.loads(answers[0][0][0].headers["sandboxd-decision"])["reason"] == "path"


def test_unclear_paths_pass_where_no_rule_looks_at_paths(instance, alice, make_profile, web):
    profile = make_profile([rule("allowed.test", web.server_port, protocol="http", methods=["GET"])])
    requests = len(web.requests)
    (answers, _), = talk(instance, alice, profile, [[request("GET", "/v1/@a%2fb//;", web.server_port)]])
    assert answers[0].status == 200
    assert web.requests[requests][1] == "/v1/@a%2fb//;"


def test_rules_that_deny_requests(instance, alice, make_profile, web):
    port = web.server_port
    profile = make_profile([rule("allowed.test", port),
                            {"id": "no", "action": "deny", "host": "allowed.test", "protocol": "http", "methods": ["PUT"]},
                            {"id": "admin", "action": "deny", "host": "allowed.test", "protocol": "http",
                             "paths": ["/admin", "/admin/**"], "reason": "not here"}])
    wanted = [("GET", "/", 200), ("PUT", "/", 403), ("GET", "/admin", 403), ("GET", "/admin/x", 403), ("GET", "/%61dmin", 403),
              ("GET", "/x/../admin", 403), ("GET", "/x%2f..%2fadmin", 403), ("GET", "//admin", 403), ("GET", "/administer", 200)]
    before = instance.head()
    answers = talk(instance, alice, profile,
                   [[request(m, p, port, "Connection: close\r\nContent-Length: 0\r\n")] for m, p, _ in wanted])
    assert [(m, p, a[0].status) for (m, p, _), (a, _) in zip(wanted, answers)] == wanted
    assert [row["rule"] for row in net_rows(instance, before)] == ["t", "no"] + ["admin"] * 6 + ["t"]
    assert b"not here" in answers[2][0][0].body


def test_each_request_of_a_connection_is_judged(instance, alice, api_profile, web):
    port, requests = web.server_port, len(web.requests)
    before = instance.head()
    (answers, _), = talk(instance, alice, api_profile, [[request("GET", "/v1/a", port), request("GET", "/v2", port),
                                                         request("PUT", "/v1/a", port), request("GET", "/v1/b", port)]])
    assert [a.status for a in answers] == [200, 403, 403, 200]
    assert [path for _, path, _ in web.requests[requests:]] == ["/v1/a", "/v1/b"]
    assert [row["verdict"] for row in net_rows(instance, before)] == ["allow", "deny", "deny", "allow"]


def test_what_was_judged_is_what_is_sent(instance, alice, api_profile, web):
    """One spelling of the path; no header that says another method or path."""
    requests = len(web.requests)
    more = ("X-HTTP-Method-Override: DELETE\r\nx-http-method: PUT\r\nX-Method-Override: PATCH\r\nX-Original-URL: /admin\r\n"
            "X-Rewrite-Url: /admin\r\nX_HTTP_Method_override: PUT\r\nX-Kept: yes\r\nContent-Length: 3\r\n")
    (answers, _), = talk(instance, alice, api_profile,
                         [[request("POST", "/v1/%61%2db%20c?%61=%2f", web.server_port, more) + b"abc"]])
    assert (answers[0].status, answers[0].body) == (200, b"abc")
    method, path, headers = web.requests[requests]
    assert (method, path) == ("POST", "/v1/a-b%20c?%61=%2f")
    names = {name.lower().replace("_", "-") for name in headers}
    assert "x-kept" in names and not names & {"x-http-method-override", "x-http-method", "x-method-override",
                                              "x-original-url", "x-rewrite-url"}


def test_such_headers_pass_where_no_rule_looks(instance, alice, profile, web):
    requests = len(web.requests)
    talk(instance, alice, profile, [[request("POST", "/%61", web.server_port,
                                             "X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n")]])
    _, path, headers = web.requests[requests]
    assert path == "/%61" and headers["X-HTTP-Method-Override"] == "DELETE"


@pytest.mark.parametrize("door", DOORS)
def test_a_tunnel_for_some_requests(instance, alice, api_profile, web, door):
    """Under a rule about requests it leads nowhere until there is one, and each is judged."""
    before, accepted, seen = instance.head(), web.accepted, len(web.requests)
    port = web.server_port
    with Inside(instance, alice, api_profile) as inside:
        for name, data in (("tls", hello("allowed.test")), ("ssh", b"SSH-2.0-x\r\n"), ("other", b"\0\1\2"),
                           ("two", f"CONNECT allowed.test:{port} HTTP/1.1\r\nHost: allowed.test:{port}\r\n\r\n".encode())):
            assert inside("open", name, door, "allowed.test", port) == GRANTED[door]
            inside("send", name, b64(data))
            if name == "tls":
                assert inside("rest", name) == 7
            else:
                assert " 200 " not in inside("text", name)
        assert web.accepted == accepted
        inside("open", "a", door, "allowed.test", port)
        lines = [("GET", "/v1/a", ""), ("GET", "/v2", ""), ("PUT", "/v1/a", ""), ("GET", "/v1/b", "Connection: close\r\n")]
        inside("send", "a", b64("".join(f"{m} {p} HTTP/1.1\r\nHost: allowed.test:{port}\r\n{more}\r\n"
                                        for m, p, more in lines).encode()))
        text = inside("text", "a")
    assert [line.split()[1] for line in text.splitlines() if line.startswith("HTTP/1.")] == ["200", "403", "403", "200"]
    assert [path for _, path, _ in web.requests[seen:]] == ["/v1/a", "/v1/b"]
    rows = net_rows(instance, before)
    assert [(r["action"], r["protocol"], r["verdict"]) for r in rows[:2]] == \
        [("request", "http", "allow"), ("request", "tls", "deny")]
    assert len([r for r in rows if r["action"] == "connect" and r["verdict"] == "allow"]) == web.accepted - accepted > 0


def test_a_tunnel_is_no_way_past_what_denies_requests(instance, alice, make_profile, web):
    """Under an allow for anything, too: HTTP in a tunnel is read, and nothing else than HTTP and TLS goes over it."""
    port = web.server_port
    profile = make_profile([rule("allowed.test", port), {**rule("allowed.test", port, protocol="tcp"), "id": "raw"},
                            {"id": "no", "action": "deny", "host": "allowed.test", "protocol": "http", "methods": ["PUT"]}])
    requests = len(web.requests)
    put = f"PUT /x HTTP/1.1\r\nHost: allowed.test:{port}\r\nContent-Length: 0\r\n\r\n".encode()
    with Inside(instance, alice, profile) as inside:
        for name, data in (("a", put), ("b", b"\r\n" + put), ("c", put.replace(b"PUT", b"put")), ("d", b" " + put)):
            inside("open", name, "connect", "allowed.test", port)
            inside("send", name, b64(data))
            inside("end", name)
            inside("text", name)
    assert len(web.requests) == requests


def test_curl_by_method_and_path(instance, caller, api_profile, web):
    url = f"http://allowed.test:{web.server_port}"
    done = instance.ctl(caller, "run", "-T", "-p", api_profile, "--", "sh", "-c",
                        f"for a in '{url}/v1/x' '-X DELETE {url}/v1/x' '--path-as-is {url}/v1/../x' '-d a=b {url}/v1/x'; do "
                        "curl -s -o /dev/null -w '%{http_code} ' $a; done", cwd=caller.workspace())
    assert done.stdout == "200 403 403 200 ", done.stderr


# ---- asking without doing ----

def test_policy_check(instance, alice, api_profile, web):
    url = f"http://allowed.test:{web.server_port}"
    for arguments, status in (((url + "/v1/a",), 0), ((url + "/v2",), 1), (("--method", "PUT", url + "/v1/a"), 1),
                              (("--method", "POST", url + "/v1/a?q"), 0), ((url + "/v1/../a",), 1),
                              (("--method", "put", url + "/v1/a"), 1)):
        *options, target = arguments
        done = instance.ctl(alice, "policy", "check", "-p", api_profile, *options, "net", target)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
    assert "path" in instance.ctl(alice, "policy", "check", "-p", api_profile, "net", url + "/v1//a").stdout
