"""Facts of attempts arrive unchanged."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from encamp.attempt_facts import Published, Span, Where
from encamp.jobs.steps import Command
from encamp.reports import AttemptReport, TaskReport
from encamp.storage.disk.path_to_destination import Trust
from encamp.storage.outputs.patterns import Output

FACTS = [
    Where("host", "worker", 7),
    Span("task prephase", 1.5, 0.25),
    Published("/to/a", 3, 4, "00", kept=True),
    replace(Output("*.txt", "sums", existing="keep"), trust=Trust(depth=2, user=5)),
]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
@pytest.mark.parametrize("protocol", [2, 5])
def test_facts_arrive_as_they_were(fact: object, protocol: int) -> None:
    there = pickle.loads(pickle.dumps(fact, protocol))
    assert there == fact
    assert type(there) is type(fact)
    assert [getattr(there, name) for name in fact.__slots__] == [  # type: ignore[attr-defined]
        getattr(fact, name)
        for name in fact.__slots__  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize(
    "kind",
    [AttemptReport, Command, Output, Published, Span, TaskReport, Where],
)
def test_attempt_facts_pickle_without_field_lookup(kind: type) -> None:
    assert "__reduce__" in vars(kind)
