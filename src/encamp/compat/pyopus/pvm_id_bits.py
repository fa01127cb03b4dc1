"""The bits of PVM's integer ids: those of the host, and those of the task.

A task's id contains its host's id in the bits that PVM reserves for it. The rest is a number that
PVM itself never uses, because PVM does not know tasks in slots.
"""

from __future__ import annotations

_HOST_BITS = 0x3FFC0000
_IN_A_SLOT = 1 << 17
"""The highest bit of PVM's own numbers on a host, which it reaches after 131,072 tasks there."""
_ABOVE = 32
"""Bits of PVM's ids; larger numbers use bits above them."""


def task_tid(dtid: int, number: int) -> int:
    """The id of the cluster's task ``number`` on a host."""
    above, low = divmod(number, _IN_A_SLOT)
    return above << _ABOVE | dtid | _IN_A_SLOT | low


def task_number(tid: int) -> int:
    """The number of the task with this id; 0 if it is the spawner's."""
    if not tid & _IN_A_SLOT:
        return 0
    return (tid >> _ABOVE) * _IN_A_SLOT | tid & (_IN_A_SLOT - 1)


def host_of(tid: int) -> int:
    """The id of a task's host."""
    return tid & _HOST_BITS
