"""The tests of messages where the program and all agents reach only the server of their system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from class_wide import ClassWide

from encamp.cluster.cluster import Cluster
from encamp.engines.kit.mesh.engine import MeshEngine
from encamp.testing.conformance import ClusterOf
from encamp.testing.conformance.messages import MIB, Messages


class ByRelay(ClassWide, Messages):
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


@contextmanager
def only_by_relay(kind: type[MeshEngine], **given: Any) -> Iterator[ClusterOf]:
    """Makes clusters with the options ``given``, whose ends reach only the server."""

    def unreachable(*_: Any) -> Any:
        raise OSError("there is no route")

    def make(slots: int, **options: Any) -> Cluster:
        cluster = Cluster(slots=slots, **given, **options)
        assert {host.frames_by for host in cluster.hosts()} == {kind.tunnel}
        return cluster

    order = kind.order
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "order", lambda self, _: order(self, [("127.0.0.1", 1)]))
        patch.setattr(kind, "dial", unreachable)
        patch.setattr(kind, "relays", True)
        yield make
