"""The manifest of a job: b2sum can check it, whatever files are called."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import encamp
from encamp.attempt_facts import Published
from encamp.jobs.report.manifest import manifest_lines
from encamp.storage.outputs.publish import digest_of


@pytest.fixture
def to(tmp_path: Path) -> Path:
    path = tmp_path / "to"
    path.mkdir()
    return path


NAMES = [
    b"plain.txt",
    b"with blank",
    b"line\nend",
    b"carriage\rreturn",
    b"back\\slash",
    b"back\\nslash",
    b"\\",
    b"-rf",
    b" leading",
    b"trailing ",
    b"*",
    b"caf\xe9",
    "ü".encode(),
    b"(a) = b",
    b"BLAKE2b (x) = 00",
    b"deep/er/x",
    b"deep/line\nend\\",
]


def listed(to: Path, names: list[bytes]) -> list[Published]:
    published = []
    for name in names:
        path = to / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + name)
        published.append(Published(str(path), path.stat().st_size, 0, digest_of(path)))
    return published


def b2sum(at: Path, text: bytes) -> subprocess.CompletedProcess[bytes]:
    line = ["b2sum", "--check", "--strict", "-"]
    return subprocess.run(line, cwd=at, input=text, capture_output=True, check=False)


def manifest(published: Iterable[Published], top: Path) -> bytes:
    """As a job writes it."""
    return b"".join(sorted(manifest_lines(published, str(top))))


def test_b2sum_checks_a_manifest_with_any_names(to: Path) -> None:
    text = manifest(listed(to, NAMES), to)
    checked = b2sum(to, text)
    assert checked.returncode == 0, checked
    assert checked.stdout.count(b": OK\n") == len(NAMES)
    assert len(text.splitlines()) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_b2sum_finds_each_file_that_was_changed(name: bytes, to: Path) -> None:
    text = manifest(listed(to, NAMES), to)
    path = to / os.fsdecode(name)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    checked = b2sum(to, text)
    assert checked.returncode == 1
    assert checked.stdout.count(b": FAILED\n") == 1


def test_a_manifest_is_sorted_and_leaves_out_what_has_no_digest(to: Path) -> None:
    published = listed(to, [b"b", b"a"])
    published += [Published("memory://x/c", 1, 0, "00"), Published(str(to / "d"), 1, 0, "")]
    text = manifest(published, to)
    assert [line.split(b"(")[1].split(b")")[0] for line in text.splitlines()] == [b"a", b"b"]
    assert manifest(reversed(published), to) == text


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("/out/a/b", "a/b"),
        ("/out-2/b", "../out-2/b"),
        ("/else/b", "../else/b"),
        ("/out//a/../b", "b"),
        ("/out/.b", ".b"),
    ],
)
def test_files_are_listed_relative_to_the_destination(path: str, listed: str) -> None:
    (line,) = manifest_lines([Published(path, 1, 0, "00")], "/out")
    assert line == f"BLAKE2b-128 ({listed}) = 00\n".encode()


def run_script(folder: Path) -> None:
    for name in NAMES:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)


@pytest.mark.parametrize("change", [lambda: None, lambda: Path("out/plain.txt").write_text("x")])
def test_the_manifest_of_a_job_is_checked_by_b2sum(
    change: Callable[[], object], here: Path
) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", encamp.call(run_script, Path()), outputs="**")
    job.add("fails", ["touch left", "false"], on_failure={"left": "failed"})
    job.run(slots=1, check=False)
    changed = change() is not None
    checked = b2sum(here / "out", Path("out/job.job/MANIFEST").read_bytes())
    assert checked.returncode == changed, checked
    assert checked.stdout.count(b": OK\n") == len(NAMES) + 1 - changed
    assert b"failed/left: OK\n" in checked.stdout
