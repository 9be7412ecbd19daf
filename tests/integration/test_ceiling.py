"""The administrator's ceiling and additions: for every profile and user, loaded as a whole or not at all."""

import os

import pytest

from machine import Instance

def allow(host, port):
    return {"id": host.strip("*.").replace(".", "-"), "action": "allow", "host": host, "ports": [port], "cidr": "127.0.0.1/32"}


@pytest.fixture
def ceiling(web):
    return {"version": 1, "network": {"default": "deny", "rules": [allow("allowed.test", web.server_port)], "publish": []},
            "filesystem": {"home": "empty", "write": ["${workspace}"], "deny": ["${workspace}/sealed"]},
            "limits": {"files": 128}, "groups": []}


@pytest.fixture
def bounded(settings, ceiling):
    with Instance(settings=settings, ceiling=ceiling) as made:
        yield made


@pytest.fixture
def wide(make_profile, web):
    """Opens more than the ceiling leaves."""
    return make_profile([allow("allowed.test", web.server_port), allow("*.wild.test", web.server_port)],
                        filesystem={"home": "persistent"}, limits={"files": 4096})


@pytest.fixture
def fetch(web):
    def ask(instance, user, host, *options):
        url = f"http://{host}:{web.server_port}/"
        done = instance.sh(user, f"curl -s -o /dev/null -w '%{{http_code}}' {url}", options=options)
        assert done.returncode == 0, done
        return done.stdout
    return ask


def test_a_ceiling_bounds_every_profile(bounded, either, wide, fetch, web):
    assert fetch(bounded, either, "allowed.test", "-p", wide) == "200"
    assert fetch(bounded, either, "sub.wild.test", "-p", wide) == "403"
    assert fetch(bounded, either, "denied.test", "-p", wide, "--allow-host", f"denied.test:{web.server_port}") == "403"
    assert fetch(bounded, either, "allowed.test") == "403"
    rows = [row for row in bounded.rows(kind="net") if row["host"] in ("sub.wild.test", "denied.test")]
    assert len(rows) >= 2 and all(row["verdict"] == "deny" for row in rows), rows
    work = either.workspace()
    either.write(work + "/sealed", "CANARY\n")
    done = bounded.sh(either, "ulimit -n; ulimit -Hn; cat sealed; touch made; ls; touch ~/warm; ls -A ~ | grep -c warm",
                      workspace=work, options=["-p", wide])
    assert done.stdout.split() == ["128", "128", "made", "sealed", "1"], done
    again = bounded.sh(either, "ls -A ~ | grep -c warm", workspace=work, options=["-p", wide])
    assert again.stdout == "0\n", again


def test_what_is_beyond_it_and_asked_for_is_refused(bounded, alice):
    for context in ({"home": "persistent"}, {"home": "masked"}, {"limits": {"filesMax": 4096}}):
        reply, = bounded.call(alice, "io.sandboxd.Session.Create", {"context": context})
        assert reply["error"] == "io.sandboxd.Session.DeniedByPolicy", (context, reply)
        assert "ceiling" in reply["parameters"]["message"], reply
    reply, = bounded.call(alice, "io.sandboxd.Session.Create", {"context": {"limits": {"filesMax": 64}}})
    assert "error" not in reply, reply
    done = bounded.ctl(alice, "run", "-T", "--publish", "3999", "--", "true", cwd=alice.workspace())
    assert done.returncode == 0 and "3999" in done.stderr and "ceiling" in done.stderr, done


def test_paths_beyond_it_are_not_written(bounded, alice):
    folder = os.path.join(alice.home, "sbxt-beyond")
    alice.write(folder + "/f", "of the host\n")
    done = bounded.sh(alice, f"cat {folder}/f; echo x >{folder}/f", options=["--write", folder])
    assert done.stdout == "of the host\n" and "ceiling" in done.stderr, done
    with open(folder + "/f", encoding="utf-8") as f:
        assert f.read() == "of the host\n"


def test_check_and_describe_tell_of_it(bounded, alice, wide, web):
    reply, = bounded.call(alice, "io.sandboxd.Policy.Describe", {})
    assert reply["parameters"]["hasCeiling"] is True
    assert any(name.endswith("/ceiling.json") for name in reply["parameters"]["files"]), reply
    with open(wide, encoding="utf-8") as f:
        text = f.read()
    for host, decision in (("sub.wild.test", "deny"), ("allowed.test", "allow")):
        reply, = bounded.call(alice, "io.sandboxd.Policy.Check",
                              {"profileContent": text, "network": {"url": f"http://{host}:{web.server_port}/"}})
        assert reply["parameters"]["decision"] == decision, reply
    assert "@" not in bounded.ctl(alice, "policy", "list").stdout
    assert bounded.ctl(alice, "run", "-T", "-p", "@ceiling", "--", "true", cwd=alice.workspace()).returncode == 125


def test_it_is_loaded_as_a_whole_or_not_at_all(bounded, ceiling, alice, root, wide, fetch):
    def load(text, mode=0o644):
        bounded.write_config("ceiling.json", text)
        os.chmod(os.path.join(bounded.config, "ceiling.json"), mode)
        return bounded.ctl(root, "policy", "reload")

    done = load('{"version": 1,\n "network": {"default": "alow"}}')
    assert done.returncode != 0 and "ceiling.json:2:" in done.stderr, done
    assert fetch(bounded, alice, "sub.wild.test", "-p", wide) == "403"
    assert load({"version": 1}, 0o666).returncode != 0
    assert fetch(bounded, alice, "sub.wild.test", "-p", wide) == "403"
    assert load({"version": 1}).returncode == 0
    assert fetch(bounded, alice, "sub.wild.test", "-p", wide) == "200"
    assert load(ceiling).returncode == 0
    assert fetch(bounded, alice, "sub.wild.test", "-p", wide) == "403"


@pytest.mark.parametrize("name", ["ceiling.json", "policy.json"])
def test_no_start_with_a_broken_one(settings, alice, name):
    with Instance(settings=settings) as instance:
        assert instance.stop() == 0
        for fault in ('{"version": 1, "nonsense": 1}', "{"):
            instance.write_config(name, fault)
            with pytest.raises(AssertionError, match=name):
                instance.start()
        instance.write_config(name, {"version": 1})
        os.chmod(os.path.join(instance.config, name), 0o666)
        with pytest.raises(AssertionError, match=name):
            instance.start()
        os.unlink(os.path.join(instance.config, name))
        os.symlink("/dev/null", os.path.join(instance.config, name))
        with pytest.raises(AssertionError, match=name):
            instance.start()
        os.unlink(os.path.join(instance.config, name))
        instance.start()
        assert instance.sh(alice, "true").returncode == 0


def test_additions_hold_for_every_profile(settings, alice, root, wide, fetch, web):
    denial = {"id": "never", "action": "deny", "host": "sub.wild.test"}
    additions = {"version": 1, "network": {"rules": [allow("allowed.test", web.server_port), denial]},
                 "filesystem": {"deny": ["${workspace}/sealed"]}}
    with Instance(settings=settings) as instance:
        assert fetch(instance, alice, "sub.wild.test", "-p", wide) == "200"
        instance.write_config("policy.json", additions)
        assert instance.ctl(root, "policy", "reload").returncode == 0
        assert fetch(instance, alice, "allowed.test") == "200"
        assert fetch(instance, alice, "sub.wild.test", "-p", wide) == "403"
        rows = [row for row in instance.rows(kind="net", host="sub.wild.test") if row["verdict"] == "deny"]
        assert [row["rule"] for row in rows] == ["never"], rows
        work = alice.workspace()
        alice.write(work + "/sealed", "CANARY\n")
        done = instance.sh(alice, "cat sealed", workspace=work, options=["-p", wide, "--read", work + "/sealed"])
        assert "CANARY" not in done.stdout, done
