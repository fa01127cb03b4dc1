"""The engine ``mpi`` does what every engine must, with both MPIs."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from class_wide import ClassWide

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.mpi.find_launcher import find_launcher
from encamp.errors import EngineUnavailable
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


class MPI(ClassWide):
    facts = Facts(engine="mpi", idle_cpu=0.03)
    mpi: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        try:
            find_launcher(mpi=cls.mpi)
        except EngineUnavailable:
            need(cls.mpi, False)

        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("mpi", slots=slots, mpi=cls.mpi, **options)

        return make


class TestMPICH(MPI, Running, Messages, Sharing, Closing, LosesController):
    """What goes through the MPI; with the rest of the suite it does it on hosts."""

    mpi = "mpich"
    code = 'Cluster("mpi", slots=2, mpi="mpich")'


class TestOpenMPI(MPI, Running, Messages, Sharing, Closing, LosesController):
    """What goes through the MPI: how tasks end and what they find is the same code with both."""

    mpi = "openmpi"
    code = 'Cluster("mpi", slots=2, mpi="openmpi")'


class TestMPICHInline(MPI, Inline, SharingInline):
    mpi = "mpich"


class TestOpenMPIInline(MPI, Inline, SharingInline):
    mpi = "openmpi"


class TestMPICHThreads(MPI, SharingThreads):
    mpi = "mpich"
