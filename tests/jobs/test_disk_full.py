"""A full disk is not a failure: tasks wait for others, and fail only if they are alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from job_steps import count, counted

import encamp
from encamp.errors import DiskFull
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record
from encamp.storage.cache.cache import INDEX
from encamp.storage.cache.index import opened
from encamp.storage.local_storage import LOCAL, local_storage

MIB = 1 << 20


@contextmanager
def disk(at: Path, size: int) -> Iterator[Path]:
    """An empty disk of ``size`` bytes."""
    at.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(at)]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local storage with room for one task's inputs of 8 MiB, not for two."""
    with disk(tmp_path / "disk", 16 * MIB) as at:
        monkeypatch.setenv(LOCAL, str(at))
        yield at
        left = list(at.glob("encamp-*/sandboxes/*"))
    assert left == []


def test_a_run_that_cannot_begin_for_want_of_room_leaves_no_lease(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", MIB) as at:
        job = encamp.Job("job", to=at / "out")
        job.add("task", "true")
        job.folder.mkdir(parents=True)
        (job.folder / "logs").mkdir()
        with (at / "rest").open("wb", buffering=0) as rest, suppress(OSError):
            while True:
                rest.write(bytes(4096))
        with pytest.raises(DiskFull):
            job.run()
        assert list(job.folder.glob("running-*")) == []


def refusals() -> int:
    """How often somebody was told that there is no room."""
    with opened(local_storage() / "cache" / INDEX) as index:
        query = "SELECT COUNT(*) FROM event WHERE what = 'refused'"
        return int(index._database.execute(query).fetchone()[0])


def work(counter: str, name: str) -> None:
    """Count the run; end only when somebody else was refused, or nobody else is left to be."""
    count(counter, name)
    deadline = time.monotonic() + 30
    while len(counted(counter)) == 1 and refusals() == 0:
        assert time.monotonic() < deadline, "nobody else wanted the room"
        time.sleep(0.01)
    Path("made").write_bytes(Path(f"{name}.dat").read_bytes()[:10])


def fill(size: int) -> None:
    """Write more than there is room for."""
    Path("all").write_bytes(bytes(size))


def hold(counter: str, name: str, size: int) -> None:
    """Write a file; the first to do so holds it until the second has come and gone."""
    deadline = time.monotonic() + 30
    count(counter, name)
    full = Path(f"{counter}.full")
    try:
        Path(f"{counter}.first").touch(exist_ok=False)
        first = True
    except FileExistsError:
        first = False
        while not full.exists():  # two that write at once would both fail
            assert time.monotonic() < deadline, "the first has not come"
            time.sleep(0.01)
    fill(size)
    full.touch()
    while first and (len(counted(counter)) < 2 or len(folders()) > 1):
        assert time.monotonic() < deadline, "the second did not go away"
        time.sleep(0.01)
    Path("all").rename(name)


def folders() -> list[Path]:
    return [path for path in (local_storage() / "sandboxes").iterdir() if path.is_dir()]


def job_of(here: Path, names: str, size: int = 8 * MIB) -> encamp.Job:
    job = encamp.Job("job", to="out")
    for name in names:
        (here / f"{name}.dat").write_bytes(name.encode() * size)
        step = encamp.call(work, str(here / "counter"), name)
        output = encamp.Output("made", rename=name)
        job.add(name, step, mirror=f"{name}.dat", outputs=output)
    return job


def results() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}


@pytest.mark.usefixtures("small")
def test_a_task_without_room_waits_until_another_has_ended(here: Path) -> None:
    report = job_of(here, "ab").run(slots=2)
    assert report.ok
    assert refusals() >= 1
    assert results() == {name: name.encode() * 10 for name in "ab"}
    assert sorted(counted(here / "counter")) == ["a", "b"]
    assert [len(task.attempts) for task in report.tasks] == [1, 1], "waiting is no try"


@pytest.mark.usefixtures("small")
def test_many_tasks_take_turns(here: Path) -> None:
    names = "abcdef"
    report = job_of(here, names).run(slots=3)
    assert report.ok
    assert results() == {name: name.encode() * 10 for name in names}
    assert sorted(counted(here / "counter")) == list(names)
    assert refusals() < 40, "who waits does not ask again and again"


@pytest.mark.usefixtures("small")
def test_task_that_never_fits_on_disk_fails_and_others_continue(here: Path) -> None:
    job = job_of(here, "a")
    (here / "large.dat").write_bytes(bytes(20 * MIB))
    job.add("large", "true", mirror="large.dat", retries=0)
    report = job.run(slots=2, check=False)
    assert report["a"].state == "done"
    large = report["large"]
    assert (large.state, large.attempts[-1].error_type) == ("failed", "DiskFull")
    assert f"the disk of {local_storage()}" in large.why
    assert "20.0 MiB are needed" in large.why
    assert len(large.attempts) == 1


@pytest.mark.usefixtures("small")
def test_alone_it_fails_at_once(here: Path) -> None:
    (here / "large.dat").write_bytes(bytes(20 * MIB))
    job = encamp.Job("job", to="out")
    job.add("large", "true", mirror="large.dat")
    job.add("later", "true", after="large")
    report = job.run(slots=2, check=False)
    assert [task.state for task in report.tasks] == ["failed", "blocked"]
    assert report["large"].attempts[-1].error_type == "DiskFull"


def test_a_task_whose_own_files_fill_the_disk_fails_and_leaves_room_again(
    here: Path, small: Path
) -> None:
    """Its log is on the same disk and may say nothing."""
    job = encamp.Job("job", to="out")
    job.add("command", encamp.command("head -c 100M /dev/zero > all", shell=True))
    job.add("function", encamp.call(fill, 100 * MIB))
    job.add("next", "head -c 8M /dev/zero")
    report = job.run(slots=1, check=False)
    assert [task.state for task in report.tasks] == ["failed", "failed", "done"]
    for name in ("command", "function"):
        assert report[name].attempts[-1].error_type == "DiskFull"
        assert str(local_storage()) in report[name].why
    found = os.statvfs(small)
    assert found.f_bavail * found.f_frsize > 12 * MIB


@pytest.mark.usefixtures("small")
def test_a_task_that_fills_the_disk_while_it_runs_waits_for_others_too(here: Path) -> None:
    """Both write 10 of 16 MiB; who comes too late begins anew when the other has ended."""
    job = encamp.Job("job", to="out")
    for name in "ab":
        step = encamp.call(hold, str(here / "counter"), name, 10 * MIB)
        job.add(name, step, outputs=name)
    report = job.run(slots=2)
    assert report.ok
    assert len(counted(here / "counter")) == 3
    assert {name: len(text) for name, text in results().items()} == {"a": 10 * MIB, "b": 10 * MIB}


@pytest.mark.usefixtures("small")
def test_the_cache_makes_room_before_anybody_waits(here: Path) -> None:
    """Inputs of earlier jobs go first."""
    for turn in range(3):
        (here / f"shared{turn}").write_bytes(os.urandom(8 * MIB))
        job = encamp.Job(f"job{turn}", to="out", mirror=f"shared{turn}")
        for name in "ab":
            job.add(name, f"test -s shared{turn}")
        assert job.run(slots=2).ok


def test_a_destination_without_room_fails_by_name_and_what_is_published_stays(
    here: Path, tmp_path: Path
) -> None:
    with disk(tmp_path / "to", 12 * MIB) as to:
        job = encamp.Job("job", to=to)
        for name in "ab":
            step = encamp.command(f"head -c 8M /dev/zero > {name}", shell=True)
            job.add(name, step, outputs=name)
        report = job.run(slots=2, check=False)
        states = sorted(task.state for task in report.tasks)
        assert states == ["done", "failed"]
        (failed,) = [task for task in report.tasks if task.state == "failed"]
        assert failed.attempts[-1].error_type == "DiskFull"
        assert str(to) in failed.why
        whole = [path.stat().st_size for path in to.iterdir() if path.is_file()]
        assert whole == [8 * MIB]
        assert not list(to.rglob(".encamp-*"))
        next(path for path in to.iterdir() if path.is_file()).unlink()
        assert job.run(slots=1, check=False).count("done") >= 1


def test_names_that_cannot_be_written_down_wait_for_room(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    real = Journal.write

    def write(self: Journal, *records: Record) -> list[bytes]:
        taken = [record.task for record in records if record.event == "publishing"]
        if taken and not refused:
            refused.extend(taken)
            raise DiskFull("journal", 1, 0)
        return real(self, *records)

    monkeypatch.setattr(Journal, "write", write)
    job = encamp.Job("job", to="out")
    for name in ("a", "b", "c"):
        step = encamp.command(f"echo {name} > {name}.txt", shell=True)
        job.add(name, step, outputs=[f"{name}.txt"], retries=1)
    report = job.run(slots=1)
    assert refused
    assert report.ok
    assert [Path(f"out/{name}.txt").read_text() for name in "abc"] == ["a\n", "b\n", "c\n"]
    assert list(Path("out").glob(".encamp-*")) == []
