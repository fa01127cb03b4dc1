"""Only one run of a job at a time, even on a disk without locks; dead runs do not block."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace
from scripted import Scripted

import encamp
from encamp.errors import JobBusy
from encamp.jobs.journal import run_lock as module
from encamp.jobs.journal.run_lock import OWNER, run_lock
from encamp.jobs.run_lease import PREFIX, LeaseHeartbeat
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.process_identity import ProcessFacts, start_of, this_process

TOKEN = "0123456789ab"
FAR = replace(this_process(), host="far-away", boot="another")


@pytest.fixture(autouse=True)
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's answer on a disk without locks; and runs elsewhere that are waited for less."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(module, "PATIENCE", 0.5)


@contextmanager
def _run_lock(folder: Path) -> Iterator[bool]:
    own = TrustedFolder(folder)
    with own.opened() as files, run_lock(own, files) as locked:
        yield locked


def _write(file: Path, facts: ProcessFacts) -> None:
    file.write_text(json.dumps(facts.as_dict()))


def _other() -> subprocess.Popen[str]:
    """A process, which lives until its input ends, and has said its facts."""
    code = (
        "import json; from encamp.storage.process_identity import this_process;"
        "print(json.dumps(this_process().as_dict()), flush=True); input()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("name", [OWNER, f"{PREFIX}{TOKEN}"])
def test_a_run_of_a_living_process_is_left_alone(tmp_path: Path, name: str) -> None:
    with _other() as other:
        assert other.stdout is not None
        facts = other.stdout.readline()
        (tmp_path / name).write_text(facts)
        busy = pytest.raises(JobBusy, match=f"process {other.pid} on ")
        with busy, _run_lock(tmp_path):
            pass
        assert (tmp_path / name).read_text() == facts
        other.communicate("")
    with _run_lock(tmp_path) as locked:
        assert not locked


@pytest.mark.parametrize("name", [OWNER, f"{PREFIX}{TOKEN}"])
def test_a_run_on_another_host_is_known_by_its_beats(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeaseHeartbeat, "EVERY", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    file = tmp_path / name
    _write(file, FAR)
    busy = pytest.raises(JobBusy, match="on far-away")
    with LeaseHeartbeat(file), busy, _run_lock(tmp_path):
        pass
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with _run_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": 1}'])
def test_stale_malformed_owner_file_does_not_hold_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / OWNER).write_text(text)
    with _run_lock(tmp_path):
        assert this_process().pid == json.loads((tmp_path / OWNER).read_text())["pid"]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def _race(folder: Path) -> tuple[int, int]:
    """How many of four threads that begin at the same time were let in, and how many refused."""
    inside, ended = [], []
    first, go_on = threading.Barrier(4), threading.Event()

    def run() -> None:
        first.wait()
        with suppress(JobBusy), module._owned(TrustedFolder(folder)):
            inside.append(1)
            go_on.wait(60)

    def counted() -> None:
        try:
            run()
        finally:
            ended.append(1)
            if len(ended) >= 3:
                go_on.set()

    threads = [threading.Thread(target=counted) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(inside), 4 - len(inside)


@pytest.mark.parametrize("claims", [0, 2])
def test_only_one_of_many_concurrent_runs_gets_the_lock(tmp_path: Path, claims: int) -> None:
    dead = replace(this_process(), start="0")
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        _write(folder / OWNER, dead)
        identity = module._identity(TrustedFolder(folder))
        for generation in range(claims):  # of runs that died as they took it over
            _write(folder / f"{OWNER}.{identity}.{generation}", dead)
        assert _race(folder) == (1, 3)
        assert list(folder.iterdir()) == []


def test_lock_being_taken_over_by_other_run_is_refused_at_once(tmp_path: Path) -> None:
    _write(tmp_path / OWNER, replace(this_process(), start="0"))
    claim = tmp_path / f"{OWNER}.{module._identity(TrustedFolder(tmp_path))}.0"
    _write(claim, this_process())
    with pytest.raises(JobBusy, match=f"process {os.getpid()} on "), _run_lock(tmp_path):
        pass
    assert claim.exists()


def test_a_file_that_is_new_since_it_was_judged_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / OWNER
    _write(file, replace(this_process(), start="0"))
    others = replace(this_process(), pid=os.getppid(), start=start_of(os.getppid()) or "")
    claimed = module._claimed

    def late(folder: TrustedFolder, judged: str) -> list[str]:
        os.utime(file, ns=(times := file.stat().st_mtime_ns, times))
        _write(file, others)
        os.utime(file, ns=(times, times))
        return claimed(folder, judged)

    monkeypatch.setattr(module, "_claimed", late)
    with pytest.raises(JobBusy, match=f"process {os.getppid()} on "), _run_lock(tmp_path):
        pass
    assert json.loads(file.read_text())["pid"] == os.getppid()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", OWNER]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_failed_run_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    """Another host could not know whether the run is over."""
    with suppress(error), _run_lock(tmp_path) as locked:
        assert not locked
        assert (tmp_path / OWNER).exists()
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_job_says_that_its_disk_has_no_locks(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", "true")
    with pytest.warns(UserWarning, match=r"the disk of .*out/job.job has no locks"):
        report = job.run(Scripted())
    assert report.count("done") == 1
    with _other() as other:
        assert other.stdout is not None
        Path(f"out/job.job/{PREFIX}{TOKEN}").write_text(other.stdout.readline())
        with pytest.raises(JobBusy):
            job.run(Scripted())
        assert Path(f"out/job.job/{PREFIX}{TOKEN}").exists()
        other.communicate("")
