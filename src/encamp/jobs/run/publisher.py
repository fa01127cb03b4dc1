"""Publishes staged outputs, in an order that loses nothing if the run is killed at any moment.

Final names are written to the journal and copies are flushed before anything gets its final name;
folders are flushed before a task is done. Many tasks go through each step together.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from encamp.attempt_facts import Published
from encamp.errors import EncampError, OutputConflict
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.plan.reserved_folder import ReservedFolder
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.storage.outputs.deliveries import Delivery, deliver
from encamp.storage.outputs.publish import final_name
from encamp.storage.outputs.stage import Staged

Done = tuple[str, Outcome, list[Published]]


class Publisher:
    """The outputs of one run of a job, and which task each final name belongs to."""

    def __init__(self, prepared: Prepared, journal: Journal) -> None:
        self._prepared, self._journal = prepared, journal
        self._reserved = ReservedFolder(prepared.job.folder)
        self.finals = prepared.finals
        """Final name → task."""

    def keep(self, name: str, outputs: list[Published]) -> None:
        """Record that the outputs of a task that does not run still belong to it."""
        for output in (one for one in outputs if one.kind != "folder"):
            self.finals.setdefault(output.path, name)

    def publish(self, arrived: list[tuple[str, Outcome]]) -> list[Done]:
        """Make the outputs of good outcomes visible, and the logs of all.

        Returns the tasks that are done. The outcomes of the others have an error.
        """
        good = [(name, outcome) for name, outcome in arrived if outcome.error is None]
        ours = {name: self._delivery(name, outcome) for name, outcome in good if outcome.staged}
        logs = [outcome.log for _, outcome in arrived if outcome.log is not None]
        if ours or logs:
            self._journal.own_folder.check()  # logs get their names by its path
            together = [*ours.values(), Delivery(logs, lenient=True)]
            deliver(together, partial(self._record, "publishing", ours))
        done: list[Done] = []
        for name, outcome in good:
            delivery = ours.get(name)
            outcome.error = None if delivery is None else delivery.error
            if outcome.error is None:
                done.append((name, outcome, [] if delivery is None else delivery.published))
        return done

    def rescue(self, name: str, outcome: Outcome) -> list[Published]:
        """Publish the files of a failed task's ``on_failure``, as far as possible.

        They never get the name of another task's output, which may come later and replace them.
        """
        if not outcome.rescued:
            return []
        delivery = Delivery(outcome.rescued, self._journal.own(name), lenient=True)
        for one in _with_names(outcome.rescued):
            try:
                self._check_unclaimed(name, final_name(one.final))
            except (EncampError, OSError) as exc:
                delivery.refuse(exc, [one])
        with suppress(EncampError, OSError):
            deliver([delivery], partial(self._record, "rescued", {name: delivery}))
        return delivery.published

    def _delivery(self, name: str, outcome: Outcome) -> Delivery:
        delivery = Delivery(outcome.staged, self._journal.own(name))
        try:
            finals = [final_name(one.final) for one in _with_names(outcome.staged)]
            for final in finals:
                self._check_unclaimed(name, final)
            self.finals.update(dict.fromkeys(finals, name))
        except (EncampError, OSError) as exc:
            delivery.refuse(exc)
        return delivery

    def _record(self, event: str, deliveries: dict[str, Delivery]) -> list[Path]:
        """Record the final names as the tasks' own, which a later run may replace.

        Returns the journal's file if it has to be flushed before these names are given.
        """
        records: list[Record] = []
        taking: list[Delivery] = []
        for name, delivery in deliveries.items():
            try:
                if delivery.error is None and delivery.names:
                    if not delivery.lenient:  # the names of rescued files were compared before
                        self._prepared.inputs.in_place.check(name, delivery.names)
                    records.append(Record(event, name, time.time(), paths=delivery.names))
                    taking.append(delivery)
            except (EncampError, OSError) as exc:
                delivery.refuse(exc, delivery.staged)
        try:
            self._journal.write(*records)
        except (EncampError, OSError) as exc:
            for delivery in taking:
                delivery.refuse(exc, delivery.staged)
        return [self._journal.file] if records else []

    def _check_unclaimed(self, name: str, final: str) -> None:
        """Raise an error for a final name that belongs to the job, or to another task."""
        self._reserved.check(final)
        owner = self.finals.get(final, name)
        if owner != name:
            raise OutputConflict(final, f"task {owner}", f"task {name}")


def _with_names(staged: list[Staged]) -> list[Staged]:
    """Those that belong to one task alone: tasks may share empty folders."""
    return [one for one in staged if one.kind != "folder"]
