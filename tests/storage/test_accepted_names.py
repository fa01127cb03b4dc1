"""What a worker reports as staged is published only if the task can have made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from encamp.errors import BadDestination
from encamp.storage.outputs.accepted_names import accepted
from encamp.storage.outputs.stage import Staged
from encamp.storage.shared_folders import SharedPath

TOKEN = "0123456789abcdef"


def staged(folder: Path | str, name: str = "a.txt") -> Staged:
    part = Path(folder, f".encamp-{TOKEN}-{name}")
    if Path(folder).is_dir():
        part.write_text("data")
    return Staged(name, str(part), str(Path(folder, name)), 4, "")


def allow(final: str) -> bool:
    return Path(final).name == "a.txt" and ".." not in final


def test_declared_output_is_accepted(tmp_path: Path) -> None:
    one = staged(tmp_path)
    assert accepted([one], TOKEN, allow) == ([one], None)


def test_temporary_file_of_undeclared_output_is_removed(tmp_path: Path) -> None:
    good, other = staged(tmp_path), staged(tmp_path, "b.txt")
    found, error = accepted([good, other], TOKEN, allow)
    assert found == [good]
    assert isinstance(error, BadDestination)
    assert [path.name for path in tmp_path.iterdir()] == [Path(str(good.part)).name]


def test_no_other_file_is_removed(tmp_path: Path) -> None:
    (inner := tmp_path / "inner").mkdir()
    staged(tmp_path)
    above = Staged("a.txt", f"{inner}/../.encamp-{TOKEN}-a.txt", f"{inner}/../a.txt", 4, "")
    found, error = accepted([above], TOKEN, allow)
    assert (found, type(error)) == ([], BadDestination)
    assert (tmp_path / f".encamp-{TOKEN}-a.txt").exists()


@pytest.mark.parametrize(
    "final",
    [SharedPath(7, "a.txt"), SharedPath(-99, "a.txt"), "/a\0b/a.txt", "memory://bucket/b.txt"],
    ids=["no such root", "negative root", "null byte", "url"],
)
def test_nonsense_is_an_error_of_the_task_alone(tmp_path: Path, final: SharedPath | str) -> None:
    good = staged(tmp_path)
    found, error = accepted([Staged("a.txt", final, final, 4, ""), good], TOKEN, allow)
    assert (found, type(error)) == ([good], BadDestination)
