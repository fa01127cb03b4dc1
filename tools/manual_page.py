"""Makes the manual page encamp(1) from the command's help while a wheel is built.

It is installed to ``share/man/man1`` of the environment, where ``man encamp`` finds it. To read it
from a clone: ``python tools/manual_page.py > encamp.1 && man ./encamp.1``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).resolve().parents[1]


class ManualPage(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the page to the files of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        page = Path(self.folder.name, "encamp.1")
        page.write_text(manual_page(), encoding="utf-8")
        build_data["shared_data"][str(page)] = "share/man/man1/encamp.1"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.folder.cleanup()


def manual_page() -> str:
    """The page as troff source, for man(7)."""
    sys.path.insert(0, str(ROOT / "src"))
    try:
        from encamp.cli.command_line import cli
        from encamp.version import __version__
    finally:
        sys.path.remove(str(ROOT / "src"))
    return "\n".join(page_lines(cli, __version__)) + "\n"


def page_lines(cli: click.Group, version: str) -> Iterator[str]:
    """Name, description and options of the command, then the same of each subcommand."""
    summary, _, description = (cli.help or "").partition("\n\n")
    yield f'.TH ENCAMP 1 "" "encamp {version}" "User Commands"'
    yield from (".SH NAME", f"encamp \\- {escaped(summary.rstrip('.'))}")
    yield from (".SH SYNOPSIS", r"\fBencamp\fR \fICOMMAND\fR [\fIOPTION\fR]... [\fIARGUMENT\fR]...")
    yield ".SH DESCRIPTION"
    yield from paragraphs(description)
    yield ".SH OPTIONS"
    yield from option_lines(cli, "encamp")
    yield ".SH COMMANDS"
    for words, command in subcommands(cli, "encamp"):
        yield from command_lines(words, command)


def subcommands(group: click.Group, words: str) -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, with the words that call them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from subcommands(command, f"{words} {name}")  # type: ignore[arg-type]
        else:
            yield f"{words} {name}", command


def command_lines(words: str, command: click.Command) -> Iterator[str]:
    """One subcommand: how it is called, what it does, its options."""
    usage = " ".join(command.collect_usage_pieces(context(command, words)))
    yield f'.SS "{escaped(words)} {escaped(usage)}"'
    yield from paragraphs(command.help or "")
    yield from option_lines(command, words)


def option_lines(command: click.Command, words: str) -> Iterator[str]:
    """Each option with its help."""
    where = context(command, words)
    for parameter in command.get_params(where):
        record = parameter.get_help_record(where)
        if record is not None and record[1]:
            yield from (".TP", rf"\fB{escaped(record[0])}\fR", escaped(record[1]))


def context(command: click.Command, words: str) -> click.Context:
    return command.context_class(command, info_name=words, help_option_names=["-h", "--help"])


def paragraphs(text: str) -> Iterator[str]:
    """Help as paragraphs; those that click marks by a backspace keep their lines."""
    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        kept = paragraph.lstrip().startswith("\b")
        lines = [line for line in paragraph.replace("\b", "").splitlines() if line.strip()]
        yield from (".PP", ".nf") if kept else (".PP",)
        yield from (
            escaped(line.strip() if not kept else line.removeprefix("  ")) for line in lines
        )
        if kept:
            yield ".fi"


def escaped(text: str) -> str:
    """Text in which troff sees no command of its own, in ASCII."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    text = "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in text)
    return rf"\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    print(manual_page(), end="")  # noqa: T201
