"""The checks of a host as the program sees it: whether clocks agree, and which way frames go."""

from __future__ import annotations

import socket

from encamp.cli.doctor.check_result import CheckResult
from encamp.cli.doctor.checks_on_each_host import HostReport
from encamp.cluster.events import Host

_APART = 1.0
"""Tolerated difference between the clocks of hosts in seconds."""


def clock(found: HostReport, begun: float, ended: float) -> CheckResult:
    """The difference of a host's clock in seconds; it was read between ``begun`` and ``ended``."""
    off = min(found.now - begun, 0.0) + max(found.now - ended, 0.0)
    if abs(off) <= _APART:
        return CheckResult("ok", "clock", "agrees with that of the program's host")
    which = "ahead of" if off > 0 else "behind"
    text = f"{abs(off):.0f} s {which} the program's host"
    return CheckResult(
        "note", "clock", text, "set it with chrony or ntpd; times in reports are wrong"
    )


def frames(host: Host) -> CheckResult:
    """The route of calls, results and files."""
    if not host.frames_by:
        return CheckResult("ok", "frames", "go directly between it and the program")
    text = (
        f"go through {host.frames_by}, since neither host can connect to the other: this is slower"
    )
    here = socket.gethostname()
    remedy = f"let {here} connect to it, or it to {here}, at any port"
    return CheckResult("note", "frames", text, remedy)
