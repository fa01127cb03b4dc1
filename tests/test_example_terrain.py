"""The terrain example: its formulas, its mosaic, and the whole job through the command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sysconfig
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

EXAMPLE = Path(__file__).parents[1] / "examples" / "terrain"
COMMAND = Path(sysconfig.get_path("scripts"), "encamp")
MODEL = Path(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))
SURFACES = ("slope", "aspect", "hillshade", "sunshine")
MINUTES = "720"
"""Between two positions of the sun: a tenth of a second's work in place of ten seconds'."""
STRIPS = range(1, 13)


def example_module(name: str) -> ModuleType:
    spec = spec_from_file_location(f"example_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


elevation = example_module("elevation")


def plane(east: float, north: float, dx: float, dy: float) -> np.ndarray:
    """A plane that rises by ``east`` and ``north`` per metre; row 0 is the northern edge."""
    rows, columns = np.mgrid[0:7, 0:9]
    return 100 + east * dx * columns - north * dy * rows


def whole_model() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Elevation and surfaces of the uncut model."""
    with np.load(MODEL) as model:
        cell = elevation.cell_size(model)
        place = elevation.latitude(model)
        metres = model["elevation"].astype(np.float64)
    survey = elevation.read_survey(EXAMPLE / "survey.toml")
    made = elevation.surfaces(metres, *cell, survey)
    return metres, made | {"sunshine": elevation.sunshine(metres, *cell, place, int(MINUTES))}


@pytest.mark.parametrize(
    ("east", "north", "falls_to"),
    [(1, 0, 270), (-1, 0, 90), (0, 1, 180), (0, -1, 0), (-0.5, -0.5, 45), (0.3, -0.3, 315)],
)
def test_slope_and_aspect_of_a_plane_are_exact_up_to_rounding(
    east: float, north: float, falls_to: float
) -> None:
    gradient = elevation.gradient(plane(east, north, 30, 40), 30, 40)
    np.testing.assert_allclose(gradient[0], east, atol=1e-12)
    np.testing.assert_allclose(gradient[1], north, atol=1e-12)
    steepest = math.degrees(math.atan(math.hypot(east, north)))
    np.testing.assert_allclose(elevation.slope(*gradient), steepest, rtol=1e-12)
    turned = (elevation.aspect(*gradient) - falls_to + 180) % 360 - 180
    np.testing.assert_allclose(turned, 0, atol=1e-9)


def test_flat_ground_has_no_aspect_and_is_lit_by_the_sine_of_the_altitude() -> None:
    gradient = elevation.gradient(plane(0, 0, 30, 40), 30, 40)
    assert (elevation.slope(*gradient) == 0).all()
    assert (elevation.aspect(*gradient) == -1).all()
    np.testing.assert_allclose(elevation.hillshade(*gradient, 315, 30), 0.5)


def test_hillshade_is_the_cosine_between_the_sun_and_the_normal_of_a_plane() -> None:
    towards_sun = elevation.gradient(plane(-1, 0, 30, 40), 30, 40)  # falls to the east by 45°
    np.testing.assert_allclose(elevation.hillshade(*towards_sun, 90, 45), 1)
    np.testing.assert_allclose(elevation.hillshade(*towards_sun, 0, 45), 0.5)
    np.testing.assert_allclose(elevation.hillshade(*towards_sun, 270, 30), 0, atol=1e-12)


def test_a_plane_gets_the_sunlight_of_its_slope_and_aspect() -> None:
    """The cosine to the sun, summed over the year, by vectors and one cell at a time."""
    metres = plane(0.3, -0.4, 30, 40)
    normal = np.array((-0.3, 0.4, 1)) / math.sqrt(1 + 0.3**2 + 0.4**2)
    positions = np.array(list(elevation.sun_positions(36.6, 240)))
    np.testing.assert_allclose(np.linalg.norm(positions[:, :3], axis=1), 1, rtol=1e-12)
    watts = positions[:, 3] * np.clip(positions[:, :3] @ normal, 0, None)
    made = elevation.sunshine(metres, 30, 40, 36.6, 240)
    np.testing.assert_allclose(made, watts.sum() * 4 / 1000, rtol=1e-9)


def test_the_sun_stands_where_almanacs_have_it() -> None:
    """At noon on the 21st of June it stands 90 - latitude + 23.44 degrees high, in the south."""
    days = list(elevation.sun_positions(36.6, 720))
    east, north, up, _ = days[171]
    assert math.degrees(math.asin(up)) == pytest.approx(90 - 36.6 + 23.44, abs=0.1)
    assert east == pytest.approx(0, abs=1e-12)
    assert north < 0
    mornings = [place for place in elevation.sun_positions(36.6, 480) if place[0] > 0.1]
    assert len(mornings) > 100, "the sun rises in the east"


def test_gradient_matches_horn_formula() -> None:
    z = np.random.default_rng(5).integers(0, 1000, (5, 6)).astype(float)
    east, north = elevation.gradient(z, 30, 40)
    (a, b, c), (d, _, f), (g, h, i) = z[1:4, 2:5]
    assert east[2, 3] == pytest.approx((c + 2 * f + i - a - 2 * d - g) / (8 * 30), rel=1e-15)
    assert north[2, 3] == pytest.approx((a + 2 * b + c - g - 2 * h - i) / (8 * 40), rel=1e-15)


@pytest.mark.parametrize(("strips", "overlap"), [(6, 8), (6, 1), (1, 3), (7, 40), (43, 2)])
def test_strip_mosaic_equals_whole_model_exactly(
    strips: int, overlap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sun = "sun_azimuth = 315\nsun_altitude = 45\n"
    Path("survey.toml").write_text(f"strips = {strips}\noverlap = {overlap}\n{sun}")
    elevation.cut_files(str(MODEL))
    for number in range(1, strips + 1):
        elevation.import_files(f"strip-{number}.npz", f"strip-{number}.grid.npz")
        elevation.grid_files(f"strip-{number}.grid.npz", f"strip-{number}")
        elevation.sunshine_files(f"strip-{number}.grid.npz", f"strip-{number}", int(MINUTES))
    elevation.mosaic_files()
    assert_equals_whole_model(tmp_path)


def assert_equals_whole_model(folder: Path) -> None:
    metres, surfaces = whole_model()
    assert np.array_equal(np.load(folder / "elevation.npy"), metres)
    assert metres.shape == (344, 403)
    for surface in SURFACES:
        assert np.array_equal(np.load(folder / f"{surface}.npy"), surfaces[surface])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The destination of the whole job, run once by the command."""
    folder = tmp_path_factory.mktemp("terrain")
    run_example(folder)
    return folder / "demo" / "terrain"


def run_example(folder: Path) -> str:
    """What the command says."""
    with start_example(folder) as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    return output


def start_example(folder: Path) -> subprocess.Popen[str]:
    """The example's command, started in ``folder``; its report is read by `states`."""
    return subprocess.Popen(
        [COMMAND, "run", EXAMPLE / "terrain.py", "--minutes", MINUTES],
        cwd=folder,
        env=os.environ | {"PARALLEL_LOCAL_STORAGE": str(folder / "local")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def states(folder: Path) -> dict[str, str]:
    """What the latest run of the example in ``folder`` did with each task."""
    report = folder / "demo" / "terrain" / "terrain.job" / "report.json"
    return {task["name"]: task["state"] for task in json.loads(report.read_text())["tasks"]}


def test_the_job_sorts_its_results_into_folders(finished: Path) -> None:
    expected = {
        "strips": {f"strip-{n}.npz" for n in STRIPS},
        "import": {f"strip-{n}.grid.npz" for n in STRIPS},
        "grid": {f"strip-{n}.{surface}.npy" for n in STRIPS for surface in SURFACES},
        "mosaic": {f"{surface}.npy" for surface in ("elevation", *SURFACES)},
    }
    found = {name: {path.name for path in (finished / name).iterdir()} for name in expected}
    assert found == expected


def test_job_mosaic_equals_whole_model_exactly(finished: Path) -> None:
    assert_equals_whole_model(finished / "mosaic")


def test_the_job_draws_a_picture_of_good_size(finished: Path) -> None:
    picture = (finished / "terrain.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert width >= 1200
    assert height >= 900


def published(folder: Path) -> dict[str, bytes]:
    """Every published file but the job's own records, which hold times."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path: path.relative_to(folder) for path in files}
    return {
        str(name): path.read_bytes()
        for path, name in names.items()
        if name.parts[0] != "terrain.job"
    }


def test_a_second_run_leaves_everything_as_it_is(finished: Path) -> None:
    files = [path for path in finished.rglob("*.np?") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    report = (finished / "terrain.job/report.json").read_bytes()
    output = run_example(finished.parents[1])
    assert "terrain: 14 up to date in " in output
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert (finished / "terrain.job/report.json").read_bytes() == report


def test_a_lost_grid_is_made_again_with_the_same_bytes(finished: Path) -> None:
    lost = finished / "grid" / "strip-3.slope.npy"
    content = lost.read_bytes()
    lost.unlink()
    run_example(finished.parents[1])
    assert lost.read_bytes() == content
    redone = [name for name, state in states(finished.parents[1]).items() if state == "done"]
    assert redone == ["strip-3"]


def test_killed_job_continues_to_identical_results(finished: Path, tmp_path: Path) -> None:
    journal = tmp_path / "demo" / "terrain" / "terrain.job" / "journal.jsonl"
    with start_example(tmp_path) as process:
        while process.poll() is None and len(tasks_done(journal)) < 3:
            time.sleep(0.005)
        process.kill()
    before = tasks_done(journal)
    run_example(tmp_path)
    after = states(tmp_path)
    assert len(before) >= 3
    assert {name for name, state in after.items() if state == "up to date"} == before
    made = published(tmp_path / "demo" / "terrain")
    assert made == published(finished)
    assert len(made) == 12 + 12 + 4 * 12 + 5 + 1


def tasks_done(journal: Path) -> set[str]:
    """The tasks that a journal has as done; its last line may be half written."""
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    records = [json.loads(line) for line in lines]
    return {record["task"] for record in records if record.get("event") == "done"}


def test_nothing_is_left_in_the_local_storage(finished: Path) -> None:
    local = finished.parents[1] / "local"
    assert [path for path in local.rglob("strip-*") if path.is_file()] == []
