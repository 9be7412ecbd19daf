"""Programs that people use, in sessions: each reaches what is allowed by whichever door it takes, is refused at once what is
not, and leaves rows of both."""

import json
import os
import re
import shutil
import subprocess
import tempfile

import pytest

import internet as internets
import machine
import real_site
import stubs
from internet import OTHER_V4, THIRD_V4, V4

ADDRESSES = {"site.test": [V4], "git.test": [V4], "db.test": [V4], "cdn.test": [THIRD_V4], "chat.test": [V4],
             "evil.test": [OTHER_V4]}
RULES = [
    {"id": "site", "action": "allow", "host": "site.test"},
    {"id": "cdn", "action": "allow", "host": "cdn.test", "ports": [443]},
    {"id": "git", "action": "allow", "host": "git.test"},
    {"id": "opaque", "action": "allow", "host": "git.test", "ports": [22, 9418], "protocol": "tcp"},
    {"id": "database", "action": "allow", "host": "db.test", "ports": [5432], "protocol": "tcp"},
    {"id": "chat", "action": "allow", "host": "chat.test", "ports": [80], "protocol": "tcp"},
    {"id": "no", "action": "deny", "host": "evil.test"},
]
PROXY = "http://127.0.0.1:3128"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NODE_USE_ENV_PROXY")
# As a session has it, and as a program that knows of no proxy has it.
DOORS = {"proxy": [], "transparent": [word for name in VARIABLES for word in ("-u", name)]}


@pytest.fixture(scope="module")
def user():
    """Whom ssh may let in."""
    with machine.test_user("c") as found:
        yield found


@pytest.fixture(scope="module")
def net():
    with internets.internet() as found:
        yield found


@pytest.fixture(scope="module")
def site(net, user):
    found = real_site.Site(net, user)
    yield found.wait()
    found.close()


@pytest.fixture(scope="module")
def place(net, site):
    """A daemon on the test's internet, whose name server knows the names. Nobody has ever connected to what was denied."""
    names = net.home.make(stubs.DnsStub, ADDRESSES)
    running = machine.Instance(settings={"resolver": {"servers": [f"127.0.0.1:{names.port}"]}})
    running.prefix = ["nsenter", f"--net={net.home.path}"]
    with running:
        yield running
        assert running.process.poll() is None, "the daemon has died: " + running.log_text()[-4000:]
    names.close()
    assert site.connections(OTHER_V4) == 0
    assert "evil.test" not in [name for name, _ in names.questions]


@pytest.fixture(scope="module")
def rules(make_profile):
    return make_profile(RULES, network={"default": "deny"})


@pytest.fixture(scope="module")
def folder(user, site):
    """A workspace with what clients need."""
    path = user.workspace("clients")
    shutil.copy(os.path.join(real_site.CLIENTS, "Fetch.java"), path)
    shutil.copy(site.tls.ca, path)
    user.write(os.path.join(path, "known_hosts"), site.host_key + "\n")
    with open(site.identity, encoding="utf-8") as f:
        user.write(os.path.join(path, "identity"), f.read(), mode=0o600)
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(["go", "build", "-o", os.path.join(path, "fetch"), os.path.join(real_site.CLIENTS, "fetch.go")], check=True,
                       env={**os.environ, "GOCACHE": cache, "GO111MODULE": "off"})
    os.chmod(os.path.join(path, "fetch"), 0o755)
    return path


class Client:
    """Runs programs in sessions; done and rows are of the last."""

    def __init__(self, place, user, rules, folder, site):
        self.place, self.user, self.rules, self.folder, self.site = place, user, rules, folder, site
        self.ca = os.path.join(folder, "ca.pem")
        self.trust = {name: self.ca for name in ("CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT",
                                                 "SSL_CERT_FILE", "npm_config_cafile")}
        self.ssh = f"ssh -F none -i {folder}/identity -o UserKnownHostsFile={folder}/known_hosts -o BatchMode=yes " \
            "-o IdentitiesOnly=yes -o ConnectTimeout=60"

    def run(self, *command, door="proxy", rules=None, **environment):
        before = self.place.head()
        words = [f"{name}={value}" for name, value in {**self.trust, **environment}.items()]
        self.done = self.place.ctl(self.user, "run", "-q", "-T", "-p", rules or self.rules, "--", "env", *DOORS[door], *words,
                                   *command, cwd=self.folder, timeout=120)
        self.before = before
        self.read_rows()
        return self.done

    def read_rows(self):
        self.rows = [r for r in self.place.rows(self.before) if r["kind"] in ("net", "dns")]
        return self.rows

    def allowed(self, *entries):
        """The last one did what it should, by these doors alone. (apt asks for SRV records, whose names no rule has.)"""
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        assert {r["verdict"] for r in self.rows if r["method"] != "SRV"} == {"allow"}, self.rows
        found = {r["entry"] for r in self.rows if r["kind"] == "net"}
        assert found and found <= set(entries), found
        return self.done.stdout

    def denied(self):
        """The last one failed, its host was denied in a row, and nothing was allowed."""
        assert self.done.returncode != 0, self.done.stdout + self.done.stderr
        rows = [r for r in self.rows if r["method"] != "SRV"]
        assert {(r["host"], r["verdict"], r["rule"]) for r in rows} == {("evil.test", "deny", "no")}, self.rows
        return self.done.stdout + self.done.stderr


@pytest.fixture
def client(place, user, rules, folder, site):
    return Client(place, user, rules, folder, site)


# ---- curl ----

MODES = {
    "absolute": ([], ("http",)),
    "connect": (["-p", "-x", PROXY], ("http", "https")),
    "socks4": (["-x", "socks4a://127.0.0.1:3128"], ("http", "https")),
    "socks5h": (["-x", "socks5h://127.0.0.1:3128"], ("http", "https")),
    "socks5": (["-x", "socks5://127.0.0.1:3128"], ("http", "https")),
    "transparent": (["--noproxy", "*"], ("http", "https")),
}


@pytest.mark.parametrize("mode", MODES)
def test_curl(client, site, mode):
    options, schemes = MODES[mode]
    for scheme in schemes:
        said = len(site.said)
        client.run("curl", "-sSf", *options, f"{scheme}://site.test/hello")
        version = "2.0" if scheme == "https" else "1.1"
        assert client.allowed(mode.rstrip("h")) == f"hello by {version}\n"
        assert site.requests("site.test", said) == [("GET", "/hello", version, scheme == "https")]
        client.run("curl", "-sSf", *options, f"{scheme}://evil.test/hello")
        client.denied()


def test_curl_without_variables(client):
    for scheme in ("http", "https"):
        client.run("curl", "-sSf", f"{scheme}://site.test/hello", door="transparent")
        assert client.allowed("transparent").startswith("hello by")
        client.run("curl", "-sSf", f"{scheme}://evil.test/hello", door="transparent")
        client.denied()


def test_curl_to_an_address_that_is_not_allowed(client):
    """Whoever needs no name server is refused, too: in the client's own words."""
    for scheme, port in (("http", 80), ("https", 443)):
        client.run("curl", "-sSf", "--resolve", f"evil.test:{port}:{OTHER_V4}", f"{scheme}://evil.test/hello", door="transparent")
        assert client.done.returncode == (22 if scheme == "http" else 35), client.done.stderr
        assert [(r["entry"], r["verdict"], r["port"]) for r in client.rows] == [("transparent", "deny", port)]


# ---- languages ----

PYTHON = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')"
NODE = """
fetch(process.argv[1]).then(async response => {
        process.stdout.write(await response.text());
        process.exitCode = response.ok ? 0 : 1;
}, error => {
        console.error(error.cause);
        process.exitCode = 1;
});
"""
LANGUAGES = {
    "python": ["python3", "-c", PYTHON],
    "node": ["node", "-e", NODE],
    "go": ["env", "GODEBUG=netdns=go", "./fetch"],
    "go with libc": ["env", "GODEBUG=netdns=cgo", "./fetch"],
    "java": ["java", "-XX:TieredStopAtLevel=1", "Fetch.java", "ca.pem"],
}
SPEAKS = {"python": "hello by 1.1\n", "node": "hello by 1.1\n", "go": "HTTP/2.0 hello by 2.0\n",
          "go with libc": "HTTP/2.0 hello by 2.0\n", "java": "HTTP_2 hello by 2.0\n"}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_language(client, site, language, door):
    command = LANGUAGES[language]
    if (language, door) == ("java", "proxy"):
        command = ["java", "-Dhttps.proxyHost=127.0.0.1", "-Dhttps.proxyPort=3128", *command[1:]]
    # Whether Node asks the variables is a matter of its version.
    entries = {"connect", "transparent"} if language == "node" else {"connect"}
    said = len(site.said)
    client.run(*command, "https://site.test/hello", door=door)
    assert client.allowed(*(entries if door == "proxy" else ["transparent"])) == SPEAKS[language]
    assert [(method, path) for method, path, *_ in site.requests("site.test", said)] == [("GET", "/hello")]
    client.run(*command, "https://evil.test/hello", door=door)
    client.denied()


# ---- connections that stay: streams in one of HTTP/2, WebSocket, events ----

HTTP2 = """
const http2 = require("http2"), net = require("net"), tls = require("tls"), fs = require("fs");
const [url, proxy] = process.argv.slice(1), host = new URL(url).hostname;

function tunnel() {
        return new Promise((resolve, reject) => {
                const socket = net.connect(proxy ? 3128 : 443, proxy ? "127.0.0.1" : host, () => {
                        if (!proxy)
                                return resolve(socket);
                        socket.write(`CONNECT ${host}:443 HTTP/1.1\\r\\nHost: ${host}:443\\r\\n\\r\\n`);
                        socket.once("data", head => /^HTTP\\/1.1 200 /.test(head) ? resolve(socket) : reject(new Error(head)));
                });
                socket.on("error", reject);
        });
}

tunnel().then(socket => {
        const ca = fs.readFileSync(process.env.NODE_EXTRA_CA_CERTS);
        const secure = tls.connect({ socket, servername: host, ALPNProtocols: ["h2"], ca });
        const client = http2.connect(url, { createConnection: () => secure });
        client.on("error", error => { console.error(error); process.exit(1); });
        let left = 20;
        for (let i = 0; i < 20; i++) {
                const stream = client.request({ ":path": "/hello" });
                let text = "";
                stream.on("data", part => text += part);
                stream.on("end", () => { process.stdout.write(text); if (--left === 0) client.close(); });
        }
}).catch(error => { console.error(error); process.exit(1); });
"""
WEBSOCKET = """
import asyncio, socket, ssl, sys
import websockets
url, proxy = sys.argv[1], sys.argv[2:]
host = url.split("/")[2]

async def main():
    more = {"ssl": ssl.create_default_context(cafile="ca.pem")} if url.startswith("wss:") else {}
    if proxy:
        tunnel = socket.create_connection(("127.0.0.1", 3128))
        port = 443 if more else 80
        tunnel.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
        assert tunnel.recv(4096).startswith(b"HTTP/1.1 200 ")
        more["sock"] = tunnel
        if "ssl" in more:
            more["server_hostname"] = host
    async with websockets.connect(url, **more) as connection:
        for i in range(50):
            await connection.send(f"there and back {i}")
            assert await connection.recv() == f"there and back {i}"
    print("done")
asyncio.run(main())
"""
# The site sends the second and the third only when the one before was seen.
EVENTS = """
curl -sSfN "$@"/events | while read -r word number; do
        [ "$word" = data: ] || continue
        echo "event $number"
        curl -sSf "$@"/seen?"$number" >seen
done
"""


@pytest.mark.parametrize("door", DOORS)
def test_http2(client, site, door):
    """Twenty requests at once in one connection, which is one connection to the log, by curl and by Node."""
    proxy, entry = (["proxy"], "connect") if door == "proxy" else ([], "transparent")
    options = ["-p", "-x", PROXY] if proxy else ["--noproxy", "*"]
    said = len(site.said)
    for command in (["node", "-e", HTTP2, "https://site.test", *proxy],
                    ["curl", "-sSf", "--http2", "-Z", "--parallel-immediate", *options, *["https://site.test/hello"] * 20]):
        client.run(*command, door=door)
        assert client.allowed(entry) == "hello by 2.0\n" * 20
        if command[0] == "node":
            assert [r["action"] for r in client.rows if r["kind"] == "net"] == ["connect"], client.rows
    assert site.requests("site.test", said) == [("GET", "/hello", "2.0", True)] * 40
    client.run("node", "-e", HTTP2, "https://evil.test", *proxy, door=door)
    client.denied()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("url", ["wss://site.test/echo", "ws://chat.test/echo"])
def test_websocket(client, site, url, door):
    """Under TLS it is TLS; in the clear it needs a rule that lets anything pass."""
    proxy, entry = (["proxy"], "connect") if door == "proxy" else ([], "transparent")
    command = ["/usr/bin/python3", "-c", WEBSOCKET]
    said = len(site.said)
    client.run(*command, url, *proxy, door=door)
    assert client.allowed(entry) == "done\n"
    assert ["websocket", url.split("/")[2], "/echo", url.startswith("wss:")] in site.said[said:]
    said = len(site.said)
    client.run(*command, url.replace("chat", "site").replace("wss", "ws"), *proxy, door=door)
    assert client.done.returncode != 0 and not [words for words in site.said[said:] if words[0] == "websocket"]
    client.run(*command, url.replace("site", "evil").replace("chat", "evil"), *proxy, door=door)
    client.denied()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_events(client, scheme, door):
    """Each arrives before there is a next one."""
    options = ["-x", PROXY] if door == "proxy" else ["--noproxy", "*"]
    command = ["sh", "-c", EVENTS, "events", *options]
    client.run(*command, f"{scheme}://site.test", door=door)
    entry = "transparent" if door == "transparent" else "connect" if scheme == "https" else "absolute"
    assert client.allowed(entry) == "event 1\nevent 2\nevent 3\n"
    client.run("sh", "-ec", "curl -sSfN \"$@\"/events", "events", *options, f"{scheme}://evil.test", door=door)
    client.denied()


# ---- git ----

@pytest.mark.parametrize("door", DOORS)
def test_git_over_https(client, site, door):
    client.run("git", "clone", "-q", "https://git.test/repo.git", f"https-{door}", door=door)
    client.allowed("connect" if door == "proxy" else "transparent")
    assert head_of(client, f"https-{door}") == site.head
    client.run("git", "ls-remote", "https://evil.test/repo.git", door=door)
    client.denied()


def head_of(client, name):
    return client.user.run(["git", "-C", os.path.join(client.folder, name), "rev-parse", "HEAD"]).stdout.strip()


def test_git_over_ssh(client, site):
    """Both ways: a clone, and a push of a branch."""
    address = f"ssh://{client.user.name}@git.test{site.root}/repo.git"
    client.run("git", "clone", "-q", address, "ssh", GIT_SSH_COMMAND=client.ssh)
    client.allowed("transparent")
    assert head_of(client, "ssh") == site.head
    assert {(r["protocol"], r["port"], r["rule"]) for r in client.rows if r["kind"] == "net"} == {("tcp", 22, "opaque")}
    client.run("git", "-C", "ssh", "push", "-q", "origin", "HEAD:refs/heads/pushed", GIT_SSH_COMMAND=client.ssh)
    client.allowed("transparent")
    with open(os.path.join(site.root, "repo.git/refs/heads/pushed"), encoding="utf-8") as f:
        assert f.read().strip() == site.head
    client.run("git", "ls-remote", address.replace("git.test", "evil.test"), GIT_SSH_COMMAND=client.ssh)
    client.denied()


PROXY_COMMANDS = {"connect": "nc -X connect", "socks5": "nc -X 5", "socks4": "nc -X 4"}


@pytest.mark.parametrize("entry", PROXY_COMMANDS)
def test_ssh_by_a_proxy_command(client, site, entry):
    """What many have in their ssh configuration: netcat asks the proxy, ssh speaks through it."""
    ssh = [*client.ssh.split(), "-o", f"ProxyCommand={PROXY_COMMANDS[entry]} -x 127.0.0.1:3128 %h %p"]
    command = "git upload-pack --advertise-refs " + os.path.join(site.root, "repo.git")
    client.run(*ssh, client.user.name + "@git.test", command)
    assert site.head in client.allowed(entry)
    assert {(r["host"], r["protocol"], r["port"], r["rule"]) for r in client.rows if r["kind"] == "net"} == \
        {("git.test", "tcp", 22, "opaque")}
    client.run(*ssh, client.user.name + "@evil.test", command)
    client.denied()


def test_git_protocol(client, site):
    client.run("git", "clone", "-q", "git://git.test/repo.git", "git")
    client.allowed("transparent")
    assert head_of(client, "git") == site.head
    client.run("git", "ls-remote", "git://evil.test/repo.git")
    client.denied()


# ---- databases, and what else is not HTTP ----

def test_psql(client):
    """In the clear and under TLS, which begins in the middle of the protocol."""
    for mode, says in (("disable", "f"), ("require", "t")):
        client.run("psql", "-XAtc", "select ssl, 6 * 7 from pg_stat_ssl where pid = pg_backend_pid()",
                   f"host=db.test user=t dbname=postgres sslmode={mode}")
        assert client.allowed("transparent") == says + "|42\n"
        assert {(r["protocol"], r["port"]) for r in client.rows if r["kind"] == "net"} == {("tcp", 5432)}
    client.run("psql", "-XAtc", "select 1", "host=evil.test user=t dbname=postgres")
    client.denied()


def test_what_is_not_http_needs_a_rule_that_says_so(client, make_profile):
    """The same ports, allowed for HTTP and TLS."""
    rules = make_profile([{"id": "web", "action": "allow", "host": host, "ports": [22, 5432, 9418]}
                          for host in ("git.test", "db.test")], network={"default": "deny"})
    for command in ([*client.ssh.split(), client.user.name + "@git.test", "true"],
                    ["psql", "-XAtc", "select 1", "host=db.test user=t dbname=postgres"],
                    ["git", "ls-remote", "git://git.test/repo.git"]):
        client.run(*command, rules=rules)
        assert client.done.returncode != 0, client.done.stdout
        net = [(r["action"], r["verdict"], r["reason"]) for r in client.rows if r["kind"] == "net"]
        assert net == [("connect", "allow", "rule"), ("request", "deny", "malformed")], (command, net)


# ---- packages ----

@pytest.mark.parametrize("door", DOORS)
def test_pip(client, door):
    target = os.path.join(client.folder, f"pip-{door}")
    command = ["/usr/bin/python3", "-m", "pip", "--disable-pip-version-check", "install", "-q", "--target", target, "hello",
               "--index-url"]
    client.run(*command, "https://site.test/simple/", door=door)
    client.allowed("connect" if door == "proxy" else "transparent")
    with open(os.path.join(target, "hello.py"), encoding="utf-8") as f:
        assert "hello from a wheel" in f.read()
    client.run(*command, "https://evil.test/simple/", "--force-reinstall", "--retries=0", door=door)
    client.denied()


@pytest.mark.parametrize("door", DOORS)
def test_npm(client, door):
    target = os.path.join(client.folder, f"npm-{door}")
    client.user.write(os.path.join(target, "package.json"), "{}")
    command = ["npm", "--prefix", target, "--no-audit", "--no-fund", "--no-update-notifier"]
    client.run(*command, "--registry=https://site.test/npm/", "install", "hello", door=door)
    client.allowed("connect" if door == "proxy" else "transparent")
    with open(os.path.join(target, "node_modules/hello/index.js"), encoding="utf-8") as f:
        assert "hello from a package" in f.read()
    # What does not exist npm asks for again, minutes later.
    client.run(*command, "--registry=https://evil.test/npm/", "--fetch-retries=0", "view", "hello", door=door)
    client.denied()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_apt(client, scheme, door):
    """`apt-get update`, into folders of its own."""
    own = os.path.join(client.folder, f"apt-{scheme}-{door}")
    options = {"Dir::Etc::sourcelist": f"{own}/sources.list", "Dir::Etc::sourceparts": "-", "Dir::State": f"{own}/state",
               "Dir::State::status": f"{own}/status", "Dir::Cache": f"{own}/cache", "Acquire::https::CAInfo": client.ca,
               "Acquire::Languages": "none", "Acquire::Retries": "0", "APT::Architecture": "amd64", "APT::Architectures": "amd64",
               "APT::Update::Error-Mode": "any"}
    command = ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}")), "update"]
    for name in ("state/lists/partial/none", "cache/archives/partial/none", "status"):
        client.user.write(os.path.join(own, name), "")
    client.user.write(os.path.join(own, "sources.list"), f"deb [trusted=yes] {scheme}://site.test/debian stable main\n")
    client.run(*command, door=door)
    client.allowed("transparent" if door == "transparent" else "connect" if scheme == "https" else "absolute")
    lists = os.path.join(own, "state/lists")
    name, = [name for name in os.listdir(lists) if name.endswith("_Packages")]
    with open(os.path.join(lists, name), encoding="utf-8") as f:
        assert "Package: hello-of-the-tests" in f.read()
    client.user.write(os.path.join(own, "sources.list"), f"deb [trusted=yes] {scheme}://evil.test/debian stable main\n")
    client.run(*command, door=door)
    client.denied()


# ---- a browser ----

EVERYTHING = {"style": "fixed", "script": "ran", "image": "loaded", "denied": "failed", "fetchDenied": "failed",
              "socket": "there and back", "events": "123"}


def browse(client, url, door):
    """What page.js found."""
    options = [f"--proxy-server={PROXY}"] if door == "proxy" else []
    client.run("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", "--user-data-dir=/tmp/chromium", "--timeout=100000",
               f"--ignore-certificate-errors-spki-list={client.site.tls.pin}", *options, "--dump-dom", url, door=door)
    assert client.done.returncode == 0, client.done.stderr
    found = re.search(r'<pre id="result">(.*?)</pre>', client.done.stdout, re.S)
    assert found and found[1], client.done.stdout + client.done.stderr
    assert {r["verdict"] for r in client.rows if r["host"] == "evil.test"} == {"deny"}
    return json.loads(found[1])


def entries(client):
    return {(r["entry"], r["host"]) for r in client.rows if r["kind"] == "net" and r["verdict"] == "allow"}


@pytest.mark.parametrize("door", DOORS)
def test_chromium(client, site, door):
    """A page with style, script, image, WebSocket and events of allowed hosts, and an image of one that is not. The site offers
    HTTP/3, which nobody can speak here."""
    said = len(site.said)
    assert browse(client, "https://site.test/page.html?wss://site.test", door) == {**EVERYTHING, "hello": "hello by 2.0\n", "protocol": "h2"}
    assert ["websocket", "site.test", "/echo", True] in site.said[said:]
    entry = "connect" if door == "proxy" else "transparent"
    assert entries(client) == {(entry, "site.test"), (entry, "cdn.test")}


@pytest.mark.parametrize("door", DOORS)
def test_chromium_without_tls(client, site, door):
    """Events come as they happen, also where each request is looked at; a WebSocket needs a rule that lets anything pass."""
    seen, said = {**EVERYTHING, "hello": "hello by 1.1\n", "protocol": "http/1.1"}, len(site.said)
    assert browse(client, "http://site.test/page.html?ws://site.test", door) == {**seen, "socket": "failed"}
    assert not [words for words in site.said[said:] if words[0] == "websocket"]
    assert browse(client, "http://site.test/page.html?ws://chat.test", door) == seen
    assert ["websocket", "chat.test", "/echo", False] in site.said[said:]
    pages, tunnels = ("absolute", "connect") if door == "proxy" else ("transparent", "transparent")
    assert entries(client) == {(pages, "site.test"), (tunnels, "cdn.test"), (tunnels, "chat.test")}


@pytest.mark.parametrize("door, options", [("connect", ["-p", "-x", PROXY]), ("socks5", ["-x", "socks5h://127.0.0.1:3128"]),
                                           ("transparent", ["--noproxy", "*"])])
def test_http2_without_tls(client, make_profile, door, options):
    """It is no HTTP that is looked at; a rule for tcp lets it pass."""
    command = ["curl", "-sSf", "--http2-prior-knowledge", *options, "http://site.test:81/hello"]
    for protocol in ("any", "tcp"):
        client.run(*command, rules=make_profile([{"id": "t", "action": "allow", "host": "site.test", "ports": [81],
                                                  "protocol": protocol}], network={"default": "deny"}))
        if protocol == "any":
            assert client.done.returncode != 0
            # The program may be gone before its refusal is written.
            assert machine.eventually(lambda: client.read_rows()[-1]["verdict"] == "deny", 20), client.rows
        else:
            assert client.allowed(door) == "hello by 2.0\n"
