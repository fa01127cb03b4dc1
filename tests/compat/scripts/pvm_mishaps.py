"""Tasks on PVM that fail, die or are killed, and the end of the machine itself."""

import os
import signal
import time

import remote
from farm import gather

from encamp.compat.pyopus.base import MsgTaskExit, MsgTaskResult
from encamp.compat.pyopus.pvm import PVM
from encamp.compat.pyopus.spawner import opened
from encamp.errors import EngineFailed

if __name__ == "__main__":
    vm = PVM(freshInterpreter=False)
    for how in ["raise", "exit"]:
        [task] = vm.spawnFunction(remote.die, args=[how], count=1)
        print(how, gather(vm, {task}) == {task: (False, None)})

    tasks = vm.spawnFunction(time.sleep, [1000])
    print("one", vm.kill(tasks[0]))
    source, message = vm.receiveMessage(60)
    print(source == tasks[0], type(message) is MsgTaskExit, message.taskID == tasks[0])
    print("again", vm.kill(tasks[0]), "itself", vm.kill(vm.taskID()))
    vm.spawnFunction(time.sleep, [1000], count=1)
    vm.killAll()
    kinds = {type(vm.receiveMessage(60)[1]) for _ in range(vm.slots())}
    print("all", kinds == {MsgTaskExit}, vm.freeSlots() == vm.slots())

    [task] = vm.spawnFunction(time.sleep, [1000], count=1)
    os.kill(opened().cluster._engine._member.machine.process, signal.SIGKILL)
    source, message = vm.receiveMessage(60)
    print("lost", source == task, type(message) is MsgTaskResult, message.success)
    print("exit", type(vm.receiveMessage(60)[1]) is MsgTaskExit)
    try:
        vm.receiveMessage(60)
    except EngineFailed:
        print("failed", vm.alive(), vm.updateSpawnerInfo(5))
    vm.finalize()
    print("new", vm.waitForVM(30), vm.spawnFunction(abs, [-7], count=1) != [])
    print(vm.receiveMessage(60)[1].returnValue)
    vm.finalize()
