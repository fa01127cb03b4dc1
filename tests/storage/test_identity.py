"""The identity of an input does not depend on its name, size and time alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from other_processes import small_disk

import encamp
from encamp.storage.disk import disk_kind
from encamp.storage.disk.disk_kind import LastingNumbers
from encamp.storage.inputs.mirror import as_mirrors as mirrors
from encamp.storage.inputs.mirror import identity, plan
from encamp.storage.shared_folders import MIRRORED

WHEN = 1_600_000_000_000_000_000


def version(folder: Path, text: str) -> Path:
    """A folder like all others in names, sizes and times."""
    folder.mkdir(parents=True)
    (folder / "a").write_text(text)
    (folder / "link").symlink_to("a")
    os.utime(folder / "a", ns=(WHEN, WHEN))
    os.utime(folder, ns=(WHEN, WHEN))
    return folder


def link(at: Path, target: Path | str) -> None:
    at.with_name("new").symlink_to(target)
    at.with_name("new").replace(at)


def top(here: Path) -> tuple[str, Callable[[], None]]:
    (here / "data").symlink_to("v1")
    return "data", lambda: link(here / "data", "v2")


def file_below(here: Path) -> tuple[str, Callable[[], None]]:
    (here / "data").symlink_to(here / "v1")
    return "data/a", lambda: link(here / "data", here / "v2")


def pattern_below(here: Path) -> tuple[str, Callable[[], None]]:
    (here / "data").symlink_to("v1")
    return "data/*", lambda: link(here / "data", "v2")


def chain(here: Path) -> tuple[str, Callable[[], None]]:
    (here / "middle").symlink_to("v1")
    (here / "data").symlink_to("middle")
    return "data", lambda: link(here / "middle", "v2")


def named_file(here: Path) -> tuple[str, Callable[[], None]]:
    (here / "data").symlink_to("v1/a")
    return "data", lambda: link(here / "data", "v2/a")


def moved(here: Path) -> tuple[str, Callable[[], None]]:
    return "v1/a", lambda: (here / "v2/a").replace(here / "v1/a")


def hard_linked(here: Path) -> tuple[str, Callable[[], None]]:
    def swap() -> None:
        os.link(here / "v2/a", here / "v2/b")
        (here / "v2/b").replace(here / "v1/a")

    return "v1/a", swap


def moved_in_tree(here: Path) -> tuple[str, Callable[[], None]]:
    return "v1", lambda: (here / "v2/a").replace(here / "v1/a")


def moved_tree(here: Path) -> tuple[str, Callable[[], None]]:
    def swap() -> None:
        (here / "v1").rename(here / "v0")
        (here / "v2").rename(here / "v1")

    return "v1", swap


def led_to_by_a_tree(here: Path) -> tuple[str, Callable[[], None]]:
    """A symlink that leads out of a tree comes as the file there."""
    (here / "tree").mkdir()
    (here / "tree/out").symlink_to(here / "v1/a")
    return "tree", lambda: (here / "v2/a").replace(here / "v1/a")


def in_a_folder_led_to_by_a_tree(here: Path) -> tuple[str, Callable[[], None]]:
    (here / "tree").mkdir()
    (here / "tree/out").symlink_to("../v1")
    return "tree", lambda: (here / "v2/a").replace(here / "v1/a")


def a_symlink_in_a_tree_that_leads_elsewhere(here: Path) -> tuple[str, Callable[[], None]]:
    (here / "tree").mkdir()
    (here / "tree/out").symlink_to("../v1")
    return "tree", lambda: link(here / "tree/out", "../v2")


SWAPS = [
    top,
    file_below,
    pattern_below,
    chain,
    named_file,
    moved,
    hard_linked,
    moved_in_tree,
    moved_tree,
    led_to_by_a_tree,
    in_a_folder_led_to_by_a_tree,
    a_symlink_in_a_tree_that_leads_elsewhere,
]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", SWAPS)
def test_replaced_input_has_other_identity(
    kind: Callable[[Path], tuple[str, Callable[[], None]]],
    shared: bool,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MIRRORED, str(here if shared else here / "elsewhere"))
    version(here / "v1", "one")
    version(here / "v2", "two")
    pattern, swap = kind(here)
    before = identity(plan(mirrors(pattern), here))
    assert identity(plan(mirrors(pattern), here)) == before
    swap()
    assert identity(plan(mirrors(pattern), here)) != before


def test_a_disk_that_is_mounted_over_another_holds_other_inputs(here: Path) -> None:
    """Two new disks give their first files the same inode numbers."""
    found = []
    for text in ("one", "two"):
        with small_disk(here / text, "1m") as mounted:
            (mounted / "a").write_text(text)
            os.utime(mounted / "a", ns=(WHEN, WHEN))
            link(here / "data", text)
            (item,) = plan(mirrors("data/a"), here)
            found.append(((mounted / "a").stat().st_ino, item.version))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize("pattern", ["disk/a", "disk"])
def test_a_disk_that_is_mounted_in_place_of_another_is_fetched_into_the_cache(
    here: Path, pattern: str
) -> None:
    """The kernel gives the second one the device number of the first."""
    for text in ("one", "two"):
        with small_disk(here / "disk", "1m") as mounted:
            (mounted / "a").write_text(text)
            os.utime(mounted / "a", ns=(WHEN, WHEN))
            os.utime(mounted, ns=(WHEN, WHEN))
            with encamp.sandbox(mirror=encamp.Mirror(pattern, readonly=True)) as folder:
                assert next(folder.rglob("a")).read_text() == text
        (here / "disk").rmdir()


def test_a_folder_that_is_bound_over_another_holds_other_inputs(here: Path) -> None:
    version(here / "v1", "one")
    version(here / "v2", "two")
    before = identity(plan(mirrors("v1"), here))
    bound = subprocess.run(
        ["mount", "--bind", here / "v2", here / "v1"], check=False, capture_output=True
    )
    if bound.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert identity(plan(mirrors("v1"), here)) != before
    finally:
        subprocess.run(["umount", here / "v1"], check=True)
    assert identity(plan(mirrors("v1"), here)) == before


def test_where_inode_numbers_do_not_last_they_do_not_count(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_text("x")
    monkeypatch.setattr(disk_kind, "kind_and_source", lambda device: ("fuse.sshfs", "host:/"))
    disk_kind._name_of_disk.cache_clear()
    assert LastingNumbers().of(here / "a", (here / "a").stat()) == ""
    disk_kind._name_of_disk.cache_clear()


def test_a_job_runs_again_when_the_link_to_its_data_leads_elsewhere(here: Path) -> None:
    version(here / "v1", "one")
    version(here / "v2", "two")
    (here / "data").symlink_to("v1")
    states = []
    for target in ("v1", "v1", "v2"):
        link(here / "data", target)
        job = encamp.Job("job", to="out", mirror="data")
        job.add("task", "cp data/a result", outputs="result")
        states.append(job.run(slots=1)["task"].state)
        assert (here / "out/result").read_text() == (here / target / "a").read_text()
    assert states == ["done", "up to date", "done"]
