"""Publishes staged outputs, in an order that loses nothing if the run is killed at any moment.

Final names are written to the journal and copies are flushed before anything gets its final name;
folders are flushed before a task is done. Many tasks go through each step together.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from encamp.attempt_facts import Published
from encamp.errors import BadDestination, EncampError, OutputConflict
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.plan.reserved_folder import ReservedFolder
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.storage.outputs.publish import (
    final_name,
    flush_copies,
    flush_error,
    flush_folders,
    names_to_take,
    parents,
    publish,
)
from encamp.storage.outputs.stage import Staged, unstage

Done = tuple[str, Outcome, list[Published]]


class Publisher:
    """The outputs of one run of a job, and which task each final name belongs to."""

    def __init__(self, prepared: Prepared, journal: Journal) -> None:
        self._prepared, self._journal = prepared, journal
        self._reserved = ReservedFolder(prepared.job.folder)
        self.finals = prepared.finals
        """Final name → task."""

    def keep(self, name: str, outputs: list[Published]) -> None:
        """Keep the outputs of a task that does not run as its own."""
        for output in (one for one in outputs if one.kind != "folder"):
            self.finals.setdefault(output.path, name)

    def publish(self, arrived: list[tuple[str, Outcome]]) -> list[Done]:
        """Make the outputs of good outcomes visible, and the logs of all.

        Returns the tasks that are done. The outcomes of the others have an error.
        """
        taken = self._take_names(arrived)
        self._flush([outcome for _, outcome in arrived], [self._journal.file] if taken else [])
        done: list[Done] = []
        for name, outcome in arrived:
            if (published := self._publish(name, outcome)) is not None:
                done.append((name, outcome, published))
        return self._flushed(done)

    def rescue(self, name: str, outcome: Outcome) -> list[Published]:
        """Publish the files of a failed task's ``on_failure``, as far as possible.

        They never get the name of another task's output, which may come later and replace them.
        """
        try:
            self._unclaimed(name, outcome.rescued)
            if taken := self._names_taken(name, outcome.rescued, "rescued"):
                self._journal.write(*taken)
                self._journal.flush()
            own = self._journal.own(name)
            rescued = publish(outcome.rescued, flush=False, own=own, checked=True)
            flush_folders(parents(rescued))
        except (EncampError, OSError):
            unstage(outcome.rescued)
            return []
        return rescued

    def _take_names(self, arrived: list[tuple[str, Outcome]]) -> bool:
        """Record the final names of good outcomes before any of them becomes visible.

        Returns whether there are any that the journal does not know yet.
        """
        records: list[Record] = []
        taking: list[Outcome] = []
        for name, outcome in arrived:
            if outcome.error is None and outcome.staged:
                try:
                    records += self._to_take(name, outcome)
                    taking.append(outcome)
                except (EncampError, OSError) as exc:
                    outcome.error = exc
        try:
            self._journal.write(*records)
        except (EncampError, OSError) as exc:
            for outcome in taking:
                outcome.error = exc
        return bool(records)

    def _to_take(self, name: str, outcome: Outcome) -> list[Record]:
        self._claim(name, outcome.staged)
        taken = self._names_taken(name, outcome.staged, "publishing")
        for record in taken:
            self._prepared.inputs.in_place.check(name, record.paths)
        return taken

    def _flush(self, outcomes: list[Outcome], journal: list[Path]) -> None:
        """Flush copies, and the journal's record of their final names, before renaming."""
        copies: list[Staged] = []
        for outcome in outcomes:
            copies += outcome.staged if outcome.log is None else (outcome.log, *outcome.staged)
        if not copies:
            return
        self._journal.own_folder.check()  # logs get their names by its path
        failed = flush_copies(copies, journal)
        unwritten = [failed[str(file)] for file in journal if str(file) in failed]
        for outcome in outcomes if failed else ():
            for one in outcome.staged:
                for exc in (failed.get(one.part), *unwritten):
                    if exc is not None:
                        outcome.error = outcome.error or flush_error(one, exc)

    def _publish(self, name: str, outcome: Outcome) -> list[Published] | None:
        """Make a good outcome's outputs visible; None if the task is not done."""
        if outcome.log is not None:
            with suppress(EncampError, OSError):
                publish([outcome.log], flush=False)
        if outcome.error is not None:
            return None
        if not outcome.staged:
            return []
        try:
            own = self._journal.own(name)
            return publish(outcome.staged, flush=False, own=own, checked=True)
        except (EncampError, OSError) as exc:
            outcome.error = exc
        return None

    def _flushed(self, done: list[Done]) -> list[Done]:
        """The tasks whose new names are on the disk."""
        failed: dict[Path, BadDestination] = {}
        everything: list[Published] = []
        for _, _, published in done:
            everything += published
        for folder in parents(everything) if everything else ():
            try:
                flush_folders([folder])
            except BadDestination as exc:
                failed[folder] = exc
        if not failed:
            return done
        good: list[Done] = []
        for name, outcome, published in done:
            unwritten = parents(published) & failed.keys()
            if unwritten:
                outcome.error = failed[unwritten.pop()]
            else:
                good.append((name, outcome, published))
        return good

    def _names_taken(self, name: str, staged: list[Staged], event: str) -> list[Record]:
        """A record of final names as this task's own, which a later run may replace."""
        taken = names_to_take(staged, self._journal.own(name))
        return [Record(event, name, time.time(), paths=taken)] if taken else []

    def _claim(self, name: str, staged: list[Staged]) -> None:
        self.finals.update(dict.fromkeys(self._unclaimed(name, staged), name))

    def _unclaimed(self, name: str, staged: list[Staged]) -> list[str]:
        """The final names, after a check that none belongs to another task."""
        finals = [final_name(one.final) for one in staged if one.kind != "folder"]
        for final in finals:
            self._reserved.check(final)
            owner = self.finals.get(final, name)
            if owner != name:
                raise OutputConflict(final, f"task {owner}", f"task {name}")
        return finals
