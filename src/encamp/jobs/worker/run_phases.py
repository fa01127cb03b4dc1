"""The phases of an attempt, in its slot: from an empty folder to staged outputs.

job prephase     job inputs: from the share to this host's cache, once, and into the folder
task prephase    the task's own inputs: into the folder
main phase       the steps, one after the other
task postphase   outputs to temporary names at their destination; the folder is removed
"""

from __future__ import annotations

import os
import pickle
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from encamp.attempt_facts import Span
from encamp.errors import DiskFull, EncampError, StepFailed, Stopped, reason, words_of
from encamp.jobs.run_lease import LeaseWatch
from encamp.jobs.steps import Call, Command
from encamp.jobs.worker.log import TAIL, log_file, size_of, stage_log, tail_of
from encamp.jobs.worker.run_command import run_command
from encamp.jobs.worker.values_file import read_values
from encamp.jobs.worker.work_and_outcome import Outcome, Work, unpack
from encamp.slot.isolation.process_tree import end_descendants, helpers
from encamp.slot.isolation.restore_process import FolderRestored, resource_unseen
from encamp.slot.redirect_output import complain, flush, output_to
from encamp.slot.run_function import called
from encamp.slot.this_process import (
    ask,
    at_rest,
    at_supervisors_end,
    leave_process_alone,
    note,
    orphaned,
    send_to_supervisor,
    spoil,
    undone,
)
from encamp.storage.disk.disk_full import free_space
from encamp.storage.files_by_request import SpawnersFiles
from encamp.storage.folder_life import FolderLife
from encamp.storage.placing.damaged_inputs import Placed
from encamp.storage.spare_folder import remove_spare
from encamp.wire.pickling import (
    NotImportable,
    frames_of,
    portable_error,
    traceback_of,
)

resource = resource_unseen()  # hidden from the steps that run in this process
_SCARCE = 1 << 16
"""With fewer free bytes, a step's failure is explained by a full disk."""
_BRIEF = 0.1
"""Seconds for which the answer that the run continues stays valid."""
_OUR_OWN = str(Path(__file__).parents[2]) + os.sep
"""Folders with the code that calls steps, which tracebacks leave out."""
_LONGEST_TRACEBACK = 16_000


class AttemptNote(msgspec.Struct, frozen=True):
    """A note for the supervisor: everything that would be lost with this process."""

    folder: str
    """The attempt's folder, which the supervisor removes if this process dies."""
    pid: int
    cpu_seconds: float
    """CPU seconds that its process had used before."""
    step: StepBegins | None = None


class StepBegins(msgspec.Struct, frozen=True):
    """The running step; without a label, the steps are over."""

    label: str | None
    time_limit: float | None
    since: float
    """When it began, by `time.monotonic`, which is the same for all processes of a host."""
    before: tuple[tuple[str, float, float], ...]
    """The finished phases: the fields of `Span`."""
    mirrored: tuple[int, int, int]
    """Mirrored bytes and files, and fetched bytes of job inputs."""


def run_phases(work: Work, asks: bool = False) -> Outcome:
    """Run one attempt. Errors are in the outcome; only `NotImportable` is raised.

    With ``asks``, it may ask the spawner for files that it cannot see.
    """
    attempt = _Attempt(work, asks)
    attempt.run()
    return attempt.outcome


class _Attempt:
    def __init__(self, work: Work, asks: bool) -> None:
        self.work = work
        self.files = SpawnersFiles(ask) if asks else None
        self.outcome = Outcome(pid=os.getpid())
        self.placed = Placed()
        self._began = time.perf_counter()
        self._cpu_before = 0.0
        self._last_note = AttemptNote("", os.getpid(), 0.0)
        self.value: object = None
        self._tail = TAIL
        self._calls = True
        """Whether steps run in this process."""

    def run(self) -> None:
        with self._accounting():
            try:
                self._in_folder(self._steps())
            except (EncampError, Stopped, OSError) as exc:
                self._failed(exc)
        if isinstance(self.outcome.error, Stopped) and self._last_note.folder:
            send_to_supervisor(
                self._last_note
            )  # from now on the supervisor is responsible for the folder

    def _steps(self) -> tuple[Call | Command, ...]:
        try:
            steps = unpack(self.work.steps)
        except (NotImportable, Stopped):
            raise
        except BaseException as exc:  # noqa: BLE001 - importing runs third-party code
            cause = f"raised {reason(exc)}"
            tail = traceback_of(exc)[-TAIL:]
            error = StepFailed(self.work.task, "import of the steps", None, cause)
            self.outcome.log_tail = tail
            raise error from portable_error(exc)
        self._calls = any(isinstance(step, Call) for step in steps)
        if self._calls:
            _forget_peak_memory()
        else:
            leave_process_alone()
        return steps

    def _in_folder(self, steps: tuple[Call | Command, ...]) -> None:
        name = f"{self.work.job}.{self.work.task}"
        life = FolderLife(self.work.folder, self.files, name=name, spare=True)
        sandbox = life.sandbox
        at_supervisors_end(sandbox.remove)
        self._leave_note(str(sandbox.path))
        failed = True
        try:
            with output_to(log_file(sandbox.path)):
                self._all_phases(steps, life)
            failed = self.outcome.error is not None
        finally:
            if isinstance(self.outcome.error, Stopped):
                life.leave()
            else:
                self._end(life, failed=failed)
            at_supervisors_end(remove_spare)
            at_rest(remove_spare)

    def _end(self, life: FolderLife, *, failed: bool) -> None:
        """Stage the log and other wanted files of a folder, and remove it."""
        if failed and not orphaned():
            self.outcome.rescued = life.rescue()
        self._bring_log(life.sandbox.path)
        keep = self.work.keep
        life.keeps = keep == "always" or (failed and keep == "failed")
        life.end()
        if life.kept is not None:
            self.outcome.kept = f"{socket.gethostname()}:{life.kept}"

    def _all_phases(self, steps: tuple[Call | Command, ...], life: FolderLife) -> None:
        sandbox = life.sandbox
        self.placed = sandbox.placed
        try:
            with self._phase("job prephase"):
                sandbox.bring(self.work.shared)
            with self._phase("task prephase"):
                life.place()
                self.outcome.bytes_shared = sandbox.brought
            with undone() if self._calls else FolderRestored("/"):
                for step in steps:
                    self._step(step, sandbox.folder)
            self._note_step(None, None)
            self._end_rest()
            if self.work.values is not None:
                self.value = read_values(sandbox.folder / self.work.values, self.work.task)
            self.outcome.value = _pickled(self.value)
            self._check_wanted()
            with self._phase("task postphase"):
                self.outcome.staged = life.stage()
        except StepFailed as exc:
            self._failed(_disk_full_error(exc, sandbox.folder) or exc)
        except (EncampError, Stopped) as exc:
            self._failed(exc)

    def _end_rest(self) -> None:
        """End processes that still run in the background.

        A module that a step has used may still rely on one.
        """
        ended = end_descendants(grace=0, spare=helpers())
        if ended and self._calls:
            spoil()

    def _step(self, step: Call | Command, folder: Path) -> None:
        label = step.label
        self._note_step(label, step.time_limit)
        with self._phase(label):
            os.chdir(folder)
            if isinstance(step, Command):
                peak = run_command(step, folder, self.work.task)
                self.outcome.peak_memory = max(self.outcome.peak_memory, peak)
            else:
                self.value = self._call(step)

    def _call(self, step: Call) -> Any:
        try:
            return called(step.function, step.args, step.kwargs)
        except Stopped:
            raise
        except BaseException as exc:  # noqa: BLE001 - a step may raise anything
            self._tail = max(TAIL, min(_print_from_step(exc), _LONGEST_TRACEBACK))
            cause = f"raised {reason(exc)}"
            error = StepFailed(self.work.task, step.label, None, cause)
            raise error from portable_error(exc)
        finally:
            flush()  # before the next step's command writes

    def _check_wanted(self) -> None:
        """Stop if the outputs would be neither published nor removed."""
        if orphaned():
            raise Stopped
        # The supervisor has checked the lease when the attempt began.
        if time.perf_counter() - self._began > _BRIEF and LeaseWatch(self.work.lease).over():
            raise Stopped

    def _bring_log(self, path: Path) -> None:
        log = log_file(path)
        if not size_of(log):
            return
        self.outcome.log_tail = tail_of(log, self._tail)
        if orphaned():
            return
        with suppress(EncampError, OSError):
            self.outcome.log = stage_log(path, self.work, self.files, flush=self.work.folder.flush)

    def _leave_note(self, folder: str, step: StepBegins | None = None) -> None:
        self._last_note = AttemptNote(folder, self.outcome.pid, self._cpu_before, step)
        note(self._last_note)

    def _note_step(self, label: str | None, time_limit: float | None) -> None:
        before = tuple([(span.name, span.start, span.seconds) for span in self.outcome.phases])
        mirrored = self.placed.bytes, self.placed.files, self.outcome.bytes_shared
        step = StepBegins(label, time_limit, time.monotonic(), before, mirrored)
        self._leave_note(self._last_note.folder, step)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start, clock = self.work.clock.now(), time.perf_counter()
        try:
            yield
        finally:
            self.outcome.phases.append(Span(name, start, time.perf_counter() - clock))

    @contextmanager
    def _accounting(self) -> Iterator[None]:
        self._cpu_before = _cpu_seconds()
        try:
            yield
        finally:
            self.outcome.cpu_seconds = _cpu_seconds() - self._cpu_before
            if self._calls:
                self.outcome.peak_memory = max(self.outcome.peak_memory, _peak_memory())
            self.outcome.files_mirrored = self.placed.files
            self.outcome.bytes_mirrored = self.placed.bytes

    def _failed(self, exc: BaseException) -> None:
        self.outcome.error = portable_error(exc)


def _disk_full_error(failed: StepFailed, folder: Path) -> DiskFull | None:
    """`DiskFull` if the disk was almost full when the step failed, whatever its own error."""
    if (free := free_space(folder)) >= _SCARCE:
        return None
    full = DiskFull(str(folder), _SCARCE, free)
    full.__cause__ = failed
    return full


def _pickled(value: object) -> bytes | None:
    """The pickle of ``value``; None, and a line in the log, if it cannot be pickled."""
    if value is None:
        return None
    try:
        try:
            return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001 - of a class that is known by value only, perhaps
            import cloudpickle

            return bytes(cloudpickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))
    except Stopped:
        raise
    except BaseException as exc:  # noqa: BLE001 - pickling runs the value's own code
        kind = type(value).__name__
        why = f"the returned {kind} cannot be sent back ({words_of(exc)}); the value is None"
        complain(f"encamp: {why}\n")
        return None


def _print_from_step(exc: BaseException) -> int:
    """Print the traceback to the log, from the step's own first frame on; returns its bytes."""
    inner = frames_of(exc)
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OUR_OWN):
        inner = inner.tb_next
    text = traceback_of(BaseException.with_traceback(exc, inner) if inner else exc)
    complain(text)
    return len(text.encode("utf-8", "replace"))


def _cpu_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime)


def _forget_peak_memory() -> None:
    """Reset the kernel's measurement of this process's peak memory, see proc(5), clear_refs."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_memory() -> int:
    with suppress(OSError):
        status = Path("/proc/self/status").read_bytes()
        if found := re.search(rb"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):
            return int(found[1]) * 1024
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * 1024
