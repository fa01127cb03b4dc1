"""The engine ``pvm`` does what every engine must, with a virtual machine of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from class_wide import ClassWide

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import (
    ClusterOf,
    Conformance,
    Facts,
    Inline,
    LosesController,
    SharingInline,
    SharingThreads,
)


class PVM(ClassWide):
    facts = Facts(engine="pvm")
    code = 'Cluster("pvm", slots=2, machine="own")'

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> Iterator[ClusterOf]:
        need("pvm", shutil.which("pvmd") is not None)

        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("pvm", slots=slots, machine="own", **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PVM_ALLOW_ROOT", "1")
            yield make


class TestPVM(PVM, Conformance, LosesController):
    pass


class TestPVMInline(PVM, Inline, SharingInline):
    pass


class TestPVMThreads(PVM, SharingThreads):
    pass
