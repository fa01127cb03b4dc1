"""Draw the finished survey: a shaded relief map with the strips, and small maps of its surfaces.

The same arrays always make the same bytes, so that a picture can be compared with another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator
from numpy.typing import NDArray

Array = NDArray[Any]

DRAWN = ("elevation", "hillshade", "slope", "aspect", "sunshine")
LOWLAND_TO_SUMMIT = "#4f8f6b #93b979 #d9d59a #d8b67c #b58a62 #a58d80 #f4f1ee"
NORTH_ROUND_TO_NORTH = "#5a73c9 #4aa884 #e3b94b #cc5c66 #5a73c9"
INK = "#2b2b2b"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw_files(picture: str) -> None:
    """Draw the mosaic and the strips' grid files of the current folder into ``picture``."""
    surfaces = {name: np.load(f"{name}.npy") for name in DRAWN}
    strips = {path.name.split(".")[0]: dict(np.load(path)) for path in Path().glob("*.grid.npz")}
    with style.context(["default", STYLE]):
        figure = draw(surfaces, strips)
        figure.savefig(picture, dpi=130, metadata={"Software": None})


def draw(surfaces: dict[str, Array], strips: dict[str, dict[str, Array]]) -> Figure:
    """The whole sheet: a large map on the left; slope, aspect and sunshine on the right."""
    place = next(iter(strips.values()))
    figure = Figure(figsize=(12.6, 9.6), facecolor="#fbfaf7")
    large = figure.add_axes((0.068, 0.075, 0.573, 0.80))
    draw_relief(large, surfaces["elevation"], surfaces["hillshade"], place)
    draw_strips(large, strips)
    draw_scale_bar(large, place)
    draw_legend(figure, surfaces["elevation"])
    draw_slope(figure, surfaces["slope"], place)
    draw_aspect(figure, surfaces["aspect"], surfaces["slope"], place)
    draw_sunshine(figure, surfaces["sunshine"], place)
    draw_title(figure, surfaces["elevation"], place, len(strips))
    return figure


def extent(place: dict[str, Array]) -> tuple[float, float, float, float]:
    """West, east, south and north edge in degrees; the model calls its northern edge ymin."""
    return tuple(float(place[edge]) for edge in ("xmin", "xmax", "ymax", "ymin"))  # type: ignore


def draw_map(axes: Axes, values: Array, place: dict[str, Array], **how: Any) -> Any:
    """An array as a map whose kilometres are as long towards the east as towards the north."""
    image = axes.imshow(values, extent=extent(place), **how)
    dx, dy = place["cell"]
    axes.set_aspect(float(place["dx"] / place["dy"] * dy / dx))
    return image


def draw_relief(axes: Axes, elevation: Array, light: Array, place: dict[str, Array]) -> None:
    """Elevation as colour, light and shade as brightness."""
    colours = shades(LOWLAND_TO_SUMMIT)(heights(elevation)(elevation))[..., :3]
    level = np.median(light)
    bright = np.clip((light - level) / (1 - level), 0, 1)[..., None]
    dark = np.clip((level - light) / level, 0, 1)[..., None]
    shaded = colours * (1 - dark) ** 1.5
    shaded = shaded + (1 - shaded) * 0.75 * bright**1.2
    draw_map(axes, np.clip(shaded, 0, 1), place, interpolation="bicubic")
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.yaxis.set_major_locator(MultipleLocator(0.05))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{abs(x):.1f}° W"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.2f}° N"))
    axes.tick_params(length=3)


def shades(colours: str) -> LinearSegmentedColormap:
    """A colour map that runs through the given colours."""
    return LinearSegmentedColormap.from_list("shades", colours.split())


def heights(elevation: Array) -> Normalize:
    """The colour scale of elevations."""
    return Normalize(np.floor(elevation.min() / 50) * 50, np.ceil(elevation.max() / 50) * 50)


def draw_strips(axes: Axes, strips: dict[str, dict[str, Array]]) -> None:
    """Each strip's name; a line where it was trimmed, a band where it overlaps its neighbour."""
    for name, strip in sorted(strips.items()):
        reach_top, reach_end = latitudes(strip, "reach")
        top, end = latitudes(strip, "own")
        for band in ((reach_top, top), (end, reach_end)):
            axes.axhspan(*band, facecolor="white", alpha=0.2, linewidth=0)
        if strip["own"][0]:
            axes.axhline(top, color="white", linewidth=1.1, linestyle=(0, (6, 3)))
        axes.annotate(
            name,
            (1, (top + end) / 2),
            (-7, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "alpha": 0.75, "lw": 0},
        )


def latitudes(strip: dict[str, Array], rows: str) -> tuple[float, float]:
    """Northern and southern edge of a strip's rows, in degrees."""
    first, end = strip["ymin"] - strip[rows] * strip["dy"]
    return float(first), float(end)


def draw_scale_bar(axes: Axes, place: dict[str, Array], kilometres: int = 5) -> None:
    """A scale bar and an arrow to the north in the lower left corner."""
    west, _, south, north = extent(place)
    height = north - south
    degree = float(place["cell"][0] / place["dx"])
    x, y, length = west + 0.03 * height, south + 0.03 * height, 1000 * kilometres / degree
    box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "zorder": 3}
    axes.add_patch(
        mpl.patches.Rectangle((west, south), length + 0.115 * height, 0.085 * height, **box)
    )
    axes.plot([x, x + length], [y, y], color=INK, linewidth=3, solid_capstyle="butt", zorder=4)
    axes.plot([x, x + length / 2], [y, y], color="white", lw=1.6, solid_capstyle="butt", zorder=5)
    for share in (0, 0.5, 1):
        text = f"{share * kilometres:g}" + (" km" if share == 1 else "")
        axes.text(x + share * length, y + 0.012 * height, text, ha="center", fontsize=8, zorder=4)
    axes.annotate(
        "N",
        (x + length + 0.055 * height, y + 0.045 * height),
        (x + length + 0.055 * height, y - 0.012 * height),
        arrowprops={"arrowstyle": "-|>", "color": INK},
        ha="center",
        zorder=4,
    )


def draw_legend(figure: Figure, elevation: Array) -> None:
    """The colours of elevations beside the map."""
    axes = figure.add_axes((0.653, 0.075, 0.014, 0.36))
    colours = mpl.cm.ScalarMappable(heights(elevation), shades(LOWLAND_TO_SUMMIT))
    bar = figure.colorbar(colours, cax=axes)
    bar.outline.set_linewidth(0.5)
    axes.set_title("metres", fontsize=8, loc="left")
    axes.tick_params(length=2, labelsize=8)


def draw_slope(figure: Figure, slope: Array, place: dict[str, Array]) -> None:
    """The small map of slope."""
    axes = figure.add_axes((0.76, 0.67, 0.152, 0.205), title="Slope")
    image = draw_map(axes, slope, place, cmap="magma_r", vmin=0, vmax=35)
    small_bar(figure, axes, image, {0: "0°", 10: "10°", 20: "20°", 30: "30°"})


def draw_aspect(figure: Figure, aspect: Array, slope: Array, place: dict[str, Array]) -> None:
    """The small map of aspect; the flatter the ground, the paler."""
    axes = figure.add_axes((0.76, 0.375, 0.152, 0.205), title="Aspect (paler where flatter)")
    strength = np.clip(slope / 15, 0, 1)
    how = {"cmap": shades(NORTH_ROUND_TO_NORTH), "vmin": 0, "vmax": 360, "interpolation": "nearest"}
    draw_map(axes, aspect, place, alpha=strength, **how)
    colours = mpl.cm.ScalarMappable(Normalize(0, 360), how["cmap"])
    small_bar(figure, axes, colours, {0: "N", 90: "E", 180: "S", 270: "W", 360: "N"})


def draw_sunshine(figure: Figure, sunshine: Array, place: dict[str, Array]) -> None:
    """The small map of direct sunlight in a year."""
    axes = figure.add_axes((0.76, 0.08, 0.152, 0.205), title="Direct sunlight, kWh/m² a year")
    low, high = np.percentile(sunshine, (1, 99)).round(-2)
    image = draw_map(axes, sunshine, place, cmap="inferno", vmin=low, vmax=high)
    small_bar(
        figure, axes, image, {value: f"{value:.0f}" for value in (low, (low + high) / 2, high)}
    )


def small_bar(figure: Figure, axes: Axes, colours: Any, ticks: dict[int, str]) -> None:
    """A colour bar just under a small map, which has no ticks of its own."""
    axes.set(xticks=[], yticks=[])
    west, south, width, _ = axes.get_position(original=True).bounds
    below = figure.add_axes((west, south - 0.025, width, 0.013))
    bar = figure.colorbar(colours, cax=below, orientation="horizontal")
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.outline.set_linewidth(0.5)
    below.tick_params(length=2, labelsize=8)


def draw_title(figure: Figure, elevation: Array, place: dict[str, Array], strips: int) -> None:
    """Title, and one line that says what the map is made of."""
    rows, columns = elevation.shape
    dx, dy = place["cell"]
    figure.text(
        0.068, 0.935, "The Jacksboro fault in the Cumberland Mountains", fontsize=19, weight="bold"
    )
    figure.text(
        0.068,
        0.902,
        f"USGS elevation model, {rows} by {columns} cells of {dx:.0f} by {dy:.0f} m,"
        f" {elevation.min():.0f} to {elevation.max():.0f} m,"
        f" processed in {strips} overlapping strips",
        fontsize=10.5,
    )
