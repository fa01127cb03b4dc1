"""Services in a step of a job: its process asks its worker, which makes the calls.

    step: StepClient ── letters to the registry and to servers ──►  worker: Relay ──►  its client
                     ◄── letters with the answers ────────────────

The worker is a task of the services' cluster, or a thread of the program that created it.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from encamp.services.client import Acquisition, Client, Outgoing, Route
from encamp.services.letters import (
    END,
    GROUP,
    RELEASE,
    Acquire,
    Answers,
    Calls,
    Forget,
    Granted,
    Inquiry,
    LeaseEnded,
    Letter,
    Refused,
    Reply,
    decode,
    encode,
)
from encamp.services.result import Awaited, Result
from encamp.services.step_questions import (
    OpenClient,
    Payload,
    PostCalls,
    StepQuestion,
    TakeLetters,
    TellRegistry,
)
from encamp.wire.frames import Parts
from encamp.wire.pickling import disclosed, dump, dump_failure, enclosed, load
from encamp.wire.protocol import SPAWNER

_PIECE = 0.1
"""Maximum number of seconds that the worker waits before it checks the step again."""
_ATTEND = 0.02
"""Seconds between two checks of results that no thread waits for."""
_WITHOUT_ANSWER = (RELEASE, GROUP, END)

Letters = list[tuple[bytes, list[Any]]]
"""Letters that have arrived, with their payloads."""


class StepClient(Client):
    """The client of a step; ``ask`` asks its worker. Raises the errors of the worker's client."""

    def __init__(self, token: str, ask: Callable[[StepQuestion], Any]) -> None:
        super().__init__(SPAWNER)
        self._token, self._ask_worker = token, ask
        self._attended: set[Awaited] = set()
        self._attendant: threading.Thread | None = None
        ask(OpenClient(token))

    def send_letter(self, letter: Letter, payload: Parts) -> None:
        """See `Client.send_letter`."""
        self._ask_worker(TellRegistry(self._token, encode(letter), _without_copy(payload)))

    def _post(self, to: int, parts: Parts) -> None:
        self._ask_worker(PostCalls(self._token, to, bytes(parts[0]), _without_copy(parts[1:])))

    def _begin(self, route: Route | None) -> None:
        self.flush()

    def wait(self, what: Awaited, timeout: float | None) -> None:
        """See `Client.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not what.done():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            self._take_arrived(_PIECE if left is None else min(left, _PIECE))

    def _take_arrived(self, seconds: float) -> None:
        letters: Letters = self._ask_worker(TakeLetters(self._token, seconds))
        for head, payload in letters:
            self.take(decode(head), payload)
        while self._left:
            self._left.popleft()()

    def attend(self, what: Awaited) -> None:
        """See `Client.attend`: a thread checks from time to time, while results are awaited."""
        if what.done():
            return
        self._attended.add(what)
        if self._attendant is None or not self._attendant.is_alive():
            name = "encamp-services"
            self._attendant = threading.Thread(target=self._attend, name=name, daemon=True)
            self._attendant.start()

    def _attend(self) -> None:
        while self._attended:
            time.sleep(_ATTEND)
            try:
                self._take_arrived(0)
            except (RuntimeError, EOFError, OSError):
                return  # the step has ended
            self._attended = {what for what in self._attended if not what.done()}


def _without_copy(parts: Parts) -> Payload:
    """Parts that are sent in a question or an answer without being copied, if they are large."""
    return [pickle.PickleBuffer(part) for part in parts]


class Relays:
    """The calls of the step that a worker supervises. ``client_of`` finds a cluster's client."""

    def __init__(self, client_of: Callable[[str], Client]) -> None:
        self._client_of = client_of
        self._of: dict[str, Relay] = {}
        """By the cluster's token."""

    def answer(self, question: StepQuestion) -> Any:
        """Answer a question of the step; an exception is raised in the step."""
        relay = self._of.get(question.token)
        if relay is None:
            relay = self._of[question.token] = Relay(self._client_of(question.token))
        return relay.answer(question)

    def close(self) -> None:
        """Release the servers of an ended step, and withdraw its requests."""
        for relay in self._of.values():
            relay.close()


class Relay:
    """Makes the calls of a step through the worker's own client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._awaited: dict[Awaited, Callable[[Awaited], tuple[Letter, Parts]]] = {}
        """Results that the step awaits, each with a function that makes the letter for it."""
        self._tickets: dict[int, Acquisition] = {}
        self._held: dict[int, Route] = {}
        """By lease, servers that the step has acquired."""
        self._routes: dict[tuple[int, int], Route] = {}
        self._handlers: dict[type, Callable[[Any, Parts], None]] = {
            Acquire: self._acquire,
            Forget: self._forget,
            LeaseEnded: self._free,
            Inquiry: self._ask,
            Calls: partial(self._calls, SPAWNER),
        }

    def answer(self, question: StepQuestion) -> Any:
        """See `Relays.answer`."""
        match question:
            case TakeLetters(_, seconds):
                return self._arrived_letters(seconds)
            case TellRegistry(_, head, payload):
                letter = decode(head)
                handler = self._handlers.get(type(letter))
                if handler is not None:  # `NewClient` has none: it is for the worker's client
                    handler(letter, payload)
            case PostCalls(_, to, head, payload):
                self._calls(to, decode(head), payload)
        return None

    def close(self) -> None:
        """See `Relays.close`."""
        for wanted in self._tickets.values():
            self._give_up(wanted)
        for lease, route in self._held.items():
            self._client.release(route, lease, None, shared=True)

    # Letters for the step

    def _arrived_letters(self, seconds: float) -> Letters:
        if not any(one.done() for one in self._awaited):
            first = next(iter(self._awaited), None)
            if first is None:
                time.sleep(seconds)
            else:
                self._client.wait(first, seconds)
        done = [one for one in self._awaited if one.done()]
        letters = [self._awaited.pop(one)(one) for one in done]
        return [(encode(letter), _without_copy(payload)) for letter, payload in letters]

    # Questions to the registry

    def _acquire(self, letter: Acquire, parts: Parts) -> None:
        wanted = self._client.acquire(letter.service, letter.count, letter.server)
        self._tickets[letter.ticket] = wanted

        def outcome(one: Awaited) -> tuple[Letter, Parts]:
            del self._tickets[letter.ticket]
            error = one.exception()
            if error is not None:
                return Refused(letter.ticket), dump(error)
            granted: Granted = one.result()
            for server, task, lease in granted.leases:
                self._held[lease] = self._route(server, SPAWNER if granted.relayed else task)
            leases, relayed = granted.leases, granted.relayed
            return Granted(letter.ticket, leases, relayed, granted.methods), []

        self._awaited[wanted] = outcome

    def _forget(self, letter: Forget, parts: Parts) -> None:
        wanted = self._tickets.pop(letter.ticket, None)
        if wanted is not None:
            del self._awaited[wanted]
            self._give_up(wanted)

    def _give_up(self, wanted: Acquisition) -> None:
        """Withdraw a request, and free the servers if it was granted in the meantime."""
        self._client.forget(wanted)
        if wanted.done() and wanted.exception() is None:
            for server, _, lease in wanted.result().leases:
                self._client.send_letter(LeaseEnded(server, lease), [])

    def _free(self, letter: LeaseEnded, parts: Parts) -> None:
        route = self._held.pop(letter.lease, None)
        if route is not None:
            self._client.release(route, letter.lease, None, shared=False)

    def _ask(self, letter: Inquiry, parts: Parts) -> None:
        asked = self._client.ask(letter.service, letter.what, *load(parts))

        def outcome(one: Awaited) -> tuple[Letter, Parts]:
            error = one.exception()
            if error is not None:
                return Refused(letter.ticket), dump(error)
            return Reply(letter.ticket), dump(one.result())

        self._awaited[asked] = outcome

    # Calls

    def _route(self, server: int, to: int) -> Route:
        return self._routes.setdefault((server, to), Route(server, to))

    def _calls(self, to: int, letter: Calls, parts: Parts) -> None:
        route, at = self._route(letter.server, to), 0
        with self._client.together():
            for number, lease, op, name, payload, count in letter.calls:
                body = disclosed(payload, parts[at : at + count])
                at += count
                result = None
                if op == RELEASE:
                    self._held.pop(lease, None)
                if op not in _WITHOUT_ANSWER:
                    result = Result(self._client, "", name)
                    result.unread = True
                    self._awaited[result] = partial(_answer, letter.server, number)
                self._client.call(Outgoing(route, lease, op, name, body, result))


def _answer(server: int, number: int, result: Awaited) -> tuple[Letter, Parts]:
    error = result.exception()
    good, body = result.result() if error is None else (False, dump_failure(error))
    payload, buffers = enclosed(body)
    return Answers(server, [(number, good, payload, len(buffers))], [], (0, 0, 0.0, 0.0)), buffers
