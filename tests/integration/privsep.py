"""The private protocol as a test's end speaks it. Layouts follow proto/idl/privsep.h, numbers privsep.def."""

import os
import re
import socket
import struct

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

with open(os.path.join(REPO, "proto/idl/privsep.def")) as table:
    NAMES = re.findall(r"^MESSAGE\(\w+, (\w+),", table.read(), re.M)
NUMBERS = {name: number for number, name in enumerate(NAMES)}

HEADER = struct.Struct("@IIQ")
LAYOUTS = {name: struct.Struct("@" + layout) for name, layout in {
    "EGRESS_START": "II",
    "DIALER_RESOLVER": "I" + "I16sI" * 4,
    "DIALER_SESSION_OPEN": "16s",
    "DIALER_EGRESS_ATTACH": "16sQ",
    "DIALER_EGRESS_OVER": "16sQ",
    "DIALER_SESSION_CLOSE": "16s",
    "DECIDE": "QIIIIIIIII16s256s32s0Q",
    "VERDICT": "QQII64s256sIIIIII8xQQQ",
    "DIAL": "16sQQQIII16sI256s0Q",
    "DIAL_REFUSED": "16sQQI16sI0Q",
    "DIAL_CLOSED": "16sQQQQI16sIII0Q",
    "CONNECTED": "QQ",
    "CONNECT_FAILED": "QII",
    "CONNECTION_DONE": "QII",
}.items()}

DENY, ASK, ALLOW = 0, 1, 2
ENTRY_CONNECT, ENTRY_ABSOLUTE = 1, 2
CLOSE = ("done client server resolve timeout refused unreachable error idle egress-gone session-ended policy "
         "daemon-restart unused expired max-upload max-download").split()


def text(raw):
    return raw.split(b"\0", 1)[0].decode()


class Channel:
    """One end of a channel; pair() gives the other end for a worker."""

    def __init__(self, end):
        self.end, self.sent, self.received = end, 0, 0

    @classmethod
    def pair(cls):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def send(self, name, *values, fds=(), tail=b""):
        layout = LAYOUTS.get(name)
        body = (layout.pack(*values) if layout else b"") + tail
        packet = HEADER.pack(NUMBERS[name], len(body), self.sent) + body
        self.sent += 1
        socket.send_fds(self.end, [packet], fds)

    def receive(self, timeout=5):
        """(name, values, tail, fds); None at the end."""
        self.end.settimeout(timeout)
        try:
            packet, fds, _, _ = socket.recv_fds(self.end, 1 << 20, 8)
        except ConnectionResetError:
            return None
        if not packet:
            return None
        number, size, sequence = HEADER.unpack_from(packet)
        assert (size, sequence) == (len(packet) - HEADER.size, self.received)
        self.received += 1
        name, body = NAMES[number], packet[HEADER.size:]
        layout = LAYOUTS.get(name)
        if not layout:
            return name, (), body, fds
        return name, layout.unpack_from(body), body[layout.size:], fds


def sealed(data):
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, data)
    import fcntl
    fcntl.fcntl(fd, 1033, 0xf)  # F_ADD_SEALS: seal, shrink, grow, write
    return fd


def address(literal):
    if not literal:
        return 0, bytes(16)
    if ":" in literal:
        return 6, socket.inet_pton(socket.AF_INET6, literal)
    return 4, socket.inet_aton(literal) + bytes(12)
