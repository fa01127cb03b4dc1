"""What tasks print: whole characters while it is followed, and a bound on what is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, TaskLost
from encamp.slot.output_limit import ends_of
from encamp.slot.slot import current_task
from encamp.testing.waiting import until

SOON = 30.0


@pytest.fixture
def followed(local_storage_base: Path, no_slots_left: None) -> Iterator[tuple[Cluster, list[str]]]:
    said: list[str] = []
    with Cluster("local", slots=1, follow=lambda _, text: said.append(text)) as cluster:
        yield cluster, said


def print_in_parts(text: bytes) -> None:
    for at in range(len(text)):
        os.write(1, text[at : at + 1])
        current_task().receive()


def test_characters_that_come_in_parts_are_followed_whole(
    followed: tuple[Cluster, list[str]],
) -> None:
    cluster, said = followed
    task = cluster.spawn(print_in_parts, "aä€😀.".encode())
    for text in ("a", "a", "aä"):  # after one, two and three bytes
        until(lambda text=text: "".join(said) == text)  # type: ignore[misc]
        cluster.send(task, None)
    for _ in range(20):
        cluster.send(task, None)
    task.result(SOON)
    until(lambda: "".join(said) == "aä€😀.")
    assert task.output == "aä€😀."


def flood(count: int, path: Path) -> int:
    line = b"x" * 99 + b"\n"
    for _ in range(count):
        os.write(1, line * 10_000)
    until(lambda: os.fstat(1).st_blocks * 512 < 4 << 20)  # the disk has got it back
    path.touch()
    return os.fstat(1).st_size


def test_what_is_not_kept_takes_no_room(local_storage_base: Path, tmp_path: Path) -> None:
    with Cluster("local", slots=1, output_limit="64 KiB") as cluster:
        task = cluster.spawn(flood, 20, tmp_path / "done")
        assert task.result(SOON) == 20_000_000
        assert (tmp_path / "done").exists()
        assert len(task.output) < 66_000
        assert "of 20000000 bytes are left out here; Cluster(output_limit=" in task.output
        small = cluster.spawn(print, "next")
        small.result(SOON)
        assert small.output == "next\n"
        lost = cluster.spawn(flood_and_die)
        assert isinstance(lost.exception(SOON), TaskLost)
        assert lost.output.endswith("the end\n")
        assert "left out" in lost.output


def flood_and_die() -> None:
    os.write(1, b"x" * 100_000 + b"\nthe end\n")
    os._exit(3)


@pytest.mark.parametrize("limit", [0, "much", 1.5, True])
def test_a_bound_is_a_size(limit: object) -> None:
    with pytest.raises(BadJob, match="output_limit"):
        Cluster("local", slots=1, output_limit=limit)  # type: ignore[arg-type]


def test_no_character_is_cut_apart(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for char in "aä€😀":
        path.write_text(char * 1000)
        with path.open("rb") as file:
            for most in range(100, 110):
                head, tail = ends_of(file.fileno(), most, "hint")
                text = (head + tail).decode()
                assert text.strip(char).startswith("\n[encamp: ")
                assert len(tail) >= most // 2 - 3
