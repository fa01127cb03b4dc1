"""A task's changes do not affect the next task; its output is its own and can be followed."""

# ruff: noqa: S101

from __future__ import annotations

import hashlib
import multiprocessing.connection

import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    ClusterOf,
    next_message,
    on_every_slot,
    results,
)
from encamp.testing.waiting import gone, until


class Isolation(Bound):
    """Harm that a task does, new interpreters, output."""

    @pytest.mark.parametrize(
        "what",
        [
            "folder", "environment", "import path", "streams", "signals", "thread", "process",
            "messages", "alarm", "limits",
        ],
    )  # fmt: skip
    def test_process_changes_do_not_reach_next_task(self, cluster: Cluster, what: str) -> None:
        before = dict(on_every_slot(cluster, work.state))
        assert set(on_every_slot(cluster, work.harm, what)) == set(before)
        assert dict(on_every_slot(cluster, work.state)) == before

    def test_tasks_know_the_programs_key_for_managers(self, cluster: Cluster) -> None:
        assert multiprocessing.connection  # by which the program has one
        key = hashlib.sha256(multiprocessing.current_process().authkey).hexdigest()
        for fresh in (False, True):
            assert cluster.spawn(work.digest_of_key, fresh=fresh).result(PATIENCE) == key

    def test_a_fresh_task_has_a_new_interpreter(self, cluster: Cluster) -> None:
        slots = set(on_every_slot(cluster, work.mark_modules))
        tasks = cluster.spawn_many(work.modules, [()] * 2 * cluster.slots, fresh=True)
        places = set()
        for task in tasks:
            place, left, _ = task.result(PATIENCE)
            assert place not in slots
            assert not left
            places.add(place)
        assert len(places) == len(tasks)
        until(lambda: all(gone(self.here(*place)) for place in places))

    def test_fresh_tasks_talk_fail_and_crash_as_others_do(self, cluster: Cluster) -> None:
        talking = cluster.spawn(work.echo, 3, fresh=True)
        for number in range(3):
            cluster.send(talking, number)
        assert [next_message(cluster, talking) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(work.Odd):
            cluster.spawn(work.raise_odd, 1, fresh=True).result(PATIENCE)
        with pytest.raises(TaskLost) as caught:
            cluster.spawn(work.die, "segv", fresh=True).result(PATIENCE)
        assert caught.value.exit_code == -11
        assert cluster.spawn(work.add, 1, fresh=True).result(PATIENCE) == 2

    def test_output_is_kept_task_by_task_from_wherever_it_is_printed(
        self, cluster: Cluster
    ) -> None:
        tasks = [cluster.spawn(work.shout, f"no-{number}") for number in range(10)]
        results(tasks)
        for number, task in enumerate(tasks):
            lines = sorted(task.output.splitlines())
            kinds = ("c", "command", "descriptor", "error", "python")
            assert lines == [f"{kind} no-{number}" for kind in kinds]
        assert cluster.spawn(work.pid).output == ""

    def test_output_of_a_crash_is_kept(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.shout_and_die, "last words")
        assert isinstance(task.exception(PATIENCE), TaskLost)
        assert "last words" in task.output

    def test_of_much_output_beginning_and_end_are_kept(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.shout_much, 3 << 20)
        task.result(PATIENCE)
        head, _, rest = task.output.partition("\n[encamp: ")
        mark, _, tail = rest.partition("]\n")
        assert mark.startswith(f"{2 << 20} of {3 << 20} bytes are left out here")
        assert head.startswith("0000000\n")
        assert tail.endswith(f"{(3 << 17) - 1:07d}\n")
        assert len(head + tail) == 1 << 20
        quiet = cluster.spawn(work.add, 1)
        assert (quiet.result(PATIENCE), quiet.output) == (2, "")

    def test_output_can_be_followed_while_the_task_runs(self, cluster_of: ClusterOf) -> None:
        with cluster_of(1, follow=True) as cluster:
            task = cluster.spawn(work.shout_and_wait, "hello")
            until(lambda: "hello" in task.output and "from below" in task.output)
            assert not task.done()
            cluster.send(task, "go")
            task.result(PATIENCE)
            assert task.output == "hello\nfrom below\nthe end\n"
