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
from encamp.engines.find_engine import open_end
from encamp.engines.mpi.leftovers import remains_here
from encamp.errors import EngineFailed


def talk(end: Engine) -> object:
    sizes = [0, 8_193, 10, 3_000_000, 65_536, 65_537]
    agents = [1, 2]
    for agent in agents:
        ask(end, agent, "flood", to=[0, 1, 2], sizes=sizes * 10)
    got = [frame for frame in take(end, 120) if isinstance(frame, Frame)]
    lengths = {agent: [len(f.parts[2]) for f in got if f.sender == agent] for agent in agents}
    assert lengths == dict.fromkeys(agents, sizes * 10)
    return [echoed(end, agent, bytes(1_000_000)) for agent in agents]


def in_flight(end: Engine) -> object:
    for agent in (1, 2):
        ask(end, agent, "flood", to=[0, 1, 2], sizes=[10, 300_000, 9_000] * 50)
        ask(end, agent, "echo", bytes(10_000_000))
    take(end, 1)
    return "left alone"


def killed(end: Engine) -> object:
    ask(end, 1, "die", how="SIGKILL")
    (left,) = take(end, 1)
    assert isinstance(left, Left)
    ask(end, 1, "echo", b"x")
    return [left.agent, left.why, echoed(end, 2, b"there?")]


def idle_afterwards(end: Engine) -> object:
    pids = [facts_of(end, agent)["pid"] for agent in (1, 2)]
    end.stop()
    before = [ticks(pid) for pid in pids]
    time.sleep(1)
    return max(ticks(pid) - then for pid, then in zip(pids, before, strict=True))


def ticks(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def again(end: Engine) -> object:
    end.stop()
    try:
        end.start(b"orders")
    except EngineFailed as exc:
        return str(exc)
    return "it started"


def hung(end: Engine) -> object:
    pid = facts_of(end, 1)["pid"]
    ask(end, 1, "hang")
    return pid


def variables(end: Engine) -> object:
    return facts_of(end, 1)["environment"]


def main() -> None:
    end = open_end("mpi")
    if not isinstance(end, Engine):
        serve(end)
        end.close()
        return
    end.start(b"orders")
    assert take(end, 2) == [Joined(1), Joined(2)]
    print(json.dumps(remains_here()), flush=True)
    print(json.dumps([end.private, globals()[sys.argv[1]](end)]), flush=True)
    end.stop()


if __name__ == "__main__":
    signal.alarm(60)
    main()
