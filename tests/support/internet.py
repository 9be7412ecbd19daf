"""A small internet of the tests' own: one network namespace for the daemon, one whose servers have every address that the
tests use, and a cable between them. Nothing of it touches the machine's own network."""

import contextlib
import ctypes
import os
import subprocess
import threading

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)

# Addresses of nobody in particular, but not of those that are never reached without a rule for their range.
V4, V6 = "93.184.216.34", "2606:2800:220:1::34"
OTHER_V4, OTHER_V6 = "93.184.216.35", "2606:2800:220:1::35"
THIRD_V4 = "93.184.216.36"

HOME = """
ip link set lo up
ip addr add 10.77.0.2/30 dev cable0
[ ! -e /proc/net/if_inet6 ] || ip addr add fd77::2/126 dev cable0 nodad
ip link set cable0 up
ip route add default via 10.77.0.1
[ ! -e /proc/net/if_inet6 ] || ip -6 route add default via fd77::1
"""
WORLD = """
ip link set lo up
ip link add cable1 type veth peer name cable0 netns {home}
ip addr add 10.77.0.1/30 dev cable1
[ ! -e /proc/net/if_inet6 ] || ip addr add fd77::1/126 dev cable1 nodad
ip link set cable1 up
ip route add local 93.184.216.0/24 dev lo
ip route add local 77.0.0.0/24 dev lo
ip route add local 169.254.1.0/24 dev lo
[ ! -e /proc/net/if_inet6 ] || ip -6 route add local 2606:2800:220:1::/64 dev lo
"""


class Namespace:
    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.path = f"/proc/{self.holder.pid}/ns/net"
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def run(self, script):
        subprocess.run(["nsenter", f"--net={self.path}", "sh", "-ec", script], check=True, stdin=subprocess.DEVNULL)

    def make(self, function, *arguments, **named):
        """What function makes, its sockets inside: in a thread, for setns() changes the thread alone."""
        result = []

        def work():
            if LIBC.setns(self.fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            result.append(function(*arguments, **named))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return result[0]

    def close(self):
        os.close(self.fd)
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


class Internet:
    def __init__(self):
        self.home, self.world = Namespace(), Namespace()
        try:
            self.world.run(WORLD.format(home=self.home.holder.pid))
            self.home.run(HOME)
        except BaseException:
            self.close()
            raise

    def close(self):
        self.home.close()
        self.world.close()


@contextlib.contextmanager
def internet():
    net = Internet()
    try:
        yield net
    finally:
        net.close()
