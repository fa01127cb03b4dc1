"""What the site shows besides docs/: the changelog, the examples, the command's help."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import command_page

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "report.md",
    "examples/circuit/README.md": "examples/circuit.md",
    "examples/sampling/README.md": "examples/sampling.md",
    "examples/terrain/README.md": "examples/terrain.md",
}
_LINK = re.compile(r"(?<!!)\[([^]\n]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]+)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each of these files."""
    for name, page in SHOWN.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    files.append(File.generated(config, "reference/command.md", content=command_page.page()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Have links that lead out of docs/ lead to those pages, and others be plain text."""
    shown = page.file.src_uri
    sources = {page: name for name, page in SHOWN.items()}
    source = sources.get(shown, f"docs/{shown}")

    def relinked(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        to = page_of(path)
        if to is None:
            return text
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(shown) or '.')}{anchor})"

    return _LINK.sub(relinked, markdown)


def page_of(path: str) -> str | None:
    """The page that shows a file or folder of the project; None if there is none."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "README.md":
        return "index.md"
    return SHOWN.get(path) or SHOWN.get(f"{path}/README.md")
