"""What users' scripts do under ``mpirun``, for tests: ``rank_script.py DEED``; prints JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from mpi_agent import ask, echoed, facts_of, serve, take

from encamp.engines.engine_interface import Engine, Frame, Joined, Left
from encamp.engines.find_engine import open_endpoint
from encamp.engines.mpi.leftovers import remains_here
from encamp.errors import EngineFailed


def talk(endpoint: Engine) -> object:
    sizes = [0, 8_193, 10, 3_000_000, 65_536, 65_537]
    agents = [1, 2]
    for agent in agents:
        ask(endpoint, agent, "flood", to=[0, 1, 2], sizes=sizes * 10)
    got = [frame for frame in take(endpoint, 120) if isinstance(frame, Frame)]
    lengths = {agent: [len(f.parts[2]) for f in got if f.sender == agent] for agent in agents}
    assert lengths == dict.fromkeys(agents, sizes * 10)
    return [echoed(endpoint, agent, bytes(1_000_000)) for agent in agents]


def in_flight(endpoint: Engine) -> object:
    for agent in (1, 2):
        ask(endpoint, agent, "flood", to=[0, 1, 2], sizes=[10, 300_000, 9_000] * 50)
        ask(endpoint, agent, "echo", bytes(10_000_000))
    take(endpoint, 1)
    return "left alone"


def killed(endpoint: Engine) -> object:
    ask(endpoint, 1, "die", how="SIGKILL")
    (left,) = take(endpoint, 1)
    assert isinstance(left, Left)
    ask(endpoint, 1, "echo", b"x")
    return [left.agent, left.why, echoed(endpoint, 2, b"there?")]


def idle_afterwards(endpoint: Engine) -> object:
    pids = [facts_of(endpoint, agent)["pid"] for agent in (1, 2)]
    endpoint.stop()
    before = [ticks(pid) for pid in pids]
    time.sleep(1)
    return max(ticks(pid) - then for pid, then in zip(pids, before, strict=True))


def ticks(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def again(endpoint: Engine) -> object:
    endpoint.stop()
    try:
        endpoint.start(b"orders")
    except EngineFailed as exc:
        return str(exc)
    return "it started"


def hung(endpoint: Engine) -> object:
    pid = facts_of(endpoint, 1)["pid"]
    ask(endpoint, 1, "hang")
    return pid


def variables(endpoint: Engine) -> object:
    return facts_of(endpoint, 1)["environment"]


def main() -> None:
    endpoint = open_endpoint("mpi")
    if not isinstance(endpoint, Engine):
        serve(endpoint)
        endpoint.close()
        return
    endpoint.start(b"orders")
    assert take(endpoint, 2) == [Joined(1), Joined(2)]
    print(json.dumps(remains_here()), flush=True)
    print(json.dumps([endpoint.private, globals()[sys.argv[1]](endpoint)]), flush=True)
    endpoint.stop()


if __name__ == "__main__":
    signal.alarm(60)
    main()
