"""Elevation strips: cut a model, make grids of slope, aspect and hillshade, put them together.

Row 0 of every array is its northern edge, column 0 its western edge.
The functions named ``..._files`` work on files in the current folder; the others on arrays.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

METRES_PER_DEGREE = 111_200.0  # along a meridian
PLACE = ("xmin", "xmax", "ymin", "ymax", "dx", "dy")  # in degrees; ymin is the northern edge
SURFACES = ("slope", "aspect", "hillshade")
MOSAIC = ("elevation", *SURFACES)


def read_survey(path: str = "survey.toml") -> dict[str, Any]:
    """The survey's parameters: strips, overlap (rows), sun azimuth and altitude (degrees)."""
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def strip_names(path: str = "survey.toml") -> list[str]:
    """The strips' names from north to south: strip-1, strip-2, ..."""
    return [f"strip-{number}" for number in range(1, read_survey(path)["strips"] + 1)]


def cut_files(model: str) -> None:
    """Cut ``model`` into ``strip-1.npz``, ``strip-2.npz``, ... from north to south."""
    survey = read_survey()
    with np.load(model) as whole:
        elevation = whole["elevation"]
        place = {key: whole[key] for key in PLACE}
    own = np.linspace(0, len(elevation), survey["strips"] + 1).astype(int)
    for name, (first, end) in zip(strip_names(), pairwise(own), strict=True):
        top = max(first - survey["overlap"], 0)
        bottom = min(end + survey["overlap"], len(elevation))
        np.savez(
            f"{name}.npz",
            elevation=elevation[top:bottom],
            reach=(top, bottom),  # rows of the model that the strip has
            own=(first, end),  # rows that remain when its overlaps are trimmed
            **place,
        )


def import_files(strip: str, grid: str) -> None:
    """Turn a strip as surveyed (whole metres, degrees) into a grid (all in metres)."""
    with np.load(strip) as raw:
        kept = {key: raw[key] for key in ("reach", "own", *PLACE)}
        elevation = raw["elevation"].astype(np.float64)
        np.savez(grid, elevation=elevation, cell=cell_size(raw), **kept)


def grid_files(grid: str, name: str) -> None:
    """Write ``<name>.slope.npy``, ``<name>.aspect.npy`` and ``<name>.hillshade.npy``."""
    survey = read_survey()
    with np.load(grid) as strip:
        made = surfaces(strip["elevation"], *strip["cell"], survey)
    for surface, values in made.items():
        np.save(f"{name}.{surface}.npy", values)


def mosaic_files() -> None:
    """Put all strips of the current folder together without their overlaps: ``slope.npy``, ..."""
    parts = [trimmed(name) for name in strip_names()]
    for surface in MOSAIC:
        np.save(f"{surface}.npy", np.concatenate([part[surface] for part in parts]))


def trimmed(name: str) -> dict[str, Array]:
    """Elevation and surfaces of one strip without the rows that belong to its neighbours."""
    with np.load(f"{name}.grid.npz") as grid:
        (top, _), (first, end) = grid["reach"], grid["own"]
        made = {"elevation": grid["elevation"]}
    made |= {surface: np.load(f"{name}.{surface}.npy") for surface in SURFACES}
    return {surface: values[first - top : end - top] for surface, values in made.items()}


def cell_size(place: Mapping[str, Array]) -> tuple[float, float]:
    """Width and height of a cell in metres, taken at the middle latitude of the whole model.

    Every strip uses the same middle, so that strips and the whole model agree exactly.
    """
    middle = np.radians((place["ymin"] + place["ymax"]) / 2)
    dx = METRES_PER_DEGREE * float(place["dx"]) * float(np.cos(middle))
    return dx, METRES_PER_DEGREE * float(place["dy"])


def surfaces(
    elevation: Array, dx: float, dy: float, survey: Mapping[str, float]
) -> dict[str, Array]:
    """Slope, aspect and hillshade of an elevation grid, each of its shape."""
    east, north = gradient(elevation, dx, dy)
    light = (survey["sun_azimuth"], survey["sun_altitude"])
    return {
        "slope": slope(east, north),
        "aspect": aspect(east, north),
        "hillshade": hillshade(east, north, *light),
    }


def gradient(elevation: Array, dx: float, dy: float) -> tuple[Array, Array]:
    """Rise per metre towards the east and towards the north.

    The third-order finite difference over 3 x 3 cells, weights 1-2-1: B. K. P. Horn, "Hill shading
    and the reflectance map", Proceedings of the IEEE 69(1), 1981, pp. 14-47. Cells beyond the
    edge are extrapolated linearly.
    """
    z = np.pad(elevation, 1, mode="reflect", reflect_type="odd")
    columns = z[:-2, :] + 2 * z[1:-1, :] + z[2:, :]
    rows = z[:, :-2] + 2 * z[:, 1:-1] + z[:, 2:]
    east = (columns[:, 2:] - columns[:, :-2]) / (8 * dx)
    north = (rows[:-2, :] - rows[2:, :]) / (8 * dy)
    return east, north


def slope(east: Array, north: Array) -> Array:
    """Steepest slope in degrees: 0 is flat, 90 a wall."""
    return np.degrees(np.arctan(np.sqrt(east**2 + north**2)))


def aspect(east: Array, north: Array) -> Array:
    """Direction that the ground falls to, in degrees clockwise from north; -1 where it is flat."""
    downhill = np.degrees(np.arctan2(-east, -north)) % 360
    return np.where((east == 0) & (north == 0), -1.0, downhill)


def hillshade(east: Array, north: Array, azimuth: float, altitude: float) -> Array:
    """Brightness from 0 (dark) to 1 of an evenly scattering ground under a sun at infinity.

    The cosine of the angle between the ground's normal (-east, -north, 1) and the sun, as in
    Horn 1981 (see `gradient`).
    """
    azimuth, altitude = np.radians(azimuth), np.radians(altitude)
    level = np.cos(altitude)
    facing = np.sin(altitude) - level * (np.sin(azimuth) * east + np.cos(azimuth) * north)
    return np.clip(facing / np.sqrt(1 + east**2 + north**2), 0, 1)
