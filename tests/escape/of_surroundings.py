"""Variables, terminals, credentials, files that run outside later (groups E, X, C, H)."""

import json
import os
import subprocess

import machine
from of_limits import hostile_bytes
from property import collector

tried, FOUND = collector()


@tried("E05", "environment", "PATH is fixed: no relative folder, none that the session can write before the system's", everywhere=True)
def e05_path(p):
    done = p.run("--", "sh", "-c", "echo \"$PATH\" | tr : '\\n' | while read d; do case $d in /*) ;; *) echo relative $d;; esac; "
                 "test -w $d && echo writable $d; done; echo $PATH", environment={"PATH": f"{p.work}:.::/usr/bin:/bin"})
    lines = done.stdout.splitlines()
    return lines[:-1] or p.work in lines[-1] and lines


@tried("E06", "api", "variables that are none are refused, and none comes twice")
def e06_odd_variables(p):
    found = []
    for bad in (["=x"], ["NOVALUE"], ["A B=1\0"], ["1A=x"], [""], ["A=" + "x" * (1 << 20)], [f"V{n}=x" for n in range(100000)],
                ["A\nB=1"]):
        reply = p.instance.call(p.user, "io.sandboxd.Session.Create", {"context": {"environment": bad, "workspace": p.work}})
        if reply and "error" not in reply[0]:
            p.ctl("terminate", reply[0]["parameters"]["id"])
            found.append(bad[0][:20])
    done = p.run("--env", "TWICE=1", "--env", "TWICE=2", "--env", "HOME=/x", "--", "sh", "-c", "tr '\\0' '\\n' </proc/$$/environ")
    names = [line.partition("=")[0] for line in done.stdout.splitlines()]
    return found or [name for name in names if names.count(name) > 1]


def with_variables(p):
    """Processes of the daemon that have the caller's variables, or more than they need."""
    found = []
    for pid in p.instance.workers():
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                names = [part.partition(b"=")[0] for part in f.read().split(b"\0") if part]
        except OSError:
            continue
        if b"SBXT_CANARY" in names or b"LD_AUDIT" in names or len(names) > 6:
            found.append((machine.comm_of(pid), names))
    return found


@tried("E07", "init", "the caller's variables reach no process of the daemon")
def e07_variables_of_the_daemon(p):
    environment = {"SBXT_CANARY": "seen", "LD_AUDIT": "/nonexistent"}
    child = p.start("run", "-T", "--", "sh", "-c", "echo up; read line", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    environment=environment)
    try:
        assert child.stdout.readline() == b"up\n"
        # Between fork and exec a child has what the launcher was started with.
        return not machine.eventually(lambda: not with_variables(p), 20) and with_variables(p)
    finally:
        child.stdin.close()
        child.wait(60)
        child.stdout.close()


@tried("E08", "init", "odd arguments start nothing else, and end nothing")
def e08_odd_arguments(p):
    found = []
    for command, wanted in (([""], (126, 127, 125)), (["--", "-c"], (127, 125)), (["-x"], (127, 125)), (["--help"], (0, 127, 125)),
                            (["echo", "--bind", "/", "-c"], (0,)), (["echo", "x" * 100000], (0, 125, 126)),
                            (["echo", *["y"] * 30000], (0, 125, 126))):
        done = p.run("--", *command)
        if done.returncode not in wanted:
            found.append((command[:2], done.returncode, done.stderr[:100]))
    for line in ([], [""], ["\0"], ["a" * 3_000_000]):
        reply = p.instance.call(p.user, "io.sandboxd.Session.Spawn", {"context": {"workspace": p.work}, "command": {"commandLine": line}})
        if reply and "error" not in reply[0] and line != [""]:
            found.append(line[:1])
    return found or p.sh("echo runs").stdout != "runs\n"


HOSTILE = ("import ctypes, os, resource, signal, sys\n"
           "os.umask(0o7); os.nice(5)\n"
           "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]\n"
           "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGALRM])\n"
           "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))\n"
           "libc = ctypes.CDLL(None); libc.personality(0x0040000); libc.prctl(1, 9)\n"
           "os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[0]])\n"
           "open('/proc/self/oom_score_adj', 'w').write('500')\n"
           "os.execv(sys.argv[1], sys.argv[1:])\n")
SHOW = ("umask; nice; ulimit -f; ulimit -s; grep -E '^Sig(Ign|Blk)' /proc/self/status; cat /proc/self/oom_score_adj; "
        "grep Cpus_allowed: /proc/self/status; cat /proc/self/personality 2>/dev/null; true")


@tried("E09", "init", "mask, limits, signals, priority and processors of the caller are not inherited")
def e09_inherited(p):
    plain = p.sh(SHOW)
    environment = p.user.environment(SANDBOXD_ADDRESS=p.instance.address)
    hostile = p.user.run(["/usr/bin/python3", "-c", HOSTILE, machine.CTL, "run", "-T", "--", "sh", "-c", SHOW], cwd=p.work, env=environment)
    return hostile.stdout != plain.stdout and [pair for pair in zip(plain.stdout.splitlines(), hostile.stdout.splitlines())
                                               if pair[0] != pair[1]] or (not plain.stdout and str(plain))


@tried("E10", "environment", "variables of time and language name no files")
def e10_time_and_language(p):
    done = p.sh("env | grep -E '^(TZ|LANG|LC_[A-Z]*|TERM|NLSPATH|LOCPATH|TZDIR)='; true",
                environment={"TZ": "/etc/shadow", "LANG": "../../../etc/shadow", "LC_ALL": "/etc/shadow", "LOCPATH": "/tmp",
                             "NLSPATH": "/tmp/%N", "TZDIR": "/tmp", "TERM": "xterm"})
    return [line for line in done.stdout.splitlines() if "NLSPATH" in line or "LOCPATH" in line or "TZDIR" in line] or \
        p.ctl("list", environment={"TZ": "/etc/shadow", "LANG": "../../../etc/shadow"}).returncode != 0


TRICKS = "\x1b]52;c;eA==\x07\x1b[2J\x1b]0;t\x07\x9b31m\r\u202e\u2066x"


@tried("X11", "clients", "listings of what a session says are escaped")
def x11_listings(p):
    name = f"tricks-{p.name}"
    made = p.ctl("create", "--name", name, cwd=p.work)
    assert made.returncode == 0, made
    p.ctl("exec", name, "--", "sh", "-c", "printf '%s' \"$1\"; curl -s -m 5 -x http://127.0.0.1:3128 \"http://$1.test/\"; true", "sh", TRICKS)
    p.ctl("exec", name, "--", TRICKS)
    shown = [p.ctl(*verb).stdout for verb in (("list",), ("list", "--json"), ("describe", name), ("describe", "--json", name),
                                              ("audit", "log", "-n", "50"), ("audit", "log", "--json", "-n", "50"))]
    failed = p.ctl("exec", name, "--", TRICKS).stderr
    p.ctl("terminate", name)
    return [byte for text in [*shown, failed] for byte in hostile_bytes(text)]


@tried("X12", "launcher", "a line of the daemon's log is one record, whatever a client wrote")
def x12_log_lines(p):
    text = "x\nsandboxd: <3> forged\x1b[2J"
    for method, parameters in (("io.sandboxd.Session.Create", {"context": {"workspace": "/" + text}}),
                               ("io.sandboxd.Session.Create", {"context": {"name": text, "profile": text, "agent": text}}),
                               (text, {}), ("io.sandboxd.Session.Create", {"context": {"workspace": p.work, "labels": {"a": text}}})):
        p.instance.call(p.user, method, parameters)
    rows = p.ctl("audit", "log", "-n", "30").stdout
    return [line for line in (p.instance.log_text() + rows).splitlines() if line.startswith("sandboxd: <3> forged")] or \
        [byte for byte in hostile_bytes(p.instance.log_text() + rows)]


@tried("X13", "clients", "the terminal is as it was when the session has ended")
def x13_terminal_restored(p):
    script = ("import os, pty, subprocess, sys, termios\n"
              "master, slave = pty.openpty()\nbefore = termios.tcgetattr(slave)\n"
              "def own():\n  os.setsid(); import fcntl; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
              "child = subprocess.Popen(sys.argv[1:], stdin=slave, stdout=slave, stderr=slave, preexec_fn=own)\n"
              "import select, time\nend = time.monotonic() + 60\n"
              "while child.poll() is None and time.monotonic() < end:\n"
              "  if select.select([master], [], [], 0.05)[0]: os.read(master, 65536)\n"
              "print('same' if termios.tcgetattr(slave) == before else 'changed')\n")
    found = []
    for command in ("stty raw -echo; exit 3", "stty raw; kill -9 $$", "true"):
        done = p.user.run(["/usr/bin/python3", "-c", script, machine.CTL, "run", "-t", "--", "sh", "-c", command], cwd=p.work,
                          env=p.user.environment(SANDBOXD_ADDRESS=p.instance.address), timeout=90)
        if done.stdout != "same\n":
            found.append((command, done.stdout, done.stderr[-200:]))
    return found


CREDENTIALS = (".ssh/id_ed25519 .gnupg/secring.gpg .pki/nssdb/key4.db .password-store/a.gpg .aws/credentials .azure/token .config/gcloud/creds "
               ".boto .s3cfg .config/rclone/rclone.conf .oci/config .config/doctl/config.yaml .kube/config .docker/config.json "
               ".config/containers/auth.json .git-credentials .config/git/credentials .config/gh/hosts.yml .netrc .npmrc .yarnrc.yml "
               ".pypirc .config/pip/pip.conf .cargo/credentials.toml .gem/credentials .m2/settings.xml .gradle/gradle.properties "
               ".composer/auth.json .claude/.credentials.json .codex/auth.json .gemini/oauth_creds.json .config/github-copilot/hosts.json "
               ".cache/huggingface/token .pgpass .my.cnf .mozilla/firefox/logins.json .config/google-chrome/Login .bash_history "
               ".zsh_history .python_history .node_repl_history .psql_history .viminfo .lesshst .Xauthority .ICEauthority .vault-token "
               ".terraform.d/credentials.tfrc.json .databrickscfg .config/sops/age/keys.txt .local/share/keyrings/login.keyring "
               ".bitcoin/wallet.dat .ethereum/keystore/k .config/solana/id.json .smbcredentials .msmtprc .config/filezilla/s.xml").split()
SECRET = "SBXTSECRETBYTES"
# Folders of tools are shown, and may be large.
TOOLS = " ".join(f"--exclude-dir={name}" for name in (".cargo", ".rustup", ".nvm", ".pyenv", "go", ".sdkman", ".npm", "python3*", "node"))


class Furnished:
    """Secrets at their usual places of a home; what is there already is left alone."""

    def __init__(self, user):
        self.user, self.made = user, []

    def __enter__(self):
        for name in CREDENTIALS:
            path = os.path.join(self.user.home, name)
            if os.path.lexists(path):
                continue
            while True:
                folder = os.path.dirname(path)
                if os.path.isdir(folder):
                    break
                path = folder
            full = os.path.join(self.user.home, name)
            self.user.write(full, SECRET + "\n", 0o644)
            self.made.append(path)

    def __exit__(self, *_):
        for path in self.made:
            subprocess.run(["rm", "-rf", path], check=True)


@tried("C01", "mounts", "no credential of the home is read: not where it lies, not by searching", everywhere=True)
def c01_credentials(p):
    with Furnished(p.user):
        # Root's home may hold anything, and be large.
        searched = f"{p.user.home} /home /root /etc /run /tmp /srv" if p.user.uid else "/home /etc /run /tmp"
        script = (f"for f in {' '.join(CREDENTIALS)}; do cat {p.user.home}/$f; done; "
                  f"grep -rslD skip {TOOLS} {SECRET} {searched} | grep -v {p.work}; "
                  "true")
        found = [f"{profile}: {line}" for profile in ("agent", "build") for line in p.sh(script, "-p", profile).stdout.splitlines()]
        masked = p.sh(f"for f in {' '.join(CREDENTIALS)}; do cat {p.user.home}/$f; done; "
                      f"grep -rslD skip {TOOLS} {SECRET} {p.user.home if p.user.uid else '/home'} | grep -v {p.work}; true", "-p", "host")
        return found + masked.stdout.splitlines()


@tried("C02", "mounts", "histories, states of editors and browsers do not show", everywhere=True)
def c02_histories(p):
    with Furnished(p.user):
        names = [name for name in CREDENTIALS if "history" in name or "mozilla" in name or "chrome" in name or name in
                 (".viminfo", ".lesshst", ".Xauthority", ".ICEauthority")]
        done = p.sh(f"cd {p.user.home} && stat -c %n {' '.join(names)} 2>/dev/null; cat {' '.join(names)}; true")
        return done.stdout


@tried("C03", "mounts", "secrets of the workspace that the profile names are not read", everywhere=True)
def c03_secrets_of_the_workspace(p):
    base = p.user.workspace()
    names = (".env", ".env.local", "id_rsa", "credentials.json", "secrets.yaml", "terraform.tfstate", "kubeconfig")
    for name in names:
        p.user.write(f"{base}/{name}", SECRET + "\n")
    done = p.run("-w", base, "--", "sh", "-c", f"cat {' '.join(names)}; grep -rs {SECRET} .; for f in {' '.join(names)}; do "
                 "cp $f x; cat x; mv $f y; cat y; ln $f z; cat z; done; true", cwd="/")
    return done.stdout


@tried("C05", "mounts", "tools that give credentials out have none", everywhere=True)
def c05_helpers(p):
    with Furnished(p.user):
        p.user.write(p.user.home + "/.gitconfig", "[credential]\n\thelper = store\n") if not os.path.exists(p.user.home + "/.gitconfig") else None
        done = p.sh("printf 'protocol=https\\nhost=example.org\\n\\n' | GIT_TERMINAL_PROMPT=0 timeout 10 git credential fill; "
                    "timeout 5 git config --global --list; timeout 5 gh auth token; timeout 5 aws sts get-caller-identity; "
                    "timeout 5 gcloud auth print-access-token; timeout 5 ssh-add -L; true")
        return SECRET in done.stdout + done.stderr or "helper = store" in done.stdout or "credential.helper" in done.stdout


@tried("C06", "mounts", "keys and tables of the machine are not read", everywhere=True)
def c06_keys_of_the_machine(p):
    return p.sh("cat /etc/shadow /etc/shadow- /etc/gshadow /etc/sudoers /etc/ssh/ssh_host_*_key /etc/krb5.keytab /etc/ssl/private/* "
                "/etc/letsencrypt/*/* /etc/wireguard/* /var/lib/sandboxd/* 2>/dev/null; true").stdout


@tried("H16", "mounts", "programs in the caller's own PATH are not written", everywhere=True)
def h16_programs_of_the_caller(p):
    p.sh("for d in ~/bin ~/.local/bin ~/.cargo/bin; do mkdir -p $d; echo x >$d/sbxt-planted; done; true")
    p.sh("for d in ~/bin ~/.local/bin ~/.cargo/bin; do mkdir -p $d; echo x >$d/sbxt-planted; done; true", "-p", "host")
    found = [name for name in ("bin", ".local/bin", ".cargo/bin") if os.path.exists(f"{p.user.home}/{name}/sbxt-planted")]
    later = p.sh("command -v sbxt-planted; true").stdout
    for name in found:
        os.unlink(f"{p.user.home}/{name}/sbxt-planted")
    return found or later


STARTED_LATER = (".config/systemd/user/x.service .config/autostart/x.desktop .local/share/applications/x.desktop .bashrc .profile "
                 ".local/share/dbus-1/services/x.service .ssh/authorized_keys .gitconfig .config/git/config .config/environment.d/x.conf")


@tried("H17", "mounts", "nothing is left in the caller's home that runs later, nor in tables of the machine")
def h17_started_later(p):
    before = {name: os.path.lexists(f"{p.user.home}/{name}") and os.stat(f"{p.user.home}/{name}").st_mtime_ns
              for name in STARTED_LATER.split()}
    script = (f"for f in {STARTED_LATER}; do mkdir -p {p.user.home}/$(dirname $f) ~/$(dirname $f); echo x >>{p.user.home}/$f; echo x >>~/$f; "
              "done; (echo '* * * * * true' | timeout 5 crontab -); (echo true | timeout 5 at now); ls /var/spool/cron; true")
    for profile in ("agent", "build", "host"):
        p.sh(script, "-p", profile)
    after = {name: os.path.lexists(f"{p.user.home}/{name}") and os.stat(f"{p.user.home}/{name}").st_mtime_ns
             for name in STARTED_LATER.split()}
    return [name for name in before if before[name] != after[name]] or os.path.exists(f"/var/spool/cron/crontabs/{p.user.name}")


@tried("H19", "api", "nothing of the daemon's walks a hostile tree: links, FIFOs and depth hold nobody up")
def h19_hostile_tree(p):
    base = p.user.workspace()
    os.mkfifo(base + "/.gitmodules")
    os.symlink("/", base + "/node_modules")
    os.symlink("loop", base + "/loop")
    os.symlink("/dev/zero", base + "/AGENTS.md")
    before = machine.tree_state(p.user.home + "/.ssh")
    done = p.run("-w", base, "--", "sh", "-c", "mkdir -p .git/hooks 2>/dev/null; mkfifo .git/hooks/x 2>/dev/null; ln -s / .venv; echo started",
                 cwd="/", timeout=60)
    return (done.stdout != "started\n" and str(done)) or machine.tree_state(p.user.home + "/.ssh") != before


@tried("H20", "launcher", "no git and no other program of the workspace runs outside")
def h20_nothing_runs_outside(p):
    base = p.user.workspace()
    p.user.run(["git", "init", "-q", base])
    planted = f"{p.user.base}/ran-outside-{p.name}"
    for name in ("fsmonitor", "sshCommand", "editor", "pager"):
        p.user.run(["git", "-C", base, "config", f"core.{name}", f"touch {planted}"])
    for name in ("post-checkout", "pre-commit", "post-index-change", "reference-transaction"):
        p.user.write(f"{base}/.git/hooks/{name}", f"#!/bin/sh\ntouch {planted}\n", 0o755)
    p.run("-w", base, "--", "true", cwd=base)
    identity = p.instance.create(p.user, "-w", base, cwd=base)
    for verb in (("describe", identity), ("list",), ("terminate", identity), ("remove", identity)):
        p.ctl(*verb, cwd=base)
    return os.path.exists(planted) and "something ran"


@tried("H23", "mounts", "a session leaves nothing of the daemon's in the tree, however it ends")
def h23_no_litter(p):
    base = p.user.workspace()
    p.user.write(base + "/src/f", "x")
    before = machine.tree_state(base)
    p.run("-w", base, "--", "true", cwd="/")
    p.run("-w", base, "--", "sh", "-c", "kill -9 $$", cwd="/")
    child = p.start("run", "-T", "-w", base, "--", "sh", "-c", "echo up; sleep 600", cwd="/", stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    during = machine.tree_state(base)
    child.kill()
    child.wait()
    child.stdout.close()
    after = machine.tree_state(base)
    return [path for path in {*before, *during, *after} if not before.get(path) == during.get(path) == after.get(path)]


def rows_after(p, before, **equal):
    return [row for row in p.instance.rows(before) if all(row[key] == value for key, value in equal.items())]


@tried("A02", "audit", "start, command, end and refusal have their rows, with the kernel's word who it was")
def a02_rows(p):
    before = p.instance.head()
    p.sh("curl -s -m 5 http://denied.sbxt.test/; exit 3")
    rows = machine.eventually(lambda: {"start", "end"} <= {row["action"] for row in rows_after(p, before, kind="session")} and
                              rows_after(p, before), 20)
    assert rows, [(row["kind"], row["action"]) for row in p.instance.rows(before)]
    actions = {(row["kind"], row["action"]) for row in rows if row["uid"] == p.user.uid}
    return [wanted for wanted in (("session", "start"), ("session", "exec"), ("session", "exit"), ("session", "end"))
            if wanted not in actions] or not [row for row in rows if row["kind"] == "net" and row["verdict"] == "deny"]


@tried("A05", "audit", "letters that mean something to a database mean nothing")
def a05_letters_of_databases(p):
    texts = ["'; DROP TABLE decision; --", "\" OR 1=1 --", "\\", "%s%n%x", "\u0000", "x" * 100000]
    before = p.instance.head()
    for text in texts:
        p.ctl("audit", "log", "--host", text.replace("\0", ""), "--rule", text.replace("\0", "")[:100], "-n", "1")
        p.instance.call(p.user, "io.sandboxd.Session.Create", {"context": {"workspace": p.work, "agent": text, "name": text}})
        p.sh("true", environment={"LANG": text.replace("\0", "")[:100]})
        p.run("--", "sh", "-c", "exit 0", text.replace("\0", "")[:50000])
    with p.instance.database() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return db.execute("SELECT count(*) FROM decision WHERE seq > ?", (before,)).fetchone()[0] < len(texts) and "rows are missing"


@tried("A06", "audit", "a user sees own rows only")
def a06_own_rows(p):
    p.instance.sh(p.world.other, "true")
    p.sh("true")
    seen = [json.loads(line) for line in p.ctl("audit", "log", "--json", "-n", "200").stdout.splitlines()]
    assert seen, "no rows at all"
    text = p.instance.ctl(p.world.other, "audit", "log", "--json", "-n", "500").stdout
    return p.work in text or p.user.uid != 0 and [row for row in seen if row.get("uid", p.user.uid) != p.user.uid]
