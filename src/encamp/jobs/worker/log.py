"""The log of an attempt: its name, its size limit, its end as text, and staging it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from encamp.jobs.worker.work_and_outcome import Work
from encamp.slot.output_limit import cut, free_middle_of
from encamp.storage.outputs.send_outputs import OutputChannel
from encamp.storage.outputs.stage import Staged, stage
from encamp.storage.owned_folder import LOG

TAIL = 4096
"""Bytes of a log's end that are sent with the outcome; more if a step's traceback is longer."""


def log_file(folder: Path) -> Path:
    """The log in an attempt's folder."""
    return folder / LOG


def log_name(task: str, attempt: int) -> str:
    """The name of the log of one attempt."""
    return f"{task}.{attempt}.log"


def limit_log(folder: Path, work: Work) -> None:
    """Free the middle of the log of a running attempt if it is longer than its limit."""
    free_middle_of(log_file(folder), work.log_limit)


def size_of(log: Path) -> int:
    """The bytes of a log; 0 if there is none."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def tail_of(log: Path, most: int = TAIL) -> str:
    """The end of a log, as text."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        return file.read().decode("utf-8", "replace")


def stage_log(
    folder: Path, work: Work, channel: OutputChannel | None, *, flush: bool = True
) -> Staged:
    """Stage an attempt's log for the job's folder."""
    name = log_name(work.task, work.attempt).replace("{", "{{").replace("}", "}}")
    cut(log_file(folder), work.log_limit, f"raise log_limit = {work.log_limit} bytes to keep more")
    wanted = [replace(work.logs, rename=name)]
    (staged,) = stage(
        folder,
        wanted,
        token=f"{work.token}-log",
        task=work.task,
        channel=channel,
        beacon=work.beacon,
        flush=flush,
    )
    return staged
