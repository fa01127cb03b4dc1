"""Files that a job no longer makes: warnings to their readers, and removal on request."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from job_steps import write

import encamp
from encamp.attempt_facts import Published
from encamp.cli.prune import prune_command
from encamp.cli.read_job_status import status_of
from encamp.errors import BadDestination, BadJob, CannotRemove, JobBusy
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record, outputs_in
from encamp.jobs.plan.orphans import _NAMED, OrphanWatch, orphans
from encamp.reports import JobReport, TaskReport
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.inputs.mirror import Mirror, plan


def _job(
    numbers: Iterable[int], name: str = "m{}.txt", mirror: Any = "out/m/*/*.txt"
) -> encamp.Job:
    job = encamp.Job("job", to="out")
    for n in numbers:
        file = name.format(n)
        job.add(f"m{n}", encamp.call(write, file, f"{n}\n"), outputs={file: f"m/{n}"})
    steps = encamp.command("cat $(find in -name '*.txt' | sort) > sum.txt", shell=True)
    given = mirror if isinstance(mirror, Mirror) else {mirror: "in"}
    job.add("sum", steps, mirror=given, after="m*", outputs="sum.txt")
    return job


def _run(job: encamp.Job, **options: Any) -> JobReport:
    with ThreadPoolExecutor(1) as pool:
        return job.run(pool, **options)


def _files() -> list[str]:
    files = (path for path in Path("out").rglob("*") if ".job" not in str(path))
    return sorted(str(path.relative_to("out")) for path in files)


FIRST = r"task sum reads a file .* makes any more: m/2/m2.txt; .* encamp prune "


def test_orphans_are_reported_and_pruned(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_job([1, 2])).warnings == []
    with pytest.warns(UserWarning, match=FIRST):
        foreseen = _run(_job([1]), dry_run=True)
    with pytest.warns(UserWarning, match=FIRST):
        report = _run(_job([1]))
    assert report["sum"].state == "up to date"
    assert report.warnings == foreseen.warnings != []
    data = json.loads(Path("out/job.job/report.json").read_text())
    assert data["warnings"] == report.warnings
    prune_command(Path("out"), dry_run=True)
    top = Path("out").resolve()
    wanted = [f"{top}/m/2/m2.txt", f"{top}/m/2"]
    assert capsys.readouterr().out.splitlines() == [f"would remove {path}" for path in wanted]
    prune_command(Path("out"), dry_run=False)
    assert capsys.readouterr().out.splitlines() == [f"removed {path}" for path in wanted]
    assert _files() == ["m", "m/1", "m/1/m1.txt", "sum.txt"]
    report = _run(_job([1]))
    assert (report["m1"].state, report["sum"].state) == ("up to date", "done")
    assert report.warnings == []
    assert Path("out/sum.txt").read_text() == "1\n"


def test_an_output_with_a_new_name_leaves_an_orphan(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(_job([1, 2]))
    with pytest.warns(UserWarning, match="2 files .*: m/1/m1.txt, m/2/m2.txt;"):
        _run(_job([1, 2], "n{}.txt"), dry_run=True)
    with pytest.warns(UserWarning, match="2 files .*: m/1/m1.txt, m/2/m2.txt;"):
        _run(_job([1, 2], "n{}.txt"))
    Path("out/m/2/m2.txt").write_text("changed by hand")
    os.utime("out/m/1/m1.txt", (1, 1))  # touched, but the same
    prune_command(Path("out/job.job"), dry_run=False)
    assert "kept" in capsys.readouterr().out
    assert _files() == ["m", "m/1", "m/1/n1.txt", "m/2", "m/2/m2.txt", "m/2/n2.txt", "sum.txt"]
    with pytest.warns(UserWarning, match="m/2/m2.txt"):
        report = _run(_job([1, 2], "n{}.txt"))
    assert report["m1"].state == "up to date"


def test_output_taken_over_by_other_task_is_not_an_orphan(here: Path) -> None:
    for names in (["x.txt", "y.txt"], ["y.txt", "x.txt"]):
        job = encamp.Job("job", to="out")
        for task, name in zip("ab", names, strict=True):
            job.add(task, encamp.call(write, name, task), outputs=name)
        report = _run(job)
        assert (report.count("done"), report.orphans) == (2, 0)
    assert (Path("out/x.txt").read_text(), Path("out/y.txt").read_text()) == ("b", "a")


def test_folders_that_were_published_empty_go_by_prune_if_they_are_still_empty(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(*names: str) -> encamp.Job:
        job = encamp.Job("job", to="out")
        for name in names:
            line = encamp.command(f"mkdir -p {name}/e/f {name}/g; echo > {name}/x", shell=True)
            job.add(name, line, outputs={name: "."})
        job.add("only", encamp.command("mkdir -p bare", shell=True), outputs={"bare": "."})
        return job

    _run(job("a", "b"))
    Path("out/b/g/mine").touch()
    _run(job())
    prune_command(Path("out"), dry_run=True)
    would = capsys.readouterr().out.replace("would remove", "removed")
    prune_command(Path("out"), dry_run=False)
    assert capsys.readouterr().out == would
    assert _files() == ["b", "b/g", "b/g/mine", "bare"]
    Path("out/b/g/mine").unlink()
    prune_command(Path("out"), dry_run=False)
    assert _files() == ["bare"]
    prune_command(Path("out"), dry_run=False)
    assert "nothing to remove" in capsys.readouterr().out
    journal = Journal(Path("out/job.job"))
    journal.read()
    assert journal.tasks == {"only"}


@pytest.mark.parametrize(
    ("mirror", "warned"),
    [
        (Mirror("out/m", "in"), True),
        (Mirror("out/m/2/m2.txt", "in"), True),
        (Mirror("out/m", "in", exclude=("2",)), False),
        (Mirror("out/m/1", "in"), False),
    ],
)
def test_only_readers_of_orphans_are_warned(here: Path, mirror: Mirror, warned: bool) -> None:
    _run(_job([1, 2]))
    job = _job([1], mirror=mirror)
    if warned:
        with pytest.warns(UserWarning, match=FIRST):
            _run(job, dry_run=True)
    else:
        assert _run(job, dry_run=True).warnings == []


def test_reader_of_orphan_by_absolute_symlink_in_tree_is_warned(here: Path) -> None:
    _run(_job([1, 12]))
    Path("tree").mkdir()
    Path("tree/one").symlink_to(here / "out/m/1")
    assert _run(_job([1], mirror=Mirror("tree")), dry_run=True).warnings == []
    Path("tree/both").symlink_to(here / "out/m")
    with pytest.warns(UserWarning, match="task sum reads a file .* makes any more: m/12/m12.txt; "):
        _run(_job([1], mirror=Mirror("tree")), dry_run=True)


@pytest.mark.parametrize("old", ["{out}/m", "file://{out}/m", "file:{out}/m", "local://{out}/m"])
@pytest.mark.parametrize("new", ["m", "file://{out}/m", "file:{out}/m"])
def test_one_disk_has_one_notation(
    here: Path, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is made again is no orphan, however its folder is written; what is not, is one."""

    def job(numbers: Iterable[int], to: str) -> encamp.Job:
        job = encamp.Job("job", to="out")
        for n in numbers:
            output = {f"m{n}.txt": to.format(out=here / "out")}
            job.add(f"m{n}", encamp.call(write, f"m{n}.txt", f"{n}\n"), outputs=output)
        job.add("sum", "true", mirror=f"file://{here}/out/m/*", after="m*")
        return job

    _run(job([1, 2], old))
    with pytest.warns(UserWarning, match=r"task sum reads a file .* any more: m/m2\.txt"):
        _run(job([1], new))
    prune_command(Path("out"), dry_run=False)
    assert capsys.readouterr().out == f"removed {here}/out/m/m2.txt\n"
    assert _files() == ["m", "m/m1.txt"]


def test_url_recorded_by_older_version_is_same_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/out/a.txt"
    before, now = Record("publishing", "a", 1.0, paths=[f"file://{path}"]), _done("a", path)
    assert _noted(tmp_path / "out/job.job", (["a"], [before, now]), (["a"], [])) == set()
    old = _done("b", f"file://{path}")
    assert _noted(tmp_path / "out/two.job", (["b"], [old]), (["a"], [])) == {path}


def test_prune_lists_orphans_elsewhere_without_opening_them(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/there/b", b"b")
    Path("elsewhere").write_text("a")
    done = _done("gone", f"{here}/elsewhere", f"{here}/removed", "memory://there/b")
    _noted(Path("out/job.job"), (["gone"], [done]), ([], []))
    journal = Journal(Path("out/job.job"))
    journal.read()
    journal.may_have_published = lambda _: True
    watch = OrphanWatch(journal, Path("out"))
    watch.look("task sum", plan([Mirror("memory://there/*")], here))
    assert "any more: memory://there/b; to read" in watch.warnings[0]
    monkeypatch.setattr(type(memory), "info", None)
    prune_command(Path("out"), dry_run=False)
    why = "it is not below out; remove it yourself if it is not needed"
    kept = capsys.readouterr().out.splitlines()
    assert kept == [f"kept {here}/elsewhere: {why}", f"kept memory://there/b: {why}"]


def _done(task: str, *paths: str) -> Record:
    outputs = [Published(path, 1, 1, "d") for path in paths]
    return Record("done", task, 1.0, 1, {}, TaskReport(task, "done", outputs=outputs))


def _noted(folder: Path, *runs: tuple[list[str], list[Record]]) -> set[str]:
    """The orphans after runs with these tasks, each of which wrote these records."""
    for tasks, records in runs:
        journal = Journal(folder)
        with journal.writing():
            journal.note_tasks(tasks)
            journal.write(*records)
    with Journal(folder).writing():  # once more through a compaction
        pass
    journal = Journal(folder)
    journal.may_have_published = lambda _: True
    journal.read()
    return set(orphans(journal))


def test_orphans_are_remembered(tmp_path: Path) -> None:
    both, first = ["a", "b"], (["a", "b"], [_done("a", "/a"), _done("b", "/b")])
    assert _noted(tmp_path / "1", first) == set()
    gone: tuple[list[str], list[Record]] = (["a"], [])
    assert _noted(tmp_path / "2", first, gone) == {"/b"}
    assert _noted(tmp_path / "3", first, gone, gone, gone) == {"/b"}
    assert _noted(tmp_path / "4", first, gone, (both, [])) == set()
    renamed = (both, [_done("a", "/new")])
    assert _noted(tmp_path / "5", first, renamed) == {"/a"}
    assert _noted(tmp_path / "6", first, renamed, (both, [_done("a", "/a")])) == {"/new"}
    taken_over = (["a"], [_done("a", "/a", "/b")])
    assert _noted(tmp_path / "7", first, gone, taken_over) == set()


def test_unknown_files_are_not_orphans(tmp_path: Path) -> None:
    first = (["a"], [_done("a", "/a")])
    again = (["a"], [Record("submitted", "a", 2.0, 2)])
    assert _noted(tmp_path / "1", first, again) == set()  # it failed, or was killed
    rescued = (["a"], [Record("rescued", "a", 2.0, paths=["/log"]), _done("a", "/a")])
    assert _noted(tmp_path / "2", rescued) == set()
    assert _noted(tmp_path / "3", rescued, (["b"], [])) == {"/a", "/log"}
    killed = (["a"], [Record("publishing", "a", 2.0, paths=["/x"]), _done("a", "/a")])
    assert _noted(tmp_path / "4", killed) == {"/x"}


def test_removed_task_is_up_to_date_when_added_back(tmp_path: Path) -> None:
    _noted(tmp_path, (["a", "b"], [_done("b", "/b")]), (["a"], []), (["a", "b"], []))
    journal = Journal(tmp_path)
    journal.read()
    assert [output.path for output in outputs_in(journal.done.get("b"))] == ["/b"]


def test_prune_leaves_what_is_not_the_jobs_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("out/job.job")
    files = {name: Path("out", name).absolute() for name in ("mine", "kept", "other", "unknown")}
    Path("out").mkdir()
    published = []
    for name, path in files.items():
        path.write_text(name)
        published.append(Published(str(path), path.stat().st_size, path.stat().st_mtime_ns, "-"))
    mine, kept, other, _ = published
    kept = Published(kept.path, kept.size, kept.mtime_ns, "-", kept=True)
    Path("out/bare").mkdir()
    bare = Published(str(Path("out/bare").absolute()), 0, 0, "", kind="folder")
    report = TaskReport("gone", "done", outputs=[mine, kept, other, bare])
    unknown = Record("publishing", "gone", 1.0, paths=[str(files["unknown"])])
    _noted(folder, (["gone", "a"], [unknown, Record("done", "gone", 1.0, 1, {}, report)]))
    _noted(folder, (["a"], []))
    report = TaskReport("x", "done", outputs=[other, bare])
    _noted(Path("out/other.job"), (["x"], [Record("done", "x", 1.0, 1, {}, report)]))
    prune_command(Path("out"), dry_run=False)
    assert sorted(path.name for path in files.values() if path.exists()) == [
        "kept",
        "other",
        "unknown",
    ]
    assert Path("out/bare").is_dir()
    output = capsys.readouterr().out
    assert f"kept {files['unknown']}: it has changed since the job published it" in output


def test_prune_waits_for_no_running_job(here: Path) -> None:
    with Journal(Path("out/job.job")).writing():
        prune_command(Path("out"), dry_run=True)
        with pytest.raises(JobBusy):
            prune_command(Path("out"), dry_run=False)
    with pytest.raises(BadJob, match="there is no such folder"):
        prune_command(Path("nowhere"), dry_run=True)


def test_prune_removes_what_it_can_and_names_what_stays(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("models").mkdir()
    _run(_job([1, 2, 3, 4], name="{}.txt", mirror="models"))
    _run(_job([1], name="{}.txt", mirror="models"))
    unlink = os.unlink

    def refusing(path: str, *, dir_fd: int | None = None) -> None:
        if path == "3.txt":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refusing)
        with pytest.raises(CannotRemove) as stayed:
            prune_command(Path("out"), dry_run=False)
    assert str(stayed.value) == f"cannot remove {here}/out/m/3/3.txt: operation not permitted"
    gone = [f"removed {here}/out/m/{name}" for name in ("2/2.txt", "4/4.txt", "2", "4")]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(gone)
    prune_command(Path("out"), dry_run=False)
    assert _files() == ["m", "m/1", "m/1/1.txt", "sum.txt"]


def test_prune_tells_of_a_running_job_also_if_files_of_another_stay(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for tasks in ([1, 2], [1]):
        job = encamp.Job("free", to="out")
        for n in tasks:
            job.add(f"m{n}", f"touch free{n}", outputs=f"free{n}")
        _run(job)
    monkeypatch.setattr("encamp.jobs.prune._removed", lambda *_, **__: {"out/free2": "why"})
    busy = Journal(Path("out/busy.job")).writing()
    with busy, pytest.raises(CannotRemove, match="cannot remove out/free2: why"):
        prune_command(Path("out"), dry_run=False)
    assert "out/busy.job" in capsys.readouterr().out


def test_a_folder_that_cannot_be_entered_keeps_its_orphans(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("models").mkdir()
    _run(_job([1, 2], mirror="models"))
    _run(_job([1], mirror="models"))
    hidden = Path("out/m/2/m2.txt").absolute()
    lstat = os.lstat

    def refusing(path: str) -> os.stat_result:
        if path == str(hidden):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return lstat(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", refusing)
        patch.setattr("encamp.jobs.prune.intact", lambda *_: False)
        prune_command(Path("out"), dry_run=False)
    assert f"kept {hidden}: it has changed" in capsys.readouterr().out
    prune_command(Path("out"), dry_run=False)
    assert not hidden.exists()


def test_failed_prune_of_one_job_does_not_stop_others(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("busy", "free", "fixed"):
        for tasks in ([1, 2], [1]):
            job = encamp.Job(name, to="out")
            for n in tasks:
                job.add(f"m{n}", f"touch {name}{n}", outputs=f"{name}{n}")
            _run(job)
    written = Journal.writing

    def refusing(journal: Journal) -> AbstractContextManager[None]:
        if journal.folder.name == "fixed.job":
            raise BadDestination("out/fixed.job", "read-only file system")
        return written(journal)

    monkeypatch.setattr(Journal, "writing", refusing)
    with Journal(Path("out/busy.job")).writing(), pytest.raises(JobBusy):
        prune_command(Path("out"), dry_run=False)
    why = "out/fixed.job: it cannot be written, so nothing is removed: read-only file system"
    assert capsys.readouterr().out.splitlines() == [f"removed {here}/out/free2", why]
    assert _files() == ["busy1", "busy2", "fixed1", "fixed2", "free1"]
    with pytest.raises(BadJob, match=why):
        prune_command(Path("out/fixed.job"), dry_run=False)


def test_run_and_status_count_orphans_until_removed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(*numbers: int) -> encamp.Job:
        return _job(numbers, mirror="models")

    def orphan_lines() -> list[str]:
        lines = status_of(TrustedFolder(Path("out/job.job"))).lines
        return [line for line in lines if "makes any more" in line]

    Path("models").mkdir()
    assert _run(job(1, 2, 3)).orphans == 0
    assert orphan_lines() == []
    assert _run(job(1), dry_run=True).orphans == 2
    report = _run(job(1))
    assert report.orphans == 2  # nothing had to run, and the report says it all the same
    words = "2 files of earlier runs that no task of the job makes any more: encamp prune"
    assert words in str(report)
    assert words in report._repr_html_()
    end = "of earlier runs that no task of the job makes any more: encamp prune out"
    assert orphan_lines() == [f"  2 files {end}"]
    Path("out/m/2/m2.txt").unlink()
    assert orphan_lines() == [f"  1 file {end}"]
    for module in ("encamp.jobs.plan.orphans", "encamp.reports"):
        monkeypatch.setattr(f"{module}.MOST_COUNTED", 0)
    assert orphan_lines() == [f"  more than 0 files {end}"]
    prune_command(Path("out"), dry_run=False)
    assert orphan_lines() == []
    assert _run(job(1)).orphans == 0


def test_warning_names_some_orphans_and_counts_the_rest(here: Path) -> None:
    _run(_job(range(_NAMED + 3)))
    for count in (1, _NAMED, _NAMED + 1, _NAMED + 2):
        with pytest.warns(UserWarning, match="makes any more"):
            (output,) = _run(_job(range(count, _NAMED + 3)), dry_run=True).warnings
        named = ", ".join(f"m/{n}/m{n}.txt" for n in range(min(count, _NAMED)))
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        files = "a file" if count == 1 else f"{count} files"
        assert f"reads {files} that" in output
        assert f"any more: {named}{more}; to read" in output


def test_prune_removes_files_before_journal_records(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut in between they are orphans still, or gone."""
    for names in ("ab", "a"):
        job = encamp.Job("job", to="out")
        for name in names:
            job.add(name, encamp.call(write, f"{name}.txt"), outputs={f"{name}.txt": f"to/{name}"})
        job.run(slots=1)
    events: list[object] = []
    real = Journal.write

    def write_down(self: Journal, *records: Record) -> list[bytes]:
        events.extend((record.event, sorted(record.paths)) for record in records)
        return real(self, *records)

    monkeypatch.setattr(Journal, "write", write_down)
    monkeypatch.setattr("encamp.jobs.prune.flush_folders", events.append)
    prune_command(Path("out"), dry_run=False)
    assert not Path("out/to/b").exists()
    assert events == [{here / "out/to"}, ("pruned", [str(here / "out/to/b/b.txt")])]
