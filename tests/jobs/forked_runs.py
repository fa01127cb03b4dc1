"""Runs of the small job, each in a fork of this program, which has loaded everything.

For each line ``[DESTINATION, COUNTER, STOP, AT_ONCE]`` in JSON on its standard input it runs the
job, killed at chance ``STOP`` of the controller, and prints how that ended: the exit status, and
how many chances there were if it ran to its end. The job takes in as many results at once as it
is told. Tasks run in forks as well: what is looked at here is the controller.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import cloudpickle  # noqa: F401 - loaded before the forks
from killable import kill_at, small_job

import encamp.jobs.report.write_report  # noqa: F401
from encamp.attempt_facts import Where
from encamp.jobs.run import run_loop
from encamp.jobs.worker.run_phases import run_phases
from encamp.storage.spare_folder import remove_spare


class Forking(Executor):
    """Runs each task in a fork before ``submit`` returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        given, made = os.pipe()
        pid = os.fork()
        if pid == 0:
            ended_in(made, *args)
        os.close(made)
        future: Future[Any] = Future()
        with os.fdopen(given, "rb") as outcome:
            future.set_result(pickle.load(outcome))
        os.waitpid(pid, 0)
        return future


def ended_in(pipe: int, *work: Any) -> None:
    """Do the work, write its outcome into a pipe, and end this process."""
    try:
        outcome = run_phases(*work)
        remove_spare()  # as at the end of a slot
        outcome.where = Where(socket.gethostname(), "fork", os.getpid())
        with os.fdopen(pipe, "wb") as file:
            pickle.dump(outcome, file)
    finally:
        os._exit(0)


def run_to(end: int, to: str, counter: str, stop: int, at_once: int) -> None:
    """Run the job and end this process; at its good end, how many chances there were is told."""
    status = 1
    try:
        run_loop.WINDOW = at_once
        chances = kill_at(stop)
        report = small_job(to, counter).run(Forking())
        assert report.count("failed") == 0
        os.write(end, str(next(chances) - 1).encode())
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    gc.freeze()  # so that forks leave the memory of what is loaded to all
    for line in sys.stdin:
        told, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            run_to(end, *json.loads(line))
        os.close(end)
        with os.fdopen(told, "rb") as file:
            chances = int(file.read() or 0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([status, chances]), flush=True)


if __name__ == "__main__":
    main()
