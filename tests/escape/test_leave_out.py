"""Each layer of a session is needed, and is missed: without it no session starts, since init tries it; and where init's
own trial is left out as well, properties of the catalogue fail. Only the program of the tests can leave anything out."""

import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import machine  # noqa: E402
import world as worlds  # noqa: E402
from catalogue import PROPERTIES  # noqa: E402
from crippled import BITS, MARK, Crippled  # noqa: E402

# What fails without it, all others being there.
LAYERS = {
    "seccomp": {"S05", "S08", "S09", "F17", "F30", "W07", "W10"},
    "landlock": {"F12"},
    "mounts": {"F20", "F21"},
    "user namespace": {"N01", "N10", "N19"},
    "cgroup": {"P14"},
    "network": {"W02"},
    "masks": {"P08", "P10", "P11"},
    "capabilities": {"N01", "N03"},
    "limits": {"R17", "Q10"},
    "groups": {"N04", "F03"},
}
STEPS = {"seccomp": "check-seccomp", "landlock": "check-landlock", "mounts": "submounts", "user namespace": "capabilities",
         "cgroup": "check-cgroup", "network": "check-network", "masks": "check-masks", "capabilities": "check-capabilities",
         "limits": "check-limits", "groups": "check-groups"}


@pytest.fixture(scope="module")
def crippled():
    with worlds.world() as world:
        yield Crippled(world)


def test_whole(crippled):
    crippled.leave_out(())
    assert crippled.run().stdout == "runs\n"


@pytest.mark.parametrize("layer", BITS)
def test_absence_is_noticed(crippled, layer):
    crippled.leave_out([layer])
    done = crippled.run()
    assert done.returncode == 125 and "runs" not in done.stdout
    refusal = crippled.world.instance.log_text().splitlines()[-1]
    assert f"failed at {STEPS[layer]} " in refusal, refusal


@pytest.mark.parametrize("layer", BITS)
def test_properties_need_it(crippled, layer):
    crippled.leave_out_unnoticed([layer])
    results = {p.id: crippled.world.attempt(p, "user") for p in PROPERTIES if p.id in LAYERS[layer]}
    assert {name for name, (result, _) in results.items() if result == "open"} == LAYERS[layer], results


# ---- two layers for one thing ----

def abstract_socket(crippled):
    """A name without a file that the host listens at."""
    prop = next(p for p in PROPERTIES if p.id == "I01")
    return crippled.world.attempt(prop, "user")[0] == "open"


def whiteout(crippled):
    place = crippled.world.places["user"]
    done = place.sh("mknod hole c 0 0; test -e hole && echo made; rm -f hole")
    return "made" in done.stdout


def shown_folder(crippled):
    """Not below the home: what is writable for Landlock is so with all that is below."""
    folder = crippled.world.user_folder()
    crippled.world.places["user"].sh(f"cd {folder} && echo x >>f; mkdir d; true", "--read", folder)
    with open(folder + "/f", encoding="utf-8") as f:
        return os.listdir(folder) != ["f"] or f.read() != "of the user\n"


@pytest.mark.parametrize("layer,attack", [("network", abstract_socket), ("seccomp", whiteout), ("mounts", shown_folder)])
def test_landlock_holds_alone(crippled, layer, attack):
    """The layer in front is gone, and what is behind it refuses; without both of them the same attack comes through."""
    crippled.leave_out_unnoticed([layer])
    assert not attack(crippled)
    crippled.leave_out_unnoticed([layer, "landlock"])
    assert attack(crippled)
    crippled.leave_out_unnoticed(["landlock"])
    assert not attack(crippled), "the layer in front holds alone as well"


def test_release_has_no_switch():
    with open(os.path.realpath(machine.BUILD + "/libexec/sandbox-init"), "rb") as f:
        assert MARK.rstrip(b"\0") not in f.read()
    symbols = subprocess.run(["nm", os.path.realpath(machine.BUILD + "/libexec/sandbox-init")], check=True,
                             stdout=subprocess.PIPE, text=True).stdout
    assert "identity_drop" in symbols and "leave_out" not in symbols
