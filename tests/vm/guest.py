#!/usr/bin/python3
"""Runs inside the virtual machine, as root: tries what only systemd, controllers and a whole machine can show, and prints
one line of JSON per trial. A host without any of it is what the other suites have."""

import json
import os
import pwd
import re
import signal
import struct
import subprocess
import sys
import time

GROUP = "/sys/fs/cgroup/system.slice/sandboxd.service"


def sh(command, user=None, timeout=180):
    argv = ["/bin/sh", "-c", command]
    if user:
        argv = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "env", f"HOME=/home/{user}", *argv]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          cwd=f"/home/{user}/work" if user else "/", timeout=timeout, check=False)


def make_users():
    for user in ("alice", "bob"):
        sh(f"useradd -m {user} && install -d -o {user} -g {user} /home/{user}/work")
        assert pwd.getpwnam(user).pw_uid >= 1000


def is_active():
    return sh("systemctl is-active sandboxd").stdout.strip()


def main_pid():
    return int(sh("systemctl show -P MainPID sandboxd").stdout)


def eventually(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return bool(condition())


def status(user="alice"):
    done = sh("sandboxctl status --json", user)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def processes():
    """Everything below the service's control group."""
    found = []
    for folder, _, names in os.walk(GROUP):
        if "cgroup.procs" in names:
            with open(os.path.join(folder, "cgroup.procs"), encoding="utf-8") as f:
                found += f.read().split()
    return found


def is_running(argument):
    """Whether anybody sleeps for so long, wherever."""
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as f:
                if f.read() == b"sleep\0" + argument.encode() + b"\0":
                    return True
        except OSError:
            pass
    return False


def create(user):
    return sh("sandboxctl create", user).stdout.split()[-1]


def rows(**equal):
    lines = sh("sandboxctl audit log --json").stdout.splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [row for row in found if all(row.get(key) == value for key, value in equal.items())]


# ---- trials: each returns what its name says, or raises ----

def the_socket_starts_the_daemon():
    before = is_active()
    first = status()
    return before == "inactive" and bool(first.get("instanceId")) and is_active() == "active"


def an_ordinary_user_has_a_session():
    done = sh("sandboxctl run -T -- sh -c 'id -u; cat /proc/self/cgroup; touch made'", "alice")
    return done.returncode == 0 and done.stdout.split()[0] == str(pwd.getpwnam("alice").pw_uid) and \
        os.stat("/home/alice/work/made").st_uid == pwd.getpwnam("alice").pw_uid


def a_denied_host_is_refused_and_recorded():
    done = sh("sandboxctl run -T -q -- curl -s -o /dev/null -w '%{http_code}' http://denied.test/", "alice")
    return done.stdout.strip() == "403" and bool(rows(host="denied.test", decision="deny"))


def an_attempt_on_a_denied_path_is_a_row():
    """A plain mask would hide as much, and nobody would hear of it: not every kernel lets nodes be cloned alike."""
    with open("/home/alice/denies.json", "w", encoding="utf-8") as f:
        json.dump({"version": 1, "name": "denies", "extends": ["agent"], "filesystem": {"deny": ["${workspace}/secret"]}}, f)
    sh("echo CANARY >secret", "alice")
    done = sh("sandboxctl run -T -q -p /home/alice/denies.json -- sh -c 'cat secret; cat ~/.ssh/id_rsa; ls ~/.kube'", "alice")
    wanted = {("/home/alice/work/secret", "open"), ("/home/alice/.ssh/id_rsa", "lookup"), ("/home/alice/.kube", "list")}
    is_found = eventually(lambda: {(row["path"], row["action"]) for row in rows(kind="file", decision="deny")} >= wanted)
    return ("CANARY" not in done.stdout and is_found) or (done.stdout, rows(kind="file"))


def a_limit_of_memory_ends_who_exceeds_it():
    big = "python3 -c \"x = bytearray(300 << 20); print(len(x))\""
    free = sh(f"sandboxctl run -T --memory 600M -- {big}", "alice")
    bound = sh(f"sandboxctl run -T --memory 64M -- {big}", "alice")
    return free.stdout.strip() == str(300 << 20) and bound.returncode == 137


def a_limit_of_tasks_stops_a_fork_bomb():
    bomb = "python3 -c \"import os, time\nn = 0\ntry:\n while n < 200:\n  if os.fork() == 0: time.sleep(30); os._exit(0)\n  n += 1\n" \
           "except OSError: pass\nprint(n)\""
    done = sh(f"sandboxctl run -T --tasks 20 -- {bomb}", "alice")
    return done.returncode == 0 and 0 < int(done.stdout) < 20


def a_limit_of_memory_holds_where_the_machine_swaps():
    made = sh("dd if=/dev/zero of=/var/swap bs=1M count=400 status=none && chmod 600 /var/swap && mkswap -q /var/swap && swapon /var/swap")
    assert made.returncode == 0, made.stdout
    big = "python3 -c \"x = bytearray(150 << 20); print(len(x))\""
    ends = []
    try:
        for limits in ({"memory": "64M"}, {"memory": "64M", "swap": "0"}):
            with open("/home/alice/limits.json", "w", encoding="utf-8") as f:
                json.dump({"version": 1, "name": "limits", "extends": ["agent"], "limits": limits}, f)
            ends.append(sh(f"sandboxctl run -T -p /home/alice/limits.json -- {big}", "alice").returncode)
    finally:
        sh("swapoff /var/swap; rm -f /var/swap /home/alice/limits.json")
    return ends == [0, 137] or ends


def a_limit_of_tasks_counts_who_nobody_waits_for():
    ended = "python3 -c \"import os\nn = 0\ntry:\n while n < 200:\n  if os.fork() == 0: os._exit(0)\n  n += 1\nexcept OSError: pass\n" \
            "print(n)\""
    done = sh(f"sandboxctl run -T --tasks 20 -- {ended}", "alice")
    return done.returncode == 0 and 0 < int(done.stdout) < 20


def a_limit_of_processors_slows_who_has_reached_it():
    work = "python3 -c \"import time\nend, n = time.monotonic() + 10, 0\nwhile time.monotonic() < end: n += 1\nprint(n)\""
    free, bound = (int(sh(f"sandboxctl run -T --cpu {share} -- {work}", "alice").stdout) for share in ("100%", "10%"))
    return bound > 0 and 2 * bound < free


def users_see_only_their_own_sessions():
    session = create("alice")
    seen = sh("sandboxctl list --json", "bob").stdout
    foreign, unknown = (sh(f"sandboxctl describe {name}", "bob") for name in (session, "0" * len(session)))
    own = sh("sandboxctl list --json", "alice").stdout
    sh(f"sandboxctl terminate {session}; sandboxctl remove {session}", "alice")
    alike = foreign.stdout.replace(session, "ID") == unknown.stdout.replace("0" * len(session), "ID")
    return session in own and session not in seen and alike and foreign.returncode != 0


def reload_takes_the_settings_anew():
    before = status()["policyGeneration"]
    with open("/etc/sandboxd/sandboxd.json", "w", encoding="utf-8") as f:
        f.write('{"sessions": {"retention": "20h"}}\n')
    done = sh("systemctl reload sandboxd")
    grown = eventually(lambda: status().get("policyGeneration", before) != before)
    return done.returncode == 0 and grown or {"before": before, "now": status(), "reload": done.stdout}


def leaves_a_session_behind(act):
    """The daemon goes by act; its successor ends the session and says so."""
    session = create("alice")
    with subprocess.Popen(["setpriv", "--reuid", "alice", "--regid", "alice", "--init-groups", "sandboxctl", "exec", session,
                           "--", "sleep", "98765"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as client:
        running = eventually(lambda: is_running("98765"))
        pid = main_pid()
        act(pid)
        restarted = eventually(lambda: is_active() == "active" and main_pid() not in (0, pid) and status())
        gone = eventually(lambda: not is_running("98765"))
        client.wait(60)
    recorded = eventually(lambda: any(row.get("reason") == "daemon-restart" for row in rows(session=session)), 20)
    return {"running": running, "restarted": restarted, "gone": gone, "recorded": recorded}


def a_restart_ends_sessions_in_order():
    found = leaves_a_session_behind(lambda pid: sh("systemctl restart sandboxd"))
    return all(found.values()) or found


def a_killed_daemon_comes_again():
    found = leaves_a_session_behind(lambda pid: os.kill(pid, 9))
    return all(found.values()) or found


FLOOD = """
import socket
while True:
    s = socket.socket(socket.AF_UNIX)
    try: s.connect("/run/sandboxd/io.sandboxd")
    except OSError: pass
    s.close()
"""


def shut_out():
    """The uids that the socket's access control list refuses: the file is systemd's, and outlives the daemon."""
    try:
        text = os.getxattr("/run/sandboxd/io.sandboxd", "system.posix_acl_access")
    except OSError:
        return []
    return [uid for tag, permissions, uid in struct.iter_unpack("<HHI", text[4:]) if tag == 2 and permissions == 0 and uid != 0]


def who_floods_is_shut_out_until_the_daemon_comes_again():
    uid = pwd.getpwnam("alice").pw_uid
    pid = main_pid()

    def is_stopped_while_shut():
        os.kill(pid, signal.SIGSTOP)
        if uid in shut_out():
            return True
        os.kill(pid, signal.SIGCONT)
        return False
    with subprocess.Popen(["setpriv", "--reuid", "alice", "--regid", "alice", "--init-groups", "python3", "-c", FLOOD]) as flood:
        found = {"shut": eventually(lambda: uid in shut_out()), "others": bool(status("bob")),
                 "stopped": eventually(is_stopped_while_shut)}
        flood.kill()
        os.kill(pid, signal.SIGKILL)
    found["left"] = shut_out() == [uid]
    found["again"] = eventually(lambda: bool(status("alice")))
    found["nobody"] = shut_out() == []
    return all(found.values()) or found


def a_stop_leaves_no_process():
    sh("systemctl stop sandboxd.service")
    left = eventually(lambda: not os.path.exists(GROUP) or not processes(), 60)
    again = bool(status())
    return left and again or {"left": processes(), "again": again}


def the_log_is_sound():
    done = sh("sandboxctl audit verify")
    return done.returncode == 0 or done.stdout


# ---- power loss ----

def write_rows_until_the_power_goes():
    """Prints the last row's number that somebody was told, then there is no time to write anything back."""
    for _ in range(5):
        sh("sandboxctl run -T -q -- true", "alice")
    last = max(row["sequence"] for row in rows())
    print(json.dumps({"told": last}), flush=True)
    time.sleep(0.5)
    with open("/proc/sysrq-trigger", "w", encoding="utf-8") as f:
        f.write("b")


def what_was_told_is_still_there():
    found = sh("sandboxctl audit verify")
    print(json.dumps({"verify": found.returncode, "says": found.stdout, "last": max(row["sequence"] for row in rows())}),
          flush=True)


TRIALS = [the_socket_starts_the_daemon, an_ordinary_user_has_a_session, a_denied_host_is_refused_and_recorded,
          an_attempt_on_a_denied_path_is_a_row,
          a_limit_of_memory_ends_who_exceeds_it, a_limit_of_memory_holds_where_the_machine_swaps,
          a_limit_of_tasks_stops_a_fork_bomb, a_limit_of_tasks_counts_who_nobody_waits_for,
          a_limit_of_processors_slows_who_has_reached_it, users_see_only_their_own_sessions,
          reload_takes_the_settings_anew, a_restart_ends_sessions_in_order, a_killed_daemon_comes_again,
          who_floods_is_shut_out_until_the_daemon_comes_again,
          a_stop_leaves_no_process, the_log_is_sound]


def main():
    make_users()
    if len(sys.argv) > 1:
        return globals()[sys.argv[1]]()
    for trial in TRIALS:
        try:
            result = trial()
        except Exception as error:  # pylint: disable=broad-except
            result = f"{type(error).__name__}: {error}"
        print(json.dumps({"trial": re.sub("_", " ", trial.__name__), "result": result}), flush=True)
    print(json.dumps({"journal": sh("journalctl -u sandboxd --no-pager -n 60").stdout}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
