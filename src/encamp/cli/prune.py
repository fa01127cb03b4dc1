"""``encamp prune``: remove published files that the jobs of a destination no longer make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

from encamp.cli.job_states import job_folders
from encamp.errors import NotOurs, printable, shown
from encamp.jobs.journal import Journal
from encamp.jobs.plan.orphans import Pruned, prune


def prune_command(destination: Path, *, dry_run: bool, shared: bool = False) -> None:
    """Remove the orphans of every job with a folder in ``destination``, or list them.

    Raises `NotOurs` if there is one job, and it may belong to another user.
    """
    folders = job_folders(destination)
    pruned: list[Pruned] = []
    for folder in folders:
        try:
            pruned.append(_pruned(folder, shared, dry_run=dry_run))
        except NotOurs as exc:
            if len(folders) == 1:
                raise
            _say(str(exc))
    verb = "would remove" if dry_run else "removed"
    for one in pruned:
        for path in (*one.removed, *one.folders):
            _say(f"{verb} {printable(path)}")
        not_below = f"it is not below {destination}"
        kept = dict.fromkeys(one.kept, "it has changed since the job published it")
        for path, why in {**kept, **dict.fromkeys(one.elsewhere, not_below)}.items():
            _say(f"kept {printable(path)}: {why}; remove it yourself if nobody needs it")
    if not any(one.removed or one.folders or one.kept or one.elsewhere for one in pruned):
        _say(f"nothing to remove in {printable(destination)}")


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


def _say(text: str) -> None:
    print(shown(text))  # noqa: T201 - the command's answer
