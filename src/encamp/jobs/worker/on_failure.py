"""The files of ``on_failure``, which a failed attempt leaves to be published."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from encamp.errors import EncampError
from encamp.jobs.worker.work_and_outcome import Work
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.send_outputs import OutputChannel
from encamp.storage.outputs.stage import Staged, stage


def rescue(folder: Path, work: Work, channel: OutputChannel | None) -> list[Staged]:
    """Stage the files of ``on_failure``, as far as possible; never raises."""
    with suppress(EncampError, OSError):
        return stage_aside(folder, work.on_failure, work, channel, "rescued", lenient=True)
    return []


def stage_aside(
    folder: Path,
    wanted: Sequence[Output],
    work: Work,
    channel: OutputChannel | None,
    what: str,
    *,
    flush: bool = True,
    lenient: bool = False,
) -> list[Staged]:
    """Stage files besides a task's outputs, under separate temporary names."""
    return stage(
        folder,
        wanted,
        token=f"{work.token}-{what}",
        task=work.task,
        channel=channel,
        beacon=work.beacon,
        flush=flush,
        lenient=lenient,
    )
