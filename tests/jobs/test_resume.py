"""A second run does only what is missing or changed, and says why."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_steps import count, counted, fail, join

import encamp
from encamp.errors import JobBusy
from encamp.jobs.progress_interface import Silent
from encamp.reports import JobReport

SOURCE = """\
from job_steps import join
LIMIT = 1

def helper(text):
    return text * LIMIT

def special(counter, name):
    join(counter, name)
    helper("x")
"""


class Strips:
    """A job with two tasks of their own inputs, one that joins their outputs, and one command."""

    def __init__(self, folder: Path) -> None:
        self.counter = str(folder / "counter")
        self.factor = 1
        self.line = "cp shared.txt copy.txt"
        self.outputs: dict[str, str] = {"out.txt": "b"}
        for name in ("a.in", "b.in", "shared.txt"):
            Path(name).write_text(name)
        Path("special_steps.py").write_text(SOURCE)

    def job(self) -> encamp.Job:
        sys.modules.pop("special_steps", None)
        importlib.invalidate_caches()
        special = importlib.import_module("special_steps").special
        job = encamp.Job("job", to="out", mirror="shared.txt")
        made = {"out.txt": "a"}
        job.add("a", encamp.call(special, self.counter, "a"), mirror="a.in", outputs=made)
        step = encamp.call(join, self.counter, "b", factor=self.factor)
        job.add("b", step, mirror="b.in", outputs=self.outputs)
        step = encamp.call(join, self.counter, "join")
        folders = {"out/a/out.txt": "a", "out/b/out.txt": "b"}
        job.add("join", step, mirror=folders, outputs={"out.txt": "joined"}, after=["a", "b"])
        steps = [encamp.call(count, self.counter, "copy"), self.line]
        job.add("copy", steps, outputs="copy.txt")
        return job

    def run(self, **options: Any) -> tuple[set[str], JobReport]:
        """Run it; which tasks ran, by the counter that they write themselves."""
        before = len(counted(self.counter))
        report = self.job().run(**options)
        ran = counted(self.counter)[before:]
        assert len(set(ran)) == len(ran)
        done = {task.name for task in report.tasks if task.state == "done"}
        assert set(ran) == done or options.get("dry_run")
        return set(ran), report


@pytest.fixture
def strips(here: Path, monkeypatch: pytest.MonkeyPatch) -> Strips:
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Strips(here)


def test_a_second_run_runs_nothing_and_says_so(strips: Strips) -> None:
    assert strips.run()[0] == {"a", "b", "join", "copy"}
    ran, report = strips.run()
    assert ran == set()
    assert {task.state for task in report.tasks} == {"up to date"}
    assert {task.why for task in report.tasks} == {"nothing changed"}
    assert report.ok


def _edit(file: str, old: str, new: str) -> Callable[[Strips], None]:
    def change(strips: Strips) -> None:
        text = Path(file).read_text()
        assert old in text
        Path(file).write_text(text.replace(old, new))

    return change


def _touch(name: str) -> Callable[[Strips], None]:
    def change(strips: Strips) -> None:
        status = Path(name).stat()
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    return change


def _same_time(name: str, text: str) -> Callable[[Strips], None]:
    def change(strips: Strips) -> None:
        status = Path(name).stat()
        Path(name).write_text(text)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))

    return change


CHANGES: dict[str, tuple[Callable[[Strips], object], set[str], str, str]] = {
    "nothing": (lambda s: None, set(), "a", "nothing changed"),
    "comment": (_edit("special_steps.py", "LIMIT = 1", "LIMIT = 1  # one"), set(), "a", "nothing"),
    "constant": (
        _edit("special_steps.py", "LIMIT = 1", "LIMIT = 2"),
        {"a", "join"},
        "a",
        "the code of its steps changed",
    ),
    "helper": (
        _edit("special_steps.py", "text * LIMIT", "text + text"),
        {"a", "join"},
        "a",
        "the code of its steps changed",
    ),
    "argument": (
        lambda s: setattr(s, "factor", 2),
        {"b", "join"},
        "b",
        "an argument of its steps changed",
    ),
    "command": (
        lambda s: setattr(s, "line", "cp -p shared.txt copy.txt"),
        {"copy"},
        "copy",
        "a command line changed",
    ),
    "input": (lambda s: Path("b.in").write_text("new"), {"b", "join"}, "b", "an input changed"),
    "input's time": (_touch("a.in"), {"a", "join"}, "a", "an input changed"),
    "input's size": (_same_time("a.in", "longer"), {"a", "join"}, "a", "an input changed"),
    "job input": (
        lambda s: Path("shared.txt").write_text("new"),
        {"a", "b", "join", "copy"},
        "copy",
        "a job input changed",
    ),
    "outputs": (
        lambda s: s.outputs.update({"o*.txt": "b/more"}),
        {"b", "join"},
        "b",
        "its list of outputs changed",
    ),
    "vanished output": (lambda s: Path("out/a/out.txt").unlink(), {"a", "join"}, "a", "removed"),
    "changed output": (
        lambda s: Path("out/copy.txt").write_text("changed!!!"),
        {"copy"},
        "copy",
        "was removed or changed",
    ),
    "output of the last": (
        lambda s: Path("out/joined/out.txt").unlink(),
        {"join"},
        "join",
        "out/joined/out.txt was removed or changed",
    ),
    "touched output": (_touch("out/copy.txt"), set(), "copy", "nothing changed"),
    "report and logs": (
        lambda s: [p.unlink() for p in Path("out/job.job").glob("*.[jh][st][om][nl]")],
        set(),
        "copy",
        "nothing changed",
    ),
    "journal": (
        lambda s: Path("out/job.job/journal.jsonl").unlink(),
        {"a", "b", "join", "copy"},
        "a",
        "it has not been done before",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_runs_just_the_right_tasks_and_says_why(strips: Strips, what: str) -> None:
    change, expected, task, why = CHANGES[what]
    strips.run()
    change(strips)
    _, foreseen = strips.run(dry_run=True)
    ran, report = strips.run()
    assert ran == expected
    assert why in report[task].why
    assert {task.name for task in foreseen.tasks if task.state == "to do"} == expected
    assert why in foreseen[task].why
    assert strips.run()[0] == set()


def test_output_changed_with_same_size_and_mtime_counts_as_unchanged(strips: Strips) -> None:
    strips.run()
    _same_time("out/copy.txt", "SHARED.TXT")(strips)
    assert strips.run()[0] == set()


def test_force_runs_everything(strips: Strips) -> None:
    strips.run()
    ran, report = strips.run(force=True)
    assert ran == {"a", "b", "join", "copy"}
    assert {task.why for task in report.tasks} == {"it was forced"}


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*")}


def test_a_dry_run_runs_and_writes_nothing(strips: Strips, here: Path) -> None:
    before = _tree(here)
    ran, report = strips.run(dry_run=True)
    assert ran == set()
    assert {task.state for task in report.tasks} == {"to do"}
    assert report["join"].why == "it waits for a"
    strips.run()
    before = _tree(here)
    strips.run(dry_run=True, force=True)
    assert _tree(here) == before


def test_a_dry_run_of_a_first_run_makes_no_destination(strips: Strips) -> None:
    strips.run(dry_run=True)
    assert not Path("out").exists()


def test_failed_tasks_are_run_again_and_what_waits_for_them(here: Path) -> None:
    counter = str(here / "counter")
    job = encamp.Job("job", to="out")
    job.add("bad", encamp.call(fail, counter, 1))
    job.add("later", "true", after="bad")
    job.add("good", "true")
    states = []
    for _ in range(3):
        report = job.run(check=False)
        states.append([report[name].state for name in ("bad", "later", "good")])
    assert states == [
        ["failed", "blocked", "done"],
        ["done", "done", "up to date"],
        ["up to date"] * 3,
    ]
    assert len(counted(counter)) == 2


def test_a_task_that_fails_after_a_change_keeps_what_it_had_published(here: Path) -> None:
    def run(line: str) -> JobReport:
        job = encamp.Job("job", to="out")
        job.add("task", encamp.command(line, shell=True), outputs="x.txt")
        return job.run(check=False)

    run("echo good > x.txt")
    assert run("echo bad > x.txt; false")["task"].state == "failed"
    assert Path("out/x.txt").read_text() == "good\n"
    assert run("echo good > x.txt")["task"].state == "done"


def test_an_input_that_vanished_fails_its_task_only(strips: Strips) -> None:
    strips.run()
    job = strips.job()
    job.add("extra", "true", mirror="out/none/*", after="a")
    report = job.run(check=False)
    assert report["extra"].state == "failed"
    assert "no file matches 'out/none/*'" in report["extra"].why
    assert report["join"].state == "up to date"


@pytest.mark.parametrize("name", ["x.txt", "link.txt"])
def test_a_task_does_not_take_the_output_of_one_that_is_up_to_date(here: Path, name: str) -> None:
    """What a pattern matches is known only afterwards."""

    def job(line: str) -> encamp.Job:
        job = encamp.Job("job", to="out")
        job.add("a", ["touch x.txt", "ln -s x.txt link.txt"], outputs="*.txt")
        job.add("b", encamp.command(line, shell=True), outputs="*.txt")
        return job

    job("echo b > y.txt").run()
    report = job(f"echo b > {name}").run(check=False)
    assert report["a"].state == "up to date"
    assert report["b"].state == "failed"
    assert name in report["b"].why
    assert "task a" in report["b"].why
    assert Path("out/x.txt").read_text() == ""
    assert Path("out/link.txt").is_symlink()


def test_a_removed_task_is_forgotten_and_an_added_one_runs(here: Path) -> None:
    def run(*names: str) -> set[str]:
        job = encamp.Job("job", to="out")
        for name in names:
            job.add(name, "true")
        return {task.name for task in job.run().tasks if task.state == "done"}

    assert run("a", "b") == {"a", "b"}
    assert run("b", "c") == {"c"}
    assert run("a", "b", "c") == set()


def test_a_job_that_is_being_run_is_left_alone(here: Path) -> None:
    job = encamp.Job("job", to="out")

    class Within(Silent):
        caught: list[str] = []  # noqa: RUF012 - one test, one list

        def submitted(self, task: str, attempt: int) -> None:
            with pytest.raises(JobBusy) as busy:
                job.run()
            self.caught.append(str(busy.value))

    job.add("task", "true")
    assert job.run(progress=Within()).ok
    assert "is being run by this process" in Within.caught[0]
    assert not list(Path("out/job.job").glob("running-*"))


def test_jobs_of_other_names_share_a_destination(here: Path) -> None:
    for name in ("one", "two"):
        job = encamp.Job(name, to="out")
        job.add("task", f"sh -c 'echo {name} > {name}.txt'", outputs=f"{name}.txt")
        assert job.run()["task"].state == "done"
        assert job.run()["task"].state == "up to date"
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "one.job",
        "one.txt",
        "two.job",
        "two.txt",
    ]
