"""The local storage: made private, or refused with a clear error."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest
from other_processes import NOBODY, open_folder, small_disk, unprivileged

import encamp
from encamp.errors import BadLocalStorage, DiskFull
from encamp.storage.local_storage import LOCAL, in_local_storage, local_storage, local_storage_path


def _refusal() -> str:
    with pytest.raises(BadLocalStorage) as caught:
        local_storage()
    text = str(caught.value)
    assert LOCAL in text
    assert "\n" not in text
    return text


def test_local_storage_is_made_private(local_storage_base: Path) -> None:
    path = local_storage()
    assert path.parent == local_storage_base
    assert path.stat().st_mode & 0o777 == 0o700
    assert local_storage() == path


def test_missing_folders_above_it_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL, str(tmp_path / "a/b"))
    assert local_storage().parent == tmp_path / "a/b"


def test_the_default_is_in_the_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOCAL)
    assert local_storage_path().parent == Path(os.path.realpath(tempfile.gettempdir()))


def test_home_folders_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setenv(LOCAL, f"~{me.pw_name}/x")
    assert local_storage_path().parent == Path(os.path.realpath(me.pw_dir), "x")
    monkeypatch.setenv("HOME", "/no-such-home")
    monkeypatch.setenv(LOCAL, "~/x")
    assert local_storage_path().parent == Path("/no-such-home/x")


def test_dots_and_symlinks_in_its_name_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    monkeypatch.setenv(LOCAL, f"{tmp_path}/disk/../link")
    with encamp.sandbox(outputs={"x": str(tmp_path / "out")}) as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "out/x").exists()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["storage", "~no-such-user/storage"])
def test_path_relative_to_current_folder_is_refused(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCAL, name)
    _refusal()
    assert list(here.iterdir()) == []


def test_a_file_in_its_place_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("precious")
    monkeypatch.setenv(LOCAL, str(tmp_path / "file"))
    assert f"{tmp_path / 'file'}: it is a file" in _refusal()
    monkeypatch.setenv(LOCAL, str(tmp_path / "file/below"))
    assert "a part of it is a file" in _refusal()
    monkeypatch.setenv(LOCAL, str(tmp_path))
    local_storage_path().write_text("precious")
    assert "it is a file" in _refusal()


def test_a_symlink_in_its_place_is_refused(local_storage_base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    local_storage_path().symlink_to(tmp_path / "elsewhere")
    assert "symlink" in _refusal()


def test_a_folder_open_to_others_is_closed_to_them(local_storage_base: Path) -> None:
    local_storage_path().mkdir(mode=0o777)
    local_storage_path().chmod(0o777)
    assert local_storage().stat().st_mode & 0o777 == 0o700
    local_storage_path().chmod(0o755)  # later, when it was seen to be good
    assert local_storage().stat().st_mode & 0o777 == 0o700


def test_a_place_that_leads_elsewhere_meanwhile_is_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    place = tmp_path / "place"
    monkeypatch.setenv(LOCAL, str(place))
    for name in ("one", "two", "one"):
        place.unlink(missing_ok=True)
        place.symlink_to(tmp_path / name)
        assert local_storage().parent == tmp_path / name
    (tmp_path / "one").rename(tmp_path / "moved")
    place.unlink()
    place.symlink_to(tmp_path / "moved")
    assert local_storage().parent == tmp_path / "moved"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_a_folder_of_somebody_else_is_refused(local_storage_base: Path) -> None:
    local_storage_path().mkdir(mode=0o700)
    os.chown(local_storage_path(), NOBODY, NOBODY)
    assert "belongs to another user" in _refusal()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_nothing_is_reclaimed_from_a_folder_of_somebody_else(
    local_storage_base: Path, tmp_path: Path
) -> None:
    """Who makes the folder first, in /tmp, must not choose what is deleted."""
    precious = tmp_path / "home"
    (precious / "thesis").mkdir(parents=True)
    local_storage_path().mkdir(mode=0o755)
    (local_storage_path() / "sandboxes").symlink_to(precious)
    os.chown(local_storage_path(), NOBODY, NOBODY)
    from encamp.storage.dead_owners import reclaim

    with pytest.raises(BadLocalStorage):
        reclaim()
    assert (precious / "thesis").exists()
    (local_storage_path() / "sandboxes").unlink()


def test_an_unwritable_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_folder() as folder:
        folder.chmod(0o555)
        monkeypatch.setenv(LOCAL, str(folder))
        message = unprivileged(local_storage)
        assert message.startswith("BadLocalStorage")
        assert "permission denied" in message
        assert LOCAL in message
        folder.chmod(0o777)


def test_an_own_folder_that_became_unwritable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt() -> None:
        local_storage().chmod(0o500)
        local_storage()

    with open_folder() as folder:
        monkeypatch.setenv(LOCAL, str(folder))
        message = unprivileged(spoilt)
        assert message.startswith("BadLocalStorage")
        assert "cannot be written to" in message


def test_a_full_one_is_named_with_need_and_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        monkeypatch.setenv(LOCAL, str(disk))
        local_storage()
        (disk / "ballast").write_bytes(bytes(64 << 10))
        with pytest.raises(DiskFull) as caught, encamp.sandbox():
            pytest.fail("there was no room for a folder")
        assert caught.value.path.startswith(str(disk))
        assert caught.value.need > 0
        assert list(disk.glob("encamp-*/sandboxes/*")) == []


def test_paths_in_storage_are_recognized_through_symlinks(tmp_path: Path) -> None:
    inside = local_storage() / "x"
    (tmp_path / "link").symlink_to(local_storage())
    assert in_local_storage(inside)
    assert in_local_storage(tmp_path / "link/x")
    assert not in_local_storage(local_storage().parent)
