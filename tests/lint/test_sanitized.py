"""What sanitizers add stands in one table, in sanitized builds alone; and those have it in every program."""

import functools
import json
import os
import re
import subprocess

import pytest

from source import BUILD, bare, files
from test_programs import PROGRAMS, path_of

WORKERS = ("sandboxd-api", "sandboxd-audit", "sandboxd-dialer", "sandboxd-egress", "sandboxd-watch")
TABLE = "daemon/isolate/sanitizer.c"
# A program of this size has thousands of places where a number is added, shifted or taken out of an array.
TRAPS_MIN = 200


@functools.lru_cache(maxsize=None)
def is_sanitized():
    with open(os.path.join(BUILD, "meson-info/intro-buildoptions.json"), encoding="utf-8") as f:
        options = {option["name"]: option["value"] for option in json.load(f)}
    assert options["b_sanitize"] in ("none", "address,undefined")
    return options["b_sanitize"] != "none"


def symbols(program):
    out = subprocess.run(["nm", path_of(program)], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[-1] for line in out.splitlines()}


def traps(program):
    out = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path_of(program)], stdout=subprocess.PIPE, text=True,
                         check=True).stdout
    return len(re.findall(r"\t(ud2|ud1|brk\t#0x3e8)", out))


@pytest.mark.parametrize("program", PROGRAMS)
def test_sanitized_programs(program):
    found = symbols(program)
    has_table = "sanitizer_syscalls" in found
    assert has_table == (is_sanitized() and program in WORKERS)
    assert ("__asan_init" in found) == (is_sanitized() and program != "sandbox-init")
    assert any("ubsan_handle" in name for name in found) == (is_sanitized() and program != "sandbox-init")


def test_sanitized_init_traps():
    assert (traps("sandbox-init") >= TRAPS_MIN) == is_sanitized()


def test_sanitized_filters_differ_in_one_place():
    """No other file tells a sanitized build from another where calls are permitted."""
    users = [name for name in files() if re.search(r"SANITIZE|sanitiz|ubsan|asan", bare(name))]
    assert set(users) == {TABLE, "daemon/isolate/sanitizer.h", "daemon/isolate/worker.c", "daemon/init/sanitized.c",
                          "proto/base/sanitizer.c"}
    text = bare("daemon/isolate/worker.c")
    assert len(re.findall(r"sanitizer_syscalls", text)) == 1
    for name in ("proto/base/sanitizer.c", "daemon/init/sanitized.c"):
        assert "SCMP_SYS" not in bare(name)
    # Nothing is left out for them: what a sanitized worker does not do is told by this list.
    blocks = re.findall(r"#if defined\(__SANITIZE_ADDRESS__\)\n(.*?)#endif", text, re.S)
    assert len(blocks) == 3 and "#else" not in "".join(blocks) and "#ifndef __SANITIZE" not in text
