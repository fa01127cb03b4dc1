"""How many files this process, its slots and their commands may have open."""

from __future__ import annotations

import os
from contextlib import suppress

from encamp.errors import TooFewFiles
from encamp.slot.isolation.restore_process import resource_unseen

resource = resource_unseen()  # hidden, because slots import this, too

_EACH = 8
"""Maximum number of open files per slot in its supervisor."""
_ASIDE = 24
"""Open files that a supervisor needs in addition: to start a slot, for a journal, to list
folders."""
_ONE = 40
"""Open files of a slot: for its task's folder, the cache and a command."""
_FILES = resource.RLIMIT_NOFILE


class _Raised:
    """This process's limit before it was raised, and after."""

    before = after = -1


def need_files(slots: int) -> None:
    """Raise this process's limit, if necessary, to what this many more slots need.

    Slots and their commands keep the limit from before. Raises `TooFewFiles`.
    """
    soft, hard = resource.getrlimit(_FILES)
    infinite = resource.RLIM_INFINITY
    need = max(_open() + slots * _EACH + _ASIDE, _ONE)
    if soft == infinite or need <= soft:
        return
    if hard != infinite and need > hard:
        raise TooFewFiles(slots, need, hard)
    with suppress(ValueError, OSError):
        wanted = hard if hard != infinite else need
        resource.setrlimit(_FILES, (wanted, hard))
        if soft != _Raised.after:
            _Raised.before = soft
        _Raised.after = wanted


def files_of_others() -> int:
    """The limit for processes that this one starts: its own before `need_files` has raised it."""
    soft = resource.getrlimit(_FILES)[0]
    return _Raised.before if soft == _Raised.after else soft


def limit_files(soft: int) -> None:
    """Set this process's limit to the `files_of_others` of the process that has started it."""
    now, hard = resource.getrlimit(_FILES)
    if now != soft:
        with suppress(ValueError, OSError):
            resource.setrlimit(_FILES, (soft, hard))


def _open() -> int:
    """How many files this process has open; 0 if that is unknown."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:  # no /proc, or no descriptor left to list it
        return 0
