"""Ways round the control that begin with a name that is resolved, by their numbers in the catalogue of bypasses; more of them are
in test_dns.py and test_names.py."""

import pytest

from test_dns import NO_NAME, ask, dns_rows, question


@pytest.fixture(scope="module")
def open_profile(make_profile, web):
    """Whatever no rule names is allowed."""
    return make_profile([{"id": "wild", "action": "allow", "host": "*.wild.test", "ports": [web.server_port]}],
                        network={"default": "allow"})


def test_e01_letters_and_dots(instance, alice, make_profile, dns):
    before, questions = instance.head(), len(dns.questions)
    path = make_profile([{"id": "d", "action": "deny", "host": "evil.test"}], network={"default": "allow"})
    found = ask(instance, alice, path, question("EVIL.test"), question("evil.TEST."), question("Evil.Test"))
    assert {a.code for a in found} == {NO_NAME} and len(dns.questions) == questions
    assert {(r["host"], r["verdict"], r["rule"]) for r in dns_rows(instance, before)} == {("evil.test", "deny", "d")}


def test_e05_wildcards_are_labels(instance, alice, make_profile, dns):
    before, questions = instance.head(), len(dns.questions)
    path = make_profile([{"id": "w", "action": "allow", "host": "*.wild.test"}], network={"default": "deny"})
    names = ["evilwild.test", "wild.test", "wild.test.evil.test", "x.wild.test.evil", "wildxtest.test"]
    found = ask(instance, alice, path, *(question(name) for name in names))
    assert {a.code for a in found} == {NO_NAME} and len(dns.questions) == questions
    assert [r["verdict"] for r in dns_rows(instance, before)] == ["deny"] * len(names)


LOCAL = ["printer.local", "metadata.google.internal", "host.docker.internal", "host.sandbox.internal", "x.y.internal"]


def test_e10_local_names_need_a_rule(instance, alice, open_profile, dns):
    before, questions = instance.head(), len(dns.questions)
    found = ask(instance, alice, open_profile, *(question(name) for name in LOCAL))
    assert {a.code for a in found} == {NO_NAME} and len(dns.questions) == questions
    assert {(r["host"], r["verdict"]) for r in dns_rows(instance, before)} == {(name, "deny") for name in LOCAL}


def test_e11_numbers_are_no_names(instance, alice, open_profile, dns):
    """What a libc would take for an address is asked of nobody, whatever a program makes of it."""
    questions = len(dns.questions)
    names = ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "169.254.43518", "1.2.3.4", "a.test.1"]
    found = ask(instance, alice, open_profile, *(question(name) for name in names))
    assert {a.code for a in found} == {NO_NAME} and len(dns.questions) == questions
