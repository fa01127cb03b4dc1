"""The MPI engine outside the MPI job: frames through the gateway, deaths, starts and ends."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mpi_agent import ask, echoed, facts_of, take
from mpis import FOLDER, MPIS, launcher_of

from encamp.engines.engine_interface import Frame, Joined, Left
from encamp.engines.mpi.endpoint import IDLE, SPIN
from encamp.engines.mpi.launched_engine import LaunchedMPI
from encamp.engines.mpi.mpi_variables import HOME
from encamp.errors import EngineFailed
from encamp.testing.waiting import gone, until

Start = Callable[..., LaunchedMPI]


@pytest.fixture(params=MPIS)
def mpi(request: pytest.FixtureRequest) -> str:
    launcher_of(request.param)
    return str(request.param)


@pytest.fixture
def start(mpi: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts jobs of test agents, and sees that nothing is left of them."""
    monkeypatch.setenv("PYTHONPATH", FOLDER)
    started: list[LaunchedMPI] = []

    def begin(slots: int = 2, **options: Any) -> LaunchedMPI:
        engine = LaunchedMPI(slots=slots, mpi=mpi, module="mpi_agent", **options)
        started.append(engine)
        engine.start(b"orders")
        assert take(engine, slots) == [Joined(agent) for agent in range(1, slots + 1)]
        return engine

    yield begin
    for engine in started:
        engine.stop()
    assert ranks_here() == []


WORKER = "PYTEST_XDIST_WORKER"


def ranks_here() -> list[psutil.Process]:
    """The ranks that a controller in this process has started."""
    found = []
    for process in psutil.process_iter():
        try:
            runs = "mpi_agent" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
            if runs and process.environ().get(WORKER) == os.environ.get(WORKER):
                found.append(process)
        except psutil.Error:
            continue
    return found


def bytes_of(frame: object) -> list[bytes]:
    assert isinstance(frame, Frame)
    return [bytes(part) for part in frame.parts]


def remains_of(engine: LaunchedMPI) -> list[str]:
    assert engine._run is not None
    remains = engine._run.launcher.remains
    assert remains or engine._launcher.mpi == "mpich"  # whose ranks remove theirs at once
    assert there(remains) == remains
    return remains


def there(paths: list[str]) -> list[str]:
    return [path for path in paths if Path(path).exists()]


def test_frames_of_any_size_and_number_of_parts_come_back_as_they_were(start: Start) -> None:
    engine = start()
    some = random.Random(1).randbytes(100_000_000)
    sizes = [0, 1, 8191, 8192, 8193, 65_535, 65_536, 65_537, 1_048_577, 100_000_000]
    frames = [[some[:size]] for size in sizes]
    frames += [[b"", some[:100_000], b"", b"x"], [b"%d" % n for n in range(60_000)]]
    frames += [[some[: n % 3 * 9_000] for n in range(50)]]
    for parts in frames:
        ask(engine, 1, "echo", *parts)
        (frame,) = take(engine, 1)
        assert bytes_of(frame) == parts


def test_messages_of_a_pair_keep_their_order_whatever_their_sizes(start: Start) -> None:
    engine = start(slots=3)
    rng = random.Random(2)
    sizes = [rng.choice([0, 10, 9_000, 200_000]) for _ in range(150)]
    for agent in (1, 2, 3):
        ask(engine, agent, "flood", to=[0], sizes=sizes)
    seen: dict[int, list[tuple[int, int]]] = {}
    for frame in take(engine, 3 * len(sizes)):
        sender, number, data = bytes_of(frame)
        seen.setdefault(int(sender), []).append((int(number), len(data)))
    assert seen == {agent: list(enumerate(sizes)) for agent in (1, 2, 3)}


def test_everybody_sends_to_everybody(start: Start) -> None:
    engine = start(slots=3)
    agents = (1, 2, 3)
    sizes = [10, 20_000, 0, 9_000] * 25
    for agent in agents:
        ask(engine, agent, "flood", to=[0, *agents], sizes=sizes)
    take(engine, len(agents) * len(sizes))
    wanted = {sender: [[sender, *one] for one in enumerate(sizes)] for sender in agents}
    for agent in agents:
        until(lambda agent=agent: len(facts_of(engine, agent)["got"]) == 3 * len(sizes))
        got = facts_of(engine, agent)["got"]
        assert {one: [item for item in got if item[0] == one] for one in agents} == wanted


def test_agents_do_not_know_the_variables_of_their_launcher(start: Start) -> None:
    strange = {"LD_LIBRARY_PATH", "UCX_TLS", "MPI4PY_LIBMPI", HOME} - set(os.environ)
    for name in facts_of(start(), 2)["environment"]:
        assert not name.startswith(("PMI", "PMIX", "OMPI", "PRTE", "OPAL", "MPI_", "HYDI"))
        assert name not in strange


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit"])
def test_dead_rank_is_reported_and_work_continues(start: Start, mpi: str, how: str) -> None:
    engine = start()
    ask(engine, 1, "die", how=how)
    if mpi == "openmpi":
        (left,) = take(engine, 1)
        assert isinstance(left, Left)
        assert left.agent == 1
        assert "died" in left.why
        assert echoed(engine, 2, b"there?")
    else:
        come = take(engine, 4)
        lost = [one for one in come[:2] if isinstance(one, Left)]
        assert [left.agent for left in lost] == [1, 2]
        assert "job ended" in lost[1].why  # the gateway may have seen the first one die
        assert come[2:] == [Joined(3), Joined(4)]
        assert echoed(engine, 4, b"there?")


def test_frames_to_dead_ranks_are_dropped(start: Start, mpi: str) -> None:
    engine = start()
    ask(engine, 1, "die", how="SIGKILL")
    (left, *_) = take(engine, 1 if mpi == "openmpi" else 4)
    assert isinstance(left, Left)
    for nobody in (1, 77, -1):
        ask(engine, nobody, "echo", b"x", bytes(1_000_000))
    assert echoed(engine, 2 if mpi == "openmpi" else 4, b"there?")


def test_a_job_without_agents_is_started_again_but_not_for_ever(start: Start) -> None:
    engine = start(slots=1, restarts=1)
    ask(engine, 1, "die", how="SIGKILL")
    lost, joined = take(engine, 2)
    assert isinstance(lost, Left)
    assert joined == Joined(2)
    ask(engine, 2, "die", how="SIGKILL")
    (lost,) = take(engine, 1)
    assert isinstance(lost, Left)
    assert lost.agent == 2
    with pytest.raises(EngineFailed, match=r"the (MPI )?job"):
        take(engine, 1)


def test_a_job_that_dies_at_once_is_not_started_again(
    mpi: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", FOLDER)
    engine = LaunchedMPI(slots=1, mpi=mpi, module="no_such_module")
    with pytest.raises(EngineFailed, match="no_such_module"):
        engine.start(b"")
    engine.stop()


def test_a_job_whose_launcher_is_killed_is_lost_and_leaves_nothing(start: Start) -> None:
    engine = start(restarts=0)
    remains, launcher = remains_of(engine), engine.pid
    assert launcher is not None
    pids = [facts_of(engine, agent)["pid"] for agent in (1, 2)]
    os.kill(launcher, signal.SIGKILL)
    assert {one.agent for one in take(engine, 2) if isinstance(one, Left)} == {1, 2}
    with pytest.raises(EngineFailed):
        take(engine, 1)
    assert there(remains) == []
    until(lambda: all(map(gone, pids)))  # the kernel may still be busy with their memory


def test_a_killed_rank_leaves_no_shared_memory(start: Start) -> None:
    engine = start(restarts=0)
    remains = remains_of(engine)
    ask(engine, 1, "die", how="SIGKILL")
    assert isinstance(take(engine, 1)[0], Left)
    engine.stop()
    assert there(remains) == []


def test_stop_works_with_messages_in_transit(start: Start) -> None:
    engine = start(slots=3)
    remains = remains_of(engine)
    for agent in (1, 2, 3):
        ask(engine, agent, "flood", to=[0, 1, 2, 3], sizes=[10, 300_000, 9_000] * 60)
        for _ in range(50):
            ask(engine, agent, "echo", bytes(50_000))
    assert isinstance(take(engine, 1)[0], Frame)
    engine.stop()
    engine.stop()
    engine.close()
    assert there(remains) == []
    assert engine.receive() == []


def test_an_agent_that_hangs_is_ended_by_force(start: Start) -> None:
    engine = start()
    pid = facts_of(engine, 1)["pid"]
    ask(engine, 1, "hang")
    engine.stop()
    assert gone(pid)


def test_leaving_agent_is_reported_and_others_continue(start: Start) -> None:
    engine = start()
    ask(engine, 1, "leave")
    (left,) = take(engine, 1)
    assert isinstance(left, Left)
    assert left.agent == 1
    assert echoed(engine, 2, b"there?")


def test_ranks_end_when_their_controller_is_killed(mpi: str) -> None:
    code = (
        "from encamp.engines.mpi.launched_engine import LaunchedMPI\n"
        "import time, json\n"
        f"engine = LaunchedMPI(slots=2, mpi={mpi!r}, module='mpi_agent')\n"
        "engine.start(b'orders')\n"
        "print(json.dumps([engine.pid, engine._run.launcher.remains]), flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": FOLDER}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as controller:
        assert controller.stdout is not None
        launcher, remains = json.loads(controller.stdout.readline())
        ranks = psutil.Process(launcher).children(recursive=True)
        assert ranks
        controller.kill()
    until(lambda: all(gone(process.pid) for process in ranks))
    until(lambda: gone(launcher))
    assert there(remains) == []


def test_ranks_that_wait_for_others_end_when_their_controller_is_killed(mpi: str) -> None:
    code = (
        "from encamp.engines.mpi.launched_engine import LaunchedMPI\n"
        f"LaunchedMPI(slots=2, mpi={mpi!r}, module='mpi_late').start(b'orders')\n"
    )
    environment = {**os.environ, "PYTHONPATH": FOLDER}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as controller:
        seen = psutil.Process(controller.pid)
        until(lambda: sum(map(_starts_mpi, seen.children(recursive=True))) >= 2)
        ranks = seen.children(recursive=True)
        launchers = [process.pid for process in seen.children()]
        controller.kill()
    until(lambda: all(gone(process.pid) for process in ranks))
    assert there([f"/tmp/ompi.{pid}" for pid in launchers]) == []


def _starts_mpi(process: psutil.Process) -> bool:
    """Whether a process has come to where it waits for the others."""
    try:
        return "libmpi.so" in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


def test_nothing_wakes_a_waiting_controller_and_idle_agents_look_now_and_then(
    start: Start,
) -> None:
    engine = start(slots=1)
    facts_of(engine, 1)
    before, began = facts_of(engine, 1), time.monotonic()
    assert engine.patience() is None
    assert select.select(engine.descriptors(), [], [], 1.5) == ([], [], [])
    now, waited = facts_of(engine, 1), time.monotonic() - began
    in_a_row = SPIN / 1e-6
    assert now["turns"] - before["turns"] < in_a_row + 100 + 1.1 * waited / IDLE


def test_connection_without_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "mpiexec"
    launcher.write_text(
        f"#!{sys.executable}\n"
        "import os, socket, sys, struct, time\n"
        "if '--version' in sys.argv:\n"
        "    sys.exit(print('HYDRA build details: Version: 4.0'))\n"
        f"path = os.environ[{HOME!r}]\n"
        "link = socket.socket(socket.AF_UNIX)\n"
        "link.connect(path)\n"
        "head = struct.Struct('<Bq')\n"
        "for parts in ([head.pack(0, 0), b'k' * 32], [head.pack(1, 1), b'[]']):\n"
        "    sizes = struct.pack(f'<2sH{len(parts)}Q', b'eC', len(parts), *map(len, parts))\n"
        "    link.sendall(sizes + b''.join(parts))\n"
        "link.recv(1)\n"
    )
    launcher.chmod(0o755)
    engine = LaunchedMPI(slots=1, launcher=str(launcher))
    with pytest.raises(EngineFailed):
        engine.start(b"secret orders")
    engine.stop()
