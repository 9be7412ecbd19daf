#!/usr/bin/python3
"""`./dev escape [ID...]`: what holds on the host, in plain bubblewrap, in firejail, in a session of a user and in one of root.
`./dev escape --without LAYER[,LAYER...] [ID...]`: what no longer holds in a session of a user that lacks these layers."""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import world as worlds  # noqa: E402
from catalogue import PROPERTIES  # noqa: E402
from crippled import BITS, Crippled  # noqa: E402

SHOWN = {"holds": "holds", "open": "OPEN", "unknown": "?", "none": "-"}
LEGEND = ("-  tried by what only the daemon has: its verbs, a second session, its rows, its answers to what it is asked. Without it there is\n"
          "   nothing to ask, and a column could only say how the attempt fails.\n"
          "?  could not be told there.")


def print_table(world, tried):
    places = [place for place in worlds.PLACES if place != "firejail" or shutil.which("firejail")]
    counts = dict.fromkeys(places, 0)
    wrong = 0
    print(f"{'id':4} {'layer':18} {'property':66} " + " ".join(f"{place:8}" for place in places))
    for prop in tried:
        results = {place: world.result(prop, place, tried) for place in places}
        for place, (result, _) in results.items():
            counts[place] += result == "holds"
        print(f"{prop.id:4} {prop.layer:18} {prop.text[:66]:66} " +
              " ".join(f"{SHOWN[results[place][0]]:8}" for place in places), flush=True)
        for place in ("user", "root"):
            if results[place][0] != "holds":
                wrong += 1
                print(f"     in a session of {place}: {results[place][1]}")
        if prop.bwrap_fails and results["bwrap"][0] != "open":
            print(f"     in bwrap: {results['bwrap'][1]}")
    print(LEGEND)
    print(f"{len(tried)} properties; " + ", ".join(f"{place}: {count} hold" for place, count in counts.items()))
    return 1 if wrong else 0


def print_without(world, layers, tried):
    unknown = [layer for layer in layers if layer not in BITS]
    if unknown:
        print(f"no layer {unknown[0]!r}: {', '.join(BITS)}", file=sys.stderr)
        return 2
    Crippled(world).leave_out_unnoticed(layers)
    red = 0
    for prop in tried:
        result, text = world.result(prop, "user", tried)
        if result != "holds":
            red += 1
            print(f"{prop.id:4} {prop.layer:18} {prop.text[:66]:66} {text[:120]}", flush=True)
    print(f"{len(tried)} properties; {red} do not hold without: {', '.join(layers)}")
    return 0 if red else 1


def main():
    arguments = sys.argv[1:]
    layers = []
    if arguments[:1] == ["--without"]:
        layers, arguments = arguments[1].split(","), arguments[2:]
    tried = [p for p in PROPERTIES if not arguments or p.id in arguments]
    with worlds.world() as world:
        return print_without(world, layers, tried) if layers else print_table(world, tried)


if __name__ == "__main__":
    sys.exit(main())
