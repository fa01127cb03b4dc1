"""How steps end: with all processes that they started, and always with a reason."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import encamp
from conftest import need
from encamp.errors import BadJob, StepFailed, reason, shortened, text_of
from encamp.reports import JobReport


def _run(**steps: object) -> JobReport:
    """A job with one task of each step, one after the other in one slot."""
    job = encamp.Job("job", to="out")
    for name, step in steps.items():
        job.add(name, step, outputs=encamp.Output("made", required=False, rename=name))  # type: ignore[arg-type]
    return job.run(slots=1, check=False)


def test_a_step_that_ends_its_process_group_ends_no_more_than_itself(here: Path) -> None:
    report = _run(
        before=give_pid,
        trap=encamp.command("trap 'kill 0' EXIT; echo > made; sleep 0.1", shell=True),
        harmless=encamp.command("trap '' TERM; kill 0; sleep 600 & echo > made", shell=True),
        after=give_pid,
    )
    assert [task.state for task in report.tasks] == ["done", "failed", "done", "done"]
    assert report["trap"].why.endswith("was killed by SIGTERM")
    assert report["before"].value == report["after"].value  # the slot is the same


def give_pid() -> int:
    """The process id of the slot."""
    return os.getpid()


@pytest.mark.parametrize("line", ["sleep {} &", "setsid sleep {} &", "(setsid sleep {} &) &"])
def test_background_processes_of_step_end_with_task(here: Path, line: str) -> None:
    seconds = str(1_000_000 + os.getpid())  # which nobody else sleeps
    line = line.format(seconds)
    report = _run(step=encamp.command(f"{line} echo $! $$ > made", shell=True))
    assert report["step"].state == "done"
    left = [process.pid for process in psutil.process_iter() if _sleeps(process, seconds)]
    assert left == []


def _sleeps(process: psutil.Process, seconds: str) -> bool:
    try:
        return process.cmdline() == ["sleep", seconds]
    except psutil.Error:
        return False


def _mute() -> None:
    raise ValueError


def _leave() -> None:
    raise SystemExit


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyError


def _unprintable() -> None:
    raise _Unprintable


def _loud() -> None:
    raise ValueError("x" * 1_000_000)


def _end_own_group() -> None:
    subprocess.run(["sh", "-c", "kill 0"], check=False)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (_mute, "step '_mute' raised ValueError"),
        (_leave, "step '_leave' raised SystemExit"),
        (
            _unprintable,
            "step '_unprintable' raised _Unprintable: (no message: str() raised KeyError)",
        ),
        (_end_own_group, "another process, or its own code, sent it SIGTERM"),
        (_loud, "raised ValueError: xxx"),
    ],
)
def test_every_failure_has_a_reason_and_none_is_long(here: Path, step: object, why: str) -> None:
    report = _run(step=step, after="true")
    assert why in report["step"].why
    assert len(report["step"].why) < 2000
    assert report["step"].attempts[0].error == report["step"].why
    assert report["after"].state == "done"


class _EndsItsReader:
    """Sends SIGTERM to the process that unpickles it, unless that is the one that made it."""

    def __reduce__(self) -> tuple[object, ...]:
        return _end_unless, (os.getpid(),)


def _end_unless(spared: int) -> None:
    if os.getpid() != spared:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_slot_that_ends_before_its_task_has_a_folder_touches_no_file_of_the_user(
    here: Path,
) -> None:
    Path("log").write_text("x" * 100_000)
    Path("task").mkdir()
    Path("task/made").touch()
    job = encamp.Job("job", to="out", log_limit=4096)
    job.add("step", encamp.call(print, _EndsItsReader()), on_failure="made")
    [task] = job.run(slots=1, check=False).tasks
    assert "another process, or its own code, sent it SIGTERM" in task.why
    assert (task.rescued, task.log_tail) == ([], "")
    assert Path("log").read_text() == "x" * 100_000


def test_exception_without_message_is_named_by_its_type() -> None:
    assert (reason(KeyError()), reason(ValueError(" \n")), reason(OSError(5, "no"))) == (
        "KeyError",
        "ValueError",
        "OSError: [Errno 5] no",
    )
    assert text_of(KeyError()) == "KeyError"
    assert reason(_Unprintable()) == "_Unprintable: (no message: str() raised KeyError)"
    assert text_of(BadJob("job x", "has no tasks")) == "job x: has no tasks"


def test_a_long_value_is_cut_in_the_middle() -> None:
    assert shortened("x" * 1000) == "x" * 1000
    assert shortened("a" * 500 + "b" * 1000, 90) == f"{'a' * 60} … 1410 characters … {'b' * 30}"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (
            encamp.command(["true", "x" * 140_000]),
            "a word has 140000 bytes, 131071 are allowed; write it to a file that",
        ),
        (encamp.command(f"true {'x ' * 70_000}", shell=True), "a word has 140005 bytes"),
        (encamp.command(["true", *["x" * 100_000] * 70]), "7000075 bytes, with "),
        (encamp.command("true", env={"A": "x" * 140_000}), "the variable A has 140002 bytes"),
    ],
    ids=["word", "shell line", "all words", "environment"],
)
def test_a_command_line_that_is_too_long_is_refused_in_a_short_sentence(
    here: Path, step: encamp.jobs.steps.Command, why: str
) -> None:
    [task] = _run(step=step).tasks
    assert "could not start: its command line is too long: " in task.why
    assert why in task.why
    assert len(task.why) < 600
    assert len(Path("out/job.job/report.json").read_bytes()) < 10_000


def test_missing_interpreter_is_not_reported_as_missing_script(here: Path) -> None:
    lines = "printf '#!/no/such/shell\\n' > s; chmod +x s"
    job = encamp.Job("job", to="out")
    job.add("task", [encamp.command(lines, shell=True), "./s"])
    [task] = job.run(slots=1, check=False).tasks
    why = "could not start: the interpreter that ./s names in its first line is missing"
    assert task.why.endswith(why)


def test_long_values_are_cut_in_every_refusal(here: Path) -> None:
    for wrong in (f"cat {'x ' * 50_000} > b", "'" + "x" * 100_000):
        with pytest.raises(BadJob) as raised:
            encamp.command(wrong)
        assert len(str(raised.value)) < 1500
    assert len(str(StepFailed("task", "x" * 10_000, 1, "ended"))) < 700


def test_a_pipeline_of_bash_fails_with_any_of_its_commands(here: Path) -> None:
    need("bash", shutil.which("bash") is not None)
    lines = {
        "first": "false | cat > made",
        "last": "true | cat > made",
        "odd": "exit 3 | cat | cat",
    }
    report = _run(**{name: encamp.command(line, shell="bash") for name, line in lines.items()})
    assert [task.state for task in report.tasks] == ["failed", "done", "failed"]
    assert report["odd"].why.endswith("ended with exit status 3")
    plain = _run(**{name: encamp.command(line, shell=True) for name, line in lines.items()})
    assert [task.state for task in plain.tasks] == ["done", "done", "done"]


def test_a_host_without_bash_is_named(here: Path) -> None:
    (here / "bin").mkdir()
    step = encamp.command("true | true", shell="bash", env={"PATH": str(here / "bin")})
    assert "no command 'bash' on " in _run(step=step)["step"].why
    with pytest.raises(BadJob, match="shell='zsh': is not known; use True for /bin/sh, or 'bash'"):
        encamp.command("true", shell="zsh")  # type: ignore[arg-type]


class _Refusing:
    """A stream that ends the program when it is used."""

    def write(self, text: str) -> None:
        raise SystemExit(3)

    def flush(self) -> None:
        raise SystemExit(3)


def _without_streams() -> None:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    raise ValueError("word")


def _with_deleted_streams() -> None:
    del sys.stdout, sys.stderr
    raise ValueError("word")


def _with_refusing_streams() -> None:
    sys.stdout = sys.stderr = _Refusing()  # type: ignore[assignment]
    raise ValueError("word")


def _leave_refusing_streams() -> int:
    sys.stdout = sys.stderr = _Refusing()  # type: ignore[assignment]
    return 7


def test_log_has_step_error_even_if_streams_were_replaced(here: Path) -> None:
    report = _run(
        none=_without_streams,
        deleted=_with_deleted_streams,
        refusing=_with_refusing_streams,
        good=_leave_refusing_streams,
    )
    for name in ("none", "deleted", "refusing"):
        assert report[name].why.endswith("raised ValueError: word")
        assert "ValueError: word\n" in report[name].log_tail
    assert report["good"].value == 7
