"""The environment variables that the controller sends to its agents, and their use there."""

from __future__ import annotations

import os
from collections.abc import Mapping

from encamp.search_paths import SEARCH_PATHS, take_search_paths, whole_search_path

_SENT = ("PARALLEL_", *SEARCH_PATHS)
"""Prefixes of the variables that agents on other hosts get."""


def variables_for(here: bool) -> dict[str, str]:
    """The variables of this process that agents get, on this host or on others."""
    if here:
        return dict(os.environ)
    variables = {name: value for name, value in os.environ.items() if name.startswith(_SENT)}
    paths = [name for name in SEARCH_PATHS if name in variables]
    return variables | {name: whole_search_path(variables[name]) for name in paths}


def take_variables(variables: Mapping[str, str], *, here: bool) -> list[str]:
    """Set the controller's variables; returns the folders of search paths that are left out."""
    if here:
        os.environ.update(variables)
        return []
    left_out = take_search_paths(variables)
    new = {k: v for k, v in variables.items() if k not in (*SEARCH_PATHS, *os.environ)}
    os.environ.update(new)
    return left_out
