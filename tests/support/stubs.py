"""Servers that tests own: DNS, HTTP (with git), echo; all on the loopback."""

import os
import http.server
import socket
import socketserver
import struct
import subprocess
import threading


class DnsStub:
    """Answers A and AAAA questions from a table {name: [address, ...]} over UDP and TCP on one port; other names do
    not exist, those of an empty list have no address. `aliases` {name: name} are CNAMEs. Other types from `records` {(name, type): [data, ...]}. Every question is noted in `questions`, as it came in `raw`;
    on_question(name) is called before it is answered."""

    def __init__(self, names):
        self.names = names
        self.questions = []
        self.raw = []
        self.records = {}
        self.aliases = {}
        self.on_question = lambda name: None
        self.is_silent = False
        while True:
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind(("127.0.0.1", 0))
            self.port = self.udp.getsockname()[1]
            self.tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                self.tcp.bind(("127.0.0.1", self.port))
                break
            except OSError:
                self.udp.close()
                self.tcp.close()
        self.tcp.listen(16)
        for target in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=target, daemon=True).start()

    def close(self):
        self.udp.close()
        self.tcp.close()

    def _answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1").lower())
            at += 1 + query[at]
        name = ".".join(labels)
        kind = struct.unpack("!H", query[at + 1:at + 3])[0]
        self.questions.append((name, kind))
        self.raw.append(query)
        self.on_question(name)
        if self.is_silent:
            return None
        records = b""
        count = 0
        owner = b"\xc0\x0c"
        if name in self.aliases:
            target = b"".join(bytes([len(label)]) + label.encode() for label in self.aliases[name].split(".")) + b"\0"
            records += owner + struct.pack("!HHIH", 5, 1, 1, len(target)) + target
            name, owner, count = self.aliases[name], target, 1
        for address in self.names.get(name, ()):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if kind == (28 if family == socket.AF_INET6 else 1):
                data = socket.inet_pton(family, address)
                records += owner + struct.pack("!HHIH", kind, 1, 1, len(data)) + data
                count += 1
        for data in self.records.get((name, kind), ()):
            records += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 1, len(data)) + data
            count += 1
        code = 0 if name in self.names else 3
        return query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, count, 0, 0) + query[12:at + 5] + records

    def _serve_udp(self):
        while True:
            try:
                query, peer = self.udp.recvfrom(4096)
                answer = self._answer(query)
                if answer:
                    self.udp.sendto(answer, peer)
            except (IndexError, struct.error):
                continue
            except OSError:
                return

    def _serve_tcp(self):
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    size = struct.unpack("!H", connection.recv(2))[0]
                    answer = self._answer(connection.recv(size))
                    if answer:
                        connection.sendall(struct.pack("!H", len(answer)) + answer)
                except (OSError, IndexError, struct.error):
                    continue


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _note(self):
        self.server.requests.append((self.command, self.path, dict(self.headers)))

    def _send(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self._note()
        if self.path.startswith("/repo.git"):
            self._git(b"")
        elif self.path.startswith("/big/"):
            self._send(200, b"x" * int(self.path.split("/")[2]))
        elif self.path == "/slow":
            self._slow()
        elif self.path == "/redirect":
            self._send(302, b"", [("Location", f"http://evil.test:{self.server.server_port}/")])
        else:
            self._send(200, b"hello from the test server\n")

    do_HEAD = do_GET

    def _slow(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            while not self.server.stop_slow.wait(0.05):
                self.wfile.write(b"x")
                self.wfile.flush()
        except OSError:
            self.server.cut.set()
        self.close_connection = True

    def do_POST(self):
        self._note()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    break
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path.startswith("/repo.git"):
            self._git(body)
        else:
            self._send(200, body)

    do_PUT = do_POST

    def _git(self, body):
        path, _, query = self.path.partition("?")
        environment = {"PATH": "/usr/bin:/bin", "GIT_PROJECT_ROOT": self.server.git_root, "GIT_HTTP_EXPORT_ALL": "1",
                       "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
                       "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
                       "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                       "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "HOME": self.server.git_root,
                       "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        done = subprocess.run(["git", "http-backend"], input=body, stdout=subprocess.PIPE, env=environment, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        status, headers = 200, []
        for line in head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "status":
                status = int(value.split()[0])
            elif name:
                headers.append((name, value))
        self._send(status, content, headers)


class HttpStub(http.server.ThreadingHTTPServer):
    """requests: (method, path, headers) of each request that arrived."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, git_root=None, address="127.0.0.1", port=0):
        if ":" in address:
            self.address_family = socket.AF_INET6
        super().__init__((address, port), _Handler)
        self.requests = []
        self.accepted = 0
        self.git_root = git_root or "/nonexistent"
        self.stop_slow = threading.Event()
        self.cut = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def get_request(self):
        request = super().get_request()
        self.accepted += 1
        return request

    def handle_error(self, request, client_address):
        pass

    def close(self):
        self.stop_slow.set()
        self.shutdown()
        self.server_close()


class EchoStub(socketserver.ThreadingTCPServer):
    """Sends back what it gets."""

    daemon_threads = True
    allow_reuse_address = True

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            while True:
                try:
                    data = self.request.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                self.request.sendall(data)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


def make_repository(root):
    """A bare repository root/repo.git with two commits, and its head."""
    work = os.path.join(root, "source")
    bare = os.path.join(root, "repo.git")
    environment = {"PATH": "/usr/bin:/bin", "HOME": root, "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t.test",
                   "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t.test", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments):
        return subprocess.run(["git", *arguments], check=True, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True).stdout.strip()

    git("init", "-q", "-b", "main", work)
    for text in ("one\n", "two\n"):
        with open(os.path.join(work, "file.txt"), "a", encoding="utf-8") as f:
            f.write(text)
        git("-C", work, "add", "file.txt")
        git("-C", work, "commit", "-q", "-m", text.strip())
    git("clone", "-q", "--bare", work, bare)
    return git("-C", bare, "rev-parse", "HEAD")
