"""The questions about services that a job's step asks its worker, see `step_client`."""

from __future__ import annotations

from typing import Any

import msgspec

Payload = list[Any]
"""The parts of a letter after the first; sent as PickleBuffers, and received as buffers."""


class StepQuestion(msgspec.Struct, frozen=True):
    """Base of the questions. ``token`` is that of the services' cluster."""

    token: str


class OpenClient(StepQuestion, frozen=True):
    """Checks that the worker has a client for the cluster."""


class TellRegistry(StepQuestion, frozen=True):
    """Brings an encoded letter to the registry."""

    letter: bytes
    payload: Payload


class PostCalls(StepQuestion, frozen=True):
    """Brings encoded `Calls` for a server; ``to`` is its task."""

    to: int
    letter: bytes
    payload: Payload


class TakeLetters(StepQuestion, frozen=True):
    """Asks for the letters that have arrived; waits up to ``seconds`` if there are none."""

    seconds: float
