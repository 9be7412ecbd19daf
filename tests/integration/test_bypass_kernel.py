"""Ways round a control of what leaves that need no proxy: other protocols, other sockets, other namespaces. One test each; its
number is the one of the catalogue (test_bypass.py)."""

import json
import os
import socket
import subprocess

import pytest

import machine
from machine import eventually
from test_socks import ask, five

HELPERS = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def name(e):
    return errno.errorcode.get(e, str(e))
def attempt(f, *a):
    try:
        return f(*a)
    except OSError as e:
        return name(e.errno) if e.errno else type(e).__name__
def call(*a):
    ctypes.set_errno(0)
    r = libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
    return name(ctypes.get_errno()) if r < 0 else "done"
"""


@pytest.fixture
def inside(instance, alice, profile):
    def run(script, *arguments):
        done = instance.ctl(alice, "run", "-q", "-T", "-p", profile, "--", "python3", "-c", HELPERS + script, *map(str, arguments),
                            cwd=alice.workspace(), timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
    return run


def test_e09_no_search_list(inside, dns, instance):
    """A short name is what it says: policy asks about it, and about no other."""
    before, asked = instance.head(), len(dns.questions)
    text, _ = inside("""
print(json.dumps([open("/etc/resolv.conf").read(), attempt(lambda: len(socket.getaddrinfo("intra", 80)))]))""")
    assert not [line for line in text.splitlines() if line.split()[:1] in (["search"], ["domain"])]
    assert {(row["host"], row["verdict"]) for row in instance.rows(before, kind="dns")} == {("intra", "ask")}
    assert len(dns.questions) == asked


def test_e50_nobody_on_the_wire(inside):
    found = inside("""
def send(to, port):
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect((to, port))
    s.send(b"x")
    return s.recv(1).hex()
print(json.dumps([attempt(send, *a) for a in (("224.0.0.251", 5353), ("224.0.0.252", 5355), ("239.255.255.250", 1900),
                                              ("255.255.255.255", 67), ("10.0.2.255", 137))]))""")
    assert not set(found) & {"", "78"} and all(found), found


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_e53_datagrams(inside, instance, alice, profile, family):
    """Refused so that the sender hears of it, each destination with its row; SOCKS has no UDP either."""
    address = "93.184.216.34" if family == "v4" else "2606:2800:220:1::34"
    before = instance.head()
    found = inside("""
def send(port):
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.connect((sys.argv[1], port))
    s.send(b"x")
    return s.recv(1).hex()
print(json.dumps([attempt(send, port) for port in (443, 3478, 51820, 853, 123)]))""", address)
    assert found == ["ECONNREFUSED"] * 5
    rows = eventually(lambda: (lambda r: r if len(r) >= 5 else None)(instance.rows(before, kind="net", entry="udp")), 20)
    raw = socket.inet_pton(socket.AF_INET if family == "v4" else socket.AF_INET6, address)
    assert {(r["ip"], r["port"], r["verdict"], r["reason"]) for r in rows} == \
        {(raw, port, "deny", "protocol") for port in (443, 3478, 51820, 853, 123)}
    answer, = ask(instance, alice, profile, [five("allowed.test", 443, command=3)])
    assert answer[2:4] == b"\5\7"


def test_e54_other_protocols(inside):
    """Who asks for a socket for pings has a row, too (test_pings.py)."""
    raw, ping = inside("""
def ping():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    s.settimeout(3)
    s.sendto(b"\\10\\0\\0\\0\\0\\0\\0\\1", (sys.argv[1], 0))
    return s.recv(64).hex()
kinds = [(f, socket.SOCK_RAW, p) for f in (socket.AF_INET, socket.AF_INET6) for p in (1, 4, 17, 47, 58, 255)]
kinds += [(socket.AF_INET, socket.SOCK_SEQPACKET, 132), (socket.AF_INET, socket.SOCK_STREAM, 132), (socket.AF_INET, 6, 33)]
print(json.dumps([[attempt(lambda k=k: socket.socket(*k).close() or "made") for k in kinds], attempt(ping)]))""", "8.8.8.8")
    assert "made" not in raw, raw
    assert ping in ("EPERM", "EACCES"), ping


def test_e55_ipv6(inside):
    devices, addresses, sent = inside("""
devices = [line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:]]
try:
    addresses = [(line.split()[0], line.split()[5]) for line in open("/proc/net/if_inet6")]
except FileNotFoundError:
    addresses = []
def send(to):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.sendto(b"x", (to, 9, 0, 1))
    return s.recvfrom(1)[0].hex()
print(json.dumps([devices, addresses, [attempt(send, to) for to in ("ff02::1", "ff02::2", "fe80::1", "fd00::1")]]))""")
    assert devices == ["lo"] and {device for _, device in addresses} <= {"lo"}
    assert not {address[:4] for address, _ in addresses} - {"0000", "fd00"}
    assert "78" not in sent, sent


def test_e56_sockets_of_virtual_machines(inside):
    assert set(inside("print(json.dumps([attempt(lambda t=t: socket.socket(40, t).close() or 'made') for t in (1, 2, 5)]))")) <= \
        {"EAFNOSUPPORT", "EPERM", "EACCES"}


def test_e57_families(inside):
    found, ring = inside("""
allowed = {1, 2, 10, 16}
made = {f: attempt(lambda f=f, t=t: socket.socket(f, t).close() or "made") for f in range(3, 46) if f not in allowed for t in (1, 2, 3, 5)}
made.update({f"netlink {p}": attempt(lambda p=p: socket.socket(16, 3, p).close() or "made") for p in range(1, 22)})
print(json.dumps([made, [call(425, 8, ctypes.create_string_buffer(128)), call(426, 0, 0, 0, 0, 0, 0), call(427, 0, 0, 0, 0)]]))""")
    assert not [family for family, result in found.items() if result == "made"], found
    assert set(ring) <= {"EPERM", "ENOSYS"}


def test_e58_sockets_of_the_host(inside, tmp_path_factory):
    """A name without a file is not found; one with a file is not there."""
    folder = tmp_path_factory.mktemp("sock")
    os.chmod(folder, 0o755)
    abstract, named = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with abstract, named:
        abstract.bind(f"\0sbxt-{os.getpid()}")
        named.bind(f"{folder}/s")
        os.chmod(f"{folder}/s", 0o777)
        for listener in (abstract, named):
            listener.listen()
        found = inside("print(json.dumps([attempt(lambda a=a: socket.socket(socket.AF_UNIX).connect(a) or 'connected') "
                       "for a in ('\\0' + sys.argv[1], sys.argv[2])]))", f"sbxt-{os.getpid()}", f"{folder}/s")
    assert found[0] in ("ECONNREFUSED", "EPERM") and found[1] == "ENOENT", found


def inodes(path):
    with open(path, encoding="ascii") as f:
        return {line.split()[9] for line in f.read().splitlines()[1:]}


def test_e59_init_has_no_way_out(instance, alice, profile):
    """None of the sockets of a session's processes is one of the network around."""
    process = instance.ctl_start(alice, "run", "-q", "-T", "-p", profile, "--", "sh", "-c", "echo; exec sleep 60",
                                 cwd=alice.workspace(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"\n"
        outside = set().union(*(inodes(f"/proc/net/{name}") for name in ("tcp", "udp", "raw", "tcp6", "udp6", "raw6")
                                if os.path.exists(f"/proc/net/{name}")))
        found = instance.workers("sandbox-init")
        assert found
        for pid in found + [child for init in found for child in machine.children_of(init)]:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert not outside & {link[8:-1] for link in links if link.startswith("socket:[")}, (pid, links)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_e60_namespaces(inside):
    found = inside("""
print(json.dumps([call(272, flag) for flag in (0x40000000, 0x10000000, 0x50000000, 0x20000)] +
                 [attempt(lambda p=p: os.readlink(f"/proc/{p}/ns/net") and open(f"/proc/{p}/ns/net") and "opened") for p in (1,)] +
                 [call(308, attempt(os.open, "/proc/self/ns/net", os.O_RDONLY), 0x40000000)]))""")
    assert set(found) <= {"EPERM", "EACCES", "ENOSPC", "EINVAL", "ENOSYS"}, found
    done = inside("""
import subprocess
print(json.dumps([subprocess.run(c, capture_output=True).returncode for c in
    (["ip", "link", "add", "x0", "type", "dummy"], ["ip", "route", "add", "1.2.3.4", "dev", "lo"], ["ip", "link", "set", "lo", "down"])]))""")
    assert 0 not in done


def test_e61_processes_outside(inside, instance):
    found = inside("""
fds = [call(434, int(pid), 0) for pid in sys.argv[1:]]
print(json.dumps(fds + [call(101, 16, int(pid), 0, 0) for pid in sys.argv[1:]] +
                 [call(310, int(pid), ctypes.create_string_buffer(64), 1, ctypes.create_string_buffer(64), 1, 0) for pid in sys.argv[1:]]))""",
                   instance.process.pid, os.getpid())
    assert set(found) <= {"ESRCH", "EPERM", "ENOSYS"}, found


def test_e62_devices(inside):
    found = inside("""
print(json.dumps([attempt(lambda n=n: os.close(os.open("/dev/" + n, os.O_RDWR)) or "opened") for n in
    ("net/tun", "kvm", "vhost-vsock", "vhost-net", "vsock", "uinput", "bus/usb/001/001", "rfkill", "ppp", "fuse", "mem", "hwrng")]))""")
    assert set(found) <= {"ENOENT", "EACCES", "EPERM"}, found


def test_e63_mounts(inside):
    found = inside("""
def mount(kind, source):
    return call(165, source, ctypes.c_char_p(b"/tmp"), kind, 0, ctypes.c_char_p(b"addr=127.0.0.1"))
print(json.dumps([mount(ctypes.c_char_p(k), ctypes.c_char_p(s)) for k, s in ((b"nfs", b"1.2.3.4:/x"), (b"9p", b"1.2.3.4"),
    (b"fuse", b"x"), (b"cifs", b"//1.2.3.4/x"), (b"tmpfs", b"x"))] + [call(430, ctypes.c_char_p(b"nfs"), 0)]))""")
    assert set(found) <= {"EPERM", "ENOSYS"}, found


def test_e64_descriptors(inside):
    assert inside("""
found = []
for fd in os.listdir("/proc/self/fd"):
    try:
        found.append((int(fd), os.readlink("/proc/self/fd/" + fd)))
    except FileNotFoundError:
        pass
print(json.dumps([fd for fd, _ in found if fd > 2] + [link for _, link in found if link.startswith("socket:")]))""") == []


def test_e65_other_tcp(inside, instance, other_web):
    """MPTCP and early data are TCP like any other; no connection meets itself."""
    before, accepted = instance.head(), other_web.accepted
    mptcp, fast, own = inside("""
def mptcp():
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    s.settimeout(20)
    s.connect(("93.184.216.34", 81))
    s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    return s.recv(12).decode()
def fast():
    s = socket.socket()
    s.sendto(b"GET / HTTP/1.1\\r\\n\\r\\n", 0x20000000, ("93.184.216.34", 82))
    s.settimeout(20)
    return s.recv(12).decode()
def itself(port):
    s = socket.socket()
    s.settimeout(5)
    s.bind(("", port))
    s.connect(("9.9.9.9", port))
    same = s.getsockname() == s.getpeername()
    s.close()
    return same
print(json.dumps([attempt(mptcp), attempt(fast), [attempt(itself, port) for port in range(40000, 40050)]]))""")
    assert mptcp in ("HTTP/1.1 403", "ECONNRESET", "EPROTONOSUPPORT", "ENOPROTOOPT", "EPERM", "EACCES"), mptcp
    assert fast in ("HTTP/1.1 403", "ECONNRESET", "EOPNOTSUPP"), fast
    assert True not in own and other_web.accepted == accepted
    rows = eventually(lambda: (lambda r: r if len(r) >= 40 else None)(instance.rows(before, kind="net")), 20)
    assert {row["verdict"] for row in rows} == {"deny"}


def test_e79_nothing_is_fetched():
    """What reads certificates, or their lists, is not in the programs that speak to the network."""
    for name in ("egress", "dialer"):
        program = os.path.join(machine.BUILD, f"daemon/{name}/sandboxd-{name}")
        listed = subprocess.run(["readelf", "-d", program], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert "NEEDED" in listed and not [line for line in listed.splitlines() if "libssl" in line or "libcurl" in line or
                                           "gnutls" in line or "libcrypto" in line], name
