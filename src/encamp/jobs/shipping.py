"""One attempt's way to the controller's disk, for hosts that do not see it."""

from __future__ import annotations

from typing import Any

from encamp.jobs.work import Work
from encamp.storage.landing import Receiver, answer
from encamp.storage.outputs import folders_of
from encamp.storage.roots import local


class Shipping:
    """Answers what an attempt asks; called in other threads than the controller's own."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._receiver: Receiver | None = None

    def answer(self, question: Any) -> Any:
        """See `landing.answer`; the attempt's inputs only, for its destinations only."""
        work = self._work
        if self._receiver is None:
            outputs = folders_of((*work.outputs, *work.on_failure))
            self._receiver = Receiver([*outputs, local(work.logs)])
        return answer(question, (*work.shared, *work.inputs), self._receiver)

    def discard(self) -> None:
        """Remove what came and was not published."""
        if self._receiver is not None:
            self._receiver.discard()
