"""Messages of many sizes to a task and back, from task to task, and with timeouts."""

import remote

from encamp.compat.pyopus.base import MsgTaskExit, MsgTaskResult
from encamp.compat.pyopus.mpi import MPI


def results(vm, wanted):
    """What ``wanted`` tasks return."""
    values = []
    while wanted:
        message = vm.receiveMessage()[1]
        if type(message) is MsgTaskResult:
            values.append(message.returnValue)
        wanted -= type(message) is MsgTaskExit
    return values


if __name__ == "__main__":
    vm = MPI()
    [bouncer] = vm.spawnFunction(remote.echo, args=[vm], targetList=[vm.hostID()], count=1)
    for size in [0, 1, 1000, 100000, 10000000]:
        assert vm.sendMessage(bouncer, b"x" * size) is True
        source, back = vm.receiveMessage()
        print(size, str(source) == str(bouncer), back == b"x" * size)
    for number in range(100):
        vm.sendMessage(bouncer, number)
    print([vm.receiveMessage(-1, bouncer)[1] for _ in range(100)] == list(range(100)))
    print("nothing", vm.receiveMessage(0), vm.receiveMessage(0.05), vm.checkForIncoming())
    vm.sendMessage(bouncer, None)
    print(results(vm, 1))

    [reader] = vm.spawnFunction(remote.read_letter, args=[vm], count=1)
    [writer] = vm.spawnFunction(remote.introduce, args=[vm], count=1)
    vm.sendMessage(writer, reader)
    print(reader, writer, sorted(map(str, results(vm, 2))))

    vm.spawnFunction(remote.wait_in_vain, args=[vm], count=1)
    print(results(vm, 1))
    vm.finalize()
