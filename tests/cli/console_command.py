"""Running the ``encamp`` command as its users do: in a process of its own, from any folder.

Where nothing speaks against it, that process is a fork of one which has loaded the command.
"""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from encamp.testing.waiting import until

ENCAMP = shutil.which("encamp", path=Path(sys.executable).parent) or shutil.which("encamp") or ""


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    def check_refused(self, *words: str, status: int = 2) -> str:
        """One sentence on standard error, with these words in it, and nothing else."""
        assert self.status == status, self
        assert self.out == "", self
        [line] = self.err.splitlines()
        assert line.startswith("encamp: "), line
        missing = [word for word in words if word not in line]
        assert missing == [], f"not said in {line!r}"
        return line

    def check_failed(self, *words: str) -> None:
        """Some task failed, and standard error says why without a traceback of encamp's own."""
        assert self.status == 1, self
        assert "Traceback" not in self.err, self.err
        missing = [word for word in words if word not in self.err]
        assert missing == [], f"not said in {self.err!r}"


def encamp(*words: str | Path, by: Sequence[str | Path] = (), timeout: float = 60) -> Ended:
    """Run the command to its end; ``by`` is a command line that starts it."""
    line = [str(word) for word in (*by, ENCAMP, *words)]
    status, *output = (
        _by_itself(line, timeout) if by or not _as_at_first() else _forked(line, timeout)
    )
    out, err = (text.decode("utf-8", "backslashreplace") for text in output)
    return Ended(status, out, err)


def _by_itself(line: list[str], timeout: float) -> tuple[int, bytes, bytes]:
    ended = subprocess.run(line, capture_output=True, timeout=timeout, check=False)
    return ended.returncode, ended.stdout, ended.stderr


_AT_FIRST = dict(os.environ)
_LONGEST = 1 << 17
"""Bytes of the longest message to `forked_commands.py`."""


def _as_at_first() -> bool:
    """Whether all that a Python looks at when it starts is as it was."""
    at_start = ("PYTHON", "LC_", "LANG", "LD_")
    names = {name for name in {*os.environ, *_AT_FIRST} if name.startswith(at_start)}
    return all(os.environ.get(name) == _AT_FIRST.get(name) for name in names)


@functools.cache
def _forks() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A process that forks into commands, with what speaks with it; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program, number = Path(__file__).with_name("forked_commands.py"), theirs.fileno()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, program, str(number)], pass_fds=[number], cwd="/", env=_AT_FIRST,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return ours, process


def _forked(line: list[str], timeout: float) -> tuple[int, bytes, bytes]:
    umask = os.umask(0)
    os.umask(umask)
    message = json.dumps([line, dict(os.environ), umask]).encode()
    if len(message) > _LONGEST:
        return _by_itself(line, timeout)
    (forks, _), folder = _forks(), os.open(".", os.O_PATH)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        socket.send_fds(forks, [message], [folder, out.fileno(), err.fileno()])
        os.close(folder)
        pid = int(forks.recv(20))
        if not select.select([forks], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            forks.recv(20)
            raise subprocess.TimeoutExpired(line, timeout)
        status = int(forks.recv(20))
        for file in (out, err):
            file.seek(0)
        return status, out.read(), err.read()


def stopped(number: signal.Signals, ready: Callable[[], bool], *words: str | Path) -> Ended:
    """Run the command, send it a signal when ``ready``, and wait for its end."""
    process = start(*words)
    try:
        until(ready)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    return Ended(process.returncode, out, err)


def start(*words: str | Path) -> subprocess.Popen[str]:
    """Start the command in a session of its own, as a terminal's job would be."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [ENCAMP, *words], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def as_ordinary_user() -> list[str]:
    """What starts a command that permissions hold back, also where the tests run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def with_small_disk(folder: Path, size: str) -> list[str]:
    """What starts a command that finds an empty disk of ``size`` mounted at ``folder``."""
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    maps = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--mount", *maps, "sh", "-c", script, "sh", size, str(folder)]


def works(line: Sequence[str]) -> bool:
    """Whether a command line that starts another one can do so here."""
    try:
        return subprocess.run([*line, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def results(folder: Path) -> dict[str, bytes]:
    """Name → bytes of what was published below ``folder``, without the jobs' own folders."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = {str(file.relative_to(folder)): file for file in files}
    return {n: f.read_bytes() for n, f in sorted(names.items()) if ".job/" not in n}
