"""Descriptors beside messages: which message they belong to, how many there may be, and that none stays. D07."""

import array
import contextlib
import fcntl
import json
import os
import pwd
import random
import socket
import struct
import subprocess
import termios

import pytest

from machine import count_fds, eventually
from wire import Connection, message

INFO = message("org.varlink.service.GetInfo")
FDS_MAX = 8


@contextlib.contextmanager
def null_fds(n):
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(n)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def validate(text='{"version":1,"name":"x"}', index=0):
    """A call that takes one descriptor, and a descriptor for it."""
    fd = os.memfd_create("policy", os.MFD_CLOEXEC)
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return message("io.sandboxd.Policy.Validate", {"contentFileDescriptor": index}), fd


@pytest.fixture
def call():
    data, fd = validate()
    yield data, fd
    os.close(fd)


def is_valid(reply):
    return reply is not None and "error" not in reply and reply["parameters"]["valid"]


def is_info(reply):
    return reply is not None and "vendor" in reply.get("parameters", {})


def holders(daemon):
    """The processes that descriptors of clients pass through."""
    return [daemon.process.pid, *daemon.workers("sandboxd-api"), *daemon.workers("sandboxd-audit")]


@pytest.fixture
def constant(daemon, connect):
    """Afterwards the daemon holds as many descriptors as before."""
    assert is_info(connect().call("org.varlink.service.GetInfo"))
    before = {pid: count_fds(pid) for pid in holders(daemon)}
    yield
    assert eventually(lambda: all(count_fds(pid) <= n for pid, n in before.items()), 30), \
        (before, {pid: count_fds(pid) for pid in before})


def wait_until_read(c):
    """What was sent is with the daemon: else the kernel may hand it over together with what comes next."""
    def unread():
        return struct.unpack("i", fcntl.ioctl(c.socket, termios.TIOCOUTQ, b"\0" * 4))[0]
    assert eventually(lambda: unread() == 0, 30)


# ---- whose they are ----

def test_with_the_first_byte(connect, call):
    c = connect()
    c.send(call[0], [call[1]])
    assert is_valid(c.receive())


def test_first_part_of_a_message(connect, call):
    """The rest follows without."""
    data, fd = call
    for cut in (1, 2, len(data) // 2, len(data) - 1):
        os.lseek(fd, 0, os.SEEK_SET)
        c = connect()
        c.send(data[:cut], [fd])
        c.send(data[cut:])
        assert is_valid(c.receive()), cut


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_inside_a_message(connect, call, cut):
    """They do not begin at a message boundary: whose are they?"""
    data, fd = call
    c = connect()
    c.send(data[:cut])
    wait_until_read(c)
    c.send(data[cut:], [fd])
    assert c.receive() is None


def test_behind_a_message_that_the_kernel_glues(own_daemon, call):
    """A message without and one with: one recvmsg() gives both texts, so they would seem to be the first one's."""
    data, fd = call
    pid = own_daemon.process.pid
    c = Connection(own_daemon.socket)
    assert is_info(c.call("org.varlink.service.GetInfo"))
    api, = own_daemon.workers("sandboxd-api")
    os.kill(api, 19)
    c.send(INFO)
    c.send(data, [fd])
    os.kill(api, 18)
    assert c.receive() is None
    c.close()
    assert own_daemon.process.pid == pid


def test_two_messages_in_one_chunk(connect, call):
    c = connect()
    c.send(INFO + INFO, [call[1]])
    assert c.receive() is None
    c = connect()
    c.send(call[0] + INFO, [call[1]])
    assert c.receive() is None
    c = connect()
    c.send(call[0] + b"{", [call[1]])
    assert c.receive() is None


def test_a_message_each(connect):
    """Call and answer by turns, each with descriptors of its own."""
    c = connect()
    for i in range(20):
        data, fd = validate('{"version":1,"name":"x"}' if i % 2 else '{"version":1,"nam":"x"}')
        c.send(data, [fd])
        reply = c.receive()
        assert reply["parameters"]["valid"] == bool(i % 2), reply
        os.close(fd)


def test_without_then_with(connect, call):
    """Between two messages is a message boundary."""
    c = connect()
    assert is_info(c.call("org.varlink.service.GetInfo"))
    c.send(call[0], [call[1]])
    assert is_valid(c.receive())
    assert is_info(c.call("org.varlink.service.GetInfo"))


def test_with_the_nul_alone(connect, call):
    c = connect()
    c.send(INFO[:-1])
    wait_until_read(c)
    c.send(b"\0", [call[1]])
    assert c.receive() is None


def test_long_message(connect):
    """They come with the first part of what is read in several."""
    fd = os.memfd_create("policy", os.MFD_CLOEXEC)
    os.write(fd, b'{"version":1,"name":"x"}')
    os.lseek(fd, 0, os.SEEK_SET)
    data = b'{"method":"io.sandboxd.Policy.Validate"' + b" " * 200000 + b',"parameters":{"contentFileDescriptor":0}}\0'
    c = connect()
    socket.send_fds(c.socket, [data[:1000]], [fd])
    c.send(data[1000:])
    os.close(fd)
    assert is_valid(c.receive())


# ---- how many ----

def test_none_where_one_is_named(connect):
    c = connect()
    assert c.call("io.sandboxd.Policy.Validate", {"contentFileDescriptor": 0}) == {
        "error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": "contentFileDescriptor"}}
    assert is_info(c.call("org.varlink.service.GetInfo"))


@pytest.mark.parametrize("index", [1, -1, 8, 63, 64, 2 ** 31, 2 ** 32, -2 ** 63])
def test_index_of_none(connect, index):
    data, fd = validate(index=index)
    c = connect()
    c.send(data, [fd])
    os.close(fd)
    assert c.receive() == {"error": "org.varlink.service.InvalidParameter",
                           "parameters": {"parameter": "contentFileDescriptor"}}
    assert is_info(c.call("org.varlink.service.GetInfo"))


def spawn(n_fields, indexes=None, method="io.sandboxd.Session.Spawn"):
    names = ("standardInput", "standardOutput", "standardError")[:n_fields]
    parameters = {"command": {"commandLine": ["true"], **{name: "file_descriptor" for name in names}}}
    parameters.update({"id": "no-such"} if method.endswith("Exec") else {"context": {"profile": "no-such"}})
    for i, name in enumerate(names):
        parameters[name + "FileDescriptor"] = indexes[i] if indexes else i
    return message(method, parameters)


def test_the_same_index_twice(connect):
    with null_fds(2) as fds:
        c = connect()
        c.send(spawn(2, [0, 0]), fds)
        reply = c.receive()
        assert reply == {"error": "org.varlink.service.InvalidParameter",
                         "parameters": {"parameter": "standardOutputFileDescriptor"}}


@pytest.mark.parametrize("n", [2, 3, 8])
def test_one_that_nothing_names(connect, n, call):
    data, fd = call
    with null_fds(n - 1) as fds:
        c = connect()
        c.send(data, [fd, *fds])
        assert c.receive() == {"error": "org.varlink.service.InvalidParameter",
                               "parameters": {"parameter": "fileDescriptors"}}
        assert is_info(c.call("org.varlink.service.GetInfo"))


@pytest.mark.parametrize("n", [9, 64, 252, 253])
def test_D07_more_than_a_message_may_have(connect, constant, call, n):
    data, fd = call
    with null_fds(n - 1) as fds:
        c = connect()
        c.send(data, [fd, *fds])
        assert c.receive() is None
        c.close()


@pytest.mark.parametrize("n", [1, 2, 8, 9, 253])
def test_D07_methods_that_take_none(connect, constant, n):
    with null_fds(n) as fds:
        c = connect()
        c.send(INFO, fds)
        assert c.receive() is None
        c.close()


def test_D07_unknown_and_unimplemented_methods_take_none(connect, constant):
    with null_fds(1) as fds:
        for method in ("no.such.Method", "io.sandboxd.Approval.List"):
            c = connect()
            c.send(message(method), fds)
            assert c.receive() is None
            c.close()


@pytest.mark.parametrize("parts", [(1, 1), (4, 4), (0, 1), (3, 0, 5), (9, 9)])
def test_D07_several_control_messages(connect, constant, parts):
    """In one sendmsg(); what it comes to counts."""
    with null_fds(sum(parts)) as fds:
        at, control = 0, []
        for n in parts:
            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds[at:at + n])))
            at += n
        c = connect()
        try:
            c.socket.sendmsg([INFO], control)
        except OSError:
            return
        assert c.receive() is None
        c.close()


def test_D07_in_every_part_of_a_message(connect, constant, call):
    """A few at a time, so that they would add up."""
    with null_fds(1) as fds:
        c = connect()
        for i in range(20):
            if not c.send(INFO[i:i + 1], fds):
                break
        assert c.receive() is None
        c.close()


def test_D07_with_what_never_becomes_a_message(connect, constant):
    with null_fds(8) as fds:
        for end in (True, False):
            for _ in range(20):
                c = connect()
                c.send(b'{"method":"io.sandboxd.Policy.Val', fds)
                if end:
                    c.socket.shutdown(socket.SHUT_WR)
                    assert c.receive() is None
                c.close()


def test_D07_with_refused_calls(connect, constant):
    """Descriptors of calls that fail before, at and behind their look-up."""
    with null_fds(3) as fds:
        for _ in range(20):
            c = connect()
            for data in (spawn(3, [0, 1, 1]), spawn(3, method="io.sandboxd.Session.Exec"),
                         message("io.sandboxd.Session.Spawn", {"command": {}})):
                c.send(data, fds)
                assert "error" in c.receive()
            c.close()


def test_a_descriptor_of_the_wrong_mode(connect):
    """Its field names it, and its kind is wrong: the field is what is answered."""
    for opened in (lambda: os.open("/usr", os.O_RDONLY), lambda: os.open("/etc/passwd", os.O_PATH),
                   lambda: os.open("/dev/zero", os.O_RDONLY)):
        fd = opened()
        c = connect()
        c.send(message("io.sandboxd.Policy.Validate", {"contentFileDescriptor": 0}), [fd])
        os.close(fd)
        reply = c.receive()
        assert reply is not None and "error" in reply
        assert is_info(c.call("org.varlink.service.GetInfo"))


# ---- control data that was cut ----

def set_limit(pid, limit):
    """As the worker's own user: root may lack the capability for it."""
    user = pwd.getpwnam("sandboxd-api")
    code = (f"import resource as r; hard = r.prlimit({pid}, r.RLIMIT_NOFILE)[1];"
            f"print(r.prlimit({pid}, r.RLIMIT_NOFILE, ({limit} if {limit} >= 0 else hard, hard))[0])")
    done = subprocess.run(["/usr/bin/python3", "-c", code], user=user.pw_uid, group=user.pw_gid, extra_groups=[],
                          stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


@contextlib.contextmanager
def descriptors_left(pid, left):
    """A process that may open so many more."""
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    limit = 0
    while left > 0 or limit in used:
        left -= limit not in used
        limit += 1
    before = set_limit(pid, limit)
    try:
        yield
    finally:
        set_limit(pid, before)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_D07_truncated_control_data_is_answered(daemon, connect, constant, left):
    """The receiver has no room for all: what came is closed, the call is answered with an error, and the connection
    goes on."""
    api, = daemon.workers("sandboxd-api")
    c = connect()
    assert is_info(c.call("org.varlink.service.GetInfo"))
    with null_fds(3) as fds:
        with descriptors_left(api, left):
            c.send(spawn(3), fds)
            assert c.receive() == {"error": "org.varlink.service.InvalidParameter",
                                   "parameters": {"parameter": "fileDescriptors"}}
        assert is_info(c.call("org.varlink.service.GetInfo"))
        data, fd = validate()
        c.send(data, [fd])
        os.close(fd)
        assert is_valid(c.receive())
    c.close()


def test_D07_truncated_control_data_of_a_method_that_takes_none(daemon, connect, constant):
    api, = daemon.workers("sandboxd-api")
    c = connect()
    assert is_info(c.call("org.varlink.service.GetInfo"))
    with null_fds(3) as fds, descriptors_left(api, 1):
        c.send(INFO, fds)
        assert c.receive() is None
    c.close()


# ---- many ----

CALLS = [
    {"method": "org.varlink.service.GetInfo"},
    {"method": "io.sandboxd.Session.Spawn", "parameters": {"context": {"workspace": "/nonexistent"}, "command": {
        "commandLine": ["true"], "standardInput": "file_descriptor"}, "standardInputFileDescriptor": 0}},
    {"method": "io.sandboxd.Session.Exec", "parameters": {"id": "x", "command": {"commandLine": ["true"]},
                                                          "standardInputFileDescriptor": 0}},
    {"method": "io.sandboxd.Policy.Validate", "parameters": {"contentFileDescriptor": 0}},
    {"method": "io.sandboxd.Session.List", "more": True, "parameters": {}},
    {"method": "io.sandboxd.Audit.Query", "more": True, "parameters": {"limit": 1}},
    {"method": "io.sandboxd.Session.Wait", "parameters": {"id": "none"}},
]


def damaged(rng):
    data = bytearray(json.dumps(rng.choice(CALLS)).encode() + b"\0")
    for _ in range(rng.choice((0, 0, 1, 2, 4))):
        at = rng.randrange(len(data))
        what = rng.random()
        if what < 0.4:
            data[at] = rng.randrange(256)
        elif what < 0.6:
            del data[at:at + rng.randint(1, 20)]
        elif what < 0.8:
            data[at:at] = data[at:at + rng.randint(1, 40)]
        else:
            del data[at:]
        data = data or bytearray(b"\0")
    return bytes(data)


def attack(path, rng, fds):
    """One connection with one to four messages, each with descriptors and in one or two writes. How many messages were
    sent, and how many were answered."""
    sent = answered = 0
    with Connection(path, timeout=20) as c:
        for _ in range(rng.randint(1, 4)):
            data, n = damaged(rng), rng.choice((0, 0, 1, 2, 8, 9, 30))
            cut = rng.choice((len(data), rng.randrange(len(data)) or 1))
            if not c.send(data[:cut], fds[:n]) or data[cut:] and not c.send(data[cut:], fds[:rng.choice((0, 0, 0, n))]):
                break
            sent += 1
        if rng.random() < 0.7:
            try:
                answered = len(c.finish())
            except (AssertionError, ValueError, OSError):
                answered = 0
    return sent, answered


def test_D07_D45_ten_thousand_hostile_messages(daemon, constant):
    """Damaged calls with and without descriptors: afterwards the counts are what they were."""
    rng = random.Random(7)
    pids = holders(daemon)
    sent = answered = 0
    with null_fds(30) as fds:
        while sent < 10000:
            more = attack(daemon.socket, rng, fds)
            sent, answered = sent + more[0], answered + more[1]
    assert answered > 100, "most of them never reached the daemon"
    # Readers of the log come and go besides.
    assert set(pids) <= set(holders(daemon)), "a process of the daemon has died: " + daemon.log_text()[-2000:]
    with Connection(daemon.socket) as c:
        assert is_info(c.call("org.varlink.service.GetInfo"))
