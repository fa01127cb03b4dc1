"""A task that reads another's files must run after it; otherwise nothing runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp.errors import BadJob, NoMatch
from encamp.jobs.plan.prepare import Prepared
from encamp.storage.inputs.mirror import Mirror, MirrorMap
from encamp.storage.outputs.patterns import Output, OutputMap


@pytest.fixture
def strips(here: Path) -> Path:
    """What an earlier run has left, inputs beside it, and links that lead there."""
    for file in ("out/import/1/h.txt", "out/other.txt", "data/a.csv", "data/b.csv", "out2/x.txt"):
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    Path("link").symlink_to("out/import")
    Path("links").mkdir()
    Path("links/one").symlink_to("../out/import/1")
    Path("file").symlink_to("out/import/1/h.txt")
    return here


def _job(
    mirror: MirrorMap, made: OutputMap | None = None, *, to: str = "out", own: OutputMap = ()
) -> encamp.Job:
    """Two makers, ``m1`` and ``m2``, and a reader that does not run after them."""
    job = encamp.Job("job", to=to)
    for number in (1, 2):
        job.add(f"m{number}", "true", outputs=made or {"h.txt": f"import/{number}"})
    job.add("read", "true", mirror=mirror, outputs=own)
    return job


READS = {
    "the folder": "out/import",
    "a folder above": "out",
    "a deeper folder": "out/import/1",
    "a folder that is not there yet": "out/import/2",
    "the file": "out/import/1/h.txt",
    "a pattern": "out/import/*/h.txt",
    "a pattern for folders": "out/imp*",
    "any depth": "out/**/*.txt",
    "any depth, all": "out/**",
    "roundabout": "out/../out/./import/",
    "a link": "link",
    "below a link": "link/1/*.txt",
    "a pattern for links": "links/*",
    "a link to the file": "file",
}


@pytest.mark.parametrize("pattern", READS.values(), ids=READS)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_reader_that_does_not_wait_is_refused(strips: Path, pattern: str, absolute: bool) -> None:
    mirror = str(strips / pattern) if absolute else pattern
    with pytest.raises(BadJob) as caught:
        _job(mirror).run()
    message = str(caught.value)
    assert message.startswith("task read: its mirror ")
    assert " reads what task m" in message
    assert "use outputs_of('m" in message
    assert not Path("out/job.job").exists()


@pytest.mark.parametrize("pattern", ["out/import/1/h.txt", "out/import/*/h.txt", "link/1/h.txt"])
def test_unordered_reader_by_url_is_refused(strips: Path, pattern: str) -> None:
    with pytest.raises(BadJob, match="reads what task m"):
        Prepared(_job(f"file://{strips / pattern}"))


BY_SYMLINKS = {
    "a file in a tree": ("tree/x", "out/import/1/h.txt", "tree"),
    "a file that is not there yet": ("tree/x", "out/import/2/h.txt", "tree"),
    "a folder deep in a tree": ("tree/a/b/x", "out/import", "tree"),
    "in one of many trees": ("tree/x", "out/import", "tr*"),
    "though it has an excluded name": ("tree/x", "out/import", Mirror("tree", exclude=("h.txt",))),
    "by way of another": ("tree/x", "link", "tree"),
    "a file among those below": ("tree/x", "out/import/1/h.txt", "tree/**"),
}


@pytest.mark.parametrize(("link", "target", "mirror"), BY_SYMLINKS.values(), ids=BY_SYMLINKS)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_symlink_out_of_a_tree_is_read_where_it_leads(
    strips: Path, link: str, target: str, mirror: str | Mirror, absolute: bool
) -> None:
    Path(link).parent.mkdir(parents=True)
    Path(link).symlink_to(
        strips / target if absolute else os.path.relpath(target, Path(link).parent)
    )
    with pytest.raises(BadJob, match=r"task read: its mirror .* reads what task m"):
        Prepared(_job(mirror))


def _pair(mirror: MirrorMap, after: str = "", **made: Any) -> encamp.Job:
    job = encamp.Job("job", to="out")
    job.add("m", "true", **made)
    job.add("read", "true", mirror=mirror, after=after or ())
    return job


@pytest.mark.parametrize("mirror", ["links/*/*.txt", "links/*/h.txt", "links/[o]ne/[h]*"])
def test_pattern_follows_symlinks_to_folders(strips: Path, mirror: str) -> None:
    Path("links/one").unlink()
    Path("links/one").symlink_to(strips / "elsewhere")
    Path("elsewhere").mkdir()
    reader = Mirror(mirror, required=False)
    with pytest.raises(BadJob, match=r"task read: its mirror .* reads what task m"):
        Prepared(_pair(reader, outputs={"h.txt": str(strips / "elsewhere")}))


@pytest.mark.parametrize("mirror", ["out/now/x.txt", "out/now/*", "out/now", "other/x.txt"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_symlink_on_the_way_may_be_what_is_published(
    strips: Path, mirror: str, absolute: bool
) -> None:
    Path("out/now").symlink_to(strips / "out2" if absolute else "../out2")
    Path("other").symlink_to(strips / "out/now" if absolute else "out/now")
    with pytest.raises(BadJob, match=r"task read: .* reads what task m publishes \('now'\)"):
        Prepared(_pair(mirror, outputs="now"))


def test_rescued_files_are_read_only_by_later_tasks(strips: Path) -> None:
    for mirror in ("out/logs/*", "out/logs/a.log", str(strips / "out/logs")):
        reader = Mirror(mirror, required=False)
        with pytest.raises(BadJob) as caught:
            Prepared(_pair(reader, on_failure={"*.log": "logs"}))
        message = str(caught.value)
        assert (
            "reads what task m leaves when it fails ('*.log' in logs), but the task does not"
            in message
        )
        assert "publish to a different folder or name, or exclude it from the mirror" in message
        Prepared(_pair(reader, after="m", on_failure={"*.log": "logs"}))
    Prepared(_pair(Mirror("out/logs/*.txt", required=False), on_failure={"*.log": "logs"}))


def test_a_task_does_not_read_what_it_leaves_itself(strips: Path) -> None:
    for left in ({"*": "data"}, {"a.csv": "data"}):
        job = encamp.Job("job", to=".")
        job.add("task", "true", mirror="data/*.csv", on_failure=left)
        with pytest.raises(BadJob, match="reads what it leaves when it fails"):
            Prepared(job)
    job = encamp.Job("job", to=".")
    job.add("task", "true", mirror="data/*.csv", on_failure={"*.log": "data"})
    Prepared(job)


DISJOINT: dict[str, MirrorMap] = {
    "another file": "out/other.txt",
    "a folder with the same beginning": "out2",
    "inputs": "data/*.csv",
    "what is left out": Mirror("out", exclude=("import",)),
    "its name is left out": Mirror("out/import", exclude=("h.txt",)),
    "a path is left out": Mirror("out", exclude=("import/*",)),
    "the folder that all is in": ".",
    "any depth from there": "**/*.txt",
}


@pytest.mark.parametrize("mirror", DISJOINT.values(), ids=DISJOINT)
def test_files_of_no_task_may_be_read(strips: Path, mirror: MirrorMap) -> None:
    Prepared(_job(mirror))


@pytest.mark.parametrize(
    ("pattern", "made", "meets"),
    [
        ("out/means/*.sum", Output("*.sum", "means"), True),
        ("out/means/a.sum", Output("*.sum", "means"), True),
        ("out/means", Output("*.sum", "means"), True),
        ("out/means/*.txt", Output("*.sum", "means"), False),
        ("out/means/a.txt", Output("*.sum", "means"), False),
        ("out/means/a*", Output("b*.sum", "means"), False),
        ("out/means/a*", Output("*b", "means"), True),
        ("out/means/*.txt", Output("*.sum", "means", rename="{stem}.txt"), True),
        ("out/means/*.sum", Output("*.sum", "means", rename="{stem}.txt"), False),
        ("out/means/*.sum", Output("*.sum", "means", rename="x-{name}"), True),
        ("out/means/y*", Output("*.sum", "means", rename="x-{name}"), False),
        ("out/means/new.txt", Output("old.txt", "means", rename="new{suffix}"), True),
        ("out/means/x/deep.txt", Output("x", "means"), True),
        ("out/means/x/deep.txt", Output("**/*.txt", "means"), True),
        ("out/means/**/*.dat", Output("**/*.txt", "means"), False),
        ("out/[a-c]/*", Output("*.txt", "b"), True),
        ("out/[a-c]/*", Output("*.txt", "d"), False),
        ("out/*/x", Output("x", "a/b"), False),
        ("memory://there/*.txt", Output("a.txt", "memory://there"), True),
        ("memory://there/*.txt", Output("a.txt", "memory://elsewhere"), False),
    ],
)
def test_patterns_on_both_sides(here: Path, pattern: str, made: Output, meets: bool) -> None:
    job = encamp.Job("job", to="out")
    job.add("m", "true", outputs=made)
    job.add("read", "true", mirror=Mirror(pattern, required=False))
    if meets:
        with pytest.raises(BadJob, match="reads what task m publishes"):
            Prepared(job)
    else:
        Prepared(job)


def test_transitive_dependency_allows_reading(strips: Path) -> None:
    job = _job(())
    job.add("between", "true", after="m*")
    job.add("late", "true", after="between", mirror="out/import")
    job.add("taker", "true", mirror=["out/import", encamp.outputs_of("m*", "import/**")])
    Prepared(job)
    job.add("half", "true", after="m1", mirror="out/import")
    with pytest.raises(BadJob, match=r"task half: .* task m2 publishes"):
        Prepared(job)


def test_no_advice_to_wait_for_task_that_waits_for_reader(strips: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("first", "true", mirror="out/other.txt")
    job.add("second", "true", after="first", outputs="other.txt")
    with pytest.raises(BadJob, match="which runs later; publish to a different folder or name"):
        Prepared(job)


def test_job_inputs_are_there_before_any_task(strips: Path) -> None:
    job = encamp.Job("job", to="out", mirror="out/import")
    job.add("m1", "true", outputs={"h.txt": "import/1"})
    with pytest.raises(BadJob, match=r"the job's mirror 'out/import'.*task m1.*outputs_of\('m1'\)"):
        Prepared(job)


@pytest.mark.parametrize(
    ("to", "mirror", "own"),
    [
        ("out", "out/x.bin", {"x.bin": "."}),
        ("out", "out/*.bin", {"x.bin": "."}),
        (".", "data", {"*.csv": "data"}),
        (".", "data/a.csv", {"a.csv": "data"}),
    ],
)
def test_a_task_does_not_read_what_it_makes_itself(
    strips: Path, to: str, mirror: str, own: OutputMap
) -> None:
    job = encamp.Job("job", to=to)
    job.add("read", "true", mirror=mirror, outputs=own)
    with pytest.raises(BadJob, match="reads what it publishes itself"):
        Prepared(job)


def test_output_pattern_matching_inputs_is_not_reading_own_outputs(strips: Path) -> None:
    job = encamp.Job("job", to=".")
    for name in ("a", "b"):
        job.add(name, "true", mirror=f"data/{name}.csv", outputs={"*.csv": "data"})
    Prepared(job)
    job.add("read", "true", mirror="data/*.csv")
    with pytest.raises(BadJob, match=r"task read: .* task a publishes"):
        Prepared(job)


def test_many_tasks_are_checked_quickly(here: Path) -> None:
    job = encamp.Job("job", to="out")
    Path("data").mkdir()
    for number in range(1000):
        Path(f"data/{number}.las").touch()
    for number in range(1000):
        mirror = Mirror(str(here / f"data/{number}.las"), literal=True)
        job.add(f"a{number}", "true", mirror=mirror, outputs={f"{number}.*": "grids"})
    for number in range(1000):
        mirror = Mirror(f"out/grids/{number}.txt", required=False)
        job.add(
            f"b{number}", "true", mirror=mirror, after=f"a{number}", outputs={"x": f"x/{number}"}
        )
    job.add("all", "true", mirror=Mirror("out/grids/*", required=False), after="a*")
    checked = 0

    def count(*_: object) -> None:
        nonlocal checked
        checked += 1

    from encamp.jobs.plan import unordered_readers

    real = unordered_readers.may_meet
    unordered_readers.may_meet = lambda one, other: (count(), real(one, other))[1]  # type: ignore[assignment]
    try:
        Prepared(job)
    finally:
        unordered_readers.may_meet = real
    assert checked < 10 * 2001  # not every reader against every maker


def test_tasks_that_publish_beside_their_inputs_are_not_compared_with_each_other(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encamp.jobs.plan import unordered_readers

    Path("data").mkdir()
    job = encamp.Job("job", to="data")
    for number in range(50):
        Path(f"data/{number}.csv").touch()
        job.add(f"t{number}", "true", mirror=f"data/{number}.csv", outputs={"*.csv": "."})
    compared: list[tuple[str, str]] = []
    monkeypatch.setattr(
        unordered_readers._Check,
        "_after",
        lambda _, task, other: compared.append((task, other)) or True,
    )
    Prepared(job)
    assert compared == []


def test_missing_inputs_are_still_missing(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("read", "true", mirror="nothing/*.txt", outputs="x")
    with pytest.raises(NoMatch):
        Prepared(job)
    assert not os.path.lexists("out")
