"""Rules of the source text: who includes whom, sizes, banned calls."""

import re
import statistics

import pytest

from source import FOLDERS, bare, files, functions, includes, strip_listed, text

# Folder: what it may include, beside itself. The order of the list is that of the layers.
MAY_INCLUDE = {
    "proto/base": [],
    "proto/wire": ["proto/base", "proto/idl/privsep.h"],
    "proto/idl": ["proto/base", "proto/wire/json.h"],
    "daemon/loop": ["proto/base", "proto/wire/imsg.h", "proto/idl/privsep.h"],
    "daemon/isolate": ["proto/base", "proto/idl/privsep.h"],
    "daemon/policy": ["proto/base", "proto/wire/json.h", "proto/idl/privsep.h", "daemon/init/plan.h",
                      "daemon/isolate/etc_names.h"],
    "daemon/lookup": ["proto/base", "proto/wire/json.h", "proto/idl/privsep.h", "daemon/policy", "daemon/isolate"],
    "daemon/init": ["proto/base", "proto/wire/imsg.h", "proto/idl/privsep.h", "daemon/isolate"],
    "daemon/bpf": ["proto/base", "daemon/isolate/kernel.h", "daemon/isolate/prevent.h"],
    "daemon/launcher": ["proto/base", "proto/wire/imsg.h", "proto/idl/privsep.h", "daemon/loop", "daemon/isolate",
                        "daemon/init/plan.h", "daemon/lookup"],
    "daemon/audit": ["proto/base", "proto/wire/imsg.h", "proto/idl/privsep.h", "daemon/policy/compiled.h",
                     "daemon/loop", "daemon/isolate/worker.h"],
    "daemon/dialer": ["proto/base", "proto/wire/imsg.h", "proto/idl/privsep.h", "daemon/policy/compiled.h",
                      "daemon/loop", "daemon/isolate/worker.h"],
    "daemon/watch": ["proto/base", "proto/wire/imsg.h", "proto/idl/privsep.h", "daemon/init/plan.h", "daemon/loop",
                     "daemon/isolate/worker.h"],
    "daemon/egress": ["proto/base", "proto/wire/imsg.h", "proto/idl/privsep.h", "daemon/policy/compiled.h",
                      "daemon/loop", "daemon/isolate/worker.h"],
    "daemon/api": ["proto/base", "proto/wire", "proto/idl", "daemon/policy", "daemon/loop", "daemon/isolate",
                   "daemon/init/plan.h"],
    "client/lib": ["proto/base", "proto/wire", "proto/idl"],
    "client/ctl": ["proto/base", "proto/wire", "proto/idl", "client/lib"],
}


def folder_of(name):
    return "/".join(name.split("/")[:2])


def test_include_directions():
    wrong = []
    for name in files():
        folder = folder_of(name)
        allowed = MAY_INCLUDE[folder] + [folder]
        for number, target, is_system in includes(name):
            if is_system or "/" not in target:
                continue
            if not any(target == a or target.startswith(a + "/") for a in allowed):
                wrong.append(f"{name}:{number}: {target}")
    assert not wrong, "\n".join(wrong)


def test_includes_are_rooted():
    wrong = [f"{name}:{number}: {target}" for name in files() for number, target, is_system in includes(name)
             if not is_system and "/" not in target and not target.startswith(("llhttp", "idl-", "protect_object"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("header, only", [
    (r"event2?/|event\.h", lambda name: folder_of(name) == "daemon/loop"),
    (r"json-c/|json\.h$", lambda name: name == "proto/wire/json.c"),
    (r"ares(_\w+)?\.h", lambda name: folder_of(name) == "daemon/dialer"),
    (r"(lib)?llhttp", lambda name: folder_of(name) == "daemon/egress"),
    (r"pwd\.h", lambda name: folder_of(name) in ("daemon/lookup", "client/ctl")),
])
def test_headers_that_one_place_uses(header, only):
    wrong = [f"{name}: {target}" for name in files() for _, target, is_system in includes(name)
             if is_system and re.match(header, target) and not only(name)]
    assert not wrong, "\n".join(wrong)


def test_sqlite_is_in_one_file_per_process():
    users = [name for name in files() if any(target == "sqlite3.h" for _, target, _ in includes(name))]
    folders = [folder_of(name) for name in users]
    assert set(folders) <= {"daemon/audit"} and len(folders) == len(set(folders)), users


def test_json_is_in_one_file():
    users = [name for name in files() if any(target.startswith("json-c/") for _, target, _ in includes(name))]
    assert len(users) <= 1 and all(name.startswith("proto/wire/") for name in users), users


def test_function_sizes():
    listed = strip_listed("long.txt")
    wrong, lengths = [], []
    for name in files((".c", ".h"), (*FOLDERS, "tests")):
        for function, line, length, parameters, nesting in functions(name):
            if not name.startswith("tests/"):
                lengths.append(length)
            if f"{name}:{function}" in listed:
                continue
            if length > 60:
                wrong.append(f"{name}:{line}: {function} has {length} lines")
            if parameters > 6:
                wrong.append(f"{name}:{line}: {function} has {parameters} parameters")
            if nesting > 4:
                wrong.append(f"{name}:{line}: {function} is nested {nesting} deep")
    assert not wrong, "\n".join(wrong)
    assert statistics.median(lengths) <= 17


def test_file_sizes():
    listed = strip_listed("long.txt")
    wrong = [f"{name}: {text(name).count(chr(10))} lines" for name in files()
             if text(name).count("\n") > 600 and name not in listed]
    assert not wrong, "\n".join(wrong)


BANNED = ("strcpy strcat sprintf vsprintf gets strtok strncpy strncat atoi atol atoll strtol strtoul strtoll strtoull "
          "sscanf system popen execvp execlp execvpe access basename dirname mktemp tmpnam tempnam realpath getenv signal "
          "alarm sleep usleep longjmp dup accept pipe epoll_create fork exit").split()
SPAWN_FILES = ("daemon/isolate/spawn.c",)


def test_banned_functions():
    wrong = []
    pattern = re.compile(r"(?<![\w.>])(%s)\s*\(" % "|".join(BANNED))
    for name in files():
        for number, line in enumerate(bare(name).splitlines(), 1):
            for match in pattern.finditer(line):
                if "banned:ok" in line or (match.group(1) == "fork" and name in SPAWN_FILES):
                    continue
                wrong.append(f"{name}:{number}: {match.group(1)}")
    assert not wrong, "\n".join(wrong)


def test_no_line_comments():
    wrong = [f"{name}:{number}" for name in files() for number, line in enumerate(bare(name).splitlines(), 1)
             if re.search(r"(^|\s)//", line)]
    assert not wrong, "\n".join(wrong)


def test_errno_after_libc():
    """`-errno` makes compilers invent paths: neg_errno()."""
    wrong = [f"{name}:{number}" for name in files() if name != "proto/base/error.h"
             for number, line in enumerate(bare(name).splitlines(), 1) if re.search(r"-\s*errno\b", line)]
    assert not wrong, "\n".join(wrong)


def test_headers_have_a_guard():
    wrong = [name for name in files((".h",)) if "#pragma once" not in text(name)]
    assert not wrong, wrong


def test_lines_are_clean():
    wrong = []
    for name in files((".c", ".h", ".py", ".build", ".json", ".varlink", ".md", ".scd", ".def"),
                      ("proto", "daemon", "client", "tests", "docs", "policies", "units", "meson.build", "README.md")):
        for number, line in enumerate(text(name).split("\n"), 1):
            if line != line.rstrip() or "\t" in line and not name.endswith((".scd", ".py", ".md")):
                wrong.append(f"{name}:{number}")
        if not text(name).endswith("\n"):
            wrong.append(f"{name}: no newline at the end")
    assert not wrong, "\n".join(wrong)
