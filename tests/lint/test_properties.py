"""Every property of the daemon has a test, or says what it waits for."""

import glob
import os
import re

from source import TOP

IDS = [f"D{number:02}" for number in range(1, 51)]
WAITING_MAX = 12


def named():
    """Tests that have the id in their name."""
    found = {}
    for path in glob.glob(os.path.join(TOP, "tests/**/test_*.py"), recursive=True):
        with open(path, encoding="utf-8") as f:
            for function in re.findall(r"^def (test_\w+)", f.read(), re.M):
                for number in re.findall(r"_[dD](\d\d)(?=_)", function):
                    found.setdefault(f"D{number}", []).append(f"{os.path.relpath(path, TOP)}:{function}")
    return found


def index():
    tests, waits = {}, {}
    with open(os.path.join(TOP, "tests/properties/index.txt"), encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, _, rest = line.partition(" ")
            assert name in IDS, line
            if rest.startswith("waits: "):
                assert len(rest.split()) >= 3, f"for what? {line}"
                waits[name] = rest
            else:
                tests.setdefault(name, []).append(rest)
    return tests, waits


def exists(reference):
    path, _, function = reference.partition(":")
    path = os.path.join(TOP, path)
    if not os.path.exists(path):
        return False
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if path.endswith(".py"):
        return re.search(rf"^def {function}\(", text, re.M) is not None
    if function == "LLVMFuzzerTestOneInput":
        # A target without a corpus runs nowhere.
        corpus = os.path.join(TOP, "tests/fuzz/corpus", os.path.basename(path)[:-2])
        return function in text and os.path.isdir(corpus) and os.listdir(corpus) != []
    return re.search(rf"cmocka_unit_test\w*\({function}\b", text) is not None


def test_indexed_tests_exist():
    wrong = [f"{name} {reference}" for name, found in index()[0].items() for reference in found if not exists(reference)]
    assert not wrong, "\n".join(wrong)


def test_every_property_has_a_test_or_waits():
    tests, waits = index()
    found = named()
    missing = [name for name in IDS if name not in tests and name not in found and name not in waits]
    assert not missing, missing
    waiting = [name for name in waits if name not in tests and name not in found]
    assert len(waiting) <= WAITING_MAX, waiting
    assert len(found) >= 25, "ids stand in names of tests"


def test_fuzz_targets_have_corpora():
    with open(os.path.join(TOP, "tests/fuzz/meson.build"), encoding="utf-8") as f:
        targets = set(re.findall(r"^  '(\w+)': \[\[", f.read(), re.M))
    corpora = {name for name in os.listdir(os.path.join(TOP, "tests/fuzz/corpus"))
               if os.listdir(os.path.join(TOP, "tests/fuzz/corpus", name))}
    assert targets == corpora and len(targets) >= 18, targets ^ corpora
