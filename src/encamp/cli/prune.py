"""``encamp prune``: remove published files that the jobs of a destination no longer make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

from encamp.cli.print_answer import print_answer
from encamp.cli.read_job_status import job_folders
from encamp.errors import (
    BadDestination,
    BadJob,
    CannotRemove,
    EncampError,
    InputError,
    JobBusy,
    NotOurs,
    printable,
)
from encamp.jobs.journal.journal import Journal
from encamp.jobs.prune import Pruned, prune


def prune_command(destination: Path, *, dry_run: bool, shared: bool = False) -> None:
    """Remove the orphans of every job with a folder in ``destination``, or list them.

    If one job cannot be pruned, the others still are. Raises `NotOurs` if the only job may belong
    to another user, `JobBusy`, `BadJob` if a job's folder cannot be written, and `CannotRemove`
    with the files that could not be removed.
    """
    folders = job_folders(destination)
    pruned: list[Pruned] = []
    refused: list[InputError] = []
    for folder in folders:
        try:
            pruned.append(_pruned(folder, shared, dry_run=dry_run))
        except NotOurs as exc:
            if len(folders) == 1:
                raise
            print_answer(str(exc))
            continue
        except JobBusy as exc:
            refused.append(exc)
            continue
        except BadDestination as exc:
            why = f"it cannot be written, so nothing is removed: {exc.why}"
            refused.append(BadJob(exc.path, why))
            continue
        _print_pruned(pruned[-1], destination, "would remove" if dry_run else "removed")
    if not refused and not any(
        one.removed or one.folders or one.kept or one.elsewhere or one.stayed for one in pruned
    ):
        print_answer(f"nothing to remove in {printable(destination)}")
    stayed = {path: why for one in pruned for path, why in one.stayed.items()}
    errors: list[EncampError] = [CannotRemove(stayed), *refused] if stayed else [*refused]
    for other in errors[1:]:
        print_answer(str(other))
    if errors:
        raise errors[0]


def _print_pruned(pruned: Pruned, destination: Path, verb: str) -> None:
    for path in (*pruned.removed, *pruned.folders):
        print_answer(f"{verb} {printable(path)}")
    kept = dict.fromkeys(pruned.kept, "it has changed since the job published it")
    not_below = dict.fromkeys(pruned.elsewhere, f"it is not below {destination}")
    for path, why in {**kept, **not_below}.items():
        print_answer(f"kept {printable(path)}: {why}; remove it yourself if it is not needed")


def _pruned(folder: Path, shared: bool, *, dry_run: bool) -> Pruned:
    journal = Journal(folder, shared=shared)
    if dry_run:
        journal.read()
    with nullcontext() if dry_run else journal.writing():
        return prune(journal, folder.parent, _made_by_others(folder), dry_run=dry_run)


def _made_by_others(folder: Path) -> Iterator[str]:
    """The files of the other jobs in the same destination."""
    for other in folder.parent.glob("*.job"):
        if other != folder:
            journal = Journal(other, anybody=True)  # another user's, too: its files are not removed
            with suppress(NotOurs, OSError):
                journal.read()
            for task in journal.current():
                yield from (output.path for output in journal.done.outputs(task))
