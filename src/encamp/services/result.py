"""The result of a service call: a `concurrent.futures.Future` with `get`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol

from encamp.cluster.task import LightFuture
from encamp.errors import NotInTime


class Waited(Protocol):
    """The part of a client that waiting for a result needs."""

    def wait(self, what: Awaited, timeout: float | None) -> None:
        """Wait until it is done, or for ``timeout`` seconds."""

    def attend(self, what: Awaited) -> None:
        """Make sure that it gets done, even if no thread waits for it."""


class Awaited(LightFuture):
    """A future of a client: a thread that waits for it handles the client's letters."""

    def __init__(self, client: Waited) -> None:
        self._client = client

    def _wait(self, timeout: float | None) -> float | None:
        if self.done():
            return 0
        deadline = None if timeout is None else time.monotonic() + timeout
        self._client.wait(self, timeout)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def __await__(self) -> Generator[Any, None, Any]:
        self._client.attend(self)
        import asyncio  # most programs have none

        return asyncio.wrap_future(self).__await__()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """See `Future.add_done_callback`; it may be called by any thread that waits."""
        super().add_done_callback(fn)
        self._client.attend(self)

    def settle(self, value: Any, error: BaseException | None) -> bool:
        """Set the value or the error; returns False if it has ended already.

        An answer may arrive after its server was given up.
        """
        if self.done():
            return False
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except InvalidStateError:  # another thread has just settled it
            return False
        return True

    def __reduce__(self) -> str:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: send its value")


class Result(Awaited):
    """The result of a call to a service: a `concurrent.futures.Future` that also has `get`.

    It can be awaited. If the call raised an exception, `get` and ``result()`` raise that exception,
    with a `RemoteTraceback` as its cause. If the server died, they raise `ServerLost`, whose
    attribute ``begun`` shows whether the call had started.
    """

    server = 0
    """The number of the server; 0 while none is known."""
    number = 0
    """The number of the call; a client numbers the calls that it makes."""
    wanted_service = 0
    """The number of the service, while the call waits for a server of it."""
    hint = ""
    """What to try instead of calling it, if it is the value of an attribute."""
    unread = False
    """Whether its value stays pickled, for another process."""

    def __init__(self, client: Waited, service: str, call: str) -> None:
        super().__init__(client)
        self.service, self.call = service, call

    def get(self, timeout: float | None = None) -> Any:
        """The value; waits at most ``timeout`` seconds, and raises the error of the call.

        Raises TimeoutError on timeout; the call continues.
        """
        return self.result(timeout)

    def _not_within(self, seconds: float) -> NotInTime:
        what = f"{self.service}.{self.call} has not returned"
        return NotInTime(what, seconds, "the call continues")

    def cancel(self) -> bool:
        """Always False: a call that was sent to a server cannot be cancelled."""
        return self.cancelled()

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AttributeError(
            f"{self.service} has no method {self.call!r}; {self.hint or 'this read an attribute'}"
        )

    def __repr__(self) -> str:
        return f"<Result of {self.service}.{self.call}: {self._state.lower()}>"
