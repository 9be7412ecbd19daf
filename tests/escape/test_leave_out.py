"""Each layer of a session is needed, and is missed: without it no session starts, since init tries it; and where init's
own trial is left out as well, properties of the catalogue fail. Only the program of the tests can leave anything out."""

import os
import shutil
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import machine  # noqa: E402
import world as worlds  # noqa: E402
from catalogue import PROPERTIES  # noqa: E402

MARK = b"sandboxd-leave-out-mark\0"
BITS = {"seccomp": 1 << 0, "landlock": 1 << 1, "mounts": 1 << 2, "user namespace": 1 << 3, "cgroup": 1 << 4,
        "network": 1 << 5, "masks": 1 << 8, "capabilities": 1 << 9, "limits": 1 << 10, "groups": 1 << 11}

# What else must go for a session to start at all, and what fails then.
LAYERS = {
    "seccomp": ((), {"S05", "S08", "S09", "F17", "F30", "W07", "W10"}),
    "mounts": ((), {"F20"}),
    "user namespace": (("capabilities",), {"N01", "N10", "N19"}),
    "cgroup": ((), {"P14"}),
    "network": ((), {"W02"}),
    "masks": ((), {"P08", "P10", "P11"}),
    "capabilities": ((), {"N01", "N03"}),
    "limits": ((), {"R17", "Q10"}),
    "groups": ((), {"N04", "F03"}),
}
STEPS = {"seccomp": "check-seccomp", "landlock": "check-landlock", "mounts": "submounts", "user namespace": "capabilities",
         "cgroup": "check-cgroup", "network": "check-network", "masks": "check-masks", "capabilities": "check-capabilities",
         "limits": "check-limits", "groups": "check-groups"}


class Crippled:
    """A world whose daemon has an init of the tests."""

    def __init__(self, world):
        self.world = world
        folder = os.path.join(world.instance.folder, "libexec")
        os.mkdir(folder)
        for name in os.listdir(machine.BUILD + "/libexec"):
            os.symlink(os.path.realpath(f"{machine.BUILD}/libexec/{name}"), f"{folder}/{name}")
        self.program = folder + "/sandbox-init"
        os.unlink(self.program)
        shutil.copy(machine.BUILD + "/daemon/init/sandbox-init-leave-out", self.program)
        with open(self.program, "rb") as f:
            self.offset = f.read().index(MARK) + len(MARK)
        world.instance.stop()
        world.instance.libexec = folder

    def leave_out(self, layers, unchecked=()):
        """A daemon prepares sessions ahead, so it is another one each time."""
        def number(names):
            return sum(BITS[name] for name in names)

        self.world.instance.stop()
        with open(self.program, "r+b") as f:
            f.seek(self.offset)
            f.write(struct.pack("=II", number(layers), number(unchecked)))
        self.world.instance.start()

    def run(self):
        return self.world.instance.sh(self.world.user, "echo runs", workspace=self.world.work["user"])


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


@pytest.mark.parametrize("layer", LAYERS)
def test_properties_need_it(crippled, layer):
    others, wanted = LAYERS[layer]
    crippled.leave_out([layer, *others], [layer, *others])
    results = {p.id: crippled.world.attempt(p, "user") for p in PROPERTIES if p.id in wanted}
    assert {name for name, (result, _) in results.items() if result == "open"} == wanted, results


def test_landlock_is_a_second_layer(crippled):
    """What it refuses mounts refuse as well: that it is missing is seen by init's own trial alone."""
    crippled.leave_out(["landlock"], ["landlock"])
    prop = next(p for p in PROPERTIES if p.id == "F04")
    assert crippled.world.attempt(prop, "user")[0] == "holds"


def test_release_has_no_switch():
    with open(os.path.realpath(machine.BUILD + "/libexec/sandbox-init"), "rb") as f:
        assert MARK.rstrip(b"\0") not in f.read()
    symbols = subprocess.run(["nm", os.path.realpath(machine.BUILD + "/libexec/sandbox-init")], check=True,
                             stdout=subprocess.PIPE, text=True).stdout
    assert "identity_drop" in symbols and "leave_out" not in symbols
