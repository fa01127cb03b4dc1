"""Calls to several servers at once: broadcast, scatter, gather, reduce."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from encamp.cluster.spawn_options import check_flag
from encamp.errors import NotInTime, WrongLength, WrongType
from encamp.number_checks import patience
from encamp.services.argument_checks import can_be_iterated, check_name, items, named
from encamp.services.client import Client
from encamp.services.proxy import pickled
from encamp.services.result import Result
from encamp.wire.frames import Parts

Caller = Callable[[str, Parts], Result]
"""Has one server call a method."""


class CollectiveCalls(ABC):
    """Calls to all servers, in their order: of a service, or of the members of a group."""

    name: str
    """The service's."""
    _client: Client

    @abstractmethod
    def _callers(self) -> list[Caller]: ...

    def broadcast(self, method: str, /, *args: Any, **kwargs: Any) -> list[Result]:
        """Call a method on every server; returns the results, in order; does not wait.

        Each server makes the call when it is free, or has been released.
        """
        parts, callers = pickled(self.name, method, args, kwargs), self._callers()
        with self._client.together():
            return [call(method, parts) for call in callers]

    def scatter(
        self,
        method: str,
        arguments: Iterable[Any],
        keywords: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[Result]:
        """`broadcast` with separate arguments for each server: a tuple, or any other single value.

        Raises `WrongLength` unless there is one for each server, and `WrongType` for anything but a
        list.
        """
        check_name(self.name, method)
        given = items("scatter", arguments, "arguments, one for each server")
        by_name = None if keywords is None else items("keywords", keywords, "dicts")
        callers = self._callers()
        each = scattered(self.name, method, given, by_name, len(callers))
        with self._client.together():
            return [call(method, parts) for call, parts in zip(callers, each, strict=True)]

    def reduce(self, operation: Callable[[Any, Any], Any], method: str, /, *args: Any) -> Any:
        """Combine the values of all servers, in their order, with an operation; waits for them."""
        if not callable(operation):
            raise WrongType("reduce", f"takes a function of two values first, not {operation!r}")
        return functools.reduce(operation, gather(self.broadcast(method, *args)))


def gather(
    results: Iterable[Future[Any]],
    *,
    return_exceptions: bool = False,
    timeout: float | None = None,
) -> list[Any]:
    """The values of results, in their order; waits for all of them.

    The first error is raised when all have ended; with ``return_exceptions`` each error takes the
    place of its value. ``timeout`` applies to each result; then TimeoutError is raised. Raises
    `WrongType` for an object that is not a result.
    """
    values: list[Any] = []
    failed: BaseException | None = None
    timeout = patience(timeout)
    check_flag("return_exceptions", return_exceptions)
    if not can_be_iterated(results):
        raise WrongType("gather", f"takes results of calls, as broadcast returns, not {results!r}")
    for result in results:
        if not isinstance(result, Future):
            raise WrongType(
                "gather", f"takes results of calls, as broadcast returns, not {result!r}"
            )
        try:
            error = result.exception(timeout)
        except TimeoutError:
            what = f"result {len(values) + 1} has not arrived"
            raise NotInTime(what, timeout or 0.0, "its call continues") from None
        if error is None:
            values.append(result.result())
        else:
            failed = failed or error
            values.append(error)
    if failed is not None and not return_exceptions:
        raise failed
    return values


def scattered(
    service: str,
    method: str,
    arguments: Sequence[Any],
    keywords: Sequence[Any] | None,
    servers: int,
) -> list[Parts]:
    """The arguments of each server, pickled. Raises `WrongLength` and `WrongType`."""
    each = [args if isinstance(args, tuple) else (args,) for args in arguments]
    if len(each) != servers:
        raise WrongLength("arguments", len(each), servers)
    by_name = [{}] * servers if keywords is None else [named("keywords", one) for one in keywords]
    if len(by_name) != servers:
        raise WrongLength("named arguments", len(by_name), servers)
    return [pickled(service, method, args, kw) for args, kw in zip(each, by_name, strict=True)]
