"""The suite of services on every engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from class_wide import ClassWide

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.mpi.find_launcher import find_launcher
from encamp.errors import EngineUnavailable
from encamp.testing.conformance import ClusterOf, Facts, Services
from encamp.testing.fake import FakeEngine
from some_dask import some_dask
from some_ipyparallel import some_engines


class TestLocal(ClassWide, Services):
    facts = Facts(engine="local")
    CHAOS = 20

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        return lambda slots, **options: Cluster("local", slots=slots, **options)


class TestFake(ClassWide, Services):
    facts = Facts(engine="fake", hosts=3)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        def make(slots: int, **options: Any) -> Cluster:
            spread = [2, *[1] * (slots - 2)] if slots > 2 else [1] * slots
            return Cluster(FakeEngine(slots=spread), **options)

        return make


class TestMPI(ClassWide, Services):
    """With one of the MPIs: of both, the conformance suite looks at every kind of message."""

    facts = Facts(engine="mpi")
    mpi: ClassVar[str] = "mpich"

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        try:
            find_launcher(mpi=cls.mpi)
        except EngineUnavailable:
            need(cls.mpi, False)
        return lambda slots, **options: Cluster("mpi", slots=slots, mpi=cls.mpi, **options)


class TestPVM(ClassWide, Services):
    facts = Facts(engine="pvm")

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> Iterator[ClusterOf]:
        need("pvm", shutil.which("pvmd") is not None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PVM_ALLOW_ROOT", "1")
            yield lambda slots, **options: Cluster("pvm", slots=slots, machine="own", **options)


class TestDask(ClassWide, Services):
    facts = Facts(engine="dask")

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterOf]:
        try:
            import distributed  # noqa: F401
        except ImportError:
            need("distributed", False)
        folder = tmp_path_factory.mktemp("dask")
        with some_dask(folder, n_workers=2, threads_per_worker=4, security=True) as dask:
            yield lambda slots, **options: Cluster("dask", slots=slots, **dask.options, **options)


class TestIPyparallel(ClassWide, Services):
    facts = Facts(engine="ipyparallel")

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterOf]:
        try:
            import ipyparallel  # noqa: F401
        except ImportError:
            need("ipyparallel", False)
        with some_engines(tmp_path_factory.mktemp("ipyparallel"), 4) as engines:
            options = engines.options
            yield lambda slots, **more: Cluster("ipyparallel", slots=slots, **options, **more)
