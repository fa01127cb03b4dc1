"""Files: mirrored into a task's folder, published, kept, sent to hosts, and removed."""

# ruff: noqa: S101

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import MissingOutput, NoMatch, TaskKilled, TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    gates,
    next_message,
    on_every_slot,
    results,
)


class Files(Bound):
    """Private folders of spawned functions."""

    def test_mirrored_files_are_in_the_tasks_own_folder(
        self, cluster: Cluster, share: Path
    ) -> None:
        (share / "in.txt").write_text("here")
        task = cluster.spawn(work.listing, mirror=str(share / "in.txt"))
        where, names, folder = task.result(PATIENCE)
        assert names == ["in.txt"]
        assert where == folder
        assert not self.path(task.host, where).exists()

    def test_a_file_outside_every_shared_root_is_shipped(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        content = os.urandom(3 << 20)
        (tmp_path / "far.bin").write_bytes(content)
        sent = {str(tmp_path / "far.bin"): "."}
        tasks = cluster.spawn_many(work.read, [("far.bin",)] * 6, mirror=sent)
        assert results(tasks) == [content] * 6

    def test_outputs_are_published_where_they_belong(
        self, cluster: Cluster, share: Path, tmp_path: Path
    ) -> None:
        (share / "word.txt").write_text("word")
        for to in (share / "results", tmp_path / "results"):
            task = cluster.spawn(
                work.upper,
                "word.txt",
                "loud.txt",
                mirror=str(share / "word.txt"),
                outputs="*oud.txt",
                to=to,
            )
            assert task.result(PATIENCE) is None
            assert _published(to) == ["loud.txt"]
            assert (to / "loud.txt").read_text() == "WORD"

    def test_a_task_that_fails_publishes_nothing(self, cluster: Cluster, share: Path) -> None:
        to = share / "nothing"
        with pytest.raises(MissingOutput):
            cluster.spawn(work.write, "a.txt", "x", outputs="b.txt", to=to).result(PATIENCE)
        crashed = cluster.spawn(work.shout_and_die, "x", outputs="?", to=to)
        assert crashed.exception(PATIENCE) is not None
        assert not to.exists() or _published(to) == []

    @pytest.mark.parametrize("how", ["kill", "segv", "exit", "wait"])
    def test_files_of_a_task_whose_process_is_killed_are_published(
        self, cluster: Cluster, share: Path, tmp_path: Path, how: str
    ) -> None:
        for to in (share / f"rescued after {how}", tmp_path / "rescued"):
            task = cluster.spawn(work.write_and_end, "a.log", "x", how, on_failure="*.log", to=to)
            if how == "wait":
                next_message(cluster, task)
                task.kill()
            error = task.exception(PATIENCE)
            assert isinstance(error, TaskKilled if how == "wait" else TaskLost)
            assert _published(to) == ["a.log"]
            assert (to / "a.log").read_text() == "x"

    def test_a_pattern_without_a_match_is_told_by_name(self, cluster: Cluster, share: Path) -> None:
        with pytest.raises(NoMatch, match="nowhere"):
            cluster.spawn(work.pid, mirror=str(share / "nowhere.txt")).result(PATIENCE)

    def test_a_persistent_folder_is_used_again_by_the_slots_next_task(
        self, cluster: Cluster, share: Path
    ) -> None:
        (share / "kept.txt").write_text("here")
        options: dict[str, Any] = {"mirror": str(share / "kept.txt"), "persistent": True}
        seen: dict[str, list[str]] = {}
        for number in range(6):
            where, before = cluster.spawn(work.keep, f"file-{number}", **options).result(PATIENCE)
            assert before == sorted(["kept.txt", *seen.get(where, [])])
            seen.setdefault(where, []).append(f"file-{number}")
        assert len(seen) <= cluster.slots
        assert max(map(len, seen.values())) >= 2

    def test_tasks_at_once_have_folders_of_their_own(self, cluster: Cluster, share: Path) -> None:
        (share / "own.txt").write_text("x")
        options = {"mirror": str(share / "own.txt")}
        with gates(cluster, cluster.slots, work.keep, "mine", **options) as tasks:
            pass
        places = results(tasks)
        assert len({where for where, _ in places}) == cluster.slots
        assert all(before == ["own.txt"] for _, before in places)

    def test_clearing_the_local_storage_frees_the_cache_of_every_host(
        self, cluster: Cluster, share: Path
    ) -> None:
        (share / "big.bin").write_bytes(os.urandom(4 << 20))
        for host in cluster.hosts():
            cluster.spawn(work.read, "big.bin", mirror=str(share / "big.bin"), on=host).result(60)
        freed = cluster.clear_local_storage(timeout=PATIENCE)
        assert set(freed) == {host.name for host in cluster.hosts()}
        assert sum(freed.values()) >= 4 << 20
        assert sum(cluster.clear_local_storage().values()) == 0
        assert len(set(on_every_slot(cluster, work.host_and_pid))) == cluster.slots


def _published(folder: Path) -> list[str]:
    """The names in a destination, including temporary files but not beacons."""
    names = (path.name for path in folder.iterdir())
    return [name for name in names if not name.endswith("-beacon")]
