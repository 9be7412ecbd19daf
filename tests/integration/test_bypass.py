"""Ways round a control of what leaves, one test each; its number is the one of the catalogue that SECURITY.md's list uses, too.
Names, addresses and what HTTP and TLS say of themselves; ways beside TCP are in test_bypass_kernel.py, DNS in test_dns.py."""

import ipaddress
import ssl

import pytest

from machine import eventually, talk
from test_rule_keys import Inside, b64, hello, rule
from test_rule_keys import sink  # noqa: F401
from test_socks import ask, five, four


def rows_of(instance, before, **equal):
    return instance.rows(before, kind="net", **equal)


def address_of(row):
    return str(ipaddress.ip_address(row["ip"])) if row["ip"] else None


def connect(target):
    target = target if isinstance(target, bytes) else target.encode()
    return b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n"


def absolute(authority, path="/", more="", method="GET"):
    return f"{method} http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{more}\r\n".encode()


def statuses(answers):
    return [answer[0].status if answer else None for answer, _ in answers]


@pytest.fixture
def assert_refused(instance, alice, profile, web):
    """Each of these, sent on a connection of its own, is answered with 4xx or none at all, and no row allows it."""
    def check(requests, wanted=(400, 403), profile=profile):
        before, seen = instance.head(), len(web.requests)
        found = statuses(talk(instance, alice, profile, [[request] for request in requests]))
        assert all(status in wanted for status in found), list(zip(requests, found))
        rows = rows_of(instance, before)
        assert len(rows) >= len(requests) and {row["verdict"] for row in rows} == {"deny"}, rows
        assert len(web.requests) == seen
        return rows
    return check


# ---- A: names ----

def test_e01_dot_and_case(assert_refused, web):
    rows = assert_refused([connect(f"EVIL.test.:{web.server_port}"), absolute(f"Evil.TEST.:{web.server_port}")], wanted=(403,))
    assert {row["host"] for row in rows} == {"evil.test"}


def test_e02_authority(assert_refused, web):
    port = web.server_port
    assert_refused([connect(f"[evil.test]:{port}"), absolute(f"allowed.test@evil.test:{port}"), absolute(f"evil.test\\@allowed.test:{port}"),
             absolute(f"evil.test#.allowed.test:{port}"), absolute(f"allowed.test:{port}x"), absolute(f"allowed.test:+{port}"),
             absolute("allowed.test:65617"), absolute(f"allowed.test:{2 ** 32 + port}"), absolute(f"[allowed.test]:{port}"),
             absolute(f"allowed.test%00:{port}"), absolute(f"allowed.test:{port}:{port}"), connect("allowed.test"), connect("allowed.test:")])


def test_e03_bytes(instance, alice, profile, web):
    port, before = web.server_port, instance.head()
    names = [b"evil.test\0.wild.test", b"127.0.0.1\0.wild.test", b"a\r\nb.wild.test", b"a b.wild.test", b"a\t.wild.test",
             b"\x7f.wild.test", b"\xe4.wild.test", b"a\x1b[2J.wild.test"]
    answers = ask(instance, alice, profile, [five(name, port) for name in names])
    assert [answer[2:4] for answer in answers] == [b"\x05\x02"] * len(names)
    assert {(row["verdict"], row["reason"]) for row in rows_of(instance, before)} == {("deny", "malformed")}


def test_e04_letters_beyond_ascii(assert_refused, web):
    port = web.server_port
    assert_refused([connect(f"{name}:{port}") for name in
             ("①②⑦.0.0.1", "１２７.0.0.1", "127。0。0。1", "аllowed.test", "allowed。test", "xn--llowed-3ve.test", "ａllowed.test")])


def test_e05_wildcards(assert_refused, web):
    port = web.server_port
    assert_refused([connect(f"{name}:{port}") for name in
             ("wild.test", "evilwild.test", "wild.test.evil.test", "x.wild.test.evil", ".wild.test", "*.wild.test", "xwild.test")])


def test_e05_wildcards_that_are_too_wide(instance, alice, make_profile):
    for host in ("*", "*.com", "*.github.io", "*.co.uk"):
        done = instance.ctl(alice, "policy", "validate", make_profile([{"id": "w", "action": "allow", "host": host}]))
        assert done.returncode != 0, host


def test_e06_no_patterns(assert_refused, web):
    assert_refused([connect(f"{name}:{web.server_port}") for name in ("allowedQtest", "allowed-test", "sub-wild.test", "subQwild.test")])


def test_e07_zones(assert_refused, instance, alice, profile, web):
    port = web.server_port
    assert_refused([connect(f"[::1%lo]:{port}"), connect(f"[fe80::1%25eth0]:{port}"), connect(f"[::ffff:127.0.0.1%x.wild.test]:{port}")])
    answer, = ask(instance, alice, profile, [five(b"::ffff:127.0.0.1%x.wild.test", port)])
    assert answer[2:4] == b"\x05\x02"


def test_e08_lengths(assert_refused, web):
    port = web.server_port
    assert_refused([connect(f"{name}:{port}") for name in
             ("x" * 64 + ".wild.test", ".".join(["x" * 60] * 5) + ".wild.test", "a..wild.test", "x" * 5000 + ".wild.test")])


@pytest.mark.parametrize("default", ["deny", "allow"])
def test_e10_local_names(assert_refused, make_profile, default):
    profile = make_profile(network={"default": default})
    assert_refused([connect(f"{name}:80") for name in
             ("localhost", "a.localhost", "printer.local", "metadata.google.internal", "host.sandbox.internal", "host.docker.internal",
              "gateway.docker.internal", "LOCALHOST.")], wanted=(403,), profile=profile)


# ---- B: addresses ----

def test_e11_odd_addresses(assert_refused, echo):
    assert_refused([connect(f"{text}:{echo.port}") for text in
             ("127.1", "2130706433", "0x7f.1", "0177.0.0.1", "017700000001", "169.254.43518", "0xa9fea9fe", "0000127.0.0.1",
              "127.0.0.1.5", "0x7f000001", "127.0.0.0x1", "127.0.0.01", "00.0.0.0", "1.2.3", "256.0.0.1")])


EVERYTHING = [{"id": "all4", "action": "allow", "cidr": "0.0.0.0/0", "ports": ["1-65535"]},
              {"id": "all6", "action": "allow", "cidr": "::/0", "ports": ["1-65535"]}]


def test_e12_ipv4_in_ipv6(assert_refused, make_profile):
    assert_refused([connect(f"[{text}]:80") for text in
             ("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1", "::ffff:0:127.0.0.1",
              "2001:0:7f00:1::", "64:ff9b:1::7f00:1", "2001:0:1:2:3:4:80ff:fffe", "fe80::5efe:7f00:1", "2002:a9fe:a9fe::1")],
            wanted=(403,), profile=make_profile(EVERYTHING))


def test_e13_special_ranges(assert_refused, make_profile):
    four_ones = ["0.1.2.3", "10.1.2.3", "100.64.1.2", "127.0.0.1", "169.254.1.1", "172.16.3.4", "192.0.0.8", "192.0.2.1", "192.88.99.1",
                 "192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.5", "224.0.0.1", "240.0.0.1", "255.255.255.255"]
    six_ones = ["::", "::1", "fe80::1", "fec0::1", "fd12::1", "ff02::1", "2001:db8::1", "100::1", "3fff::1", "5f00::1", "fd00:ec2::254"]
    assert_refused([connect(f"{a}:80") for a in four_ones] + [connect(f"[{a}]:80") for a in six_ones], wanted=(403,),
            profile=make_profile(EVERYTHING))


def test_e14_metadata(assert_refused, make_profile):
    wider = [{"id": f"w{i}", "action": "allow", "cidr": cidr, "ports": ["1-65535"]} for i, cidr in enumerate(
        ("169.254.0.0/16", "169.254.169.0/24", "100.100.0.0/16", "100.64.0.0/10", "168.63.0.0/16", "192.0.0.0/24", "fd00::/8"))]
    rows = assert_refused([connect(f"{a}:80") for a in ("169.254.169.254", "169.254.170.2", "169.254.170.23", "[fd00:ec2::254]",
                                                 "100.100.100.200", "168.63.129.16", "192.0.0.192", "metadata.google.internal")],
                   wanted=(403,), profile=make_profile(EVERYTHING + wider, network={"default": "allow"}))
    assert {row["reason"] for row in rows} == {"address"}


def test_e18_alias_of_an_inner_name(instance, alice, make_profile, dns, web):
    """What an allowed name is an alias of is judged by its address."""
    dns.aliases["alias.test"] = "metadata.test"
    dns.names["web-inside.test"] = ["127.0.0.1"]
    dns.aliases["alias2.test"] = "web-inside.test"
    before, seen = instance.head(), len(web.requests)
    profile = make_profile([{"id": name, "action": "allow", "host": f"{name}.test", "ports": ["1-65535"]} for name in ("alias", "alias2")])
    found = statuses(talk(instance, alice, profile, [[absolute("alias.test")], [absolute(f"alias2.test:{web.server_port}")]]))
    assert found == [403, 403] and len(web.requests) == seen
    assert [row["reason"] for row in rows_of(instance, before, action="refuse")] == ["address"] * 2


# ---- C: TLS ----

def sends(inside, sink, name, port, data, host="allowed.test"):  # noqa: F811
    """What of it reaches the server, and how much comes back when it does not."""
    i = sink.accepted
    assert "200" in inside("open", name, "connect", host, port)
    inside("send", name, b64(data))
    inside("end", name)
    n_back = inside("rest", name)
    return sink.got[i], n_back


@pytest.fixture
def tls_inside(instance, alice, make_profile, sink):  # noqa: F811
    with Inside(instance, alice, make_profile([rule("allowed.test", sink.port)])) as inside:
        yield lambda data, name="x": sends(inside, sink, name, sink.port, data)


def test_e21_other_name(tls_inside):
    assert tls_inside(hello("evil.test")) == (b"", 7)


def test_e22_no_name(tls_inside):
    assert tls_inside(hello(None)) == (b"", 7)


def test_e23_no_tls(tls_inside):
    for data in (b"SSH-2.0-OpenSSH_9\r\n", b"\0\0\0\1", b"\x16", b"\x15\x03\x03\0\2\2\x28", b"\x80\x2e\1\0\2", b"EHLO x\r\n"):
        got, n_back = tls_inside(data)
        assert got == b"", data


def as_records(data, size, version=b"\3\1"):
    body = b""
    while data:
        n = int.from_bytes(data[3:5], "big")
        body, data = body + data[5:5 + n], data[5 + n:]
    return b"".join(b"\x16" + version + len(body[i:i + size]).to_bytes(2, "big") + body[i:i + size] for i in range(0, len(body), size))


def large_hello(name, n_bytes):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([f"{i:04}" + "x" * 250 for i in range(n_bytes // 255)])
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


@pytest.mark.parametrize("n_bytes", [0, 2100, 20000, 55000])
@pytest.mark.parametrize("size", [5, 50, 16384])
def test_e25_hello_in_pieces(tls_inside, n_bytes, size):
    """Over records and segments: a name that is allowed passes, whole; another one does not, wherever it stands."""
    if n_bytes * (5 + size) > 60000 * size:
        size = 500
    good, bad = (as_records(large_hello(name, n_bytes), size) for name in ("allowed.test", "evil.test"))
    assert n_bytes < len(good) < 65536
    assert tls_inside(good, "a") == (good, 0)
    assert tls_inside(bad, "b") == (b"", 7)


def test_e25_too_large(tls_inside):
    assert tls_inside(as_records(large_hello("allowed.test", 64000), 20))[0] == b""


def test_e26_odd_names(tls_inside):
    data = hello("allowed.test")
    assert tls_inside(data.replace(b"allowed.test", b"ALLOWED.tesT"), "case")[0]
    for i, name in enumerate((b"allowed.tes\0", b"evil\0ed.test", b"127.0.00.001", b"111.22.33.44", b"llowed.test.", b"allowed test",
                              b"\xe4llowed.test", b"allowed..tes")):
        assert len(name) == 12
        assert tls_inside(data.replace(b"allowed.test", name), f"n{i}") == (b"", 7), name


def test_e30_one_level_only(tls_inside, web):
    for data in (connect(f"evil.test:{web.server_port}"), b"\5\1\0", b"\4\1\0\x50\0\0\0\1u\0evil.test\0", b"STARTTLS\r\n"):
        assert tls_inside(data)[0] == b"", data


def test_e31_what_is_not_seen_has_no_rules(instance, alice, make_profile):
    for more in ({"methods": ["GET"]}, {"paths": ["/x"]}, {"protocol": "tls", "paths": ["/x"]}, {"tls": "inspect"}, {"credential": "c"}):
        path = make_profile([{"id": "t", "action": "allow", "host": "allowed.test", **more}])
        assert instance.ctl(alice, "policy", "validate", path).returncode != 0, more


# ---- D: HTTP ----

def test_e32_host_says_otherwise(assert_refused, web):
    port = web.server_port
    url = f"GET http://allowed.test:{port}/ HTTP/1.1\r\n"
    assert_refused([f"{url}Host: {host}\r\n\r\n".encode() for host in
             ("evil.test", f"evil.test:{port}", "allowed.test:1", "", f"allowed.test:{port}, evil.test", f"allowed.test:{port} evil.test")])


def test_e33_hosts(assert_refused, web):
    port = web.server_port
    url, host = f"GET http://allowed.test:{port}/ HTTP/1.1\r\n", f"Host: allowed.test:{port}\r\n"
    assert_refused([(url + fields + "\r\n").encode() for fields in
             ("", host + host, host + "Host: evil.test\r\n", "Host:\r\n", host.replace("Host:", "Host :"), "X: y\r\n")])
    assert_refused([b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"])


def test_e34_plain_http_like_connect(assert_refused, web):
    port = web.server_port
    rows = assert_refused([absolute(f"evil.test:{port}"), connect(f"evil.test:{port}")], wanted=(403,))
    assert len({(row["host"], row["port"], row["reason"]) for row in rows}) == 1


def test_e35_second_host(instance, alice, profile, web):
    port, before, seen = web.server_port, instance.head(), len(web.requests)
    (answers, _), = talk(instance, alice, profile, [[absolute(f"allowed.test:{port}", "/1"), absolute(f"evil.test:{port}", "/2"),
                                                     absolute(f"allowed.test:{port}", "/3")]])
    assert [answer.status for answer in answers] == [200, 403, 200]
    assert [path for _, path, _ in web.requests[seen:]] == ["/1", "/3"]
    assert [row["verdict"] for row in rows_of(instance, before)] == ["allow", "deny", "allow"]


SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n"
FRAMINGS = {
    "length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: 50\r\n\r\n0\r\n\r\n",
    "two encodings": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "encoding with more": "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "unknown encoding": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "encoding with tab": "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "space before colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "Content-Length: 0\r\nContent-Length: 47\r\n\r\n",
    "list of lengths": "Content-Length: 0, 47\r\n\r\n",
    "negative": "Content-Length: -1\r\n\r\n",
    "plus": "Content-Length: +0\r\n\r\n",
    "hexadecimal": "Content-Length: 0x0\r\n\r\n",
    "huge": "Content-Length: 18446744073709551616\r\n\r\n",
    "bare line feed": "X: a\nContent-Length: 0\r\n\r\n",
    "bare return": "X: a\rContent-Length: 0\r\n\r\n",
    "nul": "X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "no colon": "Content-Length 0\r\n\r\n",
}


def test_e36_framing(instance, alice, profile, web):
    port, seen = web.server_port, len(web.requests)
    url = f"POST http://allowed.test:{port}/ HTTP/1.1\r\nHost: allowed.test:{port}\r\n"
    answers = talk(instance, alice, profile, [[(url + framing + SMUGGLED).encode()] for framing in FRAMINGS.values()])
    for name, (answer, is_closed) in zip(FRAMINGS, answers):
        assert is_closed and (not answer or answer[0].status in (None, 400, 501)), (name, answer)
    assert len(web.requests) == seen


CHUNKS = ["-1\r\nx\r\n0\r\n\r\n", "0x1\r\nx\r\n0\r\n\r\n", "+1\r\nx\r\n0\r\n\r\n", "10000000000000000\r\nx\r\n", "ffffffffffffffff1\r\nx\r\n",
          "1;" + "e" * 9000 + "\r\nx\r\n0\r\n\r\n", "1\nx\n0\n\n", " 1\r\nx\r\n0\r\n\r\n", "1\r\nxy\r\n0\r\n\r\n", "g\r\n"]


def test_e36_chunks(instance, alice, profile, web):
    """No request whose body is not sound is ever complete for the server, and nothing behind it is one."""
    port, seen = web.server_port, len(web.requests)
    url = f"POST http://allowed.test:{port}/ HTTP/1.1\r\nHost: allowed.test:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = talk(instance, alice, profile, [[(url + chunk + SMUGGLED).encode()] for chunk in CHUNKS])
    assert all(status != 200 for status in statuses(answers)), statuses(answers)
    assert not [r for r in web.requests[seen:] if r[1] == "/smuggled"]


def test_e37_behind_a_refusal(instance, alice, profile, web):
    port, seen = web.server_port, len(web.requests)
    (answer, is_closed), = talk(instance, alice, profile, [[connect(f"evil.test:{port}") + absolute(f"allowed.test:{port}")]])
    assert answer[0].status == 403 and is_closed and len(web.requests) == seen
    for answer in ask(instance, alice, profile, [door("evil.test", port) + absolute(f"allowed.test:{port}") for door in (five, four)]):
        assert b"hello" not in answer
    assert len(web.requests) == seen


def test_e38_upgrades(instance, alice, profile, web):
    port, seen = web.server_port, len(web.requests)
    more = ["Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n", "Upgrade: h2c\r\n"]
    talk(instance, alice, profile, [[absolute(f"allowed.test:{port}", more=fields)] for fields in more])
    for _, _, headers in web.requests[seen:]:
        assert not {name.lower() for name in headers} & {"upgrade", "http2-settings"}, headers


def test_e39_http2(assert_refused, instance, alice, profile, web):
    assert_refused([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", f"GET http://allowed.test:{web.server_port}/ HTTP/2.0\r\n\r\n".encode()],
            wanted=(400, 505))
    seen = len(web.requests)
    done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "curl", "-sS", "-m", "20", "--http2-prior-knowledge", "-p",
                        f"http://allowed.test:{web.server_port}/", cwd=alice.workspace())
    assert done.returncode != 0 and len(web.requests) == seen


@pytest.fixture
def some_requests(make_profile, web):
    return make_profile([rule("allowed.test", web.server_port, protocol="http", methods=["GET", "POST"], paths=["/repos/**"])])


def test_e40_paths(assert_refused, some_requests, web):
    authority = f"allowed.test:{web.server_port}"
    assert_refused([absolute(authority, path) for path in
             ("/repos/a/../../admin", "/repos/%2e%2e/admin", "/repos/.%2E/admin", "//repos/a", "/repos//a", "/repos/a%2fb", "/repos/a;x",
              "/repos/a%00", "/repos/a%5cb", "/repos/\\b", "/repos/%252e%252e/x", "/repos/%ff", "/repos/%", "/REPOS/a", "/admin",
              "/?/repos/a", "/http://allowed.test/repos/a")], wanted=(400, 403), profile=some_requests)


def test_e41_methods(assert_refused, instance, alice, some_requests, web):
    authority, seen = f"allowed.test:{web.server_port}", len(web.requests)
    assert_refused([absolute(authority, "/repos/a", method=method) for method in ("DELETE", "TRACE", "get", "PATCH", "CONNECTX", "PROPFIND")],
            wanted=(400, 403), profile=some_requests)
    more = "X-HTTP-Method-Override: DELETE\r\nX-Method-Override: DELETE\r\nX_HTTP_METHOD: DELETE\r\nContent-Length: 0\r\n"
    talk(instance, alice, some_requests, [[absolute(authority, "/repos/a", more, "POST")]])
    (_, _, headers), = web.requests[seen:]
    assert not [name for name in headers if "method" in name.lower()], headers


def test_e42_hop_by_hop(instance, alice, profile, web):
    port, seen = web.server_port, len(web.requests)
    more = ("Connection: x-mine, Keep-Alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: Basic c2VjcmV0\r\n"
            "Proxy-Connection: keep-alive\r\nTE: trailers\r\nX-Kept: 1\r\n")
    talk(instance, alice, profile, [[absolute(f"allowed.test:{port}", more=more)]])
    (_, _, headers), = web.requests[seen:]
    names = {name.lower() for name in headers}
    assert "x-kept" in names and not names & {"x-mine", "keep-alive", "proxy-authorization", "proxy-connection", "te"}, headers


def test_e43_redirects(instance, alice, profile, web):
    seen, before = len(web.requests), instance.head()
    done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "curl", "-sSL", "-o", "/dev/null", "-w", "%{http_code}",
                        f"http://allowed.test:{web.server_port}/redirect", cwd=alice.workspace())
    assert done.stdout == "403" and [path for _, path, _ in web.requests[seen:]] == ["/redirect"]
    assert [(row["host"], row["verdict"]) for row in rows_of(instance, before)] == [("allowed.test", "allow"), ("evil.test", "deny")]


def test_e45_other_resolvers(assert_refused, instance, alice, make_profile):
    """Over HTTPS and TLS, by address and by name: like any other destination, and not among the standard ports."""
    assert_refused([connect(target) for target in ("1.1.1.1:443", "8.8.8.8:443", "dns.google:443", "cloudflare-dns.com:443", "1.1.1.1:853",
                                            "[2606:4700:4700::1111]:853")], wanted=(403,))
    assert_refused([connect("allowed.test:853")], wanted=(403,),
            profile=make_profile([{"id": "t", "action": "allow", "host": "allowed.test"}]))
    # A default opens none of those that are known, nor the port.
    assert_refused([connect(f"{target}:443") for target in ("dns.google", "mozilla.cloudflare-dns.com", "DNS.quad9.net.", "mask.icloud.com")] +
            [connect("allowed.test:853"), connect("1.1.1.1:853")],
            wanted=(403,), profile=make_profile(network={"default": "allow"}))


def test_e45_curl_asks_over_https(instance, alice, profile, dns, web):
    """The name is looked up by nobody else, by whatever way curl is told to ask: the proxy, and without one."""
    before, asked, seen = instance.head(), len(dns.questions), len(web.requests)
    for options in ((), ("--noproxy", "*")):
        done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "curl", "-sS", "-m", "20", *options, "--doh-insecure", "--doh-url",
                            "https://1.1.1.1/dns-query", f"http://secret.evil.test:{web.server_port}/", cwd=alice.workspace())
        assert done.stdout == "" or "denied" in done.stdout, done.stdout
    assert {row["verdict"] for row in rows_of(instance, before)} == {"deny"}
    assert "1.1.1.1" in {address_of(row) for row in rows_of(instance, before)} and len(web.requests) == seen
    assert len(dns.questions) == asked


def test_e46_quota_of_a_tunnel(instance, alice, make_profile, sink):  # noqa: F811
    with Inside(instance, alice, make_profile([rule("allowed.test", sink.port, protocol="tcp", max_upload="10M")])) as inside:
        before, i = instance.head(), sink.accepted
        inside("open", "a", "connect", "allowed.test", sink.port)
        inside("fill", "a", 11_000_000)
        inside("rest", "a")
    assert eventually(lambda: i in sink.ended, 20) and len(sink.got[i]) == 10 * 1024 * 1024
    row = rows_of(instance, before)[0]
    closes = eventually(lambda: [c for c in instance.closes(before) if c["conn_seq"] == row["seq"]], 20)
    assert [c["reason"] for c in closes] == ["max-upload"]


# ---- F, and what all entries share ----

def test_e67_own_door(assert_refused, make_profile):
    assert_refused([connect(f"{address}:{port}") for address in ("127.0.0.1", "10.0.2.3", "[fd00:5a::3]", "10.0.2.15")
             for port in (3128, 15001)], wanted=(400, 403), profile=make_profile(EVERYTHING))


def test_e74_control_bytes(instance, alice, profile, web):
    """What the log shows of them is escaped."""
    before = instance.head()
    ask(instance, alice, profile, [five(b"a\x1b[2J\x07\xe2\x80\xae.wild.test", web.server_port),
                                   absolute(f"evil.test:{web.server_port}", "/\x1b]0;x")])
    assert rows_of(instance, before)
    for options in ((), ("--json",)):
        done = instance.ctl(alice, "audit", "log", "-n", "20", *options)
        assert done.returncode == 0 and not set(done.stdout) & {"\x1b", "\x07", "\u202e"}


def test_e80_no_variables(instance, alice, profile, web):
    """A program that is told to ask no proxy has no other way."""
    port, seen = web.server_port, len(web.requests)
    script = (f"env -i /usr/bin/curl -s -m 9 -o /dev/null -w '%{{http_code}} ' http://evil.test:{port}/; "
              f"NO_PROXY='*' no_proxy='*' curl -s -m 9 -o /dev/null -w '%{{http_code}} ' http://evil.test:{port}/; "
              f"env -i /usr/bin/python3 -c 'import urllib.request as u; u.urlopen(\"http://evil.test:{port}/\")' 2>/dev/null || echo no")
    done = instance.ctl(alice, "run", "-T", "-p", profile, "--", "sh", "-c", script, cwd=alice.workspace(), timeout=120)
    assert done.stdout.split() == ["403", "403", "no"] and len(web.requests) == seen
