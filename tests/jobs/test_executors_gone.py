"""The death of an executor or its server is reported in time; finished tasks stay done."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from scripted import Scripted

from conftest import need
from encamp import Job, command
from encamp.errors import EngineFailed
from encamp.jobs.progress_interface import Silent
from encamp.jobs.report.read_report import read_report
from encamp.jobs.run import executors, run_loop, submitted_attempts
from encamp.reports import JobFailed
from encamp.storage.local_storage import LOCAL
from encamp.testing.waiting import until


def _library(name: str) -> ModuleType:
    need(name, importlib.util.find_spec(name) is not None)
    return importlib.import_module(name)


class _Then(Silent):
    """Calls a function when a task was handed over, in another thread."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def submitted(self, task: str, attempt: int) -> None:
        if task == "waits":
            threading.Thread(target=self._function).start()


def _job(here: Path) -> Job:
    job = Job("job", to="out")
    job.add("waits", f"sh -c 'touch {here}/begun; sleep 600'")
    return job


def _check_told(here: Path) -> None:
    report = read_report(here / "out/job.job/report.json")
    assert report.interrupted
    assert [task.state for task in report.tasks] == ["waiting"]
    assert list((here / "out/job.job").glob("running-*")) == []


@contextmanager
def _ipyparallel(folder: Path, storage: Path) -> Iterator[Any]:
    ipyparallel = _library("ipyparallel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        patch.setenv(LOCAL, str(storage))
        cluster = ipyparallel.Cluster(
            n=1, profile_dir=str(folder / "profile"), controller_ip="127.0.0.1"
        )
        before = set(psutil.Process().children(recursive=True))
        cluster.start_cluster_sync()
    engines = list(set(psutil.Process().children(recursive=True)) - before)
    try:
        yield cluster
    finally:
        for process in engines:  # those that have lost their controller, too
            if process.is_running():
                process.kill()
        psutil.wait_procs(engines, timeout=10)


def test_dead_ipyparallel_controller_is_reported(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_loop, "SILENCE", 0.3)
    with _ipyparallel(tmp_path / "ipython", tmp_path / "storage") as cluster:
        client = cluster.connect_client_sync()
        client.wait_for_engines(1, timeout=60)

        def kill() -> None:
            until(lambda: (here / "begun").exists())
            controller = psutil.Process(cluster.controller.process.pid)
            for process in [*controller.children(recursive=True), controller]:
                process.kill()

        try:
            with pytest.raises(EngineFailed, match="'ipyparallel' failed: its controller does not"):
                _job(here).run(client.load_balanced_view().executor, progress=_Then(kill))
            _check_told(here)
            with pytest.raises(EngineFailed, match="'ipyparallel' failed"):
                _job(here).run(client[:].executor if client.ids else _balanced(client))
        finally:
            client.close()
        assert executors.why_gone(_balanced(client)) == "its client is closed"


def _balanced(client: Any) -> Any:
    return client.load_balanced_view().executor


def test_dead_dask_scheduler_is_reported(here: Path, tmp_path: Path) -> None:
    distributed = _library("distributed")
    file = tmp_path / "scheduler.json"
    words = ["--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    line = [sys.executable, "-m", "distributed.cli.dask_scheduler", *words]
    scheduler = subprocess.Popen(line, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        until(file.exists)
        client = distributed.Client(scheduler_file=str(file), timeout=30)
        job = Job("job", to="out")
        job.add("waits", "true")  # there is no worker
        with pytest.raises(EngineFailed, match="connection to its scheduler was lost; finished"):
            job.run(client.get_executor(), progress=_Then(scheduler.kill))
        _check_told(here)
        with suppress(TimeoutError):  # it would tell its scheduler
            client.close(timeout=0)
    finally:
        scheduler.kill()
        scheduler.wait()


def test_a_broken_pool_does_not_wait_for_what_its_other_workers_run(
    here: Path, local_storage_base: Path
) -> None:
    job = Job("job", to="out")
    die = f"until test -e {here}/begun; do sleep 0.05; done; kill -9 $(ps -o ppid= -p $PPID)"
    job.add("bad", command(die, shell=True))
    job.add("waits", command(f"touch {here}/begun; sleep 600", shell=True))
    context = multiprocessing.get_context("fork")  # whose workers take signals as this process does
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        report = job.run(pool, check=False)
    assert [task.state for task in report.tasks] == ["failed", "failed"]
    assert "BrokenProcessPool" in report["waits"].why
    # The killed worker's slot ends by itself, which may come after the pool has noticed.
    until(lambda: not list(local_storage_base.glob("encamp-*/sandboxes/*")))


def test_executor_shut_down_by_other_thread_is_reported(here: Path) -> None:
    class Odd(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise ConnectionError

    job = Job("job", to="out")
    job.add("a", "true")
    with Odd(1) as pool, pytest.raises(JobFailed) as failed:
        job.run(pool)
    assert "ConnectionError" in failed.value.report["a"].why


def test_executor_counts_as_ended_after_two_failed_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = iter(["gone", None, "gone", "gone", "gone"])
    monkeypatch.setattr(submitted_attempts, "why_gone", lambda _: next(found))
    monkeypatch.setattr(submitted_attempts, "SILENCE", 0.0)
    submitted = submitted_attempts.Submissions(Scripted(), "0123456789ab")
    looks = [submitted.look(arrived=arrived) for arrived in (False, False, False, True, False)]
    assert looks == [False] * 5  # it has answered, or a result has come, in between
    assert submitted.over is None
    assert submitted.look(arrived=False)
    assert isinstance(submitted.over, EngineFailed)


def test_listening_addresses_are_detected(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        assert executors._answers(url)
    assert not executors._answers(url)
    path = os.path.relpath(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        assert executors._answers(f"ipc://{path}")
    assert not executors._answers(f"ipc://{path}")
    assert executors._answers("")
    assert executors._answers("epgm://eth0;239.192.1.1:5555")
