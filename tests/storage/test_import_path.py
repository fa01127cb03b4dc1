"""Modules are found on other hosts, also where those have shared folders elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from encamp.storage.import_path import extend_import_path, import_path
from encamp.storage.roots import MIRRORED


def test_a_folder_in_the_share_is_taken_from_where_a_host_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, away, alone = (tmp_path / name for name in ("home", "away", "alone"))
    for folder in (home / "scripts", away / "scripts", alone):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(home / "scripts"), str(alone), "/known"])
    monkeypatch.setenv(MIRRORED, str(home))
    words = import_path()
    monkeypatch.setattr(sys, "path", ["/known"])
    extend_import_path(words)
    assert sys.path == [str(home / "scripts"), str(alone), "/known"]
    (home / "scripts").rename(tmp_path / "not here")
    monkeypatch.setenv(MIRRORED, str(away))
    monkeypatch.setattr(sys, "path", ["/known"])
    from encamp.storage import import_path as module

    module._here.cache_clear()
    extend_import_path(words)
    extend_import_path(words)
    assert sys.path == [str(away / "scripts"), str(alone), "/known"]


def test_a_host_without_the_share_keeps_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRRORED, f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "b/x")])
    words = import_path()
    monkeypatch.setenv(MIRRORED, str(tmp_path / "a"))
    monkeypatch.setattr(sys, "path", [])
    extend_import_path(words)
    assert sys.path == [str(tmp_path / "b/x")]
