"""Runs the code samples of a page from top to bottom, as a reader would who copies each.

A fenced block with ``title="name"`` is a file. Python without a title is one program, shell and
console blocks are run where they stand between its parts, and what a console block shows below a
command must be what the command prints (``...`` stands for anything).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click

from encamp.cli.command_line import cli

__all__ = ["Block", "blocks", "check_command_line", "program", "run_page"]

TESTS = Path(__file__).parent
BIN = Path(sys.executable).parent
_BLOCK = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
ELSEWHERE = re.compile(r"--engine|--hosts|-e \w|encamp (doctor|attach|cache clear)|--follow|debug")
"""Commands that need other hosts, a terminal or a running program, or look at the whole machine."""
NOT_OURS = ("pip ", "make ", "sudo ", "mpirun ", "sbatch ", "git ", "man ", "pipx ")
"""Commands that install or build something, or need what tests do not have."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str

    def with_words(self, instead: Mapping[str, str]) -> Block:
        text = self.text
        for word, other in instead.items():
            text = re.sub(rf"\b{re.escape(word)}\b", other, text)
        return replace(self, text=text)


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = []
    for indent, language, rest, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        title = _TITLE.search(rest)
        lines = [line.removeprefix(indent) for line in text.splitlines(keepends=True)]
        found.append(Block(language, title[1] if title else None, "".join(lines)))
    return found


def program(page: Path, instead: Mapping[str, str]) -> str:
    """One Python program that does what the page shows, with some words replaced."""
    parts = [
        f"import sys\n\nsys.path.append({str(TESTS)!r})",
        "from page_samples import console as _console, file as _file, shell as _shell\n",
        f"sys.path.remove({str(TESTS)!r})",
    ]
    for block in blocks(page):
        block = block.with_words(instead)
        if block.title is not None:
            parts.append(f"_file({block.title!r}, {block.text!r})")
        elif block.language == "python":
            parts.append(block.text)
        elif block.language == "sh":
            parts.append(f"_shell({block.text!r})")
        elif block.language == "console":
            parts.append(f"_console({block.text!r})")
    return "\n".join([*parts, "if 'report' in globals():", "    assert report.ok", ""])


def run_page(page: Path, folder: Path, instead: Mapping[str, str]) -> None:
    """Run all samples of a page in a folder, with some words replaced."""
    script = folder / "samples.py"
    script.write_text(program(page, instead))
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_NO_CONFIG": "1",
        "COLUMNS": "80",
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder, capture_output=True, text=True, env=environment, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def file(name: str, text: str) -> None:
    """Write a file that the page shows."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def shell(text: str) -> None:
    """Run a block of the shell."""
    subprocess.run(["bash", "-e", "-c", text], check=True)


def console(text: str) -> None:
    """Run the commands of a console block, and compare what they print with what is shown."""
    for command, shown in commands(text):
        if command.startswith(NOT_OURS):
            continue
        if ELSEWHERE.search(command):
            check_command_line(command)
            continue
        line = re.sub(r"\bls ", "ls -C -w 80 ", command)
        wanted = re.search(r"  # exit status (\d+)$", line)
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.returncode == int(wanted[1] if wanted else 0), (command, done)
        if shown:
            compare(command, shown, done.stdout + done.stderr)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block with the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0] + "\n" + line, [])
        else:
            found[-1][1].append(line)
    return found


def compare(command: str, shown: list[str], printed: str) -> None:
    """Fail unless the lines agree, however wide the gaps between words are."""
    pattern = r"\s+".join(re.escape(word) for line in shown for word in line.split())
    pattern = pattern.replace(re.escape("..."), ".*")
    assert re.fullmatch(rf"\s*{pattern}\s*", printed, re.DOTALL), f"{command} printed:\n{printed}"


def check_command_line(line: str) -> None:
    """Fail unless ``encamp`` takes these words and options."""
    words = shlex.split(line, comments=True)
    if "encamp" not in words:
        return
    words = words[words.index("encamp") + 1 :]
    command: click.Command = cli
    context = click.Context(cli, info_name="encamp")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, line
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context(context.info_name, list(words), parent=context.parent)
