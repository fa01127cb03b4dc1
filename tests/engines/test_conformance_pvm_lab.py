"""The engine ``pvm`` does what every engine must, on three hosts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from lab_suite import OnLab

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import ClusterOf, Facts, LosesController
from encamp.testing.conformance.closing import Closing
from encamp.testing.conformance.files import Files
from encamp.testing.conformance.messages import Messages
from encamp.testing.conformance.running import Running


class PVMOnLab(OnLab):
    facts = Facts(engine="pvm", hosts=3)
    SPARE: ClassVar[int] = 0
    """Hosts of the lab that clusters do not begin with."""

    @classmethod
    def options(cls) -> dict[str, Any]:
        """How a cluster finds the lab's hosts."""
        used = cls.lab.hosts[: cls.HOSTS - cls.SPARE]
        hosts = [f"{host.name} ip={host.address}" for host in used]
        return {"machine": "own", "hosts": hosts, "address": cls.lab.address}

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls, a_lab: None) -> Iterator[ClusterOf]:
        need("pvm", shutil.which("pvmd") is not None)

        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("pvm", slots=slots, **{**cls.options(), **options})

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PVM_ALLOW_ROOT", "1")
            yield make

    @property
    def code(self) -> str:
        return f'Cluster("pvm", slots=2, **{self.options()!r})'


class TestPVMOnLab(PVMOnLab, Running, Messages, Files, Closing, LosesController):
    """Only what depends on the engine and its hosts: MPICH does all on hosts, PVM all on one."""
