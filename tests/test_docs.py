"""Every code sample of the documentation runs as it is printed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import encamp
import encamp.errors
from conftest import need
from page_samples import blocks, run_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOT_RUN = {
    "docs/jobfile.md": "its samples are read and checked in test_jobfile.py",
    "docs/pvm.md": "its samples are run in engines/test_pvm_docs.py, where there is a PVM",
}
FEWER = {"docs/tutorials/circuit.md": {"300": "4", "310": "6", "10 to do": "2 to do"}}
"""What tests run less of than the page does, so that they take seconds."""
MADE = {"command.md", "reference/command.md"}
"""Pages that `make docs` makes from the help."""
NEEDED = {"docs/tutorials/circuit.md": "ngspice"}
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md"))]
RUN = [page for page in PAGES if blocks(ROOT / page) and page not in NOT_RUN]


@pytest.fixture
def survey(here: Path) -> Path:
    """The folder that the pages speak of: some strips of points, and a configuration."""
    (here / "data").mkdir()
    for number in (1, 2):
        heights = "".join(f"{height}\n" for height in range(number, 100, 3))
        (here / f"data/strip-{number}.xyz").write_text(heights)
    (here / "survey.cfg").write_text("sun = 45\n")
    return here


@pytest.mark.parametrize("page", RUN)
def test_the_samples_of_a_page_run_from_top_to_bottom(page: str, survey: Path) -> None:
    if page in NEEDED:
        need(NEEDED[page], shutil.which(NEEDED[page]) is not None)
    run_page(ROOT / page, survey, FEWER.get(page, {}))
    if page == "README.md":
        check_results_of_readme()


def check_results_of_readme() -> None:
    made = {str(path) for path in Path().rglob("*") if path.is_file()}
    assert made >= {
        "sums/strip-1.sum",
        "maxima/strip-2.max",
        "results/sorted/strip-1.sorted",
        "results/means/strip-1.mean",
        "results/packed/strip-2.mean.gz",
        "results/all.txt",
        "results/survey.job/report.html",
        "results/sums/strip-2.sum",
    }
    lines = Path("data/strip-1.xyz").read_text().split()
    assert float(Path("sums/strip-1.sum").read_text()) == sum(map(float, lines))
    assert float(Path("results/sums/strip-1.sum").read_text()) == sum(map(float, lines))
    assert Path("results/sorted/strip-1.sorted").read_text().split() == lines[::-1]


@pytest.mark.parametrize("page", PAGES)
def test_samples_that_are_not_run_are_python_at_least(page: str) -> None:
    for block in blocks(ROOT / page):
        if block.language == "py":
            compile(block.text, page, "exec")
            named = set(re.findall(r"\bencamp\.(\w+)", block.text)) - {"compat", "testing"}
            assert named <= set(encamp.__all__)


def test_every_public_name_is_in_the_reference() -> None:
    shown = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^::: encamp\.(\w+)$", shown, re.MULTILINE))
    errors = {name for name in encamp.__all__ if name in dir(encamp.errors)}
    assert named | errors | {"__version__"} >= set(encamp.__all__)
    assert "::: encamp.errors" in shown


def test_every_page_is_in_the_contents_of_the_site() -> None:
    contents = (ROOT / "mkdocs.yml").read_text()
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    assert [page for page in sorted(pages) if f" {page}\n" not in contents] == []


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text())
    folder = (ROOT / page).parent
    missing = [link for link in links if not (folder / link).exists() and link not in MADE]
    assert missing == []


@pytest.mark.parametrize("page", ["architecture", "decisions"])
def test_pages_about_the_code_name_files_that_exist(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    named = set(re.findall(r"[\w./-]+/\w+\.py\b", text))
    assert len(named) > 20
    places = ROOT, ROOT / "src/encamp"
    assert [name for name in sorted(named) if not any((p / name).exists() for p in places)] == []


def test_the_walks_name_functions_that_are_in_their_files() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    walks = text[text.index("## How to read the walks") : text.index("## Decisions, and why")]
    lines = re.findall(r"^(?:[ →←]*)([\w.]+) +([\w/]+\.py)\b", walks, re.MULTILINE)
    assert len(lines) > 120
    missing = []
    for name, file in lines:
        code = (ROOT / "src/encamp" / file).read_text()
        *owner, function = name.split(".")
        defined = re.search(rf"^ *(?:async )?(?:def|class) {function}\b", code, re.MULTILINE)
        if not defined or (owner and not re.search(rf"^class {owner[0]}\b", code, re.MULTILINE)):
            missing.append(f"{name} in {file}")
    assert missing == []
