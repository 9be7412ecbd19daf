#!/usr/bin/python3
"""`./dev vm [COMMAND]`: COMMAND in a virtual machine with Debian's kernel, systemd as pid 1 and sandboxd installed;
its output and status come back. Without one: the tests of this folder, which boot machines of their own."""

import os
import subprocess
import sys
import tempfile
import time

import machine_image

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("SANDBOXD_BUILD", os.path.join(TOP, "build"))
FOLDER = os.path.join(BUILD, "vm")
MEMORY_MB = 1536
COMMAND_BYTES = 65536

# Output is copied as it is; what a command leaves behind on its terminal does not hold the machine up.
BOOT = """#!/bin/sh
stty -F /dev/ttyS1 raw -echo; stty -F /dev/ttyS2 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
mkdir -p TOP /var/lib/sandboxd /tree/state
mount --bind /tree/top TOP && mount --bind /tree/state /var/lib/sandboxd &&
cp -a /tree/install/. / && systemd-sysusers >/dev/console 2>&1 && systemctl daemon-reload && systemctl start sandboxd.socket || exit 1
cd TOP
tr -d "\\000" </dev/vdc >/run/command
sh /run/command
echo "exit $?" >/dev/ttyS2
sync
poweroff -ff >/dev/console 2>&1
"""


class Vm:
    """One disk, booted as often as it takes; what lies in /var/lib/sandboxd stays from one start to the next."""

    def __init__(self):
        self.base, self.kernel, self.initrd = machine_image.base(FOLDER)
        self.folder = tempfile.mkdtemp(prefix="run-", dir=FOLDER)
        self.disk, self.command = (os.path.join(self.folder, name) for name in ("tree.ext4", "command"))
        machine_image.tree_disk(self.disk, TOP, BUILD, BOOT.replace("TOP", TOP))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        os.rmdir(self.folder)

    def argv(self):
        serial = [["-serial", f"file:{os.path.join(self.folder, name)}"] for name in ("console", "output", "status")]
        return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MB),
                "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
                "-kernel", self.kernel, "-initrd", self.initrd,
                "-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 systemd.show_status=false",
                "-drive", f"file={self.base},if=virtio,format=raw,snapshot=on",
                "-drive", f"file={self.disk},if=virtio,format=raw,cache=writethrough",
                "-drive", f"file={self.command},if=virtio,format=raw,readonly=on", *sum(serial, [])]

    def put_command(self, command):
        """A disk of its own: the other one may have a journal that is yet to be read."""
        data = command.encode() + b"\n"
        with open(self.command, "wb") as f:
            f.write(data + bytes(-len(data) % COMMAND_BYTES))

    def read(self, name):
        with open(os.path.join(self.folder, name), encoding="utf-8", errors="replace") as f:
            return f.read()

    def boot(self, command, timeout=600, output=None):
        """Status and output of a shell command; status None: the machine ended (or was ended) before it did."""
        self.put_command(command)
        with subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL) as qemu:
            end = time.monotonic() + timeout
            sent = 0
            while qemu.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
                sent = self.pass_on(output, sent)
            qemu.kill()
        self.pass_on(output, sent)
        words = self.read("status").split()
        status = int(words[1]) if len(words) == 2 and words[0] == "exit" else None
        return status, self.read("output")

    def pass_on(self, output, sent):
        if not output:
            return sent
        path = os.path.join(self.folder, "output")
        if os.path.exists(path):
            with open(path, "rb") as f:
                f.seek(sent)
                part = f.read()
            output.write(part)
            output.flush()
            sent += len(part)
        return sent


def main():
    if len(sys.argv) < 2:
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.path.join(TOP, "tests/pytest.ini"),
                "--rootdir", os.path.join(TOP, "tests"), HERE]
        return subprocess.run(argv, check=False).returncode
    with Vm() as vm:
        status, _ = vm.boot(" ".join(sys.argv[1:]), timeout=3600, output=sys.stdout.buffer)
        if status is None:
            print("dev vm: the machine ended before the command did; its console said:", file=sys.stderr)
            print(vm.read("console")[-4000:], file=sys.stderr)
            return 125
        return status


if __name__ == "__main__":
    sys.exit(main())
