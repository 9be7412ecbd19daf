"""The proxy of the daemon's settings: connections to the outside go through it, by name, after their row; nothing that it
says is mistaken for the server's, and nothing that the server says is lost."""

import contextlib
import json
import socket
import threading

import pytest

import machine
from machine import eventually


class Proxy:
    """Answers CONNECT as `answer` says, then carries bytes to `target`. asked: the heads that it got."""

    def __init__(self, target):
        self.target, self.asked, self.heads = target, [], []
        self.answer = lambda connection: connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.on_asked = lambda: None
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.talk, args=(self.socket.accept()[0],), daemon=True).start()

    def talk(self, connection):
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(65536)
                if not data:
                    return
                head += data
            self.on_asked()
            self.heads.append(head)
            self.asked.append(head.split(b"\r\n")[0].decode())
            if self.answer(connection) is False:
                return
            with socket.create_connection(self.target) as server:
                one = threading.Thread(target=self.carry, args=(connection, server), daemon=True)
                one.start()
                self.carry(server, connection)
                one.join(30)

    @staticmethod
    def carry(source, to):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()


@pytest.fixture
def proxy(web):
    found = Proxy(("127.0.0.1", web.server_port))
    yield found
    found.close()


@pytest.fixture
def place(settings, proxy):
    own = {**settings, "proxy": {"server": f"127.0.0.1:{proxy.port}", "bypass": ["allowed.test", "*.wild.test"]}}
    with machine.Instance(settings=own) as running:
        yield running


def rule(host, **more):
    return {"id": "p", "action": "allow", "host": host, "ports": [80, 8080], **more}


def curl(place, user, profile, *words, timeout=60):
    return place.ctl(user, "run", "-T", "-p", profile, "--", "curl", "-sS", "-m", "30", *words, cwd=user.workspace(),
                     timeout=timeout)


@pytest.mark.parametrize("door", [(), ("-p",), ("--noproxy", "*")])
def test_names_go_through_the_proxy(place, proxy, alice, make_profile, dns, door):
    """By every door, and no name server hears of them."""
    before, asked, seen = place.head(), len(dns.questions), []
    proxy.on_asked = lambda: seen.append(len(place.rows(before, kind="net", action="connect")))
    done = curl(place, alice, make_profile([rule("outside.test")]), *door, "http://outside.test/")
    assert done.stdout == "hello from the test server\n", done.stderr
    assert proxy.asked == ["CONNECT outside.test:80 HTTP/1.1"] and seen == [1], "the row comes first"
    assert proxy.heads[0].split(b"\r\n")[1:] == [b"Host: outside.test:80", b"", b""]
    assert len(dns.questions) == asked
    row = place.rows(before, kind="net", action="connect")[0]
    assert (row["verdict"], row["host"]) == ("allow", "outside.test")
    close, = eventually(lambda: [c for c in place.closes(before) if c["conn_seq"] == row["seq"]])
    assert (close["ip"], close["port"]) == (bytes([127, 0, 0, 1]), proxy.port)


def test_what_is_denied_does_not(place, proxy, alice, make_profile):
    done = curl(place, alice, make_profile([rule("outside.test")]), "-i", "http://other.test/")
    assert " 403 " in done.stdout
    done = curl(place, alice, make_profile([rule("outside.test")]), "-i", "http://outside.test:9/")
    assert " 403 " in done.stdout and proxy.asked == []


def test_addresses(place, proxy, alice, make_profile):
    """Of the outside by the proxy; others never."""
    rules = [{"id": "a", "action": "allow", "cidr": cidr, "ports": [80]} for cidr in ("192.88.98.0/24", "10.1.2.3/32")]
    done = curl(place, alice, make_profile(rules), "http://192.88.98.7/")
    assert done.stdout == "hello from the test server\n", done.stderr
    assert proxy.asked == ["CONNECT 192.88.98.7:80 HTTP/1.1"]
    curl(place, alice, make_profile(rules), "-m", "3", "http://10.1.2.3/")
    assert len(proxy.asked) == 1


def test_what_is_not_for_the_proxy(place, proxy, alice, make_profile, web, dns):
    """Names that the settings except, names that a rule ties to addresses, and this machine."""
    port = web.server_port
    for host, cidr in (("allowed.test", "127.0.0.1/32"), ("sub.wild.test", "127.0.0.1/32"),
                       ("private.test", "127.0.0.1/32"), ("host.sandbox.internal", None)):
        rules = [{"id": "d", "action": "allow", "host": host, "ports": [port], **({"cidr": cidr} if cidr else {})}]
        done = curl(place, alice, make_profile(rules), f"http://{host}:{port}/")
        assert done.stdout == "hello from the test server\n", (host, done.stderr)
    # Excepted, so the name server is asked, and what it says is judged.
    asked = len(dns.questions)
    done = curl(place, alice, make_profile([rule("allowed.test", ports=[port])]), "-i", f"http://allowed.test:{port}/")
    assert " 403 " in done.stdout and len(dns.questions) > asked
    assert proxy.asked == []


def test_the_server_may_speak_at_once(place, proxy, alice, make_profile):
    """What comes behind the proxy's answer in one piece is the session's, and so is nothing of the answer."""
    def answer(connection):
        connection.sendall(b"HTTP/1.0 200 ok\r\nVia: x\r\n\r\nSSH-2.0-behind\r\n")
        connection.settimeout(30)
        connection.sendall(b"you said " + connection.recv(100))
        return False

    proxy.answer = answer
    done = place.ctl(alice, "run", "-T", "-p", make_profile([rule("outside.test", protocol="tcp", ports=[22])]), "--",
                     "curl", "-sS", "-m", "30", "--noproxy", "*", "telnet://outside.test:22", cwd=alice.workspace(),
                     input="hello\n")
    assert done.stdout == "SSH-2.0-behind\nyou said hello\n", done.stderr


def test_an_answer_in_pieces(place, proxy, alice, make_profile):
    turn = threading.Event()

    def answer(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"HTTP/1.1 200 x\r\nA: b\r\n\r\n":
            connection.sendall(bytes([byte]))
            turn.wait(0.01)

    proxy.answer = answer
    done = curl(place, alice, make_profile([rule("outside.test")]), "http://outside.test/")
    assert done.stdout == "hello from the test server\n", done.stderr


@pytest.mark.parametrize("said", [
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
    b"HTTP/1.1 20 x\r\n\r\n", b"HTTP/2 200 x\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 3000 + b"\r\n"], ids=range(8))
def test_a_proxy_that_does_not_connect(place, proxy, alice, make_profile, said):
    def answer(connection):
        connection.sendall(said)
        return False

    before, proxy.answer = place.head(), answer
    done = curl(place, alice, make_profile([rule("outside.test")]), "-i", "http://outside.test/")
    assert " 502 " in done.stdout.splitlines()[0], done.stdout + done.stderr
    row = place.rows(before, kind="net", action="connect")[0]
    close, = eventually(lambda: [c for c in place.closes(before) if c["conn_seq"] == row["seq"]])
    assert close["reason"] == "proxy"


def test_settings_are_checked(instance, alice):
    def validate(proxy):
        path = alice.write(f"{alice.workspace()}/s.json", json.dumps({"proxy": proxy}))
        return instance.ctl(alice, "policy", "validate", "--kind", "settings", path)

    for good in ({"server": "proxy.example.org:3128"}, {"server": "[::1]:3128", "bypass": ["*.example.org"]}):
        assert validate(good).returncode == 0, good
    for bad in ({"server": "proxy"}, {"server": "proxy:0"}, {"server": "http://proxy:3128"}, {"server": "a_b!:1"},
                {"bypass": ["*.com"]}, {"bypass": ["x"] * 17}, {"server": "p:1", "password": "x"}):
        done = validate(bad)
        assert done.returncode == 1 and "proxy" in done.stdout + done.stderr, (bad, done.stdout, done.stderr)
