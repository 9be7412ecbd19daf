"""The run of a suite side by side: every file once, nothing lost, nothing green that is not."""

import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

from source import TOP

sys.path.insert(0, os.path.join(TOP, "tests"))

import lanes  # noqa: E402

PASSES = "def test_{0}():\n    pass\n"
FAILS = "def test_{0}():\n    assert not '{0} is red'\n"
ALONE = "import pytest\n\n\n@pytest.mark.alone\ndef test_{0}():\n    pass\n"
# Waits until it is interrupted, and tidies up.
WAITS = """
import os, pathlib, time, pytest
FOLDER = pathlib.Path(__file__).parent
@pytest.fixture
def thing():
    yield
    (FOLDER / "{0}-tidied").touch()
def test_{0}(thing):
    (FOLDER / "{0}-runs").touch()
    time.sleep(600)
"""


def test_each_file_is_dealt_once():
    files = lanes.files_of("integration")
    assert len(files) > 20
    seconds = lanes.load_seconds()
    dealt = lanes.deal(files, seconds)
    assert len(dealt) == lanes.N_LANES and sorted(sum(dealt, [])) == files
    assert dealt == lanes.deal(list(reversed(files)), seconds)


def test_measured_files_are_there():
    missing = [name for name in lanes.load_seconds() if not os.path.exists(os.path.join(TOP, "tests", name))]
    assert not missing, missing


@pytest.fixture
def suite(tmp_path):
    """suite(name=text, ...): the command that runs a suite x of these files, and where its results go."""
    def make(**texts):
        for name in ("lanes.py", "pytest.ini", "seconds.txt"):
            shutil.copy(os.path.join(TOP, "tests", name), tmp_path / name)
        (tmp_path / "x").mkdir()
        for name, text in texts.items():
            (tmp_path / "x" / f"test_{name}.py").write_text(text.format(name), encoding="utf-8")
        return ["/usr/bin/python3", str(tmp_path / "lanes.py"), "x", str(tmp_path / "x.xml"), "-q", "-p", "no:cacheprovider"]
    return make


def names_in(path):
    return sorted(case.get("name") or "" for case in ElementTree.parse(path).getroot().iter("testcase"))


@pytest.mark.parametrize("texts, status, names", [
    ({"a": PASSES, "b": PASSES, "c": ALONE}, 0, ["test_a", "test_b", "test_c"]),
    ({"a": FAILS, "b": PASSES}, 1, ["test_a", "test_b"]),
    ({"a": PASSES, "b": FAILS}, 1, ["test_a", "test_b"]),
    ({"a": PASSES, "b": "# nothing\n"}, 1, ["test_a"]),
    ({"a": PASSES}, 0, ["test_a"]),
    ({}, 1, []),
])
def test_what_is_red_is_red(suite, tmp_path, texts, status, names):
    done = subprocess.run(suite(**texts), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == status, done.stdout
    assert names_in(tmp_path / "x.xml") == names
    for name, text in texts.items():
        assert (f"{name} is red" in done.stdout) == (text == FAILS), "what the second process wrote is not lost"


def test_an_interrupt_ends_both(suite, tmp_path):
    child = subprocess.Popen(suite(a=WAITS, b=WAITS, c=ALONE), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = tmp_path / "x"
    end = time.monotonic() + 120
    while not (folder / "a-runs").exists() or not (folder / "b-runs").exists():
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    output = child.communicate(timeout=120)[0].decode()
    assert child.returncode == 130, output
    assert (folder / "a-tidied").exists() and (folder / "b-tidied").exists()
    assert "test_c" not in names_in(tmp_path / "x.xml")
