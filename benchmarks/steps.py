"""How many of our own functions one call, and one task of a job, go through in the program.

    python -m benchmarks.steps

Counted by `sys.setprofile` in the thread that waits, which does the work; beside it the standard
library's pool.
The least of several tries, as it depends on the machine how often somebody has to look again; a try
in which the background thread has done the work does not count.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import encamp
from encamp import Cluster, Job
from encamp.jobs.progress_interface import Silent
from encamp.storage.local_storage import LOCAL

TRIES = 15


@dataclass(frozen=True, order=True)
class Steps:
    """What a way through the code is like."""

    calls: int
    files: int
    changes: int
    """How often one file's function calls another's, or returns to it."""

    def __str__(self) -> str:
        return f"{self.calls:5} calls in {self.files:2} files, {self.changes:4} changes of file"


class Counted:
    """Counts calls of functions below a folder while it is entered."""

    def __init__(self, below: str) -> None:
        self._below = below
        self.calls: Counter[tuple[str, str]] = Counter()
        self._changes = 0
        self._last: dict[int, str] = {}

    def _seen(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        file = frame.f_code.co_filename
        if not file.startswith(self._below):
            return
        if event == "call":
            self.calls[file, frame.f_code.co_qualname] += 1
        thread = threading.get_ident()
        if self._last.get(thread, file) != file:
            self._changes += 1
        self._last[thread] = file

    def __enter__(self) -> Counted:
        threading.setprofile(self._seen)  # for threads that are started meanwhile
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @property
    def steps(self) -> Steps:
        """What was counted."""
        files = {file for file, _ in self.calls}
        return Steps(sum(self.calls.values()), len(files), self._changes)


def least(below: str, call: Callable[[], object], tries: int = TRIES, ends: str = "") -> Counted:
    """The try with the fewest calls, of those that have called the method ``ends``."""
    found: list[Counted] = []
    for _ in range(100 * tries):
        with Counted(below) as counted:
            call()
        if not ends or any(name.endswith(f".{ends}") for _, name in counted.calls):
            found.append(counted)
        if len(found) == tries:
            break
    return min(found, key=lambda one: one.steps)


def nothing() -> None:
    """What is called."""


def main(names: list[str]) -> int:
    """Print a line for each way; with ``-v`` also what is called."""
    ours = str(Path(encamp.__file__).parent) + os.sep
    theirs = str(Path(concurrent.futures.__file__).parent) + os.sep
    ways: list[tuple[str, Counted]] = []
    with Cluster("local", slots=1) as cluster:
        for _ in range(50):
            cluster.spawn(nothing, notify=False).result()
        counted = least(ours, lambda: cluster.spawn(nothing).result(), ends="set_result")
        ways.append(("a warm spawn().result()", counted))
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        pool.submit(nothing).result()
        ways.append(
            (
                "ProcessPoolExecutor's submit().result()",
                least(theirs, lambda: pool.submit(nothing).result()),
            )
        )
    with tempfile.TemporaryDirectory() as folder, encamp.Executor(slots=1) as executor:
        numbers = iter(range(1000))

        def run() -> None:
            job = Job(f"one-{next(numbers)}", to=folder)
            job.add("task", [encamp.call(nothing)])
            job.run(executor, progress=Silent())

        run()
        ways.append(("a job of one task", least(ours, run, 5)))
    for what, counted in ways:
        print(f"{counted.steps}  {what}")
        if "-v" in names:
            for (file, name), count in sorted(counted.calls.items()):
                print(f"    {count:4} {file.removeprefix(ours)}:{name}")
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as storage:
        os.environ[LOCAL] = storage  # a run also looks at what other programs have in theirs
        status = main(sys.argv[1:])
    sys.exit(status)
