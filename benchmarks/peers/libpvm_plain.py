"""Two PVM tasks that send and receive by libpvm on a direct route, with pickle: nothing in between.

    python -m benchmarks.peers.libpvm_plain

The machine is of its own; the task at the other end is the same program.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from benchmarks.peers.rates import Rates, messages
from encamp.engines.pvm import libpvm
from encamp.engines.pvm.machine import OwnMachine

TAG = 1


def send(to: int, message: Any) -> None:
    """One message with all that it has."""
    libpvm.send(to, TAG, pickle.dumps(message, protocol=5))


def receive(source: int) -> Any:
    """Waits for a message."""
    size, _, _ = libpvm.bufinfo(libpvm.recv(source, TAG))
    return pickle.loads(libpvm.unpack(size))


def _join() -> None:
    libpvm.mytid()
    libpvm.setopt(libpvm.ROUTE, libpvm.ROUTE_DIRECT)


def _echo() -> None:
    _join()
    parent = libpvm.parent()
    assert parent is not None
    while (message := receive(parent)) is not None:
        send(parent, message)
    libpvm.leave()


def _measure() -> None:
    machine = OwnMachine("localhost")
    try:
        with machine.known():
            _join()
        script = (
            f"import sys; sys.path[:0] = {sys.path!r}; from {__spec__.name} import _echo; _echo()"
        )
        (far,) = libpvm.spawn(sys.executable, ["-c", script], 0, "")

        def exchange(message: Any) -> Any:
            """There and back."""
            send(far, message)
            return receive(far)

        Rates("libpvm", **messages(exchange)).show()
        send(far, None)
        libpvm.leave()
    finally:
        machine.close()


if __name__ == "__main__":
    _measure()
