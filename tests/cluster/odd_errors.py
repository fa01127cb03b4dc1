"""Errors and values whose own code raises wherever it is called."""

from __future__ import annotations

import os
from typing import Any, NoReturn


class RaisingGetattr(Exception):
    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


class RaisingGetattribute(Exception):
    def __getattribute__(self, name: str) -> NoReturn:
        raise SystemExit(5)


class RaisingText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class RaisingNotes(Exception):
    @property
    def __notes__(self) -> NoReturn:
        raise SystemExit(3)


class NotesAreNone(Exception):
    __notes__ = 5  # type: ignore[assignment]


class RaisingClass(Exception):
    @property
    def __class__(self) -> NoReturn:  # type: ignore[override]
        raise SystemExit(3)


class RaisingArgs(Exception):
    @property
    def args(self) -> NoReturn:  # type: ignore[override]
        raise SystemExit(3)


class RaisingTraceback(Exception):
    def with_traceback(self, tb: object) -> NoReturn:
        raise SystemExit


class _Name(type):
    @property
    def __name__(cls) -> NoReturn:  # type: ignore[override]
        raise SystemExit


class RaisingName(Exception, metaclass=_Name):
    pass


class _NotPicklable(Exception):
    reason: type[BaseException]

    def __reduce__(self) -> NoReturn:
        raise self.reason


class PicklingExits(_NotPicklable):
    reason = SystemExit


class PicklingInterrupts(_NotPicklable):
    reason = KeyboardInterrupt


class PicklingRecurses(_NotPicklable):
    reason = RecursionError


class PicklingTakesMemory(_NotPicklable):
    reason = MemoryError


def exit_now() -> NoReturn:
    raise SystemExit(9)


class UnpicklingExits(Exception):
    def __reduce__(self) -> Any:
        return exit_now, ()


def only_in(pid: int) -> Exception:
    if os.getpid() != pid:
        raise KeyboardInterrupt("not here")
    return UnpicklingInterruptsElsewhere()


class UnpicklingInterruptsElsewhere(Exception):
    def __reduce__(self) -> Any:
        return only_in, (os.getpid(),)


def throw(kind: type[BaseException]) -> NoReturn:
    raise kind("text")


def give(kind: type[BaseException]) -> BaseException:
    return kind("text")


def throw_cycle() -> NoReturn:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


def throw_group() -> NoReturn:
    raise BaseExceptionGroup("group", [PicklingExits(), RaisingText(), KeyboardInterrupt()])


KINDS = [
    RaisingGetattr,
    RaisingGetattribute,
    RaisingText,
    RaisingNotes,
    NotesAreNone,
    RaisingClass,
    RaisingArgs,
    RaisingTraceback,
    RaisingName,
    PicklingExits,
    PicklingInterrupts,
    PicklingRecurses,
    PicklingTakesMemory,
    UnpicklingExits,
    UnpicklingInterruptsElsewhere,
]
"""What `throw` raises."""
REBUILT = [kind for kind in KINDS if kind not in (RaisingGetattribute,)]
"""Those that come back as themselves where they can be unpickled at all."""
NO_VALUES = [PicklingExits, PicklingInterrupts, PicklingRecurses, PicklingTakesMemory]
"""Those that no call can return."""
