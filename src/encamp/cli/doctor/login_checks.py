"""The checks of how ssh logs in to hosts, and remedies if it cannot."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from encamp.cli.doctor.check_result import CheckResult
from encamp.cli.ssh_commands import HostOutput, log_in
from encamp.errors import printable

_LOGIN_WITHIN = 30.0
"""Seconds that a host may take to answer ssh."""
_SILENT = ("timed out", "No route to host")
_SIGN = "encamp-doctor"
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash", "mksh")
_REMEDIES = {
    "Permission denied": "have ssh log in there without a password: ssh-copy-id {host}",
    "Could not resolve": "correct the name, or give its HostName in ~/.ssh/config",
    "Name or service": "correct the name, or give its HostName in ~/.ssh/config",
    "Host key verification": "log in once by hand and accept its key: ssh {host}",
    "timed out": "check that it is switched on, and that no firewall is in between",
    "No route to host": "check that it is switched on, and in this network",
    "Connection refused": "start its ssh server, or give its Port in ~/.ssh/config",
}
"""Text in an error message of ssh → remedy."""
BY_HAND = "try: ssh {host} true"


def log_in_to(names: Sequence[str]) -> list[HostOutput]:
    """Check how ssh logs in to the other hosts."""
    others = [name for name in dict.fromkeys(names) if not same_host(name, socket.gethostname())]
    return log_in(others, f'echo {_SIGN} "$SHELL"', _LOGIN_WITHIN) if others else []


def silent(login: HostOutput) -> bool:
    """Whether a host does not answer at all; then the engine is not tried there."""
    return any(words in login.why for words in _SILENT)


def login_result(login: HostOutput, *, here: bool) -> CheckResult:
    """The result for one login; ``here``: the engine has reached the host anyway."""
    if login.why:
        remedy = remedy_for(login.why, login.host)
        return CheckResult("note" if here else "fails", "ssh", login.why, remedy)
    signs = [line for line in login.lines if line.startswith(_SIGN)]
    printed = [line for line in login.lines if not line.startswith(_SIGN)]
    if printed or not signs:
        text = (
            f"the login prints {printable(printed[0])!r}" if printed else ("it cannot run commands")
        )
        remedy = "print nothing in ~/.bashrc and similar files in non-interactive shells"
        return CheckResult("note", "ssh", text, remedy)
    shell = signs[0].split(maxsplit=1)[-1].rpartition("/")[2]
    if shell not in _SHELLS:
        return CheckResult(
            "note", "ssh", f"the login shell is {printable(shell)}", "use sh, bash or zsh"
        )
    return CheckResult("ok", "ssh", f"logs in without a password, to {shell}")


def remedy_for(why: str, host: str) -> str:
    """What to do about an error of ssh, or of a cluster."""
    for words, remedy in _REMEDIES.items():
        if words.lower() in why.lower():
            return remedy.format(host=host)
    return (
        "see the other lines"
        if same_host(host, socket.gethostname())
        else BY_HAND.format(host=host)
    )


def same_host(one: str, other: str) -> bool:
    """Whether two names are of one host; one may lack the domain or have a user."""
    one, other = one.rpartition("@")[2], other.rpartition("@")[2]
    here = socket.gethostname()
    one, other = (here if name == "localhost" else name for name in (one, other))
    return one == other or one.split(".")[0] == other.split(".")[0]
