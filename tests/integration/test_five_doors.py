"""E34: one decision, whichever door a request takes: forty targets, names and addresses, through each of five."""

import ipaddress
import json

import pytest

from internet import OTHER_V4, V4
from machine import READ_ALL
from test_transparent import certificate, place, rule, run, world  # noqa: F401

DOORS = ("connect", "absolute", "socks4a", "socks5", "transparent")
NAMES = [("allowed.test", 80), ("ALLOWED.test", 80), ("allowed.test.", 80), ("allowed.test", 81), ("evil.test", 80), ("sub.wild.test", 80),
         ("a.b.wild.test", 80), ("wild.test", 80), ("evilwild.test", 80), ("denied.wild.test", 80), ("private.test", 80),
         ("metadata.test", 80), ("mixed.test", 80), ("some.test", 80), ("a_b.test", 80), ("nowhere.test", 80)]
ADDRESSES = [(f"93.184.216.{n}", 80) for n in (0, 1, 34, 35, 36, 255)] + \
    [("93.184.217.1", 80), ("93.184.215.255", 80), (V4, 443), (V4, 81), (V4, 8080), ("10.77.0.2", 82), ("11.0.0.1", 82), ("9.9.9.9", 80),
     ("169.254.169.254", 80), ("169.254.1.1", 80)] + \
    [(address, 81) for address in ("172.16.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "168.63.129.16", "0.1.2.3")]

INSIDE = READ_ALL + """
def address_of(host):
    try:
        return socket.inet_aton(host) if host.replace(".", "").isdigit() else None
    except OSError:
        return None
def through(door, host, port):
    request = f"GET / HTTP/1.1\\r\\nHost: {host}:{port}\\r\\nConnection: close\\r\\n\\r\\n".encode()
    raw, name, at = address_of(host), host.encode(), port.to_bytes(2, "big")
    if door == "transparent":
        try:
            to = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
        except socket.gaierror:
            return b""
        s = socket.create_connection(to, 60)
        s.sendall(request)
        return read(s)
    s = socket.create_connection(("127.0.0.1", 3128), 60)
    if door == "connect":
        s.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode() + request)
    elif door == "absolute":
        s.sendall(request.replace(b"GET /", f"GET http://{host}:{port}/".encode()))
    elif door == "socks5":
        s.sendall(b"\\5\\1\\0\\5\\1\\0" + (b"\\1" + raw if raw else b"\\3" + bytes([len(name)]) + name) + at + request)
    else:
        s.sendall(b"\\4\\1" + at + (raw + b"u\\0" if raw else b"\\0\\0\\0\\1u\\0" + name + b"\\0") + request)
    return read(s)
print(json.dumps([b"hello from" in through(*target) for target in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def policy(make_profile):
    hosts = [{"id": name, "action": action, "host": name, "ports": [80]}
             for action, name in (("allow", "allowed.test"), ("allow", "*.wild.test"), ("deny", "denied.wild.test"), ("allow", "private.test"),
                                  ("allow", "metadata.test"), ("allow", "mixed.test"), ("allow", "a_b.test"), ("allow", "nowhere.test"))]
    return make_profile([*hosts, rule("93.184.216.0/24", 80), rule(OTHER_V4 + "/32", 80, action="deny", name="no"),
                         rule("0.0.0.0/0", 81, name="wide"), rule("10.0.0.0/8", 82, name="inside"), rule("169.254.0.0/16", 80, name="link")],
                        network={"default": "deny"})


def canonical(host):
    return host.lower().rstrip(".")


def verdict_of(rows, host, port):
    """Of the first row about the target; a name that does not exist for the session was denied when it was asked for."""
    try:
        raw = ipaddress.ip_address(host).packed
        found = [row for row in rows if row["kind"] == "net" and row["ip"] == raw and not row["host"] and row["port"] == port]
    except ValueError:
        found = [row for row in rows if row["kind"] == "net" and row["host"] == canonical(host) and row["port"] == port]
        found = found or [row for row in rows if row["kind"] == "dns" and row["host"] == canonical(host)]
    assert found, (host, port)
    return found[0]["verdict"]


def test_forty_targets_through_five_doors(place, alice, policy):  # noqa: F811
    targets = NAMES + ADDRESSES
    assert len(set(targets)) == 40
    found = {}
    for door in DOORS:
        before = place.head()
        done = run(place, alice, policy, "python3", "-c", INSIDE, input=json.dumps([[door, *target] for target in targets]), timeout=600)
        assert done.returncode == 0, done.stderr
        rows = place.rows(before)
        for target, has in zip(targets, json.loads(done.stdout)):
            found.setdefault(target, {})[door] = (verdict_of(rows, *target), has)
    for target, doors in found.items():
        assert len(set(doors.values())) == 1, (target, doors)
    assert {doors["connect"] for doors in found.values()} == {("allow", True), ("allow", False), ("deny", False)}
