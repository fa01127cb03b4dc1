"""A launcher that runs an MPI job: its start, why it has ended, and what it leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from encamp import slurm
from encamp.engines.kit.own_interpreter import signals_to_restore
from encamp.engines.kit.wait_for_process import Sentinel
from encamp.engines.mpi.launch_plan import LaunchPlan
from encamp.engines.mpi.leftovers import remove
from encamp.engines.mpi.mpi_variables import HOME, KEPT_BACK, NEEDED_BY_HYDRA
from encamp.timeouts import ENDS

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - its usual path
_EACH = 32 << 20
"""Bytes of shared memory that a rank may need."""
_LEAST = 1 << 20
"""A rank cannot start with fewer bytes of shared memory, whatever it has printed."""
_SHORT_OF_MEMORY = re.compile(
    r"Bus error|signal 7\b|EXIT CODE: 7\b|No space left|shared memory|BTLs attempted: self",
    re.IGNORECASE,
)
"""Messages of MPIs that got no shared memory."""
_INTRUDER = re.compile(r"\] HYD_pmcd_pmiserv_proxy_init_cb ")
"""Hydra's message when it ends because a stranger has connected to its port."""
_INTRUDER_AT_START = re.compile(r"could not find pg with ID|cannot find proxy with ID")
"""The same while proxies connect: they may fail there, too, but have correct numbers."""
_TAIL = 2000


def ended_by_intruder(output: str, *, ready: bool) -> bool:
    """Whether a launcher has ended because a stranger has connected to it.

    ``output`` is what it has printed; ``ready`` is whether all processes of the job had connected
    before.
    """
    return bool(_INTRUDER.search(output) and (ready or _INTRUDER_AT_START.search(output)))


class LauncherProcess:
    """A running job. `end` also ends by force what its launcher leaves behind."""

    def __init__(self, plan: LaunchPlan, folder: Path, home: str) -> None:
        self._mark, self._ranks = home, plan.ranks
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            plan.command(folder),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            cwd=plan.cwd,
            env=_environment(plan, folder, home),
            preexec_fn=signals_to_restore(),
        )
        self.remains = [f"{tempfile.gettempdir()}/ompi.{self._process.pid}"]
        """Files and folders that the job must not leave behind, as its rank 0 reports them."""
        self.sentinel = Sentinel(self._process.pid)
        """A descriptor that is readable when the launcher has ended."""

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the launcher has ended."""
        return self._process.poll() is not None

    def why(self) -> str:
        """How it ended, with its latest output and that of its ranks."""
        code = self._process.poll()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
        text = re.sub(r"[-=*\s]*\n[-=*\s]*", "; ", self._log.read().decode(errors="replace"))
        how = "was ended" if code is None else f"ended with exit status {code}"
        each = _EACH if _SHORT_OF_MEMORY.search(text) else _LEAST
        if why := short_of_shared_memory(self._ranks, each):
            return f"the MPI job {how}: {why}"
        return f"the MPI job {how}: {text.strip('; ')}" if text.strip("; ") else f"the job {how}"

    def end(self, within: float, asked: float = ENDS) -> None:
        """Wait ``within`` seconds for its end, and then end it; nothing of it is left afterwards.

        It has ``asked`` seconds to end when it is asked to; ranks that outlive it have as many.
        """
        for action, seconds in ((_nothing, within), (self._process.terminate, asked)):
            action()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        else:
            self._process.kill()
            self._process.wait()
        self._end_ranks(asked)
        remove(self.remains)

    def close(self) -> None:
        """Close its descriptors; call this after `end` and `why`."""
        self.sentinel.close()
        self._log.close()

    def _end_ranks(self, asked: float) -> None:
        """End the ranks on this host that have outlived their launcher.

        Ranks that are just ending by themselves have ``asked`` seconds for it.
        """
        left = list(_marked(self._mark))
        _, left = psutil.wait_procs(left, timeout=asked if left else 0)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=ENDS)


def _environment(plan: LaunchPlan, folder: Path, home: str) -> dict[str, str]:
    """The variables of a launcher.

    Hydra sends its variables to the first process that connects to its port. It therefore gets only
    those it needs, and ranks on this host read the others from a file that only this user can read.
    """
    given = slurm.without_step({**os.environ, **plan.variables(), HOME: home})
    if plan.launcher.mpi != "mpich":
        return given
    kept_back = {name: v for name, v in given.items() if not name.startswith(NEEDED_BY_HYDRA)}
    fd = os.open(folder / KEPT_BACK, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(b"".join(os.fsencode(f"{name}={v}") + b"\0" for name, v in kept_back.items()))
    return {name: value for name, value in given.items() if name not in kept_back}


def short_of_shared_memory(ranks: int, each: int = _EACH) -> str:
    """The remedy if /dev/shm lacks ``each`` bytes for every rank; empty if it has them."""
    what = f"{_SHARED_MEMORY}, through which ranks of one host communicate,"
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return f"{what} does not exist or is not writable; mount it"
    there = os.statvfs(_SHARED_MEMORY)
    free, need = there.f_bavail * there.f_frsize, ranks * _EACH
    if free >= ranks * each:
        return ""
    return (
        f"{what} has {free / 2**20:.1f} MiB free, and {ranks} ranks may need {need >> 20} MiB; "
        "make it larger (in a container: --shm-size=1g)"
    )


def _nothing() -> None: ...


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(HOME) == mark:
                yield process
