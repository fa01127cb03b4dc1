"""``python -m benchmarks.compared``: one sweep by encamp, GNU parallel, joblib and Snakemake.

300 runs of a circuit simulator, from nothing, again, after a change of the model, after a run was
removed, and after a kill in the middle. Writes its table into docs/compared.md. The programs
that it compares are in ``benchmarks/sweep``; their lines are what a user writes.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.peers.installed import installed

HERE = Path(__file__).parent / "sweep"
PAGE = Path(__file__).parents[1] / "docs/compared.md"
COMMON = ("filter.cir", "parts.inc", "measure.sp")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
BIN = Path(sys.executable).parent
JOBLIB, SNAKEMAKE = ("joblib==1.6.0",), ("snakemake==9.27.1",)


@dataclass(frozen=True)
class System:
    """One of those that are compared."""

    name: str
    file: str
    command: tuple[str, ...]
    table: str = "results.csv"
    unlock: tuple[str, ...] | None = None
    """What its user has to say after a kill before the command goes on."""
    packages: tuple[str, ...] = ()

    def lines(self) -> int:
        """The lines of code that its user writes."""
        text = (HERE / self.file).read_text().splitlines()
        return sum(1 for line in text if line.strip() and not line.lstrip().startswith("#"))


_SNAKEMAKE = (sys.executable, "-m", "snakemake", "--cores", "2", "--quiet")
SYSTEMS = (
    System("GNU parallel", "sweep.sh", ("bash", "sweep.sh")),
    System("joblib", "sweep.py", (sys.executable, "sweep.py"), packages=JOBLIB),
    System(
        "Snakemake",
        "Snakefile",
        _SNAKEMAKE,
        unlock=(*_SNAKEMAKE, "--unlock"),
        packages=SNAKEMAKE,
    ),
    System(
        "encamp",
        "sweep.toml",
        (str(BIN / "encamp"), "run", "--quiet", "-j", "2", "sweep.toml"),
        "results/sweep.job/results.csv",
    ),
)


@dataclass(frozen=True)
class Ran:
    """One command of a system: how long it took, and how often it called the simulator."""

    seconds: float
    calls: int
    status: int


@dataclass
class Place:
    """A folder in which one system does the sweep."""

    system: System
    folder: Path
    runs: int
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        work = self.folder / "work"
        work.mkdir(parents=True)
        for name in (*COMMON, self.system.file):
            shutil.copy(HERE / name, work)
        self.change(self.system.file, "300", str(self.runs))
        self.change(self.system.file, "301", str(self.runs + 1))
        simulator = shutil.which("ngspice")
        assert simulator is not None
        (self.folder / "bin").mkdir()
        counting = self.folder / "bin/ngspice"
        counting.write_text(f'#!/bin/sh\necho >> {self.folder}/calls\nexec {simulator} "$@"\n')
        counting.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{counting.parent}:{BIN}:{os.environ['PATH']}",
            "PARALLEL_LOCAL_STORAGE": str(self.folder / "local"),
            "PYTHONPATH": str(installed(self.system.packages)) if self.system.packages else "",
        }

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def calls(self) -> int:
        """How often the simulator was called so far."""
        path = self.folder / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def change(self, file: str, old: str, new: str) -> None:
        """Edit one of the files, as its user would."""
        path = self.work / file
        path.write_text(re.sub(rf"\b{old}\b", new, path.read_text()))

    def run(self, command: tuple[str, ...] | None = None) -> Ran:
        """Run its command to the end."""
        before, begin = self.calls, time.perf_counter()
        done = subprocess.run(
            command or self.system.command, cwd=self.work, env=self.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=3000,
        )  # fmt: skip
        return Ran(time.perf_counter() - begin, self.calls - before, done.returncode)

    def kill(self, at: int) -> int:
        """Start the command, and kill it (SIGKILL) with all its processes after so many calls."""
        before = self.calls
        process = subprocess.Popen(
            self.system.command, cwd=self.work, env=self.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while self.calls - before < at and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(3)  # what outlives it ends by itself, or goes on: that is part of the comparison
        return self.calls - before

    def values(self) -> dict[int, float]:
        """The table that it made: corner frequency by seed."""
        path = self.work / self.system.table
        if not path.exists():
            return {}
        with path.open() as file:
            return {int(row["seed"]): float(row["corner_hz"] or 0) for row in csv.DictReader(file)}

    def left(self) -> str:
        """What it keeps of a run that was removed, besides the table."""
        if (self.work / f"runs/{self.runs}/corner.txt").exists():
            return "its files stay"
        return "its value stays in the cache" if (self.work / "cache").exists() else "nothing stays"


@dataclass(frozen=True)
class Found:
    """What came of one system."""

    system: System
    first: Ran
    again: Ran
    changed: Ran
    noticed: bool
    removed: Ran
    rows: int
    left: str
    killed: int
    after: Ran
    unlocked: bool
    right: bool


def compare(system: System, folder: Path, runs: int) -> Found:
    """All that is done with one system."""
    place = Place(system, folder / "one", runs)
    first = place.run()
    old = place.values()
    again = place.run()
    place.change("parts.inc", "100n", "82n")
    changed = place.run()
    noticed = place.values() != old
    place.change(system.file, str(runs), str(runs - 1))
    place.change(system.file, str(runs + 1), str(runs))
    removed, rows, left = place.run(), len(place.values()), place.left()
    broken = Place(system, folder / "two", runs)
    killed = broken.kill(runs // 3)
    after, unlocked = broken.run(), False
    if after.status and system.unlock is not None:
        broken.run(system.unlock)
        after, unlocked = broken.run((*system.command, "--rerun-incomplete")), True
    right = broken.values() == old and len(old) == runs
    return Found(system, first, again, changed, noticed, removed, rows, left, killed, after,
                 unlocked, right)  # fmt: skip


def once_more(one: Found, runs: int) -> Found:
    """With the quicker of two first runs; the second one is made when all systems have had one."""
    with tempfile.TemporaryDirectory(prefix="encamp-compared-") as folder:
        again = Place(one.system, Path(folder, "three"), runs).run()
    return replace(one, first=min(one.first, again, key=lambda ran: ran.seconds))


def rows(found: list[Found], runs: int) -> Iterator[list[str]]:
    """The table's rows."""
    base = found[0].first.seconds
    yield ["", *(one.system.name for one in found)]
    yield ["Lines of user code", *(str(one.system.lines()) for one in found)]
    yield [
        f"{runs} runs, from nothing",
        *(f"{one.first.seconds:.0f} s ({one.first.seconds / base:.1f} times)" for one in found),
    ]
    yield ["Again, nothing changed", *(_again(one.again) for one in found)]
    yield ["After a change of the model", *(_changed(one, runs) for one in found)]
    removed = (f"{one.rows} rows; {one.left}" for one in found)
    yield ["After one run was removed from the sweep", *removed]
    yield [f"Killed after {runs // 3} runs, run again", *(_after(one, runs) for one in found)]


def _again(ran: Ran) -> str:
    return f"{ran.calls} runs, {ran.seconds:.1f} s"


def _changed(one: Found, runs: int) -> str:
    if not one.noticed:
        return "not noticed: the old results stay"
    return "all run again" if one.changed.calls == runs else f"{one.changed.calls} run again"


def _after(one: Found, runs: int) -> str:
    twice = one.killed + one.after.calls - runs
    unlock = "refuses until it is unlocked; then " if one.unlocked else ""
    result = "the table is right" if one.right else "**the table is wrong**"
    return f"{unlock}{one.after.calls} runs, {max(twice, 0)} of them a second time; {result}"


def table(found: list[Found], runs: int) -> str:
    """All of it in Markdown."""
    head, *body = rows(found, runs)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(text: str, page: Path = PAGE) -> None:
    """Put the table between the marks of the page."""
    whole = page.read_text()
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main(runs: int = 300) -> None:
    """Compare all systems and write the page."""
    found: list[Found] = []
    for system in SYSTEMS:
        with tempfile.TemporaryDirectory(prefix="encamp-compared-") as folder:
            found.append(compare(system, Path(folder), runs))
            print(found[-1], flush=True)
    write_all([once_more(one, runs) for one in found], runs)


def write_all(found: list[Found], runs: int) -> None:
    """Print the table; that of 300 runs goes into the page."""
    text = table(found, runs)
    print(text)
    note = (
        f"Measured on {os.cpu_count()} cores. The load average, including the benchmark itself, "
        f"was {os.getloadavg()[0]:.0f}. In brackets: the time as a multiple of GNU parallel's."
    )
    if runs == 300:
        write(f"{text}\n\n{note}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
