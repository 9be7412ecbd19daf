"""The interface files as data: an own reader, so that tests do not believe the daemon's."""

import glob
import os
import re

from machine import TOP

FOLDER = os.path.join(TOP, "proto/idl")


class Interface:
    """types, methods (name: (input, output, doc)) and errors of one text. A type is (kind, nullable, rest)."""

    def __init__(self, text):
        self.text = text
        self.types, self.methods, self.errors = {}, {}, {}
        self.doc = []
        self.name = None
        self.tokens = self._tokens(text)
        self._read()

    @staticmethod
    def _tokens(text):
        found, comment = [], []
        for line in text.splitlines():
            stripped = line.strip()
            if stripped.startswith("#"):
                comment.append(stripped[1:].strip())
                continue
            for token in re.findall(r"->|\[string\]|\[\]|[A-Za-z][\w.-]*|[?():,]", stripped.split("#")[0]):
                found.append((token, " ".join(comment)))
                comment = []
            if not stripped:
                comment = []
        return found

    def _peek(self):
        return self.tokens[0][0] if self.tokens else None

    def _take(self, expected=None):
        token, self.doc = self.tokens.pop(0)
        assert expected is None or token == expected, (token, expected)
        return token

    def _read(self):
        self._take("interface")
        self.name = self._take()
        while self.tokens:
            keyword = self._take()
            doc, name = self.doc, self._take()
            if keyword == "method":
                given = self._type()
                self._take("->")
                self.methods[name] = (given, self._type(), doc)
            else:
                {"type": self.types, "error": self.errors}[keyword][name] = self._type()

    def _type(self):
        is_nullable = self._peek() == "?"
        if is_nullable:
            self._take()
        token = self._take()
        if token in ("[]", "[string]"):
            return ("array" if token == "[]" else "map", is_nullable, self._type())
        if token == "(":
            return self._fields(is_nullable)
        return (token, is_nullable, None)

    def _fields(self, is_nullable):
        fields, values = {}, []
        while self._peek() != ")":
            name = self._take()
            if self._peek() == ":":
                self._take()
                fields[name] = self._type()
            else:
                values.append(name)
            if self._peek() == ",":
                self._take()
        self._take(")")
        return ("enum", is_nullable, values) if values else ("struct", is_nullable, fields)

    def resolve(self, kind):
        """A named type as what it stands for, with the nullability of where it stands."""
        if kind[0] in self.types:
            return (self.types[kind[0]][0], kind[1], self.types[kind[0]][2])
        return kind

    def sample(self, kind, depth=0):
        """A small value of the type; nullable fields stay away below the first levels."""
        what, _, rest = self.resolve(kind)
        if what == "struct":
            return {name: self.sample(t, depth + 1) for name, t in rest.items() if not t[1]}
        if what == "array":
            return [self.sample(rest, depth + 1)]
        if what == "map":
            return {"k": self.sample(rest, depth + 1)}
        if what == "enum":
            return rest[0]
        return {"bool": False, "int": 1, "float": 1.0, "string": "x", "object": {}}[what]

    def places(self, kind, path=""):
        """(path as errors name it, type, function that makes the parameters with a value there) of all that a
        value of a struct type can hold."""
        what, _, rest = self.resolve(kind)
        if what == "struct":
            for name, inner in rest.items():
                for where, t, make in self.places(inner, f"{path}.{name}" if path else name):
                    yield where, t, self._within(kind, name, make)
        elif what == "array":
            for where, t, make in self.places(rest, path + "[0]"):
                yield where, t, (lambda value, make=make: [make(value)])
        elif what == "map":
            for where, t, make in self.places(rest, path + ".k"):
                yield where, t, (lambda value, make=make: {"k": make(value)})
        yield path, kind, (lambda value: value)

    def _within(self, kind, name, make):
        def build(value):
            """The field first: the daemon names the first that is wrong."""
            others = {k: v for k, v in self.sample(kind).items() if k != name}
            return {name: make(value), **others}
        return build


def load():
    """All interfaces by name."""
    found = {}
    for path in sorted(glob.glob(os.path.join(FOLDER, "*.varlink"))):
        with open(path, encoding="utf-8", newline="") as f:
            interface = Interface(f.read())
        assert interface.name == os.path.basename(path)[:-len(".varlink")]
        found[interface.name] = interface
    return found
