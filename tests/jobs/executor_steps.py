"""Steps of the jobs in test_executors.py; slots import them without importing the tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def double(scale: int) -> int:
    """Read ``numbers.txt``, write ``doubled.txt``; says so on both outputs."""
    numbers = [int(line) for line in Path("numbers.txt").read_text().split()]
    offset = int(Path("config/offset.txt").read_text())
    Path("doubled.txt").write_text("".join(f"{scale * n + offset}\n" for n in numbers))
    print(f"doubled {len(numbers)} numbers")
    print("no trouble", file=sys.stderr)
    return len(numbers)


def total() -> int:
    """Add up all files of ``parts`` and write ``total.txt``."""
    parts = sorted(Path("parts").iterdir())
    found = sum(int(line) for part in parts for line in part.read_text().split())
    Path("total.txt").write_text(f"{[part.name for part in parts]} {found}\n")
    return found


def meet(mine: str, others: list[str], place: str, seconds: float = 60.0) -> None:
    """Wait until all others are here too: only possible where they run at the same time."""
    Path(place, mine).touch()
    deadline = time.monotonic() + seconds
    while not all(Path(place, other).exists() for other in others):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{mine} met nobody")
        time.sleep(0.01)


def close_slots(mine: str, place: str, storage: str) -> None:
    """End the slots of one of two workers, which meet in a folder, and settle its storage."""
    from encamp.jobs.worker.slots import slots_here  # slots themselves do without
    from encamp.storage.local_storage import LOCAL

    meet(mine, ["0", "1"], place)
    slots_here().close()
    os.environ[LOCAL] = storage


def fail() -> None:
    """Say something, then raise."""
    print("about to divide")
    raise ZeroDivisionError("the divisor is 0")


def crash() -> None:
    """End this process as a fault in compiled code would."""
    print("here I go", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def write(text: str) -> None:
    """Write ``text.txt``."""
    Path("text.txt").write_text(text)
