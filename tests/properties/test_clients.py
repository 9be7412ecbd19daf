"""Who a client is, and what it may know and do: properties D01, D03, D16, D18, D23 and D48."""

import glob
import json
import os
import re
import statistics

import machine

NEVER = "0123456789abcdef" * 2
SESSION = "io.sandboxd.Session."

# By every verb that names a session.
BY_ID = [("Describe", {}), ("Wait", {}), ("Terminate", {}), ("Remove", {}), ("Signal", {"signal": "SIGKILL"}),
         ("Freeze", {}), ("Thaw", {}), ("Exec", {"command": {"commandLine": ["id"]}})]


def parse_method(name, parameters, identifier):
    return SESSION + name, {"id": identifier, **parameters}


def test_d01_identity_is_the_kernels_word(instance, alice, ask):
    """Neither a claim in the message nor the name that a socket is bound to changes who calls."""
    script = (
        "import json,socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.bind('\\0;uid=0;pid=1;'+'%d'); s.settimeout(10); s.connect(%r)\n"
        "m={'method':'io.sandboxd.Manager.Describe','parameters':{}}\n"
        "s.sendall(json.dumps(m).encode()+b'\\0')\n"
        "b=b''\n"
        "while not b.endswith(b'\\0'): b+=s.recv(65536)\n"
        "print(json.loads(b[:-1])['parameters']['callerUid'])\n" % (os.getpid(), instance.socket))
    done = alice.run(["/usr/bin/python3", "-c", script])
    assert done.stdout.strip() == str(alice.uid), done
    for claim in ("root", "0"):
        reply = ask(alice, SESSION + "Create", {"context": {"profile": "agent", "user": claim,
                                                          "workspace": alice.workspace()}})[0]
        assert reply.get("error"), reply
    for extra in ("uid", "callerUid", "peer"):
        reply = ask(alice, "io.sandboxd.Manager.Describe", {extra: 0})[0]
        assert reply.get("error") == "org.varlink.service.InvalidParameter", reply
    assert not [row for row in instance.rows(kind="session", action="start") if row["uid"] == 0]


def test_d03_a_passed_connection_keeps_its_connector(instance, alice, bob):
    """The connection is its connector's, whoever holds the descriptor: SECURITY.md says so."""
    script = (
        "import json,os,socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(%r)\n"
        "pid=os.fork()\n"
        "if pid: sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))\n"
        "os.setgroups([]); os.setresgid(%d,%d,%d); os.setresuid(%d,%d,%d)\n"
        "s.sendall(b'{\"method\":\"io.sandboxd.Manager.Describe\"}\\0')\n"
        "b=b''\n"
        "while not b.endswith(b'\\0'): b+=s.recv(65536)\n"
        "print(os.getuid(), json.loads(b[:-1])['parameters']['callerUid'])\n"
        % (instance.socket, *[bob.gid] * 3, *[bob.uid] * 3))
    # Root connects, bob speaks.
    done = machine.User("root").run(["/usr/bin/python3", "-c", script])
    assert done.stdout.split() == [str(bob.uid), "0"], done
    with open(os.path.join(machine.TOP, "docs/SECURITY.md"), encoding="utf-8") as f:
        assert "keeps the authority of whoever connected" in " ".join(f.read().split())


def group_of(identifier):
    for top in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")):
        for found in glob.glob(f"{top}/**/sandboxd-*/{identifier}", recursive=True):
            if os.path.exists(found + "/cgroup.procs"):
                return found
    raise AssertionError("no control group of " + identifier)


def test_d05_a_caller_inside_gets_nothing(instance, alice):
    """The socket is not visible in a session; whoever reaches it all the same from a session's control group is known by
    it and is refused, with every method, as root too."""
    group = group_of(instance.create(alice, "--name", "d05"))
    code = ("import json,os,socket,sys\n"
            "with open(%r+'/cgroup.procs','w') as f: f.write(str(os.getpid()))\n"
            "uid=int(sys.argv[1])\n"
            "if uid: os.setgroups([]); os.setresgid(uid,uid,uid); os.setresuid(uid,uid,uid)\n"
            "for method in ('org.varlink.service.GetInfo','io.sandboxd.Session.List','io.sandboxd.Approval.Respond',\n"
            "               'io.sandboxd.Manager.Describe'):\n"
            "  s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(%r)\n"
            "  b=b''\n"
            "  try:\n"
            "    s.sendall(json.dumps({'method':method,'more':True}).encode()+b'\\0')\n"
            "    while not b.endswith(b'\\0'):\n"
            "      part=s.recv(65536)\n"
            "      if not part: break\n"
            "      b+=part\n"
            "  except OSError: pass\n"
            "  print(json.dumps(json.loads(b[:-1])) if b else '{}')\n" % (group, instance.socket))
    for uid in (alice.uid, 0):
        done = machine.User("root").run(["/usr/bin/python3", "-c", code, str(uid)])
        replies = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(replies) == 4, done
        assert all(not r or r.get("error", "").endswith("PermissionDenied") for r in replies), replies
    assert instance.ctl(alice, "list").returncode == 0, "outside the same user is served"
    instance.ctl(alice, "remove", "d05")


def test_d16_foreign_sessions_answer_as_missing_ones(instance, alice, bob, ask):
    foreign = instance.create(alice, "--name", "d16-secret")
    for name, parameters in BY_ID:
        answers = []
        for identifier in (foreign, NEVER):
            replies = ask(bob, *parse_method(name, parameters, identifier), **({"more": True} if name == "Exec" else {}))
            answers.append(json.dumps(replies).replace(identifier, "ID"))
        assert answers[0] == answers[1] and "error" in answers[0], (name, answers)
    by_name = [ask(bob, SESSION + "Describe", {"id": name})[0] for name in ("d16-secret", "d16-absent")]
    assert by_name[0]["error"] == by_name[1]["error"] == SESSION + "NoSuchSession", by_name
    assert instance.ctl(alice, "exec", foreign, "--", "echo", "lives").stdout == "lives\n"
    instance.ctl(alice, "remove", foreign)


def test_d16_foreign_sessions_answer_as_fast(instance, alice, bob):
    """Bob's worker has never heard of alice's session: the two questions cost the same. In turns, on one connection,
    medians; wide, since the machine has other things to do."""
    foreign = instance.create(alice)
    script = (
        "import json,socket,time\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(%r)\n"
        "def ask(i):\n"
        " m=json.dumps({'method':'io.sandboxd.Session.Describe','parameters':{'id':i}}).encode()+b'\\0'\n"
        " t=time.perf_counter_ns(); s.sendall(m); b=b''\n"
        " while not b.endswith(b'\\0'): b+=s.recv(65536)\n"
        " return time.perf_counter_ns()-t\n"
        "for n in range(1500): print(ask(%r), ask(%r))\n" % (instance.socket, foreign, NEVER))
    pairs = [list(map(int, line.split())) for line in bob.run(["/usr/bin/python3", "-c", script]).stdout.splitlines()]
    assert len(pairs) == 1500
    ratio = statistics.median(p[0] for p in pairs) / statistics.median(p[1] for p in pairs)
    assert 0.5 < ratio < 2.0, ratio
    # And why: there is one worker per user, and it holds its own user's sessions.
    assert len(instance.workers("sandboxd-api")) >= 2
    instance.ctl(alice, "remove", foreign)


def test_d18_ids_are_random_and_useless_to_others(instance, alice, bob):
    ids = [instance.create(alice) for _ in range(12)]
    assert all(re.fullmatch("[0-9a-f]{32}", i) for i in ids) and len(set(ids)) == len(ids)
    # Two random numbers of 128 bits differ in about 64 of them; in fewer than 24 once in 10^12 pairs.
    for a, b in zip(ids, ids[1:]):
        assert (int(a, 16) ^ int(b, 16)).bit_count() >= 24, (a, b)
    for identifier in ids[:2]:
        assert instance.ctl(bob, "exec", identifier, "--", "id", timeout=20).returncode == 125
        # One bit off is nobody's.
        off = f"{int(identifier, 16) ^ 1:032x}"
        assert instance.ctl(alice, "describe", off).returncode == 125
    for identifier in ids:
        instance.ctl(alice, "remove", identifier)


def interfaces(ask, user):
    for name in ask(user, "org.varlink.service.GetInfo")[0]["parameters"]["interfaces"]:
        text = ask(user, "org.varlink.service.GetInterfaceDescription", {"interface": name})[0]["parameters"]["description"]
        for method in re.findall(r"^method (\w+)", text, re.M):
            yield f"{name}.{method}"


def test_d48_nothing_of_others_is_told(instance, alice, bob, ask):
    """Every method without arguments, as somebody else: no reply has a word of alice's."""
    workspace = alice.workspace("d48-folder-canary")
    canaries = ["d48-name-canary", "d48-folder-canary", "d48-label-canary", "d48-agent-canary"]
    created = ask(alice, SESSION + "Create", {"context": {
        "profile": "agent", "workspace": workspace, "name": canaries[0], "labels": {"k": canaries[2]},
        "agent": canaries[3], "lifetime": "detached"}})[0]
    assert "error" not in created, created
    canaries += [created["parameters"]["id"], alice.name]
    assert canaries[0] in json.dumps(ask(alice, SESSION + "List", more=True)), "the owner does see it"
    n = 0
    for method in interfaces(ask, bob):
        for flags in ({}, {"more": True}):
            text = json.dumps(ask(bob, method, **flags))
            assert not [c for c in canaries if c in text], (method, text)
            n += 1
    assert n > 60
    instance.ctl(alice, "remove", canaries[0])


def digest(folder):
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            with open(path, "rb") as f:
                found[path] = (os.stat(path).st_mtime_ns, f.read())
    return found


def test_d23_no_method_changes_policy_for_others(instance, alice, bob, ask):
    """What an unprivileged caller says to the policy interface leaves profiles and configuration as they were, for
    itself and for others: older or wider policy comes from root's files alone."""
    before = digest(machine.POLICIES), digest(instance.config), ask(bob, "io.sandboxd.Policy.Get", {"name": "agent"})
    wide = '{"version": 1, "name": "agent", "network": {"default": "allow"}}'
    for method in interfaces(ask, alice):
        if not method.startswith("io.sandboxd.Policy.") and not method.startswith("io.systemd.service."):
            continue
        for parameters in ({}, {"name": "agent"}, {"name": "agent", "content": wide}, {"content": wide},
                           {"layer": "system", "content": wide}, {"layer": "system"}):
            ask(alice, method, parameters)
    assert before == (digest(machine.POLICIES), digest(instance.config),
                      ask(bob, "io.sandboxd.Policy.Get", {"name": "agent"}))
    for method in ("io.systemd.service.Reload", "io.sandboxd.Policy.Reload"):
        assert ask(alice, method)[0]["error"] == "org.varlink.service.PermissionDenied", "only administrators reload"
