"""Folders that stay between the tasks of one process, and end with it.

Their owner is the process, which holds their locks: after its death in any way, a reboot or with
a process id used again, they are leftovers like any other and nobody uses them.
"""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import suppress

from encamp.errors import EncampError
from encamp.storage.camp import Camp
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.ship import Channel

_lock = threading.Lock()
_idle: dict[str, tuple[Camp, list[Item]]] = {}
"""Name → folder that nobody uses now, and what is mirrored in it."""
_given: dict[Camp, list[Item]] = {}
_pid = os.getpid()


def persistent_camp(
    name: str, items: list[Item], *, renew: bool, channel: Channel | None = None
) -> Camp:
    """The folder of this name with these inputs, as its last user left it, or a new one.

    One that is in use is not waited for: another is made. Blocks while inputs are mirrored.
    """
    _forget_parents()
    with _lock:
        camp, before = _idle.pop(name, (None, []))
    if camp is not None and (renew or before != items or not camp.folder.is_dir()):
        camp.remove()
        camp = None
    if camp is None:
        camp = Camp(name, channel)
        try:
            camp.place(items)
        except BaseException:
            camp.remove()
            raise
    with _lock:
        _given[camp] = items
    return camp


def give_back(name: str, camp: Camp) -> None:
    """Let the next user have the folder; one too many, or with damaged inputs, is removed."""
    sound = _is_sound(name, camp)
    with _lock:
        items = _given.pop(camp)
        if sound and name not in _idle:
            _idle[name] = (camp, items)
            return
    camp.remove()


def _is_sound(name: str, camp: Camp) -> bool:
    try:
        camp.check_inputs(name)
    except (EncampError, OSError):
        return False
    return True


def remove_idle() -> None:
    """Remove all persistent folders of this process that nobody uses now."""
    _forget_parents()
    with _lock:
        camps = [camp for camp, _ in _idle.values()]
        _idle.clear()
    for camp in camps:
        with suppress(OSError):
            camp.remove()


def _forget_parents() -> None:
    """A forked process has no part in its parent's folders."""
    global _pid
    if _pid != os.getpid():
        _pid = os.getpid()
        _idle.clear()
        _given.clear()


atexit.register(remove_idle)
