"""Modes of inputs: which one is used, why, and what writing to the input does."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from other_processes import open_folder, start, unprivileged
from placed_inputs import placed

import encamp
from encamp.errors import BadJob, InputDamaged, ModeRefused
from encamp.storage.cache import integrity
from encamp.storage.dead_owners import reclaim
from encamp.storage.disk import overlay
from encamp.storage.inputs.mirror import Item, Mirror, Mode, plan
from encamp.storage.local_storage import LOCAL, local_storage
from encamp.storage.owned_folder import sandboxes
from encamp.storage.placing import modes
from encamp.storage.placing.modes import mode_of, needs_own_mounts
from encamp.storage.sandbox_folder import Sandbox

REFUSED = "the disk cannot make reflinks: not here"


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that lets this process mount, a disk without reflinks."""
    monkeypatch.setattr(overlay, "why_not", lambda storage: None)
    monkeypatch.setattr(overlay, "why_not_whole", lambda storage: None)
    monkeypatch.setattr(modes, "why_no_reflink", lambda storage: REFUSED)


@pytest.fixture
def no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not, and such a disk."""
    monkeypatch.setattr(overlay, "why_not", lambda storage: "the kernel does not")
    monkeypatch.setattr(overlay, "why_not_whole", lambda storage: "the kernel does not")
    monkeypatch.setattr(modes, "why_no_reflink", lambda storage: REFUSED)


def tree(here: Path, files: int, size: int = 1) -> Path:
    (here / "tree/deep").mkdir(parents=True)
    for number in range(files):
        (here / f"tree/deep/{number:03}").write_bytes(bytes([number % 256]) * size)
    return here / "tree"


def big(here: Path, size: int = 1 << 20) -> Path:
    (here / "big").write_bytes(os.urandom(1024) * (size // 1024) + bytes(size % 1024))
    return here / "big"


def item_of(path: Path, **options: object) -> Item:
    (item,) = plan([Mirror(str(path), **options)], path.parent)  # type: ignore[arg-type]
    return item


def way(item: Item) -> str:
    return mode_of(item, local_storage())[0]


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("files", "size", "wanted"),
    [(32, 1, "overlay"), (31, 1, "copy"), (1, 4 << 20, "overlay"), (1, (4 << 20) - 1, "copy")],
)
def test_big_trees_use_overlay_and_small_ones_copy(
    files: int, size: int, wanted: str, here: Path
) -> None:
    assert way(item_of(tree(here, files, size))) == wanted


@pytest.mark.usefixtures("mounts")
def test_big_files_use_overlay_and_small_ones_copy(here: Path) -> None:
    assert way(item_of(big(here))) == "overlay"
    assert way(item_of(big(here, (1 << 20) - 1))) == "copy"


@pytest.mark.usefixtures("mounts")
def test_read_only_inputs_are_linked_except_big_trees(here: Path) -> None:
    assert way(item_of(big(here), readonly=True)) == "link"
    assert way(item_of(tree(here, 31), readonly=True)) == "link"
    (here / "tree/more").write_text("x")
    assert way(item_of(here / "tree", readonly=True)) == "overlay"


@pytest.mark.usefixtures("no_mounts")
def test_without_mounts_there_are_links_for_what_is_read_only_and_copies(here: Path) -> None:
    for path in (tree(here, 40), big(here)):
        assert way(item_of(path)) == "copy"
        assert way(item_of(path, readonly=True)) == "link"


@pytest.mark.usefixtures("mounts")
def test_overlay_without_folder_renames_shows_only_top_level_files(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "why_not_whole", lambda storage: "only root may")
    assert way(item_of(tree(here, 40))) == "copy"
    assert way(item_of(tree(here / "more", 40), readonly=True)) == "link"
    assert way(item_of(big(here))) == "overlay"
    assert way(item_of(big(here), to="sub")) == "copy"
    assert way(item_of(here / "tree", mode="overlay")) == "overlay"


@pytest.mark.parametrize("readonly", [True, False])
def test_reflink_precedes_link_and_copy_but_not_tree_overlay(
    readonly: bool, here: Path, mounts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "why_no_reflink", lambda storage: None)
    assert way(item_of(big(here), readonly=readonly)) == "reflink"
    assert way(item_of(tree(here, 40), readonly=readonly)) == "overlay"


@pytest.mark.usefixtures("mounts")
def test_input_of_single_task_is_copied_from_source(here: Path) -> None:
    for path in (tree(here, 40), big(here)):
        assert way(replace(item_of(path), cached=False)) == "direct"
        assert way(replace(item_of(path, mode="copy"), cached=False)) == "copy"


def test_only_shared_inputs_are_cached(here: Path) -> None:
    """Both sides of "direct": one task's file has one copy on this host, not two."""
    (here / "one").write_text("one")
    (here / "two").write_text("two")
    job = encamp.Job("job", to="out")
    job.add("a", "true", mirror=["one", "two"])
    job.add("b", "true", mirror="two")
    job.run(slots=1)
    entries = [path.read_text() for path in (local_storage() / "cache/files").glob("*/*")]
    assert entries == ["two"]


@pytest.mark.usefixtures("no_mounts")
@pytest.mark.parametrize(
    ("mode", "why"), [("overlay", "the kernel does not"), ("reflink", REFUSED)]
)
def test_unavailable_mode_is_refused_with_reason(mode: Mode, why: str, here: Path) -> None:
    item = item_of(big(here), mode=mode)
    with pytest.raises(ModeRefused) as caught, placed([item]):
        pytest.fail("it cannot be had")
    assert (caught.value.mode, caught.value.path) == (mode, str(here / "big"))
    assert caught.value.why == why
    assert why in str(caught.value)
    assert "mode='auto'" in str(caught.value)


def test_ordinary_user_outside_slot_cannot_mount() -> None:
    message = unprivileged(lambda: overlay.why_not(Path("/tmp")))
    assert message == "only root, or a task in a process of its own, may mount"


def test_unknown_mode_is_refused_at_definition() -> None:
    with pytest.raises(BadJob, match="auto, overlay, reflink, link, copy"):
        Mirror("a", mode="move")  # type: ignore[arg-type]


def test_a_disk_without_reflinks_says_so_and_leaves_no_trial() -> None:
    """Or it has them; then two files share blocks, which nothing but their speed shows."""
    modes.why_no_reflink.cache_clear()
    why = modes.why_no_reflink(local_storage())
    assert why is None or why.startswith("the disk cannot make reflinks: ")
    assert list(sandboxes(local_storage()).glob("*")) == []


@pytest.mark.usefixtures("no_mounts")
def test_the_log_says_by_which_way_and_why(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    (here / "linked").write_text("x")
    (here / "copied").write_text("x")
    (here / "direct").write_text("x")
    items = [
        item_of(here / "linked", readonly=True),
        item_of(here / "copied"),
        replace(item_of(here / "direct"), cached=False),
    ]
    with caplog.at_level(logging.DEBUG, "encamp"), placed(items):
        pass
    message = "\n".join(record.getMessage() for record in caplog.records)
    assert f"{here}/linked by link: it is declared read-only" in message
    assert f"{here}/copied by copy: {REFUSED}; it is not declared read-only" in message
    assert f"{here}/direct by direct: only one task needs it" in message
    assert f"fetching {here}/linked: first use on this host" in message


def test_only_ordinary_users_with_something_big_need_mounts_of_their_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = item_of(big(here))
    small = item_of(tree(here, 40))
    insisting = item_of(here / "tree/deep/000", mode="overlay")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert needs_own_mounts([small, item])
    assert needs_own_mounts([insisting])
    assert not needs_own_mounts([small, item_of(here / "big", to="sub")])
    assert not needs_own_mounts([small, replace(item, cached=False), replace(item, mode="copy")])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not needs_own_mounts([item])


WRITABLE: list[Mode] = ["auto", "overlay", "copy"]


def can(mode: Mode) -> bool:
    return mode != "overlay" or modes.why_no_overlay(local_storage()) is None


def rewrite(folder: Path) -> None:
    """Everything that a task may do to its inputs."""
    (folder / "big").write_bytes(b"mine")
    (folder / "tree/deep/000").write_bytes(b"mine")
    (folder / "tree/deep/001").unlink()
    (folder / "tree/deep/002").rename(folder / "tree/moved")
    (folder / "tree/new").mkdir()
    (folder / "tree/new/file").write_text("new")
    with (folder / "tree/deep/003").open("r+b") as file:
        file.write(b"MINE")
    (folder / "tree/deep/004").chmod(0o777)


def seen(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("mode", WRITABLE)
def test_a_task_that_writes_to_its_inputs_changes_its_own_copy_only(mode: Mode, here: Path) -> None:
    if not can(mode):
        pytest.skip("this user may not mount")
    mirrors = [item_of(tree(here, 40, 100), mode=mode), item_of(big(here), mode=mode)]
    sources = seen(here)
    with placed(mirrors) as other:
        for _ in range(2):
            with placed(mirrors) as sandbox:
                assert seen(sandbox.folder) == sources
                rewrite(sandbox.folder)
                changed = seen(sandbox.folder)
                assert changed["big"] == changed["tree/deep/000"] == b"mine"
                assert changed["tree/deep/003"][:8] == b"MINE" + bytes([3]) * 4
                assert changed["tree/new/file"] == b"new"
                assert "tree/deep/001" not in changed
                assert "tree/deep/002" not in changed
                sandbox.check_inputs("task")
        assert seen(other.folder) == sources
    assert seen(here) == sources


def write_in_place(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damaged")


def append(path: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"damaged")


def empty(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 0)


@pytest.mark.usefixtures("no_mounts")
@pytest.mark.parametrize("damage", [write_in_place, append, empty])
@pytest.mark.parametrize("target", ["tree/deep/007", "big"])
def test_write_through_link_is_detected_and_isolated(
    damage: Callable[[Path], None], target: str, here: Path
) -> None:
    items = [item_of(tree(here, 40, 100), readonly=True), item_of(big(here), readonly=True)]
    sources = seen(here)
    with placed(items) as sandbox:
        damage(sandbox.folder / target)
        with pytest.raises(InputDamaged) as caught:
            sandbox.check_inputs("culprit")
    assert caught.value.task == "culprit"
    assert caught.value.path == target.partition("/")[0]
    assert seen(here) == sources
    with placed(items) as sandbox:
        assert seen(sandbox.folder) == sources
        sandbox.check_inputs("next")


@pytest.mark.usefixtures("no_mounts")
def test_links_are_without_the_right_to_write_also_in_trees(here: Path) -> None:
    items = [item_of(tree(here, 40, 100), readonly=True), item_of(big(here), readonly=True)]
    with placed(items) as sandbox:
        modes = {p.stat().st_mode & 0o222 for p in sandbox.folder.rglob("*") if p.is_file()}
    assert modes == {0}


@pytest.mark.usefixtures("no_mounts")
def test_damage_to_a_linked_tree_by_a_task_that_was_never_checked_does_not_last(here: Path) -> None:
    """It failed before anybody looked; the next task must not get what it left."""
    items = [item_of(tree(here, 40, 100), readonly=True)]
    sources = seen(here)
    with placed(items) as sandbox:
        write_in_place(sandbox.folder / "tree/deep/007")
    with placed(items) as sandbox:
        assert seen(sandbox.folder) == sources


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import encamp
    with encamp.sandbox(encamp.Mirror(sys.argv[1], mode="link")) as folder:
        (folder / "tree/deep/007").chmod(0o644)
        (folder / "tree/deep/007").write_text("damaged")
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("no_mounts")
def test_tree_beyond_link_limit_is_copied(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [item_of(tree(here, 40, 100), readonly=True)]
    real, left = os.link, iter(range(3))

    def link(*args: Any, **kwargs: Any) -> None:
        if next(left, None) is None:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(*args, **kwargs)

    monkeypatch.setattr(os, "link", link)
    with placed(items) as sandbox:
        assert seen(sandbox.folder) == seen(here)
        assert {p.stat().st_nlink for p in sandbox.folder.rglob("*") if p.is_file()} == {1}


def test_damage_to_a_linked_tree_by_a_task_that_was_killed_does_not_last(here: Path) -> None:
    items = [item_of(tree(here, 40, 100), mode="link")]
    sources = seen(here)
    process = start(KILLED, here / "tree")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(reclaim()) == 1
    with placed(items) as sandbox:
        assert seen(sandbox.folder) == sources


def test_a_large_tree_is_looked_through_again_only_where_there_is_doubt(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "_ALWAYS", 10)
    monkeypatch.setattr(integrity, "_PAUSE", 1e9)
    items = [item_of(tree(here, 40), mode="link")]
    looked: list[object] = []
    real = integrity._looked_through

    def look(entry: Path, item: Item) -> bool:
        looked.append(entry)
        return real(entry, item)

    with placed(items) as sandbox:
        sandbox.check_inputs("task")
    monkeypatch.setattr(integrity, "_looked_through", look)
    for _ in range(2):
        with placed(items):
            pass
    assert len(looked) == 1, "the task before had not been asked whether it wrote to it"
    with placed(items) as sandbox:
        assert len(looked) == 2
        sandbox.check_inputs("task")
        assert len(looked) == 3, "it was asked now"
    with placed(items):
        assert len(looked) == 3


def test_a_large_tree_is_looked_through_again_after_a_folder_that_was_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task failed before it was asked, and the links in the kept folder still lead there."""
    monkeypatch.setattr(integrity, "_ALWAYS", 10)
    monkeypatch.setattr(integrity, "_PAUSE", 1e9)
    items = [item_of(tree(here, 40, 100), mode="link")]
    sources = seen(here)
    with placed(items) as sandbox:
        sandbox.check_inputs("task")
    sandbox = Sandbox("test")
    sandbox.place(items)
    write_in_place(sandbox.folder / "tree/deep/007")
    sandbox.keep()
    with placed(items) as sandbox:
        assert seen(sandbox.folder) == sources


@pytest.mark.usefixtures("no_mounts")
def test_changes_in_linked_tree_are_private(here: Path) -> None:
    items = [item_of(tree(here, 40, 100), readonly=True)]
    with placed(items) as sandbox:
        (sandbox.folder / "tree/deep/000").unlink()
        (sandbox.folder / "tree/deep/000").write_text("mine")
        (sandbox.folder / "tree/more").write_text("mine")
        sandbox.check_inputs("task")
    with placed(items) as sandbox:
        assert (sandbox.folder / "tree/deep/000").read_bytes() == bytes(100)


def test_a_user_who_asks_for_links_may_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without root's rights the damage is prevented, not only found."""
    with open_folder() as base:
        (base / "data").write_text("content")
        (base / "data").chmod(0o644)
        (base / "local").mkdir()
        (base / "local").chmod(0o777)
        monkeypatch.setenv(LOCAL, str(base / "local"))

        def attempt() -> str:
            with placed([item_of(base / "data", mode="link")]) as sandbox:
                (sandbox.folder / "data").write_text("mine")
            return "written"

        assert unprivileged(attempt).startswith("PermissionError")
        assert (base / "data").read_text() == "content"
