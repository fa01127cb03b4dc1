"""The contents of wheel and source archive, their installation, and the version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from conftest import need
from encamp.version import __version__

ROOT = Path(__file__).parents[1]
PAGE = f"encamp-{__version__}.data/data/share/man/man1/encamp.1"
COMMANDS = ("run", "map", "status", "show", "clean", "cache list", "doctor", "completion")


def build(kind: str, source: Path, to: Path) -> Path:
    """Build ``sdist`` or ``wheel`` from a source folder."""
    line = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(to)]
    subprocess.run(line, cwd=source, check=True, capture_output=True, timeout=60)
    [made] = to.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the unpacked source archive, as `python -m build` does."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return build("wheel", folder / f"encamp-{__version__}", folder)


def test_a_wheel_holds_the_package_its_manual_page_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        [metadata] = [name for name in file.namelist() if name.endswith("METADATA")]
        facts = message_from_bytes(file.read(metadata))
        entry = file.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    source = [path for path in (ROOT / "src").rglob("*") if path.is_file()]
    own = {str(path.relative_to(ROOT / "src")) for path in source if path.suffix != ".pyc"}
    assert names == own | {PAGE}
    assert {
        "encamp/py.typed",
        *(f"encamp/jobs/report/{name}" for name in ("page.html", "page.css", "draw_page.js")),
    } <= names
    assert facts["Version"] == __version__
    assert facts["License-Expression"] == "BSD-3-Clause"
    assert facts.get_payload().startswith("# encamp")
    assert "encamp = encamp.cli.start:main" in entry


def test_sdist_holds_exactly_what_make_needs(archive: Path) -> None:
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[1] for name in file.getnames()}
    folders = ("benchmarks", "docs", "examples", "requirements", "src", "tests", "tools")
    files = [path for folder in folders for path in tracked(ROOT / folder)]
    expected = {str(path.relative_to(ROOT)) for path in files}
    assert {name for name in names if "/" in name} == expected
    assert {name for name in names if "/" not in name} >= {
        "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "mkdocs.yml",
        "pyproject.toml",
    }  # fmt: skip


def tracked(folder: Path) -> Iterator[Path]:
    """The files of a folder without what tools and runs leave there."""
    made = {"__pycache__", "results"}
    for path in folder.rglob("*"):
        if path.is_file() and made.isdisjoint(path.parts):
            yield path


def test_an_installed_wheel_has_the_command_and_its_manual_page(
    wheel: Path, tmp_path: Path
) -> None:
    line = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    line.append("--ignore-installed")  # else pip removes the encamp that runs these tests
    subprocess.run([*line, "--prefix", tmp_path, wheel], check=True, timeout=60)
    [site] = tmp_path.glob("lib/*/site-packages")
    result = subprocess.run(
        [tmp_path / "bin/encamp", "--version"],
        env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.stdout == f"encamp, version {__version__}\n", result.stderr
    page = (tmp_path / "share/man/man1/encamp.1").read_text(encoding="ascii")
    assert re.findall(r"^\.SH (.*)$", page, re.MULTILINE) == [
        "NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS",
    ]  # fmt: skip
    sections = re.findall(r'^\.SS "encamp ([a-z ]+[a-z])', page, re.MULTILINE)
    assert set(COMMANDS) <= set(sections)
    assert r"\fB\-\-max\-failures N\fR" in page


def test_the_manual_page_is_set_without_a_warning(wheel: Path, tmp_path: Path) -> None:
    need("groff", shutil.which("groff") is not None)
    with zipfile.ZipFile(wheel) as file:
        (tmp_path / "encamp.1").write_bytes(file.read(PAGE))
    line = ["groff", "-man", "-ww", "-Tutf8", tmp_path / "encamp.1"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("ENCAMP(1)")


def test_the_citation_names_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert re.findall("^version: (.*)$", text, re.MULTILINE) == [__version__]


def test_a_version_that_is_released_has_its_notes() -> None:
    heads = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert ".dev" in __version__ or heads[1] == __version__
