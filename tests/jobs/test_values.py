"""Values that tasks return or write become one table, with their parameters."""

from __future__ import annotations

import csv
import enum
import errno
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encamp
from encamp import task_values
from encamp.errors import BadJob, BadValues, DiskFull, NotInstalled
from encamp.jobs.display.terminal import console_progress
from encamp.jobs.file.jobfile import load_job
from encamp.jobs.numbers_in_files import scalar_in
from encamp.jobs.report.read_report import read_report
from encamp.jobs.report.results_csv import write_table
from encamp.jobs.worker.values_file import read_values
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.task_values import LONGEST_TEXT, MOST_COLUMNS, as_json, row_of


def gain(corner: str, run: int, scale: float = 1.0, models: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"gain": np.float64(40 + run), "ok": np.bool_(run > 1), "label": corner.upper()}


def doubled(run: int) -> int:
    return 2 * run


def sweep(**options: Any) -> encamp.Job:
    job = encamp.Job("sweep", to="out")
    for corner, run in (("tt", 1), ("tt", 2), ("ff", 1)):
        job.add(f"{corner}-{run}", encamp.call(gain, corner, run=run, models=("x",)), **options)
    return job


ROWS = [
    {"task": "tt-1", "corner": "tt", "run": 1, "gain": 41.0, "ok": False, "label": "TT"},
    {"task": "tt-2", "corner": "tt", "run": 2, "gain": 42.0, "ok": True, "label": "TT"},
    {"task": "ff-1", "corner": "ff", "run": 1, "gain": 41.0, "ok": False, "label": "FF"},
]
TABLE = Path("out/sweep.job/results.csv")


def in_file(path: Path = TABLE) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def as_texts(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{n: "" if v is None else str(v) for n, v in row.items()} for row in rows]


def test_table_has_return_values_and_arguments_after_resume(
    here: Path,
) -> None:
    assert sweep().run(slots=2).values() == ROWS
    assert in_file() == as_texts(ROWS)
    again = sweep().run(slots=2)
    assert again.count("up to date") == 3
    assert again.values() == ROWS
    assert again.values("tt-*") == ROWS[:2]
    assert again.values(["ff-1"]) == ROWS[2:]
    assert in_file() == as_texts(ROWS)
    on_disk = read_report(Path("out/sweep.job/report.json"))
    assert on_disk.values() == ROWS


def test_a_run_of_some_tasks_leaves_the_rows_of_the_others(here: Path) -> None:
    sweep().run(slots=2)
    report = sweep().run(slots=2, only="ff-1", force=True)
    assert report.values() == ROWS[2:]
    assert in_file() == as_texts(ROWS)


def test_parameters_are_those_of_the_job_as_it_is_now(here: Path) -> None:
    sweep(parameters={"lot": 7}).run(slots=2)
    report = sweep(parameters={"lot": 8, "gain": "a value takes its place"}).run(slots=2)
    assert report.count("up to date") == 3
    assert [(row["lot"], row["gain"]) for row in report.values()] == [(8, 41), (8, 42), (8, 41)]
    assert {row["lot"] for row in in_file()} == {"8"}
    sweep(parameters={"lot": 9}).run(slots=2, only="ff-1")
    assert [row["lot"] for row in in_file()] == ["9"] * 3


def test_a_run_in_which_nothing_changed_does_not_write_the_table_again(here: Path) -> None:
    sweep().run(slots=2)
    first = TABLE.stat()
    assert sweep().run(slots=2).count("up to date") == 3
    assert TABLE.stat().st_ino == first.st_ino
    TABLE.write_text("somebody was here\n")
    sweep().run(slots=2)
    assert in_file() == as_texts(ROWS)
    TABLE.unlink()
    sweep().run(slots=2)
    assert in_file() == as_texts(ROWS)


def test_another_version_writes_the_table_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may be others."""
    sweep().run(slots=2)
    before = TABLE.stat().st_ino
    for version, same in (("0.0.1", False), ("0.0.1", True)):
        monkeypatch.setattr("encamp.jobs.report.results_csv.__version__", version)
        sweep().run(slots=2)
        assert (TABLE.stat().st_ino == before) == same
        before = TABLE.stat().st_ino


def test_table_has_current_tasks_in_job_order(here: Path) -> None:
    sweep().run(slots=2)
    job = sweep()
    job.tasks = dict(reversed(job.tasks.items()))
    assert job.run(slots=2).count("up to date") == 3
    assert in_file() == as_texts(ROWS[::-1])
    del job.tasks["tt-1"]
    job.run(slots=2)
    assert in_file() == as_texts([ROWS[2], ROWS[1]])


def test_columns_are_those_of_all_rows_also_where_the_first_has_fewer(here: Path) -> None:
    job = encamp.Job("sweep", to="out")
    job.add("a", encamp.call(doubled, 4))
    job.add("b", encamp.call(gain, "tt", run=1))
    job.run(slots=1)
    assert TABLE.read_text().splitlines() == [
        "task,run,value,corner,gain,ok,label",
        "a,4,8,,,,",
        "b,1,,tt,41.0,False,TT",
    ]


def test_a_number_alone_is_a_column_and_nothing_makes_no_row(here: Path) -> None:
    job = encamp.Job("sweep", to="out")
    job.add("a", encamp.call(doubled, 4))
    job.add("b", encamp.call(print, "x"))
    job.add("c", encamp.call(float, "nan"), parameters={})
    report = job.run(slots=1)
    assert report.values()[0] == {"task": "a", "run": 4, "value": 8}
    assert math.isnan(report["c"].value)
    assert in_file() == [
        {"task": "a", "run": "4", "value": "8"},
        {"task": "c", "run": "", "value": ""},
    ]
    job.tasks.pop("a")
    job.tasks.pop("c")
    assert job.run(slots=1).values() == []
    assert not TABLE.exists()


@pytest.mark.parametrize("again", [False, True])
def test_invalid_value_is_reported_and_omitted_from_file(here: Path, again: bool) -> None:
    job = encamp.Job("sweep", to="out")
    job.add("a", encamp.call(doubled, 4))
    job.add("list", encamp.call(list, "abc"))
    job.add("set", encamp.call(object))
    report = job.run(slots=1)
    report = job.run(slots=1) if again else report
    with pytest.raises(BadValues, match="task list: 'value' is a list; a task's value must be"):
        report.values()
    with pytest.raises(BadValues, match="task set: its value has the type object; a task"):
        report.values("s*")
    assert [row["value"] for row in report.values("a")] == [8]
    assert [row["task"] for row in in_file()] == ["a"]


def test_the_table_is_a_data_frame_or_says_what_is_missing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = sweep().run(slots=2)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(NotInstalled, match=r"pip install pandas, or take report\.values\(\)"):
        report.table()

    class DataFrame:
        def __init__(self, rows: Any = ()) -> None:
            self.rows, self.index = rows, ""

        def set_index(self, name: str) -> DataFrame:
            self.index = name
            return self

    pandas = types.ModuleType("pandas")
    pandas.DataFrame = DataFrame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    made = report.table("tt-*")
    assert (made.rows, made.index) == (ROWS[:2], "task")
    assert report.table("x").index == ""


FILES: dict[str, tuple[str, Any]] = {
    "v.json": ('{"a": 1, "b": 2.5, "c": "x", "d": true, "e": null, "f": NaN}',
               {"a": 1, "b": 2.5, "c": "x", "d": True, "e": None, "f": None}),
    "one.json": ("3", {"value": 3}),
    "v.csv": ("a, b,c,d\n1,-2.5e3,x y,\n", {"a": 1, "b": -2500.0, "c": "x y", "d": None}),
    "semi.csv": ("a;b\n1;2,5\n", {"a": 1, "b": "2,5"}),
    "meas.txt": (("* transient\ngain_db             =  4.548422e+01 at=  1.000000e+06\n"
                 "rise = 2e-9 targ= 3e-9 trig= 1e-9\nx = 1 from=0 to=2\n"),
                 {"gain_db": 45.48422, "rise": 2e-9, "x": 1}),
    "fortran.txt": ("% units\n# more\nenergy -1.0D+03\nid 1D3\n",
                    {"energy": -1000.0, "id": "1D3"}),
    "lines.txt": ("a = one\u2028two\r\n\x0cb 2\rc 3", {"a": "one\u2028two", "b": 2, "c": 3}),
    "lines.csv": ("a,b\none\u2028two,2\n", {"a": "one\u2028two", "b": 2}),
    "units.txt": ("a = 4.5e1 dB\nb 1k\nc = low at= 3\nd = failed\n",
                  {"a": "4.5e1 dB", "b": "1k", "c": "low at= 3", "d": "failed"}),
    "v.txt": ("gain_db 73.2\nseed = 007\n\nnote: two words\nn\t1\n",
              {"gain_db": 73.2, "seed": "007", "note": "two words", "n": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_values_is_read_by_its_suffix(name: str, here: Path) -> None:
    text, values = FILES[name]
    Path(name).write_text(text)
    assert read_values(Path(name), "t") == values


BAD_FILES = {
    "v.json": ('{"a": [1]}', "'a' is a list"),
    "list.json": ("[1, 2]", "'value' is a list"),
    "deep.json": ("[" * 9000, "the file 'deep.json' cannot be read as values: "),
    "cut.json": ('{"a": ', "the file 'cut.json' cannot be read as values: Expecting value"),
    "v.csv": ("a,b\n1,2\n3,4\n", "it has 2 rows instead of one"),
    "short.csv": ("a,b\n1\n", "values: line 2 has 1 value for 2 columns"),
    "v.txt": ("alone\n", "line 1, 'alone', is not a name with a value"),
    "number.txt": ("# gains\n1.0 2.5\n", "line 2, '1.0 2.5', begins with a number, not with a"),
    "twice.txt": ("a 1\nb 2\na=3\n", "line 3, 'a=3', repeats the name 'a'"),
    "twice.json": ('{"a": 1, "a": 2}', "the name 'a' occurs twice"),
    "large.txt": ("a " + "x" * 70_000, "'large.txt', is larger than 64 KiB"),
    "null.json": (r'{"a": "x\u0000y"}', "'a' contains a null byte, which is not allowed in val"),
    "named.json": (r'{"a\u0000": 1}', "contains a null byte, which is not allowed in values"),
    "long.txt": ("a " + "x" * 20_000, "'a' is a string of 20000 characters, more than 10000"),
    "many.txt": ("".join(f"a{n} 1\n" for n in range(1001)), "it has 1001 values, more than 1000"),
    "bytes.txt": ("\udcff", "is not UTF-8 text"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_values_file_without_values_is_reported(name: str, here: Path) -> None:
    text, expected = BAD_FILES[name]
    Path(name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadValues) as raised:
        read_values(Path(name), "t")
    assert expected in str(raised.value)
    assert str(raised.value).count("a task's value must be") == 1


def test_a_file_of_values_may_have_64_kib(here: Path) -> None:
    text = "a 1\n"
    Path("values.txt").write_text(text + "#" * (65_536 - len(text)))
    assert read_values(Path("values.txt"), "task") == {"a": 1}
    with Path("values.txt").open("a") as file:
        file.write("#")
    with pytest.raises(BadValues, match="larger than 64 KiB"):
        read_values(Path("values.txt"), "task")


def test_missing_values_file_is_reported_with_existing_files(here: Path) -> None:
    Path("gain.txt").touch()
    with pytest.raises(BadValues, match=r"cannot be read \(No such file .*\); its folder "):
        read_values(Path("gain.json"), "t")
    with pytest.raises(BadValues, match="is not a file"):
        read_values(here, "t")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-0.5", -0.5), ("1e3", 1000.0), ("007", "007"), ("", None), ("NaN", None),
     ("inf", "inf"), ("1_000", "1_000"), ("0x1f", "0x1f"), (" 2 ", 2), (".5", 0.5), ("0", 0)],
)  # fmt: skip
def test_texts_in_files_are_numbers_if_they_are_written_so(text: str, value: Any) -> None:
    found = scalar_in(text)
    assert found == value
    assert type(found) is type(value)


def test_a_row_has_numbers_of_python() -> None:
    row = row_of({"a": np.int64(1), "b": np.float32(0.5), "c": np.bool_(True)}, "t")
    assert [(value, type(value)) for value in row.values()] == [
        (1, int),
        (0.5, float),
        (True, bool),
    ]
    with pytest.raises(BadValues, match="has the type ndarray"):
        row_of(np.array([1, 2]), "t")


def test_a_masked_number_has_no_value() -> None:
    values = {"mean": np.ma.masked, "one": np.ma.array(2.5, mask=True), "kept": np.ma.array(2.5)}
    assert row_of(values, "t") == {"mean": None, "one": None, "kept": 2.5}


class Corner(str):
    """A text of a class of its own."""


class Level(enum.IntEnum):
    HIGH = 3


def test_texts_and_numbers_of_derived_classes_are_parameters_and_values(here: Path) -> None:
    job = encamp.Job("derived", to="out")
    job.add("a", encamp.call(lambda corner, level: Corner(corner + "2"), Corner("tt"), Level.HIGH))
    for state in ("done", "up to date"):
        report = job.run(slots=1)
        assert report["a"].state == state
        assert report.values() == [{"task": "a", "corner": "tt", "level": 3, "value": "tt2"}]


JOB = """
to = "out"
name = "sweep"
[[task]]
name = "{corner}-{run:02d}"
foreach = { corner = ["tt", "ff"], run = { from = 1, to = 2 }, csv = "vdd.csv" }
steps = [{ run = ["echo", '{{"gain": {run}}}'], stdout = "{task}.json" }]
values = "{task}.json"
"""


def test_a_job_file_names_the_file_of_values(here: Path) -> None:
    Path("vdd.csv").write_text("vdd\n3.3\n")
    Path("job.toml").write_text(JOB)
    report = load_job(Path("job.toml")).run(slots=2)
    assert report.values()[1] == {
        "task": "tt-02",
        "corner": "tt",
        "run": 2,
        "vdd": 3.3,
        "gain": 2,
    }
    assert in_file() == as_texts(report.values())
    Path("job.toml").write_text(JOB.replace('values = "{task}.json"', ""))
    assert load_job(Path("job.toml")).run(slots=2).values() == []
    assert load_job(Path("job.toml")).run(slots=2).count("up to date") == 4


def test_a_task_without_its_file_of_values_has_failed(here: Path) -> None:
    job = encamp.Job("sweep", to="out")
    job.add("a", "touch x.json", values="v.json", outputs="x.json")
    report = job.run(slots=1, check=False)
    assert report["a"].state == "failed"
    assert "its folder contains x.json" in report["a"].why
    assert not Path("out/x.json").exists()


def test_files_are_parameters_of_a_map(here: Path) -> None:
    for name in "ab":
        Path(f"{name}.txt").write_text(f"{name}\n" * 3)
    line = encamp.command("wc -l", stdin="{input}", stdout="{stem}.json")
    report = encamp.map_files(line, "*.txt", to="out", values="{stem}.json", slots=2)
    assert report.values() == [
        {"task": "a", "file": "a.txt", "value": 3},
        {"task": "b", "file": "b.txt", "value": 3},
    ]


def test_the_display_says_where_the_table_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep().run(slots=2, progress=console_progress(quiet=False, dry_run=False))
    assert f"table: {here}/{TABLE}" in capsys.readouterr().err
    job = encamp.Job("none", to="out")
    job.add("a", "true")
    job.run(slots=1, progress=console_progress(quiet=False, dry_run=False))
    assert "table:" not in capsys.readouterr().err


def test_full_disk_for_table_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        yield b"task"
        raise OSError(errno.ENOSPC, "No space left on device")

    report = sweep().run(slots=2)
    before = TABLE.read_bytes()
    monkeypatch.setattr("encamp.jobs.report.results_csv._lines", full)
    with (
        pytest.raises(DiskFull, match=r"results\.csv"),
        TrustedFolder(TABLE.parent).opened() as files,
    ):
        write_table(lambda: report.tasks, files)
    assert TABLE.read_bytes() == before


def test_table_beyond_file_size_limit_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(*_: Any) -> Any:
        yield b"task"
        raise OSError(errno.EFBIG, "File too large")

    report = sweep().run(slots=2)
    monkeypatch.setattr("encamp.jobs.report.results_csv._lines", large)
    with (
        pytest.raises(OSError, match=r"File too large: '.*results\.csv'"),
        TrustedFolder(TABLE.parent).opened() as files,
    ):
        write_table(lambda: report.tasks, files)


@pytest.mark.parametrize(
    "options",
    [{"parameters": {"a": [1]}}, {"values": ""}, {"values": "../x.json"}, {"values": 3}],
)
def test_parameters_and_values_are_checked(options: dict[str, Any], here: Path) -> None:
    with pytest.raises((BadJob, encamp.InputError)):
        encamp.Job("sweep", to="out").add("a", "true", **options)


def test_the_report_of_many_tasks_has_their_parameters(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encamp.jobs.report.compressed_reports._FEW", 1)
    sweep().run(slots=2)
    report = sweep().run(slots=2)
    assert report.values() == ROWS
    [first, *_] = json.loads(Path("out/sweep.job/report.json").read_bytes())["tasks"]
    assert first["parameters"] == {"corner": "tt", "run": 1}


def test_values_may_be_as_large_and_as_many_as_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    most = {f"v{number}": number for number in range(MOST_COLUMNS)}
    assert row_of(most, "task") == most
    with pytest.raises(BadValues, match="more than 1000"):
        row_of({**most, "more": 1}, "task")
    assert row_of("x" * LONGEST_TEXT, "task") == {"value": "x" * LONGEST_TEXT}
    with pytest.raises(BadValues, match="10001 characters, more than 10000"):
        row_of("x" * (LONGEST_TEXT + 1), "task")
    monkeypatch.setattr(task_values, "MOST_KEPT", 7)
    assert as_json("12345") == "12345"
    assert as_json("123456") is None


def test_a_large_value_is_not_kept_and_the_report_says_so(here: Path) -> None:
    job = encamp.Job("large", to="results")
    job.add("large", encamp.call("x".__mul__, 2_000_000))
    job.add("small", encamp.call("x".__mul__, 200_000))
    assert len(job.run()["large"].value) == 2_000_000
    assert sum(file.stat().st_size for file in Path("results/large.job").iterdir()) < 1_500_000
    report = job.run()
    assert report.count("up to date") == 2
    assert len(report["small"].value) == 200_000
    assert report["large"].value is None
    with pytest.raises(BadValues, match=r"task large: its value has the type str, and has more"):
        report["large"].row()
