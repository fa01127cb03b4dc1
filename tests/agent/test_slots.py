"""Slots run one function after another, and end with all processes that these started."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import slot_work as work

from encamp.agent.child_process import MARK, ChildProcess, last_words
from encamp.errors import SlotsCannotStart
from encamp.jobs.worker.slots import Done, Raised, SlotLost, Slots, SupervisedSlot, slots_here
from encamp.slot import this_process
from encamp.slot.ledger import LONGEST_NOTE
from encamp.slot.main import SlotSettings
from encamp.testing.waiting import gone, until

HERE = (str(Path(__file__).parent),)


def run(
    slots: Slots | SupervisedSlot,
    function: Callable[..., Any],
    *args: Any,
    on_message: Callable[[object], None] = lambda message: None,
    on_tick: Callable[[], None] = lambda: None,
    on_note: Callable[[object], None] = lambda note: None,
    tick: float = 0.05,
) -> Any:
    one = isinstance(slots, SupervisedSlot)
    given: tuple[Any, ...] = (function, args) if one else (function, *args)
    supervisor = SimpleNamespace(on_message=on_message, on_tick=on_tick, on_note=on_note)
    answer = slots.run(*given, sys_path=HERE, tick=tick, supervisor=supervisor)
    if isinstance(answer, Raised):
        raise answer.error
    assert isinstance(answer, Done)
    return answer.value


@pytest.fixture
def slots() -> Iterator[Slots]:
    found = Slots()
    yield found
    found.close()


def test_idle_slot_is_reused(slots: Slots) -> None:
    pids = {run(slots, os.getpid) for _ in range(5)}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_modules_loaded_before_first_call_are_not_collected(
    slots: Slots,
) -> None:
    assert run(slots, gc.get_freeze_count) > 10_000


def test_job_slot_does_not_import_program_modules(slots: Slots) -> None:
    loaded = run(slots, work.loaded_with, "encamp.jobs.worker.run_phases")
    assert "encamp.jobs.worker.run_phases" in loaded
    assert loaded.isdisjoint(
        {"asyncio", "encamp.agent.child_process", "encamp.reports", "importlib.metadata", "psutil"}
    )


def test_leftovers_of_call_are_collected_at_slot_end(slots: Slots, tmp_path: Path) -> None:
    file = tmp_path / "file"
    run(slots, work.leave_garbage, str(file))
    slots.close()
    assert file.read_text() == "all"


def test_slots_end_at_the_same_time(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str] = []
    real = SupervisedSlot.ask_to_stop, SupervisedSlot.stop
    monkeypatch.setattr(
        SupervisedSlot, "ask_to_stop", lambda slot: received.append("ask") or real[0](slot)
    )
    monkeypatch.setattr(
        SupervisedSlot, "stop", lambda slot: received.append("stop") or real[1](slot)
    )
    with slots.borrow(), slots.borrow(), slots.borrow():
        pass
    slots.close()
    assert received == ["ask"] * 3 + ["stop"] * 3


def test_as_many_slots_as_run_at_once(slots: Slots) -> None:
    together = threading.Barrier(3)

    def one() -> int:
        pid: int = run(
            slots, work.tell_and_wait, on_message=lambda message: together.wait(20) and None
        )
        return pid

    with ThreadPoolExecutor(3) as pool:
        pids = {future.result() for future in [pool.submit(one) for _ in range(3)]}
    assert len(pids) == 3


def test_notes_of_function_arrive_in_order(slots: Slots) -> None:
    received: list[object] = []
    assert run(slots, work.tell_all, 5, on_message=received.append) == 5
    assert received == list(range(5))


def test_the_last_note_is_found_when_the_slot_has_died(slots: Slots) -> None:
    notes: list[object] = []
    with pytest.raises(SlotLost):
        run(slots, work.note_and_die, 1, "two", on_note=notes.append, tick=60)
    assert notes == ["two"]


def test_a_note_is_found_while_the_function_runs_and_never_by_the_next(
    slots: Slots, tmp_path: Path
) -> None:
    notes: list[Any] = []
    wanted = str(tmp_path / "go")
    assert run(slots, work.note_and_wait, wanted, on_note=lambda n: Path(n).touch()) == wanted
    with pytest.raises(SlotLost):
        run(slots, work.die, "kill", on_note=notes.append)
    assert notes == []


def test_overlong_note_is_sent_as_message(slots: Slots) -> None:
    received: list[object] = []
    notes: list[object] = []
    long = "x" * LONGEST_NOTE
    take = {"on_message": received.append, "on_note": notes.append}
    with pytest.raises(SlotLost):
        run(slots, work.note_and_die, 1, long, tick=60, **take)
    assert received == [long]
    assert notes == []


def test_exception_is_returned_and_slot_survives(slots: Slots) -> None:
    pid = run(slots, os.getpid)
    with pytest.raises(ZeroDivisionError):
        run(slots, work.divide, 1, 0)
    with pytest.raises(work.Unpicklable, match="my words"):
        run(slots, work.raise_unpicklable)
    with pytest.raises(KeyboardInterrupt):
        run(slots, work.raise_interrupt)
    assert run(slots, os.getpid) == pid


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("kill", -9), ("segv", -11)])
def test_dead_slot_is_reported_with_exit_code(slots: Slots, how: str, code: int) -> None:
    with pytest.raises(SlotLost) as caught:
        run(slots, work.die, how)
    assert caught.value.exit_code == code
    assert isinstance(run(slots, os.getpid), int)


def test_an_idle_slot_that_died_is_replaced(slots: Slots) -> None:
    pid = run(slots, os.getpid)
    os.kill(pid, signal.SIGKILL)
    assert run(slots, os.getpid) != pid


def test_an_idle_slot_ends_by_itself(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encamp.jobs.worker.slots.IDLE_LIMIT", 0.5)
    pid = run(slots, os.getpid)
    until(lambda: gone(pid))
    assert run(slots, os.getpid) != pid


class _Enough(Exception):
    pass


def _enough() -> None:
    raise _Enough


@pytest.mark.parametrize("function", [work.spin, work.sleep, work.deaf, work.blocked_in_c])
def test_a_tick_that_raises_stops_whatever_runs(slots: Slots, function: Any) -> None:
    pids: list[object] = []
    with pytest.raises(_Enough):
        run(slots, function, on_message=pids.append, on_tick=lambda: pids and _enough())
    (pid,) = pids
    assert gone(pid)


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("ends", ["returns", "dies", "stopped"])
def test_background_processes_end_with_function(slots: Slots, session: bool, ends: str) -> None:
    received: list[object] = []
    endings: dict[str, Any] = {
        "returns": nullcontext(),
        "dies": pytest.raises(SlotLost),
        "stopped": pytest.raises(_Enough),
    }
    with endings[ends]:
        run(
            slots,
            work.background,
            session,
            ends,
            on_message=received.append,
            on_tick=lambda: _enough() if ends == "stopped" and received else None,
        )
    (pid,) = received
    assert gone(pid)


def test_a_zombie_of_the_function_does_not_hold_up_its_end(slots: Slots) -> None:
    received: list[object] = []
    with pytest.raises(_Enough):
        run(slots, work.zombie, on_message=received.append, on_tick=lambda: received and _enough())


def test_the_slot_ends_with_its_supervisor_and_takes_all_along(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport slot_work\n"
        "from types import SimpleNamespace\n"
        "from encamp.jobs.worker.slots import slots_here\n"
        "slots_here().run(slot_work.background, True, 'waits', sys_path=(sys.argv[1],), tick=1,\n"
        "    supervisor=SimpleNamespace(on_tick=lambda: None, on_note=lambda n: None,\n"
        "        on_message=lambda m: isinstance(m, int) and print(m, flush=True)))\n"
    )
    words = [sys.executable, "-c", code, *HERE]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        background = int(supervisor.stdout.readline())
        slot = psutil.Process(background).ppid()
        supervisor.kill()
    until(lambda: gone(background) and gone(slot))


def test_a_slot_survives_the_ctrl_c_of_its_group_and_lets_commands_feel_theirs(
    slots: Slots,
) -> None:
    before = run(slots, os.getpid)
    os.kill(before, signal.SIGINT)
    assert run(slots, os.getpid) == before
    assert os.getpgid(before) == before
    assert run(slots, work.interrupt_a_command) == -signal.SIGINT


def test_mpi_variables_of_the_supervisor_do_not_reach_the_slot(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("PLAIN", "yes")
    found = run(slots, work.environment)
    assert "OMPI_COMM_WORLD_RANK" not in found
    assert found["PLAIN"] == "yes"
    assert MARK in found


def test_settings_of_pvm_reach_the_slot_and_what_marks_its_tasks_does_not(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = {"PVMSOCK", "PVMEPID", "PVMTMASK", "PVMCTX", "PVMTRCBUF", "PVMTRCOPT", "PVMSPAWNWD"}
    settings = {"PVM_ROOT", "PVM_RSH", "PVM_TMP", "PVM_VMID", "PVM_ARCH", "PVM_ALLOW_ROOT"}
    for name in marks | settings:
        monkeypatch.setenv(name, "set")
    found = run(slots, work.environment)
    assert {name for name in found if name.startswith("PVM")} == settings


def test_a_slot_that_was_frozen_ends_in_order_like_any_other(slots: Slots) -> None:
    run(slots, os.getpid)
    with slots.borrow() as slot:
        os.kill(slot.pid, signal.SIGSTOP)
        assert slot._process.stop()  # not killed


def test_close_may_be_called_twice_and_leaves_no_process_or_descriptor() -> None:
    gc.collect()  # descriptors of earlier tests are not closed in between
    before = len(os.listdir("/proc/self/fd"))
    slots = Slots()
    pid = run(slots, os.getpid)
    slots.close()
    slots.close()
    assert gone(pid)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_slot_that_cannot_be_started_leaves_no_descriptor(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(slots, os.getpid)  # what a first use opens for good
    slots.close()
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("multiprocessing.spawn._python_exe", b"/no/such/python")
    with pytest.raises(SlotsCannotStart, match="No such file"):
        run(slots, os.getpid)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_forked_child_has_no_slots_of_its_parents() -> None:
    ours = slots_here()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if slots_here() is not ours else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert slots_here() is ours


def test_outside_a_slot_telling_does_nothing() -> None:
    this_process.send_to_supervisor("nobody listens")
    assert not this_process.orphaned()


def test_stopped_process_still_ends_by_itself() -> None:
    process = ChildProcess(SlotSettings())
    until(lambda: process.was_ready)
    os.kill(process.pid, signal.SIGSTOP)
    assert process.stop(within=20)
    assert process.exit_code == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"first\nlast\n\n", "last"),
        (b"Fatal Python error: Segmentation fault\n\nThread 1:\n  File x\n", "Fatal Python error"),
        (b"\xff" + b"x" * 1000, "\ufffdxxx"),
    ],
)
def test_the_last_words_of_a_process_are_the_most_telling_line(said: bytes, words: str) -> None:
    found = last_words(said)
    assert found.startswith(words)
    assert bool(found) == bool(words)
    assert len(found) <= 200
