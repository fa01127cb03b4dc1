"""A script that runs a small job, and kills itself where it is told to.

    python killable.py DESTINATION COUNTER [STOP [pool]]

``STOP`` is the number of the rename, link, journal line or half journal line of the controller at
which it gets SIGKILL (0: it writes to its output how many there were); a path makes every task wait
for a file there. With ``pool`` the tasks run on a process pool.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from job_steps import count

import encamp
from encamp.jobs.journal.journal import Journal
from encamp.storage.outputs.patterns import Existing

EXISTING: tuple[Existing, ...] = ("replace", "error", "keep")
"""What the outputs of each of three tasks say of files that are there."""


def make(counter: str, name: str, wait_for: str) -> None:
    """Count the run, and write two files that tell nothing of when and where they were made."""
    count(counter, name)
    deadline = time.monotonic() + 60
    while wait_for and not Path(wait_for).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    Path("first.txt").write_text(name * 1000)
    Path("second.txt").write_text(name * 2000)
    print("made", name)


def gather(counter: str, name: str) -> None:
    """Join what the other tasks made."""
    count(counter, name)
    parts = sorted(Path().glob("*.txt"))
    Path("all.txt").write_text("".join(part.read_text()[:10] for part in parts))


def small_job(destination: str, counter: str, wait_for: str = "") -> encamp.Job:
    """Tasks with two outputs each, and one after them."""
    job = encamp.Job("job", to=destination)
    for number, existing in enumerate(EXISTING):
        name = f"t{number}"
        outputs = [
            encamp.Output(f"{n}.txt", n, rename=f"{name}.txt", existing=existing)
            for n in ("first", "second")
        ]
        step = encamp.call(make, counter, name, wait_for)
        job.add(name, [step, "sleep 0.02"], outputs=outputs)
    step = encamp.call(gather, counter, "last")
    mirror = f"{destination}/first/*.txt"
    output = encamp.Output("all.txt", existing="error")
    job.add("last", step, mirror=mirror, outputs=output, after="t*")
    return job


def kill_at(number: int) -> Iterator[int]:
    """Let this process be killed at its ``number``-th chance; gives the number of the next one."""
    chances = itertools.count(1)
    write = Journal.write
    controller = os.getpid()

    def chance() -> None:
        if os.getpid() == controller and next(chances) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def killing(name: Callable[..., None]) -> Callable[..., None]:
        def killing_name(*args: Any, **kwargs: Any) -> None:
            chance()
            name(*args, **kwargs)
            chance()

        return killing_name

    def killing_write(journal: Journal, *records: Any) -> list[bytes]:
        if next(chances) == number:
            os.write(journal._file._fd, b'{"event":"done","task":"t0","ti')
            os.kill(os.getpid(), signal.SIGKILL)
        lines = write(journal, *records)
        chance()
        return lines

    os.replace, os.rename, os.link = map(killing, (os.replace, os.rename, os.link))
    Journal.write = killing_write  # type: ignore[method-assign]
    return chances


if __name__ == "__main__":
    stop = sys.argv[3] if len(sys.argv) > 3 else ""
    chances = None
    if stop.isdecimal():
        chances = kill_at(int(stop))
        stop = ""
    job = small_job(sys.argv[1], sys.argv[2], stop)
    if sys.argv[4:] == ["pool"]:
        with ProcessPoolExecutor(2) as pool:
            job.run(pool)
    else:
        job.run(slots=2)
    if chances is not None:
        print(next(chances) - 1)
