"""Every way in which others were taken has a line, and what the line says is there."""

import os
import re
import sys

from source import TOP
from test_properties import exists

ESCAPE = os.path.join(TOP, "tests/escape")
sys.path[:0] = [ESCAPE, os.path.join(TOP, "tests/support")]
NOT_OURS_MAX = 6


def lines():
    from catalogue import advisories
    return advisories()


def test_each_name_stands_once():
    names = [name for found, _, _ in lines() for name in found]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    assert len(lines()) >= 115
    assert {f"B{number:02}" for number in range(1, 35)} <= set(names)
    odd = [name for name in names if not re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[a-z0-9]{4}){3}|B\d\d|[A-Za-z][\w-]+", name)]
    assert not odd, odd


def test_each_line_says_where():
    from catalogue import PROPERTIES
    tried = {p.id for p in PROPERTIES}
    wrong = [f"{names[0]} {reference}" for names, _, references in lines() for reference in references
             if not (reference.startswith("not ours: ") and len(reference.split()) >= 6) and reference not in tried
             and not (":" in reference and exists(reference))]
    assert not wrong, "\n".join(wrong)
    assert not [names for names, words, references in lines() if not references or not words]


def test_few_are_not_ours():
    not_ours = [names for names, _, references in lines() if any(r.startswith("not ours: ") for r in references)]
    assert len(not_ours) <= NOT_OURS_MAX, not_ours
    assert not [names for names, _, references in lines() if len(references) > 1 and any(r.startswith("not ours: ") for r in references)]


def test_each_test_of_an_advisory_is_named():
    """A test that is about nothing else, and stands in no line, is one that nobody finds."""
    with open(os.path.join(ESCAPE, "test_advisories.py"), encoding="utf-8") as f:
        functions = set(re.findall(r"^def (test_\w+)", f.read(), re.M))
    assert functions == {r.partition(":")[2] for _, _, references in lines() for r in references
                         if r.startswith("tests/escape/test_advisories.py:")}
