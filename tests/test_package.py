"""What a wheel holds, and what else says which version this is."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

from encamp.version import __version__

ROOT = Path(__file__).parents[1]


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        [metadata] = [name for name in file.namelist() if name.endswith("METADATA")]
        facts = message_from_bytes(file.read(metadata))
        entry = file.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    source = [path for path in (ROOT / "src").rglob("*") if path.is_file()]
    own = {str(path.relative_to(ROOT / "src")) for path in source if path.suffix != ".pyc"}
    assert names == own
    assert {"encamp/py.typed", "encamp/jobs/report/report.html"} <= names
    assert facts["Version"] == __version__
    assert facts["License-Expression"] == "BSD-3-Clause"
    assert facts.get_payload().startswith("# encamp")
    assert "encamp = encamp.cli.main:main" in entry


def test_the_citation_names_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert re.findall("^version: (.*)$", text, re.MULTILINE) == [__version__]
