"""Rules of the built programs: what they link and call."""

import os
import re
import subprocess

import pytest

from source import BUILD

PROGRAMS = {
    "sandboxd": "daemon/launcher/sandboxd",
    "sandboxd-api": "daemon/api/sandboxd-api",
    "sandboxd-audit": "daemon/audit/sandboxd-audit",
    "sandboxd-dialer": "daemon/dialer/sandboxd-dialer",
    "sandboxd-egress": "daemon/egress/sandboxd-egress",
    "sandboxd-watch": "daemon/watch/sandboxd-watch",
    "sandboxd-lookup": "daemon/lookup/sandboxd-lookup",
    "sandbox-init": "daemon/init/sandbox-init",
    "sandboxd-bpf": "daemon/bpf/sandboxd-bpf",
    "sandboxctl": "client/ctl/sandboxctl",
}

# Libraries that a program may need, beside libc.
MAY_LINK = {
    "sandboxd": {"libseccomp", "libcap", "libevent_core-2.1", "libsystemd", "libmnl", "libnftnl"},
    "sandboxd-api": {"libseccomp", "libcap", "libevent_core-2.1", "libjson-c", "libidn2", "libpsl", "libcrypto"},
    "sandboxd-audit": {"libseccomp", "libcap", "libevent_core-2.1", "libsqlite3", "libcrypto"},
    "sandboxd-dialer": {"libseccomp", "libcap", "libevent_core-2.1", "libcares"},
    "sandboxd-egress": {"libseccomp", "libcap", "libevent_core-2.1", "libllhttp"},
    "sandboxd-watch": {"libseccomp", "libcap", "libevent_core-2.1"},
    "sandboxd-lookup": {"libseccomp", "libcap", "libjson-c", "libidn2", "libpsl", "libcrypto"},
    "sandbox-init": set(),
    "sandboxd-bpf": {"libbpf"},
    "sandboxctl": {"libjson-c"},
}


def path_of(program):
    path = os.path.join(BUILD, PROGRAMS[program])
    assert os.path.exists(path), f"{path} was not built"
    return path


def readelf(program, *options):
    return subprocess.run(["readelf", "-W", *options, path_of(program)], stdout=subprocess.PIPE, text=True,
                          check=True).stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_linked_libraries(program):
    needed = {re.sub(r"\.so.*", "", name) for name in re.findall(r"\(NEEDED\).*\[(.*)\]", readelf(program, "-d"))}
    needed -= {"libc", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert needed <= MAY_LINK[program], needed - MAY_LINK[program]


def test_init_is_static():
    assert "(NEEDED)" not in readelf("sandbox-init", "-d")
    assert "INTERP" not in readelf("sandbox-init", "-l")


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_of_the_fault_tests(program):
    """Calls that fail on request are in test builds alone."""
    with open(path_of(program), "rb") as f:
        content = f.read()
    assert not [word for word in (b"FaultPage", b"__wrap_malloc", b"sandboxd-fault") if word in content]


def undefined(program):
    out = subprocess.run(["nm", "-D", "-u", path_of(program)], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {re.sub(r"@.*", "", word) for word in out.split() if len(word) > 1}


@pytest.mark.parametrize("program, banned", [
    ("sandboxd-egress", {"execve", "execv", "execvp", "fexecve", "posix_spawn", "fork", "vfork", "system", "popen",
                         "socket", "connect", "open", "fopen"}),
    ("sandboxd-watch", {"execve", "execv", "execvp", "fexecve", "posix_spawn", "fork", "vfork", "system", "popen", "socket",
                        "connect", "fopen"}),
    ("sandboxd-dialer", {"execv", "execvp", "fexecve", "posix_spawn", "fork", "vfork", "system", "popen"}),
    ("sandboxd-audit", {"execv", "execvp", "fexecve", "posix_spawn", "system", "popen", "connect"}),
    ("sandboxd-api", {"execv", "execvp", "fexecve", "posix_spawn", "fork", "vfork", "system", "popen", "connect"}),
    ("sandboxd", {"getpwnam", "getpwuid", "getgrnam", "getgrouplist", "getaddrinfo", "system", "popen", "execvp"}),
])
def test_calls(program, banned):
    # worker_confine()'s proof calls socket(), open() and execve() to see them fail; it goes through syscall().
    assert not undefined(program) & banned


@pytest.mark.parametrize("program", PROGRAMS)
def test_hardening(program):
    headers, dynamic = readelf(program, "-l"), readelf(program, "-d")
    assert "GNU_RELRO" in headers and not re.search(r"GNU_STACK.*RWE", headers)
    assert "NOW" in dynamic and re.search(r"Type:\s+DYN", readelf(program, "-h"))
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
