"""Elevation strips: cut a model, make grids of slope, light and sunshine, put them together.

Row 0 of every array is its northern edge, column 0 its western edge.
The functions named ``..._files`` work on files in the current folder; the others on arrays.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

METRES_PER_DEGREE = 111_200.0  # along a meridian
PLACE = ("xmin", "xmax", "ymin", "ymax", "dx", "dy")  # in degrees; ymin is the northern edge
SURFACES = ("slope", "aspect", "hillshade")
MADE = (*SURFACES, "sunshine")
MOSAIC = ("elevation", *MADE)


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


def sunshine_files(grid: str, name: str, minutes: int) -> None:
    """Write ``<name>.sunshine.npy``, from positions of the sun this many minutes apart."""
    with np.load(grid) as strip:
        values = sunshine(strip["elevation"], *strip["cell"], latitude(strip), minutes)
    np.save(f"{name}.sunshine.npy", values)


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
    made |= {surface: np.load(f"{name}.{surface}.npy") for surface in MADE}
    return {surface: values[first - top : end - top] for surface, values in made.items()}


def cell_size(place: Mapping[str, Array]) -> tuple[float, float]:
    """Width and height of a cell in metres, taken at the middle latitude of the whole model.

    Every strip uses the same middle, so that strips and the whole model agree exactly.
    """
    dx = METRES_PER_DEGREE * float(place["dx"]) * float(np.cos(np.radians(latitude(place))))
    return dx, METRES_PER_DEGREE * float(place["dy"])


def latitude(place: Mapping[str, Array]) -> float:
    """The middle latitude of the whole model, in degrees."""
    return float(place["ymin"] + place["ymax"]) / 2


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


def sunshine(elevation: Array, dx: float, dy: float, latitude: float, minutes: int) -> Array:
    """Direct sunlight on the ground in a year of clear days, in kWh per square metre.

    Each cell faces the sun at its own angle; shadows of other hills are not looked for. The year
    is sampled every so many ``minutes``.
    """
    east, north = gradient(elevation, dx, dy)
    total, light, part = np.zeros_like(east), np.empty_like(east), np.empty_like(east)
    for to_east, to_north, up, watts in sun_positions(latitude, minutes):
        np.multiply(east, -to_east, out=light)
        light -= np.multiply(north, to_north, out=part)
        light += up
        np.maximum(light, 0, out=light)
        light *= watts
        total += light
    return total / np.sqrt(1 + east**2 + north**2) * (minutes / 60 / 1000)


def sun_positions(latitude: float, minutes: int) -> Iterator[tuple[float, float, float, float]]:
    """Positions of the sun through a year, while it is up, and the strength of its light.

    The direction to the sun (towards east, north and up, of length 1) and the watts that a square
    metre facing it gets through clear air: declination by P. I. Cooper, "The absorption of
    radiation in solar stills", Solar Energy 12, 1969; light by A. B. and M. P. Meinel, "Applied
    Solar Energy", 1976.
    """
    sin_place, cos_place = math.sin(math.radians(latitude)), math.cos(math.radians(latitude))
    for day in range(1, 366):
        declination = math.radians(23.45) * math.sin(math.radians(360 / 365 * (284 + day)))
        sin_sun, cos_sun = math.sin(declination), math.cos(declination)
        for minute in range(0, 24 * 60, minutes):
            hour_angle = math.radians(minute / 4 - 180)
            up = sin_place * sin_sun + cos_place * cos_sun * math.cos(hour_angle)
            if up > 0:
                to_east = -cos_sun * math.sin(hour_angle)
                to_north = cos_place * sin_sun - sin_place * cos_sun * math.cos(hour_angle)
                yield to_east, to_north, up, 1353 * 0.7 ** (up**-0.678)
