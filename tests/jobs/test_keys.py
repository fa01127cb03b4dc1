"""A task's key contains everything that its result depends on, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from job_steps import give, give_generator, nothing, write
from scripted import Scripted

import encamp
from encamp.jobs.steps import Call, Command
from encamp.storage.inputs.mirror import Mirror
from encamp.storage.outputs.patterns import Output

COMMAND = Command(("cat", "in/a.txt"), stdout="out.txt", env={"LEVEL": "1"})
OUTPUT = Output("out.txt", "to")
MIRROR = Mirror("in", exclude=("*.bak",))
CALL = Call(give, (1,), {})

LINE, OUTPUTS, INPUT = "a command line changed", "its list of outputs changed", "an input changed"
CODE, ARGUMENT = "the code of its steps changed", "an argument of its steps changed"
NOT = "nothing changed"

# What each field changes to, and what is said of it.
COMMANDS: dict[str, tuple[Any, str]] = {
    "line": (("cat", "-u", "in/a.txt"), LINE),
    "shell": (True, LINE),
    "env": ({"LEVEL": "2"}, LINE),
    "stdin": ("in/a.txt", LINE),
    "stdout": ("other.txt", LINE),
    "time_limit": (60.0, NOT),
}
OUTPUT_FIELDS: dict[str, tuple[Any, str]] = {
    "pattern": ("o*.txt", OUTPUTS),
    "to": ("elsewhere", OUTPUTS),
    "rename": ("renamed.txt", OUTPUTS),
    "required": (False, OUTPUTS),
    "existing": ("error", OUTPUTS),
}
MIRRORS: dict[str, tuple[Any, str]] = {
    "pattern": ("in/*", INPUT),
    "to": ("deep", INPUT),
    "rename": ("renamed", INPUT),
    "exclude": ((), INPUT),
    "required": (False, NOT),
    "readonly": (True, NOT),
    "mode": ("copy", NOT),
    "executable": (True, NOT),
    "literal": (True, NOT),
}
CALLS: dict[str, tuple[Any, str]] = {
    "function": (write, CODE),
    "args": ((2,), ARGUMENT),
    "kwargs": ({"value": 1}, ARGUMENT),
    "time_limit": (60.0, NOT),
}
TASK: dict[str, tuple[Any, str]] = {
    "retries": (3, NOT),
    "time_limit": (60.0, NOT),
    "after": ("other", NOT),
    "on_failure": ("log.txt", NOT),
}


def _job(steps: Any = (COMMAND, CALL), *, to: str = "out", **options: Any) -> encamp.Job:
    job = encamp.Job("job", to=to)
    job.add("other", "true")
    job.add("task", steps, **{"mirror": MIRROR, "outputs": OUTPUT, **options})
    return job


CASES: dict[str, tuple[Callable[[], encamp.Job], str]] = {
    **{
        f"command's {name}": (lambda n=name, v=value: _job((replace(COMMAND, **{n: v}), CALL)), why)
        for name, (value, why) in COMMANDS.items()
    },
    **{
        f"call's {name}": (lambda n=name, v=value: _job((COMMAND, replace(CALL, **{n: v}))), why)
        for name, (value, why) in CALLS.items()
    },
    **{
        f"output's {name}": (lambda n=name, v=value: _job(outputs=replace(OUTPUT, **{n: v})), why)
        for name, (value, why) in OUTPUT_FIELDS.items()
    },
    **{
        f"mirror's {name}": (lambda n=name, v=value: _job(mirror=replace(MIRROR, **{n: v})), why)
        for name, (value, why) in MIRRORS.items()
    },
    **{
        f"task's {name}": (lambda n=name, v=value: _job(**{n: v}), why)
        for name, (value, why) in TASK.items()
    },
    "order of unlike steps": (lambda: _job((CALL, COMMAND)), LINE),
    "a command once more": (lambda: _job((COMMAND, COMMAND, CALL)), LINE),
    "a call once more": (lambda: _job((COMMAND, CALL, CALL)), CODE),
    "an output more": (lambda: _job(outputs=[OUTPUT, Output("log", required=False)]), OUTPUTS),
    "an input more": (lambda: _job(mirror=[MIRROR, Mirror("in/a.txt", "more")]), INPUT),
}


@pytest.mark.parametrize(
    ("kind", "table"),
    [(Command, COMMANDS), (Call, CALLS), (Output, OUTPUT_FIELDS), (Mirror, MIRRORS)],
)
def test_every_field_has_a_key_rule(kind: Any, table: dict[str, Any]) -> None:
    assert {field.name for field in fields(kind)} - set(table) <= {"at", "trust"}


def test_a_key_has_all_that_matters_and_nothing_else(here: Path) -> None:
    _prepare_inputs()
    assert _job().run(slots=1)["task"].state == "done"
    reasons = {name: _foreseen(make()) for name, (make, _) in CASES.items()}
    assert reasons == {name: why for name, (_, why) in CASES.items()}
    assert _foreseen(_job()) == NOT


def _prepare_inputs() -> None:
    Path("in").mkdir()
    for name in ("a.txt", "b.bak"):
        Path("in", name).write_text(name)


def _foreseen(job: encamp.Job) -> str:
    return job.run(dry_run=True)["task"].why.partition(": ")[0]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (encamp.command("true", env={"X": "1"}), encamp.command("true"), LINE),
        (encamp.call(nothing), encamp.call(give_generator), CODE),
        (encamp.call(give, 1), encamp.call(give, 2), ARGUMENT),
    ],
)
def test_step_order_and_step_arguments_are_part_of_key(
    here: Path, first: Call | Command, second: Call | Command, why: str
) -> None:
    def job(*steps: Call | Command) -> encamp.Job:
        made = encamp.Job("job", to="out")
        made.add("task", steps)
        return made

    job(first, second).run(Scripted())
    assert _foreseen(job(second, first)) == why
    assert _foreseen(job(first, second)) == NOT


INPUTS: dict[str, Callable[[Path], object]] = {
    "size": lambda path: _keep_time(path, "longer than it was"),
    "time": lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
    "name in a tree": lambda path: path.rename(path.with_name("renamed")),
    "file more": lambda path: _in_the_past(path.with_name("more")),
    "link in place of a file": lambda path: (path.unlink(), path.symlink_to("/dev/null")),
    "folder in place of a file": lambda path: (path.unlink(), path.mkdir()),
    "folder more": lambda path: path.with_name("folder").mkdir(),
}


def _keep_time(path: Path, text: str) -> None:
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _in_the_past(path: Path) -> None:
    path.touch()
    os.utime(path, ns=(0, 0))


def test_every_change_of_an_input_counts(here: Path) -> None:
    job = encamp.Job("job", to="out", mirror="in/shared")
    job.add("task", "true", mirror="in/own")
    for name, whose in {"own": "an input", "shared": "a job input"}.items():
        for what, change in INPUTS.items():
            shutil.rmtree("in", ignore_errors=True)
            for each in ("own", "shared"):
                Path("in", each).mkdir(parents=True)
                Path("in", each, "a.txt").write_text("a")
            job.run(Scripted())
            assert _foreseen(job) == NOT, what
            change(Path("in", name, "a.txt"))
            assert _foreseen(job) == f"{whose} changed", what


def _change_size_only(path: Path) -> None:
    _keep_time(path, path.read_text() * 2)


def _change_time_and_bytes(path: Path) -> None:
    path.write_text(path.read_text().upper())


def test_each_published_file_is_looked_at(here: Path) -> None:
    """Its size, its time, and where that is another one its bytes."""
    job = encamp.Job("job", to="out")
    line = encamp.command("echo first > first; echo last > last", shell=True)
    job.add("task", line, outputs=["first", "last"])
    job.run(slots=1)
    for change in (_change_size_only, _change_time_and_bytes, Path.unlink):
        for which in ("first", "last"):
            path, before = Path("out", which), Path("out", which).stat().st_mtime_ns
            change(path)
            assert _foreseen(job) == f"its output {here}/out/{which} was removed or changed"
            path.write_text(f"{which}\n")
            os.utime(path, ns=(0, before))
            assert _foreseen(job) == NOT
    Path("out/last").unlink()
    assert job.run(slots=1)["task"].state == "done"
    assert Path("out/last").read_text() == "last\n"


def test_a_copy_of_a_destination_is_another_one(here: Path) -> None:
    """What its journal says is done was done elsewhere."""
    _prepare_inputs()
    _job().run(slots=1)
    shutil.copytree("out", "copy")
    job = _job(to="copy")
    assert _foreseen(job) == OUTPUTS
