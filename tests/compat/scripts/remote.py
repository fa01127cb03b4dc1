"""Functions that the scripts of this folder spawn, as a user of PyOPUS has them in a module."""

# ruff: noqa: PTH109, PTH118, PTH123, PTH206
import os
import sys

from encamp.compat.pyopus.cooperative import cOS
from encamp.compat.pyopus.mpi import MPI


def greet(vm):
    print("greeting from", vm.taskID())
    sys.stdout.flush()
    return f"{vm.taskID()} at {vm.hostID()}, child of {vm.parentTaskID()}, in {os.getcwd()}"


def echo(vm):
    """Send everything back until None comes."""
    while True:
        received = vm.receiveMessage()
        if received is None or len(received) != 2:
            continue
        source, message = received
        if message is None:
            break
        vm.sendMessage(source, message)


def introduce(vm):
    """Take the id of another task, and write to it."""
    _, friend = vm.receiveMessage(-1)
    vm.sendMessage(friend, "a letter")


def read_letter(vm):
    sender, letter = vm.receiveMessage(-1)
    return f"{sender} wrote {letter}"


def wait_in_vain(vm):
    return vm.receiveMessage(0), vm.receiveMessage(0.05), vm.checkForIncoming()


def wait_for_ever(vm):
    vm.receiveMessage()
    return "never"


def look_around(vm):
    """What is in the task's folder, and what an earlier task has left there."""
    found = sorted(
        os.path.join(folder, name)[2:] for folder, _, names in os.walk(".") for name in names
    )
    with open("left behind", "a") as file:
        file.write("x")
    tail = os.getcwd().split(os.sep)[-2:]
    return found, tail, f"{os.getpid():x}"


def evaluate(expression):
    return eval(expression)


def die(how):
    if how == "raise":
        raise LookupError("no bread")
    os._exit(3)


class Adder:
    def __init__(self, base):
        self.base = base

    def add(self, number):
        return self.base + number


def square(number):
    return f"{MPI.taskID()} {MPI.hostID()}".count(":"), number * number


def count(name, times, vm=None):
    """Take turns with the others."""
    for number in range(times):
        print(name, number)
        cOS.Yield()
    return times


def in_turns(times):
    """Local tasks inside a remote one."""
    tids = [cOS.Spawn(count, [name, times], remote=True) for name in "xy"]
    return [cOS.Join([tid])[tid] for tid in tids]
