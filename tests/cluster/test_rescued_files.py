"""Files of tasks whose process is dead are rescued by its agent, whatever else happens."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp.agent import rescue as rescue_module
from encamp.agent.process_slot import ProcessSlot
from encamp.cluster.cluster import Cluster
from encamp.errors import TaskKilled, TaskLost, UnusableInput
from encamp.slot.current_task import slot_here
from encamp.storage import dead_owners, folder_life
from encamp.storage.files_by_request import PublishRescued
from encamp.storage.local_storage import local_storage
from encamp.storage.outputs import stage as stage_module
from encamp.storage.owned_folder import RESCUE
from encamp.testing.fake import FakeEngine
from encamp.testing.waiting import until

SOON = 60.0


def leave(name: str) -> None:
    Path(f"{name}.log").write_text(name)


def die_when_told(name: str) -> None:
    leave(name)
    encamp.current_task().send(0, "ready")
    encamp.current_task().receive()
    os.kill(os.getpid(), signal.SIGKILL)


def hang(name: str) -> None:
    leave(name)
    encamp.current_task().send(0, "ready")
    time.sleep(1000)


def fail_deaf(name: str) -> None:
    """Fail with another error when asked to stop."""
    try:
        hang(name)
    except BaseException as exc:
        raise ValueError("mine") from exc


def at_hand(cluster: Cluster, function: Callable[..., Any], name: str, **options: Any) -> Any:
    """A task with a file, which waits."""
    task = cluster.spawn(function, name, on_failure="*.log", to="to", **options)
    heard = cluster.receive(SOON, source=task)
    assert heard is not None
    assert heard.message == "ready"
    return task


def published() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(Path("to").glob("*"))}


@pytest.fixture(autouse=True)
def nothing_temporary(here: Path) -> Iterator[None]:
    yield
    until(lambda: not list(here.rglob(".encamp-*")))
    assert list(here.rglob(".encamp-*")) == []


class Gate:
    """Holds each rescue, before or after it has staged, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, before: bool) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.staged: list[Any] = []
        real = stage_module.stage

        def stage(*args: Any, **options: Any) -> Any:
            if before:
                self._wait()
            self.staged += (found := real(*args, **options))
            if not before:
                self._wait()
            return found

        monkeypatch.setattr(folder_life, "stage", stage)

    def wait(self, cluster: Cluster, task: Any) -> None:
        """Wait until the task waits for its rescue, at the controller as well."""
        assert self.reached.wait(SOON)
        records = cluster._controller.tasks
        until(lambda: records[task.id].error is not None)

    def _wait(self) -> None:
        self.reached.set()
        assert self.open.wait(SOON)


def test_calls_behind_a_crash_do_not_wait_for_the_rescue(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, before=True)
    with Cluster(slots=1) as cluster:
        task = at_hand(cluster, die_when_told, "a")
        behind = cluster.spawn_many(abs, [(-n,) for n in range(20)])
        cluster.send(task, "now")
        assert [one.result(SOON) for one in behind] == list(range(20))
        gate.wait(cluster, task)
        assert not task.done()
        assert published() == {}
        gate.open.set()
        with pytest.raises(TaskLost) as caught:
            task.result(SOON)
        assert caught.value.exit_code == -signal.SIGKILL
        assert published() == {"a.log": "a"}


def test_tasks_that_die_together_leave_their_own_files() -> None:
    with Cluster(slots=4) as cluster:
        tasks = [at_hand(cluster, die_when_told, name) for name in "abcd"]
        for task in tasks:
            cluster.send(task, "now")
        assert [type(task.exception(SOON)) for task in tasks] == [TaskLost] * 4
        assert published() == {f"{name}.log": name for name in "abcd"}


def test_all_that_are_killed_together_leave_their_own_files() -> None:
    with Cluster(slots=2) as cluster:
        tasks = [at_hand(cluster, hang, name) for name in "ab"]
        cluster.kill_all()
        assert [type(task.exception(SOON)) for task in tasks] == [TaskKilled] * 2
        assert published() == {"a.log": "a", "b.log": "b"}


def test_the_next_tasks_of_a_slot_publish_nothing_of_the_last() -> None:
    with Cluster(slots=1) as cluster:
        assert cluster.spawn(leave, "a", on_failure="*", to="to").result(SOON) is None
        assert cluster._agent is not None
        slot = cluster._agent.slots[0]
        assert isinstance(slot, ProcessSlot)
        process = slot.reachable_process()
        assert process is not None
        assert process.noted() == b""
        lost = cluster.spawn(os.kill, 0, signal.SIGKILL, mirror=[])
        assert isinstance(lost.exception(SOON), TaskLost)
        again = cluster.spawn(leave, "b", on_failure="*", to="to", persistent=True)
        assert again.result(SOON) is None
        beside = cluster.spawn(os.listdir, "..", persistent=True).result(SOON)
        assert "task" in beside
        assert RESCUE not in beside
        lost = cluster.spawn(os.kill, 0, signal.SIGKILL)
        assert isinstance(lost.exception(SOON), TaskLost)
    assert published() == {}


def test_a_task_that_raises_when_it_is_killed_leaves_its_files_with_that_error() -> None:
    with Cluster(slots=1) as cluster:
        task = at_hand(cluster, fail_deaf, "a")
        task.kill()
        with pytest.raises(ValueError, match="mine"):
            task.result(SOON)
        assert published() == {"a.log": "a"}


@pytest.mark.parametrize("where", ["noted_plan", "rescue_dead", "end_dead"])
def test_a_rescue_that_fails_hides_no_error(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    real = folder_life.end_dead

    def fail(path: Path, *args: Any, **options: Any) -> None:
        real(path, keeps=False)
        raise RuntimeError(where)

    monkeypatch.setattr(folder_life, where, fail)
    with Cluster(slots=1) as cluster:
        task = at_hand(cluster, die_when_told, "a")
        cluster.send(task, "now")
        with pytest.raises(TaskLost):
            task.result(SOON)


def test_without_a_thread_for_it_nothing_is_rescued(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "encamp-rescue":
            raise RuntimeError("can't start new thread")
        start(self)

    with Cluster(slots=1) as cluster:
        task = at_hand(cluster, die_when_told, "a")
        monkeypatch.setattr(threading.Thread, "start", refuse)
        cluster.send(task, "now")
        assert isinstance(task.exception(SOON), TaskLost)
    assert published() == {}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("end", [die_when_told, hang])
@pytest.mark.parametrize("engine", ["local", "fake"])
def test_a_cluster_that_is_closed_during_a_rescue_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, before: bool, end: Callable[..., Any], engine: str
) -> None:
    gate = Gate(monkeypatch, before=before)
    cluster = Cluster(FakeEngine(1, 1) if engine == "fake" else engine, slots=1)
    task = at_hand(cluster, end, "a")
    if end is hang:
        task.kill()
    else:
        cluster.send(task, "now")
    gate.wait(cluster, task)
    cluster.close(cancel=True)  # while the rescue hangs
    assert isinstance(task.exception(0), TaskKilled if end is hang else TaskLost)
    assert list(Path.cwd().rglob(".encamp-*")) == []
    gate.open.set()
    until(lambda: "encamp-rescue" not in {thread.name for thread in threading.enumerate()})
    assert published() == {}


def test_a_rescue_that_ends_while_the_cluster_is_closed_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch, before=False)
    cluster = Cluster(slots=1)
    task = at_hand(cluster, hang, "a")
    task.kill()
    gate.wait(cluster, task)
    real = rescue_module.Rescues.end

    def end(self: rescue_module.Rescues, within: float) -> None:
        gate.open.set()
        real(self, within)

    monkeypatch.setattr(rescue_module.Rescues, "end", end)
    cluster.close(cancel=True)
    assert isinstance(task.exception(0), TaskKilled)
    assert len(gate.staged) == 1
    assert list(Path.cwd().rglob(".encamp-*")) == []
    assert published() == {}


@pytest.mark.parametrize("engine", ["local", "fake"])
def test_a_cluster_that_kills_its_tasks_at_its_end_publishes_nothing(engine: str) -> None:
    cluster = Cluster(FakeEngine(1, 1) if engine == "fake" else engine, slots=1)
    task = at_hand(cluster, hang, "a")
    cluster.close(cancel=True)
    assert isinstance(task.exception(0), TaskKilled)
    assert published() == {}


@pytest.mark.parametrize("before", [True, False])
def test_a_task_ends_with_its_own_error_if_its_agent_is_lost_during_the_rescue(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    gate = Gate(monkeypatch, before=before)
    engine = FakeEngine(2, 1)
    with Cluster(engine) as cluster:
        task = at_hand(cluster, die_when_told, "a", on="fake-1")
        cluster.send(task, "now")
        gate.wait(cluster, task)
        engine.kill_host("fake-1")
        with pytest.raises(TaskLost) as caught:
            task.result(SOON)
        assert caught.value.exit_code == -signal.SIGKILL
        assert cluster.spawn(abs, -3).result(SOON) == 3
        gate.open.set()
        until(lambda: "encamp-rescue" not in {thread.name for thread in threading.enumerate()})
    assert published() == {}


def publish_now(task: int) -> None:
    slot, _ = slot_here() or (None, 0)
    assert slot is not None
    slot.running = task
    slot.ask(PublishRescued([]))


def test_only_files_of_a_task_that_waits_for_them_are_published() -> None:
    with Cluster(slots=2) as cluster:
        other = at_hand(cluster, hang, "a")
        for task in (other.id, 10**6):
            with pytest.raises(UnusableInput, match=r"not awaited|has ended"):
                cluster.spawn(publish_now, task).result(SOON)
        other.kill()
        assert isinstance(other.exception(SOON), TaskKilled)


def end_self(name: str) -> None:
    """End as by an administrator's SIGTERM."""
    leave(name)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1000)


def test_a_process_that_makes_room_for_a_fresh_one_while_it_ends_is_rescued() -> None:
    with Cluster(slots=1) as cluster:
        for number in range(3):
            task = cluster.spawn(end_self, str(number), on_failure="*.log", to="to")
            fresh = cluster.spawn(abs, -7, fresh=True)
            assert isinstance(task.exception(SOON), TaskLost)
            assert fresh.result(SOON) == 7
    assert published() == {f"{number}.log": str(number) for number in range(3)}


def hang_and_end_slowly(name: str) -> None:
    """Leave a second between the result and the end of the process."""
    here = slot_here()
    assert here is not None
    connection: Any = here[0].connection
    wait = connection.wait

    def slowly(limit: float | None) -> Any:
        time.sleep(1)
        return wait(limit)

    connection.wait = slowly
    hang(name)


def test_a_process_that_is_renewed_while_it_ends_is_rescued() -> None:
    with Cluster(slots=1) as cluster:
        task = at_hand(cluster, hang_and_end_slowly, "a")
        task.kill()
        time.sleep(0.2)
        cluster.clear_local_storage(SOON)
        assert isinstance(task.exception(SOON), TaskKilled)
    assert published() == {"a.log": "a"}


def end_with_slow_removal(name: str, fails: bool, removed: Path) -> None:
    from encamp.storage import owned_folder

    remove = owned_folder.remove_folder

    def slowly(*args: Any, **options: Any) -> None:
        remove(*args, **options)
        removed.touch()  # the call has ended, and its files are staged
        time.sleep(1)

    owned_folder.remove_folder = slowly
    leave(name)
    Path("out.txt").write_text("good")
    if fails:
        raise ValueError("mine")


@pytest.mark.parametrize("fails", [False, True])
def test_a_kill_after_the_end_of_a_call_leaves_its_result_as_it_is(fails: bool, here: Path) -> None:
    removed = here / "removed"
    with Cluster(slots=1) as cluster:
        task = cluster.spawn(
            end_with_slow_removal,
            *("a", fails, removed),
            outputs="out.txt",
            on_failure="*.log",
            to="to",
        )
        until(removed.exists)
        task.kill()
        error = task.exception(SOON)
    if fails:
        assert isinstance(error, ValueError)
        assert published() == {"a.log": "a"}
    else:
        assert error is None
        assert published() == {"out.txt": "good"}


def test_a_folder_that_others_look_at_while_it_is_removed_does_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    awaits = dead_owners._awaits_rescue

    def slowly(folder: Path) -> bool:
        """Holds the folder's lock longer."""
        if found := awaits(folder):
            time.sleep(1)
        return found

    monkeypatch.setattr(dead_owners, "_awaits_rescue", slowly)
    sandboxes = local_storage() / "sandboxes"
    with Cluster(slots=1) as cluster:
        for name in ("a", "b"):
            task = at_hand(cluster, die_when_told, name)
            cluster.send(task, "now")
            assert isinstance(task.exception(SOON), TaskLost)

        def none_left() -> bool:
            dead_owners.reclaim()
            return not list(sandboxes.iterdir())

        until(none_left)
        assert list(sandboxes.iterdir()) == []
    assert published() == {"a.log": "a", "b.log": "b"}


def test_a_host_that_rescues_files_counts_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, before=True)
    reported: list[dict[int, int]] = []
    with Cluster(slots=1) as cluster:
        controller = cluster._controller
        monkeypatch.setattr(controller.engine, "needs", lambda busy, _: reported.append(busy))
        task = at_hand(cluster, hang, "a")
        task.kill()
        gate.wait(cluster, task)
        controller.pump.call(controller.agents.report_needs)
        gate.open.set()
        assert isinstance(task.exception(SOON), TaskKilled)
        controller.pump.call(controller.agents.report_needs)
        (number,) = controller.agents.by_number
    assert reported[0] == {number: 1}
    assert reported[-1] == {}
