"""How a process ended, in words."""

from __future__ import annotations

import signal


def ending_text(exit_code: int) -> str:
    """How a process ended, by its exit code as `subprocess` gives it."""
    if exit_code >= 0:
        return f"ended with exit status {exit_code}"
    name = signal_name(-exit_code)
    hint = {
        "SIGSEGV": ", a crash in compiled code",
        "SIGKILL": ", often because memory ran out",
    }.get(name, "")
    return f"was killed by {name}{hint}"


def signal_name(number: int) -> str:
    """The name of a signal, such as SIGTERM, or SIGRTMIN+3 for a real-time signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        first = getattr(signal, "SIGRTMIN", number)
        return f"SIGRTMIN+{number - first}" if number > first else f"signal {number}"
