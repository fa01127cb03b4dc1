"""The sampling example: its statistics match the density, and it draws its picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from encamp.cluster.cluster import Cluster

EXAMPLE = Path(__file__).parents[1] / "examples" / "sampling" / "sampling.py"


@pytest.fixture
def sampling() -> ModuleType:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("sampling", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    with Cluster("local", slots=4) as cluster:
        yield cluster


def test_all_hills_are_visited_as_often_as_they_should(
    sampling: ModuleType, cluster: Cluster, tmp_path: Path
) -> None:
    import sampling as importable  # as the servers find it

    service = cluster.publish(importable.Walker)
    with service.group() as group:
        run = sampling.temper(group, rounds=600)
        again = sampling.temper(group, rounds=5)
    assert np.array_equal(again.cold, run.cold[: len(again.cold)])
    # With this seed each is within 0.05; without exchanges all of the time is spent on one hill.
    assert run.weights == pytest.approx(sampling.WEIGHTS, abs=0.06)
    for hill, (mean, width) in enumerate(zip(sampling.MEANS, sampling.WIDTHS, strict=True)):
        places = run.cold[sampling.hill_of(run.cold) == hill]
        assert places.mean(0) == pytest.approx(mean, abs=0.15)
        assert places.std(0) == pytest.approx([width, width], abs=0.12)
    assert all(0.3 < rate < 0.95 for rate in run.exchanged)
    assert all(0.3 < rate < 0.8 for rate in run.taken)
    sampling.picture(run, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 20_000


def test_a_single_cold_walker_stays_where_it_begins(sampling: ModuleType) -> None:
    walker = sampling.Walker()
    walker.start(1, sampling.MEANS[0])
    trace, taken, _ = walker.walk(3000, 1.0)
    assert (sampling.hill_of(trace) == 0).all()
    assert 0.3 < taken < 0.7
