"""The bare mesh, whose agents are processes of this host, does what every engine must."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from class_wide import ClassWide

from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import (
    ClusterOf,
    Facts,
    Inline,
    LosesController,
    Sharing,
    SharingInline,
    SharingThreads,
)
from encamp.testing.conformance.closing import Closing
from encamp.testing.conformance.messages import Messages
from encamp.testing.conformance.running import Running


class Mesh(ClassWide):
    facts = Facts(engine="mesh")
    code = 'Cluster("mesh", slots=2)'
    relays: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("mesh", slots=slots, relays=cls.relays, **options)

        return make


class TestMesh(Mesh, Running, Messages, Sharing, Closing, LosesController):
    """What goes through the mesh; engines that are made of it do the rest of the suite."""


class TestMeshRelayed(Mesh, Messages):
    """Agents do not reach each other, so that the controller passes on what they send."""

    relays = True


class TestMeshInline(Mesh, Inline, SharingInline):
    pass


class TestMeshThreads(Mesh, SharingThreads):
    pass
