"""Turn an elevation model into maps, strip by strip: encamp's demo job.

    encamp run examples/terrain/terrain.py
    python examples/terrain/terrain.py [DESTINATION] [--minutes 6]

The model is cut into overlapping strips. Each strip is a task in a private folder of its own:
it finds its strip there, makes its grids there, and encamp brings them to the destination.
"""

import argparse
from pathlib import Path

import elevation
from matplotlib.cbook import get_sample_data

import encamp


def draw(picture: str) -> None:
    """Draw the map; only the process that draws needs to load the drawing code."""
    import relief

    relief.draw_files(picture)


options = argparse.ArgumentParser()
options.add_argument("to", nargs="?", default="demo/terrain", help="destination")
options.add_argument("--minutes", type=int, default=6, help="between two positions of the sun")
given = options.parse_args()

here = Path(__file__).parent
to = Path(given.to).absolute()
model = Path(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))
survey = here / "survey.toml"
strips = elevation.strip_names(survey)

# Every task reads the survey's parameters, so they are a job input: fetched once to each host.
job = encamp.Job("terrain", to=to, mirror=[str(survey)])

job.add(
    "cut",
    encamp.call(elevation.cut_files, model.name),
    mirror=[str(model)],
    outputs={"strip-*.npz": "strips"},
)

for name in strips:
    job.add(
        name,
        [
            encamp.call(elevation.import_files, f"{name}.npz", f"{name}.grid.npz"),
            encamp.call(elevation.grid_files, f"{name}.grid.npz", name),
            encamp.call(elevation.sunshine_files, f"{name}.grid.npz", name, given.minutes),
        ],
        mirror=encamp.outputs_of("cut", f"{name}.npz"),
        outputs={f"{name}.grid.npz": "import", f"{name}.*.npy": "grid"},
    )

job.add(
    "mosaic",
    [elevation.mosaic_files, encamp.call(draw, "terrain.png")],
    mirror=encamp.outputs_of("strip-*"),
    outputs={"terrain.png": ".", **{f"{made}.npy": "mosaic" for made in elevation.MOSAIC}},
)

if __name__ == "__main__":
    report = job.run()
