"""The engine ``dask`` does what every engine must: nannies, several threads a worker, and TLS.

It does so as well where the program and the workers reach the scheduler only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from class_wide import ClassWide

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.dask.engine import DaskEngine
from encamp.testing.conformance import ClusterOf, Conformance, Facts, LosesController
from encamp.testing.conformance.messages import MIB, Messages
from some_dask import SomeDask, some_dask


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SomeDask]:
    """Two workers of four threads."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        need("distributed", False)
    folder = tmp_path_factory.mktemp("dask")
    with some_dask(folder, n_workers=2, threads_per_worker=4, security=True) as found:
        yield found


class TestDask(ClassWide, Conformance, LosesController):
    facts = Facts(engine="dask", idle_cpu=0.1)  # Dask itself uses some
    dask: ClassVar[SomeDask]

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, dask: SomeDask) -> ClusterOf:
        cls.dask = dask

        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("dask", slots=slots, **dask.options, **options)

        return make

    @property
    def code(self) -> str:
        return f'Cluster("dask", slots=2, {self.dask.code})'


class ByScheduler(ClassWide):
    """Nobody reaches the program, it reaches the scheduler only, and agents do not reach agents."""

    facts = Facts(engine="dask", idle_cpu=0.2)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, dask: SomeDask) -> Iterator[ClusterOf]:
        def unreachable(*_: Any) -> Any:
            raise OSError("there is no route")

        def make(slots: int, **options: Any) -> Cluster:
            cluster = Cluster("dask", slots=slots, **dask.options, **options)
            assert {host.frames_by for host in cluster.hosts()} == {"Dask's scheduler"}
            return cluster

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DaskEngine, "_dial", lambda *_: (("127.0.0.1", 1),))
            patch.setattr(DaskEngine, "dial", unreachable)
            patch.setattr(DaskEngine, "relays", True)
            yield make


class TestDaskByScheduler(ByScheduler, Messages):
    """What is very large takes long that way: here it is ten megabytes at most."""

    test_very_many_arrays_in_one_message_come_as_they_went = None  # type: ignore[assignment]

    @pytest.mark.parametrize("size", [0, 4096, 10 * MIB])
    def test_bytes_of_any_size_come_as_they_went(self, cluster: Cluster, size: int) -> None:
        super().test_bytes_of_any_size_come_as_they_went(cluster, size)

    @pytest.mark.parametrize("size", [0, 1, MIB])
    def test_arrays_come_as_they_went_and_can_be_written_to(
        self, cluster: Cluster, size: int
    ) -> None:
        super().test_arrays_come_as_they_went_and_can_be_written_to(cluster, size)
