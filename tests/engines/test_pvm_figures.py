"""The benchmark of the PVM engine measures what it says; nothing here is timed."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest

from conftest import need


def test_the_figures_of_pvm_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("pvm", shutil.which("pvmd") is not None)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.setenv("PVM_ALLOW_ROOT", "1")
    pvm = importlib.import_module("benchmarks.pvm")
    sizes = pvm.Sizes(rounds=1, share=0.02, updates=100)
    lines = [figure.line() for figure in pvm.figures(tmp_path, sizes)]
    for what, line in zip(("round trip", "arrays", "fresh", "MiB"), lines, strict=True):
        assert what in line
