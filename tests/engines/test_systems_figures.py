"""The benchmark of Dask and ipyparallel measures what it says; nothing here is timed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from conftest import need


@pytest.mark.parametrize("name", ["dask", "ipyparallel"])
def test_the_figures_of_a_system_are_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    systems = importlib.import_module("benchmarks.systems")
    (system,) = [one for one in systems.SYSTEMS if one.name == name]
    need(system.package, importlib.util.find_spec(system.package) is not None)
    monkeypatch.setattr(systems, "SYSTEMS", (system,))
    sizes = systems.Sizes(rounds=1, share=0.02)
    lines = [figure.line() for figure in systems.figures(tmp_path, sizes)]
    for what, line in zip(("tasks", "round trip", "arrays", "start"), lines, strict=True):
        assert what in line
        assert name in line
