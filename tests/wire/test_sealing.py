"""Only messages with a valid seal are opened, each once and in order."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encamp.errors import BadFrame
from encamp.wire.frames import MOST_PARTS, Parts, head
from encamp.wire.protocol import Message, decode, encode
from encamp.wire.seal import KEY_BYTES, Seal

KEY = bytes(range(KEY_BYTES))
ME, AGENT, OTHER = 0, 1, 2

PARTS = st.lists(st.binary(max_size=60), min_size=1, max_size=5)


class _Watch:
    """Whether something was looked up by a pickle since `looking` was set."""

    looking = False
    found: ClassVar[list[object]] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _Watch.looking and event == "pickle.find_class":
        _Watch.found.append(args)


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:
    sys.addaudithook(_hook)  # there is no way to take one back


@pytest.fixture
def unpickled() -> Iterator[list[object]]:
    """What pickles look up while the test runs."""
    _Watch.looking, _Watch.found = True, []
    yield _Watch.found
    _Watch.looking = False


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("import sys; sys.evil = True",)


def message(number: int = 0) -> Parts:
    return [encode(Message(to=0, sender=number)), pickle.dumps(Evil())]


def two() -> tuple[Seal, Seal]:
    return Seal(KEY, AGENT), Seal(KEY, ME)


def received(seal: Seal, sender: int, parts: Parts) -> object:
    """What a receiver does with a frame."""
    envelope, payload = seal.open(sender, parts)
    decode(envelope)
    return pickle.loads(payload)


@given(messages=st.lists(PARTS, max_size=8))
def test_sealed_frames_open_in_order(messages: list[Parts]) -> None:
    agent, controller = two()
    for parts in messages:
        assert controller.open(AGENT, agent.seal(ME, parts)) == parts


def test_every_pair_counts_for_itself_in_both_directions() -> None:
    ends = [Seal(KEY, number) for number in range(4)]
    for turn in range(3):
        for a in range(4):
            for b in range(4):
                parts: Parts = [b"%d" % turn]
                assert ends[b].open(a, ends[a].seal(b, parts)) == parts


def _forged() -> dict[str, tuple[int, Parts]]:
    """Frames that an attacker could put in as the first one: who it says it is, the parts."""
    agent, _ = two()
    good = agent.seal(ME, message())
    other_key = Seal(bytes(KEY_BYTES), AGENT).seal(ME, message())
    return {
        "no seal": (AGENT, message()),
        "one part": (AGENT, message()[:1]),
        "an empty seal": (AGENT, [*message(), b""]),
        "a long seal": (AGENT, [*message(), b"x" * (1 << 20)]),
        "a wrong key": (AGENT, other_key),
        "another sender": (OTHER, good),
        "for somebody else": (AGENT, Seal(KEY, AGENT).seal(OTHER, message())),
        "sent back": (AGENT, Seal(KEY, ME).seal(AGENT, message())),
        "the second": (AGENT, agent.seal(ME, message())),
        "changed": (AGENT, [good[0], bytes(good[1])[:-1] + b"!", good[2]]),
        "parts swapped": (AGENT, [good[1], good[0], good[2]]),
        "bytes moved": (AGENT, [bytes(good[0]) + bytes(good[1])[:1], bytes(good[1])[1:], good[2]]),
        "a part more": (AGENT, [*good[:2], b"", good[2]]),
        "a part less": (AGENT, [good[0], good[2]]),
    }


@pytest.mark.parametrize("what", _forged())
def test_a_forged_frame_is_refused_before_anything_is_unpickled_and_harms_no_other(
    what: str, unpickled: list[object]
) -> None:
    _, controller = two()
    sender, parts = _forged()[what]
    with pytest.raises(BadFrame):
        received(controller, sender, parts)
    assert unpickled == []
    assert not hasattr(sys, "evil")
    good: Parts = [b"envelope"]
    assert controller.open(AGENT, Seal(KEY, AGENT).seal(ME, good)) == good


def test_the_watch_sees_what_is_unpickled_after_authentication(unpickled: list[object]) -> None:
    agent, controller = two()
    try:
        received(controller, AGENT, agent.seal(ME, message()))
        assert unpickled
        assert hasattr(sys, "evil")
    finally:
        vars(sys).pop("evil", None)


def test_a_doubled_a_late_and_a_lost_message_are_noticed() -> None:
    agent, controller = two()
    first, second, third = (agent.seal(ME, [b"%d" % number]) for number in range(3))
    with pytest.raises(BadFrame, match="it is not message 1 of 1"):
        controller.open(AGENT, second)
    assert controller.open(AGENT, first) == [b"0"]
    with pytest.raises(BadFrame):
        controller.open(AGENT, first)
    with pytest.raises(BadFrame, match="it is not message 2 of 1"):
        controller.open(AGENT, third)
    assert controller.open(AGENT, second) == [b"1"]


@given(parts=PARTS, data=st.data())
@settings(max_examples=200)
def test_any_changed_bit_is_noticed(parts: Parts, data: st.DataObject) -> None:
    agent, controller = two()
    sealed = [bytearray(part) for part in agent.seal(ME, parts)]
    part = data.draw(st.sampled_from([part for part in sealed if part]))
    part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadFrame):
        controller.open(AGENT, sealed)  # type: ignore[arg-type]


@given(noise=st.lists(st.binary(max_size=64), max_size=5), sender=st.integers(0, 5))
@settings(max_examples=200)
def test_noise_never_opens(noise: Parts, sender: int) -> None:
    with pytest.raises(BadFrame):
        Seal(KEY, ME).open(sender, noise)


@pytest.mark.parametrize("length", [0, 1, KEY_BYTES - 1, KEY_BYTES + 1, 100])
def test_a_key_that_is_none_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"not {length}"):
        Seal(bytes(length), ME)


def test_a_message_that_is_full_is_refused_by_its_sender_not_by_its_receiver() -> None:
    with pytest.raises(BadFrame, match="parts"):
        head(Seal(KEY, ME).seal(AGENT, [b""] * MOST_PARTS))
