"""Inputs that many tasks of a host share are read from the shared disk once."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from conftest import need
from encamp.storage.inputs.mirror import Mirror, Mode, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.placing.modes import why_no_overlay, why_no_reflink

ROOT = Path(__file__).parents[2]
TASKS = 6
BIG = 3 << 20


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The counter of `benchmarks`, whose programs are found from the project's folder."""
    need("strace", shutil.which("strace") is not None)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("benchmarks.reads")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder that plays the shared disk."""
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


def _file(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(path.name).randbytes(size))
    return path


def _tree(path: Path) -> Path:
    for number in range(40):
        _file(path / f"part-{number % 4}/{number}.dat", 5000 + number)
    return path


def _modes() -> list[Mode]:
    """The modes that this host has, for this user."""
    impossible = {"overlay": why_no_overlay, "reflink": why_no_reflink}
    storage = local_storage()
    return [m for m in get_args(Mode) if m not in impossible or impossible[m](storage) is None]


def _of_every_kind(share: Path) -> list[dict[str, Any]]:
    """A file and a tree for every mode, a big file, and one source that is wanted in two modes."""
    mirrors: list[dict[str, Any]] = [{"pattern": str(_file(share / "big", BIG))}]
    for mode in _modes():
        sources = _file(share / f"{mode}.dat", (1 << 20) + 7), _tree(share / f"{mode}.tree")
        mirrors.extend({"pattern": str(source), "mode": mode} for source in sources)
    mirrors.append({"pattern": str(_file(share / "few.dat", 3)), "readonly": True})
    twice = _file(share / "twice.dat", 100_000), _tree(share / "twice.tree")
    for mode in ("link", "copy"):
        more = {"mode": mode, "to": f"as-{mode}"}
        mirrors.extend({"pattern": str(source), **more} for source in twice)
    return mirrors


def _sizes(share: Path) -> Counter[str]:
    found = (path for path in share.rglob("*") if path.is_file())
    return Counter({os.path.realpath(path): path.stat().st_size for path in found})


@pytest.mark.parametrize("way", ["job", "tasks", "sandboxes"])
def test_shared_input_is_read_once_in_every_mode(
    way: str, share: Path, tmp_path: Path, reads: ModuleType
) -> None:
    mirrors = _of_every_kind(share)
    words = ["-m", "benchmarks.readers", way, str(TASKS), str(tmp_path / "to"), json.dumps(mirrors)]
    counts = reads.count_reads([sys.executable, *words], share)
    assert counts == _sizes(share)


def test_planning_reads_no_file(share: Path, reads: ModuleType) -> None:
    mirrors = _of_every_kind(share)
    assert plan([Mirror(**arguments) for arguments in mirrors], ROOT)
    code = (
        "import json, pathlib, sys; from encamp.storage.inputs.mirror import Mirror, plan;"
        "plan([Mirror(**each) for each in json.loads(sys.argv[1])], pathlib.Path.cwd())"
    )
    assert not reads.count_reads([sys.executable, "-c", code, json.dumps(mirrors)], share)


@pytest.mark.parametrize(
    ("command", "times"),
    [
        (["cat", "{file}", "{file}"], 2),
        (["cp", "{file}", "{copy}"], 1),
        (["dd", "if={file}", "of={copy}", "bs=1000", "status=none"], 1),
        (["sh", "-c", "cat '{file}' & cat '{file}' & cat < '{file}'; wait"], 3),
        (
            [
                sys.executable,
                "-c",
                "import mmap; f = open('{file}'); mmap.mmap(f.fileno(), 0, prot=1)",
            ],
            1,
        ),
        (
            [
                sys.executable,
                "-c",
                "import os; os.sendfile(os.open('{copy}', 65), os.open('{file}', 0), 0, 99999)",
            ],
            1,
        ),
        (["stat", "{file}"], 0),
        (["cp", sys.executable, "{beside}"], 0),
    ],
    ids=["read twice", "copied", "blocks", "three processes", "mapped", "sent", "stat", "others"],
)
def test_the_counter_sees_every_way_of_reading(
    command: list[str], times: int, share: Path, tmp_path: Path, reads: ModuleType
) -> None:
    file = _file(share / "a file <of> points", 54_321)
    names = {"file": file, "copy": tmp_path / "copy", "beside": share / "beside"}
    words = [word.format(**names) if "{" in word else word for word in command]
    assert reads.count_reads(words, share).total() == times * 54_321
