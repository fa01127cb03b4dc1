"""The notebooks of the docs: a real kernel runs every cell without an error."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from conftest import need
from notebook_kernel import Kernel, kernel, living_kernel

__all__ = ["kernel", "living_kernel"]

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def run(name: str, kernel: Kernel) -> list[dict[str, Any]]:
    """All outputs of a notebook."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    outputs: list[dict[str, Any]] = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"{name} is kept without outputs"
            outputs += kernel.run(cell.source)
            assert outputs[-1:] == [] or outputs[-1]["output_type"] != "error", outputs[-1]
    return outputs


def text_of(outputs: list[dict[str, Any]]) -> str:
    """All text of outputs."""
    data = [one.get("data", {}) for one in outputs]
    return "\n".join(
        [one.get("text", "") for one in outputs] + [str(one.get("text/plain", "")) for one in data]
    )


def markups(outputs: list[dict[str, Any]]) -> list[str]:
    return [one["data"]["text/html"] for one in outputs if "text/html" in one.get("data", {})]


def pictures(outputs: list[dict[str, Any]]) -> int:
    return sum("image/png" in one.get("data", {}) for one in outputs)


@pytest.mark.simulator
def test_the_notebook_of_circuit_sweeps(kernel: Kernel, here: Path) -> None:
    need("ngspice", shutil.which("ngspice") is not None)
    outputs = run("circuit-sweep.ipynb", kernel)
    assert "60 up to date, 0 done" in text_of(outputs)
    assert pictures(outputs) == 1
    assert len(Path("results/filter.job/results.csv").read_text().splitlines()) == 61


def test_the_notebook_of_strips(kernel: Kernel, here: Path) -> None:
    outputs = run("lidar-strips.ipynb", kernel)
    text = text_of(outputs)
    [foreseen] = [one for one in markups(outputs) if "nothing was run" in one]
    assert "2 to do, 4 up to date" in foreseen
    assert "an input changed: data/strip-2.npy" in foreseen
    assert "strip-1" not in foreseen
    assert "(2, 4)" in text
    assert "job terrain: 1 task failed: strip-4" in text
    assert pictures(outputs) == 1


def test_the_notebook_of_replica_exchange(kernel: Kernel, here: Path) -> None:
    outputs = run("replica-exchange.ipynb", kernel)
    [share] = [line for line in text_of(outputs).splitlines() if "in the right well" in line]
    assert 0.3 < float(share.split()[0]) < 1.0
    assert pictures(outputs) == 1


def test_every_notebook_is_run_here() -> None:
    names = {file.name for file in FOLDER.glob("*.ipynb")}
    assert names == {"circuit-sweep.ipynb", "lidar-strips.ipynb", "replica-exchange.ipynb"}
