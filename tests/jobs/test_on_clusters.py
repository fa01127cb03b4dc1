"""Jobs on a cluster of the user."""

from __future__ import annotations

import os
from pathlib import Path

import encamp
from encamp.testing.waiting import gone, until


def processes() -> dict[str, int]:
    """The step's process, and the one that supervises it."""
    return {"slot": os.getpid(), "supervisor": os.getppid()}


def test_slots_go_on_from_task_to_task_and_end_with_the_cluster(
    here: Path, no_slots_left: None
) -> None:
    job = encamp.Job("processes", to="results")
    for number in range(5):
        job.add(f"t{number}", processes)
    seen: list[tuple[int, int]] = []
    with encamp.Cluster("local", slots=1) as cluster:
        supervisor = cluster.spawn(os.getpid).result(20)
        for _ in range(2):
            rows = job.run(cluster, force=True).values()
            assert len(rows) == 5
            (pair,) = {(row["slot"], row["supervisor"]) for row in rows}
            seen.append(pair)
        assert cluster.spawn(os.getpid).result(20) == supervisor
        # Each run has a slot of its own, since code may have changed between them.
        assert seen[0][0] != seen[1][0]
        assert {of for _, of in seen} == {supervisor}
        until(lambda: gone(seen[0][0]))
    until(lambda: gone(seen[1][0]))


def test_leftover_processes_of_step_end_but_slot_stays(here: Path) -> None:
    job = encamp.Job("left", to="results")
    job.add("b", encamp.command("sleep 300 & echo $! > pid", shell=True), outputs="pid")
    job.add("c", processes, after="b")
    with encamp.Cluster("local", slots=1) as cluster:
        report = job.run(cluster)
        left = int(Path("results/pid").read_text())
        until(lambda: gone(left))
        assert report["c"].value["supervisor"] == cluster.spawn(os.getpid).result(20)


def test_a_cluster_that_is_closed_at_once_leaves_no_folder(
    here: Path, local_storage_base: Path
) -> None:
    job = encamp.Job("short", to="results")
    job.add("one", "true")
    with encamp.Cluster("local", slots=2) as cluster:
        job.run(cluster)
    assert list(local_storage_base.glob("encamp-*/sandboxes/*")) == []
