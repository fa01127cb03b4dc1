"""A call to any free server, which is made again if that server dies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from encamp.errors import ServerLost
from encamp.services.letters import Granted
from encamp.services.proxy import Proxy, send
from encamp.services.result import Result
from encamp.wire.frames import Parts


def call_with_retries(
    acquire: Callable[[], Future[Granted]],
    proxies: Callable[[Granted], list[Proxy]],
    call: tuple[int, str, Parts],
    result: Result,
    retries: int,
) -> None:
    """Acquire a server, make a call and release the server; does not wait.

    ``call`` is an operation of `letters`, a method and its arguments. ``result`` is settled by the
    first attempt whose server survives, or by the last one.
    """
    operation, method, parts = call

    def granted(wanted: Future[Granted]) -> None:
        error = wanted.exception()
        if error is not None:
            result.settle(None, error)
            return
        proxy = proxies(wanted.result())[0]
        if not retries:
            send(proxy, operation, method, parts, result)
        else:
            tried = send(proxy, operation, method, parts)
            tried.add_done_callback(ended)
        proxy.release()

    def ended(tried: Future[Any]) -> None:
        error = tried.exception()
        if isinstance(error, ServerLost):
            call_with_retries(acquire, proxies, call, result, retries - 1)
        else:
            result.settle(None if error is not None else tried.result(), error)

    acquire().add_done_callback(granted)
