"""What a session sees and changes of the file system."""

import os
import re
import shutil
import socket
import subprocess
import threading
import uuid

import pytest

from machine import eventually, tree_state

# Files of list 6.1 of the threat catalogue, without its patterns.
CREDENTIALS = """
.ssh/id_ed25519 .ssh/config .gnupg/private-keys-v1.d/k.key .pki/nssdb/key4.db .password-store/a.gpg
.local/share/keyrings/login.keyring .local/share/kwalletd/k.kwl .config/sops/age/keys.txt .config/age/k
.1password/agent .config/1Password/s .config/op/config .config/Bitwarden/data.json .config/rbw/config.json .lpass/key
.config/keepassxc/keepassxc.ini secrets.kdbx .step/secrets/k .tsh/keys/k .vault-token .config/hcp/cred.json
.aws/credentials .aws/config .azure/accessTokens.json .config/gcloud/credentials.db .boto .s3cfg .mc/config.json
.rclone.conf .config/rclone/rclone.conf .oci/config .config/doctl/config.yaml .config/hcloud/cli.toml
.config/scw/config.yaml .linode-cli .config/linode-cli .fly/config.yml .config/heroku/k .netlify/config.json
.config/netlify/config.json .vercel/auth.json .local/share/com.vercel.cli/auth.json .wrangler/config/default.toml
.config/.wrangler/config/default.toml .cloudflared/cert.pem .cf/config.json .bluemix/config.json .aliyun/config.json
.tccli/default.credential .snowflake/config.toml .snowsql/config .databrickscfg .pulumi/credentials.json
.terraform.d/credentials.tfrc.json .terraformrc .config/openstack/clouds.yaml .kaggle/kaggle.json
.config/stripe/config.toml .config/ngrok/ngrok.yml .ngrok2/ngrok.yml .config/tailscale/k .wireguard/wg0.conf work.ovpn
.kube/config .docker/config.json .docker/contexts/meta/m.json .config/containers/auth.json .helm/k .config/helm/registry.json
.minikube/ca.key .config/argocd/config .git-credentials .config/git/credentials .config/gh/hosts.yml .config/hub
.config/glab-cli/config.yml .config/tea/config.yml .netrc _netrc .authinfo .subversion/auth/svn.simple/k .hgrc
.config/jj/config.toml .gitcookies .npmrc .yarnrc .yarnrc.yml .config/pnpm/rc .bunfig.toml .pypirc .config/pip/pip.conf
.pip/pip.conf .config/pypoetry/auth.toml .config/uv/credentials .cargo/credentials.toml .gem/credentials .bundle/config
.m2/settings.xml .m2/settings-security.xml .gradle/gradle.properties .ivy2/.credentials .composer/auth.json
.config/composer/auth.json .nuget/NuGet/NuGet.Config .config/NuGet/k .hex/hex.config .conda/k .condarc .cabal/config
.claude/.credentials.json .claude.json .config/claude/k .codex/auth.json .gemini/oauth_creds.json
.gemini/google_accounts.json .config/github-copilot/hosts.json .cursor/auth.json .config/Cursor/k
.local/share/opencode/auth.json .aider.conf.yml .config/openai/k .openai/k .anthropic/k .continue/config.json .codeium/k
.huggingface/token .cache/huggingface/token .config/huggingface/k .replicate/k .wandb .config/wandb/k .ollama/id_ed25519
.config/goose/k .kiro/k .mcp-auth/k .pgpass .pg_service.conf .my.cnf .mylogin.cnf .mongorc.js .mongodb/k .dbshell
.rediscli_auth .config/redis/k .sqliterc .cassandra/credentials .config/dbeaver/k .local/share/DBeaverData/k
.mozilla/firefox/p/logins.json .thunderbird/p/logins.json .config/google-chrome/Default/Cookies
.config/chromium/Default/Cookies .cache/chromium/k snap/a/common/k .var/app/a/config/k .config/Slack/Cookies
.config/Signal/config.json .local/share/TelegramDesktop/tdata/k .mail/k Mail/k Maildir/k .mutt/k .msmtprc .fetchmailrc
.offlineimaprc .bash_history .zsh_history .zhistory .local/share/fish/fish_history .python_history .node_repl_history
.psql_history .mysql_history .sqlite_history .lesshst .viminfo .local/state/nvim/shada/main.shada .wget-hsts
.ICEauthority .Xauthority .xsession-errors .local/share/recently-used.xbel core .config/JetBrains/c.kdbx
.config/Code/User/globalStorage/state.vscdb .vscode-server/data/k .config/environment.d/k.conf .k5login .config/krb5/k
.smbcredentials .config/remmina/k .config/filezilla/sitemanager.xml .config/lftp/bookmarks .ansible/vault .vault_pass
.chef/k.pem .puppet/k .bitcoin/wallet.dat .ethereum/keystore/k .electrum/wallets/w .config/solana/id.json
.config/Exodus/k .near-credentials/k.json .foundry/keystores/k notes.txt .profile-secret
""".split()


@pytest.fixture
def canaries(request):
    """plant(user): the word that lies in a file at each place, and the number of files. Only absent files are made,
    and all are removed again."""
    made = []

    def plant(user):
        word = "CANARY" + uuid.uuid4().hex
        count = 0
        for name in CREDENTIALS:
            path = os.path.join(user.home, name)
            parts = [path]
            while not os.path.lexists(os.path.dirname(parts[-1])):
                parts.append(os.path.dirname(parts[-1]))
            if not os.path.isdir(os.path.dirname(parts[-1])) or os.path.lexists(path):
                continue
            user.write(path, word + "\n", 0o644)
            made.append(parts[-1])
            count += 1
        return word, count

    yield plant
    for path in made:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)


def test_credentials_are_not_there(instance, caller, canaries):
    word, count = canaries(caller)
    assert count > 100
    # All files of their size and age, wherever; one that is meant to be seen shows that the search finds such.
    work = caller.workspace()
    caller.write(work + "/meant", word + "\n")
    done = instance.sh(caller, "find / '(' -path /proc -o -path /sys -o -path /usr ')' -prune -o -type f -size -3 -mmin -60 -print0 "
                               f"2>/dev/null | xargs -0 grep -lsI {word}; echo end", workspace=work, timeout=180)
    assert done.stdout == f"{work}/meant\nend\n", done.stdout
    # By other spellings, and by name alone.
    done = instance.sh(caller, f"cat /proc/self/root{caller.home}/.ssh/id_ed25519 {caller.home}/./.ssh//id_ed25519 "
                               f"/proc/1/root{caller.home}/.netrc; stat {caller.home}/.aws/credentials;"
                               "find / -xdev -name id_ed25519 -not -path '/usr/*' 2>/dev/null")
    assert word not in done.stdout and done.stdout.strip() == "", done.stdout


def test_a_workspace_in_the_home_shows_no_more(instance, alice, canaries):
    word, _ = canaries(alice)
    work = alice.workspace()
    done = instance.sh(alice, f"ls -A {alice.home}; cat {alice.home}/.netrc", workspace=work)
    assert word not in done.stdout
    assert ".netrc" not in done.stdout.split()


def test_other_users_are_not_visible(instance, alice, bob):
    bob.write(bob.home + "/readable", "of bob\n")
    done = instance.sh(alice, f"ls /home; cat {bob.home}/readable; ls /root")
    assert bob.name not in done.stdout and "of bob" not in done.stdout
    assert done.stdout.split() == [alice.name]


def test_group_files_stay_unreadable(instance, alice):
    """Supplementary groups are not kept, so a workspace file that only such a group may read is not readable."""
    name = f"sbxtg{os.getpid()}"
    subprocess.run(["groupadd", name], check=True)
    try:
        import grp
        gid = grp.getgrnam(name).gr_gid
        subprocess.run(["usermod", "-a", "-G", name, alice.name], check=True)
        work = alice.workspace()
        with open(work + "/secret", "w", encoding="utf-8") as f:
            f.write("of the group\n")
        os.chown(work + "/secret", 0, gid)
        os.chmod(work + "/secret", 0o640)
        groups, alice.groups = alice.groups, alice.groups + [gid]
        try:
            assert alice.run(["cat", work + "/secret"]).stdout == "of the group\n"
            done = instance.sh(alice, "cat secret; id -G", workspace=work)
            assert done.stdout.split() == [str(alice.gid)], done.stdout
        finally:
            alice.groups = groups
    finally:
        subprocess.run(["groupdel", "-f", name], check=False)


def test_workspace_is_the_callers(instance, caller):
    work = caller.workspace()
    caller.write(work + "/given", "given\n", 0o600)
    done = instance.sh(caller, "pwd; cat given; echo x >made; mkdir dir; echo y >>given; mv made dir/; rm -f nothing; "
                               "ln -s dir link; chmod 700 dir", workspace=work)
    assert done.stdout == f"{work}\ngiven\n", done.stderr
    for name, mode in (("dir", 0o700), ("dir/made", None), ("given", 0o600)):
        info = os.stat(f"{work}/{name}")
        assert (info.st_uid, info.st_gid) == (caller.uid, caller.gid), name
        assert mode is None or info.st_mode & 0o777 == mode
    with open(work + "/given", encoding="utf-8") as f:
        assert f.read() == "given\ny\n"


def test_nothing_outside_changes(instance, either):
    """A session that writes wherever it can leaves the machine as it was, but for its workspace."""
    work = either.workspace()
    user_home = either.home if either.uid else either.base
    canary = either.write(os.path.join(either.base, "beside"), "beside\n")
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        with open(f"{folder}/sbxt-canary-{os.getpid()}", "w", encoding="utf-8") as f:
            f.write("outside\n")
    before = {path: state for path, state in tree_state(user_home).items() if not path.startswith(work)}
    name = "sbxt-" + uuid.uuid4().hex
    folders = f"/ /usr /usr/bin /etc /var /var/tmp /var/lib /opt /srv /run /root /home /boot /media /mnt /dev /dev/shm " \
              f"/tmp /proc /proc/sys/kernel /sys {either.home} {os.path.dirname(work)} {work}/.."
    done = instance.sh(either, f"for d in {folders}; do echo x >$d/{name}; mkdir $d/{name}.d; done 2>/dev/null; "
                               f"cat /tmp/sbxt-canary-* /var/tmp/sbxt-canary-* /dev/shm/sbxt-canary-*; "
                               f"rm -rf {canary} /tmp/sbxt-* /var/tmp/sbxt-*; ln /etc/passwd hard; ln -s /etc/shadow l; cat l; "
                               f"ln -s {canary} m; echo broken >>m; rm -f l m; true", workspace=work)
    assert done.stdout == ""
    try:
        for folder in folders.split():
            assert not os.path.lexists(f"{folder}/{name}"), folder
            assert not os.path.lexists(f"{folder}/{name}.d"), folder
        after = {path: state for path, state in tree_state(user_home).items() if not path.startswith(work)}
        assert before == after
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            with open(f"{folder}/sbxt-canary-{os.getpid()}", encoding="utf-8") as f:
                assert f.read() == "outside\n"
    finally:
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            os.unlink(f"{folder}/sbxt-canary-{os.getpid()}")


def test_mounts_are_hardened(instance, either):
    done = instance.sh(either, "cat /proc/self/mountinfo")
    for line in done.stdout.splitlines():
        target, options = line.split()[4:6]
        assert "nosuid" in options.split(","), line
        assert "nodev" in options.split(",") or target.startswith("/dev"), line


def test_devices(instance, either):
    done = instance.sh(either, "ls /dev; stat -c %t:%T /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; "
                               "echo x >/dev/null; head -c4 /dev/zero | wc -c; head -c4 /dev/urandom | wc -c; "
                               "dd if=/dev/null 2>/dev/null | wc -c; echo x >/dev/full")
    names = done.stdout.split()
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin", "stdout", "stderr",
               "console"}
    types = [name for name in names if ":" in name]
    assert set(n for n in names if ":" not in n and not n.isdigit()) <= allowed
    assert types == ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
    assert done.stdout.split()[-3:] == ["4", "4", "0"]


def test_c_build(instance, caller):
    work = caller.workspace()
    caller.write(work + "/main.c", '#include <stdio.h>\nint answer(void);\nint main(void) { printf("%d\\n", answer()); }\n')
    caller.write(work + "/answer.c", "int answer(void) { return 42; }\n")
    caller.write(work + "/Makefile", "prog: main.o answer.o\n\t$(CC) -o $@ $^\n%.o: %.c\n\t$(CC) -O2 -c $<\n")
    done = instance.sh(caller, "make -s && ./prog", workspace=work)
    assert done.stdout == "42\n", done.stderr
    assert os.stat(work + "/prog").st_uid == caller.uid


def test_git_in_a_workspace(instance, caller):
    work = caller.workspace()
    caller.run(["git", "init", "-q", work])
    done = instance.sh(caller, "git init -q sub && echo x >f && git add f && git -c user.name=t -c user.email=t@t.test "
                               "commit -q -m one && git log --format=%s", workspace=work)
    assert done.stdout == "one\n", done.stderr


def test_tools_run(instance, either):
    done = instance.sh(either, "python3 -c 'print(1)' && node -e 'console.log(2)' && git --version && curl --version "
                               "&& id -un && whoami && hostname && date +%Y && ps -e | wc -l && echo $HOME && ls -d ~")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1", "2"]


def test_tmp_is_private(instance, alice):
    work = alice.workspace()
    done = instance.sh(alice, "ls -A /tmp; echo x >/tmp/f && cat /tmp/f; stat -c %a /tmp", workspace=work)
    assert done.stdout.split() in (["x", "1777"], ["x", "700"]), done.stdout
    done = instance.sh(alice, "ls -A /tmp", workspace=work)
    assert done.stdout == ""


def test_a_workspace_below_tmp(instance, alice):
    import tempfile
    work = tempfile.mkdtemp(prefix="sbxt-", dir="/tmp")
    os.chown(work, alice.uid, alice.gid)
    try:
        done = instance.sh(alice, "pwd; ls /tmp; touch made", workspace=work)
        assert done.stdout.split() == [work, os.path.basename(work)], done.stderr
        assert os.path.exists(work + "/made")
    finally:
        shutil.rmtree(work)


def test_read_and_write_flags(instance, alice):
    extra, writable = alice.workspace(), alice.workspace()
    alice.write(extra + "/f", "readable\n")
    done = instance.sh(alice, f"cat {extra}/f; touch {extra}/x || echo ro; touch {writable}/x && echo rw",
                       options=["--read", extra, "--write", writable])
    assert done.stdout == "readable\nro\nrw\n", done.stderr
    assert os.path.exists(writable + "/x") and not os.path.exists(extra + "/x")


def test_deny_flag(instance, alice):
    work = alice.workspace()
    alice.write(work + "/.env", "TOKEN=1\n")
    alice.write(work + "/private/key", "k\n")
    done = instance.sh(alice, "cat .env; ls -A private; cat private/key; touch private/x; mv private p2 && echo moved; true",
                       workspace=work, options=["--deny", work + "/private"])
    assert done.stdout == "", done.stdout
    assert os.path.exists(work + "/private/key")


def test_secrets_of_the_workspace_are_hidden(instance, alice):
    """What the profile agent denies by name; patterns come later and are errors until then."""
    work = alice.workspace()
    alice.write(work + "/.env", "SECRETBYTES\n")
    done = instance.sh(alice, "cat .env; cp .env x; cat x; mv .env y; cat y; rm -f .env; echo new >.env; true", workspace=work)
    assert "SECRETBYTES" not in done.stdout
    with open(work + "/.env", encoding="utf-8") as f:
        assert f.read() == "SECRETBYTES\n"
    pattern = alice.write(work + "/p.json", '{"version":1,"name":"p","extends":["agent"],'
                                            '"filesystem":{"deny":["${workspace}/**/*.pem"]}}')
    alice.write(work + "/a.pem", "SECRETBYTES\n")
    done = instance.ctl(alice, "run", "-T", "-p", pattern, "--", "cat", "a.pem", cwd=work)
    assert "SECRETBYTES" not in done.stdout


@pytest.mark.parametrize("path", ["/", "/root", "/home", "/etc", "/usr", "/proc", "/proc/self/cwd", "/proc/self/root",
                                  "/proc/1/root", "/sys", "/dev", "/dev/shm", "/run", "/tmp", "/var", "/nonexistent",
                                  "/etc/passwd", "/dev/null", "/boot", "/usr/bin", "/proc/self/fd/0"])
def test_bad_workspaces(instance, alice, path):
    before = instance.head()
    done = instance.ctl(alice, "run", "-T", "-w", path, "--", "echo", "started", cwd="/")
    assert done.returncode == 125 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not instance.rows(before, kind="session", action="start")


def test_bad_workspaces_of_the_home(instance, alice, bob):
    outside = bob.workspace()
    os.chmod(outside, 0o700)
    link = os.path.join(alice.base, "link")
    os.symlink(outside, link)
    fifo = os.path.join(alice.base, "fifo")
    os.mkfifo(fifo)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(alice.base, "sock"))
    inside = alice.workspace()
    os.symlink(inside, os.path.join(alice.base, "link2"))
    try:
        for path in (alice.home, outside, link, f"{link}/..", fifo, os.path.join(alice.base, "sock"),
                     os.path.dirname(alice.home), inside + "x"):
            done = instance.ctl(alice, "run", "-T", "-w", path, "--", "echo", "started", cwd="/", timeout=20)
            assert done.returncode == 125 and done.stdout == "", path
    finally:
        listener.close()


def test_bad_workspaces_over_the_socket(instance, alice):
    """Forms that the command line would have made canonical."""
    work = alice.workspace()
    for path in (work + "/../../..", work + "/..", "relative", "", "//", work + "\0/etc", work + "/./", work + "//x/..",
                 "/proc/self/cwd", "/" + "a" * 5000, "/" + "a/" * 2500, work + "\ufffe/", "~", "${home}", "$HOME"):
        reply = instance.call(alice, "io.sandboxd.Session.Create", {"context": {"workspace": path, "lifetime": "detached"}})
        if reply and "error" not in reply[0]:
            identity = reply[0]["parameters"]["id"]
            found = instance.ctl(alice, "exec", identity, "--", "pwd").stdout
            instance.ctl(alice, "terminate", identity)
            assert path == work + "/./" and found == work + "\n", (path, found)


def test_swapped_workspace_is_never_followed(instance, alice, bob):
    """A folder and a link to somebody else's are exchanged all the time while sessions start."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    target = bob.workspace()
    bob.write(target + "/of-bob", "of bob\n", 0o644)
    base = alice.workspace()
    os.mkdir(base + "/a")
    os.chown(base + "/a", alice.uid, alice.gid)
    os.symlink(target, base + "/b")
    done = threading.Event()

    def swap():
        while not done.is_set():
            libc.syscall(316, -100, (base + "/a").encode(), -100, (base + "/b").encode(), 2)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        started = 0
        for _ in range(100):
            reply = instance.call(alice, "io.sandboxd.Session.Create",
                                  {"context": {"workspace": base + "/a", "lifetime": "detached"}})[0]
            if "error" in reply:
                continue
            started += 1
            session = reply["parameters"]["id"]
            result = instance.ctl(alice, "exec", session, "--", "sh", "-c", "ls -A; echo x >planted")
            instance.ctl(alice, "terminate", session)
            instance.ctl(alice, "remove", session)
            assert "of-bob" not in result.stdout
        assert started, "no try has found the folder"
    finally:
        done.set()
        thread.join()
    assert not os.path.exists(target + "/planted")


def test_workspace_that_goes_away(instance, alice):
    work = alice.workspace()
    session = instance.create(alice, cwd=work)
    shutil.rmtree(work)
    instance.ctl(alice, "exec", session, "--", "true")
    assert instance.ctl(alice, "terminate", session).returncode == 0
    instance.ctl(alice, "remove", session)


def test_private_protocol_files_are_out_of_reach(instance, alice):
    """Neither the daemon's socket nor its state is visible, nor its programs."""
    done = instance.sh(alice, f"ls {instance.folder}; ls -A /run; ls /var/lib/sandboxd; readlink /proc/1/exe; "
                              "cat /proc/1/environ | wc -c; : >/proc/1/mem; ls -l /proc/self/fd | wc -l")
    assert "io.sandboxd" not in done.stdout
    assert instance.ctl(alice, "run", "-T", "--", "readlink", "/proc/1/exe", cwd=alice.workspace()).stdout == ""


def test_programs_of_the_daemon_are_not_changed(instance, alice):
    import hashlib
    from machine import BUILD

    def digests():
        found = {}
        for name in sorted(os.listdir(BUILD + "/libexec")):
            with open(f"{BUILD}/libexec/{name}", "rb") as f:
                found[name] = hashlib.sha256(f.read()).hexdigest()
        return found

    before = digests()
    instance.sh(alice, "for p in /proc/[0-9]*; do echo x >$p/exe; echo x >$p/mem; done 2>/dev/null")
    assert digests() == before


def test_mount_changes_of_the_host_do_not_appear(instance, alice):
    """Propagation is private: a mount below the workspace made later is not seen, and none of ours is seen outside."""
    work = alice.workspace()
    os.mkdir(work + "/m")
    session = instance.create(alice, cwd=work)
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        before = f.read()
    subprocess.run(["mount", "-t", "tmpfs", "sbxt", work + "/m"], check=True)
    try:
        with open(work + "/m/canary", "w", encoding="utf-8") as f:
            f.write("x")
        assert instance.ctl(alice, "exec", session, "--", "ls", "-A", work + "/m").stdout == ""
    finally:
        subprocess.run(["umount", work + "/m"], check=True)
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        assert f.read() == before
    instance.ctl(alice, "terminate", session)
    instance.ctl(alice, "remove", session)


def test_submounts_of_read_only_paths_are_read_only(instance, alice):
    extra = alice.workspace()
    os.mkdir(extra + "/sub")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "sbxt", extra + "/sub"], check=True)
    try:
        done = instance.sh(alice, f"touch {extra}/sub/x && echo written", options=["--read", extra])
        assert "written" not in done.stdout and not os.path.exists(extra + "/sub/x")
    finally:
        subprocess.run(["umount", extra + "/sub"], check=True)


def test_denied_link_through_proc_is_refused(instance, alice):
    """It leads elsewhere for each process, so no mask would lie where the command arrives."""
    work = alice.workspace()
    alice.write(work + "/real", "secret\n")
    os.symlink("/proc/self/cwd/real", work + "/.env")
    done = instance.sh(alice, "cat .env", workspace=work)
    assert done.returncode == 125 and "leads through /proc" in done.stderr, done
    os.unlink(work + "/.env")
    os.symlink(".env", work + "/.env")
    assert instance.sh(alice, "echo runs", workspace=work).stdout == "runs\n"


def test_kernel_interfaces_below_a_workspace_do_not_show(instance, either):
    """Somebody's chroot with the machine's /proc, /sys and control groups in it."""
    work = either.workspace()
    kinds = ("proc", "sysfs", "cgroup2", "devpts", "mqueue")
    mounted = []
    try:
        for kind in kinds:
            path = f"{work}/a b/{kind}"
            os.makedirs(path)
            subprocess.run(["mount", "-t", kind, kind, path], check=True)
            mounted.append(path)
        # One over the other, a part of one, and one file of it.
        for source, target in ((mounted[0], mounted[0]), (mounted[0] + "/sys", work + "/part")):
            os.makedirs(target, exist_ok=True)
            subprocess.run(["mount", "--bind", source, target], check=True)
            mounted.append(target)
        either.write(work + "/file", "below\n")
        subprocess.run(["mount", "--bind", "/proc/version", work + "/file"], check=True)
        mounted.append(work + "/file")
        done = instance.sh(either, "cat file; ls -A part 'a b'/*; cut -d' ' -f5- /proc/self/mountinfo", workspace=work)
        table = [line.split(" - ")[1].split()[0] for line in done.stdout.splitlines() if " - " in line]
        shown = [line.split()[0] for line in done.stdout.splitlines() if " - " in line]
        assert done.returncode == 0 and len(table) > 5, done
        assert done.stdout.startswith("below\n"), done.stdout
        assert not [p for p, kind in zip(shown, table) if kind in kinds and not p.startswith(("/proc", "/dev/pts"))]
        assert "version" not in done.stdout and "kernel" not in done.stdout
        # The host's are as they were.
        assert os.path.exists(mounted[0] + "/version")
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", path], check=False)


def test_device_nodes_in_a_workspace_are_dead(instance, alice):
    work = alice.workspace()
    subprocess.run(["mknod", "-m", "666", work + "/null", "c", "1", "3"], check=True)
    assert "opened" not in instance.sh(alice, "cat null && echo opened", workspace=work).stdout


def test_setuid_programs_in_a_workspace_give_nothing(instance, alice):
    work = alice.workspace()
    shutil.copy("/usr/bin/id", work + "/id")
    os.chown(work + "/id", 0, 0)
    os.chmod(work + "/id", 0o4755)
    assert instance.sh(alice, "./id -u", workspace=work).stdout.strip() == str(alice.uid)


def test_descriptors_of_the_caller_are_not_inherited(instance, alice):
    with open("/etc/shadow", "rb") as secret:
        os.set_inheritable(secret.fileno(), True)
        done = instance.sh(alice, "ls /proc/self/fd; cat <&%d" % secret.fileno(), pass_fds=[secret.fileno()])
    numbers = [n for n in done.stdout.split() if re.fullmatch(r"\d+", n)]
    assert set(numbers) <= {"0", "1", "2", "3"}
    assert "root:" not in done.stdout


def test_stdin_cannot_be_reopened_for_writing(instance, alice):
    path = alice.write(os.path.join(alice.base, "input"), "input\n")
    with open(path, "rb") as f:
        instance.sh(alice, "echo broken >/proc/self/fd/0; exec 5<>/proc/self/fd/0 && echo broken >&5", stdin=f)
    with open(path, encoding="utf-8") as f:
        assert f.read() == "input\n"


def test_no_litter(instance, alice):
    """Mount points are made in memory, never in the caller's tree."""
    work = alice.workspace()
    alice.write(work + "/f", "x")
    before = tree_state(work)
    instance.sh(alice, "true", workspace=work)
    session = instance.create(alice, cwd=work)
    assert tree_state(work) == before
    instance.ctl(alice, "terminate", session)
    assert eventually(lambda: tree_state(work) == before)
    instance.ctl(alice, "remove", session)
