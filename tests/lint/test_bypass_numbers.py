"""Each way round the network's rules has a test that carries its number, or stands in SECURITY.md with the reason."""

import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def text(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as f:
        return f.read()


def numbers_of_tests():
    """Of names of tests and of what they say about themselves."""
    folder, found = "tests/integration", set()
    for name in os.listdir(os.path.join(TOP, folder)):
        if not name.startswith("test_") or not name.endswith(".py"):
            continue
        for test, about in re.findall(r'^def (test_\w+)\((?:[^"]|\n)*?\):[^\n]*\n(?:    """(.*?)""")?', text(f"{folder}/{name}"), re.M | re.S):
            found |= {int(n) for n in re.findall(r"_e(\d\d)(?=_|$)", test) + re.findall(r"\bE(\d\d)\b", about)}
    return found


def test_each_way_has_its_test():
    listed = {int(n) for n in re.findall(r"^- \*E(\d\d),", text("docs/SECURITY.md"), re.M)}
    tested = numbers_of_tests()
    assert len(listed) <= 10 and not listed & tested
    assert not set(range(1, 81)) - listed - tested
