"""Streams that the daemon carries: frames over an upgraded connection, raw bytes, descriptors, terminals, logs, limits."""

import contextlib
import json
import os
import signal
import socket
import struct
import time

import pytest

import machine
from machine import eventually

NODE_CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attach.js")
SESSION = "io.sandboxd.Session."
STDIN, STDOUT, RESIZE, SIGNAL, CREDIT, STDERR, EXIT, DROPPED, PING = range(1, 10)


def node(instance, user, scenario):
    done = user.run(["/usr/bin/node", NODE_CLIENT, instance.socket, scenario], timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- a client without descriptors: plain Node ----

def test_node_writes_half_closes_and_reads_all(instance, alice):
    assert node(instance, alice, "streams") == {
        "stdout": "one two", "stderr": "to-error\n", "exit": {"status": 7, "isSignal": False},
        "result": {"exitCode": 7, "reason": "exited"}}


def test_node_moves_more_than_any_buffer(instance, alice):
    assert node(instance, alice, "much") == {"same": True, "exit": {"status": 0, "isSignal": False}}


def test_node_has_a_terminal(instance, alice):
    assert node(instance, alice, "terminal")["exit"] == {"status": 2, "isSignal": True}


def test_node_leaves_a_terminal_and_comes_back(instance, alice):
    assert node(instance, alice, "detach")["exit"] == {"status": 0, "isSignal": False}


def test_node_signals(instance, alice):
    assert node(instance, alice, "signal") == {"stdout": "ready\ncaught\n", "exit": {"status": 3, "isSignal": False}}


def test_node_sees_a_signal(instance, alice):
    assert node(instance, alice, "killed")["exit"] == {"status": 9, "isSignal": True}


def test_node_follows_a_log(instance, alice):
    assert node(instance, alice, "logs") == {"stdout": "early\nlate\n", "stderr": "oops\n", "released": True}


def test_node_has_raw_bytes(instance, alice):
    assert node(instance, alice, "raw") == {"stdout": "through behind\n"}


# ---- the same by hand, as root ----

class Connection:
    """A varlink connection of this process, which is root's; after attach() it carries frames."""

    def __init__(self, instance):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(instance.socket)
        self.data = b""
        self.frames = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, method, parameters, behind=b"", **flags):
        message = {"method": SESSION + method, "parameters": parameters, **flags}
        self.socket.sendall(json.dumps(message).encode() + b"\0" + behind)

    def reply(self, n_fds=0):
        self.fds = []
        while b"\0" not in self.data:
            part, fds, _, _ = socket.recv_fds(self.socket, 65536, n_fds)
            self.fds += fds
            assert part, "closed"
            self.data += part
        part, _, self.data = self.data.partition(b"\0")
        return json.loads(part)

    def call(self, method, parameters, n_fds=0, **flags):
        self.send(method, parameters, **flags)
        return self.reply(n_fds)

    def attach(self, session, **more):
        reply = self.call("Attach", {"id": session, **more}, upgrade=True)
        assert "error" not in reply, reply
        return self

    def frame(self, kind, payload=b"", flags=0, reserved=0):
        self.socket.sendall(struct.pack(">BBHI", kind, flags, reserved, len(payload)) + payload)

    def next_frame(self):
        """(type, flags, payload), or None at the end."""
        while len(self.data) < 8 or len(self.data) < 8 + struct.unpack(">I", self.data[4:8])[0]:
            part = self.socket.recv(65536)
            if not part:
                assert not self.data
                return None
            self.data += part
        kind, flags, reserved, size = struct.unpack(">BBHI", self.data[:8])
        assert reserved == 0
        payload, self.data = self.data[8:8 + size], self.data[8 + size:]
        return kind, flags, payload

    def rest(self):
        """All to the end: {type: bytes}, of exits a list."""
        seen = {STDOUT: b"", STDERR: b"", EXIT: [], DROPPED: 0}
        while (found := self.next_frame()):
            kind, flags, payload = found
            assert not seen[EXIT], "a frame behind the exit"
            if kind == EXIT:
                seen[EXIT].append((flags, struct.unpack(">I", payload)[0]))
            elif kind == DROPPED:
                seen[DROPPED] += struct.unpack(">Q", payload)[0]
            elif kind in (STDOUT, STDERR):
                seen[kind] += payload
                with contextlib.suppress(OSError):
                    self.frame(CREDIT, struct.pack(">I", len(payload)))
        return seen

    def is_closed(self):
        """The daemon has closed, whatever it had said before."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def connect(instance):
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(Connection(instance))


@pytest.fixture
def session(instance, root, connect):
    reply = connect().call("Create", {"context": {"lifetime": "detached"}})
    session = reply["parameters"]["id"]
    yield session
    instance.ctl(root, "terminate", "--grace", "0", session)


def run(c, session, script, mode="stream", method="Exec", **more):
    """Starts a shell with one mode for all streams (log: no input)."""
    command = {"commandLine": ["/bin/sh", "-c", script], "standardInput": "null" if mode == "log" else mode,
               "standardOutput": mode, **more}
    reply = c.call(method, {"id": session, "command": command})
    assert "error" not in reply, reply
    return reply["parameters"]["process"]


def state_of(connect, session, process):
    reply = connect().call("Describe", {"id": session})
    return next(p for p in reply["parameters"]["runtime"]["processes"] if p["process"] == process)


def result_of(connect, session, process):
    return connect().call("Wait", {"id": session, "process": process})["parameters"]["result"]


@pytest.mark.parametrize("mode", ["stream", "log", "pty"])
def test_a_command_that_is_over_still_gives_its_output(connect, session, mode):
    process = run(connect(), session, "echo done; exit 4", mode)
    if mode != "stream":
        result_of(connect, session, process)
    seen = connect().attach(session, process=process, replayBytes=1000).rest()
    assert seen[STDOUT].replace(b"\r", b"") == b"done\n" and seen[EXIT] == [(0, 4)]
    if mode != "log":
        assert connect().attach(session, process=process).rest()[STDOUT] == b""


@pytest.mark.parametrize("payload", [
    (99, b"", 0, 0), (STDOUT, b"x", 0, 0), (EXIT, b"\0\0\0\0", 0, 0), (STDIN, b"x", 1, 0), (STDIN, b"x", 0, 1),
    (RESIZE, b"\0\0\0", 0, 0), (SIGNAL, b"SIGNONE", 0, 0), (SIGNAL, b"", 0, 0), (CREDIT, b"12345678", 0, 0),
    (STDIN, b"x" * 65537, 0, 0)])
def test_what_is_no_frame_closes(connect, session, payload):
    process = run(connect(), session, "cat")
    c = connect().attach(session, process=process)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        c.frame(payload[0], payload[1], payload[2], payload[3])
    assert c.is_closed()
    # The command does not mind: somebody else may come.
    c = connect().attach(session, process=process)
    c.frame(STDIN, b"hello")
    c.frame(STDIN)
    assert c.rest()[STDOUT] == b"hello"


def test_bytes_behind_the_upgrade_are_refused(connect, session):
    run(connect(), session, "cat")
    c = connect()
    c.send("Attach", {"id": session}, behind=struct.pack(">BBHI", STDIN, 0, 0, 1) + b"x", upgrade=True)
    assert c.socket.recv(4096) == b""
    assert connect().attach(session)


def test_an_error_of_attach_leaves_varlink(connect, session):
    c = connect()
    for parameters, error in (({"id": "none"}, "NoSuchSession"), ({"id": session}, "NotAttachable"),
                              ({"id": session, "process": "77"}, "NoSuchProcess")):
        assert c.call("Attach", parameters, upgrade=True)["error"] == SESSION + error
    for field, value in (("framing", "other"), ("replayBytes", -1), ("terminal", {"rows": 0})):
        reply = c.call("Attach", {"id": session, field: value}, upgrade=True)
        assert reply["error"] == "org.varlink.service.InvalidParameter"
    assert c.call("Describe", {"id": session})["parameters"]["id"] == session


def test_one_writes_others_watch(connect, session):
    process = run(connect(), session, "cat")
    writer = connect().attach(session)
    assert connect().call("Attach", {"id": session}, upgrade=True)["error"] == SESSION + "AlreadyAttached"
    watcher = connect().attach(session, readOnly=True)
    assert connect().call("Describe", {"id": session})["parameters"]["runtime"]["attached"] == 2
    writer.frame(STDIN, b"seen by both")
    writer.frame(STDIN)
    assert writer.rest()[STDOUT] == b"seen by both"
    seen = watcher.rest()
    assert seen[STDOUT] == b"seen by both" and seen[EXIT] == [(0, 0)]
    nobody = connect().attach(session, process=process, readOnly=True, replayBytes=4)
    assert nobody.rest()[STDOUT] == b"both"


def test_a_watcher_that_writes_is_closed(connect, session):
    run(connect(), session, "cat")
    c = connect().attach(session, readOnly=True)
    with contextlib.suppress(BrokenPipeError):
        c.frame(STDIN, b"x")
    assert c.is_closed()
    assert connect().attach(session)


def test_a_stream_that_nobody_reads_stops_its_command_only(instance, connect, session, root):
    """It has written what a pipe holds, and waits; another command of the same user goes on."""
    slow = run(connect(), session, "i=0; while [ $i -lt 4000 ]; do printf '%01000d' $i; i=$((i+1)); echo $i > /tmp/slow; done")
    count = lambda: int(instance.ctl(root, "exec", "-T", session, "cat", "/tmp/slow").stdout or 0)
    assert eventually(lambda: count() >= 60, 30)
    stalled = connect().attach(session, process=slow)
    assert eventually(lambda: count() >= 120, 30), "credit and buffers take more than the pipe"
    last = -1
    while (now := count()) != last:
        last = now
        time.sleep(0.3)
    assert last < 1500
    quick = run(connect(), session, "yes | head -c 3000000")
    assert len(connect().attach(session, process=quick).rest()[STDOUT]) == 3000000
    assert count() == last and state_of(connect, session, slow)["state"] == "running"
    assert len(stalled.rest()[STDOUT]) == 4000000


def rss_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))


def test_stalled_clients_and_logs_do_not_fill_memory(instance, connect, session, root):
    """Ten commands that write without end to logs, each with a client that never reads."""
    worker = next(pid for pid in instance.workers("sandboxd-api") if uid_of_worker(pid) == "0")
    before = rss_of(worker)
    processes = [run(connect(), session, "yes 0123456789abcdef", "log") for _ in range(10)]
    clients = [connect().attach(session, process=p) for p in processes]

    def dropped(process):
        return sum(r.get("droppedBytes", 0) for r in logs(connect, session, process=process))
    for process in processes:
        assert eventually(lambda p=process: dropped(p) > 20 << 20, 60, 0.2)
    # 200 MiB were written, 10 are kept.
    assert (rss_of(worker) - before) * 1024 < 100 << 20
    # One that begins to read now misses most, and is told; it is alive.
    for c, process in zip(clients[:2], processes):
        connect().call("Signal", {"id": session, "process": process, "signal": "SIGKILL", "scope": "all"})
        seen = c.rest()
        assert seen[DROPPED] > 0 and len(seen[STDOUT]) < 3 << 20 and seen[EXIT][0] == (1, 9)
    for p in processes[2:]:
        connect().call("Signal", {"id": session, "process": p, "signal": "SIGKILL", "scope": "all"})


def uid_of_worker(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        words = f.read().split(b"\0")
    return words[words.index(b"--uid") + 1].decode()


def test_a_lost_client_hangs_up_where_it_said_so(connect, session):
    process = run(connect(), session, "trap 'exit 9' HUP; echo ready; sleep 60 & wait")
    kept = run(connect(), session, "sleep 60")
    c = connect().attach(session, process=process, hangUpOnDisconnect=True)
    assert c.next_frame() == (STDOUT, 0, b"ready\n")
    c.socket.close()
    connect().attach(session, process=kept).socket.close()
    assert result_of(connect, session, process) == {"exitCode": 9, "reason": "client-gone"}
    assert state_of(connect, session, kept)["state"] == "running"


def test_signals_and_ends_are_those_of_the_command(connect, session):
    process = run(connect(), session, "sleep 60 & echo $!; wait; echo unseen", "stream")
    c = connect().attach(session, process=process)
    assert c.next_frame()[0] == STDOUT
    c.frame(SIGNAL, b"SIGTERM")
    seen = c.rest()
    assert seen[EXIT] == [(1, int(signal.SIGTERM))] and seen[STDOUT] == b""


# ---- descriptors ----

def test_descriptors_of_a_stream(connect, session):
    run(connect(), session, "cat; echo end >&2")
    c = connect()
    reply = c.call("Attach", {"id": session}, n_fds=8)
    assert reply["parameters"] == {"standardInputFileDescriptor": 0, "standardOutputFileDescriptor": 1,
                                   "standardErrorFileDescriptor": 2}
    to, out, err = c.fds
    assert connect().call("Attach", {"id": session}, upgrade=True)["error"] == SESSION + "AlreadyAttached"
    os.write(to, b"through")
    assert os.read(out, 100) == b"through"
    for fd in c.fds:
        os.close(fd)
    c.socket.close()

    rest = None
    for _ in range(100):
        again = connect()
        reply = again.call("Attach", {"id": session}, upgrade=True)
        if "error" not in reply:
            again.frame(STDIN, b"more")
            again.frame(STDIN)
            rest = again.rest()
            break
        time.sleep(0.1)
    assert rest and rest[STDOUT] == b"more" and rest[STDERR] == b"end\n"


def test_a_terminal_can_be_had_as_a_descriptor_again(connect, session):
    first = connect()
    command = {"commandLine": ["/bin/sh", "-c", "read a; echo got $a; read b"], "standardInput": "pty"}
    reply = first.call("Exec", {"id": session, "command": command}, n_fds=1)
    assert reply["parameters"]["ptyFileDescriptor"] == 0 and os.isatty(first.fds[0])
    os.close(first.fds[0])
    first.socket.close()
    c = connect()
    reply = c.call("Attach", {"id": session}, n_fds=1)
    assert reply["parameters"] == {"ptyFileDescriptor": 0}
    os.write(c.fds[0], b"word\n")
    seen = b""
    while b"got word" not in seen:
        seen += os.read(c.fds[0], 1000)
    os.close(c.fds[0])


def test_what_has_no_descriptors(connect, session):
    run(connect(), session, "sleep 60", "log")
    assert connect().call("Attach", {"id": session})["error"] == SESSION + "NotAttachable"
    run(connect(), session, "sleep 60", "null")
    assert connect().call("Attach", {"id": session})["error"] == SESSION + "NotAttachable"
    assert connect().call("Resize", {"id": session, "columns": 1, "rows": 1})["error"] == SESSION + "NotAttachable"


def test_an_exclusive_terminal_is_its_readers_alone(connect, session):
    holder = connect()
    command = {"commandLine": ["/bin/cat"], "standardInput": "pty", "terminal": {"exclusive": True}}
    holder.call("Exec", {"id": session, "command": command}, n_fds=1)
    for more in ({}, {"readOnly": True}):
        assert connect().call("Attach", {"id": session, **more}, upgrade=True)["error"] == SESSION + "AlreadyAttached"
    os.close(holder.fds[0])


# ---- logs ----

def logs(connect, session, **more):
    c = connect()
    c.send("Logs", {"id": session, **more}, more=True)
    replies = []
    while True:
        reply = c.reply()
        assert "error" not in reply, reply
        if not reply.get("continues"):
            assert not reply.get("parameters")
            return replies
        replies.append(reply["parameters"])


def text_of(replies):
    import base64
    return b"".join(base64.b64decode(r["data"]) for r in replies)


def test_logs_are_bounded_and_say_what_is_missing(connect, session):
    process = run(connect(), session, "head -c 5000000 /dev/zero | tr '\\0' x; echo end", "log")
    result_of(connect, session, process)
    eventually(lambda: text_of(logs(connect, session, tailBytes=4)) == b"end\n")
    replies = logs(connect, session)
    kept, dropped = len(text_of(replies)), sum(r.get("droppedBytes", 0) for r in replies)
    assert kept + dropped == 5000004 and 500000 < kept <= 1 << 20
    assert text_of(logs(connect, session, tailBytes=4)) == b"end\n"
    assert text_of(logs(connect, session, tailBytes=0)) == b""
    assert not any("droppedBytes" in r for r in logs(connect, session, tailBytes=100))


def test_logs_of_several_commands(connect, session):
    one = run(connect(), session, "echo first", "log")
    result_of(connect, session, one)
    two = run(connect(), session, "echo second >&2", "log")
    result_of(connect, session, two)
    run(connect(), session, "echo elsewhere", "stream")
    assert eventually(lambda: text_of(logs(connect, session)) == b"first\nsecond\n")
    assert [(r["process"], r["stream"]) for r in logs(connect, session)] == [(one, "stdout"), (two, "stderr")]
    assert text_of(logs(connect, session, process=two)) == b"second\n"


def test_logs_go_with_the_session(instance, root, connect, session):
    process = run(connect(), session, "echo kept", "log")
    result_of(connect, session, process)
    instance.ctl(root, "terminate", "--grace", "0", session)
    assert text_of(logs(connect, session, follow=True)) == b"kept\n"
    instance.ctl(root, "remove", session)
    assert connect().call("Logs", {"id": session}, more=True)["error"] == SESSION + "NoSuchSession"


def test_background_output_is_still_logged(connect, session):
    process = run(connect(), session, "(sleep 0.5; echo from behind) & echo in front", "log")
    result_of(connect, session, process)
    assert eventually(lambda: text_of(logs(connect, session)) == b"in front\nfrom behind\n", 20)


# ---- the limit on output ----

@pytest.mark.parametrize("mode", ["log", "stream", "pty"])
def test_output_limit(connect, mode):
    reply = connect().call("Create", {"context": {"lifetime": "detached", "limits": {"outputMaxBytes": 100000}}})
    session = reply["parameters"]["id"]
    process = run(connect(), session, "yes", mode)
    if mode != "log":
        seen = connect().attach(session, process=process).rest()
        assert seen[EXIT] == [(1, 9)] and len(seen[STDOUT]) > 100000
    assert result_of(connect, session, process)["reason"] == "output-limit"
    other = run(connect(), session, "echo fine", "log")
    assert result_of(connect, session, other)["exitCode"] == 0
    connect().call("Terminate", {"id": session, "graceUSec": 0})


def test_output_limit_on_own_descriptors(instance, alice, root, connect):
    """Asked for: refused; of a profile: a warning; where a terminal would go out: it stays and is counted."""
    session = connect().call("Create", {"context": {"lifetime": "detached", "limits": {"outputMaxBytes": 1000}}})[
        "parameters"]["id"]
    done = instance.ctl(root, "exec", "-T", session, "true")
    assert done.returncode == 125 and "outputMaxBytes" in done.stderr
    command = {"commandLine": ["/bin/sh", "-c", "yes"], "standardInput": "pty"}
    c = connect()
    reply = c.call("Exec", {"id": session, "command": command}, n_fds=1)
    assert "ptyFileDescriptor" not in reply["parameters"] and not c.fds
    assert c.call("Attach", {"id": session})["error"] == SESSION + "NotEnforceable"
    connect().call("Terminate", {"id": session, "graceUSec": 0})
    profile = alice.write(os.path.join(alice.workspace(), "p.json"),
                          '{ "version": 1, "name": "p", "extends": ["agent"], "limits": { "output": "1M" } }')
    session = instance.create(alice, "-p", profile)
    assert instance.ctl(alice, "exec", "-T", session, "true").returncode == 0
    warnings = json.loads(instance.ctl(alice, "describe", "--json", session).stdout)["runtime"]["warnings"]
    assert any(w["code"] == "limit-not-enforced" and "limits.output" in w["message"] for w in warnings)


# ---- the command line ----

def test_detached_output_is_in_the_log(instance, alice):
    done = instance.ctl(alice, "run", "--detach", "--", "/bin/sh", "-c", "echo out; echo err >&2; sleep 60",
                        cwd=alice.workspace())
    session = done.stdout.strip()
    assert eventually(lambda: instance.ctl(alice, "logs", session).stdout == "out\n", 20)
    assert instance.ctl(alice, "logs", session).stderr == "err\n"
    follower = instance.ctl_start(alice, "logs", "-f", session, stdout=machine.subprocess.PIPE, text=True)
    assert follower.stdout.readline() == "out\n"
    instance.ctl(alice, "terminate", "--grace", "0", session)
    assert follower.wait(30) == 0
    pieces = [json.loads(line) for line in instance.ctl(alice, "logs", "--json", session).stdout.splitlines()]
    assert [p["stream"] for p in pieces] == ["stdout", "stderr"]
    assert instance.ctl(alice, "logs", "--tail", "2", session, "1").stdout + \
        instance.ctl(alice, "logs", "--tail", "2", session, "1").stderr == "r\n"
    instance.ctl(alice, "remove", session)
    done = instance.ctl(alice, "logs", session)
    assert done.returncode == 125 and "no session" in done.stderr


def test_attach_from_the_command_line(instance, alice):
    session = instance.create(alice)
    exec_call = {"id": session, "command": {"commandLine": ["/bin/sh", "-c", "cat; echo bye >&2; exit 6"],
                                            "standardInput": "stream", "standardOutput": "stream"}}
    assert "error" not in instance.call(alice, SESSION + "Exec", exec_call)[0]
    done = instance.ctl(alice, "attach", session, input="a\nb\n")
    assert (done.returncode, done.stdout, done.stderr) == (6, "a\nb\n", "bye\n")
    # Of one stream: in what order two pipes are read is not said by when they were written.
    exec_call["command"]["commandLine"][2] = "cat; exit 6"
    instance.call(alice, SESSION + "Exec", exec_call)
    big = "0123456789abcdef" * 100000
    done = instance.ctl(alice, "attach", session, input=big)
    assert (done.returncode, done.stdout) == (6, big)
    done = instance.ctl(alice, "attach", "--replay", "8", "--read-only", session)
    assert (done.returncode, done.stdout + done.stderr) == (6, "89abcdef")
    done = instance.ctl(alice, "attach", "none")
    assert done.returncode == 125 and "no session none" in done.stderr


def test_attach_and_leave(instance, alice):
    done = instance.ctl(alice, "run", "--detach", "-t", "--", "/bin/sh", "-c", "while read x; do echo got-$x; done",
                        cwd=alice.workspace())
    assert done.returncode == 0, done.stderr
    session = done.stdout.strip()
    for word in ("one", "two"):
        primary, secondary = os.openpty()
        child = instance.ctl_start(alice, "attach", session, stdin=secondary, stdout=secondary, stderr=secondary)
        os.close(secondary)
        os.write(primary, word.encode() + b"\n")
        seen = b""
        while b"got-" + word.encode() not in seen:
            seen += os.read(primary, 1000)
        os.write(primary, b"\x10\x11")
        assert child.wait(30) == 0
        os.close(primary)
    listed = json.loads(instance.ctl(alice, "describe", "--json", session).stdout)["runtime"]
    assert listed["state"] == "running" and listed["processes"][0]["state"] == "running"
    instance.ctl(alice, "terminate", "--grace", "0", session)


def test_shell(instance, alice):
    session = instance.create(alice)
    done = instance.ctl(alice, "shell", session, "-T", input="echo $0; exit 3\n")
    assert done.returncode == 3 and "bash" in done.stdout
    done = instance.ctl(alice, "shell", "-T", input="echo in $PWD; exit 4\n", cwd=alice.workspace("shell-here"))
    assert done.returncode == 4 and "shell-here" in done.stdout


def test_a_terminal_with_an_output_limit_is_carried(instance, alice):
    """sandboxctl run -t attaches where it gets no descriptor."""
    profile = alice.write(os.path.join(alice.workspace(), "q.json"),
                          '{ "version": 1, "name": "q", "extends": ["agent"], "limits": { "output": "1M" } }')
    primary, secondary = os.openpty()
    child = instance.ctl_start(alice, "run", "-t", "-p", profile, "--", "/bin/sh", "-c", "stty size; exit 5",
                               stdin=secondary, stdout=secondary, stderr=secondary, cwd=alice.workspace())
    os.close(secondary)
    assert child.wait(60) == 5
    seen = b""
    with contextlib.suppress(OSError):
        while (part := os.read(primary, 1000)):
            seen += part
    os.close(primary)
    assert b"0 0" in seen or b"24 80" in seen, seen


# ---- odd times ----

def spawn_removed(connect, script, mode):
    """A session that is gone when its command is."""
    c = connect()
    command = {"commandLine": ["/bin/sh", "-c", script], "standardInput": "null" if mode == "log" else mode,
               "standardOutput": mode}
    reply = c.call("Spawn", {"context": {"removeOnExit": True}, "command": command}, more=True)
    return c, reply["parameters"]["id"]


def test_a_removed_session_waits_for_its_first_reader(connect):
    c, session = spawn_removed(connect, "echo quick; exit 3", "stream")
    while c.reply().get("continues"):
        pass
    seen = connect().attach(session).rest()
    assert seen[STDOUT] == b"quick\n" and seen[EXIT] == [(0, 3)]


def test_a_removed_session_tells_whoever_follows(connect):
    _, session = spawn_removed(connect, "echo begin; sleep 1; echo end", "log")
    assert text_of(logs(connect, session, follow=True)) == b"begin\nend\n"


def test_a_session_is_removed_under_its_reader(instance, root, connect, session):
    process = run(connect(), session, "head -c 2000000 /dev/zero | tr '\\0' y; exit 5")
    c = connect().attach(session, process=process)
    assert c.next_frame()[0] == STDOUT
    instance.ctl(root, "terminate", "--grace", "0", session)
    assert instance.ctl(root, "remove", session).returncode == 0
    seen = c.rest()
    assert len(seen[EXIT]) == 1 and set(seen[STDOUT]) <= {ord("y")}


def test_the_first_attach_takes_a_terminal_over(connect, session):
    """Whoever started it lost the descriptor without noticing, as Node does."""
    holder = connect()
    command = {"commandLine": ["/bin/sh", "-c", "read a; echo got $a"], "standardInput": "pty"}
    holder.call("Exec", {"id": session, "command": command}, n_fds=1)
    for fd in holder.fds:
        os.close(fd)
    c = connect().attach(session)
    c.frame(STDIN, b"it\n")
    assert b"got it" in c.rest()[STDOUT]


def test_a_log_with_an_input(connect, session):
    command = {"commandLine": ["/bin/cat"], "standardInput": "stream", "standardOutput": "log"}
    process = connect().call("Exec", {"id": session, "command": command})["parameters"]["process"]
    c = connect().attach(session, process=process)
    c.frame(STDIN, b"logged")
    c.frame(STDIN)
    assert c.rest()[STDOUT] == b"logged" and text_of(logs(connect, session)) == b"logged"
    command["standardInput"] = "log"
    reply = connect().call("Exec", {"id": session, "command": command})
    assert reply["parameters"] == {"parameter": "command.standardInput"}


def test_others_do_not_reach_it(instance, alice, bob, connect):
    session = instance.create(alice)
    instance.call(alice, SESSION + "Exec", {"id": session, "command": {"commandLine": ["/bin/cat"],
                                                                       "standardInput": "stream",
                                                                       "standardOutput": "stream"}})
    for method, more, flags in (("Attach", {}, {"upgrade": True}), ("Attach", {}, {}), ("Logs", {}, {"more": True}),
                                ("Resize", {"columns": 1, "rows": 1}, {})):
        reply = instance.call(bob, SESSION + method, {"id": session, **more}, **flags)
        assert reply == [{"error": SESSION + "NoSuchSession", "parameters": {"id": session}}]


def test_a_worker_that_dies_takes_its_streams_along(own_instance, root):
    """The session lives on; what was carried is broken, and said to be."""
    with contextlib.ExitStack() as stack:
        connect = lambda: stack.enter_context(Connection(own_instance))
        session = connect().call("Create", {"context": {"lifetime": "detached"}})["parameters"]["id"]
        process = run(connect(), session, "while echo x; do sleep 0.1; done; sleep 60", "log")
        c = connect().attach(session, process=process)
        assert c.next_frame()[0] == STDOUT
        worker = next(pid for pid in own_instance.workers("sandboxd-api") if uid_of_worker(pid) == "0")
        os.kill(worker, signal.SIGKILL)
        assert c.is_closed()
        assert eventually(lambda: own_instance.ctl(root, "exec", "-T", session, "true").returncode == 0, 30)
        reply = connect().call("Attach", {"id": session, "process": process}, upgrade=True)
        assert reply["error"] in (SESSION + "NotAttachable", SESSION + "NoSuchProcess")
        own_instance.ctl(root, "terminate", "--grace", "0", session)
