"""Path translation between hosts with different paths of shared roots."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encamp.errors import BadJob
from encamp.storage.shared_folders import (
    MIRRORED,
    SharedPath,
    local,
    portable,
    shared_roots,
    to_abstract,
    to_actual,
)


@contextmanager
def roots(*names: object) -> Iterator[None]:
    before = os.environ.get(MIRRORED)
    os.environ[MIRRORED] = os.pathsep.join(str(name) for name in names)
    try:
        yield
    finally:
        if before is None:
            del os.environ[MIRRORED]
        else:
            os.environ[MIRRORED] = before


def test_a_path_travels_between_hosts_with_other_roots() -> None:
    with roots("/foo", "/bar"):
        sent = portable("/foo/a")
        assert sent == SharedPath(0, "a")
        assert portable("/bar/b/c") == SharedPath(1, "b/c")
    with roots("/d1", "/d2"):
        assert local(sent) == Path("/d1/a")


def test_a_path_outside_all_roots_travels_as_it_is() -> None:
    with roots("/foo"):
        assert portable("/elsewhere/a") == "/elsewhere/a"
        assert local("/elsewhere/a") == Path("/elsewhere/a")
        assert to_abstract("/elsewhere/a") is None


def test_whole_components_are_compared() -> None:
    with roots("/home"):
        assert to_abstract("/home2/x") is None
        assert to_abstract("/home") == SharedPath(0, ".")
        assert to_actual(SharedPath(0, ".")) == Path("/home")


@pytest.mark.parametrize("order", [("/a", "/a/b", "/a/b/c"), ("/a/b/c", "/a", "/a/b")])
def test_the_longest_root_wins_whatever_the_order(order: tuple[str, ...]) -> None:
    with roots(*order):
        assert to_abstract("/a/b/c/d") == SharedPath(order.index("/a/b/c"), "d")
        assert to_abstract("/a/b/x") == SharedPath(order.index("/a/b"), "x")


def test_a_root_named_twice_counts_as_the_first() -> None:
    with roots("/a", "/a"):
        assert to_abstract("/a/x") == SharedPath(0, "x")


def test_the_root_of_all_folders_can_be_a_root() -> None:
    with roots("/"):
        assert to_abstract("/no/such") == SharedPath(0, "no/such")


def test_symlinks_are_resolved_in_roots_and_in_paths(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "share").symlink_to("disk")
    (tmp_path / "disk/file").write_text("x")
    (tmp_path / "way in").symlink_to("disk/file")
    with roots(tmp_path / "share"):
        for way in ("share/file", "disk/file", "way in"):
            assert to_abstract(tmp_path / way) == SharedPath(0, "file")
        assert to_actual(SharedPath(0, "file")).read_text() == "x"


def test_a_path_cannot_leave_its_root_by_dots() -> None:
    with roots("/foo"):
        assert to_abstract("/foo/../bar") is None


def test_home_is_the_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(MIRRORED, raising=False)
    assert shared_roots() == [tmp_path]
    monkeypatch.setenv(MIRRORED, "")
    assert shared_roots() == [tmp_path]


def test_a_user_without_a_home_has_no_shared_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert shared_roots() == []


def test_home_folders_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    me = pwd.getpwuid(os.getuid())
    with roots("~/share", f"~{me.pw_name}/share"):
        expected = [tmp_path / "share", Path(os.path.realpath(me.pw_dir), "share")]
        assert shared_roots() == expected


def test_the_environment_is_read_at_each_use() -> None:
    with roots("/one"):
        assert to_actual(SharedPath(0, "x")) == Path("/one/x")
    with roots("/two"):
        assert to_actual(SharedPath(0, "x")) == Path("/two/x")


@pytest.mark.parametrize(
    ("name", "why"), [("share", "absolute"), ("~no-such-user/x", "no such user")]
)
def test_a_root_that_depends_on_the_current_folder_is_refused(name: str, why: str) -> None:
    with roots("/fine", name), pytest.raises(BadJob, match=why) as caught:
        shared_roots()
    assert MIRRORED in str(caught.value)
    assert name in str(caught.value)


WORDS = st.sampled_from(["a", "b", "home", "home2", "a b", "-x", "\udcff"])
PATHS = st.lists(WORDS, min_size=1, max_size=4)


def _slow_model(path: list[str], roots_: list[list[str]]) -> tuple[int, list[str]] | None:
    """Try every root at every length, longest first."""
    for length in range(len(path), 0, -1):
        for number, root in enumerate(roots_):
            if len(root) == length and path[:length] == root:
                return number, path[length:]
    return None


@given(path=PATHS, here=st.lists(PATHS, min_size=1, max_size=5), there=st.data())
def test_translation_is_what_the_slow_model_says(
    path: list[str], here: list[list[str]], there: st.DataObject
) -> None:
    top = "/no-such-folder"
    name = "/".join([top, *path])
    with roots(*("/".join([top, *root]) for root in here)):
        found = to_abstract(name)
        expected = _slow_model(path, here)
        if expected is None:
            assert found is None
            return
        assert found == SharedPath(expected[0], "/".join(expected[1]) or ".")
        assert str(to_actual(found)) == name
    other = there.draw(st.lists(PATHS, min_size=len(here), max_size=len(here)))
    with roots(*("/".join([top, *root]) for root in other)):
        assert str(local(found)) == "/".join([top, *other[expected[0]], *expected[1]])
