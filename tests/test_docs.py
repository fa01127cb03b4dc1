"""Every code sample of the documentation runs as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/cluster.md",
    "docs/dask.md",
    "docs/executors.md",
    "docs/hosts.md",
    "docs/ipyparallel.md",
    "docs/isd.md",
    "docs/map.md",
    "docs/pyopus.md",
    "docs/services.md",
    "docs/slurm.md",
    "docs/storage.md",
    "docs/table.md",
    "docs/watching.md",
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ENCAMP = Path(sys.executable).with_name("encamp")


def _blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    found = _BLOCK.findall((ROOT / page).read_text())
    return [(language, text) for language, text in found if language in languages]


@pytest.fixture
def survey(here: Path) -> Path:
    """The folder that the pages speak of: some strips of points, and a configuration."""
    (here / "data").mkdir()
    for number in (1, 2):
        heights = [str((number * 7919 + i * 104729) % 1000) for i in range(50)]
        (here / f"data/strip-{number}.xyz").write_text("\n".join(heights) + "\n")
    (here / "survey.cfg").write_text("sun = 45\n")
    return here


@pytest.mark.parametrize("page", PAGES)
def test_the_python_samples_of_a_page_run_from_top_to_bottom(page: str, survey: Path) -> None:
    samples = "\n\n".join(text for _, text in _blocks(page, "python"))
    script = survey / "samples.py"
    script.write_text(f"{samples}\nif 'report' in globals():\n    assert report.ok\n")
    environment = {**os.environ, "IPYTHONDIR": str(survey / "ipython"), "JUPYTER_NO_CONFIG": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=110
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_names_the_results_of_its_samples(survey: Path) -> None:
    samples = "\n\n".join(text for _, text in _blocks("README.md", "python"))
    (survey / "samples.py").write_text(samples)
    subprocess.run([sys.executable, "samples.py"], check=True, capture_output=True, timeout=110)
    made = {str(path.relative_to(survey)) for path in survey.rglob("*") if path.is_file()}
    assert made >= {
        "sums/strip-1.sum",
        "maxima/strip-2.max",
        "results/sorted/strip-1.sorted",
        "results/means/strip-1.mean",
        "results/packed/strip-2.mean.gz",
        "results/all.txt",
        "results/survey.job/report.html",
    }
    numbers = [float(line) for line in Path("data/strip-1.xyz").read_text().split()]
    assert float(Path("sums/strip-1.sum").read_text()) == sum(numbers)
    assert Path("results/sorted/strip-1.sorted").read_text().split() == sorted(
        Path("data/strip-1.xyz").read_text().split(), key=float
    )


def test_the_job_file_and_the_commands_of_the_readme_run(survey: Path) -> None:
    [(_, job_file)] = _blocks("README.md", "toml")
    (survey / "sums.toml").write_text(job_file)
    lines = [line for _, text in _blocks("README.md", "console") for line in text.splitlines()]
    commands = [line.removeprefix("$ ") for line in lines if "$ encamp" in line]
    assert len(commands) == 6
    for command in commands:
        line = command.replace("encamp", str(_ENCAMP), 1)
        done = subprocess.run(line, shell=True, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
    total = (survey / "results/sums/strip-1.sum").read_text()
    assert float(total) == sum(map(float, (survey / "data/strip-1.xyz").read_text().split()))


def test_the_commands_of_the_page_about_map_print_what_it_says(survey: Path) -> None:
    for number in (1, 2):
        heights = "".join(f"{height}\n" for height in range(number, 100, 3))
        (survey / f"data/strip-{number}.xyz").write_text(heights)
    samples = _blocks("docs/map.md", "console")
    lines = [line for _, text in samples for line in text.splitlines()]
    script = "".join(f"{line[2:]}\n" for line in lines if line.startswith("$ "))
    path = f"{_ENCAMP.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace("ls ", "ls -C -w 80 ")],
        capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in lines if not line.startswith("$ ")]
    assert [line.split() for line in done.stdout.splitlines()] == printed


def test_the_job_file_of_the_page_about_tables_prints_what_it_says(survey: Path) -> None:
    [(_, job_file)] = _blocks("docs/table.md", "toml")
    (survey / "mc.toml").write_text(job_file)
    done = subprocess.run([str(_ENCAMP), "run", "mc.toml"], capture_output=True, timeout=110)
    assert done.returncode == 0, done.stderr
    [(_, shown)] = _blocks("docs/table.md", "console")
    table = (survey / "results/mc.job/results.csv").read_text().splitlines()
    assert table[:3] == shown.splitlines()[2:]
    assert len(table) == 101


@pytest.mark.parametrize("page", [*PAGES, "docs/architecture.md", "CONTRIBUTING.md"])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text())
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"\b(?:cli|jobs|agent|storage)/\w+\.py", text))
    assert named
    assert [name for name in sorted(named) if not (ROOT / "src/encamp" / name).exists()] == []
