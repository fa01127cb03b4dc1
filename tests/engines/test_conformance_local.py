"""The engine ``local`` does what every engine must."""

from __future__ import annotations

from typing import Any

import pytest
from class_wide import ClassWide

from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import (
    ClusterOf,
    Conformance,
    Facts,
    Inline,
    LosesController,
    SharingThreads,
)


class Local(ClassWide):
    facts = Facts(engine="local")
    code = 'Cluster("local", slots=2)'

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("local", slots=slots, **options)

        return make


class TestLocal(Local, Conformance, LosesController):
    pass


class TestLocalThreads(Local, Inline, SharingThreads):
    pass
