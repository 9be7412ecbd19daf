"""What a property is: its id in the catalogue, the layer that it rests on, what holds, whether plain bubblewrap fails it, and
how it is tried: a script (`./probe ID` or shell), or a function that is given a place (world.Place) and says what it found open.
What is tried alone has a session of its own, since it leaves nothing behind that another one could use. A function that does
without the daemon's verbs, and means the same without a daemon, is tried everywhere."""

import collections

Property = collections.namedtuple("Property", "id layer text bwrap_fails script run alone everywhere",
                                  defaults=(None, False, False))


def probe(identity, layer, text, bwrap_fails=True):
    return Property(identity, layer, text, bwrap_fails, f"./probe {identity}")


def shell(identity, layer, text, script, bwrap_fails=True, alone=False):
    return Property(identity, layer, text, bwrap_fails, script, alone=alone)


def sockets(identity, text, *paths):
    """Placeholders in braces are filled in by the world (world.py)."""
    return Property(identity, "mounts", text, True, "./probe connect " + " ".join(paths))


def collector():
    """A decorator for the functions of one group, and the list that it fills."""
    found = []

    def tried(identity, layer, text, everywhere=False):
        def add(function):
            assert function.__name__.startswith(identity.lower() + "_"), function.__name__
            found.append(Property(identity, layer, text, False, None, function, everywhere=everywhere))
            return function
        return add
    return tried, found
