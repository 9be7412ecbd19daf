#!/usr/bin/python3
"""`./dev escape`: what holds on the host, in plain bubblewrap, in firejail, in a session of a user and in one of root."""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import world as worlds  # noqa: E402
from catalogue import PROPERTIES  # noqa: E402

SHOWN = {"holds": "holds", "open": "OPEN", "unknown": "?", "none": "-"}


def main():
    wanted = set(sys.argv[1:])
    places = [place for place in worlds.PLACES if place != "firejail" or shutil.which("firejail")]
    counts = dict.fromkeys(places, 0)
    wrong = 0
    tried = [p for p in PROPERTIES if not wanted or p.id in wanted]
    with worlds.world() as world:
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
        print(f"{len(tried)} properties; " +
              ", ".join(f"{place}: {count} hold" for place, count in counts.items()))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
