"""Deeds in forked processes: started, traced by strace, hit by faults, ended."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from conftest import need
from encamp.storage.local_storage import LOCAL

_STEPS = """
    openat write pwrite64 copy_file_range rename renameat renameat2 link linkat unlink unlinkat
    mkdir mkdirat rmdir symlink symlinkat fsync fdatasync mount umount2 fcntl flock ftruncate
    chmod fchmod utimensat close
"""
"""System calls that change something, or stand beside one that does."""
CHAOS = int(os.environ.get("ENCAMP_CHAOS") or 0)
SEED = int(os.environ.get("ENCAMP_CHAOS_SEED") or 1)


T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """The ``number``-th call of one kind, as strace wrote it down."""

    call: str
    number: int
    line: str


@dataclass
class End:
    """How a deed ended: its exit status, and what it answered."""

    code: int
    result: Any = None
    error: str = ""
    named: bool = False
    text: str = ""
    trace: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """One line of forks, one at a time."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("deeds.py")
        self._child = -1
        self._server = subprocess.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"},
        )

    def begin(self, deed: str, *, local: Path, limit: str = "", **given: Any) -> int:
        """A process that will do a deed when it is told to `go`."""
        env = {LOCAL: str(local), "ENCAMP_CACHE_LIMIT": limit}
        self._send(json.dumps({"deed": deed, "given": given, "env": env}))
        pid = int(self._heard()["pid"])
        self._child = os.pidfd_open(pid)
        return pid

    def go(self) -> None:
        self._send("go")

    def end(self) -> End:
        """Wait for the end."""
        os.close(self._child)
        return End(**self._heard())

    def kill(self) -> bool:
        """Kill what `begin` began; returns whether it was not done yet."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._child, signal.SIGKILL)
        return self.end().killed

    def do(self, deed: str, **given: Any) -> End:
        """From beginning to end, with no fault."""
        self.begin(deed, **given)
        self.go()
        return self.end()

    def steps(self, log: Path, deed: str, calls: str = _STEPS, **given: Any) -> list[Step]:
        """Do it under strace; returns its system calls of the given kinds in order."""
        options = ["-y", "-o", str(log), "-e", f"trace={_any_of(calls)}"]
        end = self._traced(options, deed, given)
        assert end.error == "", end
        assert end.code == 0, end
        counts: Counter[str] = Counter()
        steps = []
        for line in log.read_text().splitlines():
            if found := re.match(r"\d+ +(\w+)\(", line):
                call = found[1]
                counts[call] += 1
                steps.append(Step(call, counts[call], line))
        return steps

    def hit(self, step: Step, fault: str, deed: str, **given: Any) -> End:
        """Do it with a fault (``signal=KILL``, ``error=EIO``) at one step."""
        calls, when = f"trace={step.call}", f"inject={step.call}:{fault}:when={step.number}"
        return self._traced(["-o", "/dev/null", "-e", calls, "-e", when], deed, given)

    def _traced(self, options: list[str], deed: str, given: dict[str, Any]) -> End:
        pid = self.begin(deed, **given)
        strace = subprocess.Popen(
            ["strace", "-f", *options, "-p", str(pid)], stderr=subprocess.PIPE, text=True
        )
        assert strace.stderr is not None
        output = strace.stderr.readline()
        assert "attached" in output, output
        self.go()
        end = self.end()
        strace.communicate(timeout=60)
        return end

    def _send(self, line: str) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()

    def _heard(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        data: dict[str, Any] = json.loads(self._server.stdout.readline())
        return data

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(60)


def _any_of(calls: str) -> str:
    """Calls that this machine may not have are marked with a question mark, see strace(1)."""
    return ",".join(f"?{call}" for call in sorted(set(calls.split())))


@contextmanager
def forks(*, traced: bool = True) -> Iterator[Forks]:
    """A line of forks for the time of a test."""
    if traced:
        need("strace", shutil.which("strace") is not None)
    line = Forks()
    try:
        yield line
    finally:
        line.close()


def chosen(steps: list[Step], wanted: int) -> list[Step]:
    """All steps with many counts; else about ``wanted`` at even distances, beginning anywhere."""
    if CHAOS or len(steps) <= wanted:
        return steps
    every = len(steps) // wanted
    return steps[random.Random(SEED).randrange(every) :: every]


def part_of(cases: list[T], part: int, parts: int) -> list[T]:
    """One of some parts of about equal size, each of which is a test of its own."""
    return cases[len(cases) * part // parts : len(cases) * (part + 1) // parts]


@contextmanager
def watched(folder: Path, stop: Path) -> Iterator[None]:
    """Nothing but whole files may be seen below ``folder`` during a block."""
    with forks(traced=False) as line:
        line.begin("watching", local=folder, folder=str(folder), stop=str(stop))
        line.go()
        try:
            yield
        finally:
            stop.touch()
            end = line.end()
    assert end.error == "", end.trace
    assert end.result["bad"] == []
    assert end.result["looks"] > 10
    assert end.result["files"] > 0
