"""What a session's network is like for the bytes that pass through it."""

import socket
import textwrap

ALGORITHM = textwrap.dedent("""\
    import socket
    s = socket.socket()
    print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode())
    """)


def inside(instance, user, script):
    done = instance.ctl(user, "run", "-T", "--", "python3", "-c", script, cwd=user.workspace())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_paced_inside(instance, alice):
    """Whatever the machine does with what it sends to others: between a program and its worker there is nobody."""
    assert inside(instance, alice, ALGORITHM) == "reno"


def test_the_machines_own_choice_stays(instance, alice):
    def outside():
        with socket.socket() as s:
            return s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)

    before = outside()
    inside(instance, alice, ALGORITHM)
    assert outside() == before
