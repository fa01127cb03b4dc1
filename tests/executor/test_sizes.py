"""How many tasks an executor runs at once, and how large its chunks are."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from encamp.cluster.records import HostRecord, SlotRecord
from encamp.cluster.spawn_options import SpawnOptions
from encamp.executor.mapping import CHUNKS_PER_SLOT, LARGEST_CHUNK, Results, chunked, good_size


def _host(slots: int) -> HostRecord:
    host = HostRecord("host", 8, 1000, ["a", "b", "c"])
    host.slots += [SlotRecord(1, number, host) for number in range(slots)]
    return host


@pytest.mark.parametrize(
    ("slots", "need", "most"),
    [
        (4, {"cores": 1}, 4),
        (4, {"cores": 2}, 4),
        (4, {"cores": 3}, 2),
        (4, {"cores": 8}, 1),
        (20, {"cores": 1}, 20),  # a plain task needs a slot, however many cores there are
        (20, {"cores": 2}, 4),
        (4, {"memory": 250}, 4),
        (4, {"memory": 251}, 3),
        (4, {"memory": 1000}, 1),
        (4, {"gpus": 1}, 3),
        (4, {"gpus": 2}, 1),
        (4, {"gpus": 1, "memory": 500}, 2),
        (4, {"cores": 8, "gpus": 1}, 1),
    ],
)
def test_as_many_run_at_once_as_the_scarcest_thing_allows(
    slots: int, need: dict[str, Any], most: int
) -> None:
    assert _host(slots).most(SpawnOptions(**need).checked().need) == most


@pytest.mark.parametrize(
    ("items", "slots", "size"),
    [
        (0, 4, 1),
        (1, 4, 1),
        (32, 4, 1),
        (33, 4, 2),
        (64, 4, 2),
        (65, 4, 3),
        (100, 1, 13),
        (100, 0, 13),
        (10**6, 4, LARGEST_CHUNK),
        (LARGEST_CHUNK * CHUNKS_PER_SLOT, 1, LARGEST_CHUNK),
        ((LARGEST_CHUNK - 1) * CHUNKS_PER_SLOT, 1, LARGEST_CHUNK - 1),
    ],
)
def test_a_slot_gets_some_chunks_of_items_and_none_is_too_large(
    items: int, slots: int, size: int
) -> None:
    found, (known,) = good_size((range(items),), slots)
    assert (found, len(known)) == (size, items)  # type: ignore[arg-type]


def test_shortest_iterable_counts_and_iterators_are_kept() -> None:
    size, known = good_size((range(1000), iter(range(16))), 1)
    assert size == 2
    assert [list(items) for items in known] == [list(range(1000)), list(range(16))]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("kind", [range, lambda n: list(range(n)), lambda n: iter(range(n))])
def test_chunks_have_all_items_once_and_in_order(count: int, kind: Any) -> None:
    for others in (0, 1):
        call, chunks = chunked(
            divmod if others else abs, (kind(count), range(1, 99))[: 1 + others], 3
        )
        sizes, results = [], []
        for arguments in chunks:
            results += call(*arguments)
            sizes.append(len(list(arguments[-1])))
        assert sizes == [3] * (count // 3) + [count % 3] * (count % 3 > 0)
        assert results == [divmod(n, n + 1) if others else n for n in range(count)]


class Noted(Future[int]):
    """Notes which future was cancelled when."""

    def __init__(self, number: int, cancelled: list[int]) -> None:
        super().__init__()
        self.number, self.order = number, cancelled

    def cancel(self) -> bool:
        self.order.append(self.number)
        return super().cancel()


def test_unwanted_results_are_cancelled_last_first() -> None:
    """So that no slot starts one of them meanwhile."""
    order: list[int] = []
    results = Results((Noted(number, order) for number in range(9)), 4, None)
    results.close()
    assert order == [3, 2, 1, 0]
    assert list(results) == []


class Interrupted(Future[Any]):
    """A call whose result is awaited when Ctrl-C arrives."""

    def result(self, timeout: float | None = None) -> Any:
        raise KeyboardInterrupt


def test_ctrl_c_while_a_result_is_awaited_cancels_the_rest_of_a_map() -> None:
    rest = Future[Any]()
    results: Results[Any] = Results(iter([Interrupted(), rest]), None, None)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert rest.cancelled()
    with pytest.raises(StopIteration):
        next(results)
