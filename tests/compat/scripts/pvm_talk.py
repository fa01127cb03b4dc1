"""Messages on PVM of many sizes to a task and back, from task to task, and with timeouts."""

import time

import remote
from talk import results

from encamp.compat.pyopus.pvm import PVM, PVMTaskID

if __name__ == "__main__":
    vm = PVM(freshInterpreter=False)
    [bouncer] = vm.spawnFunction(remote.echo, args=[vm], targetList=[vm.hostID()], count=1)
    for size in [0, 1, 1000, 100000, 10000000]:
        assert vm.sendMessage(bouncer, b"x" * size) is True
        source, back = vm.receiveMessage()
        print(size, source == bouncer == PVMTaskID(bouncer.tid), back == b"x" * size)
    for number in range(100):
        vm.sendMessage(bouncer, number)
    print([vm.receiveMessage(-1, bouncer)[1] for _ in range(100)] == list(range(100)))
    print("nothing", vm.receiveMessage(0), vm.receiveMessage(0.2), vm.checkForIncoming())
    print("nobody", vm.sendMessage(PVMTaskID.bad(), "x"), vm.sendMessage(bouncer, time.sleep))
    print("came", vm.receiveMessage(60)[1] is time.sleep)
    print("locked", vm.sendMessage(bouncer, __import__("threading").Lock()))
    vm.sendMessage(bouncer, None)
    print(results(vm, 1))

    [reader] = vm.spawnFunction(remote.read_letter, args=[vm], count=1)
    [writer] = vm.spawnFunction(remote.introduce, args=[vm], count=1)
    vm.sendMessage(writer, reader)
    wrote = results(vm, 2)
    print(len(wrote), f"{writer} wrote a letter" in wrote)

    vm.spawnFunction(remote.wait_in_vain, args=[vm], count=1)
    print(results(vm, 1))
    vm.spawnFunction(remote.wait_for_ever, args=[vm])
    vm.finalize()
    print("finished")
