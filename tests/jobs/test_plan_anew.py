"""An input that changed while its task waited is used in its state when the task runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from job_steps import fail, write
from scripted import Scripted

import encamp
from encamp.errors import SourceChanged
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.reports import JobReport


def _run(job: encamp.Job, **options: Any) -> JobReport:
    with ThreadPoolExecutor(1) as pool:
        return job.run(pool, **options)


def _job(here: Path, **given: Any) -> encamp.Job:
    """The first task, which runs alone, changes what the second one mirrors."""
    for name in ("input", "tree/input"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("old")
    job = encamp.Job("job", to="out", **given)
    job.add("change", [encamp.call(write, str(here / n), "new") for n in ("input", "tree/input")])
    return job


@pytest.mark.parametrize("mirror", ["input", "tree"])
def test_finished_change_uses_no_retry(here: Path, mirror: str) -> None:
    def job() -> encamp.Job:
        job = _job(here) if not Path("out").exists() else encamp.Job("job", to="out")
        if not job.tasks:
            job.add("change", "true")
        job.add("read", f"cp -r {mirror} result", mirror=mirror, outputs="result")
        return job

    report = _run(job())
    assert report.count("done") == 2
    assert Path("out", "result/input" if mirror == "tree" else "result").read_text() == "new"
    assert _run(job())["read"].state == "up to date"


def test_job_inputs_are_looked_up_again_as_well(here: Path) -> None:
    job = _job(here, mirror="input")
    job.tasks.clear()
    job.add("read", "cp input result", outputs="result")
    executor = Scripted({"read": [lambda _: _changed(), lambda work: _found(work.shared)]})
    report = job.run(executor, check=False)
    assert [a.error_type for a in report["read"].attempts] == ["SourceChanged", None]


def _changed() -> Outcome:
    Path("input").write_text("another size")
    return Outcome(error=SourceChanged("input"))


def _found(items: Any) -> Outcome:
    (item,) = items
    assert item.size == len("another size")
    return Outcome()


def test_input_that_keeps_changing_fails(here: Path) -> None:
    Path("input").write_text("")

    def grow(_: object) -> Outcome:
        Path("input").write_text(Path("input").read_text() + "x")
        return Outcome(error=SourceChanged("input"))

    job = encamp.Job("job", to="out")
    job.add("read", "true", mirror="input", retries=1)
    report = job.run(Scripted({"read": [grow]}), check=False)
    assert report["read"].state == "failed"
    assert "changed while it was copied" in report["read"].why
    assert len(report["read"].attempts) == 1 + 1 + 3


def test_removed_input_fails_at_once(here: Path) -> None:
    Path("input").write_text("")

    def remove(_: object) -> Outcome:
        Path("input").unlink()
        return Outcome(error=SourceChanged("input"))

    job = encamp.Job("job", to="out")
    job.add("read", "true", mirror="input", retries=5)
    report = job.run(Scripted({"read": [remove]}), check=False)
    assert (report["read"].state, len(report["read"].attempts)) == ("failed", 1)
    assert "there is no 'input'" in report["read"].why


def test_other_failures_keep_what_was_planned(here: Path) -> None:
    job = encamp.Job("job", to="out", retries=2)
    job.add("try", encamp.call(fail, str(here / "counter"), 2), outputs="out.txt")
    assert len(_run(job)["try"].attempts) == 3
