"""Programs that resolve names and connect to what they got, on an internet of the tests' own, in both ways that the kernel
has to bring them to us. Numbers (E16 …) are those of the catalogue of bypasses."""

import contextlib
import os
import socket
import ssl
import subprocess

import pytest

import internet as internets
import machine
import stubs
from internet import OTHER_V4, V4, V6
from test_dns import AAAA, PTR, A, ask_all, encode, question
from test_transparent import BARE, SPEAK, Tcp, speaks_first, speaks_tls

NAMES = {
    "web.test": [V4, V6],
    "six.test": [V6],
    "twin.test": [V4],
    "inner.test": ["10.77.0.1", "127.0.0.1", "169.254.169.254"],
    "partly.test": ["10.77.0.1", V4],
    "many.test": [OTHER_V4, V4], "pooled.test": ["28.0.0.1"],
}


class World:
    def __init__(self, net, folder, git_root):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=t", "-keyout",
                        f"{folder}/key", "-out", f"{folder}/cert"], check=True, stderr=subprocess.DEVNULL)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/cert", f"{folder}/key")
        both = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
        self.net = net
        self.dns = net.home.make(stubs.DnsStub, dict(NAMES))
        self.web = [net.world.make(stubs.HttpStub, git_root=git_root, address=any_address, port=80)
                    for _, any_address in both[:1]]
        self.web6 = net.world.make(stubs.HttpStub, address="::", port=8080)
        self.ssh = [net.world.make(Tcp, family, 22, speaks_first) for family, _ in both]
        self.tls = [net.world.make(Tcp, family, 443, speaks_tls(context)) for family, _ in both]

    def heard(self):
        return [len(server.heard) for server in self.ssh + self.tls] + [len(self.web[0].requests), len(self.web6.requests)]

    def close(self):
        self.dns.close()
        for server in [*self.web, self.web6]:
            server.close()
        for server in self.ssh + self.tls:
            server.sock.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory, git_root):
    with internets.internet() as net, contextlib.closing(World(net, tmp_path_factory.mktemp("tls"), git_root[0])) as found:
        yield found


@pytest.fixture(scope="module", params=["TPROXY", "sk_lookup"])
def place(request, world):
    running = machine.Instance(settings={"resolver": {"servers": [f"127.0.0.1:{world.dns.port}"]}})
    running.prefix = ["nsenter", f"--net={world.net.home.path}"]
    environment = machine.without("nft") if request.param == "sk_lookup" else {}
    try:
        running.start(environment=environment)
        yield running
        assert running.process.poll() is None, "the daemon has died: " + running.log_text()[-4000:]
    finally:
        running.remove()


def rule(host, *ports, protocol="any", name="t"):
    return {"id": name, "action": "allow", "host": host, "ports": list(ports), "protocol": protocol}


@pytest.fixture(scope="module")
def some(make_profile):
    return make_profile([rule("web.test", 80, 443), rule("web.test", 22, protocol="tcp", name="ssh"), rule("six.test", 8080),
                         rule("inner.test", 80), rule("partly.test", 80), rule("moving.test", 80)],
                        network={"default": "deny"})


def run(place, user, profile, *command, **more):
    more.setdefault("cwd", user.workspace())
    return place.ctl(user, "run", "-q", "-T", "-p", profile, "--", *BARE, *command, **more)


def python(place, user, profile, script, *arguments):
    done = run(place, user, profile, "python3", "-c", script, *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


SERVERS = ["8.8.8.8", "1.1.1.1", "127.0.0.53", "10.0.2.15", "192.168.1.1", "169.254.169.254", "2001:4860:4860::8888", "::1"]


@pytest.mark.parametrize("way", ["udp", "tcp"])
def test_e49_every_server_is_ours(place, either, some, world, way):
    """E49: also those that there are."""
    before, questions = place.head(), len(world.dns.questions)
    found = ask_all(place, either, some, [(server, way, question(name, kind)) for server in SERVERS
                                          for name, kind in (("web.test", A), ("web.test", AAAA), ("evil.test", A))])
    assert [a and a.addresses for a in found] == [["28.0.0.1"], ["3ffe::1"], []] * len(SERVERS)
    assert {a.code for a in found[2::3]} == {3}
    assert {name for name, _ in world.dns.questions[questions:]} == {"web.test"}
    assert not place.rows(before, kind="net")


def test_programs(place, caller, some, world, git_root):
    """No rule names an address, and no program a proxy."""
    before, folder = place.head(), caller.workspace()
    done = run(place, caller, some, "curl", "-sS", "http://web.test/")
    assert done.stdout == "hello from the test server\n", done.stderr
    done = run(place, caller, some, "curl", "-sSk", "https://web.test/")
    assert done.stdout == "tls\n", done.stderr
    done = run(place, caller, some, "curl", "-sS", "http://six.test:8080/")
    assert done.stdout == "hello from the test server\n", done.stderr
    done = run(place, caller, some, "git", "clone", "-q", "http://web.test/repo.git", "copy", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run(place, caller, some, "node", "-e", "fetch('http://web.test/').then(r => r.text()).then(console.log)")
    assert "hello" in done.stdout, done.stderr
    assert python(place, caller, some, SPEAK, "web.test").splitlines() == ["SSH-2.0-server", "you said SSH-2.0-client"]
    rows = place.rows(before, kind="net")
    assert {(r["entry"], r["verdict"]) for r in rows} == {("transparent", "allow")}
    assert {r["host"] for r in rows} == {"web.test", "six.test"}
    assert {(r["host"], r["verdict"]) for r in place.rows(before, kind="dns")} == {("web.test", "allow"), ("six.test", "allow")}


def test_denied_ports(place, alice, some, world):
    """The name exists; what may be spoken with it, and where, is decided then."""
    before, heard = place.head(), world.heard()
    done = run(place, alice, some, "curl", "-sS", "-i", "http://web.test:8080/")
    assert done.stdout.startswith("HTTP/1.1 403"), done.stdout + done.stderr
    assert python(place, alice, some, SPEAK, "six.test").split() == ["reset"]
    assert [(r["host"], r["port"], r["verdict"]) for r in place.rows(before, kind="net")] == \
        [("web.test", 8080, "deny"), ("six.test", 22, "deny")]
    assert world.heard() == heard


def test_e19_shared_addresses(place, alice, some, world):
    """E19, E21: twin.test is where web.test is, and no rule names it."""
    before, heard, questions = place.head(), world.heard(), len(world.dns.questions)
    script = """getent ahostsv4 web.test >/dev/null
        curl -sSk --resolve twin.test:443:28.0.0.1 https://twin.test/
        curl -sS -o /dev/null -w '%{http_code} ' -H 'Host: twin.test' http://web.test/
        curl -sS -o /dev/null -w '%{http_code} ' http://twin.test/"""
    done = run(place, alice, some, "sh", "-c", script)
    assert "tls" not in done.stdout and done.stdout.split() == ["400", "000"], done.stdout + done.stderr
    assert "alert" in done.stderr
    # E20: its real address is nobody's without a rule for it.
    done = run(place, alice, some, "curl", "-sS", "-i", "--resolve", f"web.test:80:{V4}", "http://web.test/")
    assert done.stdout.startswith("HTTP/1.1 403")
    assert world.heard() == heard
    assert "twin.test" not in {name for name, _ in world.dns.questions[questions:]}
    assert ("twin.test", "deny") in {(r["host"], r["verdict"]) for r in place.rows(before, kind="dns")}


def test_e17_names_that_lead_inside(place, alice, some, world):
    """E16, E17: an address of the pool says nothing; what the name leads to is judged with each connection."""
    before = place.head()
    done = run(place, alice, some, "sh", "-c", "getent ahostsv4 inner.test; curl -sS -i http://inner.test/; curl -sS http://partly.test/")
    assert done.stdout.startswith("28.0.0.1 ") and "HTTP/1.1 403" in done.stdout, done.stdout + done.stderr
    assert done.stdout.endswith("hello from the test server\n")
    rows = place.rows(before, kind="net", host="inner.test")
    assert [(r["action"], r["verdict"]) for r in rows] == [("connect", "allow"), ("refuse", "deny")]


def test_e16_names_that_move(place, alice, some, world):
    """E16: resolved anew for each connection, and never twice for one."""
    session = place.create(alice, "-p", some)

    def get():
        return place.ctl(alice, "exec", session, "--", *BARE, "curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}",
                         "http://28.0.0.1/", "-H", "Host: moving.test").stdout

    world.dns.names["moving.test"] = [V4]
    try:
        found = place.ctl(alice, "exec", session, "--", "getent", "ahostsv4", "moving.test").stdout
        assert found.startswith("28.0.0.1 ")
        questions = len(world.dns.questions)
        assert get() == "200"
        assert sorted(world.dns.questions[questions:]) == [("moving.test", A), ("moving.test", AAAA)]
        world.dns.names["moving.test"] = ["127.0.0.1"]
        assert get() == "403"
        world.dns.names["moving.test"] = [OTHER_V4]
        assert get() == "200"
    finally:
        del world.dns.names["moving.test"]
        place.ctl(alice, "remove", "--force", session)


# ---- real addresses ----

@pytest.fixture(scope="module")
def real(make_profile):
    return make_profile([rule("web.test", 80, 443), rule("web.test", 22, protocol="tcp", name="ssh"),
                         rule("twin.test", 80, 443, name="twin"), rule("six.test", 8080), rule("inner.test", 80),
                         rule("partly.test", 80), rule("moving.test", 80), rule("many.test", 80), rule("pooled.test", 80),
                         {"id": "q", "action": "ask", "host": "ask.test"}], network={"default": "deny", "dns": "real"})


def reverse(address):
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def test_e17_e51_real_addresses_are_told(place, alice, real, world):
    """E17: those that a connection could be made to, in an order of our own; where there are none, one that stands for the
    name, so that the connection says why. An address that stands for another name is told for none."""
    before, questions = place.head(), len(world.dns.questions)
    names = ["many.test", "web.test", "six.test", "twin.test", "partly.test", "inner.test", "ask.test", "pooled.test", "evil.test"]
    found = ask_all(place, alice, real, [("127.0.0.1", "udp", question(name, kind)) for name in names for kind in (A, AAAA)] +
                    [("8.8.8.8", "tcp", question(reverse(V4), PTR)), ("127.0.0.1", "udp", question(reverse("93.184.216.99"), PTR))])
    assert [a.addresses for a in found[:-2]] == [[V4, OTHER_V4], [], [V4], [V6], [], [V6], [V4], [], [V4], [], ["28.0.0.1"], [], ["28.0.0.2"], [],
                                                 ["28.0.0.3"], [], [], []]
    assert [found[-2].records[0][2], found[-1].code] == [encode("partly.test"), 3]
    assert {name for name, _ in world.dns.questions[questions:]} == set(names) - {"ask.test", "evil.test"}
    assert {(r["host"], r["verdict"]) for r in place.rows(before, kind="dns") if r["method"] == "A"} == \
        {(name, {"ask.test": "ask", "evil.test": "deny"}.get(name, "allow")) for name in names}


def test_programs_with_real_addresses(place, caller, real, world):
    """The name decides, resolved anew, and is what the row says."""
    before = place.head()
    script = """curl -sS -w '%{remote_ip} ' http://web.test/; curl -sSk https://web.test/; curl -sS http://six.test:8080/
        node -e "fetch('http://web.test/').then(r => r.text()).then(t => console.log('node', t))"
        curl -sS -o /dev/null -w '%{http_code}' http://web.test:8080/"""
    done = run(place, caller, real, "sh", "-c", script)
    hello = "hello from the test server\n"
    assert done.stdout.replace("::ffff:", "") in [f"{hello}{ip} tls\n{hello}node {hello}\n403" for ip in (V4, V6)], done.stderr
    assert python(place, caller, real, SPEAK, "web.test").splitlines() == ["SSH-2.0-server", "you said SSH-2.0-client"]
    rows = place.rows(before, kind="net", action="connect")
    assert {(r["entry"], r["host"], r["verdict"]) for r in rows} == \
        {("transparent", "web.test", "allow"), ("transparent", "six.test", "allow"), ("transparent", "web.test", "deny")}


def test_e19_real_addresses_that_names_share(place, alice, real, world):
    """E19: the first bytes say which name is meant, whichever was asked for last; where they say none, it is the last."""
    before = place.head()
    script = f"""getent ahostsv4 web.test >/dev/null; getent ahostsv4 twin.test >/dev/null
        curl -sSk --resolve web.test:443:{V4} https://web.test/; curl -sSk --resolve twin.test:443:{V4} https://twin.test/
        getent ahostsv4 web.test >/dev/null
        curl -sS --resolve twin.test:80:{V4} http://twin.test/; curl -sS --resolve web.test:80:{V4} http://web.test/"""
    session = place.create(alice, "-p", real)
    done = place.ctl(alice, "exec", session, "--", *BARE, "sh", "-c", script)
    assert done.stdout == "tls\ntls\n" + "hello from the test server\n" * 2, done.stderr
    assert [r["host"] for r in place.rows(before, kind="net", action="connect")] == ["web.test", "twin.test", "twin.test", "web.test"]
    for last, said in (("web.test", ["SSH-2.0-server", "you", "said", "SSH-2.0-client"]), ("twin.test", ["reset"])):
        place.ctl(alice, "exec", session, "--", "getent", "ahostsv4", last)
        done = place.ctl(alice, "exec", session, "--", *BARE, "python3", "-c", SPEAK, V4)
        assert done.stdout.split() == said, done.stderr
    place.ctl(alice, "remove", "--force", session)


def test_e20_e21_real_addresses_open_nothing(place, alice, real, world):
    """E19, E20, E21: an address is no more than a way to say a name: another name there is denied as before, and so is an
    address that nobody was told."""
    before, heard, questions = place.head(), world.heard(), len(world.dns.questions)
    script = f"""curl -sS -o /dev/null -w '%{{http_code}} ' --resolve web.test:80:{V4} http://web.test/
        getent ahostsv4 web.test >/dev/null
        curl -sSk --resolve evil.test:443:{V4} https://evil.test/
        curl -sS -o /dev/null -w '%{{http_code}} ' --resolve evil.test:80:{V4} http://evil.test/
        curl -sS -o /dev/null -w '%{{http_code}} ' --resolve web.test:80:{OTHER_V4} http://web.test/
        getent ahostsv4 twin.test >/dev/null
        curl -sSk --resolve evil.test:443:{V4} https://evil.test/
        curl -sS -o /dev/null -w '%{{http_code}} ' --resolve evil.test:80:{V4} http://evil.test/"""
    done = run(place, alice, real, "sh", "-c", script)
    assert done.stdout.split() == ["403", "400", "403", "400"], done.stdout + done.stderr
    assert done.stderr.count("alert") == 2
    assert world.heard() == heard and "evil.test" not in {name for name, _ in world.dns.questions[questions:]}
    assert {r["verdict"] for r in place.rows(before, kind="net", action="request")} <= {"deny"}


def test_e16_real_addresses_that_move(place, alice, real, world):
    """E16: where the name leads now, not where it led when the program was told; an inner address is none."""
    session = place.create(alice, "-p", real)
    before = place.head()

    def get():
        return place.ctl(alice, "exec", session, "--", *BARE, "curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}",
                         f"http://{V4}/", "-H", "Host: moving.test").stdout

    world.dns.names["moving.test"] = [V4]
    try:
        assert place.ctl(alice, "exec", session, "--", "getent", "ahostsv4", "moving.test").stdout.startswith(V4)
        world.dns.names["moving.test"] = [OTHER_V4]
        assert get() == "200"
        world.dns.names["moving.test"] = ["127.0.0.1"]
        assert get() == "403"
    finally:
        del world.dns.names["moving.test"]
        place.ctl(alice, "remove", "--force", session)
    machine.eventually(lambda: [row for row in place.closes(before) if row["session"] == session])
    assert [socket.inet_ntoa(row["ip"]) for row in place.closes(before) if row["session"] == session] == [OTHER_V4]
