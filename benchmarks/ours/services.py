"""encamp's services: two servers on a cluster, and eight for what all do together."""

from __future__ import annotations

import encamp
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
from benchmarks.peers.rates import WORKERS


def _few() -> dict[str, float]:
    with encamp.Cluster("local", slots=WORKERS) as cluster:
        service = cluster.publish(Counter)
        service.ready(WORKERS)
        with service.acquire() as proxy:

            def one_by_one(count: int) -> None:
                for _ in range(count):
                    proxy.add(1).get()

            def ahead(count: int) -> None:
                results = [proxy.add(1) for _ in range(count)]
                results[-1].get()

            found = {
                "calls_per_s": per_second(one_by_one, CALLS),
                "ahead_per_s": per_second(ahead, AHEAD),
                "array_mb_per_s": array_rate(lambda array: proxy.same(array).get()),
            }

        def acquired(count: int) -> None:
            for _ in range(count):
                with service.acquire() as mine:
                    result = mine.add(1)
                result.get()

        return {**found, "acquired_per_s": per_second(acquired, CALLS)}


def _many() -> dict[str, float]:
    with encamp.Cluster("local", slots=MANY) as cluster:
        service = cluster.publish(Counter)
        service.ready(MANY)
        with service.group() as group:
            one = group.members[0]

            def rounds(count: int) -> None:
                for _ in range(count):
                    encamp.gather(group.scatter("add", range(MANY)))
                    encamp.gather(group.broadcast("add", 1))

            return {
                "call_us": microseconds(lambda: one.add(1).get(), BROADCASTS),
                "broadcast_us": microseconds(
                    lambda: encamp.gather(group.broadcast("add", 1)), BROADCASTS
                ),
                "exchanges_per_s": per_second(rounds, EXCHANGES),
            }


if __name__ == "__main__":
    CallRates("encamp", **_few(), **_many()).show()
