"""PyOPUS: ``dispatch`` of tasks, and messages to a spawned task and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# All ranks but the first stay in this import, and run tasks until the first one finalizes.
from pyopus.parallel.cooperative import cOS
from pyopus.parallel.mpi import MPI

from benchmarks.peers.launch import which_mpi
from benchmarks.peers.rates import TASKS, Rates, messages, tasks_per_second
from benchmarks.peers.work import echo, increment


def dispatch(numbers: range) -> list[int]:
    """All tasks by PyOPUS's own way to run many."""
    jobs = ((increment, [number]) for number in numbers)
    results: list[int] = cOS.dispatch(jobList=jobs, remote=True)
    return results


def exchange_with(machine: Any, task: Any) -> Callable[[Any], Any]:
    """To the task and back; what else arrives is an error."""

    def exchange(message: Any) -> Any:
        machine.sendMessage(task, message)
        sender, answer = machine.receiveMessage()
        if sender != task:
            raise ValueError(f"a message came from {sender}, not from {task}")
        return answer

    return exchange


def measure(machine: Any) -> Rates:
    """Tasks first, unless only messages are asked for; then messages with one that echoes."""
    rate = None if "messages" in sys.argv else tasks_per_second(dispatch, TASKS)
    (task,) = machine.spawnFunction(echo, kwargs={"machine": machine}, count=1, sendBack=False)
    found = messages(exchange_with(machine, task))
    machine.sendMessage(task, None)
    return Rates("PyOPUS", which_mpi(), submit_per_s=rate, **found)


if __name__ == "__main__":
    virtual_machine = MPI(startupDir=str(Path.cwd()))
    cOS.setVM(virtual_machine)
    measure(virtual_machine).show()
    cOS.finalize()
