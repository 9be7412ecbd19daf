#!/usr/bin/env python3
"""embed.py OUTPUT INPUT: a header with the bytes of the object, aligned as it wants to be read."""

import sys

with open(sys.argv[2], "rb") as f:
    data = f.read()
with open(sys.argv[1], "w", encoding="ascii") as f:
    f.write("static const unsigned char protect_object[] __attribute__((aligned(8))) = {\n")
    for at in range(0, len(data), 16):
        f.write("".join(f"{byte}," for byte in data[at:at + 16]) + "\n")
    f.write("};\n")
