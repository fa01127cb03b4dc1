"""Modules are found on other hosts, even if those mount shared folders elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from encamp.search_paths import only_ours, take_search_paths, whole_search_path
from encamp.storage.import_path import (
    extend_import_path,
    import_path,
    is_far,
    left_out_words,
)
from encamp.storage.shared_folders import MIRRORED


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


def test_the_interpreters_own_folders_stay_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Path(os.__file__).parent
    archive = library.parent / "python{}{}.zip".format(*sys.version_info)
    mine = ["/home/me/scripts", f"{library}/site-packages", "/home/me/lib-dynload"]
    standard = [str(archive), str(library), f"{library}/lib-dynload"]
    monkeypatch.setattr(sys, "path", [mine[0], *standard, *mine[1:]])
    words = import_path()
    monkeypatch.setattr(sys, "path", [])
    extend_import_path(words)
    assert sys.path == mine


def test_packages_for_another_version_of_python_are_not_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = "python{}.{}".format(*sys.version_info)
    mine = [f"/venv/lib/{ours}/site-packages", "/usr/lib/python3/dist-packages", "/python3.1x/my"]
    mine += ["/home/me/python3.8/scripts", "/home/me/python3.8"]  # no folders of installed packages
    others = ["/venv/lib/python3.8/site-packages", f"/opt/{ours}/lib/python3.99/site-packages"]
    monkeypatch.setattr(sys, "path", [*others, *mine])
    words = import_path()
    monkeypatch.setattr(sys, "path", [])
    assert extend_import_path(words) == []
    assert sys.path == mine


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of paths was said on another host."""
    monkeypatch.setattr("encamp.storage.import_path.boot_id", lambda: "another boot")
    only_ours.cache_clear()


def test_other_hosts_own_modules_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    words = import_path()
    assert not is_far(words)
    request.getfixturevalue("elsewhere")
    assert is_far(words)
    monkeypatch.setattr(sys, "path", ["/known"])
    assert extend_import_path(words) == []
    assert sys.path == ["/known", str(tmp_path)]


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_on_another_host_no_module_is_taken_from_where_others_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, mode: int
) -> None:
    monkeypatch.setattr("encamp.search_paths._is_own_group", lambda _: False)
    folders = [tmp_path / "open", tmp_path / "open/below", tmp_path / "ours"]
    for folder in folders:
        folder.mkdir()
    folders[0].chmod(mode)
    monkeypatch.setattr(sys, "path", list(map(str, folders)))
    words = import_path()
    request.getfixturevalue("elsewhere")
    monkeypatch.setattr(sys, "path", [])
    below_sticky = [str(folders[1])] if mode == 0o1777 else []
    left_out = extend_import_path(words)
    assert sys.path == [*below_sticky, str(folders[2])]
    assert left_out == [str(folder) for folder in folders[:2] if str(folder) not in sys.path]
    assert str(folders[0]) in left_out_words(left_out, "host")
    assert left_out_words([], "host") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_on_another_host_no_module_is_taken_from_another_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: None
) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert not only_ours(str(tmp_path))
    assert not only_ours(str(tmp_path / "not there yet"))
    assert only_ours("/usr/lib")


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_LIBRARY_PATH"])
def test_only_safe_folders_of_search_path_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folders = [str(tmp_path / one) for one in ("open", "ours", "known")]
    for folder in folders:
        Path(folder).mkdir()
    Path(folders[0]).chmod(0o777)
    monkeypatch.setattr(sys, "path", ["/first"])
    monkeypatch.setenv(name, folders[2])
    given = os.pathsep.join((*folders, str(tmp_path / "open/missing")))
    assert take_search_paths({name: given, "HOME": "/elsewhere"}) == [folders[0]]
    assert os.environ[name] == os.pathsep.join((folders[2], folders[1]))
    assert os.environ["HOME"] != "/elsewhere"
    assert sys.path == (["/first", folders[1]] if name == "PYTHONPATH" else ["/first"])


def test_a_search_path_of_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert take_search_paths({"PYTHONPATH": ":"}) == []
    assert "PYTHONPATH" not in os.environ
    assert whole_search_path(":/a:b") == f"/a:{Path.cwd()}/b"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_folder_that_another_user_can_lead_elsewhere_is_not_ours(tmp_path: Path) -> None:
    ours, shared = tmp_path / "ours", tmp_path / "shared"
    for folder in (ours, shared):
        folder.mkdir()
    shared.chmod(0o777)
    for link, to in (("link", ours), ("back", shared / "link"), ("loop", tmp_path / "loop")):
        (tmp_path / link).symlink_to(to)
        (shared / link).symlink_to(to)
    os.lchown(shared / "link", 65534, 65534)
    only_ours.cache_clear()
    assert only_ours(str(ours))
    assert only_ours(str(tmp_path / "link"))
    for name in ("shared/link", "back", "shared/back", "loop"):
        assert not only_ours(str(tmp_path / name)), name
