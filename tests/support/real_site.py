"""What real clients are tried against: a certificate of an authority of the tests' own, and servers in one network namespace
for web pages (HTTP/1, HTTP/2, WebSocket, events), git, package indexes, ssh and PostgreSQL."""

import base64
import contextlib
import glob
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import tempfile
import threading
import zipfile
import zlib

import machine
import stubs

CLIENTS = os.path.join(machine.TOP, "tests/integration/clients")
NAMES = ("site.test", "cdn.test", "chat.test", "git.test", "db.test", "evil.test")


def openssl(*arguments):
    return subprocess.run(["openssl", *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout


class Certificates:
    """ca, cert and key: paths; pin: base64 SHA-256 of the server's public key."""

    def __init__(self, folder):
        self.ca, self.cert, self.key = (os.path.join(folder, name) for name in ("ca.pem", "cert.pem", "key.pem"))
        ca_key, request, extensions = (os.path.join(folder, name) for name in ("ca.key", "request", "extensions"))
        new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl(*new, "-x509", "-days", "2", "-subj", "/CN=tests", "-keyout", ca_key, "-out", self.ca,
                "-addext", "keyUsage=critical,keyCertSign")
        openssl(*new, "-subj", "/CN=site.test", "-keyout", self.key, "-out", request)
        with open(extensions, "w", encoding="utf-8") as f:
            f.write("subjectAltName=" + ",".join("DNS:" + name for name in NAMES) + "\nextendedKeyUsage=serverAuth\n")
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
                "-extfile", extensions, "-out", self.cert)
        public = openssl("pkey", "-in", self.key, "-pubout", "-outform", "DER")
        self.pin = base64.b64encode(hashlib.sha256(public).digest()).decode()


def write(root, name, content):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())


def png():
    """One black dot."""
    def chunk(kind, data):
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack("!IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + \
        chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def make_page(root):
    for name in ("page.html", "page.js"):
        shutil.copy(os.path.join(CLIENTS, name), root)
    write(root, "style.css", "#styled { position: fixed }\n")
    write(root, "script.js", "window.fromCdn = 'ran';\n")
    write(root, "pixel.png", png())


def make_python_index(root):
    """A wheel `hello`, and the index that has it."""
    content = io.BytesIO()
    info = "hello-1.0.dist-info"
    with zipfile.ZipFile(content, "w") as wheel:
        wheel.writestr("hello.py", "word = 'hello from a wheel'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"hello.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    name = "hello-1.0-py3-none-any.whl"
    write(root, "files/" + name, content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    write(root, "simple/hello/index.html", f'<!DOCTYPE html><a href="/files/{name}#sha256={digest}">{name}</a>\n')


def make_node_registry(root):
    """A package `hello`, and the document that describes it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in (("package.json", '{"name": "hello", "version": "1.0.0", "main": "index.js"}'),
                           ("index.js", "module.exports = 'hello from a package';\n")):
            entry = tarfile.TarInfo("package/" + name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    write(root, "files/hello-1.0.0.tgz", content.getvalue())
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(content.getvalue()).digest()).decode()
    version = {"name": "hello", "version": "1.0.0",
               "dist": {"tarball": "https://site.test/files/hello-1.0.0.tgz", "integrity": integrity}}
    write(root, "npm/hello", json.dumps({"name": "hello", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}))


def make_debian_archive(root):
    """An archive of one package, unsigned."""
    packages = b"Package: hello-of-the-tests\nVersion: 1.0\nArchitecture: amd64\nMaintainer: t <t@t.test>\n" \
        b"Filename: pool/hello.deb\nSize: 1\nSHA256: " + b"0" * 64 + b"\nDescription: t\n"
    release = "Suite: stable\nCodename: stable\nArchitectures: amd64\nComponents: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n" \
        "SHA256:\n"
    for name, content in (("Packages", packages), ("Packages.gz", gzip.compress(packages))):
        write(root, f"debian/dists/stable/main/binary-amd64/{name}", content)
        release += f" {hashlib.sha256(content).hexdigest()} {len(content)} main/binary-amd64/{name}\n"
    write(root, "debian/dists/stable/Release", release)


class Site:
    """The servers, as long as it is not closed. said: what the web server noted, as site.js says; user: whom ssh lets in and whose
    the repository is."""

    def __init__(self, net, user):
        self.net, self.user = net, user
        self.folder = tempfile.mkdtemp(prefix="sbxt-site-", dir="/var/tmp")
        os.chmod(self.folder, 0o755)
        self.said, self.processes = [], []
        self.ready = threading.Event()
        try:
            self.tls = Certificates(self.folder)
            self.make_content()
            self.start_web()
            self.start_git()
            self.start_ssh()
            self.start_database()
            assert self.ready.wait(60), "the web server does not start"
        except BaseException:
            self.close()
            raise

    def make_content(self):
        self.root = os.path.join(self.folder, "root")
        os.mkdir(self.root)
        for make in (make_page, make_python_index, make_node_registry, make_debian_archive):
            make(self.root)
        self.head = stubs.make_repository(self.root)
        subprocess.run(["chown", "-R", f"{self.user.uid}:{self.user.gid}", self.root], check=True)

    def start(self, *argv, user=None, **options):
        inside = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups"] if user else []
        log = open(os.path.join(self.folder, "log"), "ab")
        with log:
            options.setdefault("stdout", log)
            child = subprocess.Popen(["nsenter", f"--net={self.net.world.path}", *inside, *argv], stdin=subprocess.DEVNULL,
                                     stderr=log, start_new_session=True, cwd="/", **options)
        self.processes.append(child)
        return child

    def start_web(self):
        child = self.start("node", os.path.join(CLIENTS, "site.js"), self.root, self.tls.cert, self.tls.key,
                           stdout=subprocess.PIPE)

        def listen():
            for line in child.stdout:
                self.said.append(json.loads(line))
                if self.said[-1] == ["ready"]:
                    self.ready.set()

        threading.Thread(target=listen, daemon=True).start()

    def start_git(self):
        self.start("git", "daemon", f"--base-path={self.root}", "--export-all", "--reuseaddr", self.root, user=self.user,
                   env={**os.environ, "HOME": self.user.home})

    def start_ssh(self):
        """identity: the path of the private key that is let in; host_key: a line of known_hosts."""
        host, self.identity = os.path.join(self.folder, "host"), os.path.join(self.folder, "identity")
        for path, key_format in ((host, "dropbear"), (self.identity, "openssh")):
            if key_format == "dropbear":
                made = subprocess.run(["dropbearkey", "-t", "ed25519", "-f", path], check=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL, text=True).stdout
                public, = [line for line in made.splitlines() if line.startswith("ssh-ed25519 ")]
                self.host_key = "git.test " + public
            else:
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        with open(self.identity + ".pub", encoding="utf-8") as f:
            self.user.write(os.path.join(self.user.home, ".ssh/authorized_keys"), f.read(), mode=0o600)
        self.start("dropbear", "-F", "-E", "-r", host, "-p", "22", "-P", os.path.join(self.folder, "pid"))

    def start_database(self):
        programs = max(glob.glob("/usr/lib/postgresql/*/bin"))
        data = os.path.join(self.folder, "database")
        os.mkdir(data)
        os.chown(data, self.user.uid, self.user.gid)
        made = self.user.run([f"{programs}/initdb", "--no-sync", "--auth=trust", "--username=t", "--encoding=UTF8",
                              "--no-locale", data], timeout=120)
        assert made.returncode == 0, made.stderr
        for name, path in (("server.crt", self.tls.cert), ("server.key", self.tls.key)):
            with open(path, "rb") as f:
                self.user.write(os.path.join(data, name), f.read(), mode=0o600)
        with open(os.path.join(data, "pg_hba.conf"), "a", encoding="utf-8") as f:
            f.write("host all all all trust\n")
        self.start(f"{programs}/postgres", "-D", data, "-c", "listen_addresses=0.0.0.0", "-c", "unix_socket_directories=", "-c",
                   "ssl=on", "-c", "fsync=off", "-c", "shared_buffers=4MB", user=self.user)

    def is_listening(self, port):
        def connect():
            with contextlib.closing(socket.socket()) as s:
                return s.connect_ex(("127.0.0.1", port)) == 0
        return self.net.world.make(connect)

    def wait(self):
        for port in (22, 5432, 9418):
            assert machine.eventually(lambda port=port: self.is_listening(port), timeout=60), port
        return self

    def requests(self, host, after=0):
        """(method, path, HTTP version, whether TLS) of what was asked of this host."""
        return [tuple(words[2:]) for words in self.said[after:] if words[0] == "request" and words[1].split(":")[0] == host]

    def connections(self, address):
        return sum(words[0] == "connection" and words[1] == address for words in self.said)

    def close(self):
        for child in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGQUIT if "postgres" in child.args[-1] else signal.SIGTERM)
        for child in self.processes:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if child.stdout:
                child.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(os.path.join(self.user.home, ".ssh"), ignore_errors=True)
