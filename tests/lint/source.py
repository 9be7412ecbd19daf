"""C sources of the project as text without comments and strings, and their functions."""

import functools
import os
import re
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SANDBOXD_BUILD", os.path.join(TOP, "build"))
FOLDERS = ("proto", "daemon", "client")


@functools.lru_cache(maxsize=None)
def files(suffixes=(".c", ".h"), folders=FOLDERS):
    listed = subprocess.run(["git", "-C", TOP, "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", *folders],
                            stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return sorted({name for name in listed if name.endswith(suffixes) and os.path.exists(os.path.join(TOP, name))})


@functools.lru_cache(maxsize=None)
def text(name):
    with open(os.path.join(TOP, name), encoding="utf-8") as f:
        return f.read()


PIECES = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


@functools.lru_cache(maxsize=None)
def bare(name):
    """Comments and strings blanked, lines kept. `banned:ok` in a comment survives."""
    def blank(match):
        piece = match.group()
        if "banned:ok" in piece:
            return "/*banned:ok*/" + "\n" * piece.count("\n")
        if piece[0] == "/":
            return " " + "\n" * piece.count("\n")
        return piece[0] + piece[0]
    return PIECES.sub(blank, text(name))


def includes(name):
    """(line number, target, is it a system header)."""
    found = []
    for number, line in enumerate(text(name).splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
        if match:
            found.append((number, match.group(2), match.group(1) == "<"))
    return found


def functions(name):
    """(name, first line, number of lines, parameters, deepest nesting) of each function, by the layout that
    clang-format gives: a body opens with `{` alone in column 0 and closes with `}` in column 0."""
    lines = bare(name).splitlines()
    found = []
    for number, line in enumerate(lines):
        if line != "{":
            continue
        head = []
        at = number - 1
        while at >= 0 and lines[at].strip() and not lines[at].startswith(("}", "#")) and not lines[at].rstrip().endswith(";"):
            head.insert(0, lines[at])
            at -= 1
        head = " ".join(head)
        match = re.search(r"([A-Za-z_]\w*)\s*\(", re.sub(r"_\w+_\([^)]*\)|__attribute__\s*\(\(.*?\)\)", "", head))
        if not match:
            continue
        end = next(i for i in range(number, len(lines)) if lines[i].startswith("}"))
        inside = head[head.index("(") + 1:head.rindex(")")]
        depth, parameters = 0, 0 if inside.strip() in ("", "void") else 1
        for letter in inside:
            depth += letter == "("
            depth -= letter == ")"
            parameters += letter == "," and depth == 0
        body = lines[number + 1:end]
        deepest = 0
        nesting = 0
        for body_line in body:
            nesting += body_line.count("{") - body_line.count("}")
            deepest = max(deepest, nesting)
        found.append((match.group(1), number + 1, len(body), parameters, deepest))
    return found


def strip_listed(path):
    """The lines of a list file of the lint, without comments."""
    with open(os.path.join(TOP, "tests/lint", path), encoding="utf-8") as f:
        return [line.split("#")[0].strip() for line in f if line.split("#")[0].strip()]
