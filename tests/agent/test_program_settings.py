"""Tasks have the program's logging settings and `multiprocessing` key; each issues its warnings."""

from __future__ import annotations

import logging
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import TaskLost
from encamp.jobs.job import Job
from encamp.jobs.steps import call

SOON = 30.0


@pytest.fixture
def logs() -> Iterator[logging.Logger]:
    """The root logger, as in a program that has set up nothing."""
    root, level, handlers = logging.root, logging.root.level, logging.root.handlers[:]
    root.handlers[:] = []
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.disable(logging.NOTSET)
    logging.captureWarnings(False)


@pytest.fixture
def one(local_storage_base: Path, no_slots_left: None) -> Iterator[Cluster]:
    with Cluster("local", slots=1) as cluster:
        yield cluster


def say(what: str) -> None:
    logging.getLogger("survey.strips").info("read %s", what)
    logging.getLogger("noise").info("noise")
    logging.debug("too much")


def test_task_logs_use_program_levels(logs: logging.Logger, one: Cluster) -> None:
    silent = one.spawn(say, "a")
    silent.result(SOON)
    assert silent.output == ""
    logging.basicConfig(level=logging.INFO, format="{levelname}! {message}", style="{", force=True)
    logging.getLogger("noise").setLevel(logging.ERROR)
    for what in ("b", "c"):  # the second finds it as the first did
        task = one.spawn(say, what)
        task.result(SOON)
        assert task.output == f"INFO! read {what}\n"
    fresh = one.spawn(say, "d", fresh=True)
    fresh.result(SOON)
    assert fresh.output == "INFO! read d\n"
    logging.getLogger("noise").setLevel(logging.NOTSET)
    usual = one.spawn(say, "e")
    usual.result(SOON)
    assert usual.output == "INFO! read e\nINFO! noise\n"
    logging.disable(logging.INFO)
    task = one.spawn(say, "e")
    task.result(SOON)
    assert task.output == ""


def crash() -> None:
    os._exit(3)


def test_a_slot_whose_process_was_replaced_gets_the_settings_again(
    logs: logging.Logger, one: Cluster
) -> None:
    logging.basicConfig(level=logging.INFO, format="{message}", style="{", force=True)
    for what in ("a", "b"):
        task = one.spawn(say, what)
        task.result(SOON)
        assert task.output == f"read {what}\nnoise\n"
        with pytest.raises(TaskLost):
            one.spawn(crash).result(SOON)


def say_and_silence(what: str) -> None:
    say(what)
    noise = logging.getLogger("noise")
    noise.handlers.clear()
    noise.propagate, noise.disabled = False, True
    noise.setLevel(logging.CRITICAL)


def test_task_changes_to_loggers_are_undone(logs: logging.Logger, one: Cluster) -> None:
    noise = logging.getLogger("noise")
    noise.addHandler(handler := logging.StreamHandler())
    noise.setLevel(logging.INFO)
    noise.propagate = False
    try:
        for what in ("a", "b"):
            task = one.spawn(say_and_silence, what)
            task.result(SOON)
            assert task.output == "noise\n"
    finally:
        noise.removeHandler(handler)
        noise.propagate = True
        noise.setLevel(logging.NOTSET)


def test_steps_of_a_job_log_into_their_log(logs: logging.Logger, here: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", force=True)
    job = Job("logs", to="out")
    job.add("one", [call(say, "f")])
    report = job.run(slots=1)
    assert report.tasks[0].log_tail == "survey.strips read f\nnoise noise\n"


def warn() -> None:
    warnings.warn("old", UserWarning, stacklevel=2)


def test_each_task_has_its_warnings(logs: logging.Logger, one: Cluster) -> None:
    for _ in range(2):
        task = one.spawn(warn)
        task.result(SOON)
        assert task.output.count("UserWarning: old") == 1
    logging.basicConfig(format="%(name)s %(message)s", force=True)
    logging.captureWarnings(True)
    task = one.spawn(warn)
    task.result(SOON)
    assert task.output.startswith("py.warnings ")


def fill(shared: Any, number: int) -> None:
    shared.append(number)


def test_managers_of_the_program_are_known_to_tasks(one: Cluster) -> None:
    with multiprocessing.get_context("spawn").Manager() as manager:
        shared = manager.list()
        for number in range(3):
            one.spawn(fill, shared, number).result(SOON)
        assert list(shared) == [0, 1, 2]
