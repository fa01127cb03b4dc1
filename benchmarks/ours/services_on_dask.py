"""encamp's services on a cluster of Dask's that runs already: a call of one server."""

from __future__ import annotations

import encamp
from benchmarks.ours.on_a_system import dask
from benchmarks.peers.calls import CALLS, CallRates, Counter, per_second


def main() -> None:
    """Measure on a cluster of this host."""
    with dask() as client, encamp.Cluster(client) as cluster:
        service = cluster.publish(Counter, count=1)
        with service.acquire() as proxy:

            def one_by_one(count: int) -> None:
                for _ in range(count):
                    proxy.add(1).get()

            CallRates("encamp", calls_per_s=per_second(one_by_one, CALLS)).show()


if __name__ == "__main__":
    main()
