"""The virtual machine's disk: Debian with its cloud kernel, made once; and the disk that brings tree and build along."""

import glob
import os
import shutil
import subprocess
import tempfile

PACKAGES = ["systemd-sysv", "udev", "dbus", "linux-image-cloud-amd64", "libseccomp2", "libjson-c5", "libevent-core-2.1-7",
            "libcap2", "libsqlite3-0", "libssl3", "libc-ares2", "libidn2-0", "libpsl5", "libmnl0", "libnftnl11",
            "libsystemd0", "libbpf1", "python3", "python3-pytest", "curl", "git", "iproute2"]

# Runs when everything else does; its output and status leave by the second and third serial line.
UNIT = """[Unit]
Description=The command of ./dev vm
After=multi-user.target
[Service]
Type=oneshot
ExecStartPre=mkdir -p /tree
ExecStartPre=mount /dev/vdb /tree
ExecStart=/bin/sh /tree/boot.sh
StandardOutput=null
StandardError=journal+console
FailureAction=poweroff-force
[Install]
WantedBy=default.target
"""


def run(*argv, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"dev vm: {argv[0]} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def disk_of(folder, path, megabytes):
    run("truncate", "-s", f"{megabytes}M", path)
    run("mke2fs", "-q", "-t", "ext4", "-F", "-E", "root_owner=0:0", "-d", folder, path)


def base(folder):
    """Paths of disk, kernel and initrd; made where they are not there yet. Nobody writes to them afterwards."""
    found = [os.path.join(folder, name) for name in ("base.ext4", "vmlinuz", "initrd.img")]
    stamp = os.path.join(folder, "packages")
    wanted = " ".join(PACKAGES) + UNIT
    if os.path.exists(stamp) and open(stamp, encoding="utf-8").read() == wanted:
        return found
    os.makedirs(folder, exist_ok=True)
    tree = tempfile.mkdtemp(prefix="root-", dir=folder)
    try:
        root = os.path.join(tree, "root")
        # The initrd needs the modules of one machine only, and is unpacked by an emulated processor.
        run("mmdebstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES),
            "--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d",
            "--essential-hook=printf 'MODULES=list\\nCOMPRESS=gzip\\n' > $1/etc/initramfs-tools/conf.d/vm",
            "--essential-hook=printf 'virtio_pci\\nvirtio_blk\\next4\\n' > $1/etc/initramfs-tools/modules",
            "bookworm", root)
        for name, prefix in zip(found[1:], ("vmlinuz-", "initrd.img-")):
            shutil.copyfile(max(glob.glob(os.path.join(root, "boot", prefix + "*"))), name)
        with open(os.path.join(root, "etc/systemd/system/vm.service"), "w", encoding="utf-8") as f:
            f.write(UNIT)
        wants = os.path.join(root, "etc/systemd/system/default.target.wants")
        os.makedirs(wants, exist_ok=True)
        os.symlink("/etc/systemd/system/vm.service", os.path.join(wants, "vm.service"))
        for unit in ("serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer",
                     "systemd-timesyncd.service", "e2scrub_reap.service"):
            with open(os.path.join(root, "etc/fstab"), "w", encoding="utf-8"):
                pass
            path = os.path.join(root, "etc/systemd/system", unit)
            if not os.path.lexists(path):
                os.symlink("/dev/null", path)
        size = int(run("du", "-sm", root).split()[0])
        disk_of(root, found[0], size + size // 3 + 400)
    finally:
        shutil.rmtree(tree)
    with open(stamp, "w", encoding="utf-8") as f:
        f.write(wanted)
    return found


def tree_disk(path, top, build, boot_script):
    """The disk of one test: the checkout without what was built but programs, what is to be installed, boot.sh."""
    folder = tempfile.mkdtemp(prefix="tree-", dir=os.path.dirname(path))
    try:
        work = os.path.join(folder, "top")
        os.mkdir(work)
        names = run("git", "-C", top, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        files = "\0".join(name for name in names if name and os.path.lexists(os.path.join(top, name)))
        run("tar", "-C", top, "--null", "-T", "-", "-cf", os.path.join(folder, "top.tar"), input=files)
        run("tar", "-C", work, "-xf", os.path.join(folder, "top.tar"))
        os.unlink(os.path.join(folder, "top.tar"))
        run("meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", os.path.join(folder, "install"))
        with open(os.path.join(folder, "boot.sh"), "w", encoding="utf-8") as f:
            f.write(boot_script)
        disk_of(folder, path, int(run("du", "-sm", folder).split()[0]) + 500)
    finally:
        shutil.rmtree(folder)
