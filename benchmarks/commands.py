"""The same command for many small files: encamp beside the programs that people use for that.

Ours has a private folder for every task, outputs that are on the disk before they are seen, logs
and a journal; HyperQueue has a server and workers, the others have none of these.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import encamp
from benchmarks.peers.installed import HYPERQUEUE, installed
from benchmarks.timing import Figure, Side, compare

FILES = 1000
RUNS = 3
CORES = 2
_MAKEFILE = """\
FOUND := $(wildcard {data}/*.txt)
all: $(FOUND:{data}/%.txt={made}/%.sorted)
{made}/%.sorted: {data}/%.txt
\tsort -n $< -o $@
"""
_HYPERQUEUE = """\
import os
import sys
import time
from pathlib import Path
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
data, made, cores = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=cores))
    client, job = cluster.client(), Job()
    files = sorted(data.glob("*.txt"))
    for file in files:
        job.program(["sort", "-n", str(file), "-o", f"{made}/{file.stem}.sorted"], cwd=made)
    client.submit(job)
    while sum(name.endswith(".sorted") for name in os.listdir(made)) < len(files):
        time.sleep(0.05)  # its own wait looks only once a second
"""


def figures(folder: Path) -> Iterator[Figure]:
    """How many times as fast as each peer we are."""
    data, made = folder / "data", folder / "made"
    data.mkdir(parents=True)
    numbers = random.Random(1)
    for number in range(FILES):
        lines = (f"{numbers.randrange(1000)}\n" for _ in range(100))
        (data / f"f{number:04}.txt").write_text("".join(lines))
    ours = Side(lambda: _ours(data, folder / "ours"), before=lambda: _emptied(folder / "ours"))
    for name, at_least, program, run in _peers(data, made):
        if program is None:
            print(f"  (no figure beside {name}: it is not installed)")
            continue
        theirs = Side(run, before=lambda: _emptied(made), after=lambda: _check(made))
        what = f"{FILES} sorts of small files by map_files, to {name}"
        yield compare(what, ours, theirs, at_least=at_least, runs=RUNS)
        if name == "GNU parallel":
            what = f"{FILES} sorts of small files by the command encamp map, to {name}"
            command = replace(ours, action=lambda: _by_command(data, folder / "ours"))
            yield compare(what, command, theirs, at_least=0.67, runs=RUNS)


def _ours(data: Path, to: Path) -> None:
    step, outputs = "sort -n {input} -o {stem}.sorted", {"*.sorted": "."}
    report = encamp.map_files(step, f"{data}/*.txt", to=to, outputs=outputs, slots=CORES)
    assert report.count("done") == FILES


def _by_command(data: Path, to: Path) -> None:
    line = [sys.executable, "-m", "encamp", "map", "-q", f"-j{CORES}", f"--to={to}"]
    line += ["--outputs=*.sorted", "sort -n {input} -o {stem}.sorted", f"{data}/*.txt"]
    subprocess.run(line, check=True)


def _peers(
    data: Path, made: Path
) -> Iterator[tuple[str, float, object | None, Callable[[], object]]]:
    files = b"\n".join(map(os.fsencode, sorted(data.iterdir())))
    line = f"sort -n {{}} -o {made}/{{/.}}.sorted"
    parallel = ["parallel", f"-j{CORES}", line]
    yield "GNU parallel", 1.5, shutil.which("parallel"), lambda: _run(parallel, files)
    command = [sys.executable, "-c", _HYPERQUEUE, str(data), str(made), str(CORES)]
    hyperqueue = _hyperqueue()
    yield "HyperQueue (started for it)", 1, hyperqueue, lambda: _run(command, b"", hyperqueue)
    shell = f'sort -n "$0" -o {made}/$(basename "$0" .txt).sorted'
    xargs = ["xargs", f"-P{CORES}", "-d", "\n", "-n1", "sh", "-c", shell]
    yield "xargs sh -c", 0.3, shutil.which("xargs"), lambda: _run(xargs, files)
    makefile = made.parent / "Makefile"
    makefile.write_text(_MAKEFILE.format(data=data, made=made))
    make = ["make", "-s", f"-j{CORES}", "-f", str(makefile)]
    yield "make", 0.2, shutil.which("make"), lambda: _run(make, b"")


def _hyperqueue() -> Path | None:
    try:
        return installed(HYPERQUEUE)
    except subprocess.CalledProcessError:
        return None


def _run(words: list[str], text: bytes, packages: Path | None = None) -> None:
    environment = os.environ if packages is None else {**os.environ, "PYTHONPATH": str(packages)}
    subprocess.run(words, input=text, stdout=subprocess.DEVNULL, check=True, env=environment)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _check(made: Path) -> None:
    assert len(list(made.glob("*.sorted"))) == FILES
