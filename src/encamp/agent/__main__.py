"""``python -m encamp.agent ENGINE ARGUMENTS…``: the program of an agent that an engine starts."""

from __future__ import annotations

import gc
import sys

from encamp.agent.agent import serve
from encamp.engines.find_engine import engine_module
from encamp.engines.kit.own_interpreter import default_signals
from encamp.errors import InputError


def main(arguments: list[str]) -> None:
    """Join the engine's network, and serve; with some engines, some processes do other work."""
    default_signals()  # a launcher or daemon may have ignored some
    end = engine_module(arguments[0]).join(arguments[1:])
    if end is None:
        return
    gc.freeze()  # objects of loaded modules stay, so collections do not have to visit them
    try:
        serve(end)
    except InputError as exc:  # an option of the program that this host cannot meet
        sys.exit(str(exc))


if __name__ == "__main__":
    main(sys.argv[1:])
