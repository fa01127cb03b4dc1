"""The entry point: while the command is loaded, Ctrl-C ends it without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command and run it; ends the process."""
    ends = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ends:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from encamp.cli.command_line import main as command

    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()
