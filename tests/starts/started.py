"""A program for tests: it has slots, whoever has started it, and prints what they say as JSON."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import encamp

SIGNALS = ("SigBlk", "SigIgn")
CAN_BE_SET = sum(1 << number - 1 for number in signal.valid_signals())


def facts(_: object = None) -> dict[str, Any]:
    """How a slot has begun, and how its commands do."""
    return {
        "status": subprocess.run(["false"]).returncode,
        "own": signals(Path("/proc/self/status").read_text()),
        "commands": signals(subprocess.check_output(["cat", "/proc/self/status"], text=True)),
        "streams": [Path(f"/proc/self/fd/{fd}").exists() for fd in range(3)],
        "stdin": os.readlink("/proc/self/fd/0"),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "flags": {name: getattr(sys.flags, name) for name in FLAGS},
        "warnings": sys.warnoptions,
        "x": sorted(sys._xoptions),
    }


FLAGS = ("optimize", "isolated", "no_user_site", "ignore_environment", "dont_write_bytecode",
         "utf8_mode", "dev_mode", "bytes_warning")  # fmt: skip


def signals(status: str) -> dict[str, int]:
    """Of those that programs can set: the C library keeps two more, which posix_spawn ignores."""
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {name: int(lines[name], 16) & CAN_BE_SET for name in SIGNALS}


def leave(how: int) -> None:
    os._exit(how)


def on_cluster() -> object:
    with encamp.Cluster("local", slots=1) as cluster:
        return cluster.spawn(facts).result()


def on_executor() -> object:
    with encamp.Executor(slots=1) as executor:
        return next(executor.map(facts, [0]))


def in_job() -> object:
    job = encamp.Job("started", to="results")
    job.add("facts", [encamp.call(facts)])
    return job.run(slots=1).tasks[0].value


def lost() -> object:
    """How a slot's end is told, and what comes after it."""
    with encamp.Cluster("local", slots=1) as cluster:
        return [str(cluster.spawn(leave, 7).exception()), cluster.spawn(abs, -2).result()]


def unstartable() -> object:
    """What is raised where no slot starts."""
    received = []
    with encamp.Executor(slots=2) as executor:
        received.append(str(executor.submit(abs, -1).exception()))
    with encamp.Cluster("local", slots=2) as cluster:
        received.append(str(cluster.spawn(abs, -1).exception()))
        try:
            cluster.spawn(abs, -1)
        except encamp.EncampError as exc:
            received.append(str(exc))
    with encamp.Cluster("local", slots=1) as cluster:
        received.append(str(cluster.spawn(abs, -1, fresh=True).exception()))
    return received


if __name__ == "__main__":
    value = globals()[sys.argv[1]]()
    Path("said.json").write_text(json.dumps(value))  # standard output may be closed
