"""Rules of the project's other files: licence, interfaces, policies, manual, format, scripts."""

import glob
import json
import os
import re
import subprocess

import pytest

from source import BUILD, TOP, files, text

CTL = os.path.join(BUILD, "client/ctl/sandboxctl")


def read(name):
    with open(os.path.join(TOP, name), encoding="utf-8") as f:
        return f.read()


def test_licence():
    licence = read("LICENSE")
    assert "MIT" in licence and "Permission is hereby granted, free of charge" in licence
    assert re.search(r"license:\s*'MIT'", read("meson.build"))


def test_embedded_interfaces_are_the_files():
    """The text that the programs carry is the text of proto/idl, byte for byte."""
    with open(os.path.join(BUILD, "daemon/api/sandboxd-api"), "rb") as f:
        program = f.read()
    found = sorted(glob.glob(os.path.join(TOP, "proto/idl/*.varlink")))
    assert len(found) >= 6
    for path in found:
        with open(path, "rb") as f:
            content = f.read()
        assert content.strip() in program, path


# Digests of the interfaces as they were published: a change of a published file is a decision, made here too.
def test_interfaces_are_unchanged():
    import hashlib
    listed = dict(reversed(line.split()) for line in read("tests/lint/interfaces.txt").splitlines() if line)
    for path in glob.glob(os.path.join(TOP, "proto/idl/*.varlink")):
        with open(path, "rb") as f:
            assert listed[os.path.basename(path)] == hashlib.sha256(f.read()).hexdigest(), path


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(TOP, "policies/*.json"))))
def test_policies_parse(path):
    content = re.sub(r"//[^\n]*", "", read(os.path.relpath(path, TOP))) if not path.endswith("schema.json") else None
    if content is None:
        json.loads(read(os.path.relpath(path, TOP)))
        return
    assert json.loads(re.sub(r",(\s*[}\]])", r"\1", content))["version"] == 1
    done = subprocess.run([CTL, "policy", "validate", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False, env={**os.environ, "SANDBOXD_ADDRESS": "unix:/nonexistent/socket"})
    # Validation is the daemon's: without one the message says so, and nothing worse happens.
    assert done.returncode in (0, 125), done


def test_shipped_profiles_name_no_hosts():
    for path in glob.glob(os.path.join(TOP, "policies/*.json")):
        if not path.endswith("schema.json"):
            for host in re.findall(r'"host"\s*:\s*"([^"]+)"', read(os.path.relpath(path, TOP))):
                assert host.endswith((".internal", ".test", ".example")), (path, host)


def options_of(words):
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", words))


def test_help_and_manual_agree():
    """Each option of sandboxctl's help stands in its manual page, and the other way round."""
    manual = os.path.join(TOP, "docs/man/sandboxctl.1.scd")
    help_text = subprocess.run([CTL, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    shown = {o for o in options_of(help_text) if o.startswith("--")}
    written = {o for o in options_of(read(os.path.relpath(manual, TOP)).replace("\\", "")) if o.startswith("--")}
    assert shown == written, (shown - written, written - shown)


def test_daemon_help_and_manual_agree():
    manual = read("docs/man/sandboxd.8.scd").replace("\\", "")
    help_text = subprocess.run([os.path.join(BUILD, "daemon/launcher/sandboxd"), "--help"], stdout=subprocess.PIPE,
                               text=True, check=True).stdout
    shown = {o for o in options_of(help_text) if o.startswith("--")}
    written = {o for o in options_of(manual) if o.startswith("--")} - {"--help", "--version"}
    assert shown == written, (shown - written, written - shown)


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(TOP, "docs/man/*.scd"))))
def test_manuals_compile(path):
    with open(path, "rb") as f:
        done = subprocess.run(["scdoc"], stdin=f, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    out = subprocess.run(["grep", "-c", "."], input=done.stdout, stdout=subprocess.PIPE, check=False).stdout
    assert int(out) > 10


def test_private_messages_are_documented():
    """Each line of privsep.def stands in docs/PRIVSEP.md with its channel, sender, phase and number of descriptors."""
    document = read("docs/PRIVSEP.md")
    missing = []
    for channel, name, sender, phase, n_min, n_max in re.findall(
            r"^MESSAGE\((\w+), (\w+), (\w+), (\w+), [^,]+, [^,]+, (\w+), (\w+)\)", read("proto/idl/privsep.def"), re.M):
        n = n_min if n_min == n_max else f"{n_min}-{n_max}"
        if not re.search(rf"^\| {channel} \| {name} \| {sender} \| {phase} \| {n} \|", document, re.M):
            missing.append((channel, name, sender, phase, n))
    assert not missing, missing
    known = set(re.findall(r"^MESSAGE\(\w+, (\w+),", read("proto/idl/privsep.def"), re.M))
    documented = set(re.findall(r"^\| [A-Z]+_[A-Z]+ \| (\w+) \|", document, re.M))
    assert documented == known, documented - known


def test_links_in_documents():
    wrong = []
    for name in files((".md",), ("README.md", "docs")):
        for target in re.findall(r"\]\(([^)#]+)", text(name)):
            if "://" not in target and not os.path.exists(os.path.join(TOP, os.path.dirname(name), target)):
                wrong.append(f"{name}: {target}")
    assert not wrong, "\n".join(wrong)


def test_format():
    found = [os.path.join(TOP, name) for name in files()]
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *found], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    wrong = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error", done.stderr, re.M)))
    assert done.returncode == 0, "./dev format changes " + " ".join(os.path.relpath(p, TOP) for p in wrong)


@pytest.mark.parametrize("name", ["dev", ".ci/run"])
def test_scripts(name):
    content = read(name)
    assert content.startswith("#!/bin/bash\n") and "set -euo pipefail" in content
    assert os.access(os.path.join(TOP, name), os.X_OK)
    subprocess.run(["bash", "-n", os.path.join(TOP, name)], check=True)


def test_dev_helps_by_default():
    done = subprocess.run([os.path.join(TOP, "dev")], stdout=subprocess.PIPE, text=True, check=True)
    for command in ("run", "test", "build", "instance", "ctl", "bench", "escape", "asan", "tidy", "format"):
        assert f"  {command}" in done.stdout


def test_totals():
    """The judge of the test run itself: unexplained skips, missing results and failures are counted as such."""
    import tempfile
    cases = {
        "a": ('<testsuite><testcase name="x"/><testcase name="y"/></testsuite>', 0, "2 passed, 0 failed", 0),
        "b": ('<testsuite><testcase name="x"><failure message="m"/></testcase></testsuite>', 1, "0 passed, 1 failed", 1),
        "c": ('<testsuite><testcase name="x"><skipped message="why"/></testcase></testsuite>', 0, "0 passed, 1 failed", 1),
        "d": ('<testsuite><testcase name="ok"><skipped message="because so"/></testcase></testsuite>', 0,
              "0 passed, 0 failed, 1 skipped", 0),
        "e": (None, 0, "0 passed, 1 failed", 1),
        "f": ('<testsuite><testcase name="x"/></testsuite>', 3, "1 passed, 1 failed", 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        skips = os.path.join(folder, "skips")
        with open(skips, "w", encoding="utf-8") as f:
            f.write("# comment\nd:ok: because\n")
        for suite, (content, status, line, expected) in cases.items():
            if content:
                with open(os.path.join(folder, suite + ".xml"), "w", encoding="utf-8") as f:
                    f.write(content)
            done = subprocess.run(["/usr/bin/python3", os.path.join(TOP, "tests/totals.py"), folder, skips, str(status), suite],
                                  stdout=subprocess.PIPE, text=True, check=False)
            assert (done.stdout.splitlines()[-1], done.returncode) == (line, expected), suite


@pytest.mark.parametrize("outputs, status, line", [
    (["x\n3 passed, 0 failed\n", "2 passed, 0 failed, 1 skipped\n"], 0, "5 passed, 0 failed, 1 skipped"),
    (["3 passed, 1 failed\n", "2 passed, 0 failed\n"], 1, "5 passed, 1 failed"),
    (["3 passed, 0 failed\ndev: the build failed\n", "2 passed, 0 failed\n"], 1, "2 passed, 1 failed"),
    (["", "2 passed, 0 failed\n"], 0, "2 passed, 1 failed"),
    (["3 passed, 0 failed\n", "2 passed, 0 failed\n"], 1, "5 passed, 1 failed"),
])
def test_totals_of_several_runs(tmp_path, outputs, status, line):
    paths = []
    for number, text in enumerate(outputs):
        paths.append(str(tmp_path / str(number)))
        with open(paths[-1], "w", encoding="utf-8") as f:
            f.write(text)
    done = subprocess.run(["/usr/bin/python3", os.path.join(TOP, "tests/totals.py"), "--sum", str(status), *paths],
                          stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout.splitlines()[-1] == line
    assert done.returncode == (0 if ", 0 failed" in line else 1)
