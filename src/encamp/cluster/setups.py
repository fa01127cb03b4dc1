"""What goes with a call that is not just called: its folder, devices, limits, and its files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import cloudpickle

from encamp.agent.calls import Setup
from encamp.agent.folder import Staging
from encamp.agent.gpus import VISIBLE
from encamp.agent.pickling import dump
from encamp.cluster.task import Task
from encamp.errors import UnusableInput
from encamp.storage.roots import local, portable
from encamp.storage.ship import Sender


class Setups:
    """The setups of one cluster's calls."""

    def __init__(self) -> None:
        self._token = token_hex(4)
        self._initializers: dict[int, tuple[int, bytes]] = {}
        self._numbers = itertools.count(1)
        self._kept: list[Any] = []

    def of(self, task: Task) -> bytes:
        """A call's setup, pickled."""
        options = task._options
        environment: tuple[tuple[str, str], ...] = ()
        if options.need.gpus:
            devices = ",".join(task._devices)
            environment = tuple((name, devices) for name in VISIBLE)
        setup = Setup(
            name=options.name,
            tell_start=options.time_limit is not None,
            environment=environment,
            initializer=self._initializer(options.initializer),
            staging=self._staging(task) if options.staged else None,
        )
        return bytes(dump(setup)[0])

    def _initializer(
        self, initializer: tuple[Callable[..., Any], tuple[Any, ...]] | None
    ) -> tuple[int, bytes] | None:
        if initializer is None:
            return None
        known = self._initializers.get(id(initializer))
        if known is None:
            known = next(self._numbers), cloudpickle.dumps(initializer, 5)
            self._initializers[id(initializer)] = known
            self._kept.append(initializer)  # so that its id is nobody else's
        return known

    def _staging(self, task: Task) -> Staging:
        options = task._options
        return Staging(
            name=task.label,
            token=f"{self._token}-{task.id}",
            items=options.items,
            outputs=options.outputs,
            on_failure=options.on_failure,
            destination=portable(options.to or "."),
            persistent=f"cluster-{self._token}" if options.persistent else "",
        )

    def answer(self, task: Task | None, question: Any) -> Any:
        """What a task asks for: pieces of its own inputs, nothing else. Raises `UnusableInput`."""
        what, path, detail = question
        if task is None:
            raise UnusableInput(str(path), "the task that asks for it has ended")
        own = [local(item.source) for item in task._options.items if item.url is None]
        sender = Sender(own)
        return sender.chunk(path, detail) if what == "chunk" else sender.entries(path, detail)
