"""`map_files`: the same steps for every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp.errors import BadJob, NoMatch, OutputConflict, UnknownOption
from encamp.reports import JobReport


@pytest.fixture
def data(here: Path) -> Path:
    Path("data").mkdir()
    for name in ("a.txt", "b.txt", "c.dat"):
        Path("data", name).write_text(name)
    Path("scale.txt").write_text("3")
    return here / "data"


def shout(name: str, mark: str = "!") -> str:
    text = Path(name).read_text().upper() + mark
    Path(Path(name).stem + ".up").write_text(text)
    return text


def _published() -> dict[str, str]:
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    return {str(p.relative_to("out")): p.read_text() for p in files if ".job/" not in str(p)}


def test_a_function_gets_the_files_name(data: Path) -> None:
    report = encamp.map_files(shout, "data/*.txt", to="out", outputs={"*.up": "up"})
    assert {task.name: task.value for task in report.tasks} == {"a": "A.TXT!", "b": "B.TXT!"}
    assert _published() == {"up/a.up": "A.TXT!", "up/b.up": "B.TXT!"}


def test_a_function_may_have_arguments_of_its_own(data: Path) -> None:
    report = encamp.map_files(encamp.call(shout, mark="?"), data / "a.txt", to="out")
    assert report["a"].value == "A.TXT?"


def test_a_command_line_has_placeholders_and_shared_files(data: Path) -> None:
    def run() -> JobReport:
        return encamp.map_files(
            ["cp {input} {stem}.new", encamp.command("cat scale.txt >> {stem}.new", shell=True)],
            ["data/*.txt", data / "c.dat"],
            to="out",
            mirror="scale.txt",
            outputs=encamp.Output("{stem}.new", "{suffix}", rename="{name}"),
            slots=2,
        )

    assert run().count("done") == 3
    assert _published() == {
        ".txt/a.new": "a.txt3",
        ".txt/b.new": "b.txt3",
        ".dat/c.new": "c.dat3",
    }
    assert run().count("up to date") == 3
    (data / "b.txt").write_text("bb")
    report = run()
    assert (report["b"].state, report["a"].state) == ("done", "up to date")


def test_files_with_same_stem_get_distinct_task_names(data: Path) -> None:
    Path("data/a.dat").write_text("x")
    report = encamp.map_files("true", "data/*", to="out")
    assert sorted(task.name for task in report.tasks) == ["a", "a.txt", "b", "c"]


def test_files_of_one_name_are_refused(data: Path) -> None:
    Path("more").mkdir()
    for name in ("a.txt", "b.txt"):
        Path("more", name).write_text("x")
    with pytest.raises((BadJob, OutputConflict), match=r"a\.txt|same name"):
        encamp.map_files(
            "true",
            ["data/a.txt", "more/a.txt", "data/b.txt", "more/b.txt"],
            to="out",
            outputs={"{stem}.x": "."},
        )
    assert not Path("out").exists()


def test_a_pattern_that_matches_nothing_is_named(data: Path) -> None:
    with pytest.raises(NoMatch, match=r"\*\.las"):
        encamp.map_files("true", "data/*.las", to="out")


def test_a_file_that_two_patterns_match_is_one_task(data: Path) -> None:
    report = encamp.map_files("true", ["data/*.txt", "data/a.*"], to="out")
    assert sorted(task.name for task in report.tasks) == ["a", "b"]


@pytest.mark.parametrize(
    ("option", "meant"), [("output", "outputs"), ("value", "values"), ("slot", "slots")]
)
def test_a_misspelt_option_is_no_option_of_an_engine(data: Path, option: str, meant: str) -> None:
    options: dict[str, Any] = {option: 1}
    with pytest.raises(UnknownOption, match=f"{option!r}; did you mean {meant!r}"):
        encamp.map_files(shout, "data/*.txt", to="out", **options)
    assert not Path("out").exists()


def test_invalid_files_and_destinations_are_refused(data: Path) -> None:
    with pytest.raises(BadJob, match="files: must be paths or patterns, not 3"):
        encamp.map_files(shout, ["data/*.txt", 3], to="out")  # type: ignore[list-item]
    with pytest.raises(BadJob, match="to: must be a folder or a URL, not 3"):
        encamp.map_files(shout, "data/*.txt", to=3)  # type: ignore[arg-type]
