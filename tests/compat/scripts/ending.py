"""Slots keep their processes, and errors of tasks are told though nobody receives their results.

ending.py ["finalize"] ["cooperative"]: how the program ends, and what spawns.
"""

import os
import sys
import time

from encamp.compat.pyopus.cooperative import cOS
from encamp.compat.pyopus.mpi import MPI
from encamp.compat.pyopus.spawner import spawner_here

rounds = []


def work(number):
    rounds.append(number)
    return os.getpid()


def fail():
    raise LookupError("no bread")


def processes(vm):
    spawned = vm.spawnFunction(work, args=(1,), count=3)
    found, exits = {}, 0
    while exits < len(spawned):
        task, message = vm.receiveMessage()
        if hasattr(message, "returnValue"):
            found[task.rank] = message.returnValue
        else:
            exits += 1
    return found


if __name__ == "__main__":
    words = sys.argv[1:]
    vm = MPI()
    first = processes(vm)
    print(len(set(first.values())), [processes(vm) == first for _ in range(4)])
    if "cooperative" in words:
        cOS.setVM(vm)
        cOS.Spawn(fail, remote=True)
    else:
        vm.spawnFunction(fail, count=1)
    while not all(task.done() for task in spawner_here()._tasks.values()):
        time.sleep(0.01)
    if "finalize" in words:
        (cOS if "cooperative" in words else vm).finalize()
