"""Hosts and slots, spawned calls and their results."""

# ruff: noqa: S101

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import TaskExit, TaskResult
from encamp.errors import BadJob, CannotTravel, NoSuchHost, UnknownOption
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    ClusterOf,
    gates,
    next_message,
    on_every_slot,
    results,
)
from encamp.testing.waiting import until


class Running(Bound):
    """Spawn, spread, results, errors, events."""

    def test_hosts_have_names_and_slots_that_add_up(self, cluster: Cluster) -> None:
        hosts = cluster.hosts()
        assert len(hosts) == self.facts.hosts
        assert len({host.name for host in hosts}) == len(hosts)
        assert sum(host.slots for host in hosts) == cluster.slots == self.SLOTS
        assert cluster.free_slots == cluster.slots
        free = cluster.hosts_with_free_slots()
        assert free == {host.name: host.slots for host in hosts}
        assert list(free.values()) == sorted(free.values(), reverse=True)
        assert all(host.cores > 0 and host.memory > 0 for host in hosts)

    def test_a_call_gives_its_result(self, cluster: Cluster) -> None:
        assert cluster.spawn(work.add, 2, 3).result(PATIENCE) == 5
        assert cluster.spawn(work.add, 2, kwargs={"b": 40}).result(PATIENCE) == 42
        assert cluster.spawn(work.add, kwargs={"a": 1}).result(PATIENCE) == 2

    @pytest.mark.parametrize("value", [None, 0, "", {"a": [1, (2, b"3")]}, b"x" * (3 << 20)])
    def test_values_of_all_kinds_come_back(self, cluster: Cluster, value: Any) -> None:
        assert cluster.spawn(work.same, value).result(PATIENCE) == value

    def test_each_of_many_calls_gives_its_own_result(self, cluster: Cluster) -> None:
        tasks = cluster.spawn_many(work.add, [(number, number) for number in range(300)])
        assert results(tasks) == [2 * number for number in range(300)]
        assert len({task.id for task in tasks}) == 300
        assert all(task.id > 0 for task in tasks)

    def test_a_task_knows_who_and_where_it_is(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.whoami, name="my task")
        number, host, slot, parent, name = task.result(PATIENCE)
        assert (number, parent, name) == (task.id, 0, "my task")
        assert (host, slot) == (task.host, task.slot)
        assert host in [host.name for host in cluster.hosts()]

    def test_outside_a_task_there_is_no_current_one(self) -> None:
        with pytest.raises(RuntimeError):
            work.whoami()

    def test_tasks_are_spread_evenly_one_to_a_slot(self, cluster: Cluster) -> None:
        with gates(cluster, cluster.slots, work.host_and_pid) as tasks:
            assert cluster.free_slots == 0
            assert not cluster.hosts_with_free_slots()
        count = Counter(task.host for task in tasks)
        assert count == {host.name: host.slots for host in cluster.hosts()}
        assert len(set(results(tasks))) == cluster.slots

    def test_the_host_with_most_free_slots_comes_first(self, cluster: Cluster) -> None:
        for busy in cluster.hosts():
            with gates(cluster, 1, work.pid, on=busy):
                count = len(cluster.hosts())
                with gates(cluster, count - 1, work.pid) as others:
                    assert busy.name not in [task.host for task in others]
            until(lambda: cluster.free_slots == cluster.slots)

    def test_tasks_go_to_the_hosts_they_are_told_to(self, cluster: Cluster) -> None:
        hosts = cluster.hosts()
        for host in hosts:
            for way in (host, host.name, [host.name], [host]):
                task = cluster.spawn(work.whoami, on=way)
                assert task.result(PATIENCE)[1] == task.host == host.name
        tasks = cluster.spawn_many(work.whoami, [()] * 20, on=[host.name for host in hosts])
        assert {task.host for task in tasks if task.result(PATIENCE)} <= {h.name for h in hosts}

    def test_more_tasks_for_one_host_than_it_has_slots_wait_for_it(self, cluster: Cluster) -> None:
        host = cluster.hosts()[-1].name
        tasks = cluster.spawn_many(work.whoami, [()] * 20, on=host)
        assert {result[1] for result in results(tasks)} == {host}

    def test_an_unknown_host_is_named_at_once(self, cluster: Cluster) -> None:
        with pytest.raises(NoSuchHost, match="nowhere"):
            cluster.spawn(work.pid, on="nowhere")

    def test_functions_without_a_name_travel_by_value(self, cluster: Cluster) -> None:
        factor = 3

        def inner(number: int) -> int:
            return number * factor

        assert cluster.spawn(lambda: 7).result(PATIENCE) == 7
        assert cluster.spawn(inner, 5).result(PATIENCE) == 15
        factor = 4
        assert cluster.spawn(inner, 5).result(PATIENCE) == 20

    def test_two_functions_of_one_name_are_not_mixed_up(self, cluster: Cluster) -> None:
        functions = [eval(f"lambda: {number}") for number in range(50)]  # noqa: S307
        tasks = [cluster.spawn(function) for function in functions]
        assert results(tasks) == list(range(50))

    def test_functions_and_classes_of_a_script_travel(self, cluster: Cluster) -> None:
        script = ModuleType("__main__")
        code = (
            "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
            "    def sum(self): return self.a + self.b\n"
            "def pair(a, b): return Pair(a, b)\n"
            "class Mine(Exception): pass\n"
            "def fail(): raise Mine('so')\n"
        )
        exec(code, vars(script))  # noqa: S102
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "__main__", script)
            assert cluster.spawn(script.pair, 1, 2).result(PATIENCE).sum() == 3
            assert cluster.spawn(script.Pair(3, 4).sum).result(PATIENCE) == 7
            with pytest.raises(script.Mine, match="so"):
                cluster.spawn(script.fail).result(PATIENCE)

    def test_functions_of_modules_that_came_later_travel(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        on_every_slot(cluster, work.pid)
        name = f"came_later_{self.facts.engine}"
        code = "def inner(): return 'here'\ndef outer(): return inner()\n"
        (tmp_path / f"{name}.py").write_text(code)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(tmp_path))
            module = importlib.import_module(name)
            assert cluster.spawn(module.outer).result(PATIENCE) == "here"
            del sys.modules[name]

    def test_methods_partials_classes_and_builtins_can_be_called(self, cluster: Cluster) -> None:
        assert cluster.spawn(partial(work.add, b=5), 1).result(PATIENCE) == 6
        assert cluster.spawn("a,b".split, ",").result(PATIENCE) == ["a", "b"]
        assert cluster.spawn(complex, 1, 2).result(PATIENCE) == 1 + 2j
        assert cluster.spawn(max, [1, 9, 3]).result(PATIENCE) == 9

    def test_an_error_comes_back_as_itself_with_its_remote_traceback(
        self, cluster: Cluster
    ) -> None:
        task = cluster.spawn(work.raise_odd, 7, name="my task")
        with pytest.raises(work.Odd) as caught:
            task.result(PATIENCE)
        assert (caught.value.number, caught.value.hint) == (7, "look here")
        cause = str(caught.value.__cause__)
        for text in ("my task", str(task.host), "in raise_odd", "raise Odd(number"):
            assert text in cause
        assert isinstance(task.exception(PATIENCE), work.Odd)

    def test_an_error_comes_without_what_cannot_travel_of_it(self, cluster: Cluster) -> None:
        with pytest.raises(work.Closed, match="my words") as caught:
            cluster.spawn(work.raise_closed).result(PATIENCE)
        assert vars(caught.value) == {"number": 5}

    def test_what_cannot_be_sent_is_named(self, cluster: Cluster) -> None:
        with pytest.raises(CannotTravel, match="its result cannot be sent"):
            cluster.spawn(work.make_generator).result(PATIENCE)
        with gates(cluster, 1, work.pid) as (task,), pytest.raises(CannotTravel, match="message"):
            cluster.send(task, threading.Lock())

    def test_a_process_that_a_task_forks_gives_no_result_of_its_own(self, cluster: Cluster) -> None:
        tasks = cluster.spawn_many(work.fork_and_go_on, [()] * 20)
        assert results(tasks) == ["parent"] * 20
        assert cluster.spawn(work.fork_and_terminate).result(PATIENCE) == -signal.SIGTERM

    def test_options_that_there_are_not_are_refused(self, cluster: Cluster) -> None:
        for options, words in (
            ({"on": []}, "on: must be hosts"),
            ({"on": 3}, "on: must be hosts"),
            ({"mirror": 5}, "mirror: must be patterns"),
            ({"outputs": 4}, "outputs: must be patterns"),
        ):
            with pytest.raises(BadJob, match=words):
                cluster.spawn(work.pid, **options)
        with pytest.raises(
            UnknownOption, match=r"no option 'corse'; did you mean 'cores'\? The options are "
        ):
            cluster.spawn(work.pid, corse=2)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="a task or its id"):
            cluster.send("somebody", 1)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("name", "kind"), [("exit", SystemExit), ("interrupt", BaseException)])
    def test_what_ends_programs_ends_only_the_task(
        self, cluster: Cluster, name: str, kind: type[BaseException]
    ) -> None:
        before = set(on_every_slot(cluster, work.host_and_pid))
        task = cluster.spawn(work.raise_base, name)
        assert isinstance(task.exception(PATIENCE), kind)
        assert set(on_every_slot(cluster, work.host_and_pid)) == before

    def test_what_cannot_be_pickled_or_unpickled_fails_where_it_is(self, cluster: Cluster) -> None:
        import threading

        with pytest.raises(CannotTravel):
            cluster.spawn(work.same, threading.Lock()).result(PATIENCE)
        for task in (
            cluster.spawn(work.unpicklable),
            cluster.spawn(work.same, work.Trap()),
            cluster.spawn(work.trap),
        ):
            assert isinstance(task.exception(PATIENCE), Exception)
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2

    def test_the_standard_librarys_ways_to_wait_work(self, cluster: Cluster) -> None:
        tasks = cluster.spawn_many(work.add, [(number,) for number in range(20)])
        assert {task.result() for task in as_completed(tasks, PATIENCE)} == set(range(1, 21))
        slow = cluster.spawn(work.gated, work.pid)
        quick = cluster.spawn(work.add, 1)
        done, not_done = wait([slow, quick], PATIENCE, FIRST_COMPLETED)
        assert (done, not_done) == ({quick}, {slow})
        called: list[Any] = []
        slow.add_done_callback(called.append)
        with pytest.raises(TimeoutError):
            slow.result(0.05)
        assert next_message(cluster, slow) == "ready"
        cluster.send(slow, "go")
        slow.result(PATIENCE)
        until(lambda: called == [slow])

    def test_the_result_comes_before_the_exit_and_both_once(self, cluster: Cluster) -> None:
        good, bad = cluster.spawn(work.add, 1), cluster.spawn(work.raise_odd, 1)
        for task in (good, bad):
            first = cluster.receive(PATIENCE, source=task)
            second = cluster.receive(PATIENCE, source=task)
            assert first is not None
            assert second is not None
            assert isinstance(first.message, TaskResult)
            assert isinstance(second.message, TaskExit)
            assert first.source == second.source == task.id
            assert first.message.ok is (task is good)
            assert type(first.message.value) is (int if task is good else work.Odd)
        assert cluster.receive(0) is None

    def test_tasks_without_notice_report_no_events(self, cluster: Cluster) -> None:
        assert results(cluster.spawn_many(work.add, [(1,)] * 10, notify=False)) == [2] * 10
        assert cluster.receive(0.05) is None

    def test_thousands_of_queued_tasks_end_each_once(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        tasks = cluster.spawn_many(work.add, [(number,) for number in range(3000)], notify=False)
        assert [task.result(PATIENCE) for task in tasks] == list(range(1, 3001))

    def test_many_threads_may_spawn_at_once(self, cluster: Cluster) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(6) as pool:
                spawn = partial(cluster.spawn, work.add, notify=False)
                tasks = list(pool.map(spawn, range(1500)))
        finally:
            sys.setswitchinterval(interval)
        assert results(tasks) == list(range(1, 1501))
        assert len({task.id for task in tasks}) == 1500

    def test_queued_tasks_can_be_taken_back(self, cluster: Cluster) -> None:
        with gates(cluster, cluster.slots, work.pid) as running:
            queued = cluster.spawn_many(work.add, [(number,) for number in range(2000)])
            taken = [task for task in queued[::2] if task.cancel()]
            assert taken == queued[::2]
            assert not any(task.cancel() for task in running)
        assert all(task.cancelled() for task in taken)
        assert results(queued[1::2]) == [number + 1 for number in range(1, 2000, 2)]

    def test_the_table_names_hosts_and_tasks(self, cluster: Cluster) -> None:
        with gates(cluster, 1, work.pid, name="a task to be seen"):
            table = cluster.table()
        assert "a task to be seen" in table
        assert all(host.name in table for host in cluster.hosts())

    def test_waiting_can_be_awaited(self, cluster: Cluster) -> None:
        async def both() -> tuple[Any, Any, dict[str, int]]:
            task = cluster.spawn(work.echo, 1, notify=False)
            cluster.send(task, "hello")
            got = await cluster.areceive(PATIENCE, source=task)
            value = await asyncio.wait_for(task, PATIENCE)
            freed = await cluster.aclear_local_storage()
            return got and got.message, value, freed

        message, value, freed = asyncio.run(both())
        assert (message, value) == ("hello", 1)
        assert set(freed) == {host.name for host in cluster.hosts()}

    def test_an_awaited_task_lets_other_coroutines_run(self, cluster: Cluster) -> None:
        async def race() -> list[str]:
            order: list[str] = []
            slow = cluster.spawn(work.gated, work.pid, notify=False)

            async def other() -> None:
                await cluster.areceive(PATIENCE, source=slow)
                order.append("other")
                cluster.send(slow, "go")

            async def awaiting() -> None:
                await slow
                order.append("task")

            await asyncio.gather(awaiting(), other())
            return order

        assert asyncio.run(race()) == ["other", "task"]

    def test_tasks_begin_in_the_folder_that_the_cluster_was_given(
        self, cluster_of: ClusterOf, share: Path
    ) -> None:
        folder = share / "begin here"
        folder.mkdir()
        (folder / "this is it").touch()
        with cluster_of(1, startup_dir=folder) as cluster:
            for _ in range(2):
                _, names, _ = cluster.spawn(work.listing).result(PATIENCE)
                assert names == ["this is it"]
