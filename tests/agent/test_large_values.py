"""Large strings and bytes are sent beside their pickles, like arrays, and never in an envelope."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.jobs.worker.slots import Done, slots_here
from encamp.testing import work
from encamp.wire import pickling
from encamp.wire.pickling import disclosed, dump, dump_arguments, enclosed, load
from encamp.wire.protocol import decode_calls, encode_calls

LIMIT = 1000
SOON = 20.0


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickling, "_LARGE", LIMIT)
    monkeypatch.setattr(pickling, "_SMALL", LIMIT)
    monkeypatch.setattr(pickling, "ENCLOSED", LIMIT)


LARGE: list[Any] = [b"x" * 5000, bytearray(5000), "\u00e4\ud800" * 5000, "x" * 5000]


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize("value", LARGE, ids=lambda value: type(value).__name__)
def test_large_values_are_beside_their_pickles(value: Any) -> None:
    for given, parts in [
        (value, dump(value)),
        ((((value, 7), {})), dump_arguments((value, 7), {})),
        ((((7, value), {"a": 1})), dump_arguments((7, value), {"a": 1})),
    ]:
        got = load([bytes(parts[0]), *(bytearray(part) for part in parts[1:])])
        assert got == given
        if not isinstance(value, bytearray) or given is value:
            assert len(parts[0]) < LIMIT
            assert len(parts) == 2
    assert type(load(dump(value))) is type(value)
    assert dump(value[:100])[1:] == []


@pytest.mark.usefixtures("low_limits")
def test_shared_object_is_sent_once_and_keeps_identity() -> None:
    changed, fixed = bytearray(5000), b"x" * 5000
    parts = dump_arguments((changed, changed, fixed, fixed), {})
    assert len(parts) == 2
    (first, second, *_), _ = load([parts[0], *(bytearray(part) for part in parts[1:])])
    assert first is second
    first[0] = 1
    assert changed[0] == 0


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize("value", [{"deep": [b"x" * 5000]}, [LARGE], {1: "y" * 5000}, 7, None])
def test_a_long_pickle_follows_its_envelope(value: Any) -> None:
    payload, buffers = enclosed(dump(value))
    assert len(payload) <= LIMIT
    call = (1, 2, payload, len(buffers), b"")
    ((_, _, payload, _, _),) = decode_calls(encode_calls([call]))
    assert load(disclosed(payload, buffers)) == value


@pytest.mark.parametrize("inline", [False, "threads"])
@pytest.mark.parametrize("size", [100, 70_000, 3_000_000])
def test_large_values_arrive_as_arguments_results_and_messages(size: int, inline: Any) -> None:
    values = [
        b"x" * size,
        bytearray(size),
        "\u00e4" * size,
        {"deep": [b"y" * size]},
        (b"z" * size,),
    ]
    with Cluster(slots=1, inline=inline) as cluster:
        for value in values:
            assert cluster.spawn(work.same, value, notify=False).result(SOON) == value
            assert cluster.spawn(work.same, 7, kwargs={}, notify=False).result(SOON) == 7
            task = cluster.spawn(work.echo, 1, notify=False)
            cluster.send(task, value)
            got = cluster.receive(SOON)
            assert got is not None
            assert got.message == value
            assert type(got.message) is type(value)


@pytest.mark.parametrize("size", [100, 300_000])
def test_large_values_arrive_in_job_slots(size: int) -> None:
    supervisor = SimpleNamespace(on_message=print, on_tick=lambda: None, on_note=print)
    done = slots_here().run(work.same, b"x" * size, tick=1.0, supervisor=supervisor)
    assert isinstance(done, Done)
    assert done.value == b"x" * size


def test_an_error_with_a_large_argument_arrives() -> None:
    with Cluster(slots=1) as cluster, pytest.raises(ValueError, match="xxx") as caught:
        cluster.spawn(_raise, 200_000).result(SOON)
    assert len(caught.value.args[0]) == 200_000


def _raise(size: int) -> None:
    raise ValueError("x" * size)
