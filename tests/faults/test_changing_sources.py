"""Inputs that change while they are copied: a task gets one whole version, or an error."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from deeds import CHANGES, edit
from forks import CHAOS, SEED, Forks, forks
from msgspec.structs import replace
from sealed import files_below, is_whole

from encamp.errors import SourceChanged
from encamp.storage.inputs.mirror import Item, Mirror, Mode, plan
from encamp.storage.inputs.tree import tree_state
from encamp.storage.sandbox_folder import Sandbox

pytestmark = pytest.mark.chaos

FILES = 30


def make_tree(tree: Path, rng: random.Random) -> None:
    (tree / "folder").mkdir(parents=True)
    for number in range(FILES):
        edit(
            tree / ("folder" if number % 2 else ".") / f"{number}",
            1,
            rng.randrange(100, 60_000),
            rng,
        )


def placed(items: list[Item]) -> dict[str, bytes] | None:
    """What a task finds in its folder; None if it is told that an input changed."""
    sandbox = Sandbox("task")
    try:
        sandbox.place(items)
        for item in items:
            if item.kind == "tree":
                assert tree_state(sandbox.folder / item.target).content == item.content
        return files_below(sandbox.folder)
    except SourceChanged:
        return None
    finally:
        sandbox.remove()


def race(line: Forks, top: Path, how: str, rng: random.Random) -> str:
    """One copy beside one editor; returns what came of it."""
    source = top / "source"
    make_tree(source / "tree", rng)
    (source / "alone").mkdir()
    edit(source / "alone/file", 1, rng.randrange(2_000_000, 8_000_000), rng)
    tree = how == "folder" or rng.random() < 0.5
    wanted = source / ("tree" if tree else "alone/file")
    before = {n: t for n, t in files_below(wanted.parent).items() if n.split("/")[0] == wanted.name}
    modes: list[Mode] = ["auto", "copy", "link"]
    items = plan([Mirror(str(wanted), mode=rng.choice(modes))], source)
    if rng.random() < 0.4:
        items = [replace(item, cached=False, mode="auto") for item in items]
    edited = wanted / "folder" if how == "folder" else wanted if tree else wanted.parent
    line.begin("editing", local=top, source=str(edited), how=how, seed=rng.random())
    line.go()
    time.sleep(rng.choice([0, rng.uniform(0, 0.006)]))  # the editor may be first, or not
    found = placed(items)
    line.kill()
    if found is None:
        return "changed"
    assert all(map(is_whole, found.values())), "a mixture of versions"
    assert found == before, "not the version that the plan saw"
    return "old"


@pytest.mark.parametrize("how", CHANGES)
def test_changing_input_gives_one_version_or_error(how: str, tmp_path: Path) -> None:
    count = 12 * max(1, CHAOS)
    ended: Counter[str] = Counter()
    with forks(traced=False) as line:
        for number in range(20 * count):
            if number >= count and ended["old"] and ended["changed"]:
                break
            seed = f"{SEED} {how} {number}"
            try:
                ended[race(line, tmp_path / str(number), how, random.Random(seed))] += 1
            except BaseException as exc:
                raise AssertionError(f"in race {number}, {SEED=}") from exc
    print(f"{how}: {ended}, {SEED=}")
    assert ended["old"]
    assert ended["changed"]
