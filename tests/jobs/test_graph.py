"""Dependencies between tasks, and errors when a job is put together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from job_steps import nothing

import encamp
from encamp.errors import BadJob
from encamp.jobs.plan.graph import Graph


def _job(**after: str | list[str]) -> encamp.Job:
    job = encamp.Job("job", to="out")
    for name, names in after.items():
        job.add(name, nothing, after=names)
    return job


def test_after_takes_names_and_globs_and_leaves_the_task_itself_out(here: Path) -> None:
    graph = Graph(_job(a=[], b=[], c=["a"], z=["*"]).tasks)
    assert graph.before == {"c": ["a"], "z": ["a", "b", "c"]}
    assert graph.before["a"] == graph.before["b"] == []


def test_waits_are_transitive(here: Path) -> None:
    graph = Graph(_job(a=[], b="a", c="b", d=["c", "b"], e=[], f=["d", "e"]).tasks)
    assert {name: graph.all_before(name) for name in "abcdef"} == {
        "a": set(),
        "b": {"a"},
        "c": {"a", "b"},
        "d": {"a", "b", "c"},
        "e": set(),
        "f": {"a", "b", "c", "d", "e"},
    }


def test_a_name_with_brackets_is_a_name_before_it_is_a_pattern(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("x[1]", nothing)
    job.add("x1", nothing)
    job.add("last", nothing, after="x[1]")
    assert Graph(job.tasks).before["last"] == ["x[1]"]


@pytest.mark.parametrize("after", ["nobody", "nobody-*", "me"])
def test_after_must_name_another_task(here: Path, after: str) -> None:
    with pytest.raises(BadJob, match=r"task me.*no task is called"):
        Graph(_job(other=[], me=after).tasks)


def test_tasks_that_wait_for_each_other_are_named_and_nothing_runs(here: Path) -> None:
    job = _job(a="c", b="a", c="b")
    with pytest.raises(BadJob, match="wait for each other") as caught:
        job.run()
    assert all(name in str(caught.value) for name in "abc")
    assert not Path("out").exists()


def test_ready_hands_out_each_task_once_and_never_too_early(here: Path) -> None:
    rng = random.Random(5)
    names = [f"t{n}" for n in range(60)]
    job = _job(**{n: rng.sample(names[:i], min(i, rng.randrange(4))) for i, n in enumerate(names)})
    graph, ended, handed = Graph(job.tasks), set[str](), list[str]()
    while graph.going_on:
        for name in graph.ready():
            assert set(graph.before[name]) <= ended
            handed.append(name)
            ended.add(name)
            graph.ended(name)
    assert sorted(handed) == sorted(names)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 201])
def test_names_that_cannot_be_file_names_are_refused(here: Path, name: str) -> None:
    with pytest.raises(BadJob, match="must be a file name"):
        encamp.Job("job", to="out").add(name, nothing)
    with pytest.raises(BadJob, match="must be a file name"):
        encamp.Job(name, to="out")


def test_a_job_refuses_what_cannot_work(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", nothing)
    with pytest.raises(BadJob, match="occurs twice"):
        job.add("a", nothing)
    with pytest.raises(BadJob, match="has no steps"):
        job.add("b", [])
    with pytest.raises(BadJob, match="neither a function nor a command line"):
        job.add("b", [3])  # type: ignore[list-item]
    with pytest.raises(BadJob, match="retries must be 0 or more"):
        job.add("b", nothing, retries=-1)
    with pytest.raises(BadJob, match="more than 0 seconds"):
        job.add("b", nothing, time_limit=0)
    with pytest.raises(BadJob, match="empty command line"):
        job.add("b", "   ")
    with pytest.raises(BadJob, match="no closing quotation"):
        job.add("b", "echo 'a")
    with pytest.raises(BadJob, match="is one string"):
        encamp.command(["a", "b"], shell=True)
    assert list(job.tasks) == ["a"]
    with pytest.raises(BadJob, match="has no tasks"):
        encamp.Job("empty", to="out").run()


@pytest.mark.timeout(20)
def test_tasks_that_wait_for_many_by_many_ways_are_looked_at_once() -> None:
    """Forty layers of two tasks, each of which waits for both of the layer before."""
    job = encamp.Job("job", to="out")
    for layer in range(40):
        before = [f"{layer - 1}-{side}" for side in "ab"] if layer else []
        for side in "ab":
            job.add(f"{layer}-{side}", "true", after=before)
    found = Graph(job.tasks).all_before("39-a")
    assert found == {f"{layer}-{side}" for layer in range(39) for side in "ab"}
