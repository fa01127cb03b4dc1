"""The state of a running job for its display, other terminals and the page."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import encamp
from encamp.job_status import FailedTask, JobStatus, RunningTask
from encamp.jobs.display import run_monitor
from encamp.jobs.display.draw_progress import StatusView
from encamp.jobs.display.run_monitor import Throttle
from encamp.jobs.progress_interface import Silent
from encamp.jobs.report.status_file import last_status, left_by_a_killed_run
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.units import clock_text


def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a run tell how it stands all the time."""
    for name in ("DISPLAYED_EVERY", "WRITTEN_EVERY", "_DRAWN_EVERY"):
        monkeypatch.setattr(run_monitor, name, 0.02)
    monkeypatch.setattr(run_monitor, "_SHARE", 0)


class Noting(Silent):
    """Keeps all that it is told of how a run stands."""

    def __init__(self) -> None:
        self.all: list[JobStatus] = []
        self.files: list[dict[str, Any]] = []
        self.pages: list[str] = []

    def status(self, status: JobStatus) -> None:
        self.all.append(status)
        folder = Path(status.folder)
        if (folder / "status.json").exists():
            self.files.append(json.loads((folder / "status.json").read_bytes()))
        if (folder / "report.html").exists():
            self.pages.append((folder / "report.html").read_text())


def wait(seconds: float, marks: str) -> None:
    time.sleep(seconds)
    if marks == "bad":
        raise ValueError("the strip is broken")


def test_a_run_tells_which_tasks_run_and_what_is_left(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often(monkeypatch)
    job = encamp.Job("strips", to="results")
    for number in range(6):
        fails = number == 1
        job.add(f"s{number}", encamp.call(wait, 0.1 if fails else 0.6, "bad" if fails else "good"))
    noting = Noting()
    job.run(slots=2, check=False, progress=noting)
    most = max(status.counts.get("running", 0) for status in noting.all)
    assert most == 2
    for status in noting.all:
        assert sum(status.counts.values()) == status.tasks == 6
        assert len(status.running) == status.counts.get("running", 0)
        assert status.slots == 2
    [failed] = noting.all[-1].failed
    assert failed.name == "s1"
    assert "the strip is broken" in failed.why
    assert noting.all[0].left is None
    assert any(status.left is not None for status in noting.all)
    assert {file["name"] for file in noting.files} == {"strips"}
    assert any('"live":{' in page for page in noting.pages)
    assert not Path("results/strips.job/status.json").exists()
    assert '"live":{' not in Path("results/strips.job/report.html").read_text()


def test_status_omits_facts_unknown_to_executor(here: Path) -> None:
    class Secretive(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Future[Any]:
            inner, outer = super().submit(*arguments, **named), Future[Any]()
            inner.add_done_callback(lambda done: outer.set_result(done.result()))
            return outer

    job = encamp.Job("strips", to="results")
    job.add("a", encamp.call(wait, 0.0, "good"))
    noting = Noting()
    with Secretive(1) as pool:
        job.run(pool, progress=noting)
    assert all(status.running == [] for status in noting.all)
    assert any(status.handed_over == 1 for status in noting.all) or len(noting.all) == 1


def test_the_page_of_a_killed_run_does_not_stay(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = encamp.Job("strips", to="results")
    job.add("a", encamp.call(wait, 0.0, "good"))
    job.run(slots=1)
    folder = Path("results/strips.job")
    whole = (folder / "report.html").read_text()
    job.run(slots=1)
    assert (folder / "report.html").read_text() == whole  # nothing had to run
    (folder / "report.html").write_text("it goes on")
    (folder / "status.json").write_text("{}")
    with TrustedFolder(folder).opened() as files:
        assert left_by_a_killed_run(files)
    job.run(slots=1)
    assert "it goes on" not in (folder / "report.html").read_text()
    assert not (folder / "status.json").exists()


def test_unreadable_status_is_none(here: Path) -> None:
    assert last_status(TrustedFolder(here)) is None
    for broken in ("", "{}", "[1]", '{"name": 3}'):
        (here / "status.json").write_text(broken)
        assert last_status(TrustedFolder(here)) is None


def test_status_writing_takes_small_part_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    throttle = Throttle(2.0)
    assert not throttle()
    now = 102.0
    assert throttle()
    throttle.done(1.0)
    now = 102.0 + 49
    assert not throttle()
    now = 102.0 + 50
    assert throttle()


def status(**more: Any) -> JobStatus:
    names = [f"mc-with-a-rather-long-name-{'x' * 90}-{n}" for n in range(30)]
    facts: dict[str, Any] = {
        "name": "a job whose name is longer than a line has room for it",
        "folder": "/data/results/job",
        "state": "running",
        "controller": "process 1 on here",
        "now": 100.0,
        "started": 0.0,
        "tasks": 12345,
        "counts": {"running": 30, "waiting": 12000, "done": 300, "failed": 12, "blocked": 3},
        "running": [RunningTask(name, 2, 40.0) for name in names],
        "failed": [FailedTask("a", "why")],
        "left": 3725.0,
        "bytes_mirrored": 1 << 33,
    }
    return JobStatus(**(facts | more))


@pytest.mark.parametrize("width", [32, 40, 80, 200])
def test_a_display_never_has_a_line_that_is_too_long(width: int) -> None:
    lines = drawn(status(), width)
    assert max(map(len, lines)) < width
    assert len(lines) <= 12


def test_a_display_labels_its_times_and_counts() -> None:
    bar, times, counts, first, *_, last = drawn(status(), 80)
    assert bar.endswith("315/12345")
    assert times == "  elapsed 1 min 45 s, about 1 h 02 min left, 8.0 GiB mirrored"
    assert counts == "  30 running, 12000 waiting, 300 done, 12 failed, 3 blocked"
    assert first.endswith("…  1 min 05 s  attempt 2")
    assert last == "  and 23 more"
    assert drawn(status(state="stopping"), 80)[1].startswith("  elapsed 1 min 45 s, stopping")


def test_a_low_terminal_has_no_list_of_tasks() -> None:
    assert len(drawn(status(), 80, height=5)) == 3


def drawn(of: JobStatus, width: int, height: int = 24) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(StatusView(of, 5.0))
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599.4, "59 min 59 s"),
     (3600, "1 h 00 min"), (90061, "25 h 01 min")],
)  # fmt: skip
def test_times_have_their_units(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_a_script_prints_what_the_command_prints_and_a_library_nothing(here: Path) -> None:
    Path("library.py").write_text(
        "import encamp\n"
        "def run(to):\n"
        "    job = encamp.Job('quiet', to=to)\n"
        "    job.add('one', 'true')\n"
        "    return job.run(slots=1)\n"
    )
    script = Path("script.py")
    script.write_text(
        "import encamp, library\n"
        "job = encamp.Job('told', to='results')\n"
        "job.add('one', 'true')\n"
        "job.run(slots=1, dry_run=True)\n"
        "job.run(slots=1)\n"
        "library.run('results')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    first, line, *_, report = done.stderr.splitlines()
    assert first == "told: 1 task in 1 slot"
    assert line.startswith("[1/1] done one on ")
    assert report == f"report: {here}/results/told.job/report.html"
