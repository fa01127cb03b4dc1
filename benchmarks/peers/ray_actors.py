"""Ray: actors on this host."""

from __future__ import annotations

import os

import ray

from benchmarks.peers.calls import (
    AHEAD,
    BROADCASTS,
    CALLS,
    EXCHANGES,
    MANY,
    CallRates,
    Counter,
    array_rate,
    microseconds,
    per_second,
)


def _main() -> None:
    os.environ["RAY_DEDUP_LOGS"] = "0"
    ray.init(
        num_cpus=MANY + 1, include_dashboard=False, log_to_driver=False, logging_level="error",
        object_store_memory=200 << 20,
    )  # fmt: skip
    kind = ray.remote(Counter)
    actors = [kind.options(num_cpus=1).remote() for _ in range(MANY)]
    actor = actors[0]

    def one_by_one(count: int) -> None:
        for _ in range(count):
            ray.get(actor.add.remote(1))

    def ahead(count: int) -> None:
        ray.get([actor.add.remote(1) for _ in range(count)])

    def rounds(count: int) -> None:
        for _ in range(count):
            ray.get([one.add.remote(rank) for rank, one in enumerate(actors)])
            ray.get([one.add.remote(1) for one in actors])

    ray.get([one.add.remote(1) for one in actors])
    CallRates(
        "Ray",
        calls_per_s=per_second(one_by_one, CALLS),
        ahead_per_s=per_second(ahead, AHEAD),
        call_us=microseconds(lambda: ray.get(actor.add.remote(1)), BROADCASTS),
        broadcast_us=microseconds(
            lambda: ray.get([one.add.remote(1) for one in actors]), BROADCASTS
        ),
        array_mb_per_s=array_rate(lambda array: ray.get(actor.same.remote(array))),
        exchanges_per_s=per_second(rounds, EXCHANGES),
    ).show()
    ray.shutdown()


if __name__ == "__main__":
    _main()
