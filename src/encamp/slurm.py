"""Hosts, cores, memory and time allocated by Slurm to this process; see sbatch(1), srun(1)."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping

from encamp.errors import EngineUnavailable

_JOB, _NODE = "SLURM_JOB_ID", "SLURMD_NODENAME"
_STEP = "SLURM_STEP_ID"
_OVERLAP = "SLURM_OVERLAP"
_OF_STEPS = re.compile(
    r"SLURM_(STEP_?.*|PROCID|LOCALID|NODEID|GTIDS|TASK_PID|LAUNCH_NODE_IPADDR|SRUN_COMM_.*"
    r"|(CPU|MEM|GPU)S?_BIND.*|DISTRIBUTION|DIST_.*|UMASK|PRIO_PROCESS|MPI_TYPE)"
)
"""Environment variables about the step in which a process was started."""
_COUNTED = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_ANSWER_WITHIN = 20.0


def job_id() -> str | None:
    """The id of the job in whose allocation this process runs; None outside one."""
    return os.environ.get(_JOB) or None


def cores() -> int | None:
    """The number of cores that Slurm gives this process on its host; None if it is unknown."""
    return _number("SLURM_CPUS_ON_NODE") if _on_node() else None


def memory() -> int | None:
    """Bytes of memory that Slurm gives this process on its host; None without a limit."""
    if not _on_node():
        return None
    megabytes = _number("SLURM_MEM_PER_NODE")
    if megabytes is None and (each := _number("SLURM_MEM_PER_CPU")) is not None:
        megabytes = each * (cores() or 1)
    return None if megabytes is None else megabytes << 20


def count() -> int:
    """The number of hosts in the allocation; 0 without an allocation."""
    return (_number("SLURM_JOB_NUM_NODES") or 1) if job_id() else 0


def hosts() -> list[str]:
    """The hosts of the allocation as ``name:cores``; empty without one or if it has only this host.

    Runs ``scontrol`` and blocks until that ends. Raises `EngineUnavailable` if that fails.
    """
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if job_id() is None or not nodes or nodes == os.environ.get(_NODE):
        return []
    names = _asked(["scontrol", "show", "hostnames", nodes]).split()
    if len(names) == 1 and names[0] in (os.environ.get(_NODE), socket.gethostname()):
        return []
    each = counts(os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    if len(each) != len(names):
        each = [1] * len(names)
    return [f"{name}:{number}" for name, number in zip(names, each, strict=True)]


def end_time() -> float | None:
    """When the allocation ends, as `time.time` counts; None without an allocation or an end.

    Runs ``squeue``, because the end may have been changed, and blocks until that ends.
    """
    job = job_id()
    if job is None:
        return None
    try:
        output = _asked(["squeue", "--noheader", "--jobs", job, "--format=%e"]).strip()
        return time.mktime(time.strptime(output, "%Y-%m-%dT%H:%M:%S"))
    except (EngineUnavailable, ValueError):  # squeue is missing here, or there is no end
        end = _number("SLURM_JOB_END_TIME")
        return None if end is None else float(end)


def without_step(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which ``srun`` starts a separate step of the allocation.

    Inside a step, ``srun`` would use that step's binding for the new one, and wait for the cores of
    that step. This environment makes the new step share these cores.
    """
    if _JOB not in environment:
        return dict(environment)
    kept = {name: text for name, text in environment.items() if not _OF_STEPS.fullmatch(name)}
    return {_OVERLAP: "1", **kept} if _STEP in environment else kept


def _on_node() -> bool:
    """Whether Slurm has started this process. (The shell of ``salloc`` may be on another host.)"""
    return job_id() is not None and bool(os.environ.get(_NODE))


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


def counts(text: str) -> list[int]:
    """The numbers in strings like ``4(x2),2``."""
    found = [_COUNTED.fullmatch(part) for part in text.split(",")]
    return [int(one[1]) for one in found if one for _ in range(int(one[2] or 1))]


def _asked(command: list[str]) -> str:
    import subprocess  # imported here, because slots do not need it

    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_ANSWER_WITHIN, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as exc:
        output = (getattr(exc, "stderr", None) or str(exc)).strip()
        remedy = "name the hosts yourself, or run where Slurm's commands are installed"
        raise EngineUnavailable("slurm", f"{command[0]}: {output}", remedy) from exc
    return done.stdout
