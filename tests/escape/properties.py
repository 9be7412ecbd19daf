"""The properties that are tried: id of the catalogue, layer, what holds, whether plain bubblewrap fails it, and how to
try it. A shell script prints nothing where the property holds; the probe's exit status says it."""

import collections

Property = collections.namedtuple("Property", "id layer text bwrap_fails script")


def probe(identity, layer, text, bwrap_fails=True):
    return Property(identity, layer, text, bwrap_fails, f"./probe {identity}")


def shell(identity, layer, text, script, bwrap_fails=True):
    return Property(identity, layer, text, bwrap_fails, script)


def sockets(identity, text, *paths):
    """Placeholders in braces are filled in by the world (world.py)."""
    return Property(identity, "mounts", text, True, "./probe connect " + " ".join(paths))


MASKED = "interrupts softirqs timer_list sched_debug schedstat slabinfo vmallocinfo pagetypeinfo"
TOKENS = "AWS_SECRET_ACCESS_KEY|SBXT_TOKEN|SBXT_KEY|SBXT_PASSWORD"
AGENTS = ("SSH_AUTH_SOCK|DBUS_SESSION_BUS_ADDRESS|DISPLAY|WAYLAND_DISPLAY|DOCKER_HOST|VSCODE_IPC_HOOK_CLI|TMUX|STY|"
          "NOTIFY_SOCKET|LISTEN_FDS|CREDENTIALS_DIRECTORY")
LOADERS = ("LD_AUDIT|GLIBC_TUNABLES|GCONV_PATH|BASH_ENV|ENV|PYTHONSTARTUP|PYTHONPATH|NODE_OPTIONS|PERL5LIB|RUBYOPT|"
           "JAVA_TOOL_OPTIONS|GIT_SSH_COMMAND")

PROPERTIES = [
    # files: the mount namespace
    shell("F01", "mounts", "a private key in the home is not readable", "cat {home}/.ssh/id_sbxt 2>/dev/null; true"),
    shell("F02", "mounts", "other users' files are not visible",
          "cat {other_home}/readable 2>/dev/null; ls {other_home} 2>/dev/null; true"),
    shell("F03", "identity", "files of a supplementary group stay unreadable", "cat group-file 2>/dev/null; true"),
    shell("F04", "mounts", "outside the workspace nothing is writable",
          "for d in / /usr /etc /var /opt; do touch $d/sbxt-probe 2>/dev/null && echo $d; done; true", False),
    shell("F07", "mounts", "symbolic links out of the workspace give nothing",
          "ln -s /etc/shadow l 2>/dev/null; ln -s {home}/.ssh/id_sbxt m 2>/dev/null; cat l m 2>/dev/null; rm -f l m", False),
    probe("F10", "stdio", "no descriptors but standard input, output and error"),
    probe("F11", "stdio", "a descriptor that the caller holds cannot be used"),
    probe("F16", "seccomp", "no file is opened by its handle", False),
    probe("F17", "seccomp", "no handles of files are given"),
    shell("F20", "mounts", "all mounts are nosuid and nodev",
          "awk '$6 !~ /nosuid/ || ($6 !~ /nodev/ && $5 !~ \"^/dev\")' /proc/self/mountinfo", True),
    probe("F30", "seccomp", "no setuid files, devices or whiteouts are made", False),
    probe("F31", "seccomp", "no privileged attributes of files are set", False),
    shell("F33", "mounts", "/tmp is private", "cat {tmp_canary} 2>/dev/null; true"),
    shell("F34", "mounts", "/var/tmp, /dev/shm and /run/user are private",
          "cat /var/tmp/sbxt-canary /dev/shm/sbxt-canary 2>/dev/null; ls /run/user 2>/dev/null; true", True),
    shell("F35", "mounts", "what is hidden has no metadata", "stat -c %n {home}/.aws/credentials 2>/dev/null; true"),
    shell("F36", "mounts", "the roots of all processes are this session's",
          "for r in /proc/[0-9]*/root; do ls $r/home 2>/dev/null | grep -Fx {other_name}; done; true", True),
    probe("F40", "mounts", "programs of the system cannot be written through a mapping", False),
    # /proc and /sys
    shell("P02", "init", "pid 1 has no environment to read", "tr '\\0' '\\n' </proc/1/environ 2>/dev/null | head -3"),
    probe("P03", "init", "pid 1 cannot be traced and its memory not opened"),
    shell("P04", "mounts", "kernel settings cannot be opened for writing",
          "for f in kernel/core_pattern kernel/modprobe vm/drop_caches fs/binfmt_misc/register; do "
          "( : >>/proc/sys/$f ) 2>/dev/null && echo $f; done; true", False),
    shell("P08", "mounts", "the kernel's symbols are masked", "head -c1 /proc/kallsyms 2>/dev/null"),
    shell("P09", "mounts", "keys of the user are masked", "cat /proc/keys /proc/key-users 2>/dev/null"),
    shell("P10", "mounts", "what tells of the machine's work is masked",
          f"for f in {MASKED}; do head -c1 /proc/$f 2>/dev/null | grep -q . && echo $f; done; true"),
    shell("P11", "mounts", "the kernel's command line is masked", "head -c20 /proc/cmdline 2>/dev/null"),
    shell("P13", "mounts", "the table of mounts tells nothing of other users",
          "grep -F {other_home} /proc/self/mountinfo; true"),
    shell("P14", "cgroup", "the session sees its own control groups only, each command its own",
          "grep '^0::' /proc/self/cgroup | grep -vxE '0::/e[0-9]+'; grep -v '^0::' /proc/self/cgroup | "
          "grep -vE ':/(e[0-9]+)?$'; true", True),
    shell("P18", "mounts", "/sys shows no firmware, debugging and devices",
          "ls -d /sys/kernel/debug /sys/firmware /sys/kernel/security /sys/class/net/* 2>/dev/null; true"),
    shell("P19", "cgroup", "control groups cannot be made, siblings not seen",
          "find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs 2>/dev/null | head -3; true", True),
    # processes
    shell("P01", "pid namespace", "only the session's processes are visible", "ls -d /proc/{host_pid} 2>/dev/null; true", False),
    probe("R05", "seccomp", "no process can be traced"),
    probe("R07", "seccomp", "descriptors of other processes cannot be taken"),
    probe("R11", "seccomp", "no real-time priority", False),
    probe("R17", "limits", "no core files"),
    # namespaces, capabilities, identity
    shell("N01", "identity", "all sets of capabilities are empty",
          "grep -E '^Cap' /proc/self/status | grep -v 0000000000000000; true", False),
    shell("N02", "identity", "no new privileges", "grep NoNewPrivs /proc/self/status | grep -v 1; true", False),
    probe("N03", "identity", "securebits are locked"),
    probe("N04", "identity", "one group only"),
    probe("N05", "user namespace", "no user namespace by unshare"),
    probe("N06", "user namespace", "no user namespace by clone and clone3"),
    probe("N07", "seccomp", "no namespace of another kind", False),
    shell("N10", "user namespace", "one uid, and it is not 0",
          "test $(wc -l </proc/self/uid_map) = 1 || cat /proc/self/uid_map; test $(id -u) != 0 || id -u; "
          "awk '$3 != 1' /proc/self/uid_map", False),
    probe("N17", "identity", "identities cannot be changed", False),
    shell("N19", "user namespace", "the number of user namespaces is 0 as a second layer",
          "test \"$(cat /proc/sys/user/max_user_namespaces)\" = 0 || cat /proc/sys/user/max_user_namespaces", True),
    probe("N20", "keyring", "the caller's keys are not found"),
    # seccomp
    probe("S01", "seccomp", "a filter is in force"),
    probe("S02", "seccomp", "the 32-bit system call interface ends the process"),
    probe("S03", "seccomp", "the x32 interface is not answered", False),
    probe("S05", "seccomp", "no io_uring"),
    probe("S06", "seccomp", "no bpf", False),
    probe("S07", "seccomp", "no userfaultfd"),
    probe("S08", "seccomp", "no performance events"),
    probe("S09", "seccomp", "no keyrings"),
    probe("S10", "seccomp", "memory of other processes is out of reach"),
    probe("S11", "seccomp", "no typing into terminals, also with high bits set"),
    probe("S12", "seccomp", "no pasting of the console", True),
    probe("S13", "seccomp", "the personality cannot be changed"),
    probe("S14", "seccomp", "clone3 does not exist"),
    probe("S15", "seccomp", "clone refuses each namespace, also with high bits set"),
    probe("S16", "seccomp", "unshare and setns are refused"),
    probe("S17", "seccomp", "the mount calls are refused", True),
    probe("S18", "seccomp", "modules, kexec, reboot, swap and ports are refused", False),
    probe("S20", "seccomp", "no local descriptor tables"),
    probe("S21", "seccomp", "no moving of pages", True),
    probe("S22", "seccomp", "families of sockets by allow-list"),
    probe("S26", "seccomp", "no fanotify, no listener of a filter", False),
    probe("S27", "seccomp", "no secret memory"),
    probe("S29", "seccomp", "numbers above the highest known do not exist", False),
    # sockets of the host
    sockets("I02", "sockets in shared folders are not there", "{tmp_socket}", "{run_socket}"),
    sockets("I04", "no sockets of container engines", "/run/docker.sock", "/run/containerd/containerd.sock"),
    sockets("I06", "no system bus", "/run/dbus/system_bus_socket"),
    sockets("I07", "no user bus and user manager", "/run/user/{uid}/bus", "/run/user/{uid}/systemd/private"),
    sockets("I08", "no notify and journal sockets", "/run/systemd/notify", "/run/systemd/journal/socket"),
    sockets("I09", "no ssh agent", "/tmp/ssh-sbxt/agent.1"),
    sockets("I10", "no gpg agent and keyring", "/run/user/{uid}/gnupg/S.gpg-agent", "/run/user/{uid}/keyring/control"),
    sockets("I11", "no X11", "/tmp/.X11-unix/X97"),
    sockets("I12", "no Wayland and sound", "/run/user/{uid}/wayland-0", "/run/user/{uid}/pipewire-0"),
    sockets("I13", "no tmux", "/tmp/tmux-{uid}/default"),
    sockets("I14", "no editors", "/run/user/{uid}/vscode-sbxt.sock"),
    sockets("I15", "no package and print daemons", "/run/snapd.socket",
            "/run/cups/cups.sock"),
    probe("I18", "keyring", "the caller's session keyring is not inherited")._replace(script="./probe N20"),
    # network
    shell("W01", "network namespace", "no device but lo", "ls /proc/self/net/dev >/dev/null; "
          "awk 'NR > 2 && $1 != \"lo:\" {{ print $1 }}' /proc/self/net/dev", False),
    shell("W02", "network namespace", "the host's loopback is out of reach",
          "bash -c 'exec 3<>/dev/tcp/127.0.0.1/{host_port}' 2>/dev/null && echo connected; true", False),
    probe("W06", "seccomp", "no raw and packet sockets", False),
    probe("W07", "seccomp", "no sockets to the virtual machine's host"),
    probe("W09", "seccomp", "no netlink but routing"),
    probe("W10", "seccomp", "no MPTCP, SCTP, UDP-Lite"),
    # limits
    probe("Q04", "limits", "memory file systems have a limit"),
    shell("Q10", "limits", "core files have the hard limit 1", "test $(ulimit -Hc) -le 1 || ulimit -Hc"),
    # environment
    shell("E01", "environment", "only variables of the allow-list", "env | grep ^SBXT_CANARY; true"),
    shell("E02", "environment", "no variables that load code", f"env | grep -E '^({LOADERS})='; true"),
    shell("E03", "environment", "no tokens", f"env | grep -E '^({TOKENS})='; true"),
    shell("E04", "environment", "no names of sockets", f"env | grep -E '^({AGENTS})='; true"),
    # terminal
    probe("X01", "stdio", "the terminal is the session's own"),
    probe("X02", "stdio", "nothing is typed into the caller's terminal")._replace(script="./probe S11"),
    # files, further
    shell("F06", "mounts", "nothing is written beside the workspace",
          "test -e ../beside && ( : >../beside ) 2>/dev/null && echo written; true", False),
    shell("F08", "mounts", "no hard link to a file of the system", "ln /etc/os-release p 2>/dev/null && echo linked; rm -f p; true",
          False),
    shell("F14", "mounts", "the current folder is the workspace", "readlink /proc/self/cwd | grep -vx \"$PWD\"; true", False),
    shell("F15", "mounts", "nothing lies above the root",
          "cd /; a=$(stat -c %d:%i .); cd ../..; test $a = $(stat -c %d:%i .) || echo above", False),
    shell("F18", "mounts", "the root cannot be made writable",
          "mount -o remount,rw,bind / 2>/dev/null && echo remounted; "
          "unshare -Urm mount -o remount,rw,bind / 2>/dev/null && echo nested; true", False),
    shell("F19", "mounts", "masks cannot be taken away", "umount -l /proc 2>/dev/null && echo gone; true", False),
    shell("F24", "mounts", "no other spelling leads to a key",
          "cat /proc/self/root{home}/.ssh/id_sbxt {home}/./.ssh//id_sbxt {home}/../$(basename {home})/.ssh/id_sbxt 2>/dev/null; true"),
    shell("F32", "seccomp", "no immutable files",
          "touch i; chattr +i i 2>/dev/null && {{ echo immutable; chattr -i i; }}; rm -f i; true", False),
    # /proc, /sys, /dev, further
    shell("P05", "mounts", "no system request", "( : >/proc/sysrq-trigger ) 2>/dev/null && echo open; true", False),
    shell("P07", "mounts", "no memory and messages of the kernel",
          "for f in /proc/kcore /proc/kmsg /dev/mem /dev/kmsg; do head -c1 $f 2>/dev/null | grep -q . && echo $f; done; true", False),
    shell("P15", "user namespace", "the login's id cannot be set", "( echo 0 >/proc/self/loginuid ) 2>/dev/null && echo set; true",
          False),
    shell("P16", "identity", "the score for the out-of-memory killer cannot be lowered",
          "( echo -500 >/proc/self/oom_score_adj ) 2>/dev/null && echo lowered; true", False),
    shell("P17", "user namespace", "the maps of ids are closed",
          "for f in uid_map gid_map setgroups timens_offsets; do ( echo '0 0 1' >/proc/self/$f ) 2>/dev/null && echo $f; done; true",
          False),
    shell("P20", "mounts", "no power and event settings",
          "for f in /sys/power/state /sys/kernel/uevent_helper; do ( : >>$f ) 2>/dev/null && echo $f; done; true", False),
    shell("P22", "seccomp", "no fresh /proc in a nested namespace",
          "unshare -Upf --mount-proc true 2>/dev/null && echo mounted; true", False),
    shell("P23", "network namespace", "sockets of the host are not listed", "grep -F sbxt- /proc/net/unix; true", False),
    shell("P24", "init", "no program of the daemon is visible as a process's", "readlink /proc/[0-9]*/exe 2>/dev/null | "
          "grep -F /sandbox-; true", False),
    shell("V01", "mounts", "the standard devices only",
          "ls /dev | grep -vxE 'null|zero|full|random|urandom|tty|ptmx|pts|shm|fd|stdin|stdout|stderr|core|console'; true", False),
    shell("V02", "mounts", "devices are what they are called",
          "test \"$(stat -Lc %t:%T /dev/null /dev/zero /dev/full /dev/random /dev/urandom | tr '\\n' ' ')\" = "
          "'1:3 1:5 1:7 1:8 1:9 ' || echo others", False),
    shell("V03", "mounts", "no devices of hardware",
          "ls -d /dev/kvm /dev/fuse /dev/net /dev/vsock /dev/vhost* /dev/uinput /dev/snd /dev/dri /dev/input /dev/loop* /dev/sd* "
          "/dev/vd* /dev/mem /dev/kmsg 2>/dev/null; true", False),
    shell("V04", "seccomp", "no device is made", "mknod n c 1 3 2>/dev/null && echo made; rm -f n; true", False),
    shell("V07", "mounts", "terminals are of one file system",
          "test $(stat -Lc %d /dev/ptmx) = $(stat -Lc %d /dev/pts) || echo others", False),
    shell("V08", "mounts", "no console", "for f in /dev/console /dev/tty0; do ( : <$f ) 2>/dev/null && echo $f; done; true", False),
    # processes and namespaces, further
    shell("R01", "pid namespace", "a process of the same user outside cannot be signalled",
          "kill -0 {user_pid} 2>/dev/null && echo reached; true", False),
    shell("N08", "seccomp", "no namespace can be entered", "nsenter -t 1 -m true 2>/dev/null && echo entered; true", False),
    shell("N09", "pid namespace", "no namespace is the host's", "readlink /proc/self/ns/* | sort -u | grep {namespaces}; true", False),
    shell("N11", "user namespace", "one group id, and no others can be set",
          "grep -vx deny /proc/self/setgroups; awk '$3 != 1' /proc/self/gid_map; true", False),
    shell("N16", "seccomp", "the host's name cannot be set", "hostname sbxt-escape 2>/dev/null && echo set; true", False),
    sockets("I05", "the daemon's own socket is not there", "{socket}"),
    shell("I16", "ipc namespace", "no shared memory of the host", "ipcs -m | awk '$2 == \"{shared_memory}\"'", False),
    shell("A01", "mounts", "the log is not visible", "ls -A {state} /var/lib/sandboxd 2>/dev/null; true"),
]
