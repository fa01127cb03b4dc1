"""The engine ``dask`` does what every engine must: nannies, several threads a worker, and TLS.

It does so as well where the program and the workers reach the scheduler only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from by_relay import ByRelay, only_by_relay
from class_wide import ClassWide

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.dask.engine import DaskEngine
from encamp.testing.conformance import ClusterOf, Conformance, Facts, LosesController
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


class TestDaskByScheduler(ByRelay):
    facts = Facts(engine="dask", idle_cpu=0.2)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, dask: SomeDask) -> Iterator[ClusterOf]:
        with only_by_relay(DaskEngine, engine="dask", **dask.options) as make:
            yield make
