"""Messages, sound and unsound: each vector against the real daemon. D12: what JSON may be; D45: nothing that a client
sends ends a process (the fixture `daemon` looks)."""

import json
import socket

import pytest

from wire import message

INFO = b'{"method":"org.varlink.service.GetInfo"}'
DESCRIBE = b'{"method":"io.sandboxd.Session.Describe","parameters":{"id":%s}}'
MESSAGE_MAX = 256 * 1024


def in_parameters(value):
    """A value where a string is expected: sound text is answered, unsound text is not."""
    return DESCRIBE % value


ACCEPTED = {
    "parameters-null": b'{"method":"org.varlink.service.GetInfo","parameters":null}',
    "parameters-absent": INFO,
    "parameters-empty": b'{"method":"org.varlink.service.GetInfo","parameters":{}}',
    "whitespace": b' \t\r\n{ "method" :\r\n"org.varlink.service.GetInfo" , "parameters" : { } }\n',
    "escapes": b'{"\\u006dethod":"org.varlink.service\\u002eGetInfo"}',
    "solidus": b'{"method":"org.varlink.service.GetInfo","x.y\\/":{}}',
    "more-false": b'{"method":"org.varlink.service.GetInfo","more":false}',
    "oneway-false": b'{"method":"org.varlink.service.GetInfo","oneway":false}',
    "upgrade-false": b'{"method":"org.varlink.service.GetInfo","upgrade":false}',
    "all-flags-false": b'{"method":"org.varlink.service.GetInfo","more":false,"oneway":false,"upgrade":false}',
    "more-on-a-single-reply": b'{"method":"org.varlink.service.GetInfo","more":true}',
    "upgrade-without-an-upgrade": b'{"method":"org.varlink.service.GetInfo","upgrade":true}',
    "flag-before-method": b'{"more":true,"method":"org.varlink.service.GetInfo"}',
    "vendor-key": b'{"method":"org.varlink.service.GetInfo","com.example.trace":{"id":"1","n":[1,null]}}',
    "vendor-key-first": b'{"com.example.trace":{},"method":"org.varlink.service.GetInfo"}',
    "utf-8": '{"method":"org.varlink.service.GetInfo","com.ä.€.\U0001f600":{"k":"\\ud83d\\ude00"}}'.encode(),
    "number-forms": b'{"method":"org.varlink.service.GetInfo","a.b":{"n":[0,-0,1E+2,1e-2,0.0,9223372036854775807]}}',
}

CLOSED = {
    # header
    "parameters-array": b'{"method":"org.varlink.service.GetInfo","parameters":[]}',
    "parameters-string": b'{"method":"org.varlink.service.GetInfo","parameters":"x"}',
    "parameters-false": b'{"method":"org.varlink.service.GetInfo","parameters":false}',
    "more-number": b'{"method":"org.varlink.service.GetInfo","more":1}',
    "more-null": b'{"method":"org.varlink.service.GetInfo","more":null}',
    "more-string": b'{"method":"org.varlink.service.GetInfo","more":"true"}',
    "oneway-null": b'{"method":"org.varlink.service.GetInfo","oneway":null}',
    "upgrade-number": b'{"method":"org.varlink.service.GetInfo","upgrade":0}',
    "more-and-oneway": b'{"method":"org.varlink.service.GetInfo","more":true,"oneway":true}',
    "more-and-upgrade": b'{"method":"org.varlink.service.GetInfo","more":true,"upgrade":true}',
    "oneway-and-upgrade": b'{"method":"org.varlink.service.GetInfo","oneway":true,"upgrade":true}',
    "all-flags": b'{"method":"org.varlink.service.GetInfo","oneway":true,"upgrade":true,"more":true}',
    "flag-twice": b'{"method":"org.varlink.service.GetInfo","more":false,"more":true}',
    "flag-twice-same": b'{"method":"org.varlink.service.GetInfo","oneway":false,"oneway":false}',
    "method-twice": b'{"method":"org.varlink.service.GetInfo","method":"org.varlink.service.GetInfo"}',
    "method-twice-escaped": b'{"method":"org.varlink.service.GetInfo","\\u006dethod":"org.varlink.service.GetInfo"}',
    "no-method": b'{"parameters":{}}',
    "empty-object": b"{}",
    "method-number": b'{"method":1}',
    "method-null": b'{"method":null}',
    "method-object": b'{"method":{}}',
    "unknown-key": b'{"method":"org.varlink.service.GetInfo","unknown":1}',
    "unknown-key-object": b'{"method":"org.varlink.service.GetInfo","unknown":{}}',
    "continues": b'{"method":"org.varlink.service.GetInfo","continues":true}',
    "a-reply": b'{"parameters":{}}',
    "an-error": b'{"error":"a.b.C"}',
    "vendor-key-number": b'{"method":"org.varlink.service.GetInfo","com.example.x":1}',
    "vendor-key-null": b'{"method":"org.varlink.service.GetInfo","com.example.x":null}',
    # no object, no JSON
    "empty": b"",
    "space": b" ",
    "array": b"[1]",
    "array-of-a-call": b"[" + INFO + b"]",
    "string": b'"x"',
    "number": b"1",
    "null": b"null",
    "true": b"true",
    "truncated": INFO[:-1],
    "open": b"{",
    "bad": b"{method}",
    "trailing-junk": INFO + b"x",
    "two-objects": INFO + INFO,
    "trailing-comma": b'{"method":"org.varlink.service.GetInfo",}',
    "no-colon": b'{"method" "org.varlink.service.GetInfo"}',
    "no-comma": b'{"method":"org.varlink.service.GetInfo" "more":true}',
    "single-quotes": b"{'method':'org.varlink.service.GetInfo'}",
    "single-quoted-key": b"{'method':\"org.varlink.service.GetInfo\"}",
    "bare-key": b'{method:"org.varlink.service.GetInfo"}',
    "bom": b"\xef\xbb\xbf" + INFO,
    "comment": b'{"method":"org.varlink.service.GetInfo"/* x */}',
    "line-comment": INFO + b"// x",
    "vertical-tab": b"\v" + INFO,
    "utf-16": INFO.decode().encode("utf-16-le").replace(b"\0", b"\x01"),
    # strings
    "invalid-utf-8": b'{"method":"org.varlink\xff.service.GetInfo"}',
    "control-character": in_parameters(b'"a\x01b"'),
    "newline-in-string": in_parameters(b'"a\nb"'),
    "nul-escape": in_parameters(b'"a\\u0000b"'),
    "nul-escape-in-key": b'{"method":"org.varlink.service.GetInfo","method\\u0000x":"a"}',
    "nul-escape-in-parameter": b'{"method":"io.sandboxd.Session.Describe","parameters":{"id\\u0000x":"a"}}',
    "overlong-2": in_parameters(b'"\xc0\x80"'),
    "overlong-3": in_parameters(b'"\xe0\x80\x80"'),
    "overlong-4": in_parameters(b'"\xf0\x80\x80\x80"'),
    "surrogate-bytes": in_parameters(b'"\xed\xa0\x80"'),
    "beyond-unicode": in_parameters(b'"\xf5\x80\x80\x80"'),
    "beyond-unicode-f4": in_parameters(b'"\xf4\x90\x80\x80"'),
    "cut-utf-8": in_parameters(b'"\xe2\x82"'),
    "continuation-alone": in_parameters(b'"\x80"'),
    "high-surrogate-alone": in_parameters(b'"\\ud800"'),
    "low-surrogate-alone": in_parameters(b'"\\udc00"'),
    "surrogates-swapped": in_parameters(b'"\\udc00\\ud800"'),
    "high-surrogate-and-letter": in_parameters(b'"\\ud800\\u0061"'),
    "bad-escape": in_parameters(b'"\\x41"'),
    "bad-hex": in_parameters(b'"\\u00g0"'),
    "short-hex": in_parameters(b'"\\u00"'),
    "open-string": in_parameters(b'"a'),
    # numbers and words
    "nan": in_parameters(b"NaN"),
    "infinity": in_parameters(b"Infinity"),
    "minus-infinity": in_parameters(b"-Infinity"),
    "point-at-the-end": in_parameters(b"1."),
    "point-first": in_parameters(b".5"),
    "plus": in_parameters(b"+1"),
    "leading-zero": in_parameters(b"01"),
    "hexadecimal": in_parameters(b"0x10"),
    "exponent-without-digits": in_parameters(b"1e"),
    "minus-alone": in_parameters(b"-"),
    "word": in_parameters(b"truE"),
    "word-and-more": in_parameters(b"nulll"),
    # what a parser might take and a gate must not
    "duplicate-parameter": b'{"method":"io.sandboxd.Session.Describe","parameters":{"id":"a","id":"a"}}',
    "duplicate-deep": b'{"method":"io.sandboxd.Session.Create","parameters":{"context":{"name":"a","name":"b"}}}',
    "brackets-crossed": in_parameters(b'["a"}'),
    "brackets-open": in_parameters(b"[["),
    "nesting-3000": in_parameters(b"[" * 3000 + b"]" * 3000),
    "nesting-100000": in_parameters(b"[" * 100000 + b"]" * 100000),
    "nesting-unclosed": in_parameters(b"[" * 100000),
    "nesting-objects": in_parameters(b'{"a":' * 30000 + b"1" + b"}" * 30000),
}

# Sound JSON: the connection stays, and the reply names what is wrong.
ANSWERED = {
    "wrong-type": (in_parameters(b"1"), "InvalidParameter", "id"),
    "null-for-what-is-not-nullable": (in_parameters(b"null"), "InvalidParameter", "id"),
    "missing": (b'{"method":"io.sandboxd.Session.Describe"}', "InvalidParameter", "id"),
    "unknown-parameter": (b'{"method":"org.varlink.service.GetInfo","parameters":{"x":1}}', "InvalidParameter", "x"),
    "unknown-null": (b'{"method":"org.varlink.service.GetInfo","parameters":{"x":null}}', "InvalidParameter", "x"),
    "case-of-a-parameter": (b'{"method":"io.sandboxd.Session.Describe","parameters":{"ID":"a"}}', "InvalidParameter", "ID"),
    "boolean-as-text": (b'{"method":"io.sandboxd.Session.Terminate","parameters":{"id":"a","all":"false"}}',
                        "InvalidParameter", "all"),
    "number-as-text": (b'{"method":"io.sandboxd.Audit.Query","more":true,"parameters":{"limit":"42abc"}}',
                       "InvalidParameter", "limit"),
    "integer-as-real": (b'{"method":"io.sandboxd.Session.Terminate","parameters":{"graceUSec":1.0,"id":"a"}}',
                        "InvalidParameter", "graceUSec"),
    "integer-1e3": (b'{"method":"io.sandboxd.Session.Terminate","parameters":{"graceUSec":1e3,"id":"a"}}',
                    "InvalidParameter", "graceUSec"),
    "integer-1e30": (b'{"method":"io.sandboxd.Session.Terminate","parameters":{"graceUSec":1e30,"id":"a"}}',
                     "InvalidParameter", "graceUSec"),
    "integer-2^63": (b'{"method":"io.sandboxd.Session.Terminate","parameters":{"graceUSec":9223372036854775808,"id":"a"}}',
                     "InvalidParameter", "graceUSec"),
    "integer-2^64": (b'{"method":"io.sandboxd.Session.Terminate","parameters":{"graceUSec":18446744073709551616,"id":"a"}}',
                     "InvalidParameter", "graceUSec"),
    "integer-below": (b'{"method":"io.sandboxd.Session.Terminate","parameters":{"graceUSec":-9223372036854775809,"id":"a"}}',
                      "InvalidParameter", "graceUSec"),
    "real-too-large": (in_parameters(b"1e400"), "InvalidParameter", "id"),
    "real-too-small": (in_parameters(b"-1e999"), "InvalidParameter", "id"),
    "long-number": (in_parameters(b"1" * 5000), "InvalidParameter", "id"),
    "too-deep": (in_parameters(b"[" * 20 + b"]" * 20), "InvalidParameter", "id"),
    "too-deep-object": (in_parameters(b'{"a":' * 200 + b"1" + b"}" * 200), "InvalidParameter", "id"),
    "too-long": (in_parameters(b'"' + b"a" * 65537 + b'"'), "InvalidParameter", "id"),
    "too-many-values": (in_parameters(b"[" + b"0," * 20000 + b"0]"), "InvalidParameter", "id"),
    "many-objects": (in_parameters(b"[" + b"{}," * 80000 + b"{}]"), "InvalidParameter", "id"),
    "long-as-may-be": (in_parameters(b'"' + b"a" * 65536 + b'"'), "NoSuchSession", None),
    "path-of-a-field": (b'{"method":"io.sandboxd.Session.Create","parameters":{"context":{"limits":{"memoryMaxBytes":0}}}}',
                        "InvalidParameter", "context.limits.memoryMaxBytes"),
    "path-of-an-element": (b'{"method":"io.sandboxd.Session.Create","parameters":{"context":{"mounts":'
                           b'[{"source":"/a"},{"source":"/b"},{"source":1}]}}}', "InvalidParameter", "context.mounts[2].source"),
    "unknown-interface": (b'{"method":"no.such.Method"}', "MethodNotFound", "no.such.Method"),
    "unknown-method": (b'{"method":"io.sandboxd.Session.NoSuch"}', "MethodNotFound", "io.sandboxd.Session.NoSuch"),
    "no-dot": (b'{"method":"nodots"}', "MethodNotFound", "nodots"),
    "empty-method": (b'{"method":""}', "MethodNotFound", ""),
    "type-as-method": (b'{"method":"io.sandboxd.Session.Context"}', "MethodNotFound", "io.sandboxd.Session.Context"),
    "error-as-method": (b'{"method":"io.sandboxd.Session.NoSuchSession"}', "MethodNotFound",
                        "io.sandboxd.Session.NoSuchSession"),
    "lower-case": (b'{"method":"org.varlink.service.getInfo"}', "MethodNotFound", "org.varlink.service.getInfo"),
    "unknown-description": (b'{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"no.such"}}',
                            "InterfaceNotFound", "no.such"),
    "expected-more": (b'{"method":"io.sandboxd.Session.List"}', "ExpectedMore", None),
    "expected-more-false": (b'{"method":"io.sandboxd.Session.List","more":false}', "ExpectedMore", None),
}


def is_info(reply):
    return reply is not None and "error" not in reply and "vendor" in reply["parameters"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(connect, name):
    c = connect()
    c.send(ACCEPTED[name] + b"\0" + INFO + b"\0" if b'"upgrade":true' not in ACCEPTED[name] else ACCEPTED[name] + b"\0")
    replies = c.finish()
    assert replies and all(is_info(reply) and not reply.get("continues") for reply in replies), replies
    assert len(replies) == (1 if b'"upgrade":true' in ACCEPTED[name] else 2)


@pytest.mark.parametrize("name", CLOSED)
def test_D12_closed(connect, name):
    """Nothing is answered, not even the good call behind it, and the connection ends while the client keeps it open."""
    c = connect()
    assert b"\0" not in CLOSED[name]
    c.send(CLOSED[name] + b"\0" + INFO + b"\0")
    assert c.receive() is None


@pytest.mark.parametrize("name", CLOSED)
def test_closed_behind_a_good_call(connect, name):
    c = connect()
    assert is_info(c.call("org.varlink.service.GetInfo"))
    c.send(CLOSED[name] + b"\0")
    assert c.receive() is None


@pytest.mark.parametrize("name", ANSWERED)
def test_D12_answered(connect, name):
    data, error, value = ANSWERED[name]
    c = connect()
    c.send(data + b"\0" + INFO + b"\0")
    reply = c.receive()
    assert reply["error"].rsplit(".", 1)[1] == error, reply
    assert not reply.get("continues")
    given = list(reply.get("parameters", {}).values())
    if error == "InvalidParameter" and name.startswith(("too-", "many")):
        assert set(reply["parameters"]) == {"parameter"} and given[0].startswith(value), reply
    elif value is not None:
        assert given == [value], reply
    assert is_info(c.receive())


def test_D12_minus_zero_is_zero(connect):
    c = connect()
    c.send(b'{"method":"io.sandboxd.Session.Create","parameters":{"context":{"limits":{"memoryMaxBytes":-0}}}}\0')
    assert c.receive() == {"error": "org.varlink.service.InvalidParameter",
                           "parameters": {"parameter": "context.limits.memoryMaxBytes"}}


def test_D12_no_nul_in_what_comes_back(connect):
    """Text behind the NUL of a message is the next message, never more of this one."""
    c = connect()
    c.send(b'{"method":"org.varlink.service.GetInfo"}\0junk\0')
    assert is_info(c.receive())
    assert c.receive() is None


@pytest.mark.parametrize("size, is_taken", [(MESSAGE_MAX, True), (MESSAGE_MAX + 1, False)])
def test_longest_message(connect, size, is_taken):
    """messageBytesMax is without the NUL."""
    c = connect()
    described = c.call("io.sandboxd.Manager.Describe")
    assert described["parameters"]["messageBytesMax"] == MESSAGE_MAX
    head, tail = b'{"method":"org.varlink.service.GetInfo"', b"}"
    c.send(head + b" " * (size - len(head) - len(tail)) + tail + b"\0")
    assert is_info(c.receive()) if is_taken else c.receive() is None


def test_message_without_an_end(connect):
    c = connect()
    c.send(b'{"method":"' + b"a" * 20_000_000)
    assert c.receive() is None


EVERY_PREFIX = b'{"method":"io.sandboxd.Session.List","more":true,"parameters":{"allUsers":false,"labels":{"\xc3\xa4":"\\u00e4"}}}'


def test_every_prefix_then_end(connect):
    """Cut by the end of the connection: no answer. Cut by a NUL: closed."""
    for end in range(len(EVERY_PREFIX)):
        c = connect()
        c.send(EVERY_PREFIX[:end])
        assert c.finish() == [], end
        c.close()
        c = connect()
        c.send(EVERY_PREFIX[:end] + b"\0" + INFO + b"\0")
        assert c.receive() is None, end
        c.close()


def test_every_prefix_is_continued(connect):
    """Cut into two writes anywhere, it is one call."""
    c = connect()
    whole = EVERY_PREFIX + b"\0"
    for cut in range(1, len(whole)):
        c.send(whole[:cut])
        c.send(whole[cut:])
        reply = c.receive()
        assert "error" not in reply, (cut, reply)
        while reply.get("continues"):
            reply = c.receive()


def test_a_byte_at_a_time(connect):
    c = connect()
    for _ in range(3):
        for byte in INFO + b"\0":
            c.send(bytes([byte]))
        assert is_info(c.receive())


def test_a_thousand_messages_at_once(connect):
    """All in one write, in order, each answered once."""
    c = connect()
    data = b"".join(message("org.varlink.service.GetInterfaceDescription", {"interface": f"no.such{i}"})
                    for i in range(1000))
    c.send(data)
    for i in range(1000):
        assert c.receive()["parameters"] == {"interface": f"no.such{i}"}
    assert c.finish() == []


def test_a_thousand_messages_in_odd_writes(connect):
    c = connect()
    data = b"".join(message("no.such.Method" + str(i)) for i in range(1000))
    sizes, at, n = (1, 7, 4096, 143, 3, 65536), 0, 0
    while at < len(data):
        size = sizes[n % len(sizes)]
        c.send(data[at:at + size])
        at, n = at + size, n + 1
    for i in range(1000):
        assert c.receive()["parameters"] == {"method": f"no.such.Method{i}"}


def test_oneway_is_never_answered(connect):
    """Neither a result, nor an error, nor what is wrong with it; and what follows is answered in order."""
    c = connect()
    for method, parameters in (("org.varlink.service.GetInfo", None), ("no.such.Method", None),
                               ("io.sandboxd.Session.Describe", {"id": "none"}), ("io.sandboxd.Session.Describe", {"x": 1}),
                               ("io.sandboxd.Session.List", None), ("io.sandboxd.Approval.List", None),
                               ("io.sandboxd.Session.Wait", {"id": "none"})):
        c.send_call(method, parameters, oneway=True)
        c.send_call("org.varlink.service.GetInterfaceDescription", {"interface": method})
        assert c.receive()["parameters"] == {"interface": method}
    c.send(in_parameters(b"[" * 20 + b"]" * 20)[:-1] + b',"oneway":true}\0')
    assert is_info(c.call("org.varlink.service.GetInfo"))
    c.send_call("no.such.Method", oneway=True)
    assert c.finish() == []


def test_oneway_takes_effect_in_order(connect, alice):
    """What was asked for without an answer is done before what comes behind it."""
    c = connect(alice)
    made = c.call("io.sandboxd.Session.Create", {"context": {"lifetime": "detached", "name": "oneway"}})
    session = made["parameters"]["id"]
    c.send_call("io.sandboxd.Session.Terminate", {"id": session, "graceUSec": 0}, oneway=True)
    c.send_call("io.sandboxd.Session.Wait", {"id": session})
    assert c.receive()["parameters"]["result"]["reason"] == "terminated"
    c.send_call("io.sandboxd.Session.Remove", {"id": session}, oneway=True)
    assert c.call("io.sandboxd.Session.Describe", {"id": session})["error"] == "io.sandboxd.Session.NoSuchSession"


def spawn_parameters(*command, **context):
    return {"context": context, "command": {"commandLine": list(command), "standardInput": "null",
                                            "standardOutput": "null", "standardError": "null"}}


def test_a_call_behind_more_waits(connect, alice):
    """While replies come nothing else of the connection is served; then it is, in order."""
    c = connect(alice)
    c.send(message("io.sandboxd.Session.Spawn", spawn_parameters("sleep", "0.3"), more=True)
           + message("org.varlink.service.GetInfo") * 2)
    replies = [c.receive()]
    while replies[-1].get("continues"):
        replies.append(c.receive())
    assert len(replies) == 2 and replies[-1]["parameters"]["result"]["reason"] == "exited", replies
    assert is_info(c.receive()) and is_info(c.receive())
    assert c.finish() == []


def test_more_then_close_in_the_middle(daemon, connect, alice):
    """The session of a connection ends with it."""
    from machine import eventually
    c = connect(alice)
    c.send_call("io.sandboxd.Session.Spawn", spawn_parameters("sleep", "1000", name="left"), more=True)
    assert c.receive()["continues"]
    other = connect(alice)
    assert "error" not in other.call("io.sandboxd.Session.Describe", {"id": "left"})
    c.close()
    assert eventually(lambda: "error" in other.call("io.sandboxd.Session.Describe", {"id": "left"}) or other.call(
        "io.sandboxd.Session.Describe", {"id": "left"})["parameters"]["runtime"]["state"] == "exited", 30)


def test_a_stream_closed_behind_its_first_reply(connect):
    """Rows of the log, and nobody who reads them to the end: other connections are served on."""
    for _ in range(20):
        c = connect()
        c.send_call("io.sandboxd.Audit.Query", {}, more=True)
        assert c.receive() is not None
        c.close()
    assert is_info(connect().call("org.varlink.service.GetInfo"))


def test_half_closed_peers_are_answered(connect):
    c = connect()
    c.send((INFO + b"\0") * 50)
    c.socket.shutdown(socket.SHUT_WR)
    for _ in range(50):
        assert is_info(c.receive())
    assert c.receive() is None


def test_upgrade_with_bytes_behind_it_is_refused(connect):
    """They would be swallowed, or taken for varlink."""
    c = connect()
    c.send(b'{"method":"org.varlink.service.GetInfo","upgrade":true}\0raw bytes')
    assert c.receive() is None


def test_replies_are_sound(connect):
    """One object and one NUL a reply, no whitespace outside strings, no empty members."""
    c = connect()
    c.send(b'{"method":"org.varlink.service.GetInfo"}\0{"method":"no.such.Method"}\0')
    c.receive()
    c.receive()
    c = connect()
    c.send(b'{"method":"org.varlink.service.GetInfo"}\0')
    data = b""
    while b"\0" not in data:
        data += c.socket.recv(65536)
    assert data.endswith(b"\0") and data.count(b"\0") == 1
    assert json.dumps(json.loads(data[:-1]), separators=(",", ":"), ensure_ascii=False).encode() == data[:-1]
