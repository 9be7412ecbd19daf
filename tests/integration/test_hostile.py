"""A worker that has been taken over gets nothing that policy denies, and its nonsense ends it alone."""

import os
import re

import pytest

import machine
import stubs


@pytest.fixture
def hostile_instance(settings):
    """A daemon whose egress workers are the test's."""
    with machine.Instance(settings=settings) as probe:
        folder = os.path.join(probe.folder, "libexec")
        os.mkdir(folder)
        for name in os.listdir(machine.BUILD + "/libexec"):
            os.symlink(os.path.realpath(f"{machine.BUILD}/libexec/{name}"), f"{folder}/{name}")
        os.unlink(folder + "/sandboxd-egress")
        os.symlink(machine.BUILD + "/tests/integration/hostile-egress", folder + "/sandboxd-egress")
        probe.stop()
        probe.libexec = folder
        yield probe.start()


def test_taken_over_egress_worker(hostile_instance, alice, make_profile, allow_rule, dns):
    questions = len(dns.questions)
    allowed, denied = stubs.HttpStub(port=25891), stubs.HttpStub(port=25892)
    try:
        profile = make_profile([allow_rule("allowed.test", 25891),
                                {"id": "metadata", "action": "allow", "host": "metadata.test", "ports": [80]}])
        session = hostile_instance.create(alice, "-p", profile)

        def reports():
            return dict(re.findall(r"hostile ([\w-]+): (.*)", hostile_instance.log_text()))

        assert machine.eventually(lambda: "hostile finished" in hostile_instance.log_text(), 60), \
            hostile_instance.log_text()[-2000:]
        found = reports()
        assert found.pop("allowed") == "verdict 2, descriptors 1", "the worker of the test does not work"
        found.pop("done-foreign")
        assert len(found) >= 10
        for name, text in found.items():
            assert "descriptors 0" in text, (name, text)
            assert "verdict 2" not in text or name == "denied-address", (name, text)
        assert "evil.test" not in {name for name, _ in dns.questions[questions:]}
        assert denied.accepted == 0 and allowed.accepted == 1
        # Everything that was asked for has its row, and what was allowed is what policy allows.
        allows = hostile_instance.rows(0, kind="net", verdict="allow")
        assert {(r["host"], r["port"]) for r in allows} <= {("allowed.test", 25891), ("metadata.test", 80)}
        denials = hostile_instance.rows(0, kind="net", verdict="deny")
        assert {("evil.test", 25891), ("allowed.test", 25892)} <= {(r["host"], r["port"]) for r in denials}
        assert hostile_instance.process.poll() is None
        # Its end is no end of the session, which has no network but runs.
        assert hostile_instance.ctl(alice, "exec", session, "--", "echo", "runs").stdout == "runs\n"
    finally:
        allowed.close()
        denied.close()
