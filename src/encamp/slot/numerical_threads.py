"""How many threads numerical libraries start in a slot: as many as its task has cores.

Otherwise each of a host's slots would start as many as the host has cores. Values that the user has
set stay: in the program's environment, on the host, or for a command.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from encamp import slurm

_OMP = "OMP_NUM_THREADS"
"""Libraries use this variable if their own one of `VARIABLES` is not set."""
VARIABLES = (_OMP, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
             "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")  # fmt: skip
OURS = "ENCAMP_THREADS"
"""A slot's environment variable with the names of the variables that encamp has set there."""
_FIRST = "1"


def chosen_here(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The `VARIABLES` that the user has set, in this process or in ``environment``."""
    ours = _ours(environment)
    return {
        name: text
        for name in VARIABLES
        if name not in ours and (text := environment.get(name)) is not None
    }


def of_new_slot(
    chosen: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables for a new slot: as set on this host, or in ``chosen``, or one thread.

    Where OMP_NUM_THREADS was set, no other variables are added.
    """
    known = {**chosen, **chosen_here(environment)}
    ours = () if _OMP in known else [name for name in VARIABLES if name not in known]
    return {**known, **dict.fromkeys(ours, _FIRST), OURS: ",".join(ours)}


def of_task(cores: int) -> dict[str, str]:
    """The variables for a task with this many cores, except those that the slot has changed."""
    if cores == int(_FIRST):
        return {}
    ours = _ours(os.environ)
    return {name: str(cores) for name in ours if os.environ.get(name) == _FIRST}


def with_chosen(added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with a command's own variables ``added``."""
    environment = slurm.without_step(os.environ)
    ours = [name for name in _ours(environment) if name not in added]
    if _OMP in added:
        for name in ours:
            environment.pop(name, None)
        ours = []
    if OURS in environment:
        environment[OURS] = ",".join(ours)
    return {**environment, **added}


def _ours(environment: Mapping[str, str]) -> list[str]:
    return [name for name in environment.get(OURS, "").split(",") if name in VARIABLES]
