"""The base of the suite: the engine's facts, a shared cluster, and ways to wait."""

# ruff: noqa: S101

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostAdded, HostDeleted, TaskExit, TaskResult
from encamp.cluster.task import SpawnedTask
from encamp.errors import UnsupportedByEngine
from encamp.storage.local_storage import LOCAL
from encamp.storage.shared_folders import MIRRORED
from encamp.testing import work
from encamp.testing.waiting import gone, until

PATIENCE = 20.0
"""Seconds after which an expected event is assumed not to happen."""
EVENTS = (TaskResult, TaskExit, HostAdded, HostDeleted)


class ClusterOf(Protocol):
    """Makes a cluster of the engine with that many slots in total, and the cluster's options."""

    def __call__(self, slots: int, **options: Any) -> Cluster: ...


@dataclass(frozen=True)
class Facts:
    """Facts about the engine under test.

    ``hosts`` is how many hosts a cluster of four slots has. ``idle_cpu`` is the part of a core
    that each process of an idle cluster may use.
    """

    engine: str
    hosts: int = 1
    idle_cpu: float = 0.02


class Bound:
    """Base of the suite's classes, bound to one engine by ``facts`` and ``cluster_of``."""

    facts: ClassVar[Facts]
    SLOTS: ClassVar[int] = 4

    def here(self, host: str | None, pid: int) -> int:
        """The process id that a process of a host has here, 0 if it has ended.

        Override this, `path` and `storages` if hosts have their own process ids and files.
        """
        return pid

    def path(self, host: str | None, path: str) -> Path:
        """The path of a host's file as seen from here."""
        return Path(path)

    @classmethod
    def storages(cls) -> list[Path]:
        """The local storage of each host as seen from here."""
        return [Path(os.environ[LOCAL])]

    def pid_sent_by(self, cluster: Cluster, task: SpawnedTask) -> int:
        """The process id that a task reports, as seen from here."""
        pid = next_message(cluster, task)
        return self.here(task.host, pid)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        """To be given by the file that binds the suite."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def share(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """A folder that all hosts share; the class's tests use it and a new local storage."""
        shared = tmp_path_factory.mktemp("share")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MIRRORED, str(shared))
            base = tmp_path_factory.mktemp("local")
            patch.setenv(LOCAL, str(base))
            yield shared
            left = sandboxes(cls.storages())
        assert left == set(), f"left in the local storage: {left}"

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, cluster_of: ClusterOf, share: Path) -> Iterator[ReusedCluster]:  # noqa: ARG003
        """The cluster that the class's tests share."""
        kept = ReusedCluster(lambda: cluster_of(cls.SLOTS))
        yield kept
        kept.close()

    @pytest.fixture
    def cluster(self, kept: ReusedCluster) -> Iterator[Cluster]:
        """A cluster of four idle slots, whose queue of messages is empty."""
        yield kept.open()
        kept.tidy()

    @pytest.fixture
    def marks(self, share: Path, request: pytest.FixtureRequest) -> Path:
        """An empty folder that all hosts share, for `work.count_run`."""
        folder = share / f"marks of {request.node.name}"
        folder.mkdir()
        return folder

    @pytest.fixture
    def tidy(self, share: Path) -> Iterator[None]:
        """The test leaves no additional processes, threads, descriptors and sandboxes."""
        gc.collect()
        before, folders = _what_there_is(), sandboxes(self.storages())
        yield
        gc.collect()
        with suppress(AssertionError):
            until(lambda: _what_there_is() == before, 10)
        assert _what_there_is() == before
        assert sandboxes(self.storages()) <= folders  # the cluster of other tests may keep some


class ReusedCluster:
    """A cluster that is used again, unless a test leaves it with work that does not end."""

    def __init__(self, make: Callable[[], Cluster]) -> None:
        self._make = make
        self._cluster: Cluster | None = None

    def open(self) -> Cluster:
        """The cluster, with all of its slots free."""
        if self._cluster is None:
            self._cluster = self._make()
        until(lambda: self._cluster and self._cluster.free_slots == self._cluster.slots)
        return self._cluster

    def tidy(self) -> None:
        """End what a test left, and forget what was not received.

        Tasks in threads cannot be killed: those that are about to end have some time to do so.
        """
        cluster = self._cluster
        if cluster is None:
            return
        try:
            with suppress(UnsupportedByEngine):
                cluster.kill_all()
            until(lambda: cluster.free_slots == cluster.slots)
            while cluster.receive(0) is not None:
                pass
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """End the cluster."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close(cancel=True)


def next_message(cluster: Cluster, source: SpawnedTask | int | None = None) -> Any:
    """The next message that is not an event; fails if none arrives."""
    got = sender_and_message(cluster, source)
    return got[1]


def sender_and_message(
    cluster: Cluster, source: SpawnedTask | int | None = None
) -> tuple[int, Any]:
    """The sender of the next message that is not an event, and the message."""
    deadline = time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        got = cluster.receive(left, source=source)
        if got is not None and not isinstance(got.message, EVENTS):
            return got.source, got.message
    raise AssertionError("no message arrived")


def results(tasks: Sequence[SpawnedTask]) -> list[Any]:
    """The results of tasks."""
    return [task.result(PATIENCE) for task in tasks]


@contextmanager
def gates(cluster: Cluster, count: int, function: Any, *args: Any, **options: Any) -> Iterator[Any]:
    """Start ``count`` tasks, which wait until the block has ended; yields their list."""
    tasks = cluster.spawn_many(work.gated, [(function, *args)] * count, **options)
    for task in tasks:
        assert next_message(cluster, task) == "ready"
    yield tasks
    for task in tasks:
        cluster.send(task, "go")


def on_every_slot(cluster: Cluster, function: Any, *args: Any) -> list[Any]:
    """The results of the function in all slots."""
    with gates(cluster, cluster.slots, function, *args) as tasks:
        pass
    return results(tasks)


def _what_there_is() -> dict[str, Any]:
    me = psutil.Process()
    children = [child for child in me.children(recursive=True) if not gone(child.pid)]
    return {
        "processes": sorted(child.pid for child in children),
        "threads": sorted(t.name for t in threading.enumerate() if "pytest" not in t.name),
        "descriptors": sorted(_descriptors()),
    }


def sandboxes(storages: Iterable[Path]) -> set[Path]:
    """The folders of tasks in local storages."""
    return {path for base in storages for path in base.glob("encamp-*/sandboxes/*")}


def _descriptors() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            kind = os.readlink(f"/proc/self/fd/{number}").partition(":")[0]
            found.append(f"{number} {kind}")
    return found
