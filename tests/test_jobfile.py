"""Job files: the jobs they become, and errors with positions."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from counted_calls import counted_calls
from encamp.errors import BadJobFile
from encamp.jobs.file.jobfile import job_schema, load_job
from encamp.jobs.file.positions import Positions
from encamp.jobs.job import Job
from encamp.jobs.steps import Command
from encamp.storage.inputs.mirror import Mirror, Mode
from encamp.storage.outputs.patterns import Existing, Output

DOCS = Path(__file__).parent.parent / "docs" / "jobfile.md"


def load(folder: Path, text: str | bytes, name: str = "job.toml") -> Job:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_job(path)


def complaint(folder: Path, text: str | bytes) -> tuple[int, int, str]:
    with pytest.raises(BadJobFile) as caught:
        load(folder, text)
    assert caught.value.file == str(folder / "job.toml")
    return caught.value.line, caught.value.column, caught.value.why


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name.encode(errors="replace").decode())


# Good files


def test_the_smallest_job_has_the_defaults(tmp_path):
    job = load(tmp_path, '[[task]]\nname = "a"\nsteps = "true"\n', "small.toml")
    assert (job.name, job.to, job.base) == ("small", tmp_path / "results", tmp_path)
    assert (job.mirror, job.retries, job.time_limit) == ((), 0, None)
    task = job.tasks["a"]
    assert (task.steps, task.mirror, task.outputs) == ((Command(("true",)),), (), ())
    assert task.on_failure == ()
    assert (task.after, task.retries, task.time_limit) == ((), 0, None)


def test_the_jobs_own_keys(tmp_path):
    job = load(
        tmp_path,
        """
        name = "opamp"
        to = "{jobdir}/out"
        mirror = { "models/*.lib" = ".", "{jobdir}/x.txt" = { rename = "y{suffix}" } }
        retries = 2
        time_limit = "1.5 min"
        env = { A = "1", B = "{task}" }
        [[task]]
        name = "t"
        env = { B = "task", C = "{jobdir}" }
        steps = [{ run = "prog", env = { C = "{index}" } }, "prog"]
        """,
    )
    assert (job.name, job.to, job.retries, job.time_limit) == ("opamp", tmp_path / "out", 2, 90)
    one, two = job.mirror
    assert one == Mirror("models/*.lib")
    assert two == Mirror(f"{tmp_path}/x.txt", rename="y{suffix}")
    first, second = job.tasks["t"].steps
    assert first.env == {"A": "1", "B": "task", "C": "1"}
    assert second.env == {"A": "1", "B": "task", "C": str(tmp_path)}
    assert job.tasks["t"].retries == 2


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("7", 7), ("0.5", 0.5), ('"500 ms"', 0.5), ('"30s"', 30), ('"5 min"', 300), ('"2 h"', 7200)],
)
def test_time_limits_have_units(written, seconds, tmp_path):
    limit = f"time_limit = {written}"
    text = f'[[task]]\nname = "a"\n{limit}\nsteps = [{{ run = "x", {limit} }}]'
    task = load(tmp_path, text).tasks["a"]
    assert task.time_limit == pytest.approx(seconds)
    assert task.steps[0].time_limit == pytest.approx(seconds)


def test_values_are_combined_the_last_changing_first(tmp_path):
    job = load(
        tmp_path,
        """
        [[task]]
        name = "{index:02d}-{corner}-{run:03d}-{on}-{v}"
        steps = ["prog {corner} {v}"]
        [task.foreach]
        corner = ["tt", "ff"]
        run = { from = 3, to = 1, step = -2 }
        on = [true]
        v = [1, 0.5]
        """,
    )
    assert list(job.tasks) == [
        "01-tt-003-true-1",
        "02-tt-003-true-0.5",
        "03-tt-001-true-1",
        "04-tt-001-true-0.5",
        "05-ff-003-true-1",
        "06-ff-003-true-0.5",
        "07-ff-001-true-1",
        "08-ff-001-true-0.5",
    ]
    assert job.tasks["08-ff-001-true-0.5"].steps == (Command(("prog", "ff", "0.5")),)


def test_a_table_and_a_list_beside_the_job_file_make_tasks(tmp_path):
    (tmp_path / "corners.csv").write_text("corner,vdd\ntt,3.3\nff,3.6\n")
    (tmp_path / "seeds.txt").write_text("7\n8\n")
    job = load(
        tmp_path,
        """
        [[task]]
        foreach = { csv = "corners.csv", lines = "seeds.txt" }
        steps = ["prog {corner} {vdd} {line:03d} {index}"]
        """,
    )
    assert [(n, task.steps[0].line[1:]) for n, task in job.tasks.items()] == [
        ("tt-3.3-7", ("tt", "3.3", "007", "1")),
        ("tt-3.3-8", ("tt", "3.3", "008", "2")),
        ("ff-3.6-7", ("ff", "3.6", "007", "3")),
        ("ff-3.6-8", ("ff", "3.6", "008", "4")),
    ]


def test_each_file_is_a_task_with_the_file_in_its_folder(tmp_path):
    make(tmp_path, "data/b.las", "data/a.las", "more/c.laz", "data/x.txt")
    job = load(
        tmp_path,
        """
        [[task]]
        foreach = ["data/*.las", "data/a.*", "more/*"]
        mirror = { "data/{stem}.*" = "beside/{parent}" }
        steps = ["prog {input} {name} {stem} {suffix} {parent} {path} {index} {task} {to} {jobdir}"]
        outputs = { "{stem}.out" = "{parent}", "*.log" = { to = "logs", rename = "{task}-{name}" } }
        """,
    )
    assert list(job.tasks) == ["a", "b", "c"]
    task = job.tasks["c"]
    path = str(tmp_path / "more" / "c.laz")
    assert task.mirror == (Mirror(path), Mirror("data/c.*", "beside/more"))
    words = ["c.laz", "c.laz", "c", ".laz", "more", path, "3", "c", str(job.to), str(tmp_path)]
    assert task.steps == (Command(("prog", *words)),)
    assert task.outputs == (Output("c.out", "more"), Output("*.log", "logs", "c-{name}"))


def test_two_stars_stand_for_files_only(tmp_path):
    make(tmp_path, "data/a/b/c.las", "data/d.las")
    assert list(load(tmp_path, '[[task]]\nforeach = "data/**"\nsteps = "x"').tasks) == ["c", "d"]


def test_every_form_of_mirror_outputs_and_steps(tmp_path):
    job = load(
        tmp_path,
        r"""
        mirror = "one.txt"
        [[task]]
        name = "t"
        mirror = [
            "a",
            { pattern = "b/**", to = "in", exclude = "*.bak", rename = "x{suffix}" },
            { pattern = "c", required = false, exclude = ["{task}*"] },
            { pattern = "d", readonly = true, mode = "link" },
        ]
        outputs = ["r", { pattern = "q-{task}", to = "q", required = false, existing = "keep" }]
        on_failure = { "*.log" = "failed/{task}", "core" = { rename = "{task}-{name}" } }
        steps = [
            "sh -c 'two words' {{}}",
            ["prog", "arg with space {task}"],
            { run = "sort < a | uniq > {task}", shell = true, time_limit = 10, env = { A = "1" } },
            { run = ["x"], stdin = "{task}.in", stdout = "{task}.out" },
        ]
        [[task]]
        name = "u"
        after = "t"
        steps = "one"
        outputs = "x.txt"
        on_failure = ["y.txt", { pattern = "z.txt", existing = "error" }]
        [[task.mirror]]
        pattern = "m"
        mode = "copy"
        """,
    )
    assert job.mirror == (Mirror("one.txt"),)
    task = job.tasks["t"]
    assert task.mirror == (
        Mirror("a"),
        Mirror("b/**", "in", "x{suffix}", ("*.bak",)),
        Mirror("c", exclude=("t*",), required=False),
        Mirror("d", readonly=True, mode="link"),
    )
    assert task.outputs == (Output("r"), Output("q-t", "q", None, False, "keep"))
    assert task.on_failure == (
        Output("*.log", "failed/t", required=False),
        Output("core", ".", "t-{name}", required=False),
    )
    assert task.steps == (
        Command(("sh", "-c", "two words", "{}")),
        Command(("prog", "arg with space t")),
        Command("sort < a | uniq > t", shell=True, time_limit=10, env={"A": "1"}),
        Command(("x",), stdin="t.in", stdout="t.out"),
    )
    other = job.tasks["u"]
    assert (other.after, other.steps) == (("t",), (Command(("one",)),))
    assert other.mirror == (Mirror("m", mode="copy"),)
    assert other.outputs == (Output("x.txt"),)
    assert other.on_failure == (
        Output("y.txt", required=False),
        Output("z.txt", required=False, existing="error"),
    )


def test_after_takes_patterns_and_values_that_look_like_patterns(tmp_path):
    job = load(
        tmp_path,
        """
        [[task]]
        name = "mc-{v}"
        foreach = { v = ["a[1]", "b"] }
        steps = "x"
        [[task]]
        name = "sum-{v}"
        foreach = { v = ["a[1]", "b"] }
        after = ["mc-{v}", "mc-*"]
        steps = "x"
        """,
    )
    assert job.tasks["sum-a[1]"].after == ("mc-a[[]1]", "mc-*")


AWKWARD = [
    "two words.las",
    "line\nend.las",
    "-rf.las",
    "a[1]*.las",
    'it\'s "$(touch hacked)".las',
    "{index}.las",
    os.fsdecode(b"caf\xe9.las"),
]


def test_awkward_names_of_files_stay_one_thing_everywhere(tmp_path):
    make(tmp_path, *(f"data/{name}" for name in AWKWARD), "data/a1x.las")
    job = load(
        tmp_path,
        """
        [[task]]
        foreach = "data/*.las"
        mirror = { "data/{stem}.hdr" = "{stem}" }
        steps = ["cat {input} x={input}", { run = "cat {input} '{input}'", shell = true }]
        outputs = { "{stem}.out" = { to = "{stem}", rename = "{task}-{stem}" } }
        """,
    )
    assert set(job.tasks) == {name.removesuffix(".las") for name in [*AWKWARD, "a1x.las"]}
    for name in AWKWARD:
        stem = name.removesuffix(".las")
        task = job.tasks[stem]
        safe = f"./{name}" if name.startswith("-") else name
        own, beside = task.mirror
        assert own == Mirror(str(tmp_path / "data" / name))
        assert beside.to == stem
        words, shell = task.steps
        assert words.line == ("cat", safe, f"x={name}")
        ran = subprocess.run(
            shell.line, shell=True, cwd=tmp_path / "data", capture_output=True, check=True
        )
        assert ran.stdout == (tmp_path / "data" / name).read_bytes() * 2
        assert task.outputs[0].to == stem
    assert job.tasks["{index}"].outputs[0].rename == "{{index}}-{stem}"
    assert not (tmp_path / "data" / "hacked").exists()


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path):
    job = load(tmp_path, b'\xef\xbb\xbfname = "x"\r\n[[task]]\r\nname = "a"\r\nsteps = "true"\r\n')
    assert job.name == "x"
    bad = b'\xef\xbb\xbfname = "x"\r\n[[task]]\r\nname = "a"\r\nsteps = 1\r\n'
    assert complaint(tmp_path, bad)[:2] == (4, 9)


def test_a_thousand_tasks_load_with_few_steps_for_each(tmp_path):
    text = """
        env = { A = "{task}" }
        [[task]]
        name = "mc-{corner}-{run:03d}"
        foreach = { corner = ["tt", "ff"], run = { from = 1, to = 500 } }
        mirror = { "amp.cir" = "." }
        steps = ["ngspice -b amp.cir -o {task}.log", { run = "sort < a > {task}", shell = true }]
        outputs = { "{task}.log" = "logs", "*.raw" = { to = "raw", rename = "{task}{suffix}" } }
        [[task]]
        name = "after-{run}"
        foreach = { run = { from = 1, to = 500 } }
        after = "mc-tt-{run:03d}"
        steps = "x"
    """
    job, calls = counted_calls(lambda: load(tmp_path, text))
    assert len(job.tasks) == 1500
    assert calls / 1500 < 1000


# Bad files: line, column and sentence

PLACEHOLDERS = "write {{ and }} for plain braces"
BASE = "the placeholders are {index}, {jobdir}, {task}, {to}; " + PLACEHOLDERS

BAD = {
    "unknown key of the job": (
        'name = "x"\nretires = 1\n',
        (2, 1, ("unknown key 'retires'; did you mean 'retries'? the keys here are "
               "name, to, mirror, retries, time_limit, log_limit, shared, env, task")),
    ),
    "unknown key of a task": (
        '[[task]]\nsteps = "x"\n\n[[task]]\nsteps = "x"\n  "out puts" = 1',
        (6, 3, ("unknown key 'out puts'; did you mean 'outputs'? the keys here are name, foreach, "
               "mirror, steps, outputs, on_failure, env, values, after, retries, time_limit")),
    ),
    "a key of an input beside the task's own": (
        '[[task]]\nsteps = "x"\noutputs_of = "other"',
        (3, 1, ("unknown key 'outputs_of'; it is a key of an entry of mirror, as in "
                "mirror = [{ … }]; the keys here are name, foreach, mirror, steps, outputs, "
                "on_failure, env, values, after, retries, time_limit")),
    ),
    "a key of the job in a task": (
        '[[task]]\nsteps = "x"\nlog_limit = "2 MiB"',
        (3, 1, ("unknown key 'log_limit'; it is a key of the job, above all tasks; the keys here "
               "are name, foreach, mirror, steps, outputs, on_failure, env, values, after, "
               "retries, time_limit")),
    ),
    "unknown key without a likeness": (
        '[[task]]\nsteps = [{ run = "x", 1 = 2 }]',
        (2, 23, "unknown key '1'; the keys here are run, shell, time_limit, env, stdin, stdout"),
    ),
    "unknown key of a range": (
        '[[task]]\nsteps = "x"\nforeach = { ok = [1], run = { from = 1, too = 2 } }',
        (3, 41, "unknown key 'too'; did you mean 'to'? the keys here are from, to, step"),
    ),
    "unknown key of an output": (
        '[[task]]\nsteps = "x"\n[task.outputs]\n"*.a" = "."\n"*.b" = { renam = "x" }',
        (5, 11, ("unknown key 'renam'; did you mean 'rename'? the keys here are "
                "to, rename, required, existing")),
    ),
    "unknown key in a list of mirrors": (
        'mirror = ["é", { pattern = "x", depth = 2 }]',
        (1, 33, ("unknown key 'depth'; the keys here are to, rename, exclude, required, readonly, "
                "mode, executable, outputs_of, pattern")),
    ),
    "unknown key in a list for failures": (
        '[[task]]\nsteps = "x"\non_failure = [{ pattern = "x", mode = "copy" }]',
        (3, 32, ("unknown key 'mode'; it is a key of an entry of mirror, as in mirror = [{ … }]; "
                "the keys here are to, rename, required, existing, pattern")),
    ),
    "a mode that there is not": (
        'mirror = { "a" = ".", "b" = { mode = "links" } }',
        (1, 38, ("'mode' must be one of 'auto', 'overlay', 'reflink', 'link', 'copy', "
                "not the string 'links'; did you mean 'link'?")),
    ),
    "a mode in a list": (
        '[[task]]\nsteps = "x"\nmirror = [\n  "a",\n  { pattern = "b", mode = 3 },\n]',
        (5, 27, ("'mode' must be one of 'auto', 'overlay', 'reflink', 'link', 'copy', "
                "not the number 3")),
    ),
    "text for read-only": (
        'mirror = { "a" = { readonly = "true" } }',
        (1, 31, ("'readonly' must be true or false, not the string 'true'; "
                "leave out the quotes: true")),
    ),
    "a policy that there is not": (
        ('[[task]]\nsteps = "x"\n[task.outputs]\n"*.a" = { existing = "keep" }\n'
        '"*.b" = { existing = "never" }'),
        (5, 22, "'existing' must be one of 'replace', 'error', 'keep', not the string 'never'"),
    ),
    "a policy in what failed tasks leave": (
        '[[task]]\nsteps = "x"\non_failure = { "*.a" = { existing = "errors" } }',
        (3, 37, ("'existing' must be one of 'replace', 'error', 'keep', "
                "not the string 'errors'; did you mean 'error'?")),
    ),
    "number for what failed tasks leave": (
        "[[task]]\nsteps = \"x\"\non_failure = 1",
        (3, 14, ("'on_failure' must be a string in quotes or a list or a table, not the number 1; "
                'for example on_failure = { "*.log" = "failed" }')),
    ),
    "bad placeholder in what failed tasks leave": (
        '[[task]]\nname = "x"\nsteps = "y"\non_failure = { "a" = "b", "*.log" = "{tsk}" }',
        (4, 38, "{tsk}: no such placeholder here; did you mean {task}? " + BASE),
    ),
    "what failed tasks leave outside their folder": (
        '[[task]]\nname = "x"\nsteps = "y"\non_failure = ["a", "../b"]',
        (4, 20, ("the target '../b' leaves the task's folder through '..'; "
                "give a path inside the task's folder, like 'data' or '.'")),
    ),
    "missing steps": (
        '\n[[task]]\nname = "x"\n',
        (2, 1, "the key 'steps' is missing here; add steps = [\"prog {input}\"]"),
    ),
    "missing pattern": (
        'mirror = [{ to = "x" }]',
        (1, 11, "the key 'pattern' is missing here; add pattern = \"data/*.txt\""),
    ),
    "text for a number": (
        '[[task]]\nsteps = "x"\nretries = "2"',
        (3, 11, "'retries' must be an integer, not the string '2'; leave out the quotes: 2"),
    ),
    "negative retries": (
        "retries = -1",
        (1, 11, "'retries' must be an integer of 0 or more, not the number -1"),
    ),
    "number for a text in a free table": (
        'env = { A = "1", B = 1 }',
        (1, 22, "'B' must be a string in quotes, not the number 1; put it in quotes: \"1\""),
    ),
    "number among the words": (
        '[[task]]\nsteps = [\n  "x",\n  ["x", 3],\n]',
        (4, 9, ("item 2 of item 2 of 'steps' must be a string in quotes, not the number 3; "
               'put it in quotes: "3"')),
    ),
    "text for true": (
        '[[task]]\nsteps = [{ run = "x", shell = "true" }]',
        (2, 31, ("'shell' must be true, false or 'bash', not the string 'true'; "
                 "leave out the quotes: true")),
    ),
    "a shell that is not known": (
        '[[task]]\nsteps = [{ run = "x", shell = "zsh" }]',
        (2, 31, "'shell' must be true, false or 'bash', not the string 'zsh'"),
    ),
    "one pair of brackets": (
        '[task]\nname = "x"',
        (1, 1, ("'task' must be a list, not a table; "
               "write [[task]] with two brackets, once for each task")),
    ),
    "number for steps": (
        "[[task]]\nsteps = 1",
        (2, 9, ("'steps' must be a string in quotes or a list, not the number 1; "
               'for example steps = ["prog {input}"]')),
    ),
    "date for a value": (
        '[[task]]\nsteps = "x"\nforeach = { a = [1], b = ["x", 1979-05-27] }',
        (3, 32, ("item 2 of 'b' must be a string in quotes or a number or true or false, "
                "not the time 1979-05-27")),
    ),
    "text for a list of values": (
        '[[task]]\nsteps = "x"\n[task.foreach]\na = [1]\ncorner = "tt"',
        (5, 10, "'corner' must be a list or a table, not the string 'tt'"),
    ),
    "a table that is not there": (
        '[[task]]\nsteps = "x"\nforeach = { csv = "/no/none.csv" }',
        (3, 19, ("/no/none.csv: cannot be read (No such file or directory); "
                "check its name and folder")),
    ),
    "time limit of no unit": (
        'time_limit = "5 minutes"',
        (1, 14, ("the string '5 minutes' is not a time limit; write a number of seconds above 0, "
                "or a time such as '500 ms', '30 s', '5 min', '2 h'")),
    ),
    "time limit of nothing": (
        '[[task]]\nname = "x"\nsteps = [{ run = "x", time_limit = 0 }]',
        (3, 36, ("the number 0 is not a time limit; write a number of seconds above 0, or a "
                "time such as '500 ms', '30 s', '5 min', '2 h'")),
    ),
    "bad placeholder in a step": (
        '[[task]]\nname = "x"\nsteps = [\n  "y",\n  "prog é {{tsk}} {tsk}",\n]',
        (5, 19, "{tsk}: no such placeholder here; did you mean {task}? " + BASE),
    ),
    "bad placeholder in a long text": (
        '[[task]]\nname = "x"\nsteps = [{ shell = true, run = """\nsort\ncat {inptu}\n""" }]',
        (5, 5, "{inptu}: no such placeholder here; " + BASE),
    ),
    "bad placeholder in a pattern": (
        '[[task]]\nname = "x"\nsteps = "y"\nmirror = { "a" = ".", "b{c}" = "." }',
        (4, 25, "{c}: no such placeholder here; " + BASE),
    ),
    "bad placeholder in a folder": (
        '[[task]]\nname = "x"\nsteps = "y"\noutputs = { "a" = "{input}" }',
        (4, 20, "{input}: no such placeholder here; it is only for tasks that foreach makes "
                "for files; " + BASE),
    ),
    "bad placeholder in a rename": (
        '[[task]]\nname = "x"\nsteps = "y"\noutputs = { "a" = { rename = "{stm}" } }',
        (4, 31, "{stm}: no such placeholder here; did you mean {stem}? the placeholders are "
                "{index}, {jobdir}, {name}, {stem}, {suffix}, {task}, {to}; " + PLACEHOLDERS),
    ),
    "task in its own name": (
        '[[task]]\nname = "a{task}"\nsteps = "y"',
        (2, 10, "{task}: no such placeholder here; the placeholders are {index}, {jobdir}, {to}; "
                + PLACEHOLDERS),
    ),
    "task in the job's mirror": (
        'mirror = "{task}"\n[[task]]\nname = "x"\nsteps = "y"',
        (1, 11, "{task}: no such placeholder here; the placeholders are {jobdir}, {to}; "
                + PLACEHOLDERS),
    ),
    "bad placeholder in the job's environment": (
        'env = { A = "a", B = "b {x}" }\n[[task]]\nname = "x"\nsteps = "y"',
        (1, 25, "{x}: no such placeholder here; " + BASE),
    ),
    "bad placeholder in after": (
        '[[task]]\nname = "x"\nsteps = "y"\nafter = ["x", "{x}"]',
        (4, 16, "{x}: no such placeholder here; " + BASE),
    ),
    "a lone brace": (
        '[[task]]\nname = "x"\nsteps = "awk {{ }"',
        (3, 17, "}: a lone brace; write }} for a plain brace"),
    ),
    "quotes that stay open": (
        '[[task]]\nname = "x"\nsteps = ["y", "echo don\'t"]',
        (3, 15, 'the command line "echo don\'t": has no closing quotation'),
    ),
    "an empty step": (
        '[[task]]\nname = "x"\nsteps = ["y", ""]',
        (3, 15, "a step: has an empty command line"),
    ),
    "a list for the shell": (
        '[[task]]\nname = "x"\nsteps = [{ run = ["y"], shell = true }]',
        (3, 10, "a shell step: is one string, not a list of words"),
    ),
    "no steps": (
        '[[task]]\nname = "x"\nsteps = []',
        (3, 9, 'a task needs a step; add a command line: steps = ["prog {input}"]'),
    ),
    "no tasks": (
        'name = "x"\n',
        (0, 0, 'the job has no task; add [[task]] and steps = ["prog ..."]'),
    ),
    "no name": (
        '[[task]]\nname = "x"\nsteps = "y"\n\n[[task]]\nsteps = "y"',
        (5, 1, 'a task without foreach: needs a name; add name = "..."'),
    ),
    "a name with a slash": (
        '[[task]]\nname = "a/{v}"\nforeach = { v = [1] }\nsteps = "y"',
        (2, 8, "the task name 'a/1': must be a file name: not empty, no '/', at most 200 bytes"),
    ),
    "a job name with a slash": (
        'name = "a/b"\n[[task]]\nname = "x"\nsteps = "y"',
        (1, 8, "the job name 'a/b': must be a file name: not empty, no '/', at most 200 bytes"),
    ),
    "an empty task name": (
        '[[task]]\nname = ""\nsteps = "y"',
        (2, 8, "the task name '': must be a file name: not empty, no '/', at most 200 bytes"),
    ),
    "one name for all values": (
        '[[task]]\nname = "mc-{corner}"\nforeach = { corner = ["tt"], run = [1, 2] }\nsteps = "y"',
        (2, 8, ("task mc-tt: is made twice, for corner = 'tt', run = '1' and for "
               "corner = 'tt', run = '2'; put {run} into its name")),
    ),
    "one name for two tasks": (
        '[[task]]\nname = "x"\nsteps = "y"\n[[task]]\nname = "x"\nsteps = "y"',
        (5, 8, ("task x: is made twice, for [[task]] number 1 and for [[task]] number 2; "
               "give one of them a different name")),
    ),
    "a key of foreach that is taken": (
        '[[task]]\nname = "x"\nsteps = "y"\nforeach = { name = [1] }',
        (4, 20, "{name} has a different meaning; choose a name other than 'name'"),
    ),
    "a key of foreach that is no word": (
        '[[task]]\nname = "x"\nsteps = "y"\nforeach = { a-b = [1] }',
        (4, 19, "'a-b' cannot be a placeholder; use letters, digits and '_'"),
    ),
    "a step of 0": (
        '[[task]]\nname = "x"\nsteps = "y"\nforeach = { a = { from = 1, to = 2, step = 0 } }',
        (4, 44, "a step of 0 never ends; give 1 or more, or -1 to go down"),
    ),
    "no values": (
        '[[task]]\nname = "x"\nsteps = "y"\nforeach = { a = { from = 2, to = 1 } }',
        (4, 17, "{a} has no values; give a list or range that is not empty"),
    ),
    "no lists": (
        '[[task]]\nname = "x"\nsteps = "y"\nforeach = {}',
        (4, 11, "the table produces no task; add a list such as corner = ['tt', 'ff']"),
    ),
    "no patterns": (
        '[[task]]\nsteps = "y"\nforeach = []',
        (3, 11, 'the list produces no task; add a pattern such as "data/*.txt"'),
    ),
    "far too many tasks": (
        ('[[task]]\nname = "x"\nsteps = "y"\nforeach = { a = { from = 1, to = 1000 }, '
        "b = { from = 1, to = 2000 } }"),
        (4, 11, "this makes 2,000,000 tasks, more than 1,000,000; check the numbers"),
    ),
    "tasks without number": (
        '[[task]]\nname = "x"\nsteps = "y"\nforeach.a = { from = 0, to = 99999999999999999999 }',
        (4, 13, ("this makes 100,000,000,000,000,000,000 tasks, more than 1,000,000; "
                "check the numbers")),
    ),
    "a null byte": (
        '[[task]]\nname = "x"\nsteps = ["y", "a\\u0000"]',
        (3, 15, "'a\\x00': contains a null byte, which is not allowed in names and commands"),
    ),
    "a null byte in a value": (
        '[[task]]\nname = "x"\nsteps = "y"\nforeach = { v = ["a", "\\u0000"] }',
        (4, 23, "'\\x00' contains a null byte; remove it"),
    ),
    "an unknown user": (
        'to = "~no-such-user/x"\n[[task]]\nname = "x"\nsteps = "y"',
        (1, 6, "'~no-such-user/x': names an unknown user after the '~'"),
    ),
    "a variable with no name": (
        'env = { "A=B" = "1" }\n[[task]]\nname = "x"\nsteps = "y"',
        (1, 17, "the variable 'A=B': has a name that is not allowed in an environment"),
    ),
    "after a task that is not there": (
        ('[[task]]\nname = "strip-{v}"\nforeach = { v = [1, 2] }\nsteps = "y"\n'
        '[[task]]\nname = "sum"\nafter = ["strip-*", "stripes-*"]\nsteps = "y"'),
        (7, 21, "no task of this job is called 'stripes-*'; did you mean 'strip-2'?"),
    ),
    "after something quite else": (
        '[[task]]\nname = "s{v}"\nforeach.v = { from = 1, to = 9 }\nsteps = "y"\nafter = "mc-*"',
        (5, 9, "no task of this job is called 'mc-*'; its tasks are s1, s2, s3, s4, s5 and 4 more"),
    ),
    "a shell step whose value stands where it cannot be quoted": (
        '[[task]]\nname = "x"\nsteps = [{ shell = true, run = "echo `cat {task}`" }]',
        (3, 43, ("{task}: cannot be inserted inside backquotes of a shell step; "
                'give it as env = { VALUE = "{task}" } and write "$VALUE" there')),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_reported_with_position_and_remedy(name, tmp_path):
    text, expected = BAD[name]
    assert complaint(tmp_path, text) == expected


def test_the_message_begins_with_file_line_and_column(tmp_path):
    with pytest.raises(BadJobFile, match=r"job\.toml:1:1: unknown key 'x'; "):
        load(tmp_path, "x = 1")


NOT_TOML = 'check the quotes and brackets here; a key is written as key = "text"'


@pytest.mark.parametrize(
    ("text", "line", "column", "why"),
    [
        ('name = "x"\nto = results\n', 2, 6, "Invalid value"),
        ('name = "x"\nto = \n', 2, 6, "Invalid value"),
        ('name = "x"\nname = "y"\n', 2, 11, "Cannot overwrite a value"),
        ('é = "x\n', 1, 1, "Invalid statement"),
        ('[[task]]\nsteps = [\n  "x"\n\n', 3, 6, "Unclosed array"),
    ],
)
def test_invalid_toml_is_reported_with_position(text, line, column, why, tmp_path):
    assert complaint(tmp_path, text) == (line, column, f"this is not TOML: {why}; {NOT_TOML}")


def test_invalid_utf8_is_reported_with_position(tmp_path):
    assert complaint(tmp_path, 'name = "é"\nto = "é'.encode() + b'\xff"\n') == (
        (2, 8, "the byte 0xff is not UTF-8; save the file as UTF-8 text")
    )


def test_endlessly_nested_file_is_reported(tmp_path):
    line, column, why = complaint(tmp_path, "x = " + "[" * 100_000)
    assert (line, column, why) == (0, 0, "it is nested too deeply; flatten its lists")


def test_a_missing_file_and_a_folder_have_no_line(tmp_path):
    for path, why in [
        (tmp_path / "none.toml", "there is no such file; check its name and folder"),
        (tmp_path, "this is a folder; give the job file in it"),
    ]:
        with pytest.raises(BadJobFile) as caught:
            load_job(path)
        assert str(caught.value) == f"{path}: {why}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_job_file_is_reported(tmp_path):
    path = tmp_path / "job.toml"
    path.touch(mode=0)
    with pytest.raises(BadJobFile, match=r"it cannot be read \(Permission denied\)"):
        load_job(path)


def test_foreach_without_match_is_reported(tmp_path):
    make(tmp_path, "data/a.las")
    line, column, why = complaint(
        tmp_path, '[[task]]\nsteps = "y"\nforeach = ["data/*.las", "data/*.laz"]'
    )
    assert (line, column) == (3, 26)
    assert why.startswith(f"no file matches 'data/*.laz' in {tmp_path}; check the pattern")


def test_two_files_for_one_task_name_are_both_named(tmp_path):
    make(tmp_path, "data/a.las", "more/a.las")
    bad = '[[task]]\nsteps = "y"\nforeach = "*/*.las"'
    first, second = tmp_path / "data/a.las", tmp_path / "more/a.las"
    assert complaint(tmp_path, bad) == (
        3,
        11,
        (
            f"task a: is made twice, for {first} and for {second}; "
            "put {name} or {parent} or {index} into its name"
        ),
    )
    assert list(load(tmp_path, bad + '\nname = "{parent}-{name}"').tasks) == [
        "data-a.las",
        "more-a.las",
    ]


# Places, schema, documentation


def test_places_of_every_kind_of_key():
    text = """\
a.b = 1 # é
"q\\u0041" = [1, # c
  { x = 2, y.z = "é", w = 3 }]
[t.u]
v = true
[[l]]
[[l.m]]
[l.m.n]
o = 1
[[l.m]]
p = '''
{x}'''"""
    places = Positions(text)
    assert places.of(("a", "b")) == (1, 7)
    assert places.of(("a", "b"), key=True) == (1, 3)
    assert places.of(("qA",), key=True) == (2, 1)
    assert places.of(("qA", 0)) == (2, 14)
    assert places.of(("qA", 1, "y", "z")) == (3, 18)
    assert places.of(("qA", 1, "w"), key=True) == (3, 23)
    assert places.of(("t", "u"), key=True) == (4, 4)
    assert places.of(("t", "u", "v")) == (5, 5)
    assert places.of(("l", 0)) == (6, 1)
    assert places.of(("l", 0, "m", 0, "n", "o")) == (9, 5)
    assert places.of(("l", 0, "m", 1, "p"), token="{x}") == (12, 1)
    assert places.of(("l", 0, "m", 1, "none"), key=True) == (10, 1)
    assert places.of(("none",)) == (0, 0)


def test_the_schema_names_every_key():
    schema = job_schema()
    msgspec.json.encode(schema)
    tables = schema["$defs"]
    assert {
        "name",
        "to",
        "mirror",
        "retries",
        "time_limit",
        "log_limit",
        "shared",
        "env",
        "task",
    } == set(tables["JobTable"]["properties"])
    assert tables["TaskTable"]["required"] == ["steps"]
    assert tables["Numbers"]["required"] == ["from", "to"]
    assert tables["StepTable"]["additionalProperties"] is False
    assert set(tables["MirrorTo"]["properties"]["mode"]["enum"]) == set(get_args(Mode))
    assert set(tables["OutputTo"]["properties"]["existing"]["enum"]) == set(get_args(Existing))
    assert tables["MirrorItem"]["properties"]["readonly"]["type"] == "boolean"
    assert "on_failure" in tables["TaskTable"]["properties"]


def test_every_job_file_in_the_documentation_loads(tmp_path):
    make(tmp_path, "data/north/a.las", "data/b.las", "more/c.laz", "amp.cir", "models/x.lib")
    blocks = re.findall(r"^```toml\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    jobs = [load(tmp_path, block) for block in blocks]
    assert len(jobs[0].tasks) == 141
    assert jobs[0].tasks["mc-ff-007"].steps[0].line[1] == "s/CORNER/ff/; s/SEED/7/"


def test_reading_a_good_file_loads_no_parser_for_places(tmp_path):
    (tmp_path / "job.toml").write_text('[[task]]\nname = "a"\nsteps = "true"\n')
    code = (
        "import sys; from pathlib import Path; from encamp.jobs.file.jobfile import load_job; "
        "load_job(Path('job.toml')); assert 'tree_sitter' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_documented_shell_steps_run(tmp_path):
    make(tmp_path, "data/it's 7.las")
    block = re.findall(r"^```toml\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)[-1]
    task = load(tmp_path, block).tasks["it's 7"]
    for step in task.steps:
        env = {**os.environ, **step.env}
        subprocess.run(["/bin/sh", "-c", step.line], cwd=tmp_path / "data", env=env, check=True)
    assert (tmp_path / "data/it's 7 sorted.txt").is_file()
    assert shlex.split((tmp_path / "data/count.txt").read_text()) == ["none", "0"]
