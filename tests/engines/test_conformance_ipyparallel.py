"""The engine ``ipyparallel`` does what every engine must, with four engines of one slot.

It does so as well where the program and the engines reach the controller only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from class_wide import ClassWide

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.ipyparallel.engine import IPythonEngine
from encamp.testing.conformance import ClusterOf, Conformance, Facts, LosesController
from encamp.testing.conformance.messages import MIB, Messages
from some_ipyparallel import SomeEngines, some_engines


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SomeEngines]:
    """A controller and four engines."""
    try:
        import ipyparallel  # noqa: F401
    except ImportError:
        need("ipyparallel", False)
    with some_engines(tmp_path_factory.mktemp("ipyparallel"), 4) as found:
        yield found


class TestIPyparallel(ClassWide, Conformance, LosesController):
    facts = Facts(engine="ipyparallel", idle_cpu=0.1)  # its own processes use some
    engines: ClassVar[SomeEngines]

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, engines: SomeEngines) -> ClusterOf:
        cls.engines = engines

        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("ipyparallel", slots=slots, **engines.options, **options)

        return make

    @property
    def code(self) -> str:
        return f'Cluster("ipyparallel", slots=2, **{self.engines.options!r})'


class ByController(ClassWide):
    """Nobody reaches the program, it reaches no agent, and agents do not reach each other."""

    facts = Facts(engine="ipyparallel", idle_cpu=0.1)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, engines: SomeEngines) -> Iterator[ClusterOf]:
        def unreachable(*_: Any) -> Any:
            raise OSError("there is no route")

        def make(slots: int, **options: Any) -> Cluster:
            cluster = Cluster("ipyparallel", slots=slots, **engines.options, **options)
            assert {host.frames_by for host in cluster.hosts()} == {"ipyparallel's controller"}
            return cluster

        order = IPythonEngine.order
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(IPythonEngine, "order", lambda self, _: order(self, [("127.0.0.1", 1)]))
            patch.setattr(IPythonEngine, "dial", unreachable)
            patch.setattr(IPythonEngine, "relays", True)
            yield make


class TestIPyparallelByController(ByController, Messages):
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
