"""One task from its empty folder to published outputs, without a trace in the next one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from job_steps import (
    count,
    counted,
    damage,
    give,
    give_generator,
    go_deep,
    list_folder,
    look,
    nothing,
    speak,
    spoil,
    write,
)

import encamp
from encamp.errors import InputDamaged, OutputConflict, TargetConflict
from encamp.reports import JobFailed, JobReport, TaskReport
from encamp.testing.waiting import children_with, until


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slots hold back what they print, as they do for users."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def run_one(*steps: encamp.jobs.job.Step, check: bool = True, **options: Any) -> TaskReport:
    """Run a job of one task and return the task's report."""
    run = {name: options.pop(name) for name in ("keep", "force") if name in options}
    job = encamp.Job("job", to="out")
    job.add("task", list(steps), **options)
    return job.run(slots=1, check=check, **run)["task"]


def log_of(report: TaskReport) -> str:
    assert report.log is not None
    return Path("out/job.job", report.log).read_text()


def published() -> dict[str, str]:
    """All that is in the destination, less what is the job's own."""
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    texts = {str(p.relative_to("out")): p.read_text() for p in files if "job.job" not in p.parts}
    assert not list(Path("out").rglob(".encamp-*"))
    return texts


def test_all_inputs_are_in_one_flat_folder(here: Path) -> None:
    for name in ("model.txt", "a.dat", "tree/x.txt", "tree/deep/y.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    job = encamp.Job("job", to="out", mirror=["model.txt", "tree"])
    job.add("task", list_folder, mirror={"a.dat": ".", "model.txt": "."})
    assert job.run()["task"].value == [
        "a.dat",
        "model.txt",
        "tree",
        "tree/deep",
        "tree/deep/y.txt",
        "tree/x.txt",
    ]


def test_an_input_in_the_place_of_a_job_input_is_refused_before_anything_runs(here: Path) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "same.txt").write_text(folder)
    job = encamp.Job("job", to="out", mirror="one/same.txt")
    job.add("task", nothing, mirror="two/same.txt")
    with pytest.raises(TargetConflict, match=r"one/same.txt.*two/same.txt"):
        job.run()
    assert not Path("out").exists()


def test_steps_run_in_order_functions_and_commands_mixed_in_one_folder(here: Path) -> None:
    report = run_one(
        encamp.call(write, "a.txt", "1"),
        "cp a.txt b.txt",
        encamp.command("cat a.txt b.txt | tr 1 2 > c.txt", shell=True),
        encamp.command("tr 2 3", stdin="c.txt", stdout="d.txt"),
        encamp.command(["sh", "-c", "echo $GREETING > e.txt"], env={"GREETING": "hello"}),
        outputs={"*.txt": "."},
    )
    assert published() == {
        "a.txt": "1",
        "b.txt": "1",
        "c.txt": "22",
        "d.txt": "33",
        "e.txt": "hello\n",
    }
    (attempt,) = report.attempts
    assert [span.name for span in attempt.phases] == [
        "job prephase",
        "task prephase",
        "write",
        "cp a.txt b.txt",
        "cat a.txt b.txt | tr 1 2 > c.txt",
        "tr 2 3",
        "sh -c 'echo $GREETING > e.txt'",
        "task postphase",
    ]
    starts = [span.start for span in attempt.phases]
    assert starts == sorted(starts)
    assert attempt.peak_memory > 1 << 20
    assert attempt.where is not None
    assert attempt.where.pid > 0


@pytest.mark.parametrize("bad", ["false", encamp.call(damage, "not/there")])
def test_a_failing_step_stops_the_rest_and_publishes_nothing(here: Path, bad: Any) -> None:
    counter = str(here / "counter")
    report = run_one(
        encamp.call(write, "a.txt"),
        bad,
        encamp.call(count, counter, "later"),
        outputs={"a.txt": "."},
        check=False,
    )
    assert report.state == "failed"
    assert report.attempts[0].error_type == "StepFailed"
    assert counted(counter) == []
    assert published() == {}


def test_tasks_of_one_slot_have_folders_of_their_own_and_a_slot_at_rest_has_none(
    here: Path, local_storage_base: Path
) -> None:
    job = encamp.Job("job", to="out")
    for name in ("first", "second", "third"):
        job.add(name, encamp.command("pwd; ls -A . ..; touch x ../y; ln -s / ../z", shell=True))
    with ThreadPoolExecutor(1) as threads:
        report = job.run(threads)
        slots = children_with("be_slot")
        until(lambda: not list(local_storage_base.glob("encamp-*/sandboxes/*")))
        assert [slot.is_running() for slot in slots] == [True]
    found = [log_of(task).splitlines() for task in report.tasks]
    assert [Path(pwd).parent.name.rpartition(".")[0] for pwd, *_ in found] == [
        "job.first",
        "job.second",
        "job.third",
    ]
    assert [listed for _, *listed in found] == [[".:", "", "..:", "log", "task"]] * 3
    assert {task.attempts[0].where.pid for task in report.tasks} == {slots[0].pid}


def test_other_tasks_go_on_and_dependents_are_blocked(here: Path) -> None:
    counter = str(here / "counter")
    job = encamp.Job("job", to="out")
    job.add("bad", "false")
    job.add("blocked", encamp.call(count, counter, "blocked"), after="bad")
    job.add("blocked too", encamp.call(count, counter, "blocked too"), after="blocked")
    job.add("good", encamp.call(count, counter, "good"))
    job.add("good too", encamp.call(count, counter, "good too"), after="good")
    with pytest.raises(JobFailed) as caught:
        job.run()
    report: JobReport = caught.value.report
    assert {task.name: task.state for task in report.tasks} == {
        "bad": "failed",
        "blocked": "blocked",
        "blocked too": "blocked",
        "good": "done",
        "good too": "done",
    }
    assert report["blocked"].why == "it waits for bad, which failed"
    assert counted(counter) == ["good", "good too"]


def test_output_is_captured_at_every_level_and_in_order(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = run_one(speak, "echo command", encamp.command("echo shell >&2", shell=True))
    lines = log_of(report).splitlines()
    assert sorted(lines) == sorted(
        ["python out", "python err", "descriptor", "c library", "child", "command", "shell"]
    )
    assert lines[:3] == ["python out", "python err", "descriptor"]
    assert lines[-2:] == ["command", "shell"]
    assert report.log_tail.splitlines() == lines
    assert capfd.readouterr() == ("", "")


def test_the_end_of_a_log_has_the_whole_traceback_of_a_step(here: Path) -> None:
    failed = run_one(go_deep, check=False)
    assert len(failed.log_tail) > 8000
    head, *_, last = failed.log_tail.splitlines()
    assert head.startswith("Traceback")
    assert last == "ValueError: too deep"


def test_every_task_has_a_log_of_its_own_also_in_one_slot(here: Path) -> None:
    job = encamp.Job("job", to="out")
    for name in ("a", "b", "c"):
        job.add(name, [speak, f"echo {name}"])
    job.add("silent", nothing)
    report = job.run(slots=1)
    for name in ("a", "b", "c"):
        lines = log_of(report[name]).splitlines()
        assert lines.count("c library") == 1
        assert lines[-1] == name
    assert report["silent"].log is None


def test_process_changes_do_not_reach_next_task(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("1", look)
    job.add("2", spoil, after="1")
    job.add("3", look, after="2")
    job.add("4", 'sh -c \'test -n "$HOME" -a -z "$SPOILED"\'', after="3")
    job.add("5", spoil, after="4")
    job.add("6", look, after="5")
    report = job.run(slots=1)
    assert report["1"].value == report["3"].value == report["6"].value
    assert report["1"].value["cwd"] == "task"
    assert log_of(report["3"]) == "can be heard\n"


def test_the_log_is_captured_of_steps_with_undecodable_names(here: Path) -> None:
    report = run_one(encamp.call(print, "bad\udcff"))
    assert report.log is not None
    assert Path("out/job.job", report.log).read_bytes() == b"bad\xff\n"


@pytest.mark.parametrize(
    ("value", "later"),
    [
        ({"a": [1, 2.5, None, "é"]}, {"a": [1, 2.5, None, "é"]}),
        (None, None),
        (1 + 2j, None),
        ("bad\udcff", None),
    ],
)
def test_json_value_survives_resume(here: Path, value: object, later: object) -> None:
    first = run_one(encamp.call(give, value))
    assert (first.state, first.value) == ("done", value)
    second = run_one(encamp.call(give, value))
    assert (second.state, second.value) == ("up to date", later)


def test_unpicklable_value_becomes_none_and_is_logged(here: Path) -> None:
    report = run_one(encamp.call(write, "a.txt"), give_generator, outputs={"a.txt": "."})
    assert (report.state, report.value) == ("done", None)
    assert "the returned generator cannot be sent back" in log_of(report)
    assert published() == {"a.txt": "made\n"}


class Point:
    """A class that only this module knows."""

    def __init__(self, x: int) -> None:
        self.x = x


def test_a_value_may_be_of_a_class_that_travels_by_value(here: Path) -> None:
    class Local(Point):
        pass

    value = run_one(encamp.call(lambda: Local(3))).value
    assert isinstance(value, Local)
    assert value.x == 3


def test_the_value_is_that_of_the_last_function(here: Path) -> None:
    assert run_one(encamp.call(give, 1), encamp.call(give, 2), "true").value == 2


@pytest.mark.parametrize("keep", ["never", "failed", "always"])
@pytest.mark.parametrize("well", [True, False])
def test_keep_says_which_folders_stay(
    here: Path, local_storage_base: Path, keep: Any, well: bool
) -> None:
    last = "true" if well else "false"
    report = run_one(encamp.call(write, "a.txt"), last, keep=keep, check=False)
    wanted = keep == "always" or (keep == "failed" and not well)
    folders = list(local_storage_base.glob("encamp-*/kept/*"))
    assert len(folders) == wanted
    if wanted:
        assert report.kept is not None
        folder = Path(report.kept.partition(":")[2])
        assert (folder / "task/a.txt").read_text() == "made\n"
    else:
        assert report.kept is None


def test_writing_to_a_job_input_fails_the_task_and_hurts_no_other(here: Path) -> None:
    Path("model.txt").write_text("model")
    job = encamp.Job("job", to="out", mirror="model.txt")
    job.add("bad", encamp.call(damage, "model.txt"))
    job.add("good", "cp model.txt copy.txt", outputs={"copy.txt": "."}, after=[])
    job.add("later", "sh -c 'sleep 0.01; cp model.txt later.txt'", outputs={"later.txt": "."})
    report = job.run(slots=1, check=False)
    assert report["bad"].attempts[0].error_type == InputDamaged.__name__
    assert Path("model.txt").read_text() == "model"
    assert published() == {"copy.txt": "model", "later.txt": "model"}


def test_removing_or_replacing_a_job_input_is_the_tasks_own_affair(here: Path) -> None:
    Path("model.txt").write_text("model")
    job = encamp.Job("job", to="out", mirror="model.txt")
    job.add("task", ["rm -f model.txt", encamp.call(write, "model.txt", "mine")])
    job.add("next", "cp model.txt copy.txt", outputs={"copy.txt": "."}, after="task")
    job.run(slots=1)
    assert published() == {"copy.txt": "model"}


def test_two_outputs_with_one_name_are_refused_before_anything_runs(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", nothing, outputs={"x.txt": "."})
    job.add("b", nothing, outputs=encamp.Output("y.txt", ".", rename="x.txt"))
    with pytest.raises(OutputConflict, match=r"task a and task b.*x\.txt"):
        job.run()
    assert not Path("out").exists()


def test_two_outputs_found_to_have_one_name_publish_only_the_first(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", encamp.call(write, "x.txt", "first"), outputs={"*.txt": "."})
    job.add("b", encamp.call(write, "x.txt", "second"), outputs={"*.txt": "."}, after="a")
    report = job.run(check=False)
    assert report["b"].attempts[0].error_type == "OutputConflict"
    assert published() == {"x.txt": "first"}


def test_a_missing_output_fails_the_task_and_publishes_none_of_the_others(here: Path) -> None:
    report = run_one(encamp.call(write, "a.txt"), outputs={"a.txt": ".", "b.txt": "."}, check=False)
    assert report.why == ("nothing in its folder matches the output 'b.txt'; the task made a.txt")
    assert published() == {}


def test_missing_command_is_named_and_not_retried(here: Path) -> None:
    Path("script.sh").write_text("exit 0")
    report = run_one("script.sh", mirror="script.sh", retries=3, check=False)
    assert report.attempts[0].error_type == "CommandNotFound"
    assert "no command 'script.sh'" in report.why
    assert len(report.attempts) == 1


def test_a_mirrored_script_runs_by_its_relative_path(here: Path) -> None:
    Path("script.sh").write_text("#!/bin/sh\necho made > a.txt\n")
    Path("script.sh").chmod(0o755)
    run_one("./script.sh", mirror="script.sh", outputs={"a.txt": "."})
    assert published() == {"a.txt": "made\n"}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (encamp.command("cat", stdin="none.txt"), "no such file or directory: none.txt"),
        (encamp.command("./plain.txt"), "permission denied: ./plain.txt"),
        (
            encamp.command("sh -c 'kill -9 $$'"),
            "by SIGKILL, often because memory ran out",
        ),
        (encamp.command("sh -c 'kill -11 $$'"), "was killed by SIGSEGV, a crash in compiled code"),
        (encamp.command("sh -c 'exit 5'"), "ended with exit status 5"),
    ],
)
def test_a_command_that_cannot_run_says_why(here: Path, step: Any, message: str) -> None:
    Path("plain.txt").write_text("x")
    report = run_one(step, mirror="plain.txt", check=False)
    assert report.attempts[0].error_type == "StepFailed"
    assert message in report.why


def test_outputs_keep_their_permissions(here: Path) -> None:
    run_one("sh -c 'echo x > tool; chmod 755 tool'", outputs="tool")
    assert os.access("out/tool", os.X_OK)
