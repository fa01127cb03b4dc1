"""Mirrored files in local storage, with and without persistence, and its removal."""

import os
import sys

import remote

from encamp.compat.pyopus.base import MsgTaskExit, MsgTaskResult
from encamp.compat.pyopus.mpi import MPI


def look(vm):
    [task] = vm.spawnFunction(remote.look_around, kwargs={"vm": vm}, count=1)
    while True:
        message = vm.receiveMessage()[1]
        if type(message) is MsgTaskExit:
            return
        if type(message) is MsgTaskResult:
            found, (parent, folder), pid = message.returnValue
            print(found, parent, folder.replace(pid + "_", "PID_"))


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    once = MPI(mirrorMap={"*.cir": ".", "models": "lib"})
    look(once)
    look(once)
    inside = MPI(mirrorMap={"models": "lib"}, startupDir="lib/models")
    [task] = inside.spawnFunction(os.listdir, count=1)
    print(sorted(inside.receiveMessage()[1].returnValue))
    inside.receiveMessage()
    kept = MPI(mirrorMap={"*.cir": "."}, persistentStorage=True)
    for _ in range(kept.freeSlots()):
        look(kept)
    look(kept)
    kept.clearLocalStorage(timeout=20.0)
    look(kept)
    MPI.finalize()
