"""The standard library's managers: objects in a process of their own, called by proxies."""

from __future__ import annotations

from multiprocessing.managers import BaseManager

from benchmarks.peers.calls import CALLS, CallRates, Counter, array_rate, per_second


class _Manager(BaseManager):
    """Has counters."""


_Manager.register("Counter", Counter)


def _main() -> None:
    with _Manager() as manager:
        proxy = manager.Counter()

        def one_by_one(count: int) -> None:
            for _ in range(count):
                proxy.add(1)

        CallRates(
            "multiprocessing.managers",
            calls_per_s=per_second(one_by_one, CALLS),
            array_mb_per_s=array_rate(proxy.same),
        ).show()


if __name__ == "__main__":
    _main()
