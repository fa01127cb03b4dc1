"""The setup of a call in addition to its function: folder, devices, limits and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from encamp.agent.gpus import VISIBLE
from encamp.cluster.records import ENDED, TaskRecord
from encamp.cluster.sent_functions import Function
from encamp.cluster.spawn_options import CheckedOptions
from encamp.errors import CannotTravel, UnusableInput, text_of
from encamp.slot.slot import Setup
from encamp.storage.disk.temporary_names import new_token
from encamp.storage.files_by_request import FilesQuestion, IsOver, PublishRescued, TaskFiles
from encamp.storage.folder_life import FolderPlan
from encamp.storage.outputs.accepted_names import Accepted, accepted, below
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import folders_of
from encamp.storage.outputs.sees_destination import Beacons
from encamp.storage.outputs.stage import Staged
from encamp.wire.by_value import dump_by_value
from encamp.wire.pickling import dump

Initializer = tuple[Callable[..., Any], tuple[Any, ...]]


def _pickled(initializer: Initializer) -> bytes:
    try:
        return dump_by_value(initializer)
    except Exception as exc:
        why = text_of(exc)
        what = f"the initializer {getattr(initializer[0], '__qualname__', initializer[0])}"
        raise CannotTravel(f"{what}, or an argument of it,", why) from exc


class Setups:
    """The setups of one cluster's calls.

    ``everybody_here`` is True if all tasks run on this host, which sees the destinations.
    """

    def __init__(self, numbers: Iterator[int], *, everybody_here: bool) -> None:
        self._token = new_token()
        self._beacons = None if everybody_here else Beacons(self._token)
        self._files: dict[int, TaskFiles] = {}
        self._initializers: dict[int, Function] = {}
        self._numbers = numbers
        self.kept: dict[int, Any] = {}
        """Initializers by number, as long as they may be needed."""

    def of(self, task: TaskRecord) -> bytes:
        """A call's setup, pickled."""
        options = task.options
        environment: tuple[tuple[str, str], ...] = ()
        if options.need.gpus:
            devices = ",".join(task.devices)
            environment = tuple((name, devices) for name in VISIBLE)
        setup = Setup(
            name=options.name,
            report_start=options.time_limit is not None,
            environment=environment,
            cores=options.need.cores,
            follow=options.on_output is not None,
            initializer=self._number_of(options.initializer),
            folder=self._folder(task) if options.staged else None,
        )
        return bytes(dump(setup)[0])

    def _number_of(self, initializer: Initializer | None) -> int:
        return 0 if initializer is None else self.function_of(initializer).number

    def function_of(self, initializer: Initializer) -> Function:
        """An initializer with its arguments, for slots that lack it. Raises `CannotTravel`."""
        found = self._initializers.get(id(initializer))
        if found is None:
            payload = _pickled(initializer)
            found = Function(next(self._numbers), initializer[0], payload, by_value=True)
            self._initializers[id(initializer)] = found
            self.kept[found.number] = initializer  # so that its id is not used again
        return found

    def drop(self, initializer: object) -> None:
        """Drop an initializer that is no longer needed."""
        known = self._initializers.pop(id(initializer), None)
        if known is not None:
            del self.kept[known.number]

    def _folder(self, task: TaskRecord) -> FolderPlan:
        options = task.options
        outputs = (*options.outputs, *options.on_failure)
        self._files[task.id] = TaskFiles(options.items, outputs)
        return FolderPlan(
            task=task.label,
            token=f"{self._token}-{task.id}",
            items=options.items,
            outputs=options.outputs,
            on_failure=options.on_failure,
            beacon=self._beacon(options),
            persistent=f"cluster-{self._token}" if options.persistent else None,
        )

    def answer(self, task: TaskRecord | None, question: FilesQuestion) -> Any:
        """Answer a task: send pieces of its inputs, or receive pieces of its outputs.

        May wait for the disk. Raises `UnusableInput`, and the errors of `Receiver.write`.
        """
        if task is None or task.state is ENDED:
            if isinstance(question, IsOver):
                return True
            raise UnusableInput(question.about, "the task that asked for it has ended")
        if isinstance(question, PublishRescued):
            return self._publish_rescued(task, question.staged)
        options = task.options
        if options.answer is not None:
            return options.answer(question)
        files = self._files.get(task.id)
        if files is None:
            raise UnusableInput(question.about, "the task that asked for it has no files")
        return files.answer(question)

    def _publish_rescued(self, task: TaskRecord, staged: list[Staged]) -> None:
        if task.error is None:
            raise UnusableInput(task.label, "its files are not awaited")
        deliver_one(self.accepted(task, staged).staged, lenient=True)

    def _beacon(self, options: CheckedOptions) -> str:
        """The description by which hosts recognize destinations; empty if this is the only host."""
        if self._beacons is None:
            return ""
        self._beacons.put(folders_of((*options.outputs, *options.on_failure)))
        return self._beacons.description

    def accepted(self, task: TaskRecord, staged: list[Staged]) -> Accepted:
        """Those of the staged outputs that the task may have; the others are refused."""
        outputs = (*task.options.outputs, *task.options.on_failure)
        urls = [output.to for output in outputs if output.at is None]
        return accepted(staged, f"{self._token}-{task.id}", below([*folders_of(outputs), *urls]))

    def forget(self, task: TaskRecord) -> TaskFiles | None:
        """Remove and return the files of a task that has ended; they must be closed."""
        files = self._files.pop(task.id, None)
        if files is not None:
            files.stop()
        return files

    def close(self) -> None:
        """Leave only results at the destinations."""
        if self._beacons is not None:
            self._beacons.close()
        for files in self._files.values():
            files.close()
