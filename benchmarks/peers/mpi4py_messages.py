"""Blocking send and recv between two ranks, for the peers that are communicators."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.launch import which_mpi
from benchmarks.peers.rates import Rates, messages


def measure(peer: str, comm: Any) -> None:
    """Rank 0 measures and prints; rank 1 sends back what it gets until that is None."""
    if comm.rank:
        while (message := comm.recv(source=0)) is not None:
            comm.send(message, 0)
        return

    def exchange(message: Any) -> Any:
        comm.send(message, 1)
        return comm.recv(source=1)

    Rates(peer, which_mpi(), **messages(exchange)).show()
    comm.send(None, 1)
