"""Connections of programs that know nothing of a proxy: each is decided and recorded like one that asks for it, whichever
way the kernel has to bring them to the door."""

import base64
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

import internet as internets
import machine
import stubs
from internet import OTHER_V4, OTHER_V6, THIRD_V4, V4, V6
from machine import READ_ALL, eventually

BARE = ["env", "-u", "http_proxy", "-u", "https_proxy", "-u", "all_proxy", "-u", "HTTP_PROXY", "-u", "HTTPS_PROXY", "-u",
        "ALL_PROXY", "-u", "NODE_USE_ENV_PROXY"]


class Tcp:
    """A server for one address family; `answer` gets each connection. heard: what each client sent first."""

    def __init__(self, family, port, answer):
        self.sock = socket.socket(family)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.sock.bind(("::" if family == socket.AF_INET6 else "", port))
        self.sock.listen(64)
        self.answer, self.accepted, self.heard = answer, 0, []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.sock.accept()
                self.accepted += 1
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with connection, contextlib.suppress(OSError):
            self.answer(self, connection)


def speaks_first(server, connection):
    connection.sendall(b"SSH-2.0-server\r\n")
    line = connection.makefile("rb").readline()
    if line:
        server.heard.append(line)
    connection.sendall(b"you said " + line)


def speaks_tls(context):
    def answer(server, connection):
        with context.wrap_socket(connection, server_side=True) as tls:
            server.heard.append(tls.recv(4096))
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ntls\n")
    return answer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=t", "-keyout",
                    path / "key", "-out", path / "cert"], check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / "cert", path / "key")
    return context


NAMES = {"allowed.test": [V4, V6], "evil.test": [V4], "sub.wild.test": [V4], "a.b.wild.test": [V4], "wild.test": [V4],
         "evilwild.test": [V4], "private.test": ["10.77.0.2"], "metadata.test": ["169.254.169.254"],
         "mixed.test": ["169.254.169.254", V4], "denied.wild.test": [V4], "six.test": [V6], "a_b.test": [V4],
         **{name: [V4] for name in ("some.test", "raw.test", "half.test", "but.test", "none.test")}}


class World:
    def __init__(self, net, context, git_root):
        both = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
        self.net = net
        self.dns = net.home.make(stubs.DnsStub, NAMES)
        self.web = [net.world.make(stubs.HttpStub, git_root=git_root, address=any_address, port=80 if i == 0 else 8080)
                    for i, (_, any_address) in enumerate(both)]
        self.ssh = [net.world.make(Tcp, family, 22, speaks_first) for family, _ in both]
        self.tls = [net.world.make(Tcp, family, 443, speaks_tls(context)) for family, _ in both]
        self.git = subprocess.Popen(["nsenter", f"--net={net.world.path}", "git", "-c", "safe.directory=*", "daemon",
                                     f"--base-path={git_root}", "--export-all", "--reuseaddr", git_root],
                                    stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def close(self):
        self.dns.close()
        for server in self.web:
            server.close()
        for server in self.ssh + self.tls:
            server.sock.close()
        os.killpg(self.git.pid, 15)
        self.git.wait()


@pytest.fixture(scope="module")
def world(certificate, git_root):
    with internets.internet() as net:
        found = World(net, certificate, git_root[0])
        yield found
        found.close()


@pytest.fixture(scope="module", params=["TPROXY", "sk_lookup"])
def place(request, world):
    """A daemon on the test's internet, on a kernel with nftables and on one without."""
    running = machine.Instance(settings={"resolver": {"servers": [f"127.0.0.1:{world.dns.port}"]}})
    running.prefix = ["nsenter", f"--net={world.net.home.path}"]
    environment = machine.without("nft") if request.param == "sk_lookup" else {}
    running.kind = request.param
    try:
        running.start(environment=environment)
        yield running
        assert running.process.poll() is None, "the daemon has died: " + running.log_text()[-4000:]
    finally:
        running.remove()


def rule(cidr, *ports, protocol="any", action="allow", name="t"):
    return {"id": name, "action": action, "cidr": cidr, "ports": list(ports), "protocol": protocol}


@pytest.fixture(scope="module")
def some(make_profile):
    return make_profile([rule(V4 + "/32", 80, 443), rule(V6 + "/128", 8080, 443, name="six"),
                         rule(V4 + "/32", 22, 9418, protocol="tcp", name="opaque"),
                         rule(V6 + "/128", 22, protocol="tcp", name="opaque6"),
                         rule(THIRD_V4 + "/32", 22, name="web")])


def run(place, user, profile, *command, options=(), **more):
    more.setdefault("cwd", user.workspace())
    return place.ctl(user, "run", "-q", "-T", "-p", profile, *options, "--", *BARE, *command, **more)


def net_rows(place, after, **equal):
    return place.rows(after, kind="net", **equal)


def python(place, user, profile, script, *arguments, **more):
    done = run(place, user, profile, "python3", "-c", script, *map(str, arguments), **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_doctor_says_which(place, root):
    checks = [json.loads(line) for line in place.ctl(root, "doctor", "--json").stdout.splitlines()]
    check, = [check for check in checks if check["name"] == "network-redirect"]
    assert check["state"] == "ok" and f"by {place.kind};" in check["message"], check
    assert check["message"].endswith("refused and recorded"), check


@pytest.mark.parametrize("url, address, port", [(f"http://{V4}/", V4, 80), (f"http://[{V6}]:8080/", V6, 8080)],
                         ids=["v4", "v6"])
def test_http(place, caller, some, url, address, port):
    before = place.head()
    done = run(place, caller, some, "curl", "-sS", url)
    assert done.stdout == "hello from the test server\n", done.stderr
    rows = net_rows(place, before)
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    assert [(r["entry"], r["protocol"], r["action"], r["verdict"], r["ip"], r["port"]) for r in rows] == \
        [("transparent", "any", "connect", "allow", raw, port), ("transparent", "http", "request", "allow", raw, port)]
    assert rows[1]["method"] == "GET" and rows[0]["uid"] == caller.uid
    closes = eventually(lambda: [c for c in place.closes(before) if c["conn_seq"] == rows[0]["seq"]])
    assert len(closes) == 1 and closes[0]["bytes_dn"] > 100


def test_clients(place, alice, some, git_root):
    """Programs of all kinds, none of which is told of a proxy."""
    before, folder = place.head(), alice.workspace()
    out = python(place, alice, some, "import urllib.request, sys\n"
                 "print(urllib.request.urlopen(sys.argv[1]).read().decode())", f"http://{V4}/python")
    assert "hello" in out
    done = run(place, alice, some, "node", "-e",
               f"fetch('http://{V4}/node').then(r => r.text()).then(t => process.stdout.write(t))")
    assert "hello" in done.stdout, done.stderr
    done = run(place, alice, some, "git", "clone", "-q", f"git://{V4}/repo.git", "copy", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run(place, alice, some, "git", "clone", "-q", f"http://{V4}/repo.git", "copy2", cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in ("copy", "copy2"):
        done = run(place, alice, some, "git", "-C", name, "rev-parse", "HEAD", cwd=folder)
        assert done.stdout.strip() == git_root[1]
    done = run(place, alice, some, "curl", "-sSk", f"https://{V4}/")
    assert done.stdout == "tls\n", done.stderr
    rows = net_rows(place, before)
    assert {r["verdict"] for r in rows} == {"allow"} and {r["entry"] for r in rows} == {"transparent"}
    assert {(r["protocol"], r["port"]) for r in rows if r["action"] == "connect"} == \
        {("any", 80), ("any", 443), ("tcp", 9418)}


SPEAK = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], 22), 20)
    f = s.makefile("rb")
    print(f.readline().decode().strip())
    s.sendall(b"SSH-2.0-client\\r\\n")
    print(f.readline().decode().strip())
except ConnectionResetError:
    print("reset")
"""


def test_servers_that_speak_first(place, either, some, world):
    """Only a rule for tcp lets them."""
    for address in (V4, V6):
        assert python(place, either, some, SPEAK, address).splitlines() == \
            ["SSH-2.0-server", "you said SSH-2.0-client"]
    before, heard = place.head(), [len(server.heard) for server in world.ssh]
    assert python(place, either, some, SPEAK, THIRD_V4).splitlines()[-1] == "reset"
    rows = net_rows(place, before)
    # The port is allowed for HTTP and TLS; what comes is neither.
    assert [(r["action"], r["verdict"], r["reason"]) for r in rows] == [("connect", "allow", "rule"),
                                                                        ("request", "deny", "malformed")]
    assert [len(server.heard) for server in world.ssh] == heard


def readiness(pid):
    """Nanoseconds for which it had the processor or waited for it; none is left of one that is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/schedstat", encoding="ascii") as f:
        return sum(map(int, f.read().split()[:2]))
    return 0


def test_who_has_begun_to_speak_costs_nothing(place, alice, some):
    """The beginning of a hello, and a server that speaks meanwhile: the worker waits, and is not called again and again."""
    script = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 3128))
s.sendall(f"CONNECT {sys.argv[1]}:22 HTTP/1.1\\r\\nHost: {sys.argv[1]}:22\\r\\n\\r\\n".encode() + b"\\x16\\3\\1\\1\\0")
print(s.recv(1000).split()[1].decode(), flush=True)
sys.stdin.read()
"""
    child = place.ctl_start(alice, "run", "-q", "-T", "-p", some, "--", *BARE, "python3", "-c", script, THIRD_V4, cwd=alice.workspace(),
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "200\n"
        shares = {pid: [] for pid in place.workers("sandboxd-egress")}
        for _ in range(20):
            began, before = time.monotonic_ns(), {pid: readiness(pid) for pid in shares}
            time.sleep(0.5)
            for pid, found in shares.items():
                found.append((readiness(pid) - before[pid]) / (time.monotonic_ns() - began))
            if max(map(min, shares.values())) < 0.5:
                break
        # One that is called again and again is always ready, on however busy a machine.
        assert max(map(min, shares.values())) < 0.5, shares
    finally:
        child.stdin.close()
        child.wait(60)


def test_client_that_speaks_first(place, alice, some):
    """As ssh does: letters, but no request."""
    script = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
    s.sendall(b"SSH-2.0-client\\r\\n")
    print(s.makefile("rb").read().decode().strip())
except ConnectionResetError:
    print("reset")
"""
    assert python(place, alice, some, script, V4, 22).split() == ["SSH-2.0-server", "you", "said", "SSH-2.0-client"]
    before = place.head()
    assert python(place, alice, some, script, V4, 80).split() == ["reset"]
    assert [(r["verdict"], r["raw"]) for r in net_rows(place, before)] == [("allow", None), ("deny", b"SSH-2.0-client\r\n")]


@pytest.mark.parametrize("address", [OTHER_V4, OTHER_V6, "169.254.169.254", "240.0.0.1", "64:ff9b::a9fe:a9fe", "10.0.2.2"])
def test_denied(place, alice, some, world, address):
    """One row each, before and instead of any connection; the refusal is in the client's words."""
    before = place.head()
    accepted = [server.accepted for server in world.web + world.tls + world.ssh]
    host = f"[{address}]" if ":" in address else address
    done = run(place, alice, some, "curl", "-sS", "-i", f"http://{host}/")
    assert done.stdout.startswith("HTTP/1.1 403") and "denied" in done.stdout, done.stdout + done.stderr
    done = run(place, alice, some, "curl", "-sSk", f"https://{host}/")
    assert done.returncode == 35 and "alert" in done.stderr, done.stderr
    assert python(place, alice, some, SPEAK, address).split() == ["reset"]
    rows = net_rows(place, before)
    assert [(r["entry"], r["action"], r["verdict"], r["port"]) for r in rows] == \
        [("transparent", "connect", "deny", port) for port in (80, 443, 22)]
    assert {r["ip"] for r in rows} == {socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)}
    assert [server.accepted for server in world.web + world.tls + world.ssh] == accepted


def test_tls_to_an_address_names_nobody(place, alice, some, world):
    """No rule says which names belong to an address."""
    before, heard = place.head(), len(world.tls[0].heard)
    done = run(place, alice, some, "curl", "-sSk", "--resolve", f"evil.test:443:{V4}", "https://evil.test/")
    assert done.returncode == 35 and "alert" in done.stderr, done.stderr
    rows = net_rows(place, before)
    assert [(r["verdict"], r["raw"]) for r in rows] == [("allow", None), ("deny", b"evil.test")]
    assert len(world.tls[0].heard) == heard
    done = run(place, alice, some, "curl", "-sS", "-i", "--resolve", f"evil.test:80:{V4}", "http://evil.test/")
    assert done.stdout.startswith("HTTP/1.1 400"), done.stdout


def test_rules_about_requests(place, alice, make_profile, world):
    """HTTP is decided request by request: methods and paths hold for programs that know no proxy."""
    path = make_profile([{**rule(V4 + "/32", 80, protocol="http"), "methods": ["GET"], "paths": ["/open/**"]}])
    before, seen, accepted = place.head(), len(world.web[0].requests), world.web[0].accepted
    script = f"""
        curl -s -o /dev/null -w '%{{http_code}} ' http://{V4}/open/x
        curl -s -o /dev/null -w '%{{http_code}} ' http://{V4}/shut
        curl -s -o /dev/null -w '%{{http_code}} ' -d x http://{V4}/open/x
        curl -s -w '%{{http_code}} ' http://{V4}/open/a http://{V4}/shut http://{V4}/open/b -o /dev/null -o /dev/null -o /dev/null
        curl -sk https://{V4}:80/ || echo "$?"
    """
    done = run(place, alice, path, "sh", "-c", script)
    assert done.stdout.split() == ["200", "403", "403", "200", "403", "200", "35"], done.stdout
    assert [(method, url) for method, url, _ in world.web[0].requests[seen:]] == \
        [("GET", "/open/x"), ("GET", "/open/a"), ("GET", "/open/b")]
    rows = net_rows(place, before)
    assert len([r for r in rows if r["action"] == "connect" and r["verdict"] == "allow"]) == world.web[0].accepted - accepted
    assert python(place, alice, path, SPEAK.replace("22", "80").replace("f.readline()", "b''", 1), V4).split()[-1] == "reset"


def test_e15_addresses_of_this_machine(place, alice, make_profile):
    """E15, E70: not by a rule for their network; so nothing of the daemon's machine is reached through it."""
    path = make_profile([rule("10.0.0.0/8", "1-65535"), rule("0.0.0.0/0", "1-65535", name="all"), rule("fd00::/8", "1-65535", name="six")])
    before = place.head()
    for host in ("10.77.0.2", "[fd77::2]", "10.77.0.2:3128", "127.0.0.1:3128"):
        explicit = ["env", "http_proxy=http://127.0.0.1:3128"] if host.startswith("127") else []
        done = run(place, alice, path, *explicit, "curl", "-sS", "-i", "--noproxy", "", f"http://{host}/")
        assert done.stdout.startswith("HTTP/1.1 403"), (host, done.stdout)
    assert {r["reason"] for r in net_rows(place, before) if r["verdict"] == "deny"} == {"address"}


def test_unreachable(place, alice, make_profile):
    """An allowed address where nobody listens."""
    path = make_profile([rule(V4 + "/32", 81, 82)])
    done = run(place, alice, path, "curl", "-sS", "-i", f"http://{V4}:81/")
    assert done.stdout.startswith("HTTP/1.1 502"), done.stdout
    assert run(place, alice, path, "curl", "-sSk", f"https://{V4}:82/").returncode == 35


def test_no_network(place, alice, some, world):
    accepted = world.web[0].accepted
    done = run(place, alice, some, "curl", "-sS", "-i", f"http://{V4}/", options=["--no-network"])
    assert done.stdout.startswith("HTTP/1.1 403") and "no network" in done.stdout, done.stdout
    assert world.web[0].accepted == accepted


def test_own_addresses_stay_inside(place, either, some):
    """What a session serves on its own addresses it reaches there, and nobody is asked."""
    script = """
import socket
for address in ("127.0.0.1", "127.9.9.9", "10.0.2.15", "::1", "fd00:5a::15"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family)
    server.bind((address, 15001 if address.startswith("127") else 8080))
    server.listen()
    client = socket.create_connection(server.getsockname()[:2], 5)
    peer, _ = server.accept()
    client.sendall(b"x")
    print(peer.recv(1).decode(), end="")
    udp = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
    udp[0].bind((address, 5353))
    udp[1].sendto(b"u", (address, 5353))
    print(udp[0].recv(1).decode(), end="")
try:
    socket.create_connection(("127.0.0.1", 9), 5)
except ConnectionRefusedError:
    print(" refused")
"""
    before = place.head()
    assert python(place, either, some, script) == "xuxuxuxuxu refused\n"
    assert not net_rows(place, before)


def test_nothing_stands_in_for_a_site(place, alice, some):
    """E68: A listener of the session on all addresses is not what a connection to another address reaches; not when it is bound
    to that very address, nor when the worker does nothing."""
    script = """
import socket, sys
for address, port in (("0.0.0.0", 8443), ("9.9.9.9", 8444)):
    server = socket.socket()
    server.bind((address, port))
    server.listen()
    server.settimeout(1)
    client = socket.create_connection(("9.9.9.9", port), 5)
    try:
        server.accept()
        print("reached itself")
    except TimeoutError:
        print("not reached")
    server.close()
"""
    assert python(place, alice, some, script).split("\n")[:2] == ["not reached"] * 2


def test_the_door_itself(place, alice, make_profile):
    """No program may ask the door for a connection to the door, whatever the rules are."""
    path = make_profile([rule("10.0.2.3/32", 15001, protocol="tcp"), rule("fd00:5a::3/128", 15001, protocol="tcp", name="b")])
    script = """
import socket, sys
for address, port in (("10.0.2.3", 15001), ("fd00:5a::3", 15001)):
    try:
        print(socket.create_connection((address, port), 10).recv(1))
    except (ConnectionResetError, ConnectionRefusedError):
        print("refused")
"""
    before = place.head()
    assert python(place, alice, path, script).split() == ["refused"] * 2
    assert [(r["verdict"], r["reason"]) for r in net_rows(place, before)] == [("deny", "malformed")] * 2


def test_datagrams_are_refused_at_once(place, either, make_profile):
    """So that QUIC falls back: whatever the rules allow."""
    path = make_profile([rule("0.0.0.0/0", "1-65535", protocol="tcp"), rule("::/0", "1-65535", protocol="tcp", name="b")])
    script = """
import socket
for address in ("93.184.216.34", "2606:2800:220:1::34", "10.1.2.3", "fe80::1%lo", "8.8.8.8"):
    for port in (443, 123, 853):
        family, *_, to = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(5)
        s.connect(to)
        try:
            s.send(b"x")
            s.recv(1)
            print("answered", address, port)
        except ConnectionRefusedError:
            pass
        except TimeoutError:
            print("silent", address, port)
print("done")
"""
    before = place.head()
    assert python(place, either, path, script) == "done\n"
    rows = eventually(lambda: (lambda found: found if len(found) >= 15 else None)(net_rows(place, before)), 20)
    assert rows, net_rows(place, before)
    assert {(r["entry"], r["protocol"], r["action"], r["verdict"], r["reason"]) for r in rows} == \
        {("udp", "udp", "request", "deny", "protocol")}
    assert {(r["ip"], r["port"]) for r in rows} == {
        (socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address), port)
        for address in (V4, V6, "10.1.2.3", "fe80::1", "8.8.8.8") for port in (443, 123, 853)}


def test_bursts_of_datagrams_are_counted(place, alice, some):
    """Rows say how many there were, and there are few of them, however many destinations."""
    script = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(3000):
    s.sendto(b"x", ("93.184.216.34", 443))
    s.sendto(b"x", (f"93.184.{i % 250}.1", 1000 + i % 100))
time.sleep(2)
s.sendto(b"x", ("93.184.216.34", 443))  # its number tells how many were lost
time.sleep(1.5)
"""
    before = place.head()
    python(place, alice, some, script)
    rows = net_rows(place, before)
    counts = [json.loads(r["detail"])["count"] if r["detail"] else 1 for r in rows]
    # What netfilter drops it numbers; a ring that is full does not.
    assert len(rows) < 200 and (sum(counts) == 6001 or (place.kind == "sk_lookup" and 100 < sum(counts) < 6001)), sum(counts)
    assert sum(n for n, r in zip(counts, rows) if r["port"] == 443) >= 1


def test_a_source_of_ones_own(place, alice, some):
    """E66: A program may call itself what it likes inside; the row names its session all the same."""
    script = """
import socket, sys
s = socket.socket()
s.settimeout(10)
s.bind(("8.8.8.8", 0))
s.connect((sys.argv[1], 80))
s.sendall(b"GET / HTTP/1.1\\r\\nHost: " + sys.argv[1].encode() + b"\\r\\nConnection: close\\r\\n\\r\\n")
print(s.makefile("rb").read().decode())
"""
    before = place.head()
    assert "hello from the test server" in python(place, alice, some, script, V4)
    assert {r["verdict"] for r in net_rows(place, before)} == {"allow"}


def test_no_state_of_connections(place, alice, some, world):
    """E71: nothing is tracked: not inside, and nothing at all is asked of the network around the daemon."""
    process = place.ctl_start(alice, "run", "-q", "-T", "-p", some, "--", *BARE, "sh", "-c",
                              f"curl -sS http://{V4}/; sleep 60", cwd=alice.workspace(), stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline()
        inits = place.workers("sandbox-init")
        counts = [subprocess.run(["nsenter", "-n", "-t", str(pid), "sh", "-c",
                                  "cat /proc/sys/net/netfilter/nf_conntrack_count 2>/dev/null || echo 0"],
                                 stdout=subprocess.PIPE, text=True, check=True).stdout.strip() for pid in inits]
        assert counts and set(counts) == {"0"}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


TARGETS = READ_ALL + """
results = []
for address, port, door in json.load(sys.stdin):
    host = f"[{address}]" if ":" in address else address
    request = f"GET / HTTP/1.1\\r\\nHost: {host}:{port}\\r\\nConnection: close\\r\\n\\r\\n".encode()
    six = ":" in address
    raw = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, address)
    if door == "transparent":
        s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
        s.connect((address, port))
        s.sendall(request)
    else:
        s = socket.create_connection(("127.0.0.1", 3128))
        if door == "connect":
            s.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode() + request)
        elif door == "absolute":
            s.sendall(request.replace(b"GET /", f"GET http://{host}:{port}/".encode()))
        elif door == "socks5":
            s.sendall(b"\\5\\1\\0\\5\\1\\0" + (b"\\4" if six else b"\\1") + raw + port.to_bytes(2, "big") + request)
        else:
            s.sendall(b"\\4\\1" + port.to_bytes(2, "big") + raw + b"\\0" + request)
    results.append(b"hello from" in read(s))
    s.close()
json.dump(results, sys.stdout)
"""


def test_every_door_gives_the_same_verdict(place, alice, make_profile):
    path = make_profile([rule("93.184.216.0/24", 80), rule(OTHER_V4 + "/32", 80, action="deny", name="no"),
                         rule("93.184.216.64/26", 22, protocol="tcp", name="tcp"),
                         rule("2606:2800:220:1::/64", 8080, name="six"), rule("0.0.0.0/0", 81, name="wide"),
                         rule("10.0.0.0/8", 82, name="inside"), rule("169.254.0.0/16", 80, name="link")])
    targets = [(f"93.184.216.{n}", 80) for n in (0, 1, 34, 35, 36, 255)] + [("93.184.217.1", 80), ("93.184.215.255", 80)]
    targets += [(f"2606:2800:220:1::{n}", 8080) for n in ("0", "34", "35")] + [("2606:2800:220:2::34", 8080), (V6, 80)]
    targets += [(address, 81) for address in
                ("93.184.216.34", "10.0.2.2", "172.16.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1",
                 "169.254.169.254", "192.88.99.1", "168.63.129.16", "0.1.2.3", "255.255.255.254", "77.0.0.1")]
    targets += [("169.254.169.254", 80), ("169.254.1.1", 80), ("10.77.0.2", 82), ("11.0.0.1", 82), ("9.9.9.9", 80), (V4, 443),
                ("2002:5db8:d822::1", 8080), ("64:ff9b::5db8:d822", 8080), ("fec0::1", 8080), ("2001:db8::1", 8080)]
    assert len(set(targets)) >= 36
    verdicts, content = {}, {}
    for door in ("connect", "absolute", "socks5", "socks4", "transparent"):
        mine = [target for target in targets if door != "socks4" or ":" not in target[0]]
        before = place.head()
        done = run(place, alice, path, "python3", "-c", TARGETS, timeout=300,
                   input=json.dumps([[*target, door] for target in mine]))
        assert done.returncode == 0, done.stderr
        for target, has in zip(mine, json.loads(done.stdout)):
            content.setdefault(target, set()).add(has)
        rows = net_rows(place, before)
        for address, port in mine:
            raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
            found = [r for r in rows if r["ip"] == raw and r["port"] == port and r["action"] != "refuse"]
            assert found, (door, address, port)
            verdicts.setdefault((address, port), set()).add((found[0]["verdict"], found[0]["reason"]))
    assert all(len(found) == 1 for found in verdicts.values()), verdicts
    assert all(len(found) == 1 for found in content.values()), content
    assert {verdict for found in verdicts.values() for verdict, _ in found} == {"allow", "deny"}
    assert sum(True in found for found in content.values()) >= 7


NAMED = READ_ALL + """
results = []
def connect(host, port, method, path, door):
    rest = f"Host: {host}:{port}\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n"
    request = f"{method} {path} HTTP/1.1\\r\\n{rest}".encode()
    if door == "transparent":
        try:
            s = socket.create_connection((host, port), 20)
        except (socket.gaierror, UnicodeError):
            return b""
        s.sendall(request)
        return read(s)
    s = socket.create_connection(("127.0.0.1", 3128))
    if door == "connect":
        s.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode() + request)
    elif door == "absolute":
        s.sendall(f"{method} http://{host}:{port}{path} HTTP/1.1\\r\\n{rest}".encode())
    elif door == "socks5":
        s.sendall(b"\\5\\1\\0\\5\\1\\0\\3" + bytes([len(host)]) + host.encode() + port.to_bytes(2, "big") + request)
    else:
        s.sendall(b"\\4\\1" + port.to_bytes(2, "big") + b"\\0\\0\\0\\1\\0" + host.encode() + b"\\0" + request)
    return read(s)
for target in json.load(sys.stdin):
    results.append(b" 200 OK" in connect(*target))
json.dump(results, sys.stdout)
"""


def test_every_door_gives_the_same_verdict_on_names(place, alice, make_profile):
    def named(host, *ports, action="allow", name="n", **more):
        return {"id": name, "action": action, "host": host, "ports": list(ports), **more}

    path = make_profile([named("allowed.test", 80), named("*.wild.test", 80, name="wild"), named("mixed.test", 80, name="mixed"),
                         named("denied.wild.test", 80, action="deny", name="no"), named("private.test", 80, name="private"),
                         named("metadata.test", 80, name="metadata"), named("six.test", 8080, name="six"),
                         named("nowhere.test", 80, name="nowhere"), named("a_b.test", 80, name="underscore"),
                         rule("93.184.216.0/24", 81, name="literal"),
                         named("some.test", 80, name="some", protocol="http", methods=["GET"], paths=["/open/**"]),
                         named("raw.test", 80, name="raw", protocol="tcp"),
                         named("half.test", 80, name="half", protocol="tcp"),
                         named("half.test", 80, name="not-half", action="deny", protocol="http", methods=["PUT"]),
                         named("but.test", 80, name="but"),
                         named("but.test", 80, name="not-admin", action="deny", protocol="http", paths=["/admin/**"]),
                         named("none.test", 80, name="none", protocol="http"),
                         named("none.test", 80, name="not-none", action="deny", protocol="http")])
    targets = [("allowed.test", 80), ("ALLOWED.test", 80), ("allowed.test.", 80), ("allowed.test", 81), ("allowed.test", 8080),
               ("evil.test", 80), ("evil.test", 81), ("wild.test", 80), ("sub.wild.test", 80), ("SUB.Wild.TEST.", 80),
               ("a.b.wild.test", 80), ("denied.wild.test", 80), ("evilwild.test", 80), ("sub.wild.test.evil.test", 80),
               ("allowed.test.evil.test", 80), ("private.test", 80), ("metadata.test", 80), ("mixed.test", 80),
               ("six.test", 8080), ("six.test", 80), ("nowhere.test", 80), ("a_b.test", 80), ("xn--allowed-.test", 80),
               ("test", 80), ("a.test", 80), ("allowed", 80), ("intra", 80), ("x.local", 80), ("x.internal", 80),
               ("host.sandbox.internal", 80), ("metadata.google.internal", 80), ("host.docker.internal", 80),
               ("x" * 63 + ".test", 80), ("x" * 64 + ".test", 80), ("a..test", 80), ("-", 80), ("allowed.test..", 80),
               ("al-lowed.test", 80), ("allowed.test.test", 80), ("0.test", 80)]
    assert len(set(targets)) == 40
    targets = [(*target, "GET", "/") for target in targets]
    targets += [("some.test", 80, "GET", "/open/x"), ("some.test", 80, "PUT", "/open/x"), ("some.test", 80, "GET", "/shut"),
                ("some.test", 80, "GET", "/open/../shut"), ("some.test", 80, "GET", "/open/a%2fb"),
                ("some.test", 81, "GET", "/open/x"), ("raw.test", 80, "GET", "/a%2fb"), ("raw.test", 80, "PUT", "/x"),
                ("half.test", 80, "GET", "/x"), ("half.test", 80, "PUT", "/x"), ("but.test", 80, "GET", "/x"),
                ("but.test", 80, "PUT", "/x"), ("but.test", 80, "GET", "/admin/x"), ("none.test", 80, "GET", "/")]
    reached, accepted = {}, {}
    for door in ("connect", "absolute", "socks5", "socks4", "transparent"):
        before = place.head()
        done = run(place, alice, path, "python3", "-c", NAMED, timeout=300,
                   input=json.dumps([[*target, door] for target in targets]))
        assert done.returncode == 0, done.stderr
        accepted[door] = len(net_rows(place, before, action="connect", verdict="allow"))
        for target, has in zip(targets, json.loads(done.stdout)):
            reached.setdefault(target, {})[door] = has
    assert all(len(set(found.values())) == 1 for found in reached.values()), \
        {target: found for target, found in reached.items() if len(set(found.values())) > 1}
    assert {target for target, found in reached.items() if found["connect"]} == {
        *((name, 80, "GET", "/") for name in ("allowed.test", "ALLOWED.test", "allowed.test.", "sub.wild.test",
                                              "SUB.Wild.TEST.", "a.b.wild.test", "mixed.test", "a_b.test")),
        ("six.test", 8080, "GET", "/"), ("some.test", 80, "GET", "/open/x"), ("raw.test", 80, "GET", "/a%2fb"),
        ("raw.test", 80, "PUT", "/x"), ("but.test", 80, "GET", "/x"), ("but.test", 80, "PUT", "/x")}


def test_tls_by_name(place, alice, make_profile, world):
    """The name of the address that was connected to is the one that the hello must name."""
    path = make_profile([{"id": "n", "action": "allow", "host": "allowed.test", "ports": [443]}])
    before, heard = place.head(), len(world.tls[0].heard) + len(world.tls[1].heard)
    done = run(place, alice, path, "curl", "-sSk", "https://allowed.test/")
    assert done.stdout == "tls\n", done.stderr
    done = run(place, alice, path, "curl", "-sSk", "--connect-to", "evil.test:443:allowed.test:443", "https://evil.test/")
    assert done.returncode == 35 and "alert" in done.stderr, done.stderr
    rows = net_rows(place, before)
    assert [(r["host"], r["verdict"], r["raw"]) for r in rows] == \
        [("allowed.test", "allow", None), ("allowed.test", "allow", None), ("allowed.test", "deny", b"evil.test")]
    assert len(world.tls[0].heard) + len(world.tls[1].heard) == heard + 1


def test_the_worker_dies(place, alice, some):
    """Its connections end; what comes waits for the successor and is nobody else's."""
    script = READ_ALL + """
import time
print("ready", flush=True)
sys.stdin.readline()
for i in range(3):
    s = socket.create_connection((sys.argv[1], 80), 20)
    s.sendall(b"GET / HTTP/1.1\\r\\nHost: " + sys.argv[1].encode() + b"\\r\\nConnection: close\\r\\n\\r\\n")
    if b"hello from" in read(s):
        print("served")
        break
"""
    process = place.ctl_start(alice, "run", "-q", "-T", "-p", some, "--", *BARE, "python3", "-c", script, V4,
                              cwd=alice.workspace(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        for pid in place.workers("sandboxd-egress"):
            os.kill(pid, 9)
        out, _ = process.communicate(b"go\n", timeout=60)
        assert out == b"served\n"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_hello_in_pieces(place, alice, some):
    """A ClientHello over many segments, and over many records."""
    script = """
import socket, ssl, sys, time
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for is_records in (False, True):
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = out.read()
    if is_records:
        body = hello[5:]
        hello = b"".join(b"\\x16\\x03\\x01" + len(body[i:i + 5]).to_bytes(2, "big") + body[i:i + 5]
                         for i in range(0, len(body), 5))
    s = socket.create_connection((sys.argv[1], 443), 20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if is_records:
        s.sendall(hello)
        print(s.recv(1) == b"\\x16" and "answered")
        continue
    for i in range(len(hello)):
        s.sendall(hello[i:i + 1])
    while True:
        into.write(s.recv(65536))
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
    s.sendall(out.read())
    tls.write(b"GET / HTTP/1.1\\r\\n\\r\\n")
    s.sendall(out.read())
    print("answered")
"""
    assert python(place, alice, some, script, V4).split() == ["answered", "answered"]
