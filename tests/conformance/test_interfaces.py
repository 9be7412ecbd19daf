"""The interfaces as the daemon serves them: descriptions, and every field of every method. D13: integers have ranges;
D14: what is unknown is refused."""

import json
import os

import pytest

import interfaces

IDL = interfaces.load()
SERVICE = "org.varlink.service."

# Of later versions: described, and answered with that they are not implemented.
NOT_IMPLEMENTED = (
    [f"io.sandboxd.Approval.{m}" for m in IDL["io.sandboxd.Approval"].methods] +
    [f"io.sandboxd.Session.{m}" for m in ("Copy", "Update", "Diff", "Commit", "Discard")] +
    [f"io.sandboxd.Policy.{m}" for m in ("Edit", "Suggest", "Replay")] +
    [f"io.sandboxd.Audit.{m}" for m in ("Stats", "Export")])
METHODS = {f"{name}.{method}": (interface, *interface.methods[method])
           for name, interface in IDL.items() for method in interface.methods}
IMPLEMENTED = {name: found for name, found in METHODS.items() if name not in NOT_IMPLEMENTED}


def flags_of(name):
    """What a method wants in the header."""
    doc = METHODS[name][3]
    return {"more": True} if "Requires more" in doc else {}


def test_the_reader_of_this_test_reads_all(idl):
    """Names as a search in the text finds them."""
    import re
    assert len(idl) == 8
    for interface in idl.values():
        for keyword, found in (("method", interface.methods), ("type", interface.types), ("error", interface.errors)):
            assert re.findall(rf"^{keyword} (\w+)", interface.text, re.M) == list(found)


def test_info(connect):
    reply = connect().call(SERVICE + "GetInfo")
    assert set(reply["parameters"]) == {"vendor", "product", "version", "url", "interfaces"}
    assert reply["parameters"]["interfaces"] == sorted(IDL)


@pytest.mark.parametrize("name", IDL)
def test_descriptions_are_the_shipped_ones(connect, name):
    """Byte for byte."""
    reply = connect().call(SERVICE + "GetInterfaceDescription", {"interface": name})
    with open(os.path.join(interfaces.FOLDER, name + ".varlink"), "rb") as f:
        assert reply["parameters"]["description"].encode() == f.read()


@pytest.mark.parametrize("name", NOT_IMPLEMENTED)
def test_not_implemented(connect, name):
    """Exactly that, whatever the flags and parameters are."""
    expected = {"error": SERVICE + "MethodNotImplemented", "parameters": {"method": name}}
    c = connect()
    for flags in ({}, {"more": True}, {"upgrade": True}):
        for parameters in (None, {}, {"no": "such"}):
            assert c.call(name, parameters, **flags) == expected
    c.send_call(name, oneway=True)
    assert c.call(name) == expected


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_implemented(connect, name):
    """An unknown parameter is what is wrong with the call, not that nobody serves it."""
    assert connect().call(name, {"noSuch": 1}, **flags_of(name)) == {
        "error": SERVICE + "InvalidParameter", "parameters": {"parameter": "noSuch"}}


@pytest.mark.parametrize("name", [n for n in IMPLEMENTED if flags_of(n)])
def test_more_is_required(connect, name):
    interface, given, _, _ = METHODS[name]
    assert connect().call(name, interface.sample(given)) == {"error": SERVICE + "ExpectedMore"}


def cases():
    """(method, path, type, maker) of every place in the parameters of every method."""
    for name in IMPLEMENTED:
        interface, given, _, _ = METHODS[name]
        for path, kind, make in interface.places(given):
            yield name, interface, path, interface.resolve(kind), make


def ask(c, name, parameters):
    reply = c.call(name, parameters, **flags_of(name))
    assert reply is not None, f"{name} {json.dumps(parameters)}: closed"
    return reply


def wrong_types(kind):
    """Values that are none of the type, as JSON knows types."""
    values = [True, 1, 1.5, "x", [], {}, None]
    right = {"bool": (0,), "int": (1,), "float": (1, 2), "string": (3,), "object": (5,), "struct": (5,), "map": (5,),
             "array": (4,), "enum": ()}[kind[0]]
    return [v for i, v in enumerate(values) if i not in right and not (v is None and kind[1])]


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_D14_unknown_fields_everywhere(connect, name):
    """In each object of each method: a misspelt restriction must not be taken for none."""
    c = connect()
    seen = 0
    for method, interface, path, kind, make in cases():
        if method == name and kind[0] == "struct":
            parameters = make({"zzUnknown": None, **interface.sample(kind)})
            expected = f"{path}.zzUnknown" if path else "zzUnknown"
            assert ask(c, name, parameters) == {"error": SERVICE + "InvalidParameter",
                                                "parameters": {"parameter": expected}}
            seen += 1
    assert seen >= 1


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_wrong_types_everywhere(connect, name):
    c = connect()
    for method, _, path, kind, make in cases():
        if method != name or not path:
            continue
        for value in wrong_types(kind):
            reply = ask(c, name, make(value))
            assert reply == {"error": SERVICE + "InvalidParameter", "parameters": {"parameter": path}}, value


NEVER = (2 ** 63, 2 ** 64, -2 ** 63 - 1, 10 ** 40, 1.0, 1e30, -1e300, "1", "0x10", " 1", True)


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_D13_integers_everywhere(connect, name):
    """Beyond int64, reals, texts: refused by name, never wrapped or converted."""
    c = connect()
    for method, _, path, kind, make in cases():
        if method != name or kind[0] != "int":
            continue
        for value in NEVER:
            reply = ask(c, name, make(value))
            assert reply == {"error": SERVICE + "InvalidParameter", "parameters": {"parameter": path}}, value


# Integers that have a meaning: (method, path, values beyond the range).
RANGES = [("io.sandboxd.Session.Create", "context.limits." + field, (0, -1, -2 ** 63)) for field in
          ("memoryMaxBytes", "tasksMax", "cpuQuotaPercent", "ioMaxBytesPerSec", "filesMax", "runtimeMaxUSec", "idleMaxUSec",
           "outputMaxBytes")] + [
    ("io.sandboxd.Session.Create", "context.limits.swapMaxBytes", (-1, -2 ** 63)),
    ("io.sandboxd.Session.Create", "context.limits.filesMax", (1, 2 ** 32, 2 ** 63 - 1)),
    ("io.sandboxd.Session.Create", "context.publish[0]", (0, -1, 65536, 65536 + 80, 2 ** 32 + 80)),
    ("io.sandboxd.Session.Exec", "command.timeoutUSec", (0, -1)),
    ("io.sandboxd.Session.Exec", "command.terminal.columns", (0, -1, 65536, 2 ** 32 + 80)),
    ("io.sandboxd.Session.Exec", "command.terminal.rows", (0, -1, 65536, 2 ** 32 + 24)),
    ("io.sandboxd.Session.Exec", "standardInputFileDescriptor", (-1, 1, 8, 64, 2 ** 32, -2 ** 63)),
    ("io.sandboxd.Session.Resize", "columns", (0, -1, 65536, 2 ** 32 + 80)),
    ("io.sandboxd.Session.Resize", "rows", (0, -1, 65536, 2 ** 32 + 24)),
    ("io.sandboxd.Session.Terminate", "graceUSec", (-1, -2 ** 63)),
    ("io.sandboxd.Session.Terminate", "ownerUid", (-1, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1000)),
    ("io.sandboxd.Session.Logs", "tailBytes", (-1,)),
    ("io.sandboxd.Session.Prune", "olderThanUSec", (-1,)),
    ("io.sandboxd.Policy.Check", "ownerUid", (-1, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1000)),
    ("io.sandboxd.Audit.Query", "limit", (0, -1, -2 ** 63)),
    ("io.sandboxd.Audit.Query", "sinceUSec", (-1,)),
    ("io.sandboxd.Audit.Query", "untilUSec", (-1,)),
    ("io.sandboxd.Audit.Query", "afterSequence", (-1, -2 ** 63)),
    ("io.sandboxd.Audit.Query", "uid", (-1, 2 ** 32 - 1, 2 ** 32)),
    ("io.systemd.service.SetLogLevel", "level", (-1, 8, 2 ** 32)),
]


RANGES = [r for r in RANGES if r[0] in IMPLEMENTED]


@pytest.mark.parametrize("name, path, values", RANGES, ids=[f"{n.rsplit('.', 1)[1]}-{p}" for n, p, _ in RANGES])
def test_D13_ranges(connect, name, path, values):
    makers = [make for method, _, where, _, make in cases() if (method, where) == (name, path)]
    assert len(makers) == 1, (name, path)
    c = connect()
    for value in values:
        reply = ask(c, name, makers[0](value))
        assert reply == {"error": SERVICE + "InvalidParameter", "parameters": {"parameter": path}}, (value, reply)


def test_errors_have_the_parameters_of_their_description(connect):
    """Those that are easy to get."""
    c = connect()
    for name, parameters in (("no.such.Method", None), ("io.sandboxd.Approval.List", None),
                             (SERVICE + "GetInterfaceDescription", {"interface": "a.b"}),
                             ("io.sandboxd.Session.Describe", {"id": "none"}), ("io.sandboxd.Session.Describe", {}),
                             ("io.sandboxd.Session.Create", {"context": {"profile": "none"}}),
                             ("io.sandboxd.Policy.Get", {"name": "none"})):
        reply = c.call(name, parameters)
        interface, error = reply["error"].rsplit(".", 1)
        described = IDL[interface].errors[error]
        assert set(reply.get("parameters", {})) <= set(described[2]), reply
        assert {k for k, t in described[2].items() if not t[1]} <= set(reply.get("parameters", {})), reply
