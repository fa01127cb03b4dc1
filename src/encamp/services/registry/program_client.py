"""The client of the program that created the cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from encamp.cluster.services_interface import ControllerForServices
from encamp.cluster.task import FORKED
from encamp.errors import ClusterClosed, ClusterError
from encamp.services.call_outcomes import value_of
from encamp.services.client import Client, Outgoing, Route
from encamp.services.letters import Answers, LeaseEnded, Letter
from encamp.services.result import Awaited, Result
from encamp.wire.frames import Parts, changeable, own
from encamp.wire.pickling import disclosed
from encamp.wire.protocol import SERVICES, SPAWNER

_EAGER = 64
"""Maximum number of calls before the program's thread sends them itself."""


class ProgramClient(Client):
    """The client of the program, whose process also has the registry."""

    def __init__(
        self, controller: ControllerForServices, registry: Callable[[int, Letter, Parts], None]
    ) -> None:
        super().__init__(SPAWNER)
        self._controller, self._registry = controller, registry
        self._pump = controller.pump
        self._pump.at_turn_end.insert(0, self.flush)  # before the controller sends what is posted
        self._pump.due.append(lambda: self._outgoing)

    @property
    def awaited(self) -> int:
        """Number of servers that have yet to answer calls of the program."""
        return len(self._pending)

    def _check(self) -> None:
        if self._pump.elsewhere:
            raise ClusterClosed(FORKED)
        if self._controller.failure is not None:
            raise self._controller.failure
        if self._controller.closing:
            raise ClusterClosed

    def wait(self, what: Awaited, timeout: float | None) -> None:
        """See `Client.wait`."""
        self._pump.until(what.done, timeout)
        if not what.done():
            if self._pump.elsewhere:
                raise ClusterClosed(FORKED)
            if self._controller.closing and timeout is None:
                raise ClusterClosed

    def attend(self, what: Awaited) -> None:
        """See `Client.attend`: the cluster's background thread does it."""

    def send_letter(self, letter: Letter, payload: Parts) -> None:
        """See `Client.send_letter`."""
        self._check()
        self._pump.call_now_or_soon(lambda: self._registry(SPAWNER, letter, payload))

    def call(self, outgoing: Outgoing) -> None:
        """See `Client.call`; arguments may be changed afterwards."""
        self._check()
        if outgoing.buffers and changeable(outgoing.buffers):
            outgoing.buffers = own(outgoing.buffers)
        super().call(outgoing)

    def _begin(self, route: Route | None) -> None:
        at_once = route is None or not self._pending.get(route.server)
        if at_once or len(self._outgoing) >= _EAGER:
            self._pump.call_now_or_soon(self.flush)

    def _release_after(self, route: Route, lease: int, last: Result) -> None:
        """See `Client._release_after`: in the program, answers arrive even if no thread waits."""

        def free(_: object) -> None:
            with suppress(ClusterError, OSError):
                self.send_letter(LeaseEnded(route.server, lease), [])

        last.add_done_callback(free)

    def _post(self, to: int, parts: Parts) -> None:
        self._controller.messages.send(to, SPAWNER, parts, SERVICES)

    def _later(self, call: Callable[[], object]) -> None:
        """See `Client._later`."""
        self._pump.call_soon(partial(_call, call))

    def _answers(self, letter: Answers, parts: Parts) -> None:
        self._take_answers((letter, iter(letter.answers), iter(parts)))

    def _take_answers(self, arrival: tuple[Answers, Any, Any]) -> None:
        """Settle results; a callback that waits for another result continues with the rest."""
        letter, answers, parts = arrival
        pending = self._pending.get(letter.server)
        if not pending:
            return
        for number, good, payload, count in answers:
            result = pending.pop(number, None)
            if not pending and self._pending.get(letter.server) is pending:
                del self._pending[letter.server]
            body = (
                [payload] if not count else disclosed(payload, [next(parts) for _ in range(count)])
            )
            if result is None:
                continue
            called_back = result.has_callbacks
            if called_back:
                self._pump.before_others(self._take_answers, [arrival])
            result.settle(*value_of(result, good, body))
            if called_back:
                return


def _call(call: Callable[[], object]) -> None:
    call()
