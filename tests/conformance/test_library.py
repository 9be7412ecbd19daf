"""What `meson install` leaves on a machine, and libsandboxd as other people's programs find it. D41: how the programs are
built and installed; D43: the client talks to root's daemon only."""

import contextlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading

import pytest

from machine import BUILD, CTL, POLICIES, TOP

with open(os.path.join(BUILD, "meson-info/intro-buildoptions.json"), encoding="utf-8") as _f:
    OPTIONS = {option["name"]: option["value"] for option in json.load(_f)}
SANITIZE = [] if OPTIONS["b_sanitize"] == "none" else ["-fsanitize=" + OPTIONS["b_sanitize"]]
LIBRARY = os.path.join(OPTIONS["prefix"], OPTIONS["libdir"])
PROGRAMS = [os.path.join(OPTIONS["prefix"], path) for path in (
    "bin/sandboxctl", "sbin/sandboxd", *(os.path.join(OPTIONS["libexecdir"], "sandboxd", name) for name in (
        "sandboxd-api", "sandboxd-audit", "sandboxd-dialer", "sandboxd-egress", "sandboxd-watch", "sandboxd-lookup", "sandbox-init")))]
if os.path.exists(os.path.join(BUILD, "daemon/bpf/sandboxd-bpf")):
    PROGRAMS.append(os.path.join(OPTIONS["prefix"], OPTIONS["libexecdir"], "sandboxd/sandboxd-bpf"))
with open(os.path.join(TOP, "meson.build"), encoding="utf-8") as _f:
    VERSION = re.search(r"version: '([0-9.]+)'", _f.read()).group(1)
SHARED = os.path.join(LIBRARY, "libsandboxd.so." + VERSION)
MANUALS = ["man1/sandboxctl.1", "man3/libsandboxd.3", "man5/sandboxd-policy.5", "man8/sandboxd.8"]
UNITS = ["systemd/system/sandboxd.service", "systemd/system/sandboxd.socket", "sysusers.d/sandboxd.conf"]


@pytest.fixture(scope="module")
def tree():
    """An installation below a folder of its own."""
    folder = tempfile.mkdtemp(prefix="sbxt-install-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    done = subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", folder], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    try:
        assert done.returncode == 0, done.stdout
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def readelf(tree, path, *options):
    return subprocess.run(["readelf", "-W", *options, tree + path], stdout=subprocess.PIPE, text=True, check=True).stdout


def exported(path):
    out = subprocess.run(["nm", "-D", "--defined-only", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[2] for line in out.splitlines() if line.split()[1] != "A"}


def declared():
    with open(os.path.join(TOP, "client/lib/sandboxd.h"), encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    return set(re.findall(r"\b(sandboxd_\w+)\(", text.split("#pragma GCC visibility pop", 1)[0]))


# ---- what is installed ----

def json_below(folder):
    return sorted(os.path.relpath(os.path.join(path, name), folder)
                  for path, _, names in os.walk(folder) for name in names if name.endswith(".json"))


def test_everything_is_installed(tree):
    for path in PROGRAMS:
        assert os.access(tree + path, os.X_OK), path
    data = os.path.join(OPTIONS["prefix"], OPTIONS["datadir"])
    assert json_below(f"{tree}{data}/sandboxd/policies") == json_below(POLICIES) != []
    for path in UNITS:
        assert os.path.exists(os.path.join(tree + OPTIONS["prefix"], "lib", path)), path
    sources = {os.path.basename(path)[:-len(".scd")] for path in os.listdir(os.path.join(TOP, "docs/man"))}
    assert {os.path.basename(path) for path in MANUALS} <= sources
    for path in sources:
        manual = os.path.join(OPTIONS["prefix"], OPTIONS["mandir"], f"man{path[-1]}", path)
        with open(tree + manual, encoding="utf-8") as f:
            assert ".TH" in f.read(), manual
    assert os.path.exists(tree + os.path.join(OPTIONS["prefix"], OPTIONS["includedir"], "sandboxd.h"))
    assert os.path.exists(f"{tree}{LIBRARY}/pkgconfig/libsandboxd.pc")
    assert os.readlink(f"{tree}{LIBRARY}/libsandboxd.so.0") == "libsandboxd.so." + VERSION
    assert os.readlink(f"{tree}{LIBRARY}/libsandboxd.so") == "libsandboxd.so.0"


def test_nothing_for_tests_is_installed(tree):
    found = [name for _, _, files in os.walk(tree) for name in files]
    assert not [name for name in found if re.search(r"leave|hostile|stand|test|certification|\.a$", name)]
    assert len([n for n in found if n.startswith("sandbox")]) == len(PROGRAMS) + len(MANUALS) + len(UNITS), found


def test_D41_owners_and_modes(tree):
    """Root's, for all to read and nobody else to write, and nothing set-uid or set-gid."""
    seen = 0
    for folder, folders, files in os.walk(tree):
        for path in [os.path.join(folder, name) for name in folders + files]:
            info = os.lstat(path)
            assert (info.st_uid, info.st_gid) == (0, 0), path
            if stat.S_ISLNK(info.st_mode):
                continue
            is_program = stat.S_ISDIR(info.st_mode) or path[len(tree):] in (*PROGRAMS, SHARED)
            assert stat.S_IMODE(info.st_mode) == (0o755 if is_program else 0o644), (path, oct(info.st_mode))
            assert not os.listxattr(path), path
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("path", [*PROGRAMS, SHARED], ids=os.path.basename)
def test_D41_hardening(tree, path):
    headers, dynamic = readelf(tree, path, "-l"), readelf(tree, path, "-d")
    symbols = readelf(tree, path, "-s")
    assert re.search(r"Type:\s+DYN", readelf(tree, path, "-h"))
    if path != SHARED:
        assert "PIE" in dynamic or os.path.basename(path) == "sandbox-init"
    assert "GNU_RELRO" in headers and "BIND_NOW" in dynamic
    assert re.search(r"GNU_STACK.*\bRW\b", headers) and "TEXTREL" not in dynamic
    assert not re.search(r"LOAD.*\bRWE\b", headers)
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    assert "__stack_chk_fail" in symbols
    if not SANITIZE and OPTIONS["optimization"] not in ("0", "g") and os.path.basename(path) != "sandbox-init":
        assert re.search(r"__(mem\w+|\w*printf|read|recv|poll|str\w+|fdelt|longjmp)_chk\b", symbols), "not fortified"
    entry = "sandboxd_connect" if path == SHARED else "main"
    code = subprocess.run(["objdump", "-d", f"--disassemble={entry}", tree + path], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    if "x86-64" in code:
        assert "endbr64" in code, "no landing pads for indirect branches"


def test_an_installed_client_and_daemon_serve(tree):
    """The installed daemon with what was installed beside it, asked by the installed client."""
    from machine import Instance, eventually
    instance = Instance()
    data = os.path.join(OPTIONS["prefix"], OPTIONS["datadir"], "sandboxd/policies")
    libexec = os.path.join(OPTIONS["prefix"], OPTIONS["libexecdir"], "sandboxd")
    out = os.path.join(instance.folder, "out")
    with open(out, "wb") as stdout, open(instance.log, "wb") as log:
        child = subprocess.Popen([tree + PROGRAMS[1], "--config-dir", instance.config, "--state-dir", instance.state,
                                  "--runtime-dir", instance.runtime, "--libexec-dir", tree + libexec, "--policy-dir",
                                  tree + data, "--print-ready"], stdin=subprocess.DEVNULL, stdout=stdout, stderr=log)
    try:
        assert eventually(lambda: os.path.getsize(out) or child.poll() is not None, 30)
        work = os.path.join(instance.folder, "work")
        os.mkdir(work)
        done = subprocess.run([tree + PROGRAMS[0], "--address", instance.address, "run", "-T", "-w", work, "--", "echo",
                               "installed"], cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "installed\n"), (done, instance.log_text())
    finally:
        child.terminate()
        child.wait(30)
        shutil.rmtree(instance.folder, ignore_errors=True)


# ---- the library ----

def test_exported_names_are_the_listed_ones(tree):
    """The binary interface: names may be added, on purpose, never taken away."""
    with open(os.path.join(TOP, "tests/lint/libsandboxd.txt"), encoding="utf-8") as f:
        listed = {line.strip() for line in f if line.strip() and not line.startswith("#")}
    found = exported(tree + SHARED)
    assert {name.split("@@")[0] for name in found} == listed
    assert {name.split("@@")[1] for name in found} == {"LIBSANDBOXD_0"}
    assert re.search(r"SONAME.*\[libsandboxd\.so\.0\]", readelf(tree, SHARED, "-d"))


def test_exported_names_are_documented(tree):
    names = {name.split("@@")[0] for name in exported(tree + SHARED)}
    assert names == declared()
    with open(os.path.join(TOP, "docs/man/libsandboxd.3.scd"), encoding="utf-8") as f:
        manual = f.read()
    assert names == set(re.findall(r"\*(sandboxd_\w+)\*\(", manual))


def test_the_library_needs_little(tree):
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf(tree, SHARED, "-d")))
    assert {name.split(".so")[0] for name in needed} <= {"libc", "libjson-c", "ld-linux-x86-64", "libasan", "libubsan"}, needed


def pkg_config(tree, *options):
    environment = {**os.environ, "PKG_CONFIG_PATH": f"{tree}{LIBRARY}/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": tree}
    out = subprocess.run(["pkg-config", *options, "libsandboxd"], env=environment, stdout=subprocess.PIPE, text=True,
                         check=True).stdout
    return out.split()


def compile_program(tree, source, output, compiler="gcc", flags=()):
    """As a stranger does: nothing of this project but what pkg-config names."""
    argv = [compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", *flags, *SANITIZE, "-o", output, source,
            *pkg_config(tree, "--cflags", "--libs")]
    done = subprocess.run(argv, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    needed = subprocess.run(["readelf", "-d", output], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "libsandboxd.so.0" in needed
    return output


def installed_example(tree):
    return f"{tree}{OPTIONS['prefix']}/{OPTIONS['datadir']}/doc/sandboxd/examples/run.c"


@pytest.fixture(scope="module")
def example(tree):
    """The example, compiled against the installed tree."""
    folder = tempfile.mkdtemp(prefix="sbxt-example-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    yield compile_program(tree, installed_example(tree), folder + "/run")
    shutil.rmtree(folder, ignore_errors=True)


def run_example(tree, example, user, address, *argv, **options):
    environment = user.environment(SANDBOXD_ADDRESS=address, LD_LIBRARY_PATH=tree + LIBRARY)
    return user.run([example, *argv], env=environment, cwd=user.workspace(), **options)


@pytest.mark.parametrize("flags", [("-std=c11", "-D_GNU_SOURCE"), ("-std=gnu99",), ("-std=gnu17", "-Wconversion", "-Wshadow")],
                         ids=lambda flags: flags[0])
def test_the_example_compiles(tree, tmp_path, flags):
    compile_program(tree, installed_example(tree), str(tmp_path / "run"), flags=flags)


def test_the_header_is_for_cpp_too(tree, tmp_path):
    source = tmp_path / "main.cpp"
    source.write_text("#include <sandboxd.h>\nint main() { SandboxdReply r = SANDBOXD_REPLY_INIT; sandboxd_reply_done(&r);\n"
                      "SandboxdClient *c = nullptr; return sandboxd_connect(\"unix:/nonexistent\", &c) == -2 ? 0 : 1; }\n")
    program = compile_program(tree, str(source), str(tmp_path / "main"), compiler="g++")
    assert subprocess.run([program], env={"LD_LIBRARY_PATH": tree + LIBRARY}, check=False).returncode == 0


def test_the_manual_s_example(tree, daemon, tmp_path):
    with open(os.path.join(TOP, "docs/man/libsandboxd.3.scd"), encoding="utf-8") as f:
        (tmp_path / "main.c").write_text(f.read().split("```")[1])
    program = compile_program(tree, str(tmp_path / "main.c"), str(tmp_path / "main"))
    done = subprocess.run([program], env={"LD_LIBRARY_PATH": tree + LIBRARY, "SANDBOXD_ADDRESS": daemon.address},
                          stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, VERSION + "\n")


def test_the_example_runs_commands(tree, daemon, example, alice):
    """Streams of its own, status of the command, in a session."""
    done = run_example(tree, example, alice, daemon.address, "sh", "-c", "cat; echo err >&2; id -u; ls /proc/1/root; exit 7",
                       input="in\n")
    assert done.returncode == 7, done
    assert done.stdout.startswith(f"in\n{alice.uid}\n") and "err\n" in done.stderr
    assert run_example(tree, example, alice, daemon.address, "true").returncode == 0
    absent = run_example(tree, example, alice, daemon.address, "/nonexistent")
    assert absent.returncode == 125 and "io.sandboxd.Session." in absent.stderr


# ---- D43: root's daemon only ----

class Fake:
    """Takes connections as another user, and keeps what it is told."""

    def __init__(self, user, path):
        self.path, self.heard, self.accepted = path, b"", 0
        self.listener = socket.socket(socket.AF_UNIX)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        try:
            self.listener.bind(path)
            self.listener.listen(8)
        finally:
            os.seteuid(0)
            os.setegid(0)
        os.chmod(path, 0o777)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.accepted += 1
                connection.settimeout(5)
                with connection, contextlib.suppress(OSError):
                    while data := connection.recv(65536):
                        self.heard += data
                        connection.sendall(b'{"parameters":{"version":"9","callerUid":0}}\0')

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(30)
        self.listener.close()


@pytest.fixture(params=["path-and-listener", "listener-behind-root's-path", "path-of-root's-listener"])
def fake(request, alice, tmp_path_factory):
    """A server in a user's folder; one whose socket was made to look like root's; a socket file that is the user's with
    root behind it."""
    folder = tempfile.mkdtemp(prefix="sbxt-fake-", dir="/var/tmp")
    os.chmod(folder, 0o777)
    path = os.path.join(folder, "io.sandboxd")
    is_roots = request.param == "path-of-root's-listener"
    from machine import User
    server = Fake(User("root") if is_roots else alice, path)
    os.chown(path, 0 if request.param.startswith("listener") else alice.uid, 0)
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


VERBS = [("status",), ("list",), ("run", "-T", "--", "true"), ("audit", "log"), ("policy", "list")]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_D43_a_fake_server_is_told_nothing(fake, alice, verb):
    work = alice.workspace()
    for how in ("environment", "option"):
        environment = alice.environment(**({"SANDBOXD_ADDRESS": "unix:" + fake.path} if how == "environment" else {}))
        argv = [CTL, *(("--address", "unix:" + fake.path) if how == "option" else ()), *verb]
        done = alice.run(argv, env=environment, cwd=work)
        assert done.returncode == 125 and done.stdout == "", done
        assert done.stderr.count("\n") == 1 and "is not root's" in done.stderr and fake.path in done.stderr, done
    assert fake.heard == b""


def test_D43_the_shared_library_refuses_too(tree, fake, example, alice):
    done = run_example(tree, example, alice, "unix:" + fake.path, "true")
    assert done.returncode == 125 and "Operation not permitted" in done.stderr, done
    assert fake.heard == b""


def test_D43_a_link_to_the_daemon_is_the_daemon(daemon, alice):
    link = os.path.join(alice.workspace(), "link")
    os.symlink(daemon.socket, link)
    done = alice.run([CTL, "--address", "unix:" + link, "list"], env=alice.environment())
    assert done.returncode == 0, done


def test_D43_wrong_addresses(alice):
    for address in ("tcp:127.0.0.1:1", "unix:relative", "unix:@abstract", "/run/sandboxd/io.sandboxd", "unix:/a;b",
                    "unix:/" + "a" * 200):
        done = alice.run([CTL, "--address", address, "list"], env=alice.environment())
        assert done.returncode == 125 and "is not an address" in done.stderr, done


def test_D43_clients_are_not_set_uid():
    for path in (CTL, os.path.join(BUILD, "client/lib/libsandboxd.so.0")):
        assert not os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID)
