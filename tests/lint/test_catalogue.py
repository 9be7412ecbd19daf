"""Every property of the catalogue has a line, and what the line says is there."""

import glob
import os
import re
import sys

from source import TOP
from test_properties import exists

ESCAPE = os.path.join(TOP, "tests/escape")
sys.path[:0] = [ESCAPE, os.path.join(TOP, "tests/support")]
SIZES = {"F": 40, "P": 24, "V": 9, "R": 18, "N": 21, "S": 34, "I": 22, "W": 34, "Q": 24, "T": 22, "E": 10, "X": 13, "H": 23, "C": 6,
         "A": 10, "L": 10}
IDS = [f"{group}{number:02}" for group, size in SIZES.items() for number in range(1, size + 1) if (group, number) != ("W", 26)]
# They come with features that are not here; all others wait for what is named in WAITS alone.
COME_LATER = {"L06", *(f"Q{n:02}" for n in (1, 2, 3, 5, 8, 9, 12, 17)), *(f"X{n:02}" for n in range(3, 11))}
WAITS = {"protected paths", "answers that wait for the row of a refusal", "credentials",
         "a second layer against device nodes, by the control group"}
KERNEL_MAX = 15


def catalogue():
    """ID: (words, references)."""
    found, name = {}, None
    with open(os.path.join(ESCAPE, "catalogue.txt"), encoding="utf-8") as f:
        for line in f:
            if line.startswith("    "):
                found[name][1].append(line.strip())
            elif line.strip() and not line.startswith("#"):
                name, _, words = line.strip().partition(" ")
                assert name not in found, name
                found[name] = (words, [])
    return found


def tried():
    from catalogue import PROPERTIES
    return {p.id for p in PROPERTIES}


def in_names():
    """Ids in names of test functions of this suite."""
    found = set()
    for path in glob.glob(os.path.join(ESCAPE, "test_*.py")):
        with open(path, encoding="utf-8") as f:
            for function in re.findall(r"^def (test_\w+)", f.read(), re.M):
                found |= {f"{letter.upper()}{number}" for letter, number in re.findall(r"_([a-z])(\d\d)(?=_)", function)}
    return found


def test_every_id_has_a_line():
    lines = catalogue()
    assert list(lines) == IDS, (set(IDS) - set(lines), set(lines) - set(IDS))
    assert len(IDS) == 319


def test_every_line_says_where():
    here = tried() | in_names()
    wrong = [name for name, (words, references) in catalogue().items()
             if not references and name not in here or not words and name not in here]
    assert not wrong, wrong


def test_references_exist():
    wrong = [f"{name} {reference}" for name, (_, references) in catalogue().items() for reference in references
             if not reference.startswith(("kernel: ", "later: ")) and not exists(reference)]
    assert not wrong, "\n".join(wrong)


def test_what_waits_is_known():
    lines = catalogue()
    kernel = [name for name, (_, references) in lines.items() if any(r.startswith("kernel: ") for r in references)]
    assert len(kernel) <= KERNEL_MAX, kernel
    waits = {name: r[len("later: "):] for name, (_, references) in lines.items() for r in references if r.startswith("later: ")}
    assert not [name for name, why in waits.items() if name not in COME_LATER and why not in WAITS], waits
    assert not set(waits) & tried(), "it is tried, and waits for nothing"
