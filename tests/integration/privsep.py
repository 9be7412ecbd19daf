"""The private protocol as a test's end speaks it. Layouts follow proto/idl/privsep.h, numbers privsep.def."""

import os
import re
import socket
import struct

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

with open(os.path.join(REPO, "proto/idl/privsep.def")) as table:
    LINES = re.findall(r"^MESSAGE\(\w+, (\w+),.*, (\d+), \d+\)$", table.read(), re.M)
NAMES = [name for name, _ in LINES]
NUMBERS = {name: number for number, name in enumerate(NAMES)}
N_FDS = {name: int(n) for name, n in LINES}  # of a message that others follow in its packet

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
    "CONNECTION_PARK": "Q",
    "CONNECTION_STIRS": "Q",
    "CONNECTION_WANTED": "Q16s",
    "CONNECTION_BACK": "Q16s",
    "CONNECTION_GONE": "Q",
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
        self.end, self.sent, self.received, self.unread = end, 0, 0, []

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
        if not self.unread:
            try:
                packet, fds, _, _ = socket.recv_fds(self.end, 1 << 20, 64)
            except ConnectionResetError:
                return None
            if not packet:
                return None
            self.unread = list(self.split(packet, fds))
        return self.unread.pop(0)

    def receive_packet(self):
        """All messages of the next packet; the last is None at the end."""
        yield self.receive()
        while self.unread:
            yield self.unread.pop(0)

    def split(self, packet, fds):
        """A packet is one message or, on channels of decisions, several."""
        while packet:
            number, size, sequence = HEADER.unpack_from(packet)
            assert size <= len(packet) - HEADER.size and sequence == self.received
            self.received += 1
            name, body = NAMES[number], packet[HEADER.size:HEADER.size + size]
            packet = packet[HEADER.size + (size + 7) // 8 * 8:]
            n = N_FDS[name] if packet else len(fds)
            layout = LAYOUTS.get(name)
            values, tail = (layout.unpack_from(body), body[layout.size:]) if layout else ((), body)
            yield name, values, tail, fds[:n]
            fds = fds[n:]


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
