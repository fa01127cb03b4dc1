"""A job's own folder gets no outputs and is never an input, even if everything is mirrored."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from job_steps import write

import encamp
from encamp.errors import BadDestination, UnusableInput
from encamp.jobs.plan.prepare import Prepared
from encamp.reports import JobReport
from encamp.storage.outputs.patterns import OutputMap


def _run(job: encamp.Job, **options: Any) -> JobReport:
    with ThreadPoolExecutor(1) as pool:
        return job.run(pool, **options)


@pytest.mark.parametrize(
    "outputs",
    [
        {"journal.jsonl": "job.job"},
        {"*.jsonl": "job.job"},
        {"x": "job.job/logs"},
        {"**/*": "sub/../job.job/deeper"},
        {"x": "link"},
        {"x": "link/logs"},
        {"job.job": "."},
        {"sub/job.job": "."},
        {"*.job": "."},
        {"**/*.job": "."},
        {"**/j*.job": "{here}"},
        {"sub/[j]ob.job": "."},
        encamp.Output("x", rename="job.job"),
        encamp.Output("*.txt", rename="{stem}.job"),
        {"lock": "{here}/out/job.job"},
        {"lock": "file://{here}/out/job.job"},
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_outputs_that_lead_into_it_are_refused(here: Path, outputs: Any, failed: bool) -> None:
    Path("out/job.job").mkdir(parents=True)
    Path("out/link").symlink_to("job.job")
    if isinstance(outputs, dict):
        outputs = {name: to.format(here=here) for name, to in outputs.items()}
    given: dict[str, OutputMap] = {"on_failure" if failed else "outputs": outputs}
    job = encamp.Job("job", to="out")
    job.add("task", "true", **given)
    with pytest.raises(BadDestination, match="job's own folder"):
        job.run()
    assert list(Path("out/job.job").iterdir()) == []


def test_outputs_beside_it_are_taken(here: Path) -> None:
    Path("out/job.job").mkdir(parents=True)
    job = encamp.Job("job", to="out")
    job.add("task", "true", outputs={"x": "job.jobs", "*": ".", "job.job": "in", "journal*": "."})
    job.add("more", "true", outputs={"*.job": "in", "[!j]*.job": ".", "job.*": ".", "**/*": "."})
    Prepared(job)


def test_output_name_is_refused_at_end_if_known_only_then(here: Path) -> None:
    job = encamp.Job("job", to="out")
    steps = [encamp.command("mkdir job.job"), encamp.call(write, "job.job/journal.jsonl", "mine")]
    job.add("task", steps, outputs="**/*")
    job.add("other", encamp.call(write, "x"), outputs="x")
    report = _run(job, check=False)
    assert (report["task"].state, report["other"].state) == ("failed", "done")
    assert "job's own folder" in report["task"].why
    lines = Path("out/job.job/journal.jsonl").read_text().splitlines()
    assert all("event" in json.loads(line) for line in lines)
    assert _run(job, check=False)["other"].state == "up to date"


def _list(name: str) -> None:
    found = sorted(str(path) for path in Path().rglob("*") if path.is_file())
    Path(name).write_text("\n".join(found))
    Path(f"link-{name}").symlink_to(name)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (".", ["work/a.csv", "work/sub/b.csv"]),
        ("*", ["a.csv", "sub/b.csv"]),
        ("**", ["a.csv", "sub/b.csv"]),
        ("**/*.csv", ["a.csv", "sub/b.csv"]),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_mirroring_everything_excludes_results(
    here: Path, pattern: str, wanted: list[str], shared: bool
) -> None:
    Path("sub").mkdir()
    Path("a.csv").touch()
    Path("sub/b.csv").touch()

    def job(tasks: int) -> encamp.Job:
        job = encamp.Job("job", to="results", mirror=pattern if shared else ())
        for number in range(tasks):
            name = f"list{number}.csv"
            mirror = () if shared else pattern
            job.add(
                f"t{number}",
                encamp.call(_list, name),
                mirror=mirror,
                outputs=[name, f"link-{name}"],
            )
        return job

    assert _run(job(1)).count("done") == 1
    assert Path("results/link-list0.csv").is_symlink()
    report = _run(job(2))
    assert [task.state for task in report.tasks] == ["up to date", "done"]
    assert Path("results/list1.csv").read_text().split("\n") == wanted


def test_mirrored_destination_excludes_job_folder(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("make", encamp.call(write, "x.txt"), outputs={"x.txt": "m"})
    job.add("all", encamp.call(_list, "l"), mirror="out", after="make", outputs={"l": str(here)})
    assert _run(job).count("done") == 2
    assert Path("l").read_text() == "out/m/x.txt"
    assert _run(job).count("up to date") == 2


@pytest.mark.parametrize(
    "pattern",
    [
        *("out/job.job", "out/job.job/", "out/job.job/report.json", "out/job.job/*"),
        *("./out/../out/job.job/logs/../report.json", "job.link", "job.report", "job.out/job.job"),
    ],
)
def test_job_folder_cannot_be_an_input(here: Path, pattern: str) -> None:
    Path("out/job.job/logs").mkdir(parents=True)
    Path("out/job.job/report.json").touch()
    Path("job.link").symlink_to("out/job.job")
    Path("job.report").symlink_to("out/job.job/report.json")
    Path("job.out").symlink_to("out")
    job = encamp.Job("job", to="out")
    job.add("task", "true", mirror=pattern)
    with pytest.raises(UnusableInput, match="every run of the job writes there"):
        Prepared(job)


def test_files_beside_it_and_its_logs_are_inputs(here: Path) -> None:
    Path("out/job.job/logs").mkdir(parents=True)
    Path("out/job.txt").touch()
    Path("out/job.job/logs/job-1.log").touch()
    job = encamp.Job("job", to="out")
    job.add("task", "true", mirror=["out/job.txt", "out/job.job/logs/job-1.log"])
    Prepared(job)


def test_output_into_other_job_folder_is_refused(here: Path) -> None:
    other = encamp.Job("other", to="out")
    other.add("one", "touch one.txt", outputs="one.txt")
    assert other.run(slots=1).ok
    journal = Path("out/other.job/journal.jsonl").read_bytes()
    job = encamp.Job("job", to="out")
    job.add("two", "touch journal.jsonl", outputs=encamp.Output("journal.jsonl", "other.job"))
    job.add("three", "touch kept.txt", outputs=encamp.Output("kept.txt", "no.job"))
    report = job.run(slots=1, check=False)
    assert [task.state for task in report.tasks] == ["failed", "done"]
    assert "it is in the folder of another job" in report["two"].why
    assert Path("out/other.job/journal.jsonl").read_bytes() == journal
