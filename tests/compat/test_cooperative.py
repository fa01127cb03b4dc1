"""Tasks that take turns, join and dispatch: the order of events is PyOPUS's; no error is lost."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rehearsal import RehearsedMachine

from encamp.compat.pyopus.base import MsgTaskResult, PyOpusError
from encamp.compat.pyopus.cooperative import OpusOS, cOS
from encamp.compat.pyopus.mpi import MPIHostID
from encamp.errors import EngineUnavailable

Said = list[str]


@pytest.fixture
def system() -> OpusOS:
    return OpusOS()


def machine(**hosts: int) -> RehearsedMachine:
    return RehearsedMachine(hosts or {"one": 2})


def speak(system: OpusOS, said: Said, name: str, times: int) -> int:
    for number in range(times):
        said.append(f"{name}{number}")
        system.Yield()
    return times


def test_tasks_take_turns_in_the_order_that_pyopus_gives_them(system: OpusOS) -> None:
    spoken: Said = []
    first = system.Spawn(speak, args=[system, spoken, "a"], kwargs={"times": 3})
    second = system.Spawn(speak, [system, spoken, "b", 5])
    spoken.append("spawned")
    assert (first, second) == (2, 3)
    assert system.Join() == {2: 3}
    spoken.append("joined")
    assert system.Join() == {3: 5}
    assert spoken == ["a0", "a1", "b0", "spawned", "a2", "b1", "b2", "joined", "b3", "b4"]
    assert system.Join() == {}


def test_oldest_ended_child_is_joined_first(system: OpusOS) -> None:
    tids = [system.Spawn(abs, [-number]) for number in range(4)]
    system.Yield()
    assert [system.Join() for _ in tids] == [{tid: n} for n, tid in enumerate(tids)]


def test_a_join_can_be_limited_to_some_children(system: OpusOS) -> None:
    first, second = system.Spawn(abs, [1]), system.Spawn(abs, [2])
    assert system.Join([second]) == {second: 2}
    assert system.Join({first}) == {first: 1}


def test_nonblocking_join_returns_empty_dict_while_tasks_run(system: OpusOS) -> None:
    tid = system.Spawn(speak, [system, [], "a", 3])
    assert system.Join(block=False) == {}
    assert system.Join([tid], block=True) == {tid: 3}


@pytest.mark.parametrize("tid", [0, 1, 99])
def test_only_children_can_be_joined(system: OpusOS, tid: int) -> None:
    child = system.Spawn(speak, [system, [], "a", 2])
    with pytest.raises(PyOpusError, match=f"task {tid} is not a child"):
        system.Join([tid])
    assert system.Join() == {child: 2}


def test_a_grandchild_belongs_to_its_parent(system: OpusOS) -> None:
    def parent() -> tuple[int, dict[int, int]]:
        child = system.Spawn(abs, [-7])
        return child, system.Join()

    tid = system.Spawn(parent)
    child, joined = system.Join()[tid]
    assert joined == {child: 7}
    assert system.getTid() == 1


def test_every_task_knows_its_number(system: OpusOS) -> None:
    tids = [system.Spawn(system.getTid) for _ in range(3)]
    assert [system.Join() for _ in tids] == [{tid: tid} for tid in tids]


def test_join_raises_task_error(system: OpusOS) -> None:
    def fail() -> None:
        system.Yield()
        raise LookupError("no such thing")

    system.Spawn(fail)
    good = system.Spawn(abs, [-1])
    assert system.Join([good]) == {good: 1}
    with pytest.raises(LookupError, match="no such thing"):
        system.Join()
    assert system.Join() == {}


def test_unjoined_errors_are_printed_once(
    system: OpusOS, capsys: pytest.CaptureFixture[str]
) -> None:
    system.Spawn(divmod, [1, 0])
    system.Yield()
    system.finalize()
    assert "ZeroDivisionError" in capsys.readouterr().err
    system.finalize()
    assert capsys.readouterr().err == ""


def test_errors_of_children_whose_parent_has_ended_are_printed(
    system: OpusOS, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        system.Yield()
        system.Yield()
        raise LookupError("too late")

    system.Spawn(lambda: system.Spawn(fail))
    for _ in range(6):
        system.Yield()
    assert "too late" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_task_reaches_the_program(
    system: OpusOS, kind: type[BaseException]
) -> None:
    def interrupt() -> None:
        system.Yield()
        raise kind

    waits = system.Spawn(speak, [system, [], "a", 9])
    system.Spawn(interrupt)
    with pytest.raises(kind):
        system.Join([waits])
    for _ in range(10):  # what it waited for then is not answered any more
        system.Yield()
    assert system.Join([waits]) == {waits: 9}


def test_local_tasks_need_greenlet_and_say_how_to_get_it(
    system: OpusOS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "greenlet", None)
    with pytest.raises(EngineUnavailable, match=r"pip install '\.\[cooperative\]'"):
        system.Spawn(abs, [1])
    assert system.Join() == {}
    system.Yield()


def test_remote_tasks_do_without_greenlet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "greenlet", None)
    system = OpusOS(machine())
    assert system.dispatch((abs, [-n]) for n in range(9)) == list(range(9))


def test_importing_it_loads_neither_greenlet_nor_mpi4py() -> None:
    code = "import sys, encamp.compat.pyopus.cooperative, encamp.compat.pyopus.mpi\n"
    code += "print([name for name in ('greenlet', 'mpi4py') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_a_machine_remote_tasks_run_here(system: OpusOS) -> None:
    assert (system.slots(), system.freeSlots(), system.finishedTasks()) == (-1, -1, -1)
    assert system.dispatchSingle(pow, [2, 3]) == 8
    assert system.Spawn(abs, [1], remote=True, extendedReturnValue=True) == (3, None, None)


def test_a_machine_of_one_slot_is_none(system: OpusOS) -> None:
    system.setVM(RehearsedMachine({}))
    assert system.slots() == -1


def test_remote_and_local_tasks_are_joined_alike() -> None:
    system = OpusOS(machine())
    here = system.Spawn(abs, [-1])
    there = system.Spawn(abs, [-2], remote=True)
    assert system.Join([there]) == {there: 2}
    assert system.Join([here]) == {here: 1}
    assert (system.slots(), system.freeSlots()) == (3, 2)


def test_a_spawn_that_blocks_waits_for_a_slot() -> None:
    vm = machine(one=1)
    system = OpusOS(vm)
    tids = [system.Spawn(abs, [-n], remote=True) for n in range(3)]
    assert tids == [2, 3, 4]
    assert vm.most == 1
    assert system.finishedTasks() == 2
    assert [system.Join() for _ in tids] == [{2: 0}, {3: 1}, {4: 2}]


def test_a_spawn_without_a_slot_may_be_refused() -> None:
    system = OpusOS(machine(one=1))
    options = {"remote": True, "block": False, "enqueue": False}
    assert system.Spawn(abs, [-1], **options) == 2
    assert system.Spawn(abs, [-1], **options) == -1
    assert system.Spawn(abs, [-1], **options, extendedReturnValue=True) == (-1, None, None)
    assert system.Join() == {2: 1}
    assert system.Join() == {}


def test_queued_spawn_does_not_block_caller() -> None:
    vm = machine(one=1, two=1)
    system = OpusOS(vm)
    one, two = vm.hosts()
    options = {"remote": True, "block": False, "extendedReturnValue": True}
    tid, task, host = system.Spawn(abs, [-1], targetHostID=two, **options)
    assert (tid, str(task), host) == (2, "1:1", two)
    assert system.Spawn(abs, [-2], targetHostID=two, **options) == (3, None, two)
    assert system.Spawn(abs, [-3], targetHostID=one, **options)[2] == one
    assert [system.Join() for _ in range(3)] == [{2: 1}, {4: 3}, {3: 2}]


def test_a_task_may_be_given_its_host_and_an_unknown_one_is_refused() -> None:
    vm = machine(one=1, two=1)
    system = OpusOS(vm)
    assert system.Spawn(
        abs, [1], remote=True, targetHostID=MPIHostID("two"), extendedReturnValue=True
    )[2] == MPIHostID("two")
    with pytest.raises(PyOpusError, match="no host three"):
        system.Spawn(abs, [1], remote=True, targetHostID=MPIHostID("three"))
    assert system.Join() == {2: 1}


def test_join_raises_remote_error_and_others_continue() -> None:
    system = OpusOS(machine())
    bad = system.Spawn(divmod, [1, 0], remote=True)
    good = system.Spawn(abs, [-1], remote=True)
    with pytest.raises(ZeroDivisionError):
        system.Join([bad])
    assert system.Join() == {good: 1}


def test_unjoined_remote_error_is_printed_with_host(
    capsys: pytest.CaptureFixture[str],
) -> None:
    system = OpusOS(machine(one=2))
    system.Spawn(divmod, [1, 0], remote=True)
    good = system.Spawn(abs, [-1], remote=True)
    assert system.Join([good]) == {good: 1}  # the other result comes before
    system.scheduler.report_uncollected()
    assert " on one failed:\n" in capsys.readouterr().err


def test_a_task_whose_result_never_came_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vm = machine()
    take = vm.receiveMessage

    def exits_only(timeout: float = -1.0, fromDestination: Any = None) -> Any:
        received = take(timeout)
        return take(timeout) if received and type(received[1]) is MsgTaskResult else received

    monkeypatch.setattr(vm, "receiveMessage", exits_only)
    system = OpusOS(vm)
    system.Spawn(abs, [1], remote=True)
    with pytest.raises(PyOpusError, match="no result arrived"):
        system.Join()


def test_a_local_task_sees_its_spawners_context(system: OpusOS) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="default")
    variable.set("set")
    tid = system.Spawn(variable.get)
    assert system.Join() == {tid: "set"}


def test_the_machine_cannot_be_changed_while_tasks_run_on_it() -> None:
    system = OpusOS(machine())
    system.Spawn(abs, [1], remote=True)
    with pytest.raises(PyOpusError, match="cannot be changed"):
        system.setVM(None)
    system.Join()
    system.setVM(None)
    assert system.slots() == -1


@pytest.mark.parametrize("order", [0, -1])
@pytest.mark.parametrize("remote", [True, False])
def test_dispatch_gives_results_in_the_jobs_order(order: int, remote: bool) -> None:
    vm = RehearsedMachine({"one": 3}, order)
    assert OpusOS(vm).dispatch([(pow, [n, 2]) for n in range(20)], remote=remote) == [
        n * n for n in range(20)
    ]
    assert vm.most == (3 if remote else 0)


def test_jobs_may_leave_out_arguments_and_carry_data_of_their_own() -> None:
    got: list[Any] = []

    def collect() -> Iterator[None]:
        while True:
            got.append((yield))

    jobs: list[Any] = [(list,), (int, ["11"]), (int, ["11"], {"base": 2}, "extra")]
    vm = machine()
    assert OpusOS(vm).dispatch(iter(jobs), collect(), buildResultList=True) == [[], 11, 3]
    assert got == [(0, jobs[0], []), (1, jobs[1], 11), (2, jobs[2], 3)]


def test_the_collector_may_get_host_ids_and_is_closed_at_the_end() -> None:
    got: list[Any] = []

    def collect() -> Iterator[None]:
        try:
            while True:
                got.append((yield)[3])
        except GeneratorExit:
            got.append("closed")

    first, second = collect(), collect()
    assert OpusOS(machine()).dispatch([(abs, [1])] * 2, first, collectHostIDs=True) is None
    assert OpusOS().dispatch([(abs, [1])], second, collectHostIDs=True) is None
    assert got == [MPIHostID("one"), MPIHostID("one"), "closed", None, "closed"]


def test_jobs_may_depend_on_results() -> None:
    best = [0]

    def collect() -> Iterator[None]:
        while True:
            best[0] = max(best[0], (yield)[2])

    def jobs() -> Iterator[Any]:
        number = 0
        while best[0] < 100:
            yield pow, [number, 2]
            number += 1

    OpusOS(machine()).dispatch(jobs(), collect())
    assert 100 <= best[0] <= 144  # at most the jobs on the slots come after it


def test_after_a_failed_job_no_more_start_and_those_that_run_are_collected() -> None:
    vm, got, started = machine(one=2), [], []

    def collect() -> Iterator[None]:
        while True:
            got.append((yield)[0])

    def jobs() -> Iterator[Any]:
        for number in range(10):
            started.append(number)
            yield divmod, [6, 2 - number]

    system = OpusOS(vm)
    with pytest.raises(ZeroDivisionError):
        system.dispatch(jobs(), collect())
    assert got == [0, 1, 3]
    assert started == [0, 1, 2, 3]
    assert system.Join() == {}
    assert vm.freeSlots() == 2


def test_a_collector_that_raises_stops_the_dispatch_and_leaves_nothing() -> None:
    def collect() -> Iterator[None]:
        yield
        raise LookupError("full")

    vm = machine()
    system = OpusOS(vm)
    with pytest.raises(LookupError, match="full"):
        system.dispatch([(abs, [1])] * 5, collect())
    assert system.Join() == {}
    assert vm.freeSlots() == 2


def test_dispatch_leaves_other_children_alone() -> None:
    system = OpusOS(machine(one=3))
    mine = system.Spawn(abs, [-5], remote=True)
    assert system.dispatch((abs, [n]) for n in range(5)) == list(range(5))
    assert system.Join() == {mine: 5}


def test_a_custom_loop_over_spawn_and_join_fills_the_slots() -> None:
    vm = machine(one=3)
    system, running, results = OpusOS(vm), {}, {}
    next_job = 0
    while next_job < 10 or running:
        while next_job < 10 and (not running or system.freeSlots() - system.finishedTasks() > 0):
            running[system.Spawn(abs, args=[-next_job], remote=True)] = next_job
            next_job += 1
        tid, result = system.Join(block=True).popitem()
        results[running.pop(tid)] = result
    assert results == {n: n for n in range(10)}
    assert vm.most == 3


def test_tasks_that_only_wait_for_each_other_are_an_error(system: OpusOS) -> None:
    system.scheduler.active.nchildren = 1
    with pytest.raises(PyOpusError, match="wait for each other"):
        system.Join()


def test_finalize_ends_the_machine() -> None:
    vm = machine()
    OpusOS(vm).finalize()
    assert vm.finalized


def test_the_one_instance_travels_by_name() -> None:
    assert pickle.loads(pickle.dumps(cOS)) is cOS


def test_debug_messages_tell_host_process_and_microthread(
    system: OpusOS, capsys: pytest.CaptureFixture[str]
) -> None:
    system.setDebug(1)
    system.Spawn(system.Yield)
    system.setDebug(0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("_1 COS: task 1 calls Spawn")
    assert lines[1].endswith("_2 COS: task 2 calls Yield")


def test_pyopus_modules_see_active_task(monkeypatch: pytest.MonkeyPatch) -> None:
    identify = ModuleType("pyopus.misc.identify")
    identify.tid = 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, identify.__name__, identify)
    system, seen = OpusOS(), []

    def task() -> None:
        for _ in range(2):
            seen.append(identify.tid)
            system.Yield()

    seen.append(identify.tid)
    system.Spawn(task)
    system.Spawn(task)
    seen.append(identify.tid)
    while system.Join():
        seen.append(identify.tid)
    assert seen == [1, 2, 2, 3, 1, 3, 1, 1]


def test_paths_are_translated(
    system: OpusOS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLEL_MIRRORED_STORAGE", f"{tmp_path}/a:{tmp_path}/b")
    abstract = system.toAbstractPath(f"{tmp_path}/b/c/d")
    assert abstract == (1, "c/d")
    assert system.toActualPath(abstract) == f"{tmp_path}/b/c/d"
    assert system.toActualPath((None, "x/y")) == "x/y"
    assert system.toActualPath((0, "/x/y")) == f"{tmp_path}/a/x/y"
    for call in (
        lambda: system.toAbstractPath(f"{tmp_path}/a2/x"),
        lambda: system.toActualPath((2, "x")),
        lambda: system.toActualPath((-1, "x")),
    ):
        with pytest.raises(PyOpusError):
            call()


def test_suppressed_errors_do_not_disturb_the_others(system: OpusOS) -> None:
    for number in range(50):
        system.Spawn(divmod, [number, number % 2])
    good = 0
    for _ in range(50):
        with suppress(ZeroDivisionError):
            good += bool(system.Join())
    assert good == 25
