"""Tasks that look at all their inputs, in three ways, for `reads.count_reads` to follow.

    python -m benchmarks.readers WAY TASKS FOLDER MIRRORS

WAY is "job" (the inputs are job inputs), "tasks" (the inputs are each task's own) or "sandboxes"
(as many processes as tasks, all at once). MIRRORS is JSON: arguments of `encamp.Mirror`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import encamp


def main(way: str, tasks: str, folder: str, mirrors: str) -> None:
    """Run the tasks; every one must find the same bytes."""
    if way == "sandbox":
        return _sandbox(mirrors)
    run = _sandboxes if way == "sandboxes" else _job
    found = run(way, int(tasks), Path(folder), mirrors)
    assert len(found) == int(tasks)
    assert len(set(found)) == 1, found
    return None


def digest_of_folder(folder: str = ".") -> str:
    """What is in a folder, each file by its last bytes: those come last into a copy."""
    hashed = hashlib.sha256()
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(at, name)
            with file.open("rb") as reader:
                reader.seek(max(0, (size := file.stat().st_size) - (1 << 20)))
                hashed.update(f"{file.relative_to(folder)} {size}".encode() + reader.read())
    return hashed.hexdigest()


def _as_mirrors(text: str) -> list[encamp.Mirror]:
    return [encamp.Mirror(**arguments) for arguments in json.loads(text)]


def _job(way: str, tasks: int, folder: Path, mirrors: str) -> list[Any]:
    inputs = _as_mirrors(mirrors)
    job = encamp.Job("readers", to=folder, mirror=inputs if way == "job" else ())
    for number in range(tasks):
        own = inputs if way == "tasks" else ()
        job.add(f"task-{number}", encamp.call(digest_of_folder), mirror=own)
    return [task.value for task in job.run(slots=tasks).tasks]


def _sandboxes(_way: str, tasks: int, folder: Path, mirrors: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.readers", "sandbox", "1", str(folder), mirrors]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(tasks)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes)
    return found


def _sandbox(mirrors: str) -> None:
    inputs = _as_mirrors(mirrors)
    print("ready", flush=True)
    sys.stdin.readline()
    with encamp.sandbox(mirror=inputs) as folder:
        print(digest_of_folder(str(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
