"""The output of tasks: complete characters while it is followed, and a limit on its size."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.task_output import TaskOutputs
from encamp.errors import BadJob, TaskLost
from encamp.slot.current_task import current_task
from encamp.slot.output_limit import ends_of
from encamp.slot.redirect_output import output_to
from encamp.testing.waiting import until
from encamp.wire.protocol import OutputText

SOON = 30.0


@pytest.fixture
def followed(local_storage_base: Path, no_slots_left: None) -> Iterator[tuple[Cluster, list[str]]]:
    received: list[str] = []
    with Cluster("local", slots=1, follow=lambda _, text: received.append(text)) as cluster:
        yield cluster, received


def print_in_parts(text: bytes) -> None:
    for at in range(len(text)):
        os.write(1, text[at : at + 1])
        current_task().receive()


def print_and_wait(text: str, sign: Path) -> None:
    os.write(1, text.encode())
    until(sign.exists)


def test_each_task_is_followed_from_its_first_character_on(
    followed: tuple[Cluster, list[str]], tmp_path: Path
) -> None:
    """Also one that prints less than the task before."""
    cluster, output = followed
    for text in ("aaaaaaaaaa", "b", "cc"):
        task = cluster.spawn(print_and_wait, text, tmp_path / text)
        until(lambda wanted=text: "".join(output).endswith(wanted))
        (tmp_path / text).touch()
        task.result(SOON)
    assert "".join(output) == "aaaaaaaaaabcc"


def test_split_characters_are_followed_whole(
    followed: tuple[Cluster, list[str]],
) -> None:
    cluster, output = followed
    task = cluster.spawn(print_in_parts, "aä€😀.".encode())
    for text in ("a", "a", "aä"):  # after one, two and three bytes
        until(lambda text=text: "".join(output) == text)  # type: ignore[misc]
        cluster.send(task, None)
    for _ in range(20):
        cluster.send(task, None)
    task.result(SOON)
    until(lambda: "".join(output) == "aä€😀.")
    assert task.output == "aä€😀."


def redirect_output() -> None:
    nowhere = os.open("/dev/null", os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)


def test_a_task_that_redirects_its_output_leaves_that_of_the_next_where_it_was(
    followed: tuple[Cluster, list[str]],
) -> None:
    cluster, _ = followed
    cluster.spawn(redirect_output).result(SOON)
    later = cluster.spawn(os.system, "echo first; echo second >&2")
    later.result(SOON)
    assert later.output == "first\nsecond\n"


def test_output_that_was_redirected_for_a_while_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with output_to(tmp_path / "log"):
        os.system("echo one; echo two >&2")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert len(os.listdir("/proc/self/fd")) == len(before)


def flood(count: int, path: Path) -> int:
    line = b"x" * 99 + b"\n"
    for _ in range(count):
        os.write(1, line * 10_000)
    until(lambda: os.fstat(1).st_blocks * 512 < 4 << 20)  # the disk has got it back
    path.touch()
    return os.fstat(1).st_size


def test_dropped_output_uses_no_disk_space(local_storage_base: Path, tmp_path: Path) -> None:
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


def _wakes(slot: int) -> dict[str, str]:
    """How often each thread of a process has gone to sleep, and whether one runs."""
    tasks = Path(f"/proc/{slot}/task").iterdir()
    return {task.name: (task / "status").read_text().split("voluntary")[1] for task in tasks}


def _sleeps(slot: int) -> bool:
    before = _wakes(slot)
    time.sleep(0.5)  # longer than the pause between two checks of the output
    return before == _wakes(slot)


def test_idle_slot_does_not_wake_up_and_still_limits_output(
    followed: tuple[Cluster, list[str]], tmp_path: Path
) -> None:
    cluster, output = followed
    slot = cluster.spawn(os.getpid).result(SOON)
    until(lambda: _sleeps(slot))
    assert cluster.spawn(flood, 20, tmp_path / "done").result(SOON) == 20_000_000
    until(lambda: _sleeps(slot))
    cluster.spawn(print_and_wait, "again", tmp_path / "seen")
    until(lambda: "".join(output).endswith("again"))
    (tmp_path / "seen").touch()


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


def test_repeated_or_missing_output_is_followed_once_to_end() -> None:
    """Parts overlap if they cross, and what is not kept leaves gaps."""
    followed: list[str] = []
    heard: list[bytes] = []
    future, options = SimpleNamespace(output=""), SimpleNamespace(on_output=heard.append)
    task: Any = SimpleNamespace(id=7, options=options, future=future)
    outputs = TaskOutputs(lambda _, text: followed.append(text))
    for start, text in ((0, b"abc"), (2, b"cd"), (0, b"ab"), (6, b"0123456789"), (16, b"")):
        outputs.output_arrived(task, OutputText(0, 7, start, text, False))
    assert followed == ["abc", "d", "0123456789"]
    assert heard == [b"abc", b"d", b"0123456789"]
    assert future.output == "abcd0123456789"
    outputs.output_arrived(task, OutputText(0, 7, 14, b"89!", True, b"abcd[...]"))
    assert followed[3:] == ["!"]
    assert future.output == "abcd[...]89!"
    outputs.forget(task)
    assert outputs.outputs == {}


def test_end_of_running_output_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encamp.cluster.task_output._FOLLOWED", 5)
    task: Any = SimpleNamespace(
        id=7, options=SimpleNamespace(on_output=None), future=SimpleNamespace(output="")
    )
    outputs = TaskOutputs(lambda *_: None)
    for start, text in ((0, b"abcd"), (4, b"efgh")):
        outputs.output_arrived(task, OutputText(0, 7, start, text, False))
    assert task.future.output == "defgh"
