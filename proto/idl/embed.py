#!/usr/bin/env python3
"""Writes a C file that holds the given .varlink texts: embed.py OUTPUT INPUT..."""

import pathlib
import sys


def rows(data):
    for i in range(0, len(data), 20):
        yield "        " + ", ".join(str(b) for b in data[i:i + 20]) + ","


def main():
    output, inputs = sys.argv[1], sorted(sys.argv[2:], key=lambda p: pathlib.Path(p).name)
    lines = ['#include "proto/idl/idl_texts.h"', ""]
    table = []
    for number, path in enumerate(inputs):
        data = pathlib.Path(path).read_bytes() + b"\0"
        lines += [f"static const char text_{number}[] = {{", *rows(data), "};", ""]
        table.append(f"        {{ .text = text_{number}, .size = sizeof(text_{number}) - 1 }},")
    lines += ["const IdlText idl_texts[] = {", *table, "};", f"const size_t idl_n_texts = {len(inputs)};", ""]
    pathlib.Path(output).write_text("\n".join(lines))


main()
