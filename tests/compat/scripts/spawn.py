"""Spawn two tasks anywhere, and follow what they send until their slots are free again."""

# ruff: noqa: PTH109
import os

import remote

from encamp.compat.pyopus.base import MsgTaskExit, MsgTaskResult
from encamp.compat.pyopus.mpi import MPI as VM

if __name__ == "__main__":
    vm = VM(startupDir=os.getcwd())
    print("slots", vm.slots(), "free", vm.freeSlots(), "me", vm.taskID(), vm.parentTaskID())
    print(vm.formatSpawnerConfig())
    free = vm.freeSlots()
    tasks = vm.spawnFunction(remote.greet, kwargs={"vm": vm}, count=2)
    print("spawned", [str(task) for task in tasks], "free", vm.freeSlots())
    print(vm.formatSpawnerConfig())
    told = {str(task): [] for task in tasks}
    while vm.freeSlots() != free:
        received = vm.receiveMessage()
        if received is None or len(received) == 0:
            continue
        source, message = received
        if type(message) is MsgTaskResult:
            told[str(source)].append(f"success={message.success}: {message.returnValue}")
        elif type(message) is MsgTaskExit:
            told[str(source)].append(f"exit of {message.taskID}")
    for task, lines in told.items():
        for line in lines:
            print(task, line)
    print("next", vm.spawnFunction(remote.greet, [vm]))
    vm.finalize()
    print("finished")
