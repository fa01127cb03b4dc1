"""The page of documentation that shows every help text of the command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).resolve().parents[1]
_HEAD = """# The command

Every command shows this by `--help`; `man encamp` has all of it on one page.
`encamp completion bash` (or `zsh`, `fish`) prints what makes a shell complete command lines:

```sh
eval "$(encamp completion bash)"  # in ~/.bashrc
```
"""


def page() -> str:
    """Markdown with a section for each command."""
    sys.path.insert(0, str(ROOT / "src"))
    try:
        from encamp.cli.command_line import cli
    finally:
        sys.path.remove(str(ROOT / "src"))
    return _HEAD + "".join(sections(cli, "encamp"))


def sections(command: click.Command, words: str) -> list[str]:
    """The help of a command, then that of its subcommands."""
    context = command.context_class(
        command, info_name=words, help_option_names=["-h", "--help"], max_content_width=90
    )
    context.terminal_width = 90
    found = [f"\n## {words}\n\n```text\n{command.get_help(context)}\n```\n"]
    for name, part in getattr(command, "commands", {}).items():
        found += sections(part, f"{words} {name}")
    return found
