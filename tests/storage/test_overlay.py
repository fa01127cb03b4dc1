"""Overlay mounts: they show the right files, and are removed however the sandbox ends."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from other_processes import run, start
from placed_inputs import placed

import encamp
from encamp.errors import ModeRefused, SourceChanged, TargetConflict, UnsafeTarget
from encamp.storage.dead_owners import keep_dead, reclaim
from encamp.storage.disk import overlay
from encamp.storage.disk.removal import remove_tree
from encamp.storage.inputs.mirror import Mirror, plan
from encamp.storage.local_storage import LOCAL, local_storage
from encamp.storage.owned_folder import sandboxes
from encamp.storage.placing import modes
from encamp.storage.sandbox_folder import Sandbox


@pytest.fixture(autouse=True)
def _may_mount(here: Path) -> None:
    why = modes.why_no_overlay(local_storage())
    if why is not None:
        pytest.skip(why)


@pytest.fixture
def sources(here: Path) -> Path:
    (here / "tree/deep").mkdir(parents=True)
    for number in range(40):
        (here / f"tree/deep/{number}").write_text(f"content {number}")
    (here / "tree/link").symlink_to("deep/1")
    (here / "big").write_bytes(os.urandom(1 << 20))
    return here


MAP = {"tree": ".", "big": "."}


def mounts() -> list[str]:
    return overlay.mounts_below(local_storage())


def whole_mounts(sandbox: Sandbox) -> list[str]:
    """One overlay over all, of which the task sees the part that is its folder."""
    if modes.why_no_whole_overlay(local_storage()) is not None:
        pytest.skip("this user may not have overlays with folders that can be renamed")
    return [str(sandbox.path / "over-0/merged"), str(sandbox.folder)]


def left() -> list[Path]:
    return sorted(sandboxes(local_storage()).glob("*"))


def sandbox_with_overlays(sources: Path) -> Sandbox:
    sandbox = Sandbox("test")
    sandbox.place(plan([Mirror("tree"), Mirror("big")], sources))
    assert mounts() == whole_mounts(sandbox)
    return sandbox


def test_the_trial_leaves_nothing() -> None:
    modes.why_no_overlay.cache_clear()
    assert modes.why_no_overlay(local_storage()) is None
    assert mounts() == []
    assert left() == []


def test_the_folder_shows_the_files_and_no_bytes_are_written_for_it(sources: Path) -> None:
    with placed(plan([Mirror("tree"), Mirror("big")], sources)) as sandbox:
        assert sandbox.placed.bytes == 0
        assert (sandbox.folder / "big").read_bytes() == (sources / "big").read_bytes()
        assert (sandbox.folder / "tree/deep/39").read_text() == "content 39"
        assert os.readlink(sandbox.folder / "tree/link") == "deep/1"
        assert sorted(os.listdir(sandbox.folder)) == ["big", "tree"]


def test_two_big_files_and_a_small_one_share_one_mount(sources: Path) -> None:
    shutil.copy(sources / "big", sources / "other")
    (sources / "small").write_text("small")
    mirrors = [Mirror("big", "deep/in"), Mirror("other"), Mirror("small")]
    with placed(plan(mirrors, sources)) as sandbox:
        assert mounts() == whole_mounts(sandbox)
        names = [
            str(p.relative_to(sandbox.folder)) for p in sandbox.folder.rglob("*") if p.is_file()
        ]
        assert sorted(names) == ["deep/in/big", "other", "small"]
        (sandbox.folder / "deep/in/more").write_text("mine")
    assert mounts() == []


def test_removing_undoes_the_mounts(sources: Path) -> None:
    sandbox = sandbox_with_overlays(sources)
    sandbox.remove()
    assert mounts() == []
    assert left() == []


def test_removing_undoes_mounts_also_where_a_process_still_works_in_them(sources: Path) -> None:
    sandbox = sandbox_with_overlays(sources)
    with (sandbox.folder / "tree/deep/1").open() as file:
        sandbox.remove()
        assert file.read() == "content 1"
    assert mounts() == []
    assert left() == []


def test_an_exception_in_the_block_undoes_the_mounts(sources: Path) -> None:
    def block() -> None:
        with encamp.sandbox(MAP):
            assert len(mounts()) == 2
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        block()
    assert mounts() == []
    assert left() == []


def test_failed_input_undoes_other_mounts(sources: Path) -> None:
    (sources / "lost").write_text("x")
    items = plan([Mirror("tree"), Mirror("big"), Mirror("lost")], sources)
    (sources / "lost").unlink()
    with pytest.raises(SourceChanged), placed(items):
        pytest.fail("one input is gone")
    assert mounts() == []
    assert left() == []


KILLED = """
    import os, signal, sys, encamp
    with encamp.sandbox({"tree": ".", "big": "."}) as folder:
        (folder / "tree/deep/1").write_text("mine")
        (folder / "made").write_text("mine")
        print(folder.parent, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(sources: Path) -> Path:
    process = start(KILLED, cwd=sources)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    return Path(out.strip())


def test_mounts_of_a_killed_process_go_with_its_folder(sources: Path) -> None:
    folder = killed(sources)
    assert len(mounts()) == 2
    assert reclaim() == [folder]
    assert mounts() == []
    assert left() == []


def test_mounts_of_a_killed_process_go_with_the_next_sandbox_of_another(sources: Path) -> None:
    killed(sources)
    run("import encamp\nwith encamp.sandbox(): pass")
    assert mounts() == []
    assert left() == []


def whole(folder: Path, sources: Path) -> None:
    """The folder holds plain files, as the task saw them last."""
    assert overlay.mounts_below(folder) == []
    assert (folder / "tree/deep/1").read_text() == "mine"
    assert (folder / "made").read_text() == "mine"
    for number in (0, *range(2, 40)):
        assert (folder / f"tree/deep/{number}").read_text() == f"content {number}"
    assert os.readlink(folder / "tree/link") == "deep/1"
    assert (folder / "big").read_bytes() == (sources / "big").read_bytes()
    assert not list(folder.rglob("*.plain"))


def test_a_killed_process_s_folder_can_be_kept_as_plain_files(sources: Path) -> None:
    kept = keep_dead(killed(sources))
    assert kept is not None
    whole(kept / "task", sources)
    assert mounts() == []


def test_a_kept_sandbox_is_plain_files(sources: Path) -> None:
    with encamp.sandbox(MAP, keep=True) as folder:
        (folder / "tree/deep/1").write_text("mine")
        (folder / "made").write_text("mine")
    assert mounts() == []
    (kept,) = (local_storage() / "kept").iterdir()
    whole(kept / "task", sources)


def deepen(folder: Path, levels: int) -> None:
    """Make folders in each other, deeper than paths may be long."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def bottom(folder: Path) -> tuple[int, list[str]]:
    """How many folders are in each other, and what is in the last."""
    fd, levels = os.open(folder, os.O_RDONLY), 0
    while "d" in os.listdir(fd):
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, levels = below, levels + 1
    found = os.listdir(fd)
    os.close(fd)
    return levels, found


def test_deep_odd_and_locked_files_are_kept(sources: Path) -> None:
    (sources / "empty").mkdir()
    (sources / "old/sub").mkdir(parents=True)
    mirrors = [*MAP, Mirror("empty", mode="overlay"), Mirror("old", mode="overlay")]
    with encamp.sandbox(mirrors, keep=True) as folder:
        os.mkfifo(folder / "tree/pipe")
        deepen(folder / "tree/deep", 2100)
        (folder / "tree/deep/1").chmod(0)
        (folder / "old").rename(folder / "tree/moved")
    assert mounts() == []
    (kept,) = (local_storage() / "kept").iterdir()
    assert (kept / "task/tree/pipe").is_fifo()
    assert bottom(kept / "task/tree/deep") == (2100, ["bottom"])
    assert (kept / "task/tree/deep/2").read_text() == "content 2"
    assert (kept / "task/tree/moved/sub").is_dir()
    assert not (kept / "task/old").exists()
    remove_tree(kept, local_storage())  # pytest cannot remove what is so deep


def test_deep_changes_of_ended_mount_become_plain_files(here: Path) -> None:
    lower, seen, scratch = here / "lower", here / "sandbox/task/tree", here / "sandbox/over-0"
    for folder in (lower / "old/sub", seen, scratch / "upper/old"):
        folder.mkdir(parents=True)
    deepen(lower, 2500)
    os.mkfifo(lower / "pipe")
    os.setxattr(scratch / "upper/old", "user.overlay.opaque", b"y")
    deepen(scratch / "upper/old", 1000)
    (scratch / "what").write_bytes(b"\0".join(map(os.fsencode, (lower, seen))))
    overlay.recover(here / "sandbox")
    assert (seen / "pipe").is_fifo()
    assert not (seen / "old/sub").exists()
    assert bottom(seen) == (2500, ["bottom"])
    assert bottom(seen / "old") == (1000, ["bottom"])
    for folder in (here / "sandbox", lower):
        remove_tree(folder, here)


def test_ended_mounts_are_applied_in_order(here: Path) -> None:
    """The eleventh was made over the third."""
    lower, seen = here / "lower", here / "sandbox/task/tree"
    for folder in (lower, seen):
        folder.mkdir(parents=True)
    for number in (2, 10):
        scratch = here / f"sandbox/over-{number}"
        (scratch / "upper").mkdir(parents=True)
        (scratch / "upper/last").write_text(f"by mount {number}")
        (scratch / "what").write_bytes(b"\0".join(map(os.fsencode, (lower, seen))))
    overlay.recover(here / "sandbox")
    assert (seen / "last").read_text() == "by mount 10"


def test_keeping_frees_the_disk_of_what_the_mounts_needed(sources: Path) -> None:
    """What was only for the mounts is not what a person looks for."""
    with encamp.sandbox(MAP, keep=True):
        pass
    (kept,) = (local_storage() / "kept").iterdir()
    names = {path.name for path in kept.iterdir()}
    assert names - {"parts"} == {"task"}


def test_the_folder_of_a_failed_task_is_kept_as_plain_files(sources: Path) -> None:
    job = encamp.Job("job", to="out", mirror="tree")
    line = encamp.command("echo -n mine > tree/deep/1; echo -n mine > made; exit 3", shell=True)
    job.add("task", line, mirror=Mirror("big", mode="overlay"))
    report = job.run(slots=1, keep="failed", check=False)
    kept = report["task"].kept
    assert kept is not None
    whole(Path(kept.partition(":")[2]) / "task", sources)
    assert mounts() == []
    assert left() == []


def test_a_task_that_fails_or_is_killed_leaves_no_mount(sources: Path) -> None:
    job = encamp.Job("job", to="out", mirror="tree")
    job.add("fails", "false")
    job.add("crashes", encamp.command("kill -9 $PPID", shell=True))
    job.add("lasts", encamp.command("sleep 600", time_limit=0.3))
    report = job.run(slots=2, check=False)
    assert [task.state for task in report.tasks] == ["failed"] * 3
    assert mounts() == []
    assert left() == []


def test_outputs_of_overlays_are_complete(sources: Path) -> None:
    to = str(sources / "to")
    with encamp.sandbox(MAP, {"tree": to, "big": to, "new": to}) as folder:
        (folder / "tree/deep/1").write_text("mine")
        (folder / "new").write_text("new")
    assert (sources / "to/tree/deep/1").read_text() == "mine"
    assert (sources / "to/tree/deep/2").read_text() == "content 2"
    assert (sources / "to/big").read_bytes() == (sources / "big").read_bytes()
    assert (sources / "to/new").read_text() == "new"


@pytest.mark.parametrize(
    "name", ["with blank", "tab\there", "new\nline", "back\\slash", "a,b", "a:b", "ü"]
)
def test_local_storage_with_any_name_works(
    name: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the name cannot stand in the options of a mount there are copies."""
    (tmp_path / name).mkdir()
    monkeypatch.setenv(LOCAL, str(tmp_path / name))
    with encamp.sandbox(MAP) as folder:
        assert (folder / "tree/deep/39").read_text() == "content 39"
        assert bool(mounts()) == (not set(name) & set(",:\\"))
    assert mounts() == []
    assert left() == []


@pytest.mark.parametrize("name", ["with blank", "back\\slash", "a,b", "new\nline"])
def test_targets_with_any_name_are_mounted_and_undone(name: str, sources: Path) -> None:
    with placed(plan([Mirror("tree", name)], sources)) as sandbox:
        assert (sandbox.folder / name / "tree/deep/3").read_text() == "content 3"
        assert mounts() == whole_mounts(sandbox)
    assert mounts() == []
    assert left() == []


def test_a_tree_in_a_tree_joins_it(sources: Path) -> None:
    """A mount would hide what is under it: the second must not make the first vanish."""
    (sources / "other/deep").mkdir(parents=True)
    for number in range(40):
        (sources / f"other/deep/more-{number}").write_text("more")
    mirrors = [Mirror("tree", rename="both"), Mirror("other/deep", "both")]
    with placed(plan(mirrors, sources)) as sandbox:
        assert mounts() == whole_mounts(sandbox)
        assert (sandbox.folder / "both/link").is_symlink()
        assert len(list((sandbox.folder / "both/deep").iterdir())) == 80


def test_two_files_for_one_place_in_trees_that_join_are_refused(sources: Path) -> None:
    shutil.copytree(sources / "tree", sources / "other", symlinks=True)
    mirrors = [Mirror("tree", rename="both"), Mirror("other/deep", "both")]
    with pytest.raises(TargetConflict), encamp.sandbox(mirrors):
        pytest.fail("one would hide the other")


def test_required_overlay_inside_other_tree_is_refused(sources: Path) -> None:
    mirrors = [Mirror("tree"), Mirror("big", "tree", mode="overlay")]
    with pytest.raises(ModeRefused, match="the tree of another input"), encamp.sandbox(mirrors):
        pytest.fail("it cannot be had")


def test_a_tree_in_the_place_of_another_is_refused(sources: Path) -> None:
    """Both want to be the folder "tree": two sources for one target."""
    (sources / "more/tree/deep").mkdir(parents=True)
    for number in range(40):
        (sources / f"more/tree/deep/{number + 100}").write_text("x")
    with (
        pytest.raises(TargetConflict),
        encamp.sandbox([Mirror("tree"), Mirror("more/tree")]),
    ):
        pytest.fail("one would hide the other")


@pytest.mark.parametrize("name", ["big", "small"])
def test_a_file_in_a_tree_is_not_hidden_by_the_trees_mount(name: str, sources: Path) -> None:
    (sources / "small").write_text("small")
    mirrors = [Mirror("tree"), Mirror(name, "tree/deep/er"), Mirror("big", rename="other")]
    with placed(plan(mirrors, sources)) as sandbox:
        assert (sandbox.folder / f"tree/deep/er/{name}").read_bytes() == (
            sources / name
        ).read_bytes()
        assert (sandbox.folder / "tree/deep/3").read_text() == "content 3"
        assert (sandbox.folder / "other").stat().st_size == 1 << 20
    assert mounts() == []
    assert left() == []


def test_a_file_in_the_place_of_one_of_a_tree_is_refused(sources: Path) -> None:
    mirrors = [Mirror("tree"), Mirror("big", "tree/deep", rename="1")]
    with pytest.raises(TargetConflict), encamp.sandbox(mirrors):
        pytest.fail("one would hide the other")


def test_a_big_file_through_a_trees_symlink_is_refused(sources: Path) -> None:
    (sources / "tree/out").symlink_to("/tmp")
    with pytest.raises(UnsafeTarget), encamp.sandbox([Mirror("tree"), Mirror("big", "tree/out")]):
        pytest.fail("the file would leave the folder")


def rename_in_tree(folder: Path) -> None:
    (folder / "tree/deep").rename(folder / "tree/other")
    (folder / "tree/other/1").rename(folder / "tree/2")
    assert (folder / "tree/2").read_text() == "content 1"


def rename_out_of_tree(folder: Path) -> None:
    (folder / "tree/deep").rename(folder / "out")
    assert (folder / "out/1").read_text() == "content 1"


def rename_tree(folder: Path) -> None:
    (folder / "tree").rename(folder / "mine")
    assert (folder / "mine/deep/1").read_text() == "content 1"


def move_tree_down(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "tree").rename(folder / "below/tree")
    assert (folder / "below/tree/deep/1").read_text() == "content 1"


def empty_tree(folder: Path) -> None:
    shutil.rmtree(folder / "tree")
    (folder / "tree").mkdir()
    assert list((folder / "tree").iterdir()) == []


def replace_in_tree(folder: Path) -> None:
    (folder / "x").write_text("x")
    (folder / "x").replace(folder / "tree/deep/1")
    assert (folder / "tree/deep/1").read_text() == "x"


def link_out_of_tree(folder: Path) -> None:
    os.link(folder / "tree/deep/1", folder / "linked")
    (folder / "linked").write_text("both")
    assert (folder / "tree/deep/1").read_text() == "both"


def move_all(folder: Path) -> None:
    """As ``mv`` does it, without a copy."""
    for path in list(folder.iterdir()):
        path.rename(folder / f"{path.name}.old")
    assert (folder / "tree.old/deep/1").read_text() == "content 1"


DEEDS = [
    rename_in_tree,
    rename_out_of_tree,
    rename_tree,
    move_tree_down,
    empty_tree,
    replace_in_tree,
    link_out_of_tree,
    move_all,
]


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("files", [31, 40])
def test_allowed_operations_do_not_depend_on_tree_size(
    files: int, deed: Callable[[Path], None], sources: Path
) -> None:
    for number in range(files, 40):
        (sources / f"tree/deep/{number}").unlink()
    with encamp.sandbox([Mirror("tree"), Mirror("big", to="sub")]) as folder:
        assert bool(mounts())
        deed(folder)
    with encamp.sandbox("tree") as folder:
        assert (folder / "tree/deep/1").read_text() == "content 1"
    assert mounts() == []
    assert left() == []


def test_a_kept_folder_is_as_the_task_left_it_and_no_more(sources: Path) -> None:
    with encamp.sandbox(MAP, keep=True) as folder:
        (folder / "tree/deep").rename(folder / "moved")
        shutil.rmtree(folder / "tree")
    (kept,) = (local_storage() / "kept").iterdir()
    assert sorted(path.name for path in (kept / "task").iterdir()) == ["big", "moved"]
    assert (kept / "task/moved/39").read_text() == "content 39"


def test_links_beside_overlay_are_read_only(sources: Path) -> None:
    """The overlay is a disk of its own, on which no link to the cache can be: it shows them."""
    (sources / "small").write_text("small")
    mirrors = [Mirror("big"), Mirror("small", mode="link"), Mirror("tree", mode="link")]
    with placed(plan(mirrors, sources)) as sandbox:
        for name, text in {"small": "small", "tree/deep/3": "content 3"}.items():
            assert (sandbox.folder / name).read_text() == text
            assert (sandbox.folder / name).stat().st_mode & 0o222 == 0
        assert sandbox.placed.bytes == 0
        sandbox.check_inputs("task")


def test_required_overlay_stays_overlay_beside_links(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where folders of an overlay cannot be renamed, one of a big file would hide the links."""
    monkeypatch.setattr(overlay, "why_not_whole", lambda _: "only root may")
    (sources / "small").write_text("small")
    mirrors = [Mirror("big"), Mirror("small", mode="link"), Mirror("tree", mode="overlay")]
    with placed(plan(mirrors, sources)) as sandbox:
        assert mounts() == [str(sandbox.folder / "tree")]
        assert (sandbox.folder / "small").stat().st_nlink > 1
        assert (sandbox.folder / "big").read_bytes() == (sources / "big").read_bytes()
