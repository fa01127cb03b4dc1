"""Completion of command lines in shells: ``eval "$(encamp completion bash)"``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from encamp.errors import BadJob

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHELLS = ("bash", "fish", "zsh")
_VARIABLE = "_ENCAMP_COMPLETE"
"""The environment variable that shells use to ask click for completions."""


def script_for(shell: str, command: click.Command) -> str:
    """A shell script that completes ``command``; raises `BadJob`."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise BadJob("shell", f"must be one of {', '.join(SHELLS)}, not {shell!r}")
    return kind(command, {}, "encamp", _VARIABLE).source()


def engines(_context: click.Context, _option: click.Parameter, start: str) -> list[CompletionItem]:
    """The engines whose names begin with the given text."""
    from click.shell_completion import CompletionItem

    from encamp.engines.find_engine import engine_names

    return [CompletionItem(name) for name in engine_names() if name.startswith(start)]


def files(_context: click.Context, _option: click.Parameter, start: str) -> list[CompletionItem]:
    """Lets the shell complete names of files."""
    return _from_disk(start, "file")


def folders(_context: click.Context, _option: click.Parameter, start: str) -> list[CompletionItem]:
    """Lets the shell complete names of folders."""
    return _from_disk(start, "dir")


def _from_disk(start: str, kind: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(start, type=kind)]
