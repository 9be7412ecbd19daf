"""DNS inside a session: what policy denies does not exist and nobody hears of it, what it allows has an address that
leads back to the name. Numbers (E47 …) are those of the catalogue of bypasses."""

import contextlib
import json
import os
import random
import signal
import socket
import string
import struct
import subprocess

import pytest

import machine
from machine import eventually

A, NS, SOA, NULL, PTR, MX, TXT, AAAA, SRV, SVCB, HTTPS, AXFR, ANY, CAA = 1, 2, 6, 10, 12, 15, 16, 28, 33, 64, 65, 252, \
    255, 257
NO_ERROR, FORMAT_ERROR, NO_NAME, NOT_IMPLEMENTED = 0, 1, 3, 4

# Each item of standard input: how to ask (server, "udp" or "tcp"), and the question. The answer, or null, is printed.
ASK = r"""
import json, socket, sys
found = []
for server, way, question in json.load(sys.stdin):
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(8)
    data = bytes.fromhex(question)
    answer, peer = b"", (server,)
    try:
        if way == "tcp":
            s.connect((server, 53))
            s.sendall(len(data).to_bytes(2, "big") + data)
            n = int.from_bytes(s.recv(2), "big")
            while len(answer) < n:
                answer += s.recv(n - len(answer))
        else:
            s.sendto(data, (server, 53))
            answer, peer = s.recvfrom(4096)
    except OSError:
        pass
    s.close()
    assert not answer or peer[0] == server, (peer, server)
    found.append(answer.hex())
json.dump(found, sys.stdout)
"""


def encode(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def question(name, kind=A, flags=0x100, edns=None):
    head = struct.pack("!6H", random.randrange(65536), flags, 1, 0, 0, 0 if edns is None else 1)
    data = head + (encode(name) if isinstance(name, str) else name) + struct.pack("!HH", kind, 1)
    if edns is not None:
        data += b"\0" + struct.pack("!HHIH", 41, 4096, 0, len(edns)) + edns
    return data


class Answer:
    """code, flags, records (type, ttl, data) and the extended error of an answer to one question."""

    def __init__(self, data, asked):
        assert data, "no answer"
        ident, self.flags, n_questions, n_answers, n_authorities, n_additional = struct.unpack_from("!6H", data)
        assert ident == struct.unpack_from("!H", asked)[0] and self.flags & 0x8000
        self.code, self.records, self.detail, at = self.flags & 15, [], None, 12
        if n_questions:
            while asked[at]:
                at += 1 + asked[at]
            at += 5
            assert data[12:at] == asked[12:at], "another question"
        for _ in range(n_answers + n_authorities + n_additional):
            at += 2 if data[at] >= 0xc0 else 1
            kind, _, ttl, n = struct.unpack_from("!HHIH", data, at)
            content = data[at + 10:at + 10 + n]
            at += 10 + n
            if kind != 41:
                self.records.append((kind, ttl, content))
            elif n:
                self.detail = struct.unpack("!HHH", content)[2]
        assert at == len(data)

    @property
    def addresses(self):
        return [socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, content)
                for kind, _, content in self.records]


def run(instance, user, profile, *command, options=(), **more):
    more.setdefault("cwd", user.workspace())
    return instance.ctl(user, "run", "-T", "-p", profile, *options, "--", *command, **more)


def ask_all(instance, user, profile, asked, options=()):
    """asked: (server, way, question) each; Answer or None of each."""
    done = run(instance, user, profile, "python3", "-c", ASK, options=options, timeout=180,
               input=json.dumps([(server, way, data.hex()) for server, way, data in asked]))
    assert done.returncode == 0, done.stderr
    return [Answer(bytes.fromhex(found), data) if found else None
            for found, (_, _, data) in zip(json.loads(done.stdout), asked)]


def ask(instance, user, profile, *questions, options=()):
    return ask_all(instance, user, profile, [("127.0.0.1", "udp", q) for q in questions], options)


@pytest.fixture(scope="module")
def profile(profile, make_profile):
    """As elsewhere, but what no rule names is denied, not asked about."""
    with open(profile, encoding="utf-8") as f:
        return make_profile(json.load(f)["network"]["rules"], network={"default": "deny"})


def dns_rows(instance, after, **equal):
    return instance.rows(after, kind="dns", **equal)


# ---- what programs see ----

def test_allowed_name_has_an_address_of_the_pool(instance, caller, profile):
    before = instance.head()
    done = run(instance, caller, profile, "getent", "ahostsv4", "allowed.test")
    assert done.stdout.split()[0] == "28.0.0.1", done.stdout + done.stderr
    row, = dns_rows(instance, before)
    assert (row["action"], row["verdict"], row["host"], row["rule"], row["entry"], row["method"], row["port"]) == \
        ("query", "allow", "allowed.test", "t", "dns", "A", None)
    assert row["uid"] == caller.uid


def test_e48_denied_name_does_not_exist_and_nobody_hears_of_it(instance, caller, profile, dns):
    """E47, E48: no query of a denied name, however it is asked for."""
    before, questions = instance.head(), len(dns.questions)
    found = ask(instance, caller, profile, *(question("secret.evil.test", kind) for kind in
                                             (A, AAAA, TXT, HTTPS, MX, ANY, CAA, NS)))
    assert [a.code for a in found] == [NO_NAME] * 8
    assert not any(a.records for a in found)
    done = run(instance, caller, profile, "getent", "hosts", "evil.test")
    assert done.returncode == 2
    assert "evil.test" in done.stderr, "sandboxctl says nothing about the denial"
    rows = dns_rows(instance, before)
    assert {(r["verdict"], r["host"]) for r in rows} == {("deny", "secret.evil.test"), ("deny", "evil.test")}
    assert {r["method"] for r in rows} >= {"A", "AAAA", "TXT", "HTTPS", "MX", "ANY", "CAA", "NS"}
    assert len(dns.questions) == questions, "a denied name was asked for"


def test_e48_the_row_is_older_than_the_query(instance, alice, profile, dns):
    before, seen = instance.head(), []
    dns.on_question = lambda name: seen.append(dns_rows(instance, before, host=name))
    try:
        found = ask(instance, alice, profile, question("allowed.test"))
    finally:
        dns.on_question = lambda name: None
    assert found[0].addresses == ["28.0.0.1"]
    assert seen and all(len(rows) == 1 and rows[0]["verdict"] == "allow" for rows in seen)


def test_allowed_name_that_is_nowhere(instance, alice, profile, dns):
    questions = len(dns.questions)
    nowhere, = ask(instance, alice, profile, question("nowhere.wild.test"))
    assert (nowhere.code, nowhere.records) == (NO_NAME, [])
    assert ("nowhere.wild.test", A) in dns.questions[questions:]
    dns.names["empty.wild.test"] = []
    try:
        empty, = ask(instance, alice, profile, question("empty.wild.test"))
    finally:
        del dns.names["empty.wild.test"]
    assert (empty.code, empty.records) == (NO_ERROR, [])


def test_e24_e47_types(instance, alice, profile, dns):
    """E24: no HTTPS record, so no ECH; E47: nothing but addresses is asked for upstream."""
    questions = len(dns.questions)
    kinds = (HTTPS, SVCB, TXT, MX, SRV, CAA, NS, SOA)
    found = ask(instance, alice, profile, *(question("allowed.test", kind) for kind in kinds))
    assert [(a.code, a.records) for a in found] == [(NO_ERROR, [])] * len(kinds)
    found = ask(instance, alice, profile, *(question("allowed.test", kind) for kind in (ANY, NULL, AXFR)))
    assert [(a.code, a.records) for a in found] == [(NOT_IMPLEMENTED, [])] * 3
    assert len(dns.questions) == questions


def test_e47_types_that_rules_name(instance, alice, make_profile, dns):
    """E47: what a rule's dns_types name is asked for upstream, of that rule's names and of these types alone."""
    path = make_profile([{"id": "t", "action": "allow", "host": "allowed.test", "dns_types": ["TXT", "SRV"]},
                         {"id": "w", "action": "allow", "host": "*.wild.test"}], network={"default": "deny"})
    questions = len(dns.questions)
    dns.records = {("allowed.test", TXT): [b"\5hello\0", b"\xff" + b"x" * 255 + b"\xff" + b"y" * 255] * 2,
                   ("allowed.test", SRV): [struct.pack("!3H", 1, 2, 443) + b"\3www\xc0\x0c"],
                   ("allowed.test", MX): [struct.pack("!H", 1) + b"\xc0\x0c"],
                   ("sub.wild.test", TXT): [b"\3no!"]}
    try:
        before = instance.head()
        cut, whole, service, mail, other, denied = ask_all(instance, alice, path, [
            ("127.0.0.1", "udp", question("allowed.test", TXT)), ("127.0.0.1", "tcp", question("allowed.test", TXT)),
            ("127.0.0.1", "udp", question("allowed.test", SRV)), ("127.0.0.1", "udp", question("allowed.test", MX)),
            ("127.0.0.1", "udp", question("sub.wild.test", TXT)), ("127.0.0.1", "udp", question("evil.test", TXT))])
        assert cut.flags & 0x200, "an answer that does not fit says so"
        assert [data for _, _, data in whole.records] == dns.records[("allowed.test", TXT)]
        assert {(kind, ttl) for kind, ttl, _ in whole.records} == {(TXT, 10)}
        assert [data for _, _, data in service.records] == [struct.pack("!3H", 1, 2, 443) + encode("www.allowed.test")]
        assert [(a.code, a.records) for a in (mail, other, denied)] == [(NO_ERROR, []), (NO_ERROR, []), (NO_NAME, [])]
    finally:
        dns.records = {}
    assert {(name, kind) for name, kind in dns.questions[questions:]} == {("allowed.test", TXT), ("allowed.test", SRV)}
    assert [(r["method"], r["verdict"]) for r in dns_rows(instance, before, host="allowed.test")] == \
        [("TXT", "allow"), ("TXT", "allow"), ("SRV", "allow"), ("MX", "allow")]


def test_reverse(instance, alice, profile, dns):
    questions = len(dns.questions)
    reverse6 = "1." + "0." * 27 + "e.f.f.3.ip6.arpa"
    forward, back, back6, none, foreign = ask(
        instance, alice, profile, question("allowed.test"), question("1.0.0.28.in-addr.arpa", PTR),
        question(reverse6, PTR), question("9.9.0.28.in-addr.arpa", PTR), question("8.8.8.8.in-addr.arpa", PTR))
    assert forward.addresses == ["28.0.0.1"]
    assert back.records[0][2] == encode("allowed.test") and back6.records == back.records
    assert (none.code, foreign.code) == (NO_NAME, NO_NAME)
    assert {name for name, _ in dns.questions[questions:]} == {"allowed.test"}
    done = run(instance, alice, profile, "sh", "-c", "getent hosts allowed.test >/dev/null; getent hosts 28.0.0.1")
    assert done.stdout.split() == ["28.0.0.1", "allowed.test"], done.stderr


def test_e51_answers_are_ours(instance, alice, profile):
    """E51: one TTL; the letters' case of the question; the flags that Go wants; extended errors only with EDNS."""
    plain, odd, edns, denied = ask(instance, alice, profile, question("allowed.test"), question("aLLowed.TEST"),
                                   question("evil.test", edns=b""), question("evil.test"))
    assert [ttl for _, ttl, _ in plain.records] == [10]
    assert odd.addresses == plain.addresses
    assert [a.flags & 0x0780 for a in (plain, denied)] == [0x0180 & 0x0780] * 2, "RA, and not AA"
    assert (edns.detail, denied.detail) == (15, None)


def test_e49_upstream_questions_are_ours(instance, alice, profile, dns):
    """E47, E49: neither case, nor client subnet, nor cookies of the session get out."""
    dns.raw.clear()
    options = b"\0\x08\0\x07\0\x01\x18\0\x0a\x01\x02" + b"\0\x0a\0\x08COOKIE!!"
    found, = ask(instance, alice, profile, question("SUB.wIlD.TeSt", edns=options))
    assert found.addresses == ["28.0.0.1"]
    assert dns.raw and all(encode("sub.wild.test") in raw and b"COOKIE" not in raw and raw[10:12] == b"\0\0"
                           for raw in dns.raw)


SERVERS = ["127.0.0.1", "127.0.0.53", "10.0.2.15", "8.8.8.8", "1.1.1.1", "10.0.2.3", "::1", "fd00:5a::15", "2001:4860:4860::8888"]


@pytest.mark.parametrize("way", ["udp", "tcp"])
def test_e49_every_server_address(instance, alice, profile, way):
    """E49: what is asked, and where from the answer comes (ASK looks)."""
    found = ask_all(instance, alice, profile, [(server, way, question("allowed.test")) for server in SERVERS] +
                    [(server, way, question("evil.test")) for server in SERVERS])
    assert [a and a.addresses for a in found[:len(SERVERS)]] == [["28.0.0.1"]] * len(SERVERS)
    assert [a and a.code for a in found[len(SERVERS):]] == [NO_NAME] * len(SERVERS)


MUSL = r"""
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char *argv[])
{
        for (int i = 1; i < argc; i++) {
                struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *found;
                int r = getaddrinfo(argv[i], "80", &hints, &found);
                printf("%s %s\n", argv[i], r ? gai_strerror(r)
                                             : inet_ntoa(((struct sockaddr_in *) found->ai_addr)->sin_addr));
        }
        return 0;
}
"""

NODE = """
const dns = require("dns").promises;
(async () => {
  for (const name of ["allowed.test", "evil.test"])
    for (const find of [() => dns.lookup(name, 4).then(a => a.address), () => dns.resolve4(name).then(a => a[0])])
      console.log(name, await find().catch(e => e.code));
})();
"""

PYTHON = """
import socket
for name in ("allowed.test", "evil.test"):
    try:
        print(name, socket.getaddrinfo(name, 80, socket.AF_INET, flags=socket.AI_ADDRCONFIG)[0][4][0])
    except socket.gaierror as e:
        print(name, e.errno == socket.EAI_NONAME)
"""


def test_musl(instance, alice, profile):
    workspace = alice.workspace()
    source = os.path.join(workspace, "names.c")
    alice.write(source, MUSL)
    program = os.path.join(workspace, "names")
    subprocess.run(["musl-gcc", "-static", "-o", program, source], check=True)
    os.chmod(program, 0o755)
    done = run(instance, alice, profile, program, "allowed.test", "evil.test", cwd=workspace)
    assert done.stdout == "allowed.test 28.0.0.1\nevil.test Name does not resolve\n", done.stderr


def test_node(instance, either, profile):
    done = run(instance, either, profile, "node", "-e", NODE)
    assert done.stdout.splitlines() == ["allowed.test 28.0.0.1"] * 2 + ["evil.test ENOTFOUND"] * 2, done.stderr


def test_python(instance, either, profile):
    done = run(instance, either, profile, "python3", "-c", PYTHON)
    assert done.stdout.splitlines() == ["allowed.test 28.0.0.1", "evil.test True"], done.stderr


def test_e52_files(instance, caller, profile):
    """E52: nothing but files and dns, and none of the host's services."""
    done = run(instance, caller, profile, "sh", "-c",
               "cat /etc/resolv.conf; grep ^hosts: /etc/nsswitch.conf; getent ahostsv4 localhost; "
               "ls -d /run/systemd /run/nscd /run/dbus /run/avahi-daemon /var/run/nscd 2>/dev/null; "
               "echo x 2>/dev/null >/etc/resolv.conf || echo unwritable")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["nameserver 127.0.0.1", "options timeout:2 attempts:2", "hosts: files dns"]
    assert lines[3].split()[0] == "127.0.0.1" and lines[-1] == "unwritable"
    assert not [line for line in lines if line.startswith(("/run", "/var"))]


def test_localhost_is_here(instance, alice, profile):
    before = instance.head()
    found = ask(instance, alice, profile, question("localhost"), question("a.localhost", AAAA),
                question("localhost", HTTPS))
    assert [a.addresses for a in found] == [["127.0.0.1"], ["::1"], []]
    assert not dns_rows(instance, before)


def test_no_network(instance, alice, profile, dns):
    before, questions = instance.head(), len(dns.questions)
    found, = ask(instance, alice, profile, question("allowed.test"), options=("--no-network",))
    assert found.code == NO_NAME and len(dns.questions) == questions
    row, = dns_rows(instance, before)
    assert (row["verdict"], row["reason"]) == ("deny", "no-network")


@pytest.mark.parametrize("way", ["rule", "default"])
@pytest.mark.parametrize("addresses", ["synthetic", "real"])
def test_e48_askable_names_have_an_address(instance, alice, make_profile, dns, web, way, addresses):
    """E48: and nobody outside hears of them; what is asked about is the connection, which nobody answers yet."""
    before, questions, accepted = instance.head(), len(dns.questions), web.accepted
    rules = [{"id": "q", "action": "ask", "host": "allowed.test", "ports": [80, web.server_port]}] if way == "rule" else []
    path = make_profile([*rules, {"id": "d", "action": "deny", "host": "evil.test"}],
                        network={"dns": addresses, "default": "deny" if way == "rule" else "ask"})
    found = ask(instance, alice, path, *(question("allowed.test", kind) for kind in (A, AAAA, TXT, HTTPS, ANY)),
                question("1.0.0.28.in-addr.arpa", PTR), question("evil.test"), question("printer.local"))
    assert [(a.code, len(a.records)) for a in found] == \
        [(NO_ERROR, 1), (NO_ERROR, 0), (NO_ERROR, 0), (NO_ERROR, 0), (NOT_IMPLEMENTED, 0), (NO_ERROR, 1), (NO_NAME, 0),
         (NO_NAME, 0)]
    assert found[0].addresses == ["28.0.0.1"]
    assert {(r["verdict"], r["rule"]) for r in dns_rows(instance, before, host="allowed.test")} == {("ask", rules and "q" or None)}
    before = instance.head()
    script = """import socket
s = socket.create_connection(("allowed.test", %d))
s.sendall(b"GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n")
print(s.recv(4096).split()[1].decode())""" % web.server_port
    done = run(instance, alice, path, "python3", "-c", script)
    assert done.stdout == "403\n", done.stderr
    row, = instance.rows(before, kind="net")
    assert (row["entry"], row["host"], row["verdict"], row["reason"]) == ("transparent", "allowed.test", "deny", "no-approver")
    assert len(dns.questions) == questions and web.accepted == accepted


# ---- where addresses lead ----

def test_e80_programs_that_know_no_proxy(instance, caller, profile, web):
    """E80: resolve, connect; the row is about the name."""
    before = instance.head()
    done = run(instance, caller, profile, "env", "-i", "curl", "-sS", f"http://allowed.test:{web.server_port}/")
    assert done.stdout == "hello from the test server\n", done.stderr
    row, = instance.rows(before, kind="net", action="connect")
    assert (row["entry"], row["verdict"], row["host"], row["rule"]) == ("transparent", "allow", "allowed.test", "t")


def test_shared_addresses_open_nothing(instance, alice, profile, web):
    """E19, E20: the address of an allowed name, or its real one, carries no other name."""
    requests, port = len(web.requests), web.server_port
    for options in (["-H", "Host: evil.test"], ["--resolve", f"evil.test:{port}:28.0.0.1"]):
        url = f"http://{'evil' if '--resolve' in options else 'allowed'}.test:{port}/"
        done = run(instance, alice, profile, "sh", "-c", 'getent hosts allowed.test >/dev/null; exec "$@"', "-", "env", "-i", "curl",
                   "-sS", "-o", "/dev/null", "-w", "%{http_code}", *options, url)
        assert done.stdout in ("400", "403", "000"), done.stdout
    done = run(instance, alice, profile, "env", "-i", "curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}",
               "--resolve", f"allowed.test:{port}:127.0.0.2", f"http://allowed.test:{port}/")
    assert done.stdout == "000"
    assert len(web.requests) == requests


def test_addresses_lead_back_to_names(instance, caller, profile, web):
    """A program that resolves and hands the address to a proxy: the row and the policy are about the name."""
    before = instance.head()
    script = f"""
        curl -sS --noproxy '' --socks5 127.0.0.1:3128 http://allowed.test:{web.server_port}/
        curl -sS --noproxy '' --socks5 127.0.0.1:3128 http://28.0.0.1:{web.server_port}/ -H 'Host: allowed.test:{web.server_port}'
        curl -sS --noproxy '' -p -x http://127.0.0.1:3128 http://28.0.0.1:{web.server_port}/ -H 'Host: allowed.test:{web.server_port}'
    """
    done = run(instance, caller, profile, "sh", "-c", script)
    assert done.stdout == "hello from the test server\n" * 3, done.stderr
    rows = instance.rows(before, kind="net", action="connect")
    assert {(r["host"], r["verdict"]) for r in rows} == {("allowed.test", "allow")}


def test_addresses_that_stand_for_nothing_lead_nowhere(instance, alice, make_profile, web):
    """Not even under a policy that allows every address of that network."""
    before, accepted = instance.head(), web.accepted
    path = make_profile([{"id": "all", "action": "allow", "cidr": "28.0.0.0/8", "ports": [web.server_port], "protocol": "tcp"}],
                        network={"default": "allow"})
    done = run(instance, alice, path, "sh", "-c",
               f"env -i curl -sS -m 20 -o /dev/null -w '%{{http_code}} ' http://28.0.0.9:{web.server_port}/; "
               f"for o in '-x http://127.0.0.1:3128' '-p -x http://127.0.0.1:3128' '--socks5 127.0.0.1:3128'; do "
               f"curl -sS -m 20 --noproxy '' -o /dev/null -w '%{{http_code}} ' $o http://28.0.0.9:{web.server_port}/; done")
    assert done.stdout.split()[:2] == ["000", "403"] and "200" not in done.stdout
    rows = instance.rows(before, kind="net")
    assert len(rows) == 4 and {(r["verdict"], r["reason"]) for r in rows} == {("deny", "malformed")}
    assert web.accepted == accepted


def test_pool_is_the_administrators(settings, alice, profile):
    with machine.Instance(settings={**settings, "dns": {"pool": "198.18.0.0/15", "pool6": "fd99:1::/64"}}) as own:
        forward, back = ask(own, alice, profile, question("allowed.test"), question("1.0.18.198.in-addr.arpa", PTR))
        assert forward.addresses == ["198.18.0.1"]
        assert back.records[0][2] == encode("allowed.test")


def test_pool_of_a_policy(instance, alice, make_profile, web):
    """Its addresses stand for names, both ways, and lead there; the daemon's are then addresses like any."""
    rules = [{"id": "t", "action": "allow", "host": "allowed.test", "ports": [web.server_port], "cidr": "127.0.0.1/32"}]
    path = make_profile(rules, network={"default": "deny", "pool": "198.19.0.0/16", "pool6": "fd99:2::/64"})
    forward, six, back, back6, other = ask(
        instance, alice, path, question("allowed.test"), question("allowed.test", AAAA), question("1.0.19.198.in-addr.arpa", PTR),
        question("1." + "0." * 23 + "2.0.0.0.9.9.d.f.ip6.arpa", PTR), question("1.0.0.28.in-addr.arpa", PTR))
    assert forward.addresses == ["198.19.0.1"] and set(six.addresses) <= {"fd99:2::1"}
    assert back.records[0][2] == back6.records[0][2] == encode("allowed.test") and not other.records
    before = instance.head()
    done = run(instance, alice, path, "curl", "-sS", "-m", "20", "--noproxy", "*", f"http://allowed.test:{web.server_port}/")
    assert done.stdout == "hello from the test server\n", done.stderr
    done = run(instance, alice, path, "sh", "-c", "for a in '198.19.0.9' '[fd99:2::9]' '28.0.0.9'; do "
               f"curl -sS -m 20 --noproxy '*' -o /dev/null http://$a:{web.server_port}/; done")
    rows = instance.rows(before, kind="net")
    assert [r["host"] for r in rows if r["verdict"] == "allow" and r["action"] == "connect"] == ["allowed.test"]
    assert {(r["ip"], r["reason"]) for r in rows if r["verdict"] == "deny"} == {
        (socket.inet_aton("198.19.0.9"), "malformed"), (socket.inet_pton(socket.AF_INET6, "fd99:2::9"), "malformed"),
        (socket.inet_aton("28.0.0.9"), "default")}


def test_small_pool_ends(settings, alice, make_profile, dns):
    path = make_profile([{"id": "w", "action": "allow", "host": f"n{i}.exact.test"} for i in range(300)])
    dns.names.update({f"n{i}.exact.test": ["127.0.0.1"] for i in range(300)})
    with machine.Instance(settings={**settings, "dns": {"pool": "198.18.7.0/24"}}) as own:
        found = ask(own, alice, path, *(question(f"n{i}.exact.test") for i in range(260)), question("n3.exact.test"))
    assert [a.addresses for a in found[:254]] == [[f"198.18.7.{i}"] for i in range(1, 255)]
    assert [(a.code, a.records) for a in found[254:260]] == [(2, [])] * 6, "no address stands for a second name"
    assert found[260].addresses == ["198.18.7.4"]


def test_addresses_outlive_the_worker(own_instance, alice, make_profile, dns):
    names = [f"n{i}.exact.test" for i in range(6)]
    dns.names.update({name: ["127.0.0.1"] for name in names})
    path = make_profile([{"id": "w", "action": "allow", "host": name} for name in names])
    session = own_instance.create(alice, "-p", path)

    def resolve(*wanted):
        done = own_instance.ctl(alice, "exec", session, "--", "getent", "ahostsv4", *wanted)
        return [line.split()[0] for line in done.stdout.splitlines() if "STREAM" in line]

    assert resolve("n0.exact.test", "n1.exact.test", "n2.exact.test") == ["28.0.0.1", "28.0.0.2", "28.0.0.3"]
    for worker in own_instance.workers("sandboxd-egress"):
        os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: resolve("n4.exact.test")) == ["28.0.0.4"], "an address stands for a second name"
    assert resolve("n2.exact.test", "n0.exact.test", "n5.exact.test") == ["28.0.0.3", "28.0.0.1", "28.0.0.5"]
    own_instance.ctl(alice, "remove", "--force", session)


def test_sessions_have_their_own_names(instance, alice, bob, profile):
    ask(instance, alice, profile, question("allowed.test"), question("sub.wild.test"))
    other, back = ask(instance, bob, profile, question("sub.wild.test"), question("2.0.0.28.in-addr.arpa", PTR))
    assert other.addresses == ["28.0.0.1"] and back.code == NO_NAME


# ---- limits ----

def test_e47_random_labels_are_limited(instance, alice, profile, dns):
    """E47: a thousand labels below a wildcard are no thousand questions upstream, and somebody hears of it."""
    before, questions = instance.head(), len(dns.questions)
    rng = random.Random(7)
    names = ["".join(rng.choice(string.ascii_lowercase + string.digits) for _ in range(16)) + ".wild.test"
             for _ in range(1000)]
    found = ask(instance, alice, profile, *(question(name) for name in names), question("sub.wild.test"),
                question("allowed.test"))
    assert {a.code for a in found[:1000]} == {NO_NAME}
    asked = {name for name, _ in dns.questions[questions:]} & set(names)
    limited = dns_rows(instance, before, reason="limit")
    assert len(asked) + len({r["host"] for r in limited} & set(names)) == 1000
    assert limited and 100 < len(asked) < 900
    assert {(r["verdict"], r["rule"]) for r in limited} == {("deny", "wild")}
    assert found[1001].addresses == ["28.0.0.1"], "what a rule names is not limited"


def test_e47_limits_outlive_the_audit_worker(own_instance, alice, profile):
    """What was asked for before counts, and is free, for the next worker as well."""
    session = own_instance.create(alice, "-p", profile)
    first, second = ([f"n{i}.wild.test" for i in range(at, at + 140)] for at in (0, 1000))

    def ask_for(names):
        """Each until there is an answer: the session's worker may be on its way."""
        left = [question(name) for name in names]
        for _ in range(60):
            done = own_instance.ctl(alice, "exec", "-T", session, "--", "python3", "-c", ASK, timeout=300,
                                    input=json.dumps([("127.0.0.1", "udp", q.hex()) for q in left]))
            found = json.loads(done.stdout) if done.returncode == 0 else [""] * len(left)
            left = [q for q, answer in zip(left, found) if not answer or Answer(bytes.fromhex(answer), q).code != NO_NAME]
            if not left:
                return
        raise AssertionError(left)

    def allowed(after=0):
        return {r["host"]: r["ts_us"] for r in dns_rows(own_instance, after, verdict="allow")}
    ask_for(first)
    before = allowed()
    for pid in own_instance.workers("sandboxd-audit"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ask_for(second)
    both = allowed()
    assert len(before) >= 128 and set(before) <= set(both)
    # At once, and then one a second: however long all this has taken.
    assert len(both) <= 128 + (max(both.values()) - min(both.values())) / 1e6 + 1, both
    head = own_instance.head()
    ask_for(before)
    assert set(allowed(head)) == set(before)
    own_instance.ctl(alice, "terminate", "--grace", "0s", session)


def test_e47_questions_that_lead_nowhere_make_nothing_free(own_instance, alice, profile):
    """Types that are not looked up cost nothing: the next audit worker takes their rows for nothing, too."""
    session = own_instance.create(alice, "-p", profile)
    data, names = "mfrggzdfmztwq2lknnwg23tpobyxe43u.wild.test", [f"q{i}.wild.test" for i in range(300)]

    def ask_for(*questions):
        done = own_instance.ctl(alice, "exec", "-T", session, "--", "python3", "-c", ASK, timeout=300,
                                input=json.dumps([("127.0.0.1", "udp", q.hex()) for q in questions]))
        assert done.returncode == 0, done
        return [Answer(bytes.fromhex(found), q) for found, q in zip(json.loads(done.stdout), questions)]

    def is_there():
        done = own_instance.ctl(alice, "exec", "-T", session, "--", "getent", "ahostsv4", "sub.wild.test", timeout=300)
        return done.returncode == 0
    found = ask_for(question(data, HTTPS), *(question(name, kind) for name in names for kind in (HTTPS, TXT)))
    assert {(a.code, len(a.records)) for a in found} == {(NO_ERROR, 0)}
    old = own_instance.workers("sandboxd-audit")
    for pid in old:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: own_instance.workers("sandboxd-audit") not in (old, []), 60)
    assert eventually(is_there, 60)
    before = own_instance.head()
    assert [a.code for a in ask_for(question(data))] == [NO_NAME], "it was never let through"
    ask_for(*(question(name) for name in names))
    rows = dns_rows(own_instance, before)
    allowed = [r["ts_us"] for r in rows if r["verdict"] == "allow"]
    limited = {r["host"] for r in rows if r["reason"] == "limit"}
    assert data in limited and len(limited) > 1, rows
    assert len(allowed) <= 128 + (max(allowed) - min(allowed)) / 1e6 + 1
    own_instance.ctl(alice, "terminate", "--grace", "0s", session)


def test_e47_labels_that_are_data(instance, alice, profile, dns):
    questions = len(dns.questions)
    found = ask(instance, alice, profile, question("mfrggzdfmztwq2lknnwg23tpobyxe43u.wild.test"),
                question("a" * 49 + ".wild.test"), question(".".join("ab" * 1 for _ in range(44)) + ".wild.test"))
    assert [a.code for a in found] == [NO_NAME] * 3 and len(dns.questions) == questions


def test_e47_labels_that_are_data_at_the_other_doors(instance, alice, profile, web, dns):
    before, questions, accepted = instance.head(), len(dns.questions), web.accepted
    name = f"nbswy3dpeb3w64tmmqqho33snrsccidi.wild.test:{web.server_port}"
    script = f"""curl -sS -o /dev/null -w '%{{http_code}} ' http://{name}/
        curl -sS -p -o /dev/null -w '%{{http_connect}} ' http://{name}/
        curl -sS --noproxy '' --socks5-hostname 127.0.0.1:3128 -o /dev/null -w '%{{http_code}} ' http://{name}/"""
    done = run(instance, alice, profile, "sh", "-c", script)
    assert done.stdout.split() == ["403", "403", "000"], done.stderr
    assert [r["reason"] for r in instance.rows(before, kind="net")] == ["limit"] * 3
    assert len(dns.questions) == questions and web.accepted == accepted


def test_both_types_are_one_question(instance, alice, profile):
    """What getaddrinfo() asks at once is one row."""
    before = instance.head()
    for _ in range(3):
        done = run(instance, alice, profile, "python3", "-c",
                   "import socket; socket.getaddrinfo('evil.test', 80)")
        assert "gaierror" in done.stderr
    assert 3 <= len(dns_rows(instance, before)) <= 6


# ---- hostile bytes ----

GARBAGE = r"""
import os, random, socket, sys
rng = random.Random(int(sys.argv[1]))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.connect(("127.0.0.1", 53))
for i in range(3000):
    n = rng.randrange(1, 1500)
    data = bytearray(rng.randbytes(n))
    if n > 12 and i % 2:
        data[2:12] = b"\1\0\0\1\0\0\0\0\0\0"
    try:
        u.send(data)
    except OSError:
        pass
open_streams = []
for i in range(100):
    t = socket.socket()
    t.settimeout(5)
    try:
        t.connect(("127.0.0.1", 53))
        t.sendall(rng.choice([b"\0", b"\0\x20abc", b"\xff\xff" + bytes(3000), b"\0\0" * 50, b"GET / HTTP/1.1\r\n\r\n"]))
    except OSError:
        pass
    open_streams.append(t)
for t in open_streams:
    t.close()
print(socket.getaddrinfo("allowed.test", 80, socket.AF_INET)[0][4][0])
"""


def test_garbage(instance, alice, profile):
    workers = set(instance.workers("sandboxd-egress"))
    session = instance.create(alice, "-p", profile)
    for seed in range(3):
        done = instance.ctl(alice, "exec", session, "--", "python3", "-c", GARBAGE, str(seed), timeout=120)
        assert done.stdout == "28.0.0.1\n", done.stderr
    assert "egress workers end again" not in instance.log_text() and workers
    instance.ctl(alice, "remove", "--force", session)


PIPELINE = r"""
import socket, struct
def question(ident, name):
    body = struct.pack("!6H", ident, 0x100, 1, 0, 0, 0) + b"".join(
        bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1"
    return struct.pack("!H", len(body)) + body
s = socket.create_connection(("127.0.0.1", 53))
data = b"".join(question(i, "allowed.test" if i % 2 else "evil.test") for i in range(60))
for at in range(0, len(data), 7):
    s.sendall(data[at:at + 7])
s.shutdown(socket.SHUT_WR)
answers = b""
while True:
    more = s.recv(4096)
    if not more:
        break
    answers += more
found = {}
while answers:
    n = int.from_bytes(answers[:2], "big")
    found[int.from_bytes(answers[2:4], "big")] = answers[5] & 15
    answers = answers[2 + n:]
print(sorted(found) == list(range(60)), {i % 2: code for i, code in found.items()})
"""


def test_questions_in_a_row_on_one_stream(instance, alice, profile):
    done = run(instance, alice, profile, "python3", "-c", PIPELINE)
    assert done.stdout == "True {0: 3, 1: 0}\n", done.stdout + done.stderr


def test_e03_malformed_names_are_recorded(instance, alice, profile, dns):
    before, questions = instance.head(), len(dns.questions)
    names = [b"\x04a\0bc\x04test\0", b"\x05evil!\x04test\0", b"\x0cevil.example\x04test\0", b"\x07\x1b[2Jabc\x04test\0"]
    found = ask(instance, alice, profile, *(question(name) for name in names))
    assert [a.code for a in found] == [NO_NAME] * len(names) and len(dns.questions) == questions
    rows = dns_rows(instance, before)
    assert [(r["verdict"], r["reason"], r["host"]) for r in rows] == [("deny", "malformed", None)] * len(names)
    assert sorted(bytes(r["raw"]) for r in rows) == sorted(names)
