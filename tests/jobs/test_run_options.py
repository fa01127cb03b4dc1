"""Options of `Job.run` besides those of the job and its tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp.errors import BadJob


@pytest.fixture
def job(here: Path) -> encamp.Job:
    return encamp.Job("j", to="results", retries=0, time_limit=100)


def test_retries_and_a_time_limit_are_in_place_of_those_of_the_job(job: encamp.Job) -> None:
    job.add("late", "sleep 60", retries=3)
    report = job.run(slots=1, retries=1, time_limit=0.3, check=False)
    (task,) = report.tasks
    assert (task.state, len(task.attempts)) == ("failed", 2)
    assert "ran longer than its limit of 0.3 s" in (task.why or "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "job.run: retries must be 0 or more, not -1"),
        ({"retries": "many"}, "retries must be an integer, not 'many'"),
        ({"time_limit": 0}, "the time limit must be more than 0 seconds"),
        (
            {"niceness": 3},
            r"run the job on a cluster: job.run\(Cluster\(niceness=…\)\)",
        ),
        ({"inline": True}, "inline: is not an option of a run"),
        (
            {"mirror": ["x"]},
            "mirror: .* give it to the job or to its tasks",
        ),
        ({"cores": 2, "engine": "local"}, "cores: is not an option of a run"),
    ],
)
def test_invalid_run_options_are_refused(
    job: encamp.Job, options: dict[str, Any], message: str
) -> None:
    job.add("a", "true")
    with pytest.raises(BadJob, match=message):
        job.run(**options)


def test_an_empty_destination_is_refused() -> None:
    with pytest.raises(BadJob, match="to: is empty; name a folder"):
        encamp.Job("j", to="")
