"""The outcome of a call: from the answer of its server, or from the server's loss."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from encamp.errors import ServerLost, ServiceError, words_of
from encamp.services.result import Result
from encamp.wire.frames import Parts
from encamp.wire.pickling import RemoteTraceback, load, load_failure, traceback_of


def about(error: ServiceError, result: Result, begun: bool | None) -> ServiceError:
    """A server's loss as the error of one call, with its name and whether it had begun."""
    if isinstance(error, ServerLost):
        lost = error.with_facts(call=result.call, begun=begun)
        lost.__cause__ = error.__cause__
        return lost
    return error


def settle(result: Result, good: bool, body: Parts) -> None:
    """Set a result from its server's answer: the pickle of a value (``good``) or of an error."""
    result.settle(*value_of(result, good, body))


def value_of(result: Result, good: bool, body: Parts) -> tuple[Any, BaseException | None]:
    """The value or the error in an answer; an unreadable one is a RuntimeError."""
    if result.unread:
        return (good, body), None
    if good:
        try:
            return load(body), None
        except BaseException as exc:  # noqa: BLE001 - unpickling runs the value's own code
            error: BaseException = RuntimeError(
                f"the result of {result.service}.{result.call} cannot be read here: {words_of(exc)}"
            )
            text = traceback_of(exc)
    else:
        error, text = load_failure(body)
    head = f"{result.service}.{result.call}, server {result.server}:\n"
    with suppress(BaseException):
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(head + text))
    return None, error
