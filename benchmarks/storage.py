"""What mirroring, the cache and removing sandboxes cost, beside rsync, cp, copytree and rm."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reads import count_reads
from benchmarks.timing import Action, Figure, Side, compare, median_of
from encamp.storage.cache.cache import HostCache, clear_cache
from encamp.storage.inputs.mirror import Item, Mirror, Mode, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.placing.modes import mode_of
from encamp.storage.sandbox_folder import Sandbox

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    files: int = 10_000
    file: int = 4096
    big: int = 1 << 30
    tasks: int = 32
    entries: int = 100_000
    runs: int = 5
    big_runs: int = 11
    """A big file's copy takes whatever time the machine's memory takes: more pairs."""
    hits: int = 2000


def figures(folder: Path, sizes: Sizes | None = None) -> Iterator[Figure]:
    """The figures of the storage plane, measured in ``folder``."""
    sizes = sizes or Sizes()
    tree, big = _made_tree(folder / "share/tree", sizes), _made_file(folder / "share/big", sizes)
    yield _first_tree(tree, folder, sizes)
    yield _first_file(big, folder, sizes)
    yield from _later(tree, folder, sizes)
    yield _removing(tree, folder, sizes)
    yield from _read_once(big, folder, sizes)
    yield from _large_cache(folder, sizes)


def _made_tree(tree: Path, sizes: Sizes) -> Path:
    source = random.Random(2)
    for number in range(sizes.files):
        file = tree / f"part-{number // 100:03d}/file-{number:05d}.dat"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.randbytes(sizes.file))
    return tree


def _made_file(file: Path, sizes: Sizes) -> Path:
    source = random.Random(3)
    with file.open("wb") as writer:
        for start in range(0, sizes.big, 1 << 24):
            writer.write(source.randbytes(min(1 << 24, sizes.big - start)))
    return file


def _first_tree(tree: Path, folder: Path, sizes: Sizes) -> Figure:
    what = f"first mirror of {sizes.files} x {sizes.file} bytes, {_way(tree)}, to rsync -a"
    copy = folder / "rsync"
    peer = _command("rsync", "-a", f"{tree}/", f"{copy}/")
    ours = _first(tree, folder)
    return compare(what, ours, Side(peer, after=_gone(copy)), at_most=1.3, runs=sizes.runs)


def _first_file(big: Path, folder: Path, sizes: Sizes) -> Figure:
    what = f"first mirror of a file of {sizes.big >> 20} MiB, {_way(big)}, to cp"
    copy = folder / "cp"
    peer = Side(_command("cp", str(big), str(copy)), after=_gone(copy))
    return compare(what, _first(big, folder), peer, at_most=1.1, runs=sizes.big_runs)


def _first(path: Path, folder: Path) -> Side:
    """The way from nothing but the source to a folder that has it."""
    sandboxes = _Sandboxes()

    def after() -> None:
        sandboxes.remove()
        clear_cache()

    return Side(
        lambda: sandboxes.place(plan([Mirror(str(path))], folder)), before=clear_cache, after=after
    )


def _later(tree: Path, folder: Path, sizes: Sizes) -> Iterator[Figure]:
    wanted: list[tuple[Mode, float]] = [("overlay", 50), ("link", 4), ("copy", 1)]
    copy = folder / "copytree"
    peer = Side(lambda: shutil.copytree(tree, copy, symlinks=True), after=_gone(copy))
    for mode, at_least in wanted:
        what = f"the same tree for a later task, {mode}, faster than copytree"
        ours = _placing(plan([Mirror(str(tree), mode=mode)], folder))
        yield compare(what, ours, peer, at_least=at_least, runs=sizes.runs)
    clear_cache()


def _placing(items: list[Item]) -> Side:
    """The way from a plan to a folder, then to its end."""
    sandboxes = _Sandboxes()
    return Side(lambda: sandboxes.place(items), after=sandboxes.end)


def _removing(tree: Path, folder: Path, sizes: Sizes) -> Figure:
    items = plan([Mirror(str(tree), mode="copy")], folder)
    sandboxes, copy = _Sandboxes(), folder / "copytree"
    ours = Side(sandboxes.remove, before=lambda: sandboxes.place(items))
    peer = Side(
        _command("rm", "-rf", str(copy)), before=lambda: shutil.copytree(tree, copy, symlinks=True)
    )
    what = f"removing a sandbox of {sizes.files} files, to rm -rf"
    figure = compare(what, ours, peer, at_most=1.2, runs=sizes.runs)
    clear_cache()
    return figure


def _read_once(big: Path, folder: Path, sizes: Sizes) -> Iterator[Figure]:
    for way, who in (("job", "tasks of a job"), ("sandboxes", "processes with a sandbox")):
        yield _reads(
            big, folder / way, way, f"{sizes.tasks} {who} read {sizes.big >> 20} MiB", sizes
        )


def _reads(big: Path, folder: Path, way: str, what: str, sizes: Sizes) -> Figure:
    clear_cache()
    mirrors = json.dumps([{"pattern": str(big)}])
    command = [
        sys.executable,
        "-m",
        "benchmarks.readers",
        way,
        str(sizes.tasks),
        str(folder),
        mirrors,
    ]
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        counts = count_reads(command, big.parent)
    finally:
        os.chdir(before)
    clear_cache()
    ratio = counts.total() / sizes.big
    return Figure(what, ratio, "x", "= 1 x", ratio == 1, "counted by strace")


def _large_cache(folder: Path, sizes: Sizes) -> Iterator[Figure]:
    items = _many_entries(folder, sizes)
    source = random.Random(4)
    with HostCache() as cache:
        hits = [_seconds(lambda: cache.get(source.choice(items))) for _ in range(sizes.hits)]
    clear = [_seconds(lambda: HostCache().close()) for _ in range(50)]
    entries = f"a cache of {sizes.entries} entries"
    yield median_of(f"a hit in {entries}", hits, at_most=1)
    yield median_of(f"opening {entries}", clear, at_most=100)
    whole = [_seconds(lambda: _opened_and_used(source.choice(items))) for _ in range(50)]
    yield median_of(f"opening {entries}, one hit, closing", whole, at_most=100)


def _opened_and_used(item: Item) -> None:
    with HostCache() as cache:
        cache.get(item)


def _many_entries(folder: Path, sizes: Sizes) -> list[Item]:
    many = folder / "share/many"
    for number in range(sizes.entries):
        file = many / f"{number // 1000:03d}/{number:06d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"entry")
    items = plan([Mirror(f"{many}/*/*")], folder)
    with HostCache() as cache:
        cache.fetch_missing(items)
    return items


class _Sandboxes:
    """Folders with inputs in them, one after the other."""

    def __init__(self) -> None:
        self._sandbox: Sandbox | None = None

    def place(self, items: list[Item]) -> None:
        self._sandbox = Sandbox("benchmark")
        self._sandbox.place(items)

    def end(self) -> None:
        """What comes after a task that has ended well; a tree that was linked is looked through."""
        assert self._sandbox is not None
        self._sandbox.check_inputs("benchmark")
        self._sandbox.remove()

    def remove(self) -> None:
        assert self._sandbox is not None
        self._sandbox.remove()


def _way(path: Path) -> str:
    """How mode auto brings ``path`` on this host."""
    [item] = plan([Mirror(str(path))], path.parent)
    return mode_of(item, local_storage())[0]


def _command(*words: str) -> Action:
    return lambda: subprocess.run(words, check=True)


def _gone(path: Path) -> Action:
    return lambda: subprocess.run(["rm", "-rf", str(path)], check=True)


def _seconds(action: Action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
