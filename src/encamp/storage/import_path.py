"""Where Python looks for modules, for processes on hosts with other paths of shared folders.

On another host, a folder of the same name may belong to another user. There, only folders that no
other user can put modules into are added, after the host's own.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from encamp.errors import EncampError, printable
from encamp.search_paths import only_ours
from encamp.storage.process_identity import boot_id
from encamp.storage.shared_folders import SharedPath, in_root, shared_roots, to_actual

_SEP = "\0"
_LIBRARY = Path(os.__file__).parent
_STANDARD = re.compile(
    rf"{re.escape(str(_LIBRARY))}(/lib-dynload)?|{re.escape(str(_LIBRARY.parent))}/python\d+\.zip"
)
"""The folders of `sys.path` in which this interpreter has its standard library."""
_VERSION = re.compile(r"/python(\d+\.\d+)/(?:site|dist)-packages(?=/|$)")
"""In paths such as ``/usr/lib/python3.11/site-packages``; people name other folders like this."""


def import_path() -> list[str]:
    """This process's `sys.path` in a form for `extend_import_path` on other hosts.

    Without the standard library, which belongs to the interpreter.
    """
    roots, words = shared_roots(), [f"{_SEP}{boot_id()}"]
    for given in sys.path:
        folder = os.path.abspath(given or ".")
        if not _STANDARD.fullmatch(folder):
            shared = in_root(os.path.realpath(folder), roots)
            parts = (folder,) if shared is None else (folder, str(shared.root), shared.rest)
            words.append(_SEP.join(parts))
    return words


def is_far(words: Iterable[str]) -> bool:
    """Whether `import_path` was called on another host, as far as can be known."""
    mark = next((word for word in words if word.startswith(_SEP)), None)
    return mark is not None and (mark == _SEP or mark != f"{_SEP}{boot_id()}")


def extend_import_path(words: Iterable[str]) -> list[str]:
    """Look for modules where another process does; returns the folders that are left out.

    On the same host they come before this process's own; see above for other hosts. A folder that
    does not exist here under its name is looked for in its shared root. Packages that are installed
    for a different version of Python are not searched.
    """
    words = list(words)
    if not words:
        return []
    folders = [_here(word) for word in words if not word.startswith(_SEP)]
    new = [folder for folder in folders if folder not in sys.path and _is_for_this_python(folder)]
    if not is_far(words):
        sys.path[:0] = new
        return []
    ours = [folder for folder in new if only_ours(folder)]
    sys.path += ours
    return [folder for folder in new if folder not in ours and Path(folder).exists()]


def left_out_words(folders: list[str], host: str) -> str:
    """The warning about folders that `extend_import_path` has left out; empty if there are none."""
    if not folders:
        return ""
    names = ", ".join(map(printable, folders))
    return (
        f"on {printable(host)}, modules and libraries are not searched in {names}, where others "
        "can write; install them there, or keep them in a folder that only you can write to"
    )


def _is_for_this_python(folder: str) -> bool:
    versions = _VERSION.findall(folder)
    return not versions or versions[-1] == "{}.{}".format(*sys.version_info)


@cache
def _here(words: str) -> str:
    folder, *shared = words.split(_SEP)
    if shared and not Path(folder).exists():
        try:
            return str(to_actual(SharedPath(int(shared[0]), shared[1])))
        except EncampError:
            return folder
    return folder
