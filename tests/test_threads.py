"""Any number of threads: nothing is lost, repeated or delivered twice."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.cluster.message_queue import MessageQueue
from encamp.cluster.task import SpawnedTask, Timing, begins
from encamp.errors import JobBusy
from encamp.jobs.journal import run_lock as locks
from encamp.jobs.journal.journal import Journal
from encamp.slot.slot import Slot
from encamp.storage.cache.locks import exclusive
from encamp.storage.persistent import give_back, persistent_sandbox, remove_idle
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.pickling import dump
from encamp.wire.protocol import Message, Results, Run, decode, encode, encode_calls

THREADS = 4


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """Another thread has its turn as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*functions: Callable[[], object]) -> None:
    """Call functions in threads that begin together; raises what one of them raised."""
    together, errors = threading.Barrier(len(functions)), []

    def run(function: Callable[[], object]) -> None:
        try:
            together.wait(60)
            function()
        except BaseException as exc:  # noqa: BLE001 - it is raised below
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Alone:
    """Notes whether more than one thread is in at the same time."""

    def __init__(self) -> None:
        self.inside = self.most = self.times = 0

    def __enter__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)

    def __exit__(self, *exc: object) -> None:
        self.times += 1
        self.inside -= 1


def test_each_message_is_taken_by_one_thread() -> None:
    end: Any = SimpleNamespace()
    mail, count = MessageQueue({}, Outbox(end)), 1500
    for number in range(count):
        mail.put(number % 3, (number,))
    taken: list[int] = []

    def take(source: int | None) -> None:
        while (got := mail.take(source)) is not None:
            taken.append(got.message[0])

    at_once(*[lambda s=source: take(s) for source in (None, 0, 1, 2, None)])
    assert Counter(taken) == dict.fromkeys(range(count), 1)


def test_each_task_callback_is_called_exactly_once() -> None:
    canceller: Any = SimpleNamespace()
    tasks = [SpawnedTask(number, "", Timing(), canceller) for number in range(700)]
    called: list[tuple[int, int]] = []

    def add(which: int) -> None:
        for task in tasks:
            task.add_done_callback(lambda ended: called.append((which, ended.result(0))))

    def end() -> None:
        for task in tasks:
            begins(task, "host", 0)
            task.set_result(task.id)

    at_once(end, *[lambda w=which: add(w) for which in range(3)])
    assert Counter(called) == {(which, task.id): 1 for which in range(3) for task in tasks}


def test_a_callback_that_is_added_just_as_its_task_ends_is_called_once() -> None:
    adding, ended = threading.Event(), threading.Event()
    adder = threading.get_ident()

    class Slow(SpawnedTask):
        def done(self) -> bool:
            was = super().done()
            if threading.get_ident() == adder:
                adding.set()
                ended.wait(0.2)  # in which it does not end, or what was seen would be wrong
            return was

    canceller: Any = SimpleNamespace()
    task, called = Slow(1, "", Timing(), canceller), []

    def end() -> None:
        adding.wait(60)
        task.set_result(1)
        ended.set()

    thread = threading.Thread(target=end)
    thread.start()
    task.add_done_callback(called.append)
    thread.join()
    assert called == [task]


class Sending:
    """A port that notes whose results are sent."""

    short = None

    def __init__(self) -> None:
        self.ended: list[int] = []

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """Note whose they are."""
        results = decode(parts[0])
        assert isinstance(results, Results)
        self.ended += [result[0] for result in results.results]

    def send_to(self, slot: int, parts: Parts) -> bool:
        """There are no links."""
        return False

    def wait(self, timeout: float | None) -> bool:
        """Nothing will come."""
        return False


def test_call_runs_once_or_is_given_back() -> None:
    port = Sending()
    slot, count, given = Slot(0, "here", port), 2000, 0
    arguments, function = dump(((), {}))[0], pickle.dumps(dict)
    over = threading.Event()

    def give(tasks: list[int], functions: tuple[int, ...] = ()) -> None:
        calls: Any = [(task, 1, bytes(arguments), 0, b"") for task in tasks]
        run = Run(0, len(calls), list(functions))
        slot.take(run, [encode(run), encode_calls(calls), *[function for _ in functions]])

    def work() -> None:
        while len(port.ended) < count and not over.is_set():
            slot.run_next()

    def recall() -> None:
        nonlocal given
        for _ in range(200):
            tasks, _ = slot.give_back()
            given += len(tasks)
            give(tasks)

    def recall_until_over() -> None:
        try:
            recall()
        except BaseException:
            over.set()
            raise

    def add() -> None:
        for task in range(count // 2, count):
            give([task])

    give(list(range(count // 2)), (1,))
    at_once(work, recall_until_over, add)
    assert given
    assert Counter(port.ended) == dict.fromkeys(range(count), 1)


def test_a_persistent_folder_has_one_user_at_a_time(local_storage_base: Path) -> None:
    users: Counter[Path] = Counter()
    used: list[Path] = []
    most = 0
    guard = threading.Lock()

    def use() -> None:
        nonlocal most
        for _ in range(10):
            sandbox = persistent_sandbox("shared", [], renew=False)
            with guard:
                users[sandbox.folder] += 1
                most = max(most, *users.values())
                used.append(sandbox.folder)
            assert sandbox.folder.is_dir()
            with guard:
                users[sandbox.folder] -= 1
            give_back("shared", sandbox)

    at_once(*[use] * THREADS)
    assert most == 1
    assert len(set(used)) < len(used), "none was used again"
    remove_idle()
    assert list(local_storage_base.glob("encamp-*/sandboxes/*")) == []


class SlowSet(set[Path]):
    """Lets others have their turn when it was looked into."""

    def __contains__(self, item: object) -> bool:
        there = super().__contains__(item)
        time.sleep(0.002)
        return there


def test_a_job_is_run_by_one_thread_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_open_here", SlowSet())
    inside = Alone()
    busy: list[JobBusy] = []

    def run() -> None:
        for _ in range(20):
            try:
                with Journal(tmp_path).writing(), inside:
                    pass
            except JobBusy as exc:
                busy.append(exc)

    at_once(*[run] * THREADS)
    assert inside.most == 1
    assert inside.times + len(busy) == 20 * THREADS
    with Journal(tmp_path).writing():
        pass  # nobody has left it locked


def test_a_key_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    both = {key: Alone() for key in "ab"}

    def hold() -> None:
        for number in range(60):
            key = "ab"[number % 2]
            with exclusive(tmp_path / "locks", key), both[key]:
                pass

    at_once(*[hold] * THREADS)
    assert [(each.most, each.times) for each in both.values()] == [(1, 30 * THREADS)] * 2
