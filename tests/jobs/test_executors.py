"""A job does the same on every `concurrent.futures.Executor`, with real workers."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import executor_steps as steps
import psutil
import pytest

from conftest import need
from encamp import Job, Output, call, command
from encamp.errors import BadJob
from encamp.jobs.progress_interface import Silent
from encamp.jobs.worker.slots import slots_here
from encamp.reports import JobReport, TaskReport
from encamp.storage.local_storage import LOCAL
from encamp.testing.waiting import gone, until

KINDS = (
    "default",
    "threads",
    "fork",
    "forkserver",
    "spawn",
    "loky",
    "ipyparallel-balanced",
    "ipyparallel-direct",
    "dask-processes",
    "dask-threads",
)


@dataclass(frozen=True)
class Workers:
    """An executor under test, and what encamp is to call its two workers."""

    executor: Executor | None
    name: str
    several: bool = True
    run_options: dict[str, Any] = field(default_factory=dict)

    def run(self, job: Job, **options: Any) -> JobReport:
        return job.run(self.executor, check=False, **self.run_options, **options)


@pytest.fixture(params=KINDS)
def workers(request: pytest.FixtureRequest) -> Workers:
    kind: str = request.param
    if kind.startswith(("ipyparallel", "dask")):
        made: Workers = request.getfixturevalue(kind.replace("-", "_"))
        return made
    make: Callable[[str], Workers] = request.getfixturevalue("pool")
    return make(kind)


@pytest.fixture
def pool(
    request: pytest.FixtureRequest, no_slots_left: None, lasting_storage: Path
) -> Iterator[Callable[[str], Workers]]:
    """Makes an executor on this host; shuts down those that are quickly made anew."""
    made: list[Executor] = []
    lasting: list[Executor] = []

    def make(kind: str) -> Workers:
        if kind == "default":
            return Workers(None, r"slot-\d+", run_options={"slots": 2})
        if kind == "threads":
            executor: Executor = ThreadPoolExecutor(2, thread_name_prefix="mine")
            name = r"mine_\d+"
        elif kind == "fork":
            executor, name = _processes(kind), r"ForkProcess-\d+"
        else:
            executor, name = request.getfixturevalue(kind), _LASTING[kind]
            lasting.append(executor)
            return Workers(executor, name)
        made.append(executor)
        return Workers(executor, name)

    yield make
    for executor in made:
        executor.shutdown()
    for executor in lasting:
        _close_slots_of_both(executor, lasting_storage)
        _check_empty(lasting_storage)


def _processes(kind: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(kind))


_LASTING = {
    "forkserver": r"ForkServerProcess-\d+",
    "spawn": r"SpawnProcess-\d+",
    "loky": r"LokyProcess-\d+",
}
"""Pools whose workers take long to start, so that all tests have the same: their names."""


@pytest.fixture(scope="module")
def forkserver(lasting_storage: Path) -> Iterator[Executor]:
    context = multiprocessing.get_context("forkserver")
    with _started(ProcessPoolExecutor(2, context), lasting_storage) as executor:
        yield executor


@pytest.fixture(scope="module")
def spawn(lasting_storage: Path) -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")
    with _started(ProcessPoolExecutor(2, context), lasting_storage) as executor:
        yield executor


@pytest.fixture(scope="module")
def loky(lasting_storage: Path) -> Iterator[Executor]:
    with _started(
        _library("loky").ProcessPoolExecutor(2, timeout=None), lasting_storage
    ) as executor:
        yield executor


@contextmanager
def _started(executor: Executor, storage: Path) -> Iterator[Executor]:
    """A pool both of whose workers are there, and have all they need of this process.

    A fork server, which starts with the first of them, keeps the variables that it finds.
    """
    with pytest.MonkeyPatch.context() as patch, executor:
        patch.setenv(LOCAL, str(storage))
        _close_slots_of_both(executor, storage)
        yield executor


def _close_slots_of_both(executor: Executor, storage: Path) -> None:
    """Have each of two workers close its slots: the second call begins while the first waits."""
    place = tempfile.mkdtemp(dir=storage)
    calls = [executor.submit(steps.close_slots, n, place, str(storage)) for n in ("0", "1")]
    for one in calls:
        one.result(60)


def _library(name: str) -> ModuleType:
    need(name, importlib.util.find_spec(name) is not None)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def lasting_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local storage of workers that live as long as this module."""
    return tmp_path_factory.mktemp("lasting")


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory, lasting_storage: Path
) -> Iterator[tuple[Any, Any]]:
    """An ipyparallel controller with two engines, and a client of it."""
    ipyparallel = _library("ipyparallel")
    folder = tmp_path_factory.mktemp("ipython")
    with (
        pytest.MonkeyPatch.context() as patch,
        ipyparallel_cluster(ipyparallel, folder, lasting_storage, patch) as cluster,
    ):
        client = cluster.connect_client_sync()
        try:
            client.wait_for_engines(2, timeout=60)
            yield cluster, client
        finally:
            client.close()


@contextmanager
def ipyparallel_cluster(
    ipyparallel: ModuleType, folder: Path, storage: Path, patch: pytest.MonkeyPatch
) -> Iterator[Any]:
    patch.setenv("IPYTHONDIR", str(folder))
    patch.setenv(LOCAL, str(storage))
    cluster = ipyparallel.Cluster(
        n=2, profile_dir=str(folder / "profile"), controller_ip="127.0.0.1"
    )
    cluster.start_cluster_sync()
    try:
        yield cluster
    finally:
        cluster.stop_cluster_sync()


@pytest.fixture
def ipyparallel_balanced(engines: tuple[Any, Any], lasting_storage: Path) -> Iterator[Workers]:
    _, client = engines
    yield Workers(client.load_balanced_view().executor, r"engine [01]")
    client[:].execute(_CLOSE_SLOTS, block=True)
    _check_empty(lasting_storage)


@pytest.fixture
def ipyparallel_direct(engines: tuple[Any, Any], lasting_storage: Path) -> Iterator[Workers]:
    _, client = engines
    yield Workers(client[:].executor, r"engine [01]")
    client[:].execute(_CLOSE_SLOTS, block=True)
    _check_empty(lasting_storage)


_CLOSE_SLOTS = "from encamp.jobs.worker.slots import slots_here; slots_here().close()"


def _close_slots() -> None:
    slots_here().close()


def _check_empty(storage: Path) -> None:
    until(lambda: not list(storage.glob("encamp-*/sandboxes/*")))


@pytest.fixture(scope="module")
def dask_of_two_processes(lasting_storage: Path) -> Iterator[Any]:
    with dask_client(lasting_storage, n_workers=2, threads_per_worker=1) as client:
        yield client


@pytest.fixture(scope="module")
def dask_of_two_threads(lasting_storage: Path) -> Iterator[Any]:
    with dask_client(lasting_storage, n_workers=1, threads_per_worker=2) as client:
        yield client


@contextmanager
def dask_client(storage: Path, **shape: int) -> Iterator[Any]:
    """A client of a new Dask cluster on this host."""
    distributed = _library("distributed")
    with (
        distributed.LocalCluster(
            **shape,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            env={LOCAL: str(storage)},
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def dask_processes(dask_of_two_processes: Any, lasting_storage: Path) -> Iterator[Workers]:
    yield Workers(dask_of_two_processes.get_executor(), r"dask worker [01]")
    dask_of_two_processes.run(_close_slots)
    _check_empty(lasting_storage)


@pytest.fixture
def dask_threads(dask_of_two_threads: Any, lasting_storage: Path) -> Iterator[Workers]:
    yield Workers(dask_of_two_threads.get_executor(), r"dask worker 0", several=False)
    dask_of_two_threads.run(_close_slots)
    _check_empty(lasting_storage)


@pytest.fixture
def numbers(here: Path) -> Path:
    """Three input files and a job input."""
    for name, count in {"a": 3, "b": 4, "c": 5}.items():
        (here / f"{name}.txt").write_text("".join(f"{n}\n" for n in range(count)))
    (here / "config").mkdir()
    (here / "config" / "offset.txt").write_text("7\n")
    return here


def strips_job(here: Path) -> Job:
    """Three tasks of Python and command steps, and one that waits for them."""
    job = Job("strips", to="results", mirror="config")
    for name in "abc":
        job.add(
            name,
            [
                f"mv {name}.txt numbers.txt",
                call(steps.double, 2),
                command("sort -r doubled.txt | tee sorted.txt", shell=True),
            ],
            mirror=f"{name}.txt",
            outputs=[
                Output("doubled.txt", "doubled", rename=f"{name}{{suffix}}"),
                Output("sorted.txt", "sorted", rename=f"{name}{{suffix}}"),
            ],
        )
    job.add(
        "total",
        steps.total,
        mirror={"results/doubled/*.txt": "parts"},
        outputs="total.txt",
        after=["a", "b", "c"],
    )
    return job


def published(here: Path) -> dict[str, str]:
    """Name → text of what is in ``results``, without the job's own folder."""
    top = here / "results"
    files = [file for file in top.rglob("*") if file.is_file()]
    names = {str(file.relative_to(top)): file for file in files}
    return {n: f.read_text() for n, f in sorted(names.items()) if ".job/" not in n}


EXPECTED = {
    "doubled/a.txt": "7\n9\n11\n",
    "doubled/b.txt": "7\n9\n11\n13\n",
    "doubled/c.txt": "7\n9\n11\n13\n15\n",
    "sorted/a.txt": "9\n7\n11\n",
    "sorted/b.txt": "9\n7\n13\n11\n",
    "sorted/c.txt": "9\n7\n15\n13\n11\n",
    "total.txt": f"['a.txt', 'b.txt', 'c.txt'] {27 + 40 + 55}\n",
}


def states(report: JobReport) -> dict[str, str]:
    return {task.name: task.state for task in report.tasks}


def problems(report: JobReport) -> list[str]:
    return [f"{task.name}: {task.why} {task.log_tail}" for task in report.tasks]


def test_a_job_of_mixed_steps_publishes_the_same_bytes_on_every_executor_and_but_once(
    workers: Workers, numbers: Path
) -> None:
    report = workers.run(strips_job(numbers))
    assert states(report) == dict.fromkeys(["a", "b", "c", "total"], "done"), problems(report)
    assert published(numbers) == EXPECTED
    assert [report[name].value for name in ("a", "total")] == [3, 122]
    log = Path(report.folder, report["a"].log or "")
    assert log.read_text() == "doubled 3 numbers\nno trouble\n9\n7\n11\n"
    assert report["a"].log_tail == log.read_text()
    assert report["total"].log is None
    before = {file: file.stat() for file in (numbers / "results").rglob("*.txt")}
    again = workers.run(strips_job(numbers))
    assert set(states(again).values()) == {"up to date"}, problems(again)
    assert {file: file.stat() for file in (numbers / "results").rglob("*.txt")} == before
    (numbers / "b.txt").write_text("5\n")
    third = workers.run(strips_job(numbers))
    assert [name for name, state in states(third).items() if state == "done"] == ["b", "total"]


def test_tasks_run_side_by_side_and_the_report_names_their_workers(
    workers: Workers, here: Path
) -> None:
    (here / "place").mkdir()
    job = Job("meeting", to="results")
    for mine, other in (("left", "right"), ("right", "left")):
        job.add(mine, call(steps.meet, mine, [other], str(here / "place")))
    report = workers.run(job)
    assert set(states(report).values()) == {"done"}, problems(report)
    wheres = [task.attempts[0].where for task in report.tasks]
    names = {where.worker for where in wheres if where}
    assert len(names) == (2 if workers.several else 1)
    assert all(re.fullmatch(workers.name, name) for name in names), names
    assert len({where.pid for where in wheres if where}) == 2
    written = json.loads(Path(report.folder, "report.json").read_text())
    assert {t["attempts"][0]["where"]["worker"] for t in written["tasks"]} == names


def test_a_task_that_fails_stops_only_what_waits_for_it_and_is_tried_as_often_as_allowed(
    workers: Workers, here: Path
) -> None:
    tries = here / "tries"
    line = f"echo x >> {tries}; test $(wc -l < {tries}) = 3"
    job = Job("mixed", to="results")
    job.add("bad", steps.fail)
    job.add("bad-command", ["true", "sh -c 'echo oh no; exit 3'"])
    job.add("good", call(steps.write, "fine"), outputs="text.txt")
    job.add("third time lucky", command(line, shell=True), retries=2)
    job.add("waits", steps.fail, after="bad")
    report = workers.run(job)
    expected = {"bad": "failed", "bad-command": "failed", "good": "done", "waits": "blocked"}
    assert states(report) == {**expected, "third time lucky": "done"}, problems(report)
    assert "ZeroDivisionError: the divisor is 0" in report["bad"].why
    assert report["bad"].log_tail.startswith("about to divide\nTraceback")
    assert report["bad-command"].why.endswith("ended with exit status 3")
    assert report["bad-command"].log_tail == "oh no\n"
    assert published(here) == {"text.txt": "fine"}
    ends = [attempt.error_type for attempt in report["third time lucky"].attempts]
    assert ends == ["StepFailed", "StepFailed", None]
    assert len(report["bad"].attempts) == 1


def test_crash_ends_only_its_task(workers: Workers, here: Path) -> None:
    job = Job("crash", to="results")
    job.add("bad", steps.crash)
    job.add("good", call(steps.write, "fine"), outputs="text.txt")
    report = workers.run(job)
    assert states(report) == {"bad": "failed", "good": "done"}
    assert report["bad"].attempts[0].error_type == "TaskLost"
    assert "was killed by SIGSEGV" in report["bad"].why
    assert report["bad"].log_tail.startswith("here I go\n")
    later = Job("later", to="later")
    later.add("good", call(steps.write, "still here"))
    assert workers.run(later).ok


def test_a_time_limit_ends_a_task_with_all_it_started(workers: Workers, here: Path) -> None:
    job = Job("slow", to="results")
    job.add("python", call(steps.meet, "me", ["nobody"], str(here)), time_limit=0.5)
    line = f"sleep 600 & echo $! > {here}/pid; wait"
    job.add("command", command(line, shell=True, time_limit=3))
    report = workers.run(job)
    assert {task.attempts[0].error_type for task in report.tasks} == {"TimeLimitExceeded"}
    assert report["python"].why == "task python ran longer than its limit of 0.5 s"
    assert "ran longer than its limit of 3 s" in report["command"].why
    pid = int((here / "pid").read_text())
    until(lambda: gone(pid))


class StopAtFirstEnd(Silent):
    """A user who presses Ctrl-C when the first task has ended."""

    def ended(self, task: TaskReport) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_ends_tasks_and_next_run_continues(workers: Workers, here: Path) -> None:
    def job(line: str) -> Job:
        job = Job("stopped", to="results")
        job.add("quick", command(f"until test -e {here}/pid; do sleep 0.01; done", shell=True))
        job.add("long", command(line, shell=True))
        return job

    with pytest.raises(KeyboardInterrupt):
        workers.run(job(f"echo $$ > {here}/pid; sleep 600"), progress=StopAtFirstEnd())
    # A running task of a remote worker counts as cancelled at once; it ends a moment later.
    until(lambda: not psutil.pid_exists(int((here / "pid").read_text())))
    report = workers.run(job("true"))
    assert states(report) == {"quick": "up to date", "long": "done"}


def test_a_pool_whose_worker_is_killed_fails_the_job_without_a_hang(
    pool: Callable[[str], Workers], here: Path, local_storage_base: Path
) -> None:
    job = Job("broken", to="results")
    job.add("bad", command("kill -9 $(ps -o ppid= -p $PPID)", shell=True))
    report = pool("fork").run(job)
    assert states(report) == {"bad": "failed"}
    assert report["bad"].attempts[0].error_type == "TaskLost"
    assert "BrokenProcessPool" in report["bad"].why
    # The killed worker's slot ends by itself, which may come after the pool has noticed.
    until(lambda: not list(local_storage_base.glob("encamp-*/sandboxes/*")))


SCRIPT = """
from pathlib import Path

GREETING = "hello from a script"

class Writer:
    def write(self):
        Path("text.txt").write_text(GREETING)

def by_name():
    Writer().write()
"""


@pytest.fixture
def hidden_module(tmp_path: Path) -> Iterator[ModuleType]:
    """A module that is loaded here, and that no other process can find."""
    file = tmp_path / "hidden" / "hidden_steps.py"
    file.parent.mkdir()
    file.write_text(SCRIPT.replace("a script", "a hidden module"))
    spec = importlib.util.spec_from_file_location("hidden_steps", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["hidden_steps"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["hidden_steps"]


def test_functions_of_a_script_and_of_a_module_that_only_the_controller_can_import_travel(
    workers: Workers, here: Path, hidden_module: ModuleType
) -> None:
    script: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SCRIPT, str(here / "script.py"), "exec"), script)
    word = "lambda"
    job = Job("script", to="results")
    job.add("function", script["by_name"], outputs={"text.txt": "function"})
    job.add("method", script["Writer"]().write, outputs={"text.txt": "method"})
    job.add("lambda", lambda: Path("text.txt").write_text(word), outputs={"text.txt": "lambda"})
    job.add("hidden", hidden_module.by_name, outputs={"text.txt": "hidden"})
    job.add("hidden method", hidden_module.Writer().write, outputs={"text.txt": "hidden-method"})
    report = workers.run(job)
    assert report.ok, problems(report)
    assert published(here) == {
        "function/text.txt": "hello from a script",
        "hidden-method/text.txt": "hello from a hidden module",
        "hidden/text.txt": "hello from a hidden module",
        "lambda/text.txt": "lambda",
        "method/text.txt": "hello from a script",
    }
    assert [len(task.attempts) for task in report.tasks] == [1] * 5


def test_the_controller_and_its_engines_listen_on_loopback_only(
    engines: tuple[Any, Any],
) -> None:
    processes = psutil.Process().children(recursive=True)
    listening = [c for p in processes for c in _listening(p)]
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def _listening(process: psutil.Process) -> list[Any]:
    try:
        found = process.net_connections("inet")
    except psutil.Error:
        return []
    return [connection for connection in found if connection.status == psutil.CONN_LISTEN]


@pytest.mark.parametrize("given", ["local", 4, dict])
def test_invalid_executor_is_refused(here: Path, given: Any) -> None:
    job = Job("job", to="out")
    job.add("task", "true")
    with pytest.raises(BadJob, match="is neither an executor nor a cluster"):
        job.run(given)
    assert not job.folder.exists()
