"""Tracebacks from slots name files and lines of functions that are sent by value."""

from __future__ import annotations

import linecache
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp.errors import OtherPython, ServiceFailed
from encamp.wire import by_value
from encamp.wire.by_value import dump_by_value

CODE = """
def inner(x):
    return 1 / x  # the guilty line


def outer(x):
    again = lambda y: inner(y)
    return again(x)


class Thing:
    def method(self, x):
        return inner(x)
"""


def _made(filename: str) -> dict[str, Any]:
    """What a script or a notebook's cell of that name defines."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(CODE, filename, "exec"), names)
    return names


def _raised(cluster: encamp.Cluster, function: Callable[..., Any], *args: Any) -> str:
    error = cluster.spawn(function, *args).exception(60)
    assert isinstance(error, ZeroDivisionError)
    return str(error.__cause__)


def test_spawned_functions_of_scripts_and_cells_are_found_in_tracebacks(here: Path) -> None:
    script = here / "script.py"
    script.write_text(CODE)
    cell = "/tmp/ipykernel_1/2222.py"
    linecache.cache[cell] = len(CODE), None, CODE.splitlines(keepends=True), cell
    try:
        with encamp.Cluster("local", slots=1) as cluster:
            in_script = _raised(cluster, _made("script.py")["outer"], 0)
            in_cell = _raised(cluster, _made(cell)["outer"], 0)
            in_method = _raised(cluster, _made(cell)["Thing"]().method, 0)
            in_stdin = _raised(cluster, _made("<stdin>")["outer"], 0)
    finally:
        del linecache.cache[cell]
    for text, file in ((in_script, str(script)), (in_cell, cell), (in_stdin, "<stdin>")):
        for line, name in ((8, "outer"), (7, "<lambda>"), (3, "inner")):
            assert f'File "{file}", line {line}, in {name}\n' in text
    for text in (in_script, in_cell, in_method):
        assert "    return 1 / x  # the guilty line\n" in text
    assert (
        f'File "{cell}", line 13, in method\n        return inner(x)'.replace("        ", "    ")
        in in_method
    )
    assert "guilty" not in in_stdin
    assert "dynamic-code" not in in_script + in_cell + in_method + in_stdin


def test_the_same_function_is_pickled_the_same(here: Path) -> None:
    functions = [_made("<stdin>")["outer"] for _ in range(2)]
    assert dump_by_value(functions[0]) == dump_by_value(functions[1])
    assert pickle.loads(dump_by_value(functions[0]))(4) == 0.25


def test_bytecode_of_another_python_is_refused_before_it_runs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python itself would run it: with wrong results, or until it crashes."""
    monkeypatch.setattr(by_value, "_PYTHON", "cpython 3.99")
    function = _made("<stdin>")["outer"]
    message = (
        r"runs in cpython 3.99 cannot run in \w+ 3\.\d+: use one version of Python on all hosts"
    )
    with encamp.Cluster("local", slots=1) as cluster:
        with pytest.raises(OtherPython, match=message):
            cluster.spawn(function, 4).result(60)
        with pytest.raises(ServiceFailed, match=message):
            cluster.publish(_made("<stdin>")["Thing"]).call("method", 4).get(60)
        assert cluster.spawn(abs, -4).result(60) == 4
    job = encamp.Job("job", to="out")
    job.add("command", "touch x", outputs="x")
    job.add("function", [encamp.call(function, 4)])
    report = job.run(slots=1, check=False)
    assert [task.state for task in report.tasks] == ["done", "failed"]
    assert re.search(message, report["function"].why)


@pytest.mark.parametrize("how", [["-m", "encamp", "run", "job.py"], ["job.py"]])
def test_a_step_of_a_script_is_found_in_its_log(here: Path, how: list[str]) -> None:
    text = f"""import encamp
{CODE}
job = encamp.Job("job", to="out")
job.add("a", encamp.call(outer, 0))
job.run(check=False, slots=1)
"""
    Path("job.py").write_text(text)
    subprocess.run([sys.executable, *how], check=False, capture_output=True, timeout=60)
    log = Path("out/job.job/logs/a.1.log").read_text().splitlines()
    assert log[:3] == [
        "Traceback (most recent call last):",
        f'  File "{here / "job.py"}", line 9, in outer',
        "    return again(x)",
    ]
