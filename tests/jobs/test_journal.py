"""The journal accepts only complete, well-formed lines."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from encamp.attempt_facts import Published, Span, Where
from encamp.errors import DiskFull, JobBusy
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Line, Record
from encamp.reports import AttemptReport, TaskReport

ODD = "bad\udcff\n\x00hex:zz"


def _done(task: str, attempt: int = 1, value: object = None) -> Record:
    report = TaskReport(
        task,
        "done",
        attempts=[AttemptReport(attempt, Where("h", "w", 1), 1.0, [Span("step", 1.0, 2.0)])],
        outputs=[Published(f"/out/{task}", 3, 4, "00")],
        value=value,
    )
    return Record("done", task, 1.0, attempt, {"code": "11"}, report)


def _written(folder: Path, *records: Record) -> Path:
    journal = Journal(folder)
    with journal.writing():
        journal.write(*records)
    return folder / "journal.jsonl"


def _read(folder: Path) -> Journal:
    journal = Journal(folder)
    journal.read()
    return journal


def test_journal_round_trip(tmp_path: Path) -> None:
    done = _done("a", 2, {"x": [1, None, "é"]})
    _written(tmp_path, Record("submitted", "a", 1.0, 2), done, Record("submitted", "b", 1.0, 4))
    journal = _read(tmp_path)
    assert journal.done == {"a": done}
    assert journal.attempts == {"b": 4}


def test_names_of_any_bytes_and_any_value_survive(tmp_path: Path) -> None:
    done = _done(ODD, value={ODD: [ODD, "\x00hex:61"]})
    _written(tmp_path, done)
    assert _read(tmp_path).done == {ODD: done}


def test_a_journal_cut_off_anywhere_gives_its_whole_lines(tmp_path: Path) -> None:
    file = _written(tmp_path, *(_done(f"t{n}") for n in range(3)))
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert len(_read(tmp_path).done) == whole[:length].count(b"\n")


GARBAGE = [
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"3",
    b"[]",
    b"{}",
    b'{"event": "done"}',
    b'{"event": "done", "task": 3, "time": 1}',
    b'{"event": "done", "task": "a", "time": "late"}',
    b'{"event": "submitted", "task": "a", "time": 1, "attempt": "two"}',
    b'{"event": "done", "task": "a", "time": 1, "key": ["x"]}',
    b'{"event": "done", "task": "a", "time": 1, "report": {"name": "a", "state": "odd"}}',
    b'{"event": "done", "task": "a", "time": 1, "report": {"name": 1, "state": "done"}}',
    b'{"event": "done", "task": "\\u0000hex:zz", "time": 1}',
    b'{"event": "no such event", "task": "a", "time": 1}',
    b"[" * 100_000,
]


def test_a_record_that_did_not_fit_on_the_disk_does_not_harm_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, real, calls = Journal(tmp_path / "job.job"), os.write, iter(range(9))

    def full(fd: int, data: memoryview) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:10])

    with journal.writing():
        journal.write(Record("submitted", "before", 1.0, 1))
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(DiskFull):
                journal.write(Record("submitted", "too long", 1.0, 1))
        journal.write(Record("submitted", "after", 1.0, 2))
        assert journal.attempts == {"before": 1, "after": 2}
    assert _read(tmp_path / "job.job").attempts == {"before": 1, "after": 2}


@pytest.mark.parametrize("line", GARBAGE)
def test_garbage_is_passed_over(tmp_path: Path, line: bytes) -> None:
    file = _written(tmp_path, _done("b"))
    file.write_bytes(line + b"\n" + file.read_bytes() + line + b"\n")
    assert _read(tmp_path).done == {"b": _done("b")}


def test_random_damage_never_stops_it(tmp_path: Path) -> None:
    file = _written(tmp_path, *(_done(f"t{n}") for n in range(5)))
    whole, rng = file.read_bytes(), random.Random(7)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 20)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        _read(tmp_path)


def test_opening_it_leaves_one_line_a_task(tmp_path: Path) -> None:
    for number in range(5):
        _written(tmp_path, Record("submitted", "a", 1.0, number), _done("a", number))
    file = _written(tmp_path, Record("submitted", "b", 1.0, 3))
    before = _read(tmp_path)
    with Journal(tmp_path).writing():
        pass
    assert file.read_bytes().count(b"\n") == 2
    assert (_read(tmp_path).done, _read(tmp_path).attempts) == (before.done, before.attempts)
    assert [json.loads(line)["task"] for line in file.read_bytes().splitlines()] == ["a", "b"]


def test_a_line_that_another_run_has_put_there_is_not_taken_for_the_tasks_own(
    tmp_path: Path,
) -> None:
    """`encamp show` reads without a lock."""
    file = _written(tmp_path, _done("a"), _done("b"))
    journal = _read(tmp_path)
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(second + first)
    assert journal.done.get("a") is None
    assert journal.done.outputs("a") == []
    assert _read(tmp_path).done == {"a": _done("a"), "b": _done("b")}


def test_a_task_submitted_again_is_not_done(tmp_path: Path) -> None:
    _written(tmp_path, _done("a"), Record("submitted", "a", 1.0, 1))
    assert _read(tmp_path).done == {}


def test_only_one_may_write_in_a_process_and_among_processes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from encamp.jobs.journal.journal import Journal\n"
        "from encamp.errors import JobBusy\n"
        "try:\n"
        "    with Journal(Path(sys.argv[1])).writing(): sys.exit(0)\n"
        "except JobBusy as exc: print(exc); sys.exit(7)\n"
    )

    def other() -> int:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode

    with Journal(tmp_path).writing():
        with pytest.raises(JobBusy, match="this process"), Journal(tmp_path).writing():
            pass
        assert other() == 7
    assert other() == 0


def test_the_lock_and_the_files_are_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        _written(tmp_path, _done("a"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_its_files_are_closed_even_if_the_last_flush_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Journal) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    _written(tmp_path, _done("a"))
    journal = Journal(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "flush", broken)
        with pytest.raises(OSError, match="Input/output"), journal.writing():
            journal.write(_done("b"))
    assert len(os.listdir("/proc/self/fd")) == before
    with journal.writing():
        assert set(journal.done) == {"a", "b"}


def _state(journal: Journal) -> tuple[Any, ...]:
    """All that a journal knows."""
    known = (dict(journal.done), journal.attempts, journal.earlier, journal.rescued, journal.left)
    return copy.deepcopy(known)


def _history(rng: random.Random) -> list[Record]:
    """What runs may write, one after the other; some of them are killed."""
    records: list[Record] = []
    left: set[str] = set()
    for number in range(1, 16):
        task = rng.choice("abc")
        paths = [f"/out/{name}" for name in rng.sample("uvwxyz", rng.randint(1, 3))]
        if task in left:
            records.append(
                rng.choice([Record("joined", task, 1.0), Record("pruned", task, 1.0, paths=paths)])
            )
            left.discard(task)
            continue
        if rng.random() < 0.15:
            records.append(Record("left", task, 1.0))
            left.add(task)
            continue
        if rng.random() < 0.15:
            records.append(Record("pruned", task, 1.0, paths=paths))
            continue
        records.append(Record("submitted", task, 1.0, number))
        if rng.random() < 0.3:
            records.append(Record("rescued", task, 1.0, paths=paths))
        elif rng.random() < 0.8:
            records.append(Record("publishing", task, 1.0, paths=paths))
            if rng.random() < 0.7:
                outputs = [
                    Published(path, 3, number, "00", kept=rng.random() < 0.2) for path in paths
                ]
                report = replace(_done(task).report, outputs=outputs)  # type: ignore[type-var]
                records.append(Record("done", task, 1.0, number, {"code": "11"}, report))
    return records


@pytest.mark.parametrize("seed", range(12))
def test_journal_survives_many_runs(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        records = _history(rng)
        journal = Journal(tmp_path)
        with journal.writing():
            for record in records:
                journal.write(record)
                assert _state(_read(tmp_path)) == _state(journal)
        known = _state(journal)
        for _ in range(2):
            with Journal(tmp_path).writing():
                pass
            assert _state(_read(tmp_path)) == known


def _published(*names: str, kept: bool = False) -> list[Published]:
    return [Published(f"/out/{name}", 3, 4, "00", kept=kept) for name in names]


def _done_with(outputs: list[Published]) -> Record:
    report = replace(_done("a").report, outputs=outputs)  # type: ignore[type-var]
    return Record("done", "a", 1.0, 1, {"code": "11"}, report)


def test_former_outputs_are_remembered_until_pruned(tmp_path: Path) -> None:
    again, x, y = Record("submitted", "a", 1.0, 1), "/out/x", "/out/y"
    expected: list[tuple[Record, set[str], set[str]]] = [
        # what is written, all that is its own, and what of that its last result has not
        (Record("publishing", "a", 1.0, paths=[x]), {x}, {x}),
        (_done_with(_published("x", "y")), {x, y}, set()),
        (again, {x, y}, {x, y}),
        (_done_with(_published("x") + _published("other", kept=True)), {x, y}, {y}),
        (again, {x, y}, {x, y}),
        (
            Record("rescued", "a", 1.0, paths=["/out/left"]),
            {x, y, "/out/left"},
            {x, y, "/out/left"},
        ),
        (_done_with(_published("x", "y")), {x, y, "/out/left"}, {"/out/left"}),
        (Record("pruned", "a", 1.0, paths=["/out/left"]), {x, y}, set()),
    ]
    for record, own, earlier in expected:
        _written(tmp_path, record)
        journal = _read(tmp_path)
        assert (journal.own("a"), set(journal.earlier.get("a", ()))) == (own, earlier), record
        assert ("a" in journal.rescued) == ("/out/left" in earlier)


def test_a_journal_that_was_compacted_says_last_that_a_task_has_failed(here: Path) -> None:
    """`encamp show` takes what is last for the task's state."""
    journal = Journal(here / "job.job")
    with journal.writing():
        journal.write(Record("submitted", "a", 1.0, 1), Record("failed", "a", 2.0))
    for _ in range(2):
        with journal.writing():
            pass
        lines: list[Line] = []
        journal.read(lines.append)
        assert [line.event for line in lines] == ["submitted", "failed"]


def test_renamed_journal_is_rewritten(here: Path) -> None:
    """Whoever has made that name may write to the file."""
    journal = Journal(here / "job.job")
    report = TaskReport("a", "done")
    with journal.writing():
        journal.write(Record("done", "a", 1.0, 1, {}, report))
    before = journal.file.stat().st_ino
    for other, same in ((None, True), ("other", False), (None, True)):
        if other:
            os.link(journal.file, here / other)
        with journal.writing():
            assert "a" in journal.done
        assert (journal.file.stat().st_ino == before) == same
        before = journal.file.stat().st_ino


def test_removed_failed_task_is_not_failed_when_added_back(
    here: Path,
) -> None:
    journal = Journal(here / "job.job")
    for tasks, failed in (("ab", ["a", "b"]), ("a", ["a"]), ("ab", ["a"])):
        with journal.writing():
            if tasks == "ab" and not journal.failed:
                journal.write(*(Record("submitted", task, 1.0, 1) for task in tasks))
                journal.write(*(Record("failed", task, 1.0) for task in tasks))
            journal.note_tasks(tasks)
        journal.read()
        assert list(journal.failed) == failed


def test_removed_task_is_forgotten_once_its_outputs_are_pruned(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.writing():
        journal.write(_done_with(_published("x", "y")), Record("submitted", "b", 1.0, 1))
        journal.note_tasks(["c"])
        assert journal.left == {"a", "b"}
        assert list(journal.current()) == []
        journal.note_tasks(["c", "b"])
        assert journal.left == {"a"}
        journal.write(Record("pruned", "a", 1.0, paths=["/out/x"]))
        assert (journal.left, journal.own("a")) == ({"a"}, {"/out/y"})
        assert journal.tasks == {"a", "b"}
        journal.write(Record("pruned", "a", 1.0, paths=["/out/y"]))
        assert journal.tasks == {"b"}
        assert journal.left == set()
        journal.write(Record("publishing", "b", 1.0, paths=["/out/z"]))  # and then killed
        journal.note_tasks(["c"])
        journal.write(Record("pruned", "b", 1.0, paths=["/out/z"]))
        assert journal.tasks == journal.left == set()


def test_reading_again_forgets_what_is_written_no_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.writing():
        for record in _history(random.Random(3)):
            journal.write(record)
        journal.note_tasks(["none"])
    journal.read()
    assert all(_state(journal)[:1] + _state(journal)[2:]), "there is something of every kind"
    (tmp_path / "journal.jsonl").write_bytes(b"")
    journal.read()
    assert not any(_state(journal))
