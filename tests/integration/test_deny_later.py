"""Denied names and patterns that appear in a workspace while a session runs: whoever makes them, and however."""

import os
import subprocess

import pytest

from machine import eventually

DENY = ["**/.env", "**/*.pem", "secret", "deep/er/token"]


@pytest.fixture
def work(either):
    folder = either.workspace()
    either.write(folder + "/sub/tree/file", "shown\n", 0o644)
    either.write(folder + "/old.pem", "CANARY old\n", 0o644)
    return folder


@pytest.fixture
def session(instance, either, work, make_profile):
    made = instance.create(either, "-p", make_profile(filesystem={"deny": DENY}), cwd=work)
    yield made
    instance.ctl(either, "terminate", "--grace", "0", made)


def shell(instance, user, session, line):
    done = instance.ctl(user, "exec", session, "--", "sh", "-c", line)
    assert done.returncode != 125, done
    return done.stdout


def is_masked(instance, user, session, path):
    """It is there, and nothing of it."""
    return eventually(lambda: shell(instance, user, session, f"test -e {path} && ! cat {path} 2>/dev/null && echo masked") == "masked\n", 60)


def write(user, path, text="CANARY new\n"):
    user.write(path, text, 0o644)


@pytest.mark.parametrize("path", [".env", "sub/.env", "sub/tree/k.pem", "secret", "deep/er/token", "new/folder/made/.env"])
def test_what_the_host_makes_is_masked(instance, either, work, session, path):
    write(either, os.path.join(work, path))
    assert is_masked(instance, either, session, path)
    # It stays so, by other names of the folders above it too, and the host's file is as it was.
    top = path.split("/")[0]
    out = shell(instance, either, session, f"mv {path} x; cat x; mv {top} moved; grep -rhs CANARY . ; true")
    assert "CANARY" not in out, out
    assert subprocess.run(["grep", "-rl", "CANARY new", work], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_what_the_host_brings_or_replaces_is_masked(instance, either, work, session):
    write(either, work + "/plain")
    os.rename(work + "/plain", work + "/sub/.env")
    assert is_masked(instance, either, session, "sub/.env")
    # As editors save: another file under the name of one that is masked.
    write(either, work + "/old.pem.tmp")
    os.rename(work + "/old.pem.tmp", work + "/old.pem")
    assert is_masked(instance, either, session, "old.pem")
    # A whole folder that was made elsewhere.
    write(either, os.path.join(os.path.dirname(work), "beside", "a", "b", ".env"))
    os.rename(os.path.join(os.path.dirname(work), "beside"), work + "/brought")
    assert is_masked(instance, either, session, "brought/a/b/.env")


def test_what_the_session_makes_is_masked(instance, either, work, session):
    """It is denied, not owned: the same rule whoever made it."""
    shell(instance, either, session, "mkdir -p own/dir; echo mine >own/dir/.env; echo mine >here; mv here sub/x.pem")
    assert is_masked(instance, either, session, "own/dir/.env") and is_masked(instance, either, session, "sub/x.pem")
    with open(work + "/own/dir/.env", encoding="utf-8") as f:
        assert f.read() == "mine\n"


def test_folders_that_moved_are_still_watched(instance, either, work, session):
    shell(instance, either, session, "mkdir -p a/b/c; mv a/b b; mv b/c sub/tree/c; mkdir -p a/b")
    for path in ("b/.env", "sub/tree/c/.env", "a/b/.env"):
        write(either, os.path.join(work, path))
        assert is_masked(instance, either, session, path), path


def test_everything_else_goes_on(instance, either, work, session):
    """Many files and folders at once, none of them denied; and commands run on after a mask was put."""
    out = shell(instance, either, session, "for i in $(seq 200); do mkdir -p t/$i/u; echo $i >t/$i/u/f; done; cat t/*/u/f | wc -l")
    assert out == "200\n"
    write(either, work + "/t/150/u/.env")
    assert is_masked(instance, either, session, "t/150/u/.env")
    assert shell(instance, either, session, "cat t/150/u/f; rm -r t/7; ls t | wc -l; cat sub/tree/file") == "150\n199\nshown\n"


def test_two_sessions_in_one_workspace(instance, either, work, session, make_profile):
    other = instance.create(either, "-p", make_profile(filesystem={"deny": ["**/*.key"]}), cwd=work)
    try:
        write(either, work + "/sub/.env")
        write(either, work + "/sub/k.key")
        assert is_masked(instance, either, session, "sub/.env") and is_masked(instance, either, other, "sub/k.key")
        assert shell(instance, either, other, "cat sub/.env") == shell(instance, either, session, "cat sub/k.key") == "CANARY new\n"
    finally:
        instance.ctl(either, "terminate", "--grace", "0", other)


def test_the_shipped_profile_hides_what_it_names_when_it_appears(instance, either):
    work = either.workspace()
    made = instance.create(either, cwd=work)
    try:
        write(either, work + "/.env")
        assert is_masked(instance, either, made, ".env")
    finally:
        instance.ctl(either, "terminate", "--grace", "0", made)
