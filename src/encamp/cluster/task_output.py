"""The output of tasks that has arrived at the controller, and forwarding it to a follower."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable

from encamp.cluster.records import TaskRecord
from encamp.wire.protocol import OutputText

_log = logging.getLogger("encamp")
_FOLLOWED = 1 << 20
"""Characters of a running task's output that are kept; its result contains the final output."""


class _TaskOutput:
    """The output of one running task that has arrived."""

    def __init__(self) -> None:
        self.arrived = 0
        """Bytes of its output that have arrived."""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        """A decoder, since characters may arrive in parts."""


class TaskOutputs:
    """The output of a cluster's tasks; ``follow`` gets a task's id and its output."""

    def __init__(self, follow: Callable[[int, str], None] | None) -> None:
        self.follow = follow
        self.outputs: dict[int, _TaskOutput] = {}
        """The output of running tasks that has arrived."""

    def output_arrived(self, task: TaskRecord, envelope: OutputText) -> None:
        """Handle the output of a task."""
        output = self.outputs.setdefault(task.id, _TaskOutput())
        raw = envelope.text[max(0, output.arrived - envelope.start) :]
        output.arrived = max(output.arrived, envelope.start + len(envelope.text))
        if raw and task.options.on_output is not None:
            task.options.on_output(bytes(raw))
        new = output.decoder.decode(raw, envelope.last) if self.follow is not None else ""
        future = task.future
        if envelope.last:
            future.output = (envelope.head + envelope.text).decode("utf-8", "replace")
        else:
            future.output = (future.output + new)[-_FOLLOWED:]
        if new and self.follow is not None:
            try:
                self.follow(task.id, new)
            except Exception:  # noqa: BLE001 - it is a user's
                _log.exception("the function that follows the output of tasks raised")

    def forget(self, task: TaskRecord) -> None:
        """Handle the end of a task."""
        self.outputs.pop(task.id, None)
