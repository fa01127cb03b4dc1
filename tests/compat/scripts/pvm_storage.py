"""Mirrored files in local storage on PVM, with and without persistence, and its removal."""

import os
import sys

from encamp.compat.pyopus.pvm import PVM, use_machine
from storage import look

if __name__ == "__main__":
    os.chdir(sys.argv[1])
    use_machine("own", slots=1)
    once = PVM(mirrorMap={"*.cir": ".", "models": "lib"})
    print(look(once))
    print(look(once))
    inside = PVM(mirrorMap={"models": "lib"}, startupDir="lib/models")
    inside.spawnFunction(os.listdir, count=1)
    print(inside.receiveMessage()[1].returnValue)
    inside.receiveMessage()
    there = PVM()
    there.setSpawn(startupDir=os.path.abspath("models"))
    there.spawnFunction(os.getcwd, count=1)
    print(os.path.relpath(there.receiveMessage()[1].returnValue))
    there.receiveMessage()
    kept = PVM(mirrorMap={"*.cir": "."}, persistentStorage=True)
    print(look(kept))
    print("used again:", "left behind" in look(kept))
    kept.clearLocalStorage(timeout=20.0)
    print("after clearing:", look(kept))
    PVM.finalize()
