"""Files are flushed one by one or with their whole disk; errors name those that cannot be."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from encamp.storage.disk import flush


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was flushed: "disk", or the names of files; all of it really is."""
    received: list[str] = []
    one_by_one, whole = flush._one_by_one, flush._flushed_whole

    def files(paths: list[Path]) -> dict[Path, OSError]:
        received.extend(path.name for path in paths)
        return one_by_one(paths)

    def disk(device: int, file: Path) -> bool:
        received.append("disk")
        return whole(device, file)

    monkeypatch.setattr(flush, "_one_by_one", files)
    monkeypatch.setattr(flush, "_flushed_whole", disk)
    return received


def made(folder: Path, count: int) -> list[Path]:
    paths = [folder / str(number) for number in range(count)]
    for path in paths:
        path.write_text("text")
    return paths


def test_few_files_are_flushed_one_by_one(tmp_path: Path, calls: list[str]) -> None:
    assert flush.flush_files(made(tmp_path, 3)) == {}
    assert calls == ["0", "1", "2"]


def test_many_files_are_flushed_with_their_disk(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "_kilobytes_waiting", lambda: 0)
    assert flush.flush_files(made(tmp_path, 20)) == {}
    assert calls == ["disk"]


def test_a_disk_with_much_else_to_write_is_left_alone(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "_kilobytes_waiting", lambda: 1 << 30)
    assert flush.flush_files(made(tmp_path, 20)) == {}
    assert calls == ["disk", *map(str, range(20))]


def test_missing_files_are_named_and_others_flushed(tmp_path: Path, calls: list[str]) -> None:
    paths = made(tmp_path, 2)
    gone = tmp_path / "gone"
    failed = flush.flush_files([gone, *paths])
    assert list(failed) == [gone]
    assert isinstance(failed[gone], FileNotFoundError)
    assert calls == ["0", "1"]


@pytest.mark.parametrize(("count", "together"), [(3, False), (4, True)])
def test_from_four_files_on_their_disk_is_flushed(
    count: int, together: bool, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "_kilobytes_waiting", lambda: 0)
    flush.flush_files(made(tmp_path, count))
    assert calls == (["disk"] if together else list(map(str, range(count))))


class RefusingLibrary:
    """A C library whose syncfs fails."""

    def __init__(self, _: None) -> None:
        pass

    def syncfs(self, _: int) -> int:
        return -1


def test_files_of_a_disk_that_could_not_be_flushed_are_flushed_one_by_one(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them has failed is known only so."""
    monkeypatch.setattr(flush, "_kilobytes_waiting", lambda: 0)
    monkeypatch.setattr(flush.ctypes, "CDLL", RefusingLibrary)
    assert flush.flush_files(made(tmp_path, 4)) == {}
    assert calls == ["disk", "0", "1", "2", "3"]


def test_all_files_are_flushed_though_some_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    def flush_one(_: int, path: Path) -> None:
        if path.name == "0":
            raise OSError(errno.EIO, "input/output error")
        flushed.append(path.name)

    monkeypatch.setattr(flush, "flushed", flush_one)
    (bad, *_) = paths = made(tmp_path, 3)
    failed = flush.flush_files(paths)
    assert [(path, exc.errno) for path, exc in failed.items()] == [(bad, errno.EIO)]
    assert flushed == ["1", "2"]


def test_kernel_dirty_bytes_are_read() -> None:
    assert 0 <= flush._kilobytes_waiting() < 1 << 40
