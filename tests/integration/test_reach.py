"""What leads into a session, and from it to the host: Forward(), published ports, the host's own name. Each has its row
first, each is its owner's alone, and nothing of it outlives the session."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess

import pytest

import machine
import wire
from machine import count_fds, eventually

SESSION = "io.sandboxd.Session."
PORT = 7000  # inside: sessions have a network of their own

# Answers each connection with what it heard, in capitals, and a line of its own before that.
SERVER = """
import socket, sys, threading
family = socket.AF_INET6 if len(sys.argv) > 2 else socket.AF_INET
s = socket.socket(family)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::1" if len(sys.argv) > 2 else "127.0.0.1", int(sys.argv[1])))
s.listen(64)
print("listening", flush=True)
def serve(c):
    c.sendall(b"hello\\n")
    while True:
        data = c.recv(65536)
        if not data:
            break
        c.sendall(data.upper())
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""

# Connects, sends the second argument and prints everything that comes until the end.
CLIENT = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[3], int(sys.argv[1])), timeout=30)
    s.sendall(sys.argv[2].encode())
    s.shutdown(socket.SHUT_WR)
    while True:
        data = s.recv(65536)
        if not data:
            break
        sys.stdout.buffer.write(data)
except OSError as e:
    print("error", e.errno)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def line_of(child, timeout=30):
    assert select.select([child.stdout], [], [], timeout * machine.PATIENCE)[0], "nothing was said in time"
    return child.stdout.readline()


@contextlib.contextmanager
def running(child):
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
        if child.poll() is None:
            child.kill()
            child.wait()
        for stream in (child.stdout, child.stderr):
            if stream:
                stream.close()


@contextlib.contextmanager
def serving(instance, user, session, port=PORT, *more):
    """A server inside a session."""
    child = instance.ctl_start(user, "exec", session, "--", "python3", "-u", "-c", SERVER, str(port), *more,
                               stdout=subprocess.PIPE)
    with running(child):
        assert line_of(child) == b"listening\n"
        yield child


def knock(user, port, text="hi", address="127.0.0.1"):
    """What a program of this user gets at a port of the host's loopback."""
    return user.run(["/usr/bin/python3", "-c", CLIENT, str(port), text, address]).stdout


@contextlib.contextmanager
def session_of(instance, user, *options):
    session = instance.create(user, *options)
    try:
        yield session
    finally:
        instance.ctl(user, "terminate", session)


def inbound_rows(instance, after, entry):
    return [row for row in instance.rows(after, kind="net") if row["entry"] == entry]


def caller_of(instance, user):
    """A connection to the daemon, as this user."""
    return wire.Connection(instance.socket, user)


def exchange(fd, text=b"hi"):
    """Over a descriptor, which is closed: all that comes back."""
    with socket.socket(fileno=fd) as s:
        s.settimeout(30)
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


def read_all(s):
    found = b""
    while data := s.recv(65536):
        found += data
    return found


# ---- Forward() ----

def test_forward_gives_a_connection(instance, either):
    before = instance.head()
    with session_of(instance, either) as session, serving(instance, either, session), \
            caller_of(instance, either) as c:
        reply = c.call(SESSION + "Forward", {"id": session, "port": PORT})
        assert reply == {"parameters": {"connectionFileDescriptor": 0}}
        assert exchange(c.fds.pop(), b"into the session") == b"hello\nINTO THE SESSION"
        row, = inbound_rows(instance, before, "forward")
        assert (row["verdict"], row["action"], row["port"], row["session"], row["uid"], row["protocol"]) == \
            ("allow", "connect", PORT, session, either.uid, "tcp")
        assert json.loads(row["detail"]) == {"peerUid": either.uid}
        close, = eventually(lambda: [c for c in instance.closes(before) if c["conn_seq"] == row["seq"]])
        # As the session sees it; the kernel counts the end as one more.
        assert close["bytes_up"] - len("hello\nINTO THE SESSION") in (0, 1)
        assert close["bytes_dn"] == len("into the session")


def test_forward_as_bytes(instance, alice):
    with session_of(instance, alice) as session, serving(instance, alice, session), caller_of(instance, alice) as c:
        assert c.call(SESSION + "Forward", {"id": session, "port": PORT}, upgrade=True) == \
            {"parameters": {"framing": "raw"}}
        c.socket.sendall(b"bytes")
        c.socket.shutdown(socket.SHUT_WR)
        assert c.buffer + read_all(c.socket) == b"hello\nBYTES"
    with session_of(instance, alice) as session, serving(instance, alice, session, PORT, "v6"), \
            caller_of(instance, alice) as c:
        assert "error" not in c.call(SESSION + "Forward", {"id": session, "port": PORT})
        assert exchange(c.fds.pop()) == b"hello\nHI"


def test_the_row_is_older_than_the_connection(instance, alice):
    """What the program inside is told of a connection, it is told after the row was committed."""
    with session_of(instance, alice) as session, serving(instance, alice, session), caller_of(instance, alice) as c:
        os.kill(instance.workers("sandboxd-audit")[0], signal.SIGSTOP)
        try:
            c.send_call(SESSION + "Forward", {"id": session, "port": PORT})
            c.socket.settimeout(1)
            with pytest.raises(TimeoutError):
                c.receive()
            inside = instance.ctl(alice, "describe", "--json", session)
            assert inside.returncode == 0
        finally:
            os.kill(instance.workers("sandboxd-audit")[0], signal.SIGCONT)
        c.socket.settimeout(30)
        assert "error" not in c.receive()
        assert exchange(c.fds.pop()) == b"hello\nHI"


def test_forward_to_nobody(instance, alice, bob):
    before = instance.head()
    with session_of(instance, alice) as session, caller_of(instance, alice) as c:
        assert c.call(SESSION + "Forward", {"id": session, "port": PORT}) == \
            {"error": SESSION + "NotListening", "parameters": {"port": PORT}}
        row, = inbound_rows(instance, before, "forward")
        close, = eventually(lambda: [c for c in instance.closes(before) if c["conn_seq"] == row["seq"]])
        assert (close["reason"], close["bytes_up"]) == ("refused", None)
        with caller_of(instance, bob) as other:
            reply = other.call(SESSION + "Forward", {"id": session, "port": PORT})
            assert reply["error"] == SESSION + "NoSuchSession"
        assert len(inbound_rows(instance, before, "forward")) == 1
    with caller_of(instance, alice) as c:
        reply = c.call(SESSION + "Forward", {"id": session, "port": PORT})
        assert reply["error"] in (SESSION + "InvalidState", SESSION + "NoSuchSession")
        assert c.call(SESSION + "Forward", {"id": session, "port": 0})["error"] == "org.varlink.service.InvalidParameter"


def test_forward_without_a_network_is_denied(instance, alice):
    before = instance.head()
    with session_of(instance, alice, "--no-network") as session, serving(instance, alice, session), \
            caller_of(instance, alice) as c:
        assert c.call(SESSION + "Forward", {"id": session, "port": PORT})["error"] == SESSION + "DeniedByPolicy"
        row, = inbound_rows(instance, before, "forward")
        assert (row["verdict"], row["reason"]) == ("deny", "no-network")


def test_administrators_forward_to_others(instance, alice, root):
    with session_of(instance, alice) as session, serving(instance, alice, session), caller_of(instance, root) as c:
        reply = c.call(SESSION + "Forward", {"id": session, "port": PORT})
        assert "error" not in reply, reply
        assert exchange(c.fds.pop()) == b"hello\nHI"


def test_an_ended_session_leaves_no_connection(instance, alice):
    """Nor a descriptor in a process of ours."""
    with session_of(instance, alice):
        pass
    pids = [instance.process.pid, *instance.workers("sandboxd-dialer")]
    eventually(lambda: False, timeout=0.5)
    counts = [count_fds(pid) for pid in pids]
    with session_of(instance, alice) as session, serving(instance, alice, session), caller_of(instance, alice) as c, \
            caller_of(instance, alice) as raw:
        for _ in range(8):
            assert "error" not in c.call(SESSION + "Forward", {"id": session, "port": PORT})
        assert "error" not in raw.call(SESSION + "Forward", {"id": session, "port": PORT}, upgrade=True)
        instance.ctl(alice, "terminate", session)
        for fd in [*c.fds, raw.socket.detach()]:
            with socket.socket(fileno=fd) as s:
                s.settimeout(30)
                with contextlib.suppress(ConnectionResetError):
                    assert read_all(s) in (b"hello\n", b"")
        c.fds = []
    assert eventually(lambda: [count_fds(pid) for pid in pids] == counts, timeout=20), \
        (counts, [count_fds(pid) for pid in pids])


# ---- sandboxctl forward ----

def test_verb_forward(instance, alice, bob):
    before = instance.head()
    with session_of(instance, alice) as session, serving(instance, alice, session), running(
            instance.ctl_start(alice, "forward", "--json", "--local-port", "0", session, str(PORT),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)) as child:
        said = json.loads(line_of(child))
        assert (said["address"], said["sessionPort"]) == ("127.0.0.1", PORT)
        assert knock(alice, said["port"]) == "hello\nHI"
        large = "x" * 300000
        assert knock(alice, said["port"], large[:100000]) == "hello\n" + large[:100000].upper()
        assert len(inbound_rows(instance, before, "forward")) == 2
        assert "HI" not in knock(bob, said["port"])
        assert len(inbound_rows(instance, before, "forward")) == 2
        # It ends with the session.
        instance.ctl(alice, "terminate", session)
        assert child.wait(30) == 0
        assert "error" in knock(alice, said["port"])


def test_verb_forward_says_what_is_wrong(instance, alice):
    done = instance.ctl(alice, "forward", "0" * 32, "80")
    assert done.returncode == 125 and "no session" in done.stderr
    done = instance.ctl(alice, "forward", "x", "eighty")
    assert done.returncode == 125 and "expected a port" in done.stderr
    with session_of(instance, alice) as session, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        done = instance.ctl(alice, "forward", "--local-port", str(taken.getsockname()[1]), session, str(PORT))
        assert done.returncode == 125 and "--local-port" in done.stderr, done.stderr


# ---- published ports ----

def test_published_port_reaches_its_owner_alone(instance, either, bob):
    port, before = free_port(), instance.head()
    with session_of(instance, either, "--publish", str(port)) as session:
        assert "HI" not in knock(either, port)  # nobody listens inside yet
        with serving(instance, either, session, port):
            assert knock(either, port) == "hello\nHI"
            first = inbound_rows(instance, before, "publish")
            assert [(r["verdict"], r["port"], r["session"], json.loads(r["detail"])["peerUid"]) for r in first] == \
                [("allow", port, session, either.uid)] * 2
            close = eventually(lambda: [c for c in instance.closes(before) if c["conn_seq"] == first[1]["seq"]])[0]
            assert close["bytes_up"] in (8, 9) and close["bytes_dn"] == 2
            assert "HI" not in knock(bob, port)
            row, = inbound_rows(instance, first[-1]["seq"], "publish")
            assert (row["verdict"], row["reason"], json.loads(row["detail"])["peerUid"]) == ("deny", "owner", bob.uid)
    assert eventually(lambda: "error" in knock(either, port)), "the port is still open"


@pytest.mark.parametrize("address", ["::1", "::ffff:127.0.0.1"])
def test_published_port_by_ipv6(instance, alice, bob, address):
    """Also for programs whose sockets are of IPv6 whatever they connect to."""
    port = free_port()
    with session_of(instance, alice, "--publish", str(port)) as session, serving(instance, alice, session, port):
        assert knock(alice, port, address=address) == "hello\nHI"
        assert "HI" not in knock(bob, port, address=address)


def test_published_by_a_profile(instance, alice, make_profile):
    port = free_port()
    profile = make_profile(network={"publish": [port]})
    with session_of(instance, alice, "-p", profile) as session, serving(instance, alice, session, port):
        assert knock(alice, port) == "hello\nHI"
    done = instance.ctl(alice, "create", "-p", make_profile(network={"publish": [80]}), cwd=alice.workspace())
    assert done.returncode != 0 and "publish" in done.stderr, done.stderr


def test_what_cannot_be_published(instance, alice, bob):
    port = free_port()
    with session_of(instance, alice, "--publish", str(port)):
        done = instance.ctl(bob, "create", "--publish", str(port), cwd=bob.workspace())
        assert done.returncode == 125 and "publish" in done.stderr, done.stderr
    for options in (("--publish", "80"), ("--publish", "0"), ("--publish", "65536"),
                    ("--publish", str(port), "--no-network")):
        done = instance.ctl(alice, "create", *options, cwd=alice.workspace())
        assert done.returncode == 125 and "publish" in done.stderr, (options, done.stderr)
    # What another start left of it is not in the way.
    with session_of(instance, bob, "--publish", str(port)):
        pass


def test_two_sessions_never_see_each_other(instance, alice, make_profile):
    """Neither by their own loopback, nor by the host's where a port of one is published and a rule opens it to the
    other, by address or by name."""
    port = free_port()
    rules = [{"id": "host", "action": "allow", "cidr": "127.0.0.0/8", "ports": [port], "protocol": "tcp"},
             {"id": "name", "action": "allow", "host": "host.sandbox.internal", "ports": [port], "protocol": "tcp"}]
    profile = make_profile(rules)
    with session_of(instance, alice, "--publish", str(port)) as first, serving(instance, alice, first, port), \
            session_of(instance, alice, "-p", profile) as second:
        assert knock(alice, port) == "hello\nHI"
        before = instance.head()
        for command in (("python3", "-c", CLIENT, str(port), "hi", "127.0.0.1"),
                        ("curl", "-sS", "-m", "20", "--noproxy", "", "-x", "socks5://127.0.0.1:3128", f"telnet://127.0.0.1:{port}"),
                        ("curl", "-sS", "-m", "20", "--noproxy", "", "-x", "socks5h://127.0.0.1:3128",
                         f"telnet://host.sandbox.internal:{port}")):
            done = instance.ctl(alice, "exec", second, "--", *command)
            assert "hello" not in done.stdout + done.stderr, done
        rows = instance.rows(before, kind="net")
        assert [r["verdict"] for r in rows if r["session"] == second] == ["allow", "allow"]
        refused = inbound_rows(instance, before, "publish")
        assert refused and {r["verdict"] for r in refused} == {"deny"}


# ---- the host's loopback, from inside ----

def rule(host, port, **more):
    return {"id": "h", "action": "allow", "host": host, "ports": [port], **more}


def fetch(instance, user, profile, port, *options):
    return instance.ctl(user, "run", "-T", "-p", profile, "--", "curl", "-sS", "-m", "30", *options,
                        f"http://host.sandbox.internal:{port}/", cwd=user.workspace())


def test_host_name_by_rule(instance, either, make_profile, web, dns):
    asked = len(dns.questions)
    profile, before = make_profile([rule("host.sandbox.internal", web.server_port)]), instance.head()
    assert fetch(instance, either, profile, web.server_port).stdout == "hello from the test server\n"
    assert fetch(instance, either, profile, web.server_port, "--noproxy", "*").stdout == "hello from the test server\n"
    rows = instance.rows(before, kind="net")
    assert {(r["verdict"], r["host"], r["rule"]) for r in rows} == {("allow", "host.sandbox.internal", "h")}
    assert len(dns.questions) == asked, "somebody else was asked what the name means"


@pytest.mark.parametrize("network", [
    {"default": "allow"},
    {"rules": [{"id": "w", "action": "allow", "host": "*.sandbox.internal", "ports": [1]}]},
    {"rules": [{"id": "a", "action": "allow", "host": "*.sandbox.internal", "ports": ["1-65535"]}]},
    {"rules": [{"id": "a", "action": "allow", "host": "host.sandbox.internal", "ports": ["1-65535"]},
               {"id": "d", "action": "deny", "cidr": "127.0.0.0/8"}, {"id": "e", "action": "deny", "cidr": "::1/128"}]},
    {"rules": [{"id": "a", "action": "allow", "host": "host.sandbox.internal", "cidr": "10.0.0.0/8",
                "ports": ["1-65535"]}]}])
def test_host_name_without_its_rule(instance, alice, make_profile, web, network):
    requests = len(web.requests)
    done = fetch(instance, alice, make_profile(network=network), web.server_port)
    assert "hello" not in done.stdout and len(web.requests) == requests
