"""A cluster without references ends when its tasks have ended, and leaves nothing behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import ClusterClosed
from encamp.executor.executor import Executor
from encamp.testing import work
from encamp.testing.waiting import until

SOON = 20.0
KINDS = [False, "threads"]


def there() -> tuple[int, int, list[str]]:
    """Child processes, descriptors and threads."""
    me = psutil.Process()
    threads = [thread.name for thread in threading.enumerate()]
    return len(me.children(recursive=True)), me.num_fds(), sorted(threads)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """What was not there before the test goes away by itself."""
    gc.collect()
    before = there()
    yield
    gc.collect()
    until(lambda: there() == before)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("inline", KINDS)
def test_dropped_cluster_finishes_tasks_and_ends(inline: Any) -> None:
    cluster = Cluster(slots=2, inline=inline)
    first = cluster.spawn(work.gated, work.add, 1)
    waiting = cluster.spawn_many(work.interval, [(0.05,)] * 6)
    assert work_is_ready(cluster)
    cluster.send(first, "go")
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del cluster
        gc.collect()  # an error that was handled on the way may have it in a circle
    assert first.result(SOON) == 2
    assert all(task.result(SOON) for task in waiting)


def work_is_ready(cluster: Cluster) -> bool:
    while (got := cluster.receive(SOON)) is not None and got.message != "ready":
        pass
    return got is not None


@pytest.mark.usefixtures("nothing_left")
def test_idle_cluster_in_reference_cycle_ends() -> None:
    class OwningAgent:
        cluster: Cluster
        me: OwningAgent

    holder = OwningAgent()
    holder.cluster, holder.me = Cluster(slots=1), holder
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del holder
        gc.collect()


@pytest.mark.usefixtures("nothing_left")
def test_cluster_left_open_by_exception_ends() -> None:
    def breaks() -> None:
        cluster = Cluster(slots=1)
        cluster.spawn(work.add, 1).result(SOON)
        raise LookupError("no bread")

    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        with pytest.raises(LookupError) as caught:
            breaks()
        del caught
        gc.collect()


@pytest.mark.usefixtures("nothing_left")
def test_a_generator_that_is_dropped_closes_its_cluster() -> None:
    def numbers() -> Iterator[int]:
        with Cluster(slots=1) as cluster:
            yield cluster.spawn(work.add, 1).result(SOON)

    generator = numbers()
    assert next(generator) == 2
    del generator


@pytest.mark.usefixtures("nothing_left")
def test_dropped_executor_finishes_calls_and_ends() -> None:
    executor = Executor(slots=1)
    futures = [executor.submit(work.add, number) for number in range(3)]
    del executor
    assert [future.result(SOON) for future in futures] == [1, 2, 3]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("close", [lambda c: c.close(), lambda c: c.close(cancel=True)])
def test_closed_cluster_gives_no_warning(close: Callable[[Cluster], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster = Cluster(slots=1)
        close(cluster)
        with pytest.raises(ClusterClosed):
            cluster.spawn(work.add, 1)
        del cluster
        gc.collect()


def test_a_program_that_ends_with_a_dropped_cluster_leaves_nothing() -> None:
    code = (
        "import time, encamp\n"
        "cluster = encamp.Cluster(slots=1)\n"
        "task = cluster.spawn(time.sleep, 600)\n"
        "while not task.running(): cluster.receive(0.01)\n"
        "del cluster\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0
