"""Envelopes survive a round trip; anything else is refused and runs nothing."""

from __future__ import annotations

import sys
from contextlib import suppress
from enum import EnumType
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from encamp.errors import BadFrame
from encamp.wire import protocol
from encamp.wire.frames import Parts
from encamp.wire.protocol import (
    Bundle,
    Envelope,
    Message,
    Ping,
    Run,
    decode,
    decode_calls,
    encode,
    encode_calls,
    unbundled,
)

KINDS = [
    kind
    for kind in vars(protocol).values()
    if isinstance(kind, type) and issubclass(kind, Envelope) and kind is not Envelope
]


def _value(kind: Any) -> st.SearchStrategy[Any]:
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(1 << 63), (1 << 64) - 1),
        str: st.text(max_size=20),
        bytes: st.binary(max_size=20),
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
    }
    if kind in plain:
        return plain[kind]
    if isinstance(kind, EnumType):
        return st.sampled_from(list(kind))
    args = getattr(kind, "__args__", ())
    if getattr(kind, "__origin__", None) is list:
        return st.lists(_value(args[0]), max_size=4)
    if getattr(kind, "__origin__", None) is tuple:
        return st.tuples(*map(_value, args))
    if getattr(kind, "__origin__", None) is dict:
        return st.dictionaries(*map(_value, args), max_size=4)
    return st.one_of(*map(_value, args))


def _some(kind: type[Envelope]) -> st.SearchStrategy[Envelope]:
    fields = msgspec.structs.fields(kind)
    return st.builds(kind, **{field.name: _value(field.type) for field in fields})


ENVELOPES = st.one_of(*map(_some, KINDS))


def test_every_kind_of_envelope_is_read() -> None:
    assert len(KINDS) > 20


@given(envelope=ENVELOPES)
@settings(max_examples=400)
def test_envelope_round_trip(envelope: Envelope) -> None:
    again = decode(encode(envelope))
    assert type(again) is type(envelope)
    assert again == envelope


@given(envelope=ENVELOPES, data=st.data())
@settings(max_examples=300)
def test_a_cut_or_lengthened_envelope_is_refused(envelope: Envelope, data: st.DataObject) -> None:
    whole = encode(envelope)
    with pytest.raises(BadFrame):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BadFrame):
        decode(whole + data.draw(st.binary(min_size=1, max_size=4)))


@given(envelope=ENVELOPES, data=st.data())
@settings(max_examples=500)
def test_a_changed_envelope_is_an_envelope_or_refused(
    envelope: Envelope, data: st.DataObject
) -> None:
    bent = bytearray(encode(envelope))
    for _ in range(data.draw(st.integers(1, 3))):
        bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadFrame):
        assert isinstance(decode(bent), Envelope)


@given(noise=st.binary(max_size=200))
@settings(max_examples=500)
@example(noise=b"\x92\x00\x00")
def test_noise_is_refused_unless_it_happens_to_be_an_envelope(noise: bytes) -> None:
    try:
        envelope = decode(noise)
    except BadFrame:
        return
    assert isinstance(envelope, Envelope)
    assert encode(decode(encode(envelope))) == encode(envelope)


PING = encode(Ping(1))
TAG = PING[1:-1]
"""How the fields of a ping begin."""


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\x93" + TAG + b"\x01" + b"\x91" * 100_000 + b"\x00",
        b"\x92" + TAG + b"\xc7\xff\x01",
        b"\xdd\xff\xff\xff\xff" + TAG,
        b"\x92" + TAG + b"\xdb\xff\xff\xff\xff",
        b"\x92" + TAG + b"\xa1x",
        b"\x93" + TAG + b"\x01\xa1\xff\xff",
        encode(Bundle([]))[:-1] + b"\xdd\xff\xff\xff\xff",
    ],
    ids=[
        "nothing", "deeply nested", "an extension", "4 billion fields", "a 4 GB string",
        "a string for a number", "more than it says", "a bundle of 4 billion",
    ],
)  # fmt: skip
def test_a_hostile_envelope_is_refused_at_once(hostile: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(hostile)


def test_reading_an_envelope_imports_and_builds_nothing_but_envelopes() -> None:
    before = set(sys.modules)
    assert decode(encode(Message(to=3, sender=4))) == Message(3, 4)
    assert set(sys.modules) == before


CALLS = st.lists(_value(protocol.Call), max_size=5)


@given(calls=CALLS)
def test_calls_round_trip(calls: list[protocol.Call]) -> None:
    assert decode_calls(encode_calls(calls)) == calls


@given(calls=CALLS, noise=st.binary(max_size=40), data=st.data())
@settings(max_examples=300)
def test_bent_calls_are_calls_or_refused(
    calls: list[protocol.Call], noise: bytes, data: st.DataObject
) -> None:
    whole = encode_calls(calls)
    cut = data.draw(st.integers(0, len(whole)))
    for bent in (noise, whole[:cut], whole[:cut] + noise, whole + b"\0", b"\x91" * 10_000):
        with suppress(BadFrame):
            assert isinstance(decode_calls(bent), list)
    with pytest.raises(BadFrame):
        decode_calls(whole + b"\0")


@given(bundled=st.lists(st.tuples(_some(Run), st.lists(st.binary(max_size=9), max_size=3))))
def test_bundle_splits_into_messages(bundled: list[tuple[Run, list[bytes]]]) -> None:
    messages: list[Parts] = [[encode(envelope), *rest] for envelope, rest in bundled]
    parts: Parts = [encode(Bundle([len(message) for message in messages]))]
    for message in messages:
        parts += message
    assert unbundled(parts) == [(decode(message[0]), message) for message in messages]


def test_unbundled_frame_is_one_message() -> None:
    parts: Parts = [encode(Ping(7)), b"rest"]
    assert unbundled(parts) == [(Ping(7), parts)]


@pytest.mark.parametrize(
    "parts",
    [
        [encode(Bundle([1, 1])), PING],
        [encode(Bundle([2])), PING],
        [encode(Bundle([0])), PING],
        [encode(Bundle([-1, 2])), PING, PING],
        [encode(Bundle([1])), PING, PING],
        [encode(Bundle([])), PING],
        [encode(Bundle([1])), encode(Bundle([]))],
        [encode(Bundle([1])), b"noise"],
        [encode(Bundle([1 << 60])), PING],
    ],
    ids=[
        "too few messages", "too few parts", "an empty message", "a negative count", "left over",
        "an empty bundle with more", "a bundle in a bundle", "noise", "a huge count",
    ],
)  # fmt: skip
def test_a_bundle_that_says_other_than_it_has_is_refused(parts: Parts) -> None:
    with pytest.raises(BadFrame):
        unbundled(parts)
