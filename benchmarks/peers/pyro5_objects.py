"""Pyro5: an object in a daemon of another process, called by a proxy; ahead by a batch."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import Pyro5.api

from benchmarks.peers.calls import AHEAD, CALLS, CallRates, Counter, per_second


def _serve(told: Connection) -> None:
    with Pyro5.api.Daemon() as daemon:
        told.send(str(daemon.register(Pyro5.api.expose(Counter)())))
        daemon.requestLoop()


def _one_by_one(proxy: Pyro5.api.Proxy, count: int) -> None:
    for _ in range(count):
        proxy.add(1)


def _ahead(proxy: Pyro5.api.Proxy, count: int) -> None:
    batch = Pyro5.api.BatchProxy(proxy)
    for _ in range(count):
        batch.add(1)
    for _ in batch():
        pass


def _main() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    with Pyro5.api.Proxy(here.recv()) as proxy:
        CallRates(
            "Pyro5",
            calls_per_s=per_second(lambda count: _one_by_one(proxy, count), CALLS),
            ahead_per_s=per_second(lambda count: _ahead(proxy, count), AHEAD),
        ).show()
    server.terminate()


if __name__ == "__main__":
    _main()
