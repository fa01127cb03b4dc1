"""Yield of the Monte Carlo runs against the specification, as a table and as histograms.

    python3 summarise.py MEASURES SPEC

Reads every ``*.txt`` in the folder MEASURES (lines of name and value) and the limits in the file
SPEC; writes yield.txt (per corner), yield.csv (per run) and yield.svg. Standard library only.
"""

import csv
import sys
import tomllib
from pathlib import Path
from statistics import mean, stdev

CORNERS = {"tt": "#6b7280", "ff": "#e07a5f", "ss": "#3d7ea6", "fs": "#e0a83e", "sf": "#5fa777"}
BINS = 30
WIDTH, HEIGHT, GAP = 300, 150, 46  # of one panel, in pixels
INK, LIMIT, BEYOND = "#1f2937", "#c0392b", "#fdecea"

Run = dict[str, str | float]
Limits = dict[str, dict[str, str | float]]


def main(measures: str, specification: str) -> None:
    spec = tomllib.loads(Path(specification).read_text(encoding="utf-8"))
    runs = [read_run(path, spec) for path in sorted(Path(measures).glob("*.txt"))]
    if not runs:
        sys.exit(f"no measures in {measures}")
    write_table(runs, spec)
    write_runs(runs, spec)
    Path("yield.svg").write_text("\n".join(sheet(runs, spec)), encoding="utf-8")


def read_run(path: Path, spec: Limits) -> Run:
    """One run: its name, its corner and each measure that the specification names."""
    values = dict((*line.split(), "", "")[:2] for line in path.read_text().splitlines())
    try:
        measures = {name: float(values[name]) for name in spec}
        return {"run": path.stem, "corner": values["corner"], **measures}
    except (KeyError, ValueError) as error:
        sys.exit(f"{path}: incomplete: {error}")


def failures(run: Run, spec: Limits) -> list[str]:
    """The measures of a run that miss their limits."""
    return [name for name in spec if not within(run[name], spec[name])]


def within(value: float, limit: dict) -> bool:
    return limit.get("min", value) <= value <= limit.get("max", value)


def passed(runs: list[Run], spec: Limits) -> int:
    return sum(not failures(run, spec) for run in runs)


def by_corner(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs of each corner that has some, in the order of CORNERS."""
    groups = {corner: [run for run in runs if run["corner"] == corner] for corner in CORNERS}
    return {corner: group for corner, group in groups.items() if group}


def write_table(runs: list[Run], spec: Limits) -> None:
    """yield.txt: how many runs pass at each corner, and mean and spread of each measure."""
    lines = ["corner  runs  pass  yield  " + "".join(f"{name:>18}" for name in spec)]
    for corner, group in {**by_corner(runs), "all": runs}.items():
        good = passed(group, spec)
        spread = "".join(f"{mean_and_spread(group, name):>18}" for name in spec)
        lines.append(
            f"{corner:6} {len(group):5} {good:5} {100 * good / len(group):5.1f}%  {spread}"
        )
    misses = [f"{sum(name in failures(run, spec) for run in runs)}" for name in spec]
    lines.append(f"{'miss the limit':27}" + "".join(f"{miss:>18}" for miss in misses))
    limits = [limit_text(limit) for limit in spec.values()]
    lines.append(f"{'limit':27}" + "".join(f"{limit:>18}" for limit in limits))
    text = "\n".join(lines) + "\n"
    Path("yield.txt").write_text(text, encoding="utf-8")
    print(text, end="")


def mean_and_spread(runs: list[Run], name: str) -> str:
    values = [run[name] for run in runs]
    return f"{mean(values):.2f} ± {stdev(values) if len(values) > 1 else 0:.2f}"


def limit_text(limit: dict) -> str:
    if "min" in limit and "max" in limit:
        return f"{limit['min']} to {limit['max']}"
    return f"≥ {limit['min']}" if "min" in limit else f"≤ {limit['max']}"


def write_runs(runs: list[Run], spec: Limits) -> None:
    """yield.csv: every run with its measures and what it misses."""
    with Path("yield.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["run", "corner", *spec, "misses"])
        for run in runs:
            table.writerow([*run.values(), " ".join(failures(run, spec))])


def sheet(runs: list[Run], spec: Limits) -> list[str]:
    """yield.svg: a histogram of each measure, and the yield at each corner."""
    width, height = 3 * (WIDTH + GAP) + GAP, 2 * (HEIGHT + 2 * GAP) + 66
    good = passed(runs, spec)
    subtitle = f"{good} of {len(runs)} runs meet the specification; pink is beyond a limit"
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="Helvetica, Arial, sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        box(0, 0, width, height, "#ffffff"),
        text(GAP, 36, f"Yield {100 * good / len(runs):.1f} %", 'font-size="20" font-weight="bold"'),
        text(GAP, 56, subtitle),
    ]
    parts += legend(width - GAP, 36, by_corner(runs))
    panels = [histogram(runs, name, limit) for name, limit in spec.items()]
    panels.append(yield_bars(runs, spec))
    for number, panel in enumerate(panels):
        x = GAP + number % 3 * (WIDTH + GAP)
        y = 66 + GAP + number // 3 * (HEIGHT + 2 * GAP)
        parts += [f'<g transform="translate({x} {y})">', *panel, "</g>"]
    return [*parts, "</svg>", ""]


def histogram(runs: list[Run], name: str, limit: dict) -> list[str]:
    """One measure's histogram, the corners on top of each other, the limits as lines."""
    low, high = axis_range([run[name] for run in runs], limit)
    scale = WIDTH / (high - low)
    parts = [text(0, -12, f"{limit['title']} ({limit['unit']})", 'font-weight="bold"')]
    for edge, start, end in (("min", low, limit.get("min")), ("max", limit.get("max"), high)):
        if edge in limit:
            parts.append(box((start - low) * scale, 0, (end - start) * scale, HEIGHT, BEYOND))
    parts += stacks(runs, name, low, high)
    for edge in ("min", "max"):
        if edge in limit:
            parts.append(mark((limit[edge] - low) * scale))
    return parts + axis(low, high)


def axis_range(values: list[float], limit: dict) -> tuple[float, float]:
    """Lowest and highest value of an axis that shows all values and limits, with a margin."""
    shown = [*values, *(limit[edge] for edge in ("min", "max") if edge in limit)]
    air = 0.06 * (max(shown) - min(shown)) or 1
    return min(shown) - air, max(shown) + air


def stacks(runs: list[Run], name: str, low: float, high: float) -> list[str]:
    """The bars of a histogram."""
    counts = {corner: [0] * BINS for corner in by_corner(runs)}
    for run in runs:
        counts[run["corner"]][int((run[name] - low) / (high - low) * BINS)] += 1
    unit = 0.92 * HEIGHT / max(map(sum, zip(*counts.values(), strict=True)))
    parts, tops = [], [0.0] * BINS
    for corner, row in counts.items():
        for place, count in enumerate(row):
            if count:
                tops[place] += count * unit
                x, bar = place * WIDTH / BINS, WIDTH / BINS - 1
                parts.append(box(x, HEIGHT - tops[place], bar, count * unit, CORNERS[corner]))
    return parts


def axis(low: float, high: float) -> list[str]:
    """A base line with about four round ticks."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / s < 6)
    parts = [f'<path d="M0 {HEIGHT}H{WIDTH}" stroke="{INK}"/>']
    for count in range(int(low // step) + 1, int(high // step) + 1):
        x = (count * step - low) * WIDTH / (high - low)
        label = f"{count * step:.10g}".replace("-", "\N{MINUS SIGN}")
        parts.append(text(x, HEIGHT + 17, label, 'text-anchor="middle"'))
        parts.append(f'<path d="M{x:.1f} {HEIGHT}v4" stroke="{INK}"/>')
    return parts


def mark(x: float) -> str:
    """The line of a limit."""
    return f'<path d="M{x:.1f} 0V{HEIGHT}" stroke="{LIMIT}" stroke-dasharray="4 3"/>'


def yield_bars(runs: list[Run], spec: Limits) -> list[str]:
    """The panel of the yield at each corner."""
    groups = by_corner(runs)
    row = HEIGHT / len(groups)
    parts = [text(0, -12, "Yield at each corner", 'font-weight="bold"')]
    for number, (corner, group) in enumerate(groups.items()):
        share, y = passed(group, spec) / len(group), number * row
        parts += [
            text(0, y + row / 2 + 4, corner),
            box(28, y + 4, WIDTH - 78, row - 8, "#eef0f3"),
            box(28, y + 4, (WIDTH - 78) * share, row - 8, CORNERS[corner]),
            text(WIDTH, y + row / 2 + 4, f"{100 * share:.0f} %", 'text-anchor="end"'),
        ]
    return parts


def legend(right: float, y: float, groups: dict[str, list[Run]]) -> list[str]:
    """The corners' colours, at the right end of the title."""
    parts = []
    for number, corner in enumerate(groups):
        x = right - (len(groups) - number) * 46
        parts += [box(x, y - 10, 11, 11, CORNERS[corner]), text(x + 16, y, corner)]
    return parts


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" {style}>{words}</text>'


if __name__ == "__main__":
    main(*sys.argv[1:])
