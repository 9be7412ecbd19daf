"""What a session reaches: allowed hosts answer, all else is refused, and each has its row first."""

import json
import os
import subprocess

import pytest

from machine import eventually, talk


def run(instance, user, profile, *command, options=(), **more):
    more.setdefault("cwd", user.workspace())
    return instance.ctl(user, "run", "-T", "-p", profile, *options, "--", *command, **more)


def net_rows(instance, after, **equal):
    return instance.rows(after, kind="net", **equal)


def test_allowed_host_answers_and_is_recorded(instance, caller, profile, web):
    before = instance.head()
    done = run(instance, caller, profile, "curl", "-sS", f"http://allowed.test:{web.server_port}/")
    assert (done.returncode, done.stdout) == (0, "hello from the test server\n"), done.stderr
    row, = net_rows(instance, before, action="connect")
    assert (row["verdict"], row["host"], row["port"], row["rule"], row["entry"]) == \
        ("allow", "allowed.test", web.server_port, "t", "absolute")
    assert row["uid"] == caller.uid and row["method"] == "GET"
    closes = eventually(lambda: [c for c in instance.closes(before) if c["conn_seq"] == row["seq"]])
    assert len(closes) == 1
    assert closes[0]["ip"] == bytes([127, 0, 0, 1]) and closes[0]["port"] == web.server_port
    assert closes[0]["bytes_up"] > 0 and closes[0]["bytes_dn"] >= len(done.stdout)


def test_the_row_is_older_than_the_connection(instance, alice, profile, web):
    """The server sees the request only after the row was committed."""
    before, seen = instance.head(), []
    original = web.get_request

    def note():
        request = original()
        seen.append(net_rows(instance, before, action="connect"))
        return request

    web.get_request = note
    try:
        run(instance, alice, profile, "curl", "-sS", f"http://allowed.test:{web.server_port}/")
    finally:
        web.get_request = original
    assert len(seen) == 1 and len(seen[0]) == 1


def test_denied_host_gets_403_and_a_row(instance, caller, profile, web, dns):
    before, questions, requests = instance.head(), len(dns.questions), len(web.requests)
    done = run(instance, caller, profile, "curl", "-sS", "-i", f"http://evil.test:{web.server_port}/secret?q=1")
    head, _, body = done.stdout.partition("\n\n") if "\n\n" in done.stdout else done.stdout.partition("\r\n\r\n")
    assert " 403 " in head.splitlines()[0], done.stdout + done.stderr
    assert "evil.test" in body
    headers = {line.split(":")[0].lower(): line.partition(":")[2].strip() for line in head.splitlines()[1:]}
    decision = json.loads(headers["sandboxd-decision"])
    assert decision["host"] == "evil.test" and decision["port"] == web.server_port
    assert {"rule", "reason"} <= set(decision)
    assert headers["content-type"].startswith("text/plain")
    row, = net_rows(instance, before)
    assert (row["verdict"], row["host"], row["port"], row["uid"]) == \
        ("deny", "evil.test", web.server_port, caller.uid)
    assert len(dns.questions) == questions, "a denied name was asked for"
    assert len(web.requests) == requests
    assert "evil.test" in done.stderr, "sandboxctl says nothing about the denial"


def test_connect_is_decided_too(instance, alice, profile, web):
    url = f":{web.server_port}/"
    before = instance.head()
    done = run(instance, alice, profile, "curl", "-sS", "-p", "http://allowed.test" + url)
    assert done.stdout == "hello from the test server\n", done.stderr
    done = run(instance, alice, profile, "curl", "-sS", "-p", "http://evil.test" + url)
    assert done.returncode == 56 and "403" in done.stderr, done.stderr
    rows = net_rows(instance, before)
    # Plain HTTP in a tunnel is decided request by request.
    assert [(r["verdict"], r["host"], r["protocol"]) for r in rows] == \
        [("allow", "allowed.test", "any"), ("allow", "allowed.test", "http"), ("deny", "evil.test", "any")], rows


def test_keep_alive_has_one_verdict_per_request(instance, alice, profile, web):
    port = web.server_port

    def get(host):
        return f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()

    before = instance.head()
    (answers, _), = talk(instance, alice, profile, [[get("allowed.test"), get("evil.test")]])
    assert [a.status for a in answers] == [200, 403]
    (answers, _), = talk(instance, alice, profile, [[get("allowed.test"), get("allowed.test")]])
    assert [a.status for a in answers] == [200, 200]
    verdicts = [r["verdict"] for r in net_rows(instance, before)]
    assert verdicts == ["allow", "deny", "allow", "allow"]


def test_wildcards(instance, alice, profile, web):
    for host, expected in (("sub.wild.test", "200"), ("wild.test", "403"), ("evilwild.test", "403"),
                           ("sub.wild.test.evil.test", "403"), ("SUB.Wild.TEST", "200"), ("sub.wild.test.", "200")):
        done = run(instance, alice, profile, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
                   f"http://{host}:{web.server_port}/")
        assert done.stdout == expected, host


def test_ports(instance, alice, profile, other_web):
    done = run(instance, alice, profile, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
               f"http://allowed.test:{other_web.server_port}/")
    assert done.stdout == "403" and other_web.accepted == 0


@pytest.mark.parametrize("host", ["private.test", "metadata.test"])
def test_names_of_forbidden_addresses_are_refused(instance, alice, profile, web, host):
    """An allowed name that resolves to the loopback or to a metadata service, without a rule for that range."""
    before, accepted = instance.head(), web.accepted
    port = 80 if host == "metadata.test" else web.server_port
    done = run(instance, alice, profile, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-m", "20",
               f"http://{host}:{port}/")
    assert done.stdout == "403", done.stderr
    connect, refuse = net_rows(instance, before)
    assert (connect["action"], connect["verdict"]) == ("connect", "allow")
    assert (refuse["action"], refuse["verdict"], refuse["ref_seq"]) == ("refuse", "deny", connect["seq"])
    assert web.accepted == accepted
    assert not [c for c in instance.closes(before) if c["conn_seq"] == connect["seq"]]


def test_only_judged_addresses_are_tried(instance, alice, profile, web):
    done = run(instance, alice, profile, "curl", "-sS", f"http://mixed.test:{web.server_port}/")
    assert done.stdout == "hello from the test server\n", done.stderr


def test_failures_upstream_are_no_denials(instance, alice, make_profile, allow_rule):
    profile = make_profile([allow_rule("closed.test", 9), allow_rule("absent.test", 80, "absent")])
    for host in ("closed.test:9", "absent.test:80"):
        before = instance.head()
        done = run(instance, alice, profile, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
                   f"http://{host}/")
        assert done.stdout == "502", host
        row, = net_rows(instance, before)
        assert row["verdict"] == "allow"
        assert eventually(lambda: [c for c in instance.closes(before) if c["conn_seq"] == row["seq"]]), host


def test_literal_addresses_need_a_cidr_rule(instance, alice, profile, echo, web):
    def connect(target):
        return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()

    wanted = [(f"127.0.0.1:{echo.port}", 200), (f"127.0.0.1:{web.server_port}", 403), (f"[::1]:{echo.port}", 403),
              (f"0.0.0.0:{echo.port}", 403), ("169.254.169.254:80", 403), (f"[::]:{echo.port}", 403),
              (f"[::ffff:127.0.0.1]:{web.server_port}", 403), ("[::ffff:169.254.169.254]:80", 403)]
    answers = talk(instance, alice, profile, [[connect(target)] for target, _ in wanted])
    assert [(t, a[0].status) for (t, _), (a, _) in zip(wanted, answers)] == wanted


def test_odd_spellings_of_addresses_reach_nothing(instance, alice, profile, echo):
    before, port = instance.head(), echo.port
    targets = ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1.", "[::1%lo]",
               "[fe80::1%25eth0]", "0x7f.1", "127.0.0.01", "1.2.3.4.5", "localhost", "allowed.test@127.0.0.1",
               "127.0.0.1#allowed.test"]
    answers = talk(instance, alice, profile,
                   [[f"CONNECT {t}:{port} HTTP/1.1\r\nHost: {t}:{port}\r\n\r\n".encode()] for t in targets])
    for target, (answer, _) in zip(targets, answers):
        assert answer[0].status in (400, 403), target
    assert not net_rows(instance, before, verdict="allow")


def test_hosts_that_are_no_hosts(instance, alice, profile, web):
    """Bytes outside the grammar are refused before they meet a rule."""
    port, before = web.server_port, instance.head()
    hosts = [b"evil.test\0.wild.test", b"a\tb.wild.test", b"evil.test%00.wild.test", b"\x7f.wild.test",
             b"a..wild.test", b".wild.test", b"x" * 64 + b".wild.test", b".".join([b"x" * 60] * 5) + b".wild.test",
             b"-a.wild.test\x0b", b"\xc3\xa4.wild.test\xff", b"a b.wild.test", b"sub.wild.test..", b"*.wild.test",
             b"a_\x1b]0;x.wild.test", b""]
    answers = talk(instance, alice, profile,
                   [[b"CONNECT %s:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (h, port)] for h in hosts])
    for host, (answer, _) in zip(hosts, answers):
        assert not answer or answer[0].status in (400, 403, None), (host, answer)
    assert not net_rows(instance, before, verdict="allow")


def test_ambiguous_requests_are_refused(instance, alice, profile, web):
    """Two Host headers, CL+TE, a bare LF, folded lines, another Host than the target: 400 and an end."""
    port, requests = web.server_port, len(web.requests)
    url = b"http://allowed.test:%d/" % port
    host = b"Host: allowed.test:%d\r\n" % port
    bad = {
        "two hosts": b"GET " + url + b" HTTP/1.1\r\n" + host + b"Host: evil.test\r\n\r\n",
        "same host twice": b"GET " + url + b" HTTP/1.1\r\n" + host + host + b"\r\n",
        "length and chunks": b"POST " + url + b" HTTP/1.1\r\n" + host +
                             b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": b"POST " + url + b" HTTP/1.1\r\n" + host + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "other host": b"GET " + url + b" HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "no host": b"GET " + url + b" HTTP/1.1\r\n\r\n",
        "folded": b"GET " + url + b" HTTP/1.1\r\n" + host + b"X: a\r\n b\r\n\r\n",
        "space before colon": b"GET " + url + b" HTTP/1.1\r\nHost : allowed.test\r\n\r\n",
        "bad chunking": b"POST " + url + b" HTTP/1.1\r\n" + host + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "user info": b"GET http://allowed.test@evil.test:%d/ HTTP/1.1\r\n" % port + host + b"\r\n",
        "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "origin form": b"GET / HTTP/1.1\r\n" + host + b"\r\n",
        "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "other scheme": b"GET ftp://allowed.test:%d/ HTTP/1.1\r\n" % port + host + b"\r\n",
        "null in header": b"GET " + url + b" HTTP/1.1\r\n" + host + b"X: a\0b\r\n\r\n",
        "minus length": b"POST " + url + b" HTTP/1.1\r\n" + host + b"Content-Length: -1\r\n\r\n",
    }
    answers = talk(instance, alice, profile, [[request] for request in bad.values()])
    for name, (answer, is_closed) in zip(bad, answers):
        status = answer[0].status if answer else None
        assert status is None or 400 <= status < 600, (name, answer)
        assert status != 502, name
        assert is_closed, (name, answer)
    assert len(web.requests) == requests, [r for r in web.requests[requests:]]


def test_nothing_is_smuggled_behind_a_body(instance, alice, profile, web):
    """A second request in one packet is a request of its own, with its own verdict."""
    port, requests = web.server_port, len(web.requests)
    both = (f"POST http://allowed.test:{port}/a HTTP/1.1\r\nHost: allowed.test:{port}\r\nContent-Length: 3\r\n\r\nabc"
            f"GET http://evil.test:{port}/b HTTP/1.1\r\nHost: evil.test:{port}\r\n\r\n").encode()
    talk(instance, alice, profile, [[both]])
    assert [r[1] for r in web.requests[requests:]] == ["/a"]


def test_bodies_both_ways(instance, alice, profile, web):
    size = 8_000_000
    done = run(instance, alice, profile, "sh", "-c",
               f"head -c {size} /dev/zero | tr '\\0' z >f && "
               f"curl -sS --data-binary @f http://allowed.test:{web.server_port}/up | cmp - f && "
               f"curl -sS -H 'Transfer-Encoding: chunked' --data-binary @f http://allowed.test:{web.server_port}/up"
               f" | cmp - f && curl -sS http://allowed.test:{web.server_port}/big/{size} | wc -c")
    assert done.stdout.split() == [str(size)], done.stderr


def test_without_proxy_there_is_no_way(instance, either, profile, web):
    script = (f"curl -sSf -m 5 --noproxy '*' http://evil.test:{web.server_port}/; echo $?;"
              f"curl -sS -m 5 --noproxy '*' http://127.0.0.1:{web.server_port}/; echo $?;"
              f"unset HTTP_PROXY http_proxy ALL_PROXY all_proxy HTTPS_PROXY https_proxy;"
              f"curl -sSf -m 5 http://10.0.2.2:{web.server_port}/; echo $?;"
              f"python3 -c 'import socket; socket.create_connection((\"8.8.8.8\", 53), 3).recv(1)'; echo $?")
    accepted = web.accepted
    done = run(instance, either, profile, "sh", "-c", script)
    assert "0" not in done.stdout.split() and web.accepted == accepted, done.stdout


def test_no_network(instance, alice, profile, web):
    accepted = web.accepted
    done = run(instance, alice, profile, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5",
               f"http://allowed.test:{web.server_port}/", options=["--no-network"])
    assert done.stdout in ("000", "403") and web.accepted == accepted


def test_flags_narrow(instance, alice, profile, web):
    done = run(instance, alice, profile, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
               f"http://allowed.test:{web.server_port}/", options=["--deny-host", "allowed.test"])
    assert done.stdout == "403"


def test_allow_host_opens_no_private_range(instance, alice, make_profile, web):
    accepted = web.accepted
    done = run(instance, alice, make_profile(), "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
               f"http://private.test:{web.server_port}/", options=["--allow-host", f"private.test:{web.server_port}"])
    assert done.stdout == "403" and web.accepted == accepted


def test_default_profile_allows_nothing(instance, alice, web):
    done = instance.ctl(alice, "run", "-T", "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
                        f"http://allowed.test:{web.server_port}/", cwd=alice.workspace())
    assert done.stdout == "403", done.stderr


def test_python(instance, either, profile, web):
    script = ("import sys, urllib.request, urllib.error\n"
              "print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')\n"
              "try:\n urllib.request.urlopen(sys.argv[2])\nexcept urllib.error.HTTPError as e: print(e.code)\n")
    done = run(instance, either, profile, "python3", "-c", script, f"http://allowed.test:{web.server_port}/",
               f"http://evil.test:{web.server_port}/")
    assert done.stdout == "hello from the test server\n403\n", done.stderr


def test_node(instance, either, profile, web):
    script = ("const http = require('http'); const proxy = new URL(process.env.HTTP_PROXY);\n"
              "const get = (url, then) => http.get({host: proxy.hostname, port: proxy.port, path: url,\n"
              " headers: {Host: new URL(url).host}}, r => { let b = ''; r.on('data', d => b += d);\n"
              " r.on('end', () => { console.log(r.statusCode, b.split('\\n')[0]); then && then(); }); });\n"
              "get(process.argv[1], () => get(process.argv[2]));\n")
    done = run(instance, either, profile, "node", "-e", script, f"http://allowed.test:{web.server_port}/",
               f"http://evil.test:{web.server_port}/")
    lines = done.stdout.splitlines()
    assert lines[0] == "200 hello from the test server" and lines[1].startswith("403 "), done.stderr


def test_git_clone(instance, caller, profile, web, git_root):
    work = caller.workspace()
    done = run(instance, caller, profile, "git", "clone", "-q",
               f"http://allowed.test:{web.server_port}/repo.git", "copy", cwd=work)
    assert done.returncode == 0, done.stderr
    head = subprocess.run(["git", "-c", "safe.directory=*", "-C", f"{work}/copy", "rev-parse", "HEAD"],
                          stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    assert head == git_root[1]
    assert os.stat(f"{work}/copy/file.txt").st_uid == caller.uid
    done = run(instance, caller, profile, "git", "clone", "-q",
               f"http://evil.test:{web.server_port}/repo.git", "other", cwd=work)
    assert done.returncode != 0 and "403" in done.stderr


def test_listeners_inside_are_not_reachable(instance, alice, profile):
    import socket
    child = instance.ctl_start(alice, "run", "-T", "-p", profile, "--", "python3", "-c",
                               "import socket,time\ns=socket.socket();s.bind(('0.0.0.0',45671));s.listen()\n"
                               "print('up',flush=True);time.sleep(30)", cwd=alice.workspace(),
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert child.stdout.readline() == b"up\n"
        with socket.socket() as s:
            assert s.connect_ex(("127.0.0.1", 45671)) != 0
    finally:
        child.kill()
        child.communicate()


def test_sessions_do_not_share_ports(instance, alice, profile):
    """E69."""
    script = "import socket;s=socket.socket();s.bind(('127.0.0.1',4000));s.listen();print('ok')"
    first, second = instance.create(alice), instance.create(alice)
    for session in (first, second):
        assert instance.ctl(alice, "exec", session, "--", "python3", "-c", script).stdout == "ok\n"
        instance.ctl(alice, "terminate", session)
        instance.ctl(alice, "remove", session)


def test_connections_end_with_the_session(instance, alice, profile, web):
    web.cut.clear()
    session = instance.create(alice, "-p", profile)
    child = instance.ctl_start(alice, "exec", session, "--", "curl", "-sS", "-N",
                               f"http://allowed.test:{web.server_port}/slow", stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    assert child.stdout.read(5) == b"xxxxx"
    before = instance.head()
    assert instance.ctl(alice, "terminate", session).returncode == 0
    assert web.cut.wait(3), "the server still sends"
    child.communicate(timeout=10)
    closes = eventually(lambda: instance.closes(before))
    assert closes and closes[0]["bytes_dn"] >= 5
    instance.ctl(alice, "remove", session)


def test_many_connections_at_once(instance, alice, profile, web):
    script = ("import sys, threading, urllib.request\nfound = []\n"
              "def get():\n found.append(urllib.request.urlopen(sys.argv[1]).status)\n"
              "ts = [threading.Thread(target=get) for _ in range(60)]\n"
              "[t.start() for t in ts]; [t.join() for t in ts]; print(found.count(200))")
    done = run(instance, alice, profile, "python3", "-c", script, f"http://allowed.test:{web.server_port}/")
    assert done.stdout.strip() == "60", done.stderr[-500:]
