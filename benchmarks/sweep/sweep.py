import csv
import shutil
import subprocess
import tempfile
from pathlib import Path

from joblib import Memory, Parallel, delayed

FILES = ["filter.cir", "parts.inc", "measure.sp"]


@Memory("cache", verbose=0).cache
def simulate(seed):
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            shutil.copy(name, folder)
        command = ["ngspice", "-b", "-n", "-D", f"seed={seed}", "measure.sp"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return float(Path(folder, "corner.txt").read_text().split()[1])


seeds = range(1, 301)
corners = Parallel(n_jobs=2)(delayed(simulate)(seed) for seed in seeds)
with Path("results.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["seed", "corner_hz"])
    table.writerows(zip(seeds, corners, strict=True))
