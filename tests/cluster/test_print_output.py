"""The output of tasks is printed in whole lines between the program's own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from encamp.cluster.print_output import show, show_lines_at_once

PROGRAM = """
import sys, threading
from encamp.cluster.print_output import show, show_lines_at_once
show_lines_at_once()
print("first")
sys.stdout.write("a line that is ")
other = threading.Thread(target=show, args=("[task 1] said by a task: äöü\\n" * {count},))
other.start()
other.join()
print("ended later")
"""


@pytest.mark.parametrize("count", [1, 20_000])
def test_lines_of_tasks_do_not_split_those_of_the_program(count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(count=count)],
        env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    lines = ["[task 1] said by a task: äöü"] * count
    assert done.stdout.splitlines() == ["first", *lines, "a line that is ended later"]


def test_replacement_of_stdout_gets_the_lines() -> None:
    with redirect_stdout(io.StringIO()) as stand_in:
        show_lines_at_once()
        show("said\n")
    assert stand_in.getvalue() == "said\n"


def test_without_a_standard_output_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    show_lines_at_once()
    show("said\n")


def test_a_standard_output_that_does_not_wait_gets_all() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "x" * 300_000 + "\n"
    program = (
        f"from encamp.cluster.print_output import show; show({'x'!r} * {len(text) - 1} + chr(10))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=writer) as process:
        os.close(writer)
        with open(reader) as pipe:  # noqa: PTH123
            assert pipe.read() == text
        assert process.wait(60) == 0
