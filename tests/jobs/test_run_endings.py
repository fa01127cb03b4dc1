"""Unusual ends of runs: they end cleanly, and their records are correct."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp.errors import BadJob, EngineFailed, TaskLost


def test_code_that_changed_is_run_as_it_is_now_on_a_pool_that_lives_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot keeps the modules that it has imported; it must not outlive the code."""
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = here / "changing_steps.py"
    values = []
    with ThreadPoolExecutor(1) as pool:
        for version in ("one", "two and more"):
            module.write_text(f"def version():\n    return {version!r}\n")
            importlib.invalidate_caches()
            if "changing_steps" in sys.modules:
                importlib.reload(sys.modules["changing_steps"])
            steps = importlib.import_module("changing_steps")
            job = encamp.Job("job", to="out")
            job.add("a", steps.version)
            values.append(job.run(pool)["a"].value)
    del sys.modules["changing_steps"]
    assert values == ["one", "two and more"]


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _in_background(job: encamp.Job, pool: ThreadPoolExecutor) -> list[encamp.JobReport]:
    ended: list[encamp.JobReport] = []
    thread = threading.Thread(target=lambda: ended.append(job.run(pool, check=False)))
    thread.start()
    _wait_for(Path("started"))
    thread_of[id(ended)] = thread
    return ended


thread_of: dict[int, threading.Thread] = {}


def _result(ended: list[encamp.JobReport]) -> encamp.JobReport:
    thread = thread_of.pop(id(ended))
    thread.join(30)
    assert not thread.is_alive()
    return ended[0]


@pytest.mark.parametrize("how", ["executor shut down", "job folder removed"])
def test_a_run_whose_tasks_are_taken_from_it_ends_and_says_so(here: Path, how: str) -> None:
    job = encamp.Job("job", to="out")
    line = f"touch {here}/started; sleep {0.5 if how.startswith('executor') else 30}"
    for name in "abc":
        job.add(name, encamp.command(line, shell=True))
    pool = ThreadPoolExecutor(1)
    ended = _in_background(job, pool)
    if how == "executor shut down":
        pool.shutdown(cancel_futures=True)
    else:
        shutil.rmtree("out")
    report = _result(ended)
    pool.shutdown()
    failed = [task for task in report.tasks if task.state == "failed"]
    assert len(failed) == (2 if how == "executor shut down" else 3)
    assert all("cancelled" in task.why or "removed" in task.why for task in failed)


_KILLED_IN_SECOND_RUN = """
import encamp, sys
job = encamp.Job("job", to="out")
output = encamp.Output("result", existing=sys.argv[1])
job.add("a", ["cp input result", "test -e input.go"], mirror=["input", "input.go"], outputs=output)
job.run()
"""


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_a_job_replaces_its_own_output_also_after_a_kill(here: Path, existing: str) -> None:
    script = _KILLED_IN_SECOND_RUN.replace('"test -e input.go"', "SLOW")
    quick, slow = (script.replace("SLOW", step) for step in ('"true"', '"sleep 30"'))
    (here / "input.go").touch()
    (here / "input").write_text("first")
    subprocess.run([sys.executable, "-c", quick, existing], check=True, timeout=60)
    assert (here / "out/result").read_text() == "first"
    (here / "input").write_text("second one")
    process = subprocess.Popen([sys.executable, "-c", slow, existing])
    deadline = time.monotonic() + 30
    while b'"submitted"' not in (here / "out/job.job/journal.jsonl").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([sys.executable, "-c", quick, existing], check=True, timeout=60)
    assert (here / "out/result").read_text() == "second one"


def test_files_older_than_job_are_not_its_own(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out/result").write_text("precious")
    job = encamp.Job("job", to="out")
    job.add("a", "touch result", outputs=encamp.Output("result", existing="error"))
    report = job.run(check=False)
    assert report["a"].state == "failed"
    assert "exists already" in report["a"].why
    assert (here / "out/result").read_text() == "precious"


def test_outputs_are_published_all_or_none(here: Path) -> None:
    (here / "out/b").mkdir(parents=True)
    job = encamp.Job("job", to="out")
    job.add("task", "touch a b", outputs=["a", "b"])
    report = job.run(check=False)
    assert "there is a folder with that name" in report["task"].why
    assert not (here / "out/a").exists()


def test_map_files_keeps_what_an_output_says_of_existing_files(here: Path) -> None:
    (here / "one.txt").write_text("new")
    (here / "out").mkdir()
    (here / "out/one.txt").write_text("precious")
    output = encamp.Output("*.txt", existing="error")
    report = encamp.map_files("true", "one.txt", to="out", outputs=output, check=False)
    assert report["one"].state == "failed"
    assert (here / "out/one.txt").read_text() == "precious"


def test_two_maps_with_one_destination_do_not_undo_each_other(here: Path) -> None:
    (here / "one.txt").write_text("1")
    for expected in ("done", "up to date"):
        for line in ("cp {input} copied", "sort {input} -o sorted"):
            report = encamp.map_files(line, "one.txt", to="out", outputs="*ed")
            assert report["one"].state == expected


def test_a_background_child_that_holds_the_socket_hides_no_death(here: Path) -> None:
    """A run that waited for the socket's end would take longer than a test may."""

    def die() -> None:
        os.system("sleep 1000 &")
        os.kill(os.getpid(), signal.SIGKILL)

    job = encamp.Job("job", to="out")
    job.add("a", die)
    report = job.run(check=False)
    assert "SIGKILL" in report["a"].why


@pytest.mark.parametrize(
    "wrong",
    [
        lambda job: job.add("a", "true", retries="2"),
        lambda job: job.add("a", "true", time_limit="soon"),
        lambda job: job.add("a", "true", outputs={"x": None}),
        lambda job: job.add("a", "true", mirror={"x": 3}),
        lambda job: job.add("a", "cat a > b"),
        lambda job: job.add("a", "cat a | sort"),
        lambda job: encamp.Job(3, to="out"),
    ],
)
def test_values_of_a_wrong_kind_are_refused_by_name(here: Path, wrong: object) -> None:
    with pytest.raises(BadJob):
        wrong(encamp.Job("job", to="out"))  # type: ignore[operator]


def test_tasks_done_before_executor_failure_are_journaled(here: Path) -> None:
    """One result arrives with the loss of another task, which nobody takes any more."""

    class Breaking(ThreadPoolExecutor):
        taken = 0

        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            self.taken += 1
            if self.taken == 2:
                lost: Future[Any] = Future()
                lost.set_exception(TaskLost("b", "node1", None, "its host is gone"))
                return lost
            if self.taken > 2:
                raise EngineFailed("pvm", "all of its hosts are lost")
            return super().submit(*args, **kwargs)

    job = encamp.Job("job", to="out")
    for name in ("a", "b"):
        job.add(name, f"touch {name}.txt", outputs=f"{name}.txt")
    with Breaking(1) as pool, pytest.raises(EngineFailed, match="all of its hosts are lost"):
        job.run(pool)
    assert Counter(task.state for task in job.run().tasks) == {"up to date": 1, "done": 1}


def test_a_task_whose_hosts_are_lost_again_and_again_fails_in_the_end(here: Path) -> None:
    class Deadly(ThreadPoolExecutor):
        taken = 0

        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            self.taken += 1
            lost: Future[Any] = Future()
            lost.set_exception(TaskLost("a", "node1", None, "its host is gone"))
            return lost

    job = encamp.Job("job", to="out")
    job.add("a", "true")
    with Deadly(1) as pool:
        report = job.run(pool, check=False)
        assert pool.taken == 4
    assert [task.state for task in report.tasks] == ["failed"]
