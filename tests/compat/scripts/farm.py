"""More work than slots: what is not spawned, what fails, what dies; and the program goes on."""

import remote

from encamp.compat.pyopus.base import MsgTaskExit, MsgTaskResult
from encamp.compat.pyopus.mpi import MPI


def gather(vm, running):
    """What each task has told until all have ended."""
    told = {}
    while running:
        source, message = vm.receiveMessage()
        if type(message) is MsgTaskExit:
            running.remove(source)
        elif type(message) is MsgTaskResult:
            told[source] = (message.success, message.returnValue)
    return told


if __name__ == "__main__":
    vm = MPI()
    ids = {}
    for expression in ["1+1", "5*5", "unknown*2", "2**7"]:
        ids[expression] = vm.spawnFunction(
            remote.evaluate, args=[expression], count=1, sendBack=True
        )
    told = gather(vm, {task for tasks in ids.values() for task in tasks})
    for expression, tasks in ids.items():
        print(expression, [(str(task), told[task]) for task in tasks] or "not spawned")

    for how in ["raise", "exit"]:
        [task] = vm.spawnFunction(remote.die, args=[how], count=1)
        print(how, gather(vm, {task}) == {task: (False, None)})
    [task] = vm.spawnFunction(remote.Adder(40).add, args=[2], count=1)
    print(gather(vm, {task}) == {task: (True, 42)}, "free", vm.freeSlots())
    vm.spawnFunction(remote.wait_for_ever, args=[vm])
    vm.finalize()
    print("finished")
