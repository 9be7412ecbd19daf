"""Streams that the daemon carries: frames over an upgraded connection, raw bytes, descriptors, terminals, logs, limits."""

import contextlib
import json
import os
import signal
import socket
import struct
import time

import pytest

import machine
from machine import eventually

NODE_CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attach.js")
SESSION = "io.sandboxd.Session."
STDIN, STDOUT, RESIZE, SIGNAL, CREDIT, STDERR, EXIT, DROPPED, PING = range(1, 10)


def node(instance, user, scenario):
    done = user.run(["/usr/bin/node", NODE_CLIENT, instance.socket, scenario], timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- a client without descriptors: plain Node ----

def test_node_writes_half_closes_and_reads_all(instance, alice):
    assert node(instance, alice, "streams") == {
        "stdout": "one two", "stderr": "to-error\n", "exit": {"status": 7, "isSignal": False},
        "result": {"exitCode": 7, "reason": "exited"}}


def test_node_moves_more_than_any_buffer(instance, alice):
    assert node(instance, alice, "much") == {"same": True, "exit": {"status": 0, "isSignal": False}}


def test_node_has_a_terminal(instance, alice):
    assert node(instance, alice, "terminal")["exit"] == {"status": 2, "isSignal": True}


def test_node_leaves_a_terminal_and_comes_back(instance, alice):
    assert node(instance, alice, "detach")["exit"] == {"status": 0, "isSignal": False}


def test_node_signals(instance, alice):
    assert node(instance, alice, "signal") == {"stdout": "ready\ncaught\n", "exit": {"status": 3, "isSignal": False}}


def test_node_sees_a_signal(instance, alice):
    assert node(instance, alice, "killed")["exit"] == {"status": 9, "isSignal": True}


def test_node_follows_a_log(instance, alice):
    assert node(instance, alice, "logs") == {"stdout": "early\nlate\n", "stderr": "oops\n", "released": True}


def test_node_has_raw_bytes(instance, alice):
    assert node(instance, alice, "raw") == {"stdout": "through behind\n"}
