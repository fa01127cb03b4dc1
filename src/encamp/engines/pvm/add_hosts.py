"""Adding hosts to a virtual machine, by a process of its own (`add_hosts_process`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress

from encamp.engines.kit.own_interpreter import PACKAGE, python_here
from encamp.engines.pvm.machine import ROOT, Machine
from encamp.engines.pvm.why_not_added import why_not_added
from encamp.errors import EngineFailed

_ADD = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from encamp.engines.pvm.add_hosts_process import main; main(sys.argv[2])"
)
_WITHIN = 240.0
"""Seconds to add hosts; PVM itself waits for dead hosts for a little more than three minutes."""
_ENDS_WITHIN = 4.0
"""Seconds for the same if the hosts are no longer awaited; most have joined by then."""


def add_hosts(machine: Machine, hosts: Sequence[str], dead: Collection[str] = ()) -> set[int]:
    """Remove ``dead`` hosts from the machine, and add those that it does not have.

    Blocks until their daemons run; returns the ids of hosts that are new under these names.
    Raises `EngineFailed`.
    """
    named = [host if "dx=" in host else f"{host} dx={_pvmd()}" for host in hosts]
    before = len(machine.log())
    environment = {**os.environ, **machine.variables}
    request = json.dumps({"hosts": named, "dead": list(dead), "own": machine.own})
    codes = _added(request, environment)
    if bad := {host: code for host, code in codes.items() if code < 0}:
        shell = environment.get("PVM_RSH", "ssh")
        raise EngineFailed("pvm", why_not_added(bad, machine.log()[before:], shell))
    return set(codes.values())


def _added(request: str, environment: dict[str, str]) -> dict[str, int]:
    """The output of the process that adds hosts."""
    command = [python_here(), "-I", "-S", "-c", _ADD, PACKAGE, request]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends it properly
    ) as adding:
        output, errors = _output_of(adding)
    try:
        return dict(json.loads(output))
    except ValueError:
        last = "".join(errors.strip().splitlines()[-1:])
        raise EngineFailed("pvm", f"hosts could not be added: {last}") from None


def _output_of(adding: subprocess.Popen[str]) -> tuple[str, str]:
    """The output of the process. It also ends if this process is interrupted."""
    try:
        return adding.communicate(timeout=_WITHIN)
    except subprocess.TimeoutExpired:
        raise EngineFailed("pvm", f"hosts were not added within {_WITHIN:g} s") from None
    finally:
        try:
            with suppress(subprocess.TimeoutExpired):
                adding.wait(_ENDS_WITHIN)  # so that it can clean up on hosts that were added
        finally:
            adding.kill()


def _pvmd() -> str:
    return f"{os.environ.get('PVM_ROOT', ROOT)}/lib/pvmd"
