"""Functions reach the slots wherever they are defined."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from job_steps import nothing

import encamp
from encamp.errors import CannotTravel
from encamp.wire.pickling import dump_as


def _run_script(folder: Path, text: str) -> str:
    script = folder / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SCRIPT = """\
import functools
import encamp
from beside import Maker, by_module
from inside.pack import by_package

FACTOR = 3

class Own:
    def __init__(self, n):
        self.n = n
    def method(self):
        return self.n * FACTOR
    def __call__(self):
        return self.n

def by_main(n):
    return n * FACTOR

def outer(n):
    def closure():
        return n + FACTOR
    return closure

if __name__ == "__main__":
    job = encamp.Job("job", to="out")
    job.add("main", encamp.call(by_main, 2))
    job.add("module", encamp.call(by_module, 2))
    job.add("package", encamp.call(by_package, 2))
    job.add("lambda", lambda: FACTOR)
    job.add("closure", outer(4))
    job.add("partial", functools.partial(by_main, 5))
    job.add("method", Own(6).method)
    job.add("callable", Own(7))
    job.add("instance", encamp.call(Maker.make, Maker(8)))
    report = job.run()
    print(*(report[name].value for name in job.tasks))
    print({task.state for task in job.run().tasks})
"""


def test_functions_of_scripts_modules_beside_them_lambdas_and_closures(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(
        "def by_module(n):\n    return -n\n\n"
        "class Maker:\n    def __init__(self, n):\n        self.n = n\n"
        "    def make(self):\n        return self.n\n"
    )
    (tmp_path / "inside/pack").mkdir(parents=True)
    (tmp_path / "inside/pack/__init__.py").write_text(
        "from .deep import deep\n\ndef by_package(n):\n    return deep(n)\n"
    )
    (tmp_path / "inside/pack/deep.py").write_text("def deep(n):\n    return n * n\n")
    assert _run_script(tmp_path, SCRIPT).splitlines() == [
        "6 -2 4 3 7 15 18 7 8",
        "{'up to date'}",
    ]


def test_unimportable_function_is_sent_by_value(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "deep.py").write_text("def deep(n):\n    return n + 1\n")
    (hidden / "far.py").write_text("from deep import deep\n\ndef far(n):\n    return deep(n)\n")
    text = f"""\
import sys
import encamp
sys.path.insert(0, {str(hidden)!r})
from far import far
sys.path.remove({str(hidden)!r})
job = encamp.Job("job", to="out")
for n in range(4):
    job.add(str(n), encamp.call(far, n))
report = job.run()
print(*(task.value for task in report.tasks), *(len(task.attempts) for task in report.tasks))
"""
    assert _run_script(tmp_path, text) == "1 2 3 4 1 1 1 1"


def test_a_module_whose_import_fails_there_fails_the_task_and_says_how(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(
        "import os\nif 'SLOT' in os.environ or 'ENCAMP_SLOT' in os.environ:\n"
        "    raise ValueError('not in a slot')\ndef picky():\n    pass\n"
    )
    text = """\
import encamp
from picky import picky
job = encamp.Job("job", to="out")
job.add("bad", picky)
job.add("good", "true")
report = job.run(check=False)
print(report["good"].state, report["bad"].attempts[0].error_type, report["bad"].why)
"""
    found = _run_script(tmp_path, text)
    assert found.startswith("done StepFailed step 'import of the steps' raised ValueError")


def test_unpicklable_step_is_named_before_run(here: Path) -> None:
    lock = threading.Lock()

    def locked() -> None:
        with lock:
            pass

    job = encamp.Job("job", to="out")
    job.add("good", nothing)
    job.add("bad", locked)
    with pytest.raises(CannotTravel, match=r"task bad: .*locked cannot be sent to another process"):
        job.run()
    job = encamp.Job("job", to="out")
    with Path("file").open("w") as file:
        job.add("bad", encamp.call(print, file=file))
        with pytest.raises(CannotTravel, match="task bad: print cannot be sent"):
            job.run()
    assert not Path("out").exists()


class _Exits:
    def __reduce__(self) -> str:
        raise SystemExit(4)


def test_argument_whose_pickling_exits_is_named_without_exit(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", encamp.call(print, _Exits()))
    with pytest.raises(CannotTravel, match="task task: print"):
        job.run()
    with pytest.raises(CannotTravel, match="a message"):
        dump_as("a message", _Exits())


def test_large_arguments_arrive_whole(here: Path) -> None:
    job = encamp.Job("job", to="out")
    data = bytes(range(256)) * 4000
    for n in range(3):
        job.add(str(n), encamp.call(len, data + b"x" * n))
    assert [task.value for task in job.run().tasks] == [1024000, 1024001, 1024002]
