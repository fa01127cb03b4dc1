"""Wait for the virtual machine that the user is about to start, and leave it as it is."""

import os

from encamp.compat.pyopus.pvm import PVM, use_machine
from encamp.compat.pyopus.spawner import opened

if __name__ == "__main__":
    use_machine("running")
    vm = PVM()
    print(vm.alive(), vm.waitForVM(timeout=0.1, beatsPerTimeout=2), flush=True)
    print(vm.waitForVM(timeout=60.0, beatsPerTimeout=1000), opened().cluster is not None)
    vm.spawnFunction(os.getpid, count=1)
    print(vm.receiveMessage(60)[1].success)
    vm.finalize()
