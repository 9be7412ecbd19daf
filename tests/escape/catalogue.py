"""All properties that are tried here, by group, and the advisories that they are about."""

import os
import re

import of_files
import of_handover
import of_limits
import of_paths
import of_processes
import of_surroundings
from properties import SCRIPTS

PROPERTIES = [*SCRIPTS, *of_files.FOUND, *of_processes.FOUND, *of_paths.FOUND, *of_limits.FOUND, *of_surroundings.FOUND, *of_handover.FOUND]
# What a name is made of: a number, or a capital and two digits.
NAME = re.compile(r"[A-Za-z]\S*\d\S*|[a-z]\w*-[a-z0-9-]+")


def advisories():
    """[(names, words, references)]"""
    found = []
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "advisories.txt"), encoding="utf-8") as f:
        for line in f:
            if line.startswith("    "):
                found[-1][2].append(line.strip())
            elif line.strip() and not line.startswith("#"):
                words = line.split()
                n = next(number for number, word in enumerate(words) if not NAME.fullmatch(word))
                found.append((words[:n], " ".join(words[n:]), []))
    return found
