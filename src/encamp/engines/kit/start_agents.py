"""Starting agents for a process of another system, such as a Dask worker, and ending them.

All of this runs in that process, which it must not disturb: an agent is a separate process in its
own session, and ends with the process that started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from encamp.engines.kit.own_interpreter import PACKAGE, START, python_command
from encamp.engines.kit.variables_not_inherited import not_inherited
from encamp.timeouts import KILLED
from encamp.version import __version__

_HERE = ("PARALLEL_", "ENCAMP_")
_ELSEWHERE = ("PARALLEL_",)
"""Prefixes of variables that agents get from the controller, on its host and on others."""
_SECRET = ("IPP_CONNECTION_INFO", "JUPYTER_TOKEN", "__DASK_PARENT_PID")
"""Variables of other systems that are for their own processes only."""
_TAIL = 2000
_running: dict[tuple[str, int], tuple[subprocess.Popen[bytes], IO[bytes], threading.Thread]] = {}
"""By run and number: agents, with their logs and the threads that wait for their ends."""
_ended: dict[str, dict[int, str]] = {}
"""By run: the last output of agents that have ended, by number, until it is asked for."""


class Order(msgspec.Struct):
    """The settings that all agents of a run share. Never print it: it contains the key."""

    run: str
    certificate: str
    key: str
    dial: list[tuple[str, int]]
    host: str
    """The controller's host, see `host_id`."""
    variables: dict[str, str]

    def __repr__(self) -> str:
        return f"<Order of run {self.run}>"


class Spec(msgspec.Struct):
    """The settings of one agent, sent to its standard input."""

    number: int
    slots: int
    dial: list[tuple[str, int]]
    certificate: str
    key: str
    process: int
    tunnel: int | None
    """The descriptor of a socket that is an end of a tunnel."""
    hosts: Sequence[str]
    """Addresses of its host at which others may reach an agent with a tunnel."""


@dataclass(frozen=True)
class Tunnels:
    """How tunnels of agents start: ``begun`` is called with an agent's number and its socket.

    ``hosts`` are addresses of this host at which others may reach agents.
    """

    begun: Callable[[int, socket.socket], object]
    hosts: Sequence[str] = ()


def host_id() -> str:
    """An identifier that processes share if and only if they see each other's process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def variables_to_send() -> dict[str, str]:
    """The environment variables of this process that agents get."""
    return {name: value for name, value in os.environ.items() if name.startswith(_HERE)}


def environment(order: Order, unset: Mapping[str, str]) -> dict[str, str]:
    """The environment of an agent here: this process's, without variables for this process alone.

    A variable in ``unset`` is removed if it has that value: it was set for this process.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (not_inherited(name) or name in _SECRET or unset.get(name) == value)
    }
    if order.host == host_id():
        return {**kept, **order.variables}
    given = {k: v for k, v in order.variables.items() if k.startswith(_ELSEWHERE)}
    return {**given, **kept}


def begin(
    order: Order,
    agents: Mapping[int, int],
    unset: Mapping[str, str],
    on_end: Callable[[int, str], None] | None = None,
    tunnels: Tunnels | None = None,
) -> dict[int, str]:
    """Start agents with these numbers and numbers of slots; returns why some could not be started.

    Does not raise, because some systems print the arguments of functions that do. ``on_end`` is
    called in a separate thread when an agent has ended, with its number and last output. With
    ``tunnels`` each agent has the end of one, which it uses if it does not reach the controller.
    """
    failed = {}
    for number, slots in agents.items():
        try:
            _begin(order, number, slots, unset, on_end, tunnels)
        except Exception as exc:  # noqa: BLE001 - see above
            failed[number] = f"{type(exc).__name__}: {exc}"
    return failed


def _begin(
    order: Order,
    number: int,
    slots: int,
    unset: Mapping[str, str],
    on_end: Callable[[int, str], None] | None,
    tunnels: Tunnels | None,
) -> None:
    with ExitStack() as failed, ExitStack() as handed_over:
        log: IO[bytes] = failed.enter_context(tempfile.TemporaryFile())
        near = far = None
        if tunnels is not None:
            near, far = socket.socketpair()
            failed.callback(near.close)
            handed_over.callback(far.close)
        process = subprocess.Popen(
            [*python_command(), "-c", START, PACKAGE, "encamp.agent", "mesh"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=environment(order, unset),
            pass_fds=[] if far is None else [far.fileno()],
        )
        failed.pop_all()
        spec = Spec(
            number, slots, order.dial, order.certificate, order.key, os.getpid(),
            None if far is None else far.fileno(), () if tunnels is None else tunnels.hosts,
        )  # fmt: skip
    assert process.stdin is not None  # noqa: S101
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(msgspec.json.encode(spec))
    wait = threading.Thread(
        target=_wait, args=(order.run, number, on_end), name="encamp-agent", daemon=True
    )
    _running[order.run, number] = process, log, wait
    wait.start()
    if tunnels is not None and near is not None:
        tunnels.begun(number, near)


def _wait(run: str, number: int, on_end: Callable[[int, str], None] | None) -> None:
    """Wait for an agent's end, and report it."""
    process, log, _ = _running[run, number]
    code = process.wait()
    with log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
        lines = log.read().decode(errors="replace").strip().splitlines()
    words = lines[-1] if lines else f"it ended with exit status {code}"
    if on_end is not None:
        on_end(number, words)
    else:
        _ended.setdefault(run, {})[number] = words
    del _running[run, number]


def ended(run: str) -> dict[int, str]:
    """Numbers and last output of agents that have ended here since the last call."""
    return _ended.pop(run, {})


def end(run: str, within: float = 0.0) -> None:
    """Kill the agents of a run that have not ended by themselves ``within`` so many seconds."""
    deadline = time.monotonic() + within
    for (of, _), (process, _log, wait) in list(_running.items()):
        if of == run:
            wait.join(max(0.0, deadline - time.monotonic()))
            if wait.is_alive():
                process.kill()
                wait.join(KILLED)
    _ended.pop(run, None)


def why_not(exc: Exception | None, whose: str) -> str:
    """Why agents could not be started by the interpreter of ``whose``, with a remedy."""
    if "No module named 'encamp'" in str(exc):
        return f"its Python has no encamp; install it for the Python of {whose}"
    if "No module named 'encamp." in str(exc):
        return (
            f"its Python has a different version of encamp; install {__version__}, the version of "
            f"the program, for the Python of {whose}"
        )
    return f"{type(exc).__name__}: {exc}"
