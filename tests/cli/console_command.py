"""Running the ``encamp`` command as its users do: in a process of its own, from any folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
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
    line = [*by, ENCAMP, *words]
    ended = subprocess.run(line, capture_output=True, timeout=timeout, check=False)
    out, err = (text.decode("utf-8", "backslashreplace") for text in (ended.stdout, ended.stderr))
    return Ended(ended.returncode, out, err)


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
