"""The engine ``ipyparallel`` does what every engine must, with four engines of one slot.

It does so as well where the program and the engines reach the controller only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from by_relay import ByRelay, only_by_relay
from class_wide import ClassWide

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.ipyparallel.engine import IPythonEngine
from encamp.testing.conformance import ClusterOf, Conformance, Facts, LosesController
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


class TestIPyparallelByController(ByRelay):
    facts = Facts(engine="ipyparallel", idle_cpu=0.1)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, engines: SomeEngines) -> Iterator[ClusterOf]:
        with only_by_relay(IPythonEngine, engine="ipyparallel", **engines.options) as make:
            yield make
