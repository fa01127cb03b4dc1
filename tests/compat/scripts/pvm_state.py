"""Ask for the state of the machine again and again; print by how many bytes the program grows."""

import psutil

from encamp.compat.pyopus.pvm import PVM, use_machine


def ask(vm, times):
    for _ in range(times):
        assert vm.alive()
        assert vm.updateSpawnerInfo(20.0)
        assert len(vm.hosts()) == len(PVM.pvmStatus["hosts"]) == 1
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    use_machine("own", slots=1)
    vm = PVM()
    before = ask(vm, 500)
    print(ask(vm, 3000) - before)
    vm.finalize()
