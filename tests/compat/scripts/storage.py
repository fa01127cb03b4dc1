"""Mirrored files in local storage, with and without persistence, and its removal."""

import os
import sys

import remote

from encamp.compat.pyopus.base import MsgTaskExit
from encamp.compat.pyopus.mpi import MPI


def look(vm):
    """What a task finds in its folder; the end of the folder's path is printed."""
    vm.spawnFunction(remote.look_around, kwargs={"vm": vm}, count=1)
    found, (parent, folder), pid = vm.receiveMessage()[1].returnValue
    print(parent, folder.replace(pid + "_", "PID_"))
    while type(vm.receiveMessage()[1]) is not MsgTaskExit:
        pass
    return found


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    once = MPI(mirrorMap={"*.cir": ".", "models": "lib"})
    print(look(once))
    print(look(once))
    inside = MPI(mirrorMap={"models": "lib"}, startupDir="lib/models")
    inside.spawnFunction(os.listdir, count=1)
    print(inside.receiveMessage()[1].returnValue)
    inside.receiveMessage()
    kept = MPI(mirrorMap={"*.cir": "."}, persistentStorage=True)
    print(look(kept))
    print("used again:", any("left behind" in look(kept) for _ in range(kept.slots())))
    kept.clearLocalStorage(timeout=20.0)
    print("after clearing:", look(kept))
    MPI.finalize()
