"""Tables and lists that make tasks: their limits, and the names of these tasks."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from encamp.errors import BadJob, InputError
from encamp.jobs.file import foreach
from encamp.jobs.file.jobfile import load_job
from encamp.jobs.parameter_files import lines_in, read_bounded, rows_in
from encamp.jobs.task_names import name_of_values


def test_a_file_may_be_as_large_as_it_may_be() -> None:
    assert read_bounded(io.BytesIO(b"12345"), "file", 5) == b"12345"
    with pytest.raises(BadJob, match="file: has more than 5 B"):
        read_bounded(io.BytesIO(b"123456"), "file", 5)


def test_values_that_are_divided_in_another_way_have_another_name() -> None:
    long = "x" * 50
    names = [
        name_of_values([long, "y"]),
        name_of_values([long[1:], "xy"]),
        name_of_values([f"{long}-y"]),
        name_of_values(["a b", "c"]),
        name_of_values(["a", "b", "c"]),
        name_of_values(["a_b", "c"]),
        name_of_values(["a_b-c"]),
    ]
    assert names[4:] == ["a-b-c", "a_b-c", "a_b-c"]
    assert len(set(names[:6])) == 6


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_the_last_line_counts_with_or_without_its_end(end: str) -> None:
    assert lines_in(f"a\n\nb c{end}", "list") == ["a", "b c"]
    assert rows_in(f"name;size\n\na;1{end}", "table") == [{"name": "a", "size": "1"}]


@pytest.mark.parametrize(("tasks", "good"), [(4, True), (3, False)])
def test_a_foreach_may_make_as_many_tasks_as_it_may(
    tasks: int, good: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreach, "MOST_TASKS", tasks)
    Path("job.toml").write_text(
        'name = "job"\nto = "out"\n[[task]]\nforeach = { a = [1, 2], b = [1, 2] }\nsteps = ["true"]'
    )
    if good:
        assert len(load_job(Path("job.toml")).tasks) == 4
    else:
        with pytest.raises(InputError, match="this makes 4 tasks, more than 3"):
            load_job(Path("job.toml"))
