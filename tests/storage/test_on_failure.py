"""``on_failure`` means the same for a sandbox, a spawned task and a job, killed steps included."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import encamp
from encamp.errors import BadJob, SourceChanged, TaskKilled, TaskLost, TimeLimitExceeded
from encamp.jobs.run_clock import Clock
from encamp.jobs.worker import supervise_attempt
from encamp.jobs.worker.run_phases import StepBegins
from encamp.storage.folder_life import FolderPlan, end_dead, rescue_dead
from encamp.storage.outputs import stage as stage_module
from encamp.storage.outputs.patterns import Output, OutputMap
from encamp.storage.outputs.publish import final_name
from encamp.storage.outputs.stage import unstage
from encamp.storage.owned_folder import LOCK, TASK
from encamp.storage.placing.place import Placer
from encamp.testing.fake import FakeEngine

Body = Callable[[], None]


def plain() -> None:
    """Leave a new file, and change one of the two inputs."""
    Path("a.txt").write_text("made")
    Path("b.csv").write_text("half")


def with_fifo() -> None:
    plain()
    os.mkfifo("fifo")


def with_link_out() -> None:
    plain()
    Path("out.txt").symlink_to("/etc/hostname")
    Path("nowhere.txt").symlink_to("missing")


def with_folder() -> None:
    plain()
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/x").write_text("x")
    Path("deep/y").write_text("y")
    os.mkfifo("deep/er/fifo")
    Path("deep/empty").mkdir()


def with_equal_names() -> None:
    for name in ("one", "two"):
        Path(name).mkdir()
        Path(name, "same.txt").write_text(name)


def with_unreadable_file() -> None:
    """Leave a file that even root cannot read."""
    plain()
    Path("closed.txt").write_text("closed")
    before = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith("/closed.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *args, **options)

    os.open = refuse


def fail(body: Body) -> None:
    body()
    raise ValueError("mine")


def leave(body: Body) -> None:
    body()
    raise SystemExit(3)


def die(body: Body) -> None:
    body()
    os.kill(os.getpid(), signal.SIGKILL)


def hang(body: Body) -> None:
    body()
    encamp.current_task().send(0, "ready")
    time.sleep(1000)


def block(body: Body) -> None:
    """Hang in compiled code that holds Python's interpreter lock."""
    body()
    encamp.current_task().send(0, "ready")
    libc = ctypes.PyDLL(None)
    while True:
        libc.sleep(1)


def terminate(body: Body) -> None:
    body()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1000)


def in_sandbox(end: Callable[[Body], None], body: Body, on_failure: OutputMap) -> None:
    with (
        encamp.sandbox("data/*.csv", to="to", on_failure=on_failure) as folder,
        contextlib.chdir(folder),
    ):
        end(body)


def in_spawned_task(
    end: Callable[[Body], None], body: Body, on_failure: OutputMap, **options: Any
) -> None:
    with encamp.Cluster(slots=1) as cluster:
        cluster.spawn(plain).result()  # the slot has imported this module
        given: dict[str, Any] = {"mirror": "data/*.csv", "to": "to", "on_failure": on_failure}
        task = cluster.spawn(end, body, **given, **options)
        if end in (hang, block) and "time_limit" not in options:
            heard = cluster.receive(60, source=task)
            assert heard is not None
            assert heard.message == "ready"
            task.kill()
        task.result()


def in_limited_time(end: Callable[[Body], None], body: Body, on_failure: OutputMap) -> None:
    in_spawned_task(end, body, on_failure, time_limit=1)


def in_fresh_process(end: Callable[[Body], None], body: Body, on_failure: OutputMap) -> None:
    in_spawned_task(end, body, on_failure, fresh=True)


def in_persistent_folder(end: Callable[[Body], None], body: Body, on_failure: OutputMap) -> None:
    in_spawned_task(end, body, on_failure, persistent=True)


def in_executor(end: Callable[[Body], None], body: Body, on_failure: OutputMap) -> None:
    with encamp.Executor(slots=1) as pool:
        own = pool.options(mirror="data/*.csv", to="to", on_failure=on_failure)
        list(own.map(end, [body]))


def afar(end: Callable[[Body], None], body: Body, on_failure: OutputMap) -> None:
    """On a host that does not see the destination."""
    with pytest.MonkeyPatch.context() as patch, encamp.Cluster(FakeEngine(1, 1)) as cluster:
        patch.setattr(stage_module, "reaches", lambda folder, beacon: False)
        given: dict[str, Any] = {"mirror": "data/*.csv", "to": "to", "on_failure": on_failure}
        cluster.spawn(end, body, **given).result()


def in_job(end: Callable[[Body], None], body: Body, on_failure: OutputMap) -> None:
    job = encamp.Job("job", to="to")
    job.add("task", encamp.call(end, body), mirror="data/*.csv", on_failure=on_failure)
    job.run(slots=1)


WAYS = {
    "sandbox": (in_sandbox, fail, ValueError),
    "sandbox-exit": (in_sandbox, leave, SystemExit),
    "spawn": (in_spawned_task, fail, ValueError),
    "spawn-exit": (in_spawned_task, leave, SystemExit),
    "spawn-killed": (in_spawned_task, die, TaskLost),
    "spawn-kill": (in_spawned_task, hang, TaskKilled),
    "spawn-blocked": (in_spawned_task, block, TaskKilled),
    "spawn-time-limit": (in_limited_time, hang, TimeLimitExceeded),
    "spawn-terminated": (in_spawned_task, terminate, TaskLost),
    "fresh-killed": (in_fresh_process, die, TaskLost),
    "fresh-kill": (in_fresh_process, hang, TaskKilled),
    "fresh-terminated": (in_fresh_process, terminate, TaskLost),
    "persistent-killed": (in_persistent_folder, die, TaskLost),
    "persistent-kill": (in_persistent_folder, hang, TaskKilled),
    "afar-killed": (afar, die, TaskLost),
    "afar-terminated": (afar, terminate, TaskLost),
    "executor-killed": (in_executor, die, TaskLost),
    "job": (in_job, fail, encamp.JobFailed),
    "job-exit": (in_job, leave, encamp.JobFailed),
    "job-killed": (in_job, die, encamp.JobFailed),
}


@pytest.fixture(autouse=True)
def inputs(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "open", os.open)  # what `with_unreadable_file` replaces, is put back
    Path("data").mkdir()
    for name in ("a", "b"):
        Path("data", f"{name}.csv").write_text("input")
    yield
    assert Path("data/a.csv").read_text() == Path("data/b.csv").read_text() == "input"
    assert not list(here.rglob(".encamp-*"))


def published(way: str, body: Body, on_failure: OutputMap) -> dict[str, str]:
    """What a failed task has left at the destination, without what is the job's own."""
    run, end, error = WAYS[way]
    with pytest.raises(error):
        run(end, body, on_failure)
    found = (path for path in Path("to").rglob("*") if "job.job" not in path.parts)
    return {
        str(path.relative_to("to")): "/" if path.is_dir() else path.read_text()
        for path in sorted(found)
        if not path.is_dir() or not any(path.iterdir())
    }


CASES: dict[str, tuple[Body, OutputMap, dict[str, str]]] = {
    "missing": (plain, ["a.txt", "missing*", "none.txt"], {"a.txt": "made"}),
    "inputs": (plain, "*", {"a.txt": "made", "a.csv": "input", "b.csv": "half"}),
    "unchanged input by name": (plain, "a.csv", {"a.csv": "input"}),
    "nothing": (plain, [], {}),
    "fifo": (with_fifo, "*.txt", {"a.txt": "made"}),
    "fifo among all": (with_fifo, "*", {"a.txt": "made", "a.csv": "input", "b.csv": "half"}),
    "fifo by name": (with_fifo, ["fifo", "a.txt"], {"a.txt": "made"}),
    "links out": (with_link_out, "*.txt", {"a.txt": "made"}),
    "unreadable": (with_unreadable_file, "*.txt", {"a.txt": "made"}),
    "folder": (with_folder, "deep", {"deep/er/x": "x", "deep/y": "y", "deep/empty": "/"}),
    "equal names": (with_equal_names, "*/*.txt", {"same.txt": "one"}),
    "one name": (
        with_equal_names,
        Output("**/*.txt", rename="log"),
        {"one/log": "one", "two/log": "two"},
    ),
}


ALL_CASES = {"sandbox", "spawn", "job", "spawn-killed", "afar-killed", "job-killed"}
"""Ways that differ from these only in how the task ends have one case."""
RUNS = [(way, case) for way in WAYS for case in CASES if way in ALL_CASES or case == "inputs"]
for one in ("spawn-killed", "afar-killed", "job-killed"):
    RUNS.remove((one, "unreadable"))  # the process that cannot read the file is dead


MOST_WAYS = sorted(ALL_CASES | {"sandbox-exit", "spawn-exit", "job-exit"})


@pytest.mark.parametrize(("way", "case"), RUNS)
def test_failed_task_publishes_what_there_is(way: str, case: str) -> None:
    body, on_failure, expected = CASES[case]
    assert published(way, body, on_failure) == expected


@pytest.mark.parametrize("way", MOST_WAYS)
def test_file_that_may_not_be_replaced_stops_no_other(way: str) -> None:
    Path("to").mkdir()
    Path("to/a.txt").write_text("earlier")
    kept: OutputMap = [Output("a.txt", existing="error"), "b.csv"]
    assert published(way, plain, kept) == {"a.txt": "earlier", "b.csv": "half"}


@pytest.mark.parametrize("way", MOST_WAYS)
def test_sources_of_inputs_are_not_replaced(way: str, here: Path) -> None:
    outputs = {"*.csv": str(here / "data"), "*.txt": "."}
    if way.startswith("job"):  # a job finds this out before it runs
        with pytest.raises(BadJob, match="reads what it leaves when it fails"):
            published(way, plain, outputs)
    else:
        assert published(way, plain, outputs) == {"a.txt": "made"}


@pytest.mark.parametrize("way", ["spawn", "spawn-exit"])
def test_error_of_spawned_task_has_its_traceback(way: str) -> None:
    run, end, error = WAYS[way]
    with pytest.raises(error) as caught:
        run(end, plain, "*.txt")
    assert f"in {end.__name__}" in str(caught.value.__cause__)


def test_task_that_has_not_begun_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Placer, items: Any) -> None:
        (self.folder / "a.csv").write_text("input")
        raise SourceChanged("b.csv")

    monkeypatch.setattr(Placer, "place", half)
    with pytest.raises(SourceChanged):
        in_sandbox(fail, plain, "*")
    assert not Path("to").exists()


@pytest.mark.parametrize("begun", [False, True])
def test_dead_slots_files_are_published_only_if_a_step_had_begun(
    here: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    task = here / "of a dead slot" / TASK
    task.mkdir(parents=True)
    (task / "c.csv").write_text("inp")  # perhaps the beginning of an input
    monkeypatch.setattr(supervise_attempt, "LeaseWatch", lambda lease: None)
    plan = FolderPlan("task", "token", (), (), (Output("*", str(here / "to")),))
    work: Any = SimpleNamespace(
        task="task",
        beacon="",
        lease=None,
        time_limit=None,
        clock=Clock(),
        folder=plan,
        keep="never",
    )
    supervisor = supervise_attempt._Supervisor(work)
    supervisor._folder = task.parent
    if begun:
        supervisor._step = StepBegins("step", None, time.monotonic(), (), (0, 0, 0))
    outcome = supervisor.outcome(TaskLost("task", "host", -9, ""))
    names = [Path(final_name(one.final)).name for one in outcome.rescued]
    unstage(outcome.rescued)
    assert names == (["c.csv"] if begun else [])
    assert not task.exists()


def test_unchanged_input_is_no_output_of_a_job() -> None:
    job = encamp.Job("job", to=".")
    job.add("task", "true", mirror="data/*.csv", outputs={"*.csv": "data"})
    with pytest.raises(encamp.JobFailed, match="did not change"):
        job.run(slots=1)
    with encamp.sandbox("data/*.csv", outputs={"*.csv": "data"}):
        pass  # may replace them, and need not


def test_what_a_rescuer_has_staged_is_removed_if_it_dies(here: Path) -> None:
    task = here / "of a dead slot" / TASK
    task.mkdir(parents=True)
    (task / "c.csv").write_text("c")
    plan = FolderPlan("task", "token", (), (), (Output("*", str(here / "to")),))
    staged = rescue_dead(task.parent, plan, None, notes_parts=True)
    assert [path.name for path in Path("to").iterdir()] == [Path(str(staged[0].part)).name]
    Path(f"{task.parent}{LOCK}").touch()
    end_dead(task.parent, keeps=False)
    assert list(Path("to").iterdir()) == []
    assert not task.parent.exists()
