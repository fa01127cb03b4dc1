"""The answer of a subcommand, on standard output."""

from __future__ import annotations

from encamp.errors import shown


def print_answer(*lines: str) -> None:
    """Print lines, with control characters escaped. Raises OSError."""
    for line in lines:
        print(shown(line))  # noqa: T201 - the command's answer
