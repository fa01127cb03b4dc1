"""How many files this process, its slots and their commands may have open."""

from __future__ import annotations

import os
from contextlib import suppress

from encamp.errors import TooFewFiles
from encamp.slot.isolation import resource_unseen

resource = resource_unseen()  # as this is imported in slots, too

_EACH = 8
"""What a slot takes up at most in its supervisor."""
_ASIDE = 24
"""What a supervisor needs besides: to start a slot, to journal, to look for files."""
_ONE = 40
"""What a slot needs for its task's folder, the cache and a command."""
_FILES = resource.RLIMIT_NOFILE


class _Raised:
    """What this process has done to its own limit."""

    before = after = -1


def need_files(slots: int) -> None:
    """Let this process have enough files open for so many slots more.

    Its own limit is raised where that helps; slots and their commands have the one from before.
    Raises `TooFewFiles`.
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
    """The limit that whatever this process starts is to have."""
    soft = resource.getrlimit(_FILES)[0]
    return _Raised.before if soft == _Raised.after else soft


def limit_files(soft: int) -> None:
    """Have a limit again that the process which has started this one had before."""
    now, hard = resource.getrlimit(_FILES)
    if now != soft:
        with suppress(ValueError, OSError):
            resource.setrlimit(_FILES, (soft, hard))


def _open() -> int:
    """How many files are open here."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:  # not on this system, or there is not even one left for that
        return 0
