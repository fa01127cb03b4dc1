"""Logs are limited: beginning and end are kept, on the share and on the slot's disk."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

import encamp
from encamp.errors import BadJob, BadJobFile
from encamp.jobs.file.jobfile import load_job
from encamp.jobs.job_definition import LOG_LIMIT
from encamp.slot.output_limit import cut, free_middle_of
from encamp.testing.waiting import until

MARK = rb"\n\[encamp: (\d+) of (\d+) bytes are left out here; .*log_limit = (\d+) bytes .*\]\n"


def _print_much(lines: int) -> None:
    for number in range(lines):
        print(f"line {number:09}")


def _checked(log: Path, limit: int, size: int) -> None:
    """A log has its beginning, its end, and a true word on what is between."""
    data = log.read_bytes()
    found = re.search(MARK, data)
    assert found is not None
    assert [int(number) for number in found.groups()] == [size - limit, size, limit]
    assert data[: found.start()] == b"".join(_lines(limit // 15 + 1))[: limit // 2]
    last = size // 15
    assert data[found.end() :] == b"".join(_lines(last, last - limit // 15 - 1))[-(limit // 2) :]


def _lines(stop: int, start: int = 0) -> list[bytes]:
    return [f"line {number:09}\n".encode() for number in range(start, stop)]


@pytest.mark.parametrize("how", ["call", "command", "time limit"])
def test_long_log_keeps_beginning_and_end(here: Path, how: str) -> None:
    job = encamp.Job("job", to="out", log_limit="60 KiB", time_limit=20)
    awk = "awk 'BEGIN { for (n = 0; n < 200000; n++) printf \"line %09d\\n\", n }'"
    if how == "call":
        job.add("a", encamp.call(_print_much, 200_000))
    else:
        slow = "; sleep 600" if how == "time limit" else ""
        job.add("a", encamp.command(awk + slow, shell=True), time_limit=2 if slow else None)
    job.add("short", "echo few words")
    report = job.run(slots=1, check=False)
    assert report["a"].state == ("failed" if how == "time limit" else "done")
    _checked(Path("out/job.job") / (report["a"].log or ""), 60 << 10, 3_000_000)
    assert report["a"].log_tail.endswith("line 000199999\n")
    assert (Path("out/job.job") / (report["short"].log or "")).read_bytes() == b"few words\n"


def test_endless_output_does_not_fill_disk(here: Path, local_storage_base: Path) -> None:
    """The file's size grows, what it takes of the disk does not."""
    line = 'head -c 200000000 /dev/zero; until test -e "$GO"; do sleep 0.05; done'
    command = encamp.command(line, shell=True, env={"GO": str(here / "go")})
    job = encamp.Job("job", to="out", log_limit=100_000)
    job.add("a", command)
    seen: list[int] = []

    def look() -> bool:
        logs = list(local_storage_base.glob("encamp-*/sandboxes/*/log"))
        facts = [log.stat() for log in logs]
        seen.extend(fact.st_blocks * 512 for fact in facts if fact.st_size == 200_000_000)
        return bool(seen) and seen[-1] < 1_000_000

    def let_go() -> None:
        try:
            until(look)
        finally:
            (here / "go").touch()

    watching = threading.Thread(target=let_go)
    watching.start()
    report = job.run(slots=1)
    watching.join()
    assert seen[-1] < 1_000_000
    assert report["a"].state == "done"
    assert (here / "out/job.job/logs/a.1.log").stat().st_size < 100_500


def test_only_the_middle_of_a_file_is_given_back(tmp_path: Path) -> None:
    file = tmp_path / "log"
    data = b"".join(_lines(200_000))
    file.write_bytes(data)
    free_middle_of(file, 200_000)
    assert file.stat().st_size == len(data)
    assert file.stat().st_blocks * 512 < 500_000
    kept = file.read_bytes()
    assert kept[:100_000] == data[:100_000]
    assert kept[-100_000:] == data[-100_000:]
    with file.open("ab") as more:
        more.write(b"more")
    cut(file, 200_000, "raise log_limit = 200000 bytes to keep more")
    assert len(file.read_bytes()) < 200_200
    assert file.read_bytes().endswith(data[-99_996:] + b"more")
    small = tmp_path / "small"
    small.write_bytes(b"x" * 200_000)
    cut(small, 200_000, "")
    free_middle_of(small, 200_000)
    free_middle_of(tmp_path / "none", 10)
    assert small.read_bytes() == b"x" * 200_000


@pytest.mark.parametrize("most", range(200, 206))
def test_no_character_of_a_log_is_cut_apart(most: int, tmp_path: Path) -> None:
    file = tmp_path / "log"
    text = "é€😀" * 100
    file.write_text(text)
    cut(file, most, "hint")
    head, mark, tail = file.read_text().split("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    left_out = 900 - len(head.encode()) - len(tail.encode())
    assert mark == f"[encamp: {left_out} of 900 bytes are left out here; hint]"
    assert most - 6 <= len((head + tail).encode()) <= most


def test_the_bound_of_logs_can_be_set_in_each_way(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encamp.Job("job", to="out").log_limit == 8 << 20
    monkeypatch.setenv(LOG_LIMIT, "2 MiB")
    assert encamp.Job("job", to="out").log_limit == 2 << 20
    assert encamp.Job("job", to="out", log_limit=5000).log_limit == 5000
    text = '[[task]]\nname = "a"\nsteps = "true"\n'
    (here / "job.toml").write_text(f'log_limit = "3 MiB"\n{text}')
    assert load_job(here / "job.toml").log_limit == 3 << 20
    (here / "job.toml").write_text(f"log_limit = 10\n{text}")
    with pytest.raises(BadJobFile, match="must be a size of 1024 bytes or more"):
        load_job(here / "job.toml")
    for wrong in ("much", 0, True, 1.5, "1"):
        with pytest.raises(BadJob, match="must be a size of 1024 bytes or more"):
            encamp.Job("job", to="out", log_limit=wrong)  # type: ignore[arg-type]
    monkeypatch.setenv(LOG_LIMIT, "much")
    with pytest.raises(BadJob, match=LOG_LIMIT):
        encamp.Job("job", to="out")
