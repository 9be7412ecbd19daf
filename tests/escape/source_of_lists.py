"""What is protected, as three places say it: the profile, the words of the manual, and the names that a report looks for."""

import fnmatch
import json
import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as f:
        return f.read()


def protected():
    """Below the workspace, as the profile `base` names them."""
    text = "\n".join(line for line in read("policies/base.json").splitlines() if not line.lstrip().startswith("//"))
    return [path.split("/", 1)[1] for path in json.loads(re.sub(r"//[^\"]*$", "", text, flags=re.M))["filesystem"]["protect"]]


def described():
    """As the manual has them, in its section about them."""
    section = re.search(r"^# PROTECTED PATHS$(.*?)^# ", read("docs/man/sandboxd-policy.5.scd"), re.M | re.S).group(1)
    return re.search(r"^```$(.*?)^```$", section, re.M | re.S).group(1).split()


def is_reported(name):
    """A report has a kind for it, as a file or as one in it."""
    patterns = re.findall(r'^ +\{ "([^"]+)", REPORT_', read("daemon/lookup/report_names.c"), re.M)
    assert len(patterns) > 50
    some = name.replace("*", "some")
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns for path in (some, some + "/x"))
