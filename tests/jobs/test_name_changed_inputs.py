"""A run names the input that changed, and its report lists a task's inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

import encamp
from encamp.jobs.plan.name_changed_inputs import JobInputs
from encamp.jobs.report.read_report import read_report
from encamp.reports import JobReport, TaskReport
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.inputs.mirror import Mirror, plan


def strips(count: int = 3) -> encamp.Job:
    job = encamp.Job("strips", to="results", mirror={"models/*": "models"})
    for number in range(count):
        name = f"s{number}"
        job.add(name, f"cp {name}.las {name}.out", mirror=f"data/{name}*", outputs="*.out")
    job.add("all", "true", mirror=encamp.outputs_of("s*"))
    return job


def why(report: JobReport, name: str = "s0") -> str:
    return report[name].why


def test_the_input_that_changed_is_named(here: Path) -> None:
    for name in ("data/s0.las", "data/s1.las", "data/s2.las", "models/tt.lib", "models/ff.lib"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    report = strips().run(slots=2)
    assert (report.after["all"], report.after.keys()) == (["s0", "s1", "s2"], {"all"})
    task = report["s0"]
    [taken] = task.inputs
    status = Path("data/s0.las").stat()
    assert (taken.target, taken.size, taken.mtime_ns) == ("s0.las", 11, status.st_mtime_ns)
    assert taken.path == str(here / "data/s0.las")
    assert read_report(Path("results/strips.job/report.json"))["s0"] == task
    assert strips().run(slots=2)["s0"].inputs == [taken]

    Path("data/s0.las").write_text("other")
    Path("data/s1.hdr").write_text("new")
    foreseen, report = strips().run(dry_run=True), strips().run(slots=2)
    assert why(foreseen) == why(report) == "an input changed: data/s0.las"
    assert why(report, "s1") == "an input changed: data/s1.hdr is new"
    assert why(report, "s2") == "nothing changed"
    Path("data/s1.hdr").unlink()
    assert why(strips().run(slots=2), "s1") == "an input changed: data/s1.hdr is gone"

    Path("models/tt.lib").write_text("better")
    assert why(strips().run(slots=2), "s2") == "a job input changed: models/tt.lib"
    Path("models/tt.lib").unlink()
    assert why(strips().run(slots=2), "s2") == "a job input changed: models/tt.lib is gone"
    Path("results/strips.job/job-inputs.json").write_text("[broken")
    Path("models/ff.lib").write_text("better")
    assert why(strips().run(slots=2), "s2") == "a job input changed"


def test_a_moved_project_runs_again_and_says_where_its_inputs_were(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "old").mkdir()
    monkeypatch.chdir(here / "old")
    Path("a.in").write_text("a")

    def job() -> encamp.Job:
        made = encamp.Job("moved", to="results")
        made.add("a", "cp a.in a.out", mirror="a.in", outputs="a.out")
        return made

    assert job().run(slots=1)["a"].state == "done"
    (here / "old").rename(here / "new")
    monkeypatch.chdir(here / "new")
    assert why(job().run(dry_run=True), "a") == f"an input changed: a.in was {here}/old/a.in before"
    report = job().run(slots=1)
    assert report["a"].state == "done"
    assert Path("results/a.out").read_text() == "a"
    assert job().run(slots=1)["a"].state == "up to date"


def test_only_first_of_many_inputs_are_listed(here: Path) -> None:
    for number in range(25):
        Path(f"in-{number:02}").write_text("x")
    job = encamp.Job("many", to="results")
    job.add("a", "true", mirror="in-*")
    task: TaskReport = job.run(slots=1)["a"]
    assert (len(task.inputs), task.more_inputs) == (20, 5)
    Path("in-22").write_text("longer")
    assert why(job.run(dry_run=True), "a") == "an input changed"
    Path("in-02").write_text("longer")
    assert why(job.run(dry_run=True), "a") == "an input changed: in-02"


def test_the_latest_states_of_the_job_s_inputs_are_remembered(here: Path) -> None:
    states = JobInputs(TrustedFolder(here / "job.job"))
    Path("tt.lib").write_text("old")
    before = plan([Mirror("tt.lib")], here)
    Path("tt.lib").write_text("newer")
    now = plan([Mirror("tt.lib")], here)
    for number in range(12):
        states.note(str(number), before)
    assert [states.changed(str(number), now) for number in (0, 1)] == ["", ""]
    assert {states.changed(str(number), now) for number in range(2, 12)} == {"tt.lib"}
