"""Chooses the tasks to show if there are very many: failed ones first, then an even sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

_FOR_FAILURES = 0.6
"""The part of the room for tasks that failed or were tried again."""
_LOOKED_AT = 10_000
"""The number of candidates of each kind, failed and others; those that fit are chosen."""


def sample_of(
    places: Sequence[int], wrong: list[int], shown: Callable[[int], bytes], largest: int
) -> dict[int, bytes]:
    """As many positions of tasks as fit into ``largest`` bytes together, as ``shown`` shows them.

    ``wrong`` are those of ``places`` that failed or needed several attempts.
    """
    texts = {at: shown(at) for at in _candidates(places, wrong)}
    if sum(map(len, texts.values())) <= largest:
        return texts
    chosen = _chosen({at: len(text) for at, text in texts.items()}, wrong, largest)
    return {at: text for at, text in texts.items() if at in chosen}


def _candidates(places: Sequence[int], wrong: list[int]) -> list[int]:
    """The tasks that may be shown: more than fit, but not all."""
    step = -(-len(places) // _LOOKED_AT)  # rounded up
    return sorted({*wrong[:_LOOKED_AT], *places[:: max(1, step)]})


def _chosen(sizes: dict[int, int], wrong: list[int], largest: int) -> set[int]:
    first = filter(sizes.__contains__, wrong)
    chosen = set(_fitting(first, sizes, largest * _FOR_FAILURES))
    left = largest - sum(map(sizes.__getitem__, chosen))
    others = [at for at in sizes if at not in chosen]
    step = -(-sum(map(sizes.__getitem__, others)) // max(1, left))
    spread = others[:: max(1, step)]
    return chosen.union(_fitting(spread, sizes, left))


def _fitting(of: Iterable[int], sizes: dict[int, int], room: float) -> list[int]:
    """The tasks that fit, in order; a large one may be skipped."""
    found = []
    for at in of:
        if sizes[at] <= room:
            found.append(at)
            room -= sizes[at]
    return found
