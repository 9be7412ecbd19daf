"""A file system of one folder that answers whom it likes: what a user may put below a workspace."""

import contextlib
import ctypes
import os
import select
import stat
import struct
import threading

from machine import comm_of

LOOKUP, GETATTR, INIT, OPENDIR, READDIR, RELEASEDIR = 1, 3, 26, 27, 28, 29
ENOENT, ENOSYS = 2, 38


class HungFolder:
    """A folder of this user that whoever is called `victim` opens and never hears of again; others than the user may not
    come in where `allow_other` is false."""

    def __init__(self, path, user, victim, allow_other=True):
        self.path, self.user, self.victim = path, user, victim
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.hung = []
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self.is_over = False
        data = f"fd={self.fd},rootmode=40000,user_id={user.uid},group_id={user.gid},default_permissions"
        if allow_other:
            data += ",allow_other"
        if self.libc.mount(b"hung", path.encode(), b"fuse", 6, data.encode()) < 0:
            error = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(error, os.strerror(error))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def answer(self, unique, body=b"", error=0):
        os.write(self.fd, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)

    def attributes(self):
        times = struct.pack("=6Q3I", 1, 0, 0, 0, 0, 0, 0, 0, 0)
        return struct.pack("=QII", 60, 0, 0) + times + struct.pack(
            "=7I", stat.S_IFDIR | 0o755, 2, self.user.uid, self.user.gid, 0, 4096, 0)

    def serve(self):
        with contextlib.suppress(OSError):
            while not self.is_over:
                # A reader that sleeps in the device would hold it open beyond close().
                if not select.select([self.fd], [], [], 0.1)[0]:
                    continue
                request = os.read(self.fd, 1 << 18)
                _, opcode, unique, _, _, _, pid, _ = struct.unpack_from("=IIQQIIII", request)
                if opcode == INIT:
                    self.answer(unique, struct.pack("=IIIIHHIIHHI", 7, 31, 0, 0, 0, 0, 4096, 0, 0, 0, 0) + bytes(28))
                elif opcode == GETATTR:
                    self.answer(unique, self.attributes())
                elif opcode == LOOKUP:
                    self.answer(unique, error=ENOENT)
                elif opcode == OPENDIR and comm_of(pid).startswith(self.victim):
                    self.hung.append(pid)
                elif opcode == OPENDIR:
                    self.answer(unique, struct.pack("=QII", 1, 0, 0))
                elif opcode in (READDIR, RELEASEDIR):
                    self.answer(unique)
                else:
                    self.answer(unique, error=ENOSYS)

    def close(self):
        """Whoever hangs goes on."""
        self.is_over = True
        self.thread.join()
        self.libc.umount2(self.path.encode(), 2)
        os.close(self.fd)
