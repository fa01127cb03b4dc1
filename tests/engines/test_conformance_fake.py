"""The network in memory, of three hosts, does what every engine must."""

from __future__ import annotations

from typing import Any

import pytest
from class_wide import ClassWide

from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import ClusterOf, Conformance, Facts, LosesHosts
from encamp.testing.fake import FakeEngine


class TestFake(ClassWide, Conformance, LosesHosts):
    facts = Facts(engine="fake", hosts=3)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        def make(slots: int, **options: Any) -> Cluster:
            spread = [2, *[1] * (slots - 2)] if slots > 2 else [1] * slots
            return Cluster(FakeEngine(slots=spread), **options)

        return make

    def kill_host(self, cluster: Cluster, host: str) -> None:
        engine = cluster._engine
        assert isinstance(engine, FakeEngine)
        engine.kill_host(host)
