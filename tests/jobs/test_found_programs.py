"""The program of a command line is looked up once, but a moved program is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from encamp.jobs.worker.run_command import _find_program


def program(folder: Path, name: str = "tool") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("how", ["removed", "not executable"])
def test_removed_or_nonexecutable_program_is_looked_up_again(how: str, here: Path) -> None:
    first, second = program(here / "a"), program(here / "b")
    path = f"{here}/a:{here}/b"
    assert _find_program("tool", path) == first
    if how == "removed":
        Path(first).unlink()
    else:
        Path(first).chmod(0o644)
        if os.access(first, os.X_OK):
            pytest.skip("this user may run everything")
    assert _find_program("tool", path) == second


def test_another_path_has_another_program(here: Path) -> None:
    first, second = program(here / "a"), program(here / "b")
    assert _find_program("tool", f"{here}/a") == first
    assert _find_program("tool", f"{here}/b") == second
    assert _find_program("tool", str(here)) is None


@pytest.mark.parametrize("relative", ["bin", ""])
def test_a_folder_that_is_relative_is_that_of_each_task(
    relative: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = program(here / "usual")
    path = f"{relative}:{here}/usual"
    for name in ("one", "two"):
        (here / name).mkdir()
    monkeypatch.chdir(here / "one")
    assert _find_program("tool", path) == usual
    own = program(here / "two" / relative)
    monkeypatch.chdir(here / "two")
    found = _find_program("tool", path)
    assert found is not None
    assert Path(found).absolute() == Path(own)
