"""``encamp map``: one command line for many files, rows, lines or values."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
from console_command import ENCAMP, encamp, results

from encamp.cli.last_map_command import note_line, other_line, warning_of
from encamp.cli.map import Mapped, map_job
from encamp.errors import InputError
from encamp.jobs.job import Job
from encamp.jobs.steps import Command

NOTHING: dict[str, Any] = {
    "to": "results",
    "outputs": ("*.out",),
    "into": ".",
    "no_outputs": False,
    "stdin": None,
    "stdout": None,
    "values": None,
    "mirror": (),
    "env": (),
    "shell": False,
    "csv": None,
    "lines": None,
    "foreach": (),
    "null": False,
    "name": None,
    "task": None,
}


def job_for(command: str, *files: str, **options: Any) -> Job:
    return map_job(Mapped(command, files, **NOTHING | options))


def refused(command: str, *files: str, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        job_for(command, *files, **options)
    return str(raised.value)


def lines_of(job: Job) -> dict[str, str]:
    """Task → its command line."""
    steps = {name: task.steps[0] for name, task in job.tasks.items()}
    return {n: " ".join(s.line) for n, s in steps.items() if isinstance(s, Command)}


@pytest.fixture
def data(here: Path) -> Path:
    """A current folder with files in a folder."""
    (here / "data").mkdir()
    for name in ("a.txt", "b.txt", "c[1].txt", "d.dat"):
        (here / "data" / name).write_text(f"{name}\n")
    return here


def fed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_each_file_is_a_task_whether_it_is_named_or_matched(data: Path) -> None:
    job = job_for("prog {input}", "data/[ab].txt", "data/c[1].txt", "data/a.txt")
    assert lines_of(job) == {"a": "prog a.txt", "b": "prog b.txt", "c[1]": "prog c[1].txt"}
    assert (job.name, job.to) == ("map-prog", data / "results")
    assert job.tasks["c[1]"].mirror[0].literal


def test_a_quoted_pattern_that_is_also_a_file_is_refused(data: Path) -> None:
    (data / "data/*.txt").write_text("a stray file\n")
    why = refused("cat {input}", "data/*.txt", no_outputs=True)
    assert why.startswith("the pattern 'data/*.txt': is the name of a file, but matches data/a.txt")
    listed = [f"data/{name}" for name in ("*.txt", "a.txt", "b.txt", "c[1].txt")]
    assert list(job_for("cat {input}", *listed).tasks) == ["*", "a", "b", "c[1]"]
    assert list(job_for("cat {input}", "data/[*].txt").tasks) == ["*"]


def test_names_are_read_from_standard_input(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed(monkeypatch, b"data/c[1].txt\n\ndata/d.dat\n")
    assert list(job_for("prog {input}", "-", "data/a.txt").tasks) == ["c[1]", "d", "a"]
    (data / "line\nend").touch()
    fed(monkeypatch, b"line\nend\0data/a.txt\0")
    assert list(job_for("prog {input}", "-", null=True).tasks) == ["line\nend", "a"]


def test_rows_of_a_table_are_placeholders(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.csv").write_text('\ufeffcorner; temp\ntt;27\n\n"f;f";-40\n', "utf-8")
    job = job_for("prog {corner} {temp:03d}", csv="t.csv")
    assert list(lines_of(job).values()) == ["prog tt 027", "prog f;f -40"]
    assert next(iter(job.tasks)) == "tt-27"
    for mark in (b"", b"\xef\xbb\xbf"):  # as Excel begins it
        fed(monkeypatch, mark + b"a,b\r\n1,2\r\n")
        assert lines_of(job_for("prog {a}{b}", csv="-")) == {"1-2": "prog 12"}


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\r"])
def test_rows_end_where_lines_of_a_table_end(separator: str, data: Path) -> None:
    words = ["one\u2028two", "page\x0cend", "next\x85line", "file\x1cend"]
    Path("t.csv").write_bytes(separator.join(["a", *words, ""]).encode())
    rows = job_for("prog {a}", csv="t.csv", task="{index}").tasks.values()
    assert [task.steps[0].line[1] for task in rows] == words  # type: ignore[union-attr]


def test_lines_of_a_file_are_placeholders(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("list").write_text("one\ntwo words\n\n")
    job = job_for("prog {line}", lines="list", task="{index}")
    assert [task.steps[0].line for task in job.tasks.values()] == [  # type: ignore[union-attr]
        ("prog", "one"),
        ("prog", "two words"),
    ]
    fed(monkeypatch, b"x\r\ny\r\n")
    assert lines_of(job_for("prog {line}", lines="-")) == {"x": "prog x", "y": "prog y"}


def test_values_are_combined_with_rows(data: Path) -> None:
    Path("t.csv").write_text("corner\ntt\nff\n")
    job = job_for("prog {corner} {run} {v}", csv="t.csv", foreach=("run=2..1", "v=a,b"))
    assert list(lines_of(job).values())[:3] == ["prog tt 2 a", "prog tt 2 b", "prog tt 1 a"]
    assert len(job.tasks) == 8


def test_task_keeps_name_when_others_are_added_before(data: Path) -> None:
    names = ["a/b c", "x" * 300, "..", "ü-1.5"]
    Path("list").write_text("\n".join(names))
    first = list(job_for("prog {line}", lines="list").tasks)
    Path("list").write_text("\n".join(["new", *reversed(names)]))
    assert list(job_for("prog {line}", lines="list").tasks) == ["new", *reversed(first)]
    assert len(set(first)) == 4
    assert first[3] == "ü-1.5"


def test_map_options_match_job_file(data: Path) -> None:
    job = job_for(
        "prog > {stem}.out",
        "data/a.txt",
        shell="bash",
        stdin="{input}",
        stdout="{stem}.log",
        into="{parent}",
        mirror=("data/d.dat", "data/{stem}.*"),
        env=("V={stem}=x",),
        name="mine",
    )
    task = job.tasks["a"]
    step = Command("prog > a.out", "bash", None, {"V": "a=x"}, "a.txt", "a.log")
    assert task.steps == (step,)
    assert [(one.pattern, one.to) for one in task.outputs] == [("*.out", "data"), ("a.log", "data")]
    assert [one.pattern for one in job.mirror] == ["data/d.dat"]
    assert [one.pattern for one in task.mirror][1:] == ["data/a.*"]
    assert job.name == "mine"


@pytest.mark.parametrize(
    ("listed", "values"),
    [("1..10..2", "1 3 5 7 9"), ("1..3,7", "1 2 3 7"), ("5..1..2", "5 3 1"),
     ("-1..1,a", "-1 0 1 a"),
     ("../a,../../b", "../a ../../b"), ("2..1,9..9", "2 1 9")],
)  # fmt: skip
def test_foreach_takes_ranges_steps_and_lists(listed: str, values: str, data: Path) -> None:
    job = job_for("prog {x}", foreach=(f"x={listed}",), task="t{index}")
    assert [line.removeprefix("prog ") for line in lines_of(job).values()] == values.split()


BAD: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "no files": (["prog"], {}, "no files: name some, or - to read their names from standard"),
    "no match": (["prog", "*.xyz"], {}, "no file matches '*.xyz' in "),
    "no such file": (["prog", "x.txt"], {}, "there is no 'x.txt' in "),
    "no outputs": (
        ["prog", "data/*.txt"],
        {"outputs": ()},
        "no outputs: the files that the command makes",
    ),
    "placeholder": (
        ["prog {inptu}", "data/*.txt"],
        {},
        "{inptu}: no such placeholder here; did you mean {input}?",
    ),
    "placeholder of an output": (
        ["prog", "data/*.txt"],
        {"outputs": ("{colour}",)},
        "{colour}: no such placeholder here",
    ),
    "files and values": (
        ["prog", "data/a.txt"],
        {"foreach": ("a=1",)},
        "data/a.txt: give files or values, not both",
    ),
    "a shell's sign": (
        ["prog | sort", "data/a.txt"],
        {},
        "holds '|', but no shell runs; let one run it (shell = true in a job file, ",
    ),
    "no command": (["", "data/a.txt"], {}, "a step: has an empty command line"),
    "names twice": (
        ["prog", "data/a.txt", "data/b.txt"],
        {"task": "t"},
        "task t (--task): is made twice, for ",
    ),
    "job's name": (["prog", "data/a.txt"], {"name": "a/b"}, "the job name 'a/b' (--name): must"),
    "no value": (["prog"], {"foreach": ("a",)}, "--foreach a: write it as NAME=VALUE"),
    "empty": (["p"], {"foreach": ("x=",)}, "--foreach x=: has no value; give some, such as x=tt"),
    "step of 0": (["p"], {"foreach": ("x=1..9..0",)}, "'1..9..0' is not a range; write integers"),
    "huge": (["p"], {"foreach": ("x=1..99999999999,0",)}, "makes more than 1,000,000 tasks"),
    **{
        text: (["p"], {"foreach": (f"x={text}",)}, f"--foreach x={text}: ")
        for text in ("1..", "..3", "0.1..0.5", "a..c", "1,2..", "1..2..3..4", "1...3", "..")
    },
    "a variable": (["prog", "data/a.txt"], {"env": ("a",)}, "--env a: write it as NAME=VALUE"),
    "twice a name": (["p"], {"foreach": ("a=1", "a=2")}, "--foreach a=2: {a} occurs twice"),
    "a taken word": (
        ["p"],
        {"foreach": ("input=1",)},
        "--foreach: {input} has a different meaning",
    ),
    "no word": (["p"], {"foreach": ("a-b=1",)}, "--foreach: 'a-b' cannot be a placeholder"),
    "no table": (["p"], {"csv": "none.csv"}, "none.csv: cannot be read (No such file or dir"),
    "no list": (["p"], {"lines": "none"}, "none: cannot be read (No such file or directory)"),
    "both from standard input": (["p"], {"csv": "-", "lines": "-"}, "-: standard input can be"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, data: Path) -> None:
    words, options, expected = BAD[case]
    assert expected in refused(*words, **options).replace(f"{data}/", "")


TABLES = {
    "": "t.csv: has no columns; its first line names them",
    "a,b\n": "t.csv: has no rows below its header",
    "a,b\n1\n": "t.csv, line 2: has 1 value for 2 columns",
    "a,a\n1,2\n": "t.csv: has two columns 'a'",
    "a b,c\n1,2\n": "--csv: 'a b' cannot be a placeholder; use letters, digits and '_'",
    "name\nx\n": "--csv: {name} has a different meaning",
    'a\n"b\n': "t.csv, line 2: is not a row of a table: unexpected end of data",
    "a\n1\n1\n": "task 1 (--task): is made twice, as a = '1' is given twice; give it once, or",
    "x\n1\n": "--foreach: {x} occurs twice; rename one of them",
}


@pytest.mark.parametrize("text", TABLES)
def test_invalid_table_is_reported(text: str, data: Path) -> None:
    Path("t.csv").write_text(text)
    assert TABLES[text] in refused("prog", csv="t.csv", foreach=("x=1",) if "x" in text else ())


@pytest.mark.parametrize(("given", "message"), [(b"", "standard input: has no file names")])
def test_empty_standard_input_is_reported(
    given: bytes, message: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed(monkeypatch, given)
    assert message in refused("prog", "-")
    fed(monkeypatch, given)
    assert "standard input: has no line" in refused("prog", lines="-")
    fed(monkeypatch, b"\xff")
    assert "standard input: is not UTF-8" in refused("prog", csv="-")


def test_the_command_runs_resumes_and_says_what_went_wrong(data: Path) -> None:
    line = ["map", "tr a-z A-Z", "data/a.txt", "data/b.txt", "--stdin", "{input}"]
    line += ["--stdout", "{stem}.up", "-j", "2"]
    ended = encamp(*line)
    assert (ended.status, ended.out) == (0, "")
    assert results(data / "results") == {"a.up": b"A.TXT\n", "b.up": b"B.TXT\n"}
    (data / "data" / "b.txt").write_text("new\n")
    assert "map-tr: 1 done, 1 up to date in" in encamp(*line).err
    same = encamp("map", "echo", "data/a.txt", "data/b.txt", "--stdout", "x")
    same.check_refused("task a and task b would both be published under one name", "--into {task}")


def test_failures_are_counted_and_run_again(data: Path) -> None:
    line = [ENCAMP, "map", "test {line} != b", "--lines", "-", "--no-outputs", "-q"]
    for more, expected in ([], "failed: b\n"), (["--failed", "--retries", "1"], "failed: b\n"):
        done = subprocess.run(
            [*line, *more], input="a\nb\nc\n", capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert done.stderr.startswith(expected)


def test_a_command_that_takes_over_the_job_of_another_is_warned_of(data: Path) -> None:
    def warned(command: str) -> str:
        job = job_for(command, "data/a.txt")
        before = other_line(job, command, shared=False)
        note_line(job, command, shared=False)
        return "" if before is None else warning_of(job, before)

    (data / "results/map-prog.job").mkdir(parents=True)
    assert warned("prog {input}") == ""
    assert warned("prog {input}") == ""
    output = warned("prog -r {input}")
    assert "the job map-prog was created by another command, 'prog {input}'; " in output
    assert output.endswith("--name map-prog-2")
    assert warned("prog -r {input}") == ""


def test_the_warning_comes_where_no_name_is_given(data: Path) -> None:
    more = ("data/a.txt", "--stdout", "x", "-j", "1")
    first, second = ("map", "echo 1", *more), ("map", "echo 2", *more)
    assert "warning: " not in encamp(*first).err
    assert "--name map-echo-2" in encamp(*second, "--dry-run").err
    assert (
        "warning: the job map-echo was created by another command, 'echo 1'" in encamp(*second).err
    )
    assert "warning: " not in encamp(*first, "--name", "map-echo").err
