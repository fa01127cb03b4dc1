"""Slots run the same code as the program, even after a module was reloaded."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster

SOON = 30.0


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Writes a module, and loads it, or loads it again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        os.utime(path, (1e9, 1e9))  # in one second, as far as compiled modules can tell
        importlib.invalidate_caches()
        there = sys.modules.get(name)
        return importlib.reload(there) if there else importlib.import_module(name)

    yield write
    for name in ("survey_steps", "survey_tools"):
        sys.modules.pop(name, None)


def test_a_module_that_is_loaded_again_is_new_to_slots(
    write: Callable[[str, str], Any], local_storage_base: Path, no_slots_left: None
) -> None:
    tools = write("survey_tools", "version = 1")
    steps = write("survey_steps", "import survey_tools\ndef f(): return 1, survey_tools.version")
    with Cluster("local", slots=1) as cluster:
        pid = cluster.spawn(os.getpid).result(SOON)
        assert cluster.spawn(steps.f).result(SOON) == (1, 1)
        write("survey_steps", "import survey_tools\ndef f(): return 2, survey_tools.version")
        tasks = [cluster.spawn(steps.f) for _ in range(5)]
        assert [task.result(SOON) for task in tasks] == [(2, 1)] * 5
        write("survey_tools", "version = 2")
        assert cluster.spawn(lambda: tools.version).result(SOON) == 2
        assert cluster.spawn(steps.f).result(SOON) == (2, 2)
        now = [cluster.spawn(os.getpid).result(SOON) for _ in range(2)]
        assert now[0] == now[1] != pid


def test_slots_write_no_compiled_modules_where_their_program_writes_none(
    write: Callable[[str, str], Any], tmp_path: Path, local_storage_base: Path, no_slots_left: None
) -> None:
    steps = write("survey_steps", "def f(): return 1")
    with Cluster("local", slots=1) as cluster:
        assert cluster.spawn(steps.f).result(SOON) == 1
    assert not (tmp_path / "__pycache__").exists()


def test_autoreload_changes_reach_slots(
    write: Callable[[str, str], Any], local_storage_base: Path, no_slots_left: None
) -> None:
    reloader = pytest.importorskip("IPython.extensions.autoreload")
    steps = write("survey_steps", "def f(): return 1")
    function = steps.f
    with Cluster("local", slots=1) as cluster:
        assert cluster.spawn(function).result(SOON) == 1
        Path(steps.__file__).write_text("def f(): return 22")
        reloader.superreload(steps, importlib.reload, {("survey_steps", "f"): [lambda: function]})
        assert function() == 22
        assert cluster.spawn(function).result(SOON) == 22
