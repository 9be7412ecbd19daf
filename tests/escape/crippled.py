"""A world whose sessions lack layers: by a copy of the tests' own init, which is told in its file what to leave out."""

import os
import shutil
import struct

import machine
import world as worlds

MARK = b"sandboxd-leave-out-mark\0"
BITS = {"seccomp": 1 << 0, "landlock": 1 << 1, "mounts": 1 << 2, "user namespace": 1 << 3, "cgroup": 1 << 4,
        "network": 1 << 5, "masks": 1 << 8, "capabilities": 1 << 9, "limits": 1 << 10, "groups": 1 << 11}
# Without these no session starts where the layer alone is left out.
WITH = {"user namespace": ("capabilities",)}


class Crippled:
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
        # Sessions and results of the one before are gone.
        self.world.places = {name: worlds.Place(self.world, name) for name in self.world.places}
        self.world.found = {}

    def leave_out_unnoticed(self, layers):
        """Init's own trial of them as well."""
        whole = [*layers, *(other for layer in layers for other in WITH.get(layer, ()))]
        self.leave_out(whole, whole)

    def run(self):
        return self.world.instance.sh(self.world.user, "echo runs", workspace=self.world.work["user"])
