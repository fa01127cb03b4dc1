"""Persistent sandboxes, which are kept for later tasks of one process, and end with it.

Their owner is the process, which holds their locks: after its death, a reboot, or the reuse of its
process id, they are leftovers like any other, and no process uses them.
"""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import suppress

from encamp.errors import EncampError
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.send_inputs import Channel
from encamp.storage.sandbox_folder import Sandbox

_lock = threading.Lock()
_idle: dict[str, tuple[Sandbox, list[Item]]] = {}
"""Name → idle folder, and the inputs that are mirrored in it."""
_given: dict[Sandbox, list[Item]] = {}
_pid = os.getpid()


def persistent_sandbox(
    name: str, items: list[Item], *, renew: bool, channel: Channel | None = None
) -> Sandbox:
    """The folder of this name with these inputs, as its last user left it, or a new one.

    If that folder is in use, a new one is created. Blocks while inputs are mirrored.
    """
    _forget_parents()
    with _lock:
        sandbox, before = _idle.pop(name, (None, []))
    if sandbox is not None and (renew or before != items or not sandbox.folder.is_dir()):
        sandbox.remove()
        sandbox = None
    if sandbox is None:
        sandbox = Sandbox(name, channel)
        try:
            sandbox.place(items)
        except BaseException:
            sandbox.remove()
            raise
    with _lock:
        _given[sandbox] = items
    return sandbox


def give_back(name: str, sandbox: Sandbox) -> None:
    """Keep a folder for the next user; remove it if there is one already, or inputs are damaged."""
    sound = _is_sound(name, sandbox)
    with _lock:
        items = _given.pop(sandbox)
        if sound and name not in _idle:
            _idle[name] = (sandbox, items)
            return
    sandbox.remove()


def _is_sound(name: str, sandbox: Sandbox) -> bool:
    try:
        sandbox.check_inputs(name)
    except (EncampError, OSError):
        return False
    return True


def remove_idle() -> None:
    """Remove all idle persistent folders of this process."""
    _forget_parents()
    with _lock:
        sandboxes = [sandbox for sandbox, _ in _idle.values()]
        _idle.clear()
    for sandbox in sandboxes:
        with suppress(OSError):
            sandbox.remove()


def _forget_parents() -> None:
    """In a forked process: forget the parent's folders."""
    global _pid
    if _pid != os.getpid():
        _pid = os.getpid()
        _idle.clear()
        _given.clear()


atexit.register(remove_idle)
