"""The SOCKS door of the proxy, and rules for tcp: the same decisions, refused by code."""

import contextlib
import json
import socket
import threading

import pytest

PROXY = "127.0.0.1:3128"

# Each item of standard input is bytes to send to the proxy; what it answers is printed.
ASK = r"""
import json, socket, sys
found = []
for data in json.load(sys.stdin):
    s = socket.create_connection(("127.0.0.1", 3128), 10)
    s.settimeout(8)
    s.sendall(bytes.fromhex(data))
    answer = b""
    try:
        while len(answer) < 4096:
            more = s.recv(4096)
            if not more:
                break
            answer += more
            if b"</end>" in answer:
                break
    except OSError:
        pass
    s.close()
    found.append(answer.hex())
json.dump(found, sys.stdout)
"""


def ask(instance, user, profile, requests):
    done = instance.ctl(user, "run", "-T", "-p", profile, "--", "python3", "-c", ASK, cwd=user.workspace(), timeout=120,
                        input=json.dumps([data.hex() for data in requests]))
    assert done.returncode == 0, done.stderr
    return [bytes.fromhex(answer) for answer in json.loads(done.stdout)]


def five(host, port, command=1, kind=3):
    name = host.encode() if isinstance(host, str) else host
    address = bytes([len(name)]) + name if kind == 3 else name
    return b"\x05\x01\x00" + bytes([5, command, 0, kind]) + address + port.to_bytes(2, "big")


def four(host, port):
    return b"\x04\x01" + port.to_bytes(2, "big") + b"\0\0\0\x01user\0" + host.encode() + b"\0"


def net_rows(instance, after, **equal):
    return instance.rows(after, kind="net", **equal)


@pytest.mark.parametrize("option, entry", [("--socks5-hostname", "socks5"), ("--socks4a", "socks4")])
def test_curl(instance, caller, profile, web, option, entry):
    before = instance.head()
    done = instance.ctl(caller, "run", "-T", "-p", profile, "--", "sh", "-c",
                        f"curl -sS {option} {PROXY} http://allowed.test:{web.server_port}/; "
                        f"curl -s {option} {PROXY} http://evil.test:{web.server_port}/; echo $?", cwd=caller.workspace())
    assert done.stdout == "hello from the test server\n97\n", done.stderr
    tunnel, request = net_rows(instance, before, verdict="allow")
    assert (tunnel["action"], tunnel["host"], tunnel["entry"], tunnel["rule"]) == ("connect", "allowed.test", entry, "t")
    assert (request["action"], request["entry"], request["method"]) == ("request", entry, "GET")
    denied, = net_rows(instance, before, verdict="deny")
    assert (denied["host"], denied["port"], denied["entry"]) == ("evil.test", web.server_port, entry)


def test_refusals_have_codes(instance, alice, profile, web):
    """Denied, no UDP, no BIND, an unknown kind of address, a name that is none; failures upstream are others."""
    port = web.server_port
    before = instance.head()
    answers = ask(instance, alice, profile, [
        five("evil.test", port), five("allowed.test", port, command=3), five("allowed.test", port, command=2),
        five("", port, kind=9), five(b"evil.test\0.allowed.test", port), five(f"allowed.test:{port}", port),
        five("closed.test", 9), four("evil.test", port), b"\x05\x01\x02", b"\x05\x01\x00",
    ])
    codes = [answer[2:4] if answer.startswith(b"\x05\x00\x05") else answer[:2] for answer in answers]
    assert codes == [b"\x05\x02", b"\x05\x07", b"\x05\x07", b"\x05\x08", b"\x05\x02", b"\x05\x02", b"\x05\x05", b"\x00\x5b",
                     b"\x05\xff", b"\x05\x00"]
    rows = net_rows(instance, before)
    assert [row["verdict"] for row in rows] == ["deny"] * 6 + ["allow", "deny"]
    assert [row["reason"] for row in rows][1:6] == ["malformed"] * 5
    assert [row["method"] for row in rows][1:3] == ["UDP-ASSOCIATE", "BIND"]
    assert rows[4]["raw"] == b"evil.test\0.allowed.test"


def test_what_follows_a_refusal_is_no_request(instance, alice, profile, web):
    before = len(web.requests)
    get = f"GET http://allowed.test:{web.server_port}/behind HTTP/1.1\r\nHost: allowed.test\r\n\r\n".encode()
    answer, = ask(instance, alice, profile, [five("evil.test", web.server_port) + get])
    assert answer[2:4] == b"\x05\x02" and len(answer) == 12
    assert len(web.requests) == before


def test_tls_behind_socks_names_its_host(instance, alice, make_profile, allow_rule, echo):
    """As behind CONNECT: the name in the hello is the name that was allowed."""
    path = make_profile([allow_rule("allowed.test", echo.port)])
    script = (f"for name in allowed.test evil.test; do "
              f"curl -sk -m 10 --connect-to $name:{echo.port}:allowed.test:{echo.port} --socks5-hostname {PROXY} "
              f"https://$name:{echo.port}/ >/dev/null; done; true")
    before = instance.head()
    instance.ctl(alice, "run", "-T", "-p", path, "--", "sh", "-c", script, cwd=alice.workspace(), timeout=60)
    verdicts = [(row["action"], row["verdict"]) for row in net_rows(instance, before)]
    assert verdicts == [("connect", "allow"), ("connect", "allow"), ("request", "deny")]


def test_every_door_gives_the_same_verdict(instance, alice, profile, web, echo):
    port = web.server_port
    targets = [("allowed.test", port), ("ALLOWED.test.", port), ("allowed.test", 1), ("evil.test", port), ("wild.test", port),
               ("sub.wild.test", port), ("a.b.wild.test", port), ("evilwild.test", port), ("allowed.test.evil.test", port),
               ("localhost", port), ("127.0.0.1", port), ("127.0.0.1", echo.port), ("127.1", port), ("2130706433", port),
               ("0x7f.1", port), ("169.254.169.254", 80), ("metadata.test", 80), ("private.test", port),
               ("a..b", port), ("-", port), ("x" * 64 + ".test", port), ("a_b.test", port)]
    doors = {
        "connect": lambda h, p: f"CONNECT {h}:{p} HTTP/1.1\r\nHost: {h}:{p}\r\n\r\n".encode(),
        "absolute": lambda h, p: f"GET http://{h}:{p}/ HTTP/1.1\r\nHost: {h}:{p}\r\nConnection: close\r\n\r\n".encode(),
        "socks5": five, "socks4": four,
    }
    # Behind a tunnel a request that ends it, so that nobody waits.
    end = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    marker = b"CONNECT marker.test:1 HTTP/1.1\r\nHost: marker.test:1\r\n\r\n"
    verdicts = {}
    for name, door in doors.items():
        before = instance.head()
        requests = [[door(host, to) + (b"" if name == "absolute" else end), marker] for host, to in targets]
        ask(instance, alice, profile, [data for pair in requests for data in pair])
        groups = [[]]
        for row in net_rows(instance, before):
            if row["host"] == "marker.test":
                groups.append([])
            else:
                groups[-1].append(row)
        assert len(groups) == len(targets) + 1 and all(groups[:-1]) and not groups[-1]
        for target, rows in zip(targets, groups):
            # An address that is refused later has a row of its own.
            verdicts.setdefault(target, {})[name] = (rows[0]["verdict"], any(row["action"] == "refuse" for row in rows))
    for target, found in verdicts.items():
        assert len(set(found.values())) == 1, (target, found)
    assert {found["connect"][0] for found in verdicts.values()} == {"allow", "deny"}


class Speaker:
    """A server that speaks first, then answers each line."""

    def __init__(self):
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(16)
        self.port = self.sock.getsockname()[1]
        self.lines = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.sock.accept()
                threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"220 ready\n")
            line = connection.makefile("rb").readline()
            self.lines.append(line)
            connection.sendall(b"you said " + line + b"</end>")


@pytest.fixture
def speaker():
    found = Speaker()
    yield found
    found.sock.close()


def test_a_rule_for_tcp_opens_a_port_for_anything(instance, alice, make_profile, allow_rule, speaker):
    """The server speaks first; only a rule for tcp lets that through, at every door, and only at its port."""
    opened = make_profile([{**allow_rule("allowed.test", speaker.port), "protocol": "tcp"}])
    closed = make_profile([allow_rule("allowed.test", speaker.port)])
    connect = f"CONNECT allowed.test:{speaker.port} HTTP/1.1\r\nHost: allowed.test:{speaker.port}\r\n\r\n".encode()
    requests = [door + b"ping\n" for door in
                (connect, five("allowed.test", speaker.port), four("allowed.test", speaker.port))]
    before = instance.head()
    for answer in ask(instance, alice, opened, requests):
        assert answer.endswith(b"220 ready\nyou said ping\n</end>")
    rows = net_rows(instance, before)
    assert [(row["entry"], row["protocol"], row["verdict"]) for row in rows] == \
        [("connect", "tcp", "allow"), ("socks5", "tcp", "allow"), ("socks4", "tcp", "allow")]
    heard = len(speaker.lines)
    for answer in ask(instance, alice, closed, requests):
        assert b"ready" not in answer
    answers = ask(instance, alice, opened, [five("allowed.test", speaker.port + 1), five("evil.test", speaker.port)])
    assert [answer[2:4] for answer in answers] == [b"\x05\x02", b"\x05\x02"]
    absolute = f"GET http://allowed.test:{speaker.port}/ HTTP/1.1\r\nHost: allowed.test:{speaker.port}\r\n\r\n".encode()
    assert ask(instance, alice, closed, [absolute.replace(b"allowed", b"evil")])[0].startswith(b"HTTP/1.1 403")
    assert len([line for line in speaker.lines[heard:] if line]) == 0
    # Anything is a request, too; what answers is no web server.
    assert ask(instance, alice, opened, [absolute])[0].startswith(b"HTTP/1.1 502")
    assert any(b"GET /" in line for line in speaker.lines[heard:])


def test_where_all_is_allowed_the_first_bytes_decide(instance, alice, make_profile, allow_rule, speaker, web):
    """Under a default of allow a server may speak first; a hello still names its host, a request is still decided."""
    path = make_profile([allow_rule("allowed.test", speaker.port), allow_rule("allowed.test", web.server_port),
                         {**allow_rule("allowed.test", speaker.port, rule="opaque"), "protocol": "tcp"},
                         {"id": "no", "action": "deny", "host": "evil.test"}])
    before = len(web.requests)
    inside = f"GET / HTTP/1.1\r\nHost: evil.test:{web.server_port}\r\nConnection: close\r\n\r\n".encode()
    answers = ask(instance, alice, path, [five("allowed.test", speaker.port),
                                          five("allowed.test", web.server_port) + inside])
    assert b"220 ready" in answers[0]
    assert b"HTTP/1.1 40" in answers[1] and len(web.requests) == before
