"""An unchanged input is not an output of a pattern, in any mode."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import encamp
from encamp.errors import MissingOutput
from encamp.storage.inputs.mirror import Mirror, Mode
from encamp.storage.local_storage import local_storage

MODES = ["auto", "link", "copy"]


@pytest.fixture
def data(here: Path) -> Path:
    """Two files, one of them by a symlink, and a tree with a symlink in it."""
    for file in ("real/b.csv", "data/a.csv", "tree/deep/c.csv"):
        path = here / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name} of some length")
    (here / "data/b.csv").symlink_to("../real/b.csv")
    (here / "tree/d.csv").symlink_to("deep/c.csv")
    return here


def _below(folder: str) -> list[str]:
    found = (path for path in Path(folder).rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_are_not_published_over_themselves(data: Path, mode: Mode) -> None:
    mirror = Mirror("data/*.csv", mode=mode)
    with encamp.sandbox(mirror=mirror, outputs={"*.csv": "data"}) as folder:
        (folder / "new.csv").write_text("new")
    assert (data / "data/b.csv").is_symlink()
    assert _below("data") == ["a.csv", "b.csv", "new.csv"]


def test_changed_input_is_published_despite_same_time_and_size(data: Path) -> None:
    with encamp.sandbox(mirror="data/*.csv", outputs={"*.csv": "out"}) as folder:
        before = (folder / "a.csv").stat()
        text = (folder / "a.csv").read_text().replace("some", "same")
        (folder / "a.csv").unlink()
        (folder / "a.csv").write_text(text)
        os.utime(folder / "a.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.utime(folder / "b.csv")  # touched, but equal
    assert _below("out") == ["a.csv"]
    assert Path("out/a.csv").read_text() == "a.csv of same length"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pattern", ["tree/**/*.csv", "t*", "**/*.csv", "tree/*"])
def test_in_a_tree_only_what_is_new_is_published(data: Path, mode: str, pattern: str) -> None:
    mirror = Mirror("tree", mode=mode)  # type: ignore[arg-type]
    with encamp.sandbox(mirror=mirror, outputs={pattern: "out"}) as folder:
        (folder / "tree/new.csv").write_text("new")
    assert [Path(path).name for path in _below("out")] == ["new.csv"]


@pytest.mark.parametrize("mode", MODES)
def test_only_new_files_of_tree_with_changed_source_are_published(data: Path, mode: Mode) -> None:
    """The task's files are compared with what it got, which its host may not see any more."""
    mirror = Mirror("tree", mode=mode)
    with encamp.sandbox(mirror=mirror, outputs={"tree/**/*.csv": "out"}) as folder:
        (data / "tree/deep/c.csv").write_text("changed meanwhile")
        (folder / "tree/new.csv").write_text("new")
    assert [Path(path).name for path in _below("out")] == ["new.csv"]


def test_the_same_holds_for_a_tree_that_has_vanished_from_the_cache(data: Path) -> None:
    """It is compared with its source."""
    (data / "tree/e.csv").write_text("e.csv")
    mirror = Mirror("tree", mode="copy")
    with encamp.sandbox(mirror=mirror, outputs={"tree/**/*.csv": "out"}) as folder:
        shutil.rmtree(local_storage() / "cache/trees")  # as a cleaner of temporary files might
        (folder / "tree/new.csv").write_text("new")
        (folder / "tree/deep/c.csv").write_text("c.csv of same length")
    assert sorted(Path(path).name for path in _below("out")) == ["c.csv", "new.csv"]


def test_a_file_that_was_left_out_of_a_tree_is_no_input(data: Path) -> None:
    """The task makes it, though there is one with the same bytes beside the source."""
    (data / "tree/run.log").write_text("well")
    mirror = Mirror("tree", exclude=("*.log",))
    with encamp.sandbox(mirror=mirror, outputs={"tree/*.log": "out"}) as folder:
        assert not (folder / "tree/run.log").exists()
        (folder / "tree/run.log").write_text("well")
    assert _below("out") == ["run.log"]


def test_explicitly_named_input_is_published(data: Path) -> None:
    outputs = {"a.csv": "named", "tree": "named"}
    with encamp.sandbox(mirror=["data/*.csv", "tree"], outputs=outputs):
        pass
    assert _below("named") == ["a.csv", "tree/d.csv", "tree/deep/c.csv"]


def test_a_pattern_that_matches_only_these_has_nothing_to_publish(data: Path) -> None:
    with (
        pytest.raises(MissingOutput, match=r"task did not change \(a\.csv, b\.csv\)"),
        encamp.sandbox(mirror="data/*.csv", outputs={"*.csv": "out"}),
    ):
        pass
    with encamp.sandbox(mirror="data/*.csv", outputs=encamp.Output("*.csv", "out", required=False)):
        pass
    assert not Path("out").exists()


def test_what_failed_may_leave_them_to_be_looked_at(data: Path) -> None:
    def fail() -> None:
        with encamp.sandbox(mirror="data/*.csv", on_failure={"*": "failed"}) as folder:
            (folder / "trace.log").write_text("here")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert _below("failed") == ["a.csv", "b.csv", "trace.log"]


def _unread(path: Path) -> tuple[int, ...]:
    """The status of a file without its time of access."""
    found = path.lstat()
    return (*found[:7], found.st_mtime_ns, found.st_ctime_ns)


def test_what_failed_replaces_no_source_of_an_input(data: Path) -> None:
    Path("data/link.csv").symlink_to("a.csv")
    sources = {path: _unread(path) for path in Path("data").glob("*.csv")}

    def fail() -> None:
        with encamp.sandbox(mirror="data/*.csv", on_failure={"*.csv": "data"}) as folder:
            (folder / "a.csv").write_text("half")
            (folder / "new.csv").write_text("here")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert Path("data/new.csv").read_text() == "here"
    for path, before in sources.items():
        assert _unread(path) == before


def _in_place(step: str) -> encamp.Job:
    job = encamp.Job("job", to="data")
    line = encamp.command(step, shell=True)
    job.add("task", line, mirror="data/*.csv", outputs={"*.csv": "."})
    return job


def test_results_beside_the_inputs_are_no_inputs_of_the_next_run(data: Path) -> None:
    def job() -> encamp.Job:
        return _in_place("cat *.csv > all; mv all sum.csv")

    with ThreadPoolExecutor(1) as pool:
        job().run(pool)
        first = Path("data/sum.csv").read_text()
        assert job().run(pool).count("up to date") == 1
        assert job().run(pool, force=True).count("done") == 1
        assert Path("data/sum.csv").read_text() == first
        Path("data/c.csv").write_text("third")
        assert job().run(pool).count("done") == 1
    assert Path("data/sum.csv").read_text() == f"{first}third"


def test_nor_are_they_in_trees_that_a_pattern_matches(data: Path) -> None:
    def job() -> encamp.Job:
        job = encamp.Job("job", to=".")
        line = encamp.command("ls tree > list; mv list tree", shell=True)
        job.add("task", line, mirror="tre*", outputs={"tree/l*": "tree"})
        return job

    with ThreadPoolExecutor(1) as pool:
        job().run(pool)
        assert job().run(pool).count("up to date") == 1
    assert Path("tree/list").read_text().split() == ["d.csv", "deep"]


def test_nor_are_those_of_another_such_task(data: Path) -> None:
    def job() -> encamp.Job:
        job = encamp.Job("job", to="data")
        for name in ("x", "y"):
            line = encamp.command(f"ls > list; mv list {name}.csv", shell=True)
            job.add(name, line, mirror="data/*.csv", outputs={"*.csv": "."})
        return job

    with ThreadPoolExecutor(1) as pool:
        job().run(pool)
        assert job().run(pool).count("up to date") == 2
    assert Path("data/x.csv").read_text().split() == ["a.csv", "b.csv", "list"]
    assert Path("data/y.csv").read_text().split() == ["a.csv", "b.csv", "list"]


@pytest.mark.parametrize(
    ("step", "mirror", "outputs"),
    [
        ("sed -i s/some/more/ a.csv", "data/*.csv", {"*.csv": "data"}),
        ("sed -i s/some/more/ b.csv", "data/*.csv", {"*.csv": "data"}),
        ("sed -i s/some/more/ a.csv", "data/a.csv", {"*.csv": "data"}),
        ("sed -i s/some/more/ tree/deep/c.csv", "tre*", {"tree/deep/*": "tree/deep"}),
    ],
    ids=["file", "symlink", "of many", "in a tree"],
)
def test_inputs_that_were_changed_in_place_are_refused_by_every_run(
    data: Path, step: str, mirror: str, outputs: dict[str, str]
) -> None:
    def job() -> encamp.Job:
        job = encamp.Job("job", to=".")
        job.add("task", encamp.command(step, shell=True), mirror=mirror, outputs=outputs)
        return job

    before = {path: (data / path).read_text() for path in _below(".")}
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            (task,) = job().run(pool, check=False).tasks
            assert "it is an input of the job" in task.why
    assert {path: (data / path).read_text() for path in before} == before
    assert (data / "data/b.csv").is_symlink()


def test_nor_may_a_task_replace_what_such_a_task_reads(data: Path) -> None:
    job = encamp.Job("job", to="data")
    job.add("maker", "cp a.csv c.csv", mirror="data/a.csv", outputs="*.csv")
    job.add("reader", "cp c.csv d.csv", mirror="data/c.csv", outputs="*.csv")
    Path("data/c.csv").write_text("third")
    with ThreadPoolExecutor(1) as pool:
        report = job.run(pool, check=False)
    assert "it is an input of the job" in report["maker"].why
    assert Path("data/d.csv").read_text() == Path("data/c.csv").read_text() == "third"


def test_in_a_sandbox_they_replace_their_sources_however_often(data: Path) -> None:
    for _ in range(2):
        with encamp.sandbox(mirror="data/*.csv", outputs={"*.csv": "data"}) as folder:
            text = (folder / "a.csv").read_text()
            (folder / "a.csv").write_text(text.replace("some", "no"))
        assert Path("data/a.csv").read_text() == "a.csv of no length"
    assert _below("data") == ["a.csv", "b.csv"]


def test_a_job_and_its_second_run(data: Path) -> None:
    def job() -> encamp.Job:
        job = encamp.Job("job", to=".")
        step = encamp.command("touch b.csv; echo 1 > sum.txt; echo 2 > more.csv", shell=True)
        outputs = {"*.csv": "made", "*.txt": "data"}
        job.add("task", step, mirror={"data/*.csv": "."}, outputs=outputs)
        return job

    with ThreadPoolExecutor(1) as pool:
        assert job().run(pool).count("done") == 1
        assert job().run(pool).count("up to date") == 1
    assert _below("data") == ["a.csv", "b.csv", "sum.txt"]
    assert _below("made") == ["more.csv"]
    assert (data / "data/b.csv").is_symlink()
