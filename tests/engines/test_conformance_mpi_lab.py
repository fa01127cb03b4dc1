"""The engine ``mpi`` does what every engine must, on three hosts, with both MPIs."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from lab_suite import OnLab

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.mpi.find_launcher import find_launcher
from encamp.errors import EngineUnavailable
from encamp.testing.conformance import ClusterOf, Conformance, Facts, LosesController
from encamp.testing.conformance.closing import Closing
from encamp.testing.conformance.files import Files
from encamp.testing.conformance.messages import Messages


class MPIOnLab(OnLab):
    facts = Facts(engine="mpi", hosts=3, idle_cpu=0.03)
    mpi: ClassVar[str]

    @classmethod
    def options(cls) -> dict[str, Any]:
        """How a cluster finds the lab's hosts."""
        names = [host.name for host in cls.lab.hosts]
        return {"mpi": cls.mpi, "hosts": names, "rsh_agent": cls.lab.ssh_command}

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, a_lab: None) -> ClusterOf:
        try:
            find_launcher(mpi=cls.mpi)
        except EngineUnavailable:
            need(cls.mpi, False)

        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("mpi", slots=slots, **cls.options(), **options)

        return make

    @property
    def code(self) -> str:
        return f'Cluster("mpi", slots=2, **{self.options()!r})'


class TestMPICHOnLab(MPIOnLab, Conformance, LosesController):
    mpi = "mpich"


class TestOpenMPIOnLab(MPIOnLab, Messages, Files, Closing, LosesController):
    """Only what depends on the MPI: the rest is the same code as with MPICH, and takes 40 s."""

    mpi = "openmpi"
