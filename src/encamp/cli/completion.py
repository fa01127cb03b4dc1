"""Completing command lines in shells: ``eval "$(encamp completion bash)"``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from encamp.errors import BadJob

SHELLS = ("bash", "fish", "zsh")
_VARIABLE = "_ENCAMP_COMPLETE"
"""Where click looks for what a shell asks."""


def script_for(shell: str, command: click.Command) -> str:
    """What makes a shell complete ``command``; raises `BadJob`."""
    kind = get_completion_class(shell)
    if kind is None:
        raise BadJob("shell", f"must be one of {', '.join(SHELLS)}, not {shell!r}")
    return kind(command, {}, "encamp", _VARIABLE).source()


def engines(_context: click.Context, _option: click.Parameter, start: str) -> list[CompletionItem]:
    """The engines whose names begin so."""
    from encamp.engines.registry import engine_names

    return [CompletionItem(name) for name in engine_names() if name.startswith(start)]


def files(_context: click.Context, _option: click.Parameter, start: str) -> list[CompletionItem]:
    """Has the shell look for files."""
    return [CompletionItem(start, type="file")]


def folders(_context: click.Context, _option: click.Parameter, start: str) -> list[CompletionItem]:
    """Has the shell look for folders."""
    return [CompletionItem(start, type="dir")]
