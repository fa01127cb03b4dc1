"""Spawn on PVM: hosts and slots, ids, output of tasks, and interpreters that are fresh or stay."""

import os
import sys

import remote
from farm import gather

from encamp.compat.pyopus.base import MsgTaskExit, MsgTaskResult
from encamp.compat.pyopus.pvm import PVM, use_machine


def interpreters(vm, times):
    """In how many processes ``times`` tasks have run, one after the other."""
    pids = set()
    for _ in range(times):
        [task] = vm.spawnFunction(os.getpid, count=1)
        pids.add(gather(vm, {task})[task][1])
    return len(pids)


if __name__ == "__main__":
    use_machine("own", slots=2)
    vm = PVM(debug=int(sys.argv[1]))
    print("before", PVM.tid, PVM.ptid, PVM.dtid, PVM.pvmStatus)
    print("alive", vm.alive(), vm.waitForVM(timeout=5.0, beatsPerTimeout=10))
    vm.spawnerBarrier(timeout=20.0)
    print("me", vm.taskID(), vm.hostID(), vm.parentTaskID(), [str(host) for host in vm.hosts()])
    print("slots", vm.slots(), vm.freeSlots(), vm.freeSlotsSet(), vm.hostsWithFreeSlots())
    print(vm.formatSpawnerConfig())
    tasks = vm.spawnFunction(remote.greet, kwargs={"vm": vm}, count=2)
    print("spawned", [str(task) for task in tasks], [str(vm.hostID(task)) for task in tasks])
    print("full", vm.freeSlots(), vm.spawnFunction(remote.greet, [vm], count=1))
    print(vm.formatSpawnerConfig())
    order = {str(task): [] for task in tasks}
    while vm.freeSlots() < vm.slots():
        source, message = vm.receiveMessage(60)
        if type(message) is MsgTaskResult:
            order[str(source)].append(message.returnValue)
        elif type(message) is MsgTaskExit:
            order[str(source)].append(f"exit of {message.taskID}")
    print("told", order)
    status = PVM.pvmStatus
    print("tasks", list(status["tasks"]) == [PVM.tid], status["tasks"][PVM.tid]["pid"])
    print("fresh", interpreters(PVM(), 3))
    print("kept", interpreters(PVM(freshInterpreter=False), 5) < 5)
    vm.finalize()
    vm.finalize()
    print("after", PVM.tid, PVM.pvmStatus)
