"""The circuit example: one run by hand, the summary, and the whole job with a real simulator."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections import Counter
from pathlib import Path
from statistics import mean
from xml.etree import ElementTree

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "circuit"
COMMAND = Path(sysconfig.get_path("scripts"), "encamp")
CORNERS = ("tt", "ff", "ss", "fs", "sf")
MEASURES = ("gain_db", "unity_mhz", "margin_deg", "offset_mv", "supply_ua")

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="session")
def ngspice() -> str:
    """The simulator's path; where there is none the test is skipped, or fails if it must run."""
    found = shutil.which("ngspice")
    if found is None and os.environ.get("ENCAMP_REQUIRE_ENGINES"):
        pytest.fail("ENCAMP_REQUIRE_ENGINES is set, but there is no ngspice on the PATH")
    if found is None:
        pytest.skip("there is no ngspice on the PATH (apt install ngspice)")
    return found


@pytest.fixture
def bench(ngspice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the job's inputs, as the current folder."""
    for name in ("models.lib", "opamp.cir", "measure.sp"):
        shutil.copy(EXAMPLE / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulate(corner: str, seed: int) -> subprocess.CompletedProcess[str]:
    values = ["-D", f"corner={corner}", "-D", f"seed={seed}"]
    line = ["ngspice", "-b", "-n", *values, "measure.sp"]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=30)


def measures(path: Path) -> dict[str, str]:
    return dict(line.split() for line in path.read_text().splitlines())


def test_a_seed_repeats_its_run_and_another_seed_does_not(bench: Path) -> None:
    results = []
    for seed in (7, 7, 8):
        assert simulate("ss", seed).returncode == 0
        results.append(measures(bench / "measure.txt"))
    assert results[0] == results[1]
    assert all(results[0][name] != results[2][name] for name in MEASURES)


def test_typical_amplifier_matches_hand_calculation(bench: Path) -> None:
    models = bench / "models.lib"
    still = re.sub(r"agauss\(([^,]+), [^,]+(?:\([^)]*\))?, 1\)", r"(\1)", models.read_text())
    assert "agauss" not in still.replace("* ", "")
    models.write_text(still)
    assert simulate("tt", 1).returncode == 0
    found = {name: float(value) for name, value in list(measures(Path("measure.txt")).items())[1:]}
    assert found["gain_db"] == pytest.approx(73, abs=3)
    assert found["unity_mhz"] == pytest.approx(6.0, rel=0.15)
    assert found["margin_deg"] == pytest.approx(61, abs=3)
    assert found["supply_ua"] == pytest.approx(140, rel=0.08)
    assert abs(found["offset_mv"]) < 1


def test_an_unknown_corner_ends_with_a_failure_and_writes_no_measures(bench: Path) -> None:
    assert simulate("nowhere", 1).returncode != 0
    assert not (bench / "measure.txt").exists()


def test_an_amplifier_that_cannot_be_measured_ends_with_a_failure(bench: Path) -> None:
    script = bench / "measure.sp"
    script.write_text(script.read_text().replace("vdb(out)=0", "vdb(out)=300"))
    assert simulate("tt", 1).returncode != 0
    assert not (bench / "measure.txt").exists()


def test_the_summary_names_a_file_that_is_incomplete(tmp_path: Path) -> None:
    (tmp_path / "mc-tt-001.txt").write_text("corner tt\nseed 1\ngain_db 75\nunity_mhz\n")
    line = [sys.executable, str(EXAMPLE / "summarise.py"), ".", str(EXAMPLE / "spec.toml")]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "mc-tt-001.txt" in done.stderr
    assert not (tmp_path / "yield.txt").exists()


@pytest.fixture(scope="module")
def finished(ngspice: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, its whole job run once by the command."""
    folder = tmp_path_factory.mktemp("circuit") / "circuit"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("results"))
    run_job(folder)
    return folder


def run_job(folder: Path, job: str = "opamp.toml") -> None:
    environment = os.environ | {"PARALLEL_LOCAL_STORAGE": str(folder.parent / "local")}
    line = [str(COMMAND), "run", str(folder / job)]
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr


def all_runs(folder: Path) -> dict[str, dict[str, str]]:
    found = (folder / "results" / "measures").glob("*.txt")
    return {path.stem: measures(path) for path in found}


def good(run: dict[str, str]) -> bool:
    """Whether a run meets the specification, written out independently of the summary."""
    return (
        float(run["gain_db"]) >= 74
        and float(run["unity_mhz"]) >= 4.5
        and float(run["margin_deg"]) >= 60
        and abs(float(run["offset_mv"])) <= 15
        and float(run["supply_ua"]) <= 180
    )


@pytest.mark.timeout(300)
def test_every_run_brings_back_its_own_measures(finished: Path) -> None:
    runs = all_runs(finished)
    assert set(runs) == {f"mc-{corner}-{run:03d}" for corner in CORNERS for run in range(1, 45)}
    assert len({run["seed"] for run in runs.values()}) == len(runs) == 220
    assert all(run["corner"] == name.split("-")[1] for name, run in runs.items())
    assert len({tuple(run[name] for name in MEASURES) for run in runs.values()}) == 220


def test_a_run_of_the_job_is_the_run_made_by_hand(finished: Path, bench: Path) -> None:
    published = finished / "results" / "measures" / "mc-fs-013.txt"
    simulate("fs", int(measures(published)["seed"]))
    assert (bench / "measure.txt").read_bytes() == published.read_bytes()


def test_the_yield_is_that_of_the_measures(finished: Path) -> None:
    runs = all_runs(finished)
    passed = Counter(run["corner"] for run in runs.values() if good(run))
    rows = (finished / "results" / "yield.txt").read_text().splitlines()
    table = {row.split()[0]: row.split() for row in rows}
    assert {corner: int(table[corner][2]) for corner in CORNERS} == {c: passed[c] for c in CORNERS}
    assert table["all"][1:3] == ["220", str(passed.total())]
    assert 0 < passed.total() < 220
    assert f"{100 * passed.total() / 220:.1f}%" == table["all"][3]


def test_the_table_of_runs_says_which_limits_a_run_misses(finished: Path) -> None:
    runs = all_runs(finished)
    with (finished / "results" / "yield.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(runs)
    for name, row in rows.items():
        assert (row["misses"] == "") == good(runs[name])
        assert all(float(row[measure]) == float(runs[name][measure]) for measure in MEASURES)


def test_the_table_of_the_job_has_every_run_with_its_corner_and_measures(finished: Path) -> None:
    runs = all_runs(finished)
    with (finished / "results" / "opamp.job" / "results.csv").open(newline="") as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(runs)
    for name, row in rows.items():
        assert name == f"mc-{row['corner']}-{int(row['run']):03d}"
        assert all(float(row[measure]) == float(runs[name][measure]) for measure in MEASURES)


def test_corners_differ_as_physics_has_it(finished: Path) -> None:
    runs = all_runs(finished).values()

    def at(corner: str, measure: str) -> float:
        return mean(float(run[measure]) for run in runs if run["corner"] == corner)

    assert at("ss", "supply_ua") < at("tt", "supply_ua") < at("ff", "supply_ua")
    assert at("ss", "unity_mhz") < at("tt", "unity_mhz") < at("ff", "unity_mhz")
    assert at("fs", "margin_deg") < at("tt", "margin_deg") < at("sf", "margin_deg")
    assert all(60 < float(run["gain_db"]) < 80 for run in runs)


def test_the_histograms_are_a_picture_that_holds_every_run(finished: Path) -> None:
    picture = ElementTree.parse(finished / "results" / "yield.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    spec = tomllib.loads((finished / "spec.toml").read_text())
    titles = [f"{limit['title']} ({limit['unit']})" for limit in spec.values()]
    assert set(titles) <= set(words)
    assert len(picture.findall(".//{http://www.w3.org/2000/svg}g")) == len(titles) + 1


@pytest.mark.timeout(300)
def test_another_limit_repeats_the_summary_but_no_simulation(finished: Path) -> None:
    measured = (finished / "results" / "measures").glob("*.txt")
    before = {path: path.stat().st_mtime_ns for path in measured}
    spec = finished / "spec.toml"
    text = spec.read_text()
    spec.write_text(text.replace("max = 180", "max = 1"))
    try:
        run_job(finished)
        assert "0.0%" in (finished / "results" / "yield.txt").read_text()
    finally:
        spec.write_text(text)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    run_job(finished)
