"""A dry run of a script ends where it would need missing results."""

from __future__ import annotations

from pathlib import Path

import pytest
from console_command import encamp

SCRIPT = """
import sys
from pathlib import Path
import encamp

def job(name, line="true"):
    job = encamp.Job(name, to="out")
    job.add("task", "touch x", outputs={{"x": name}})
    return job.run(slots=1{options})

try:
    job("one")
    Path("after-one").touch()
    assert Path("out/one/x").exists()
    job("two")
finally:
    Path("finally").touch()
print("end of the script")
"""


@pytest.mark.parametrize("options", ["", ", dry_run=False"])
def test_dry_script_runs_while_results_exist(here: Path, options: str) -> None:
    (here / "jobs.py").write_text(SCRIPT.format(options=options))
    dry = encamp("run", "--dry-run", "jobs.py")
    assert (dry.status, dry.err) == (0, "")
    assert dry.out.splitlines() == [
        "to do       task  (it has not been done before)",
        "one: 1 to do, 0 up to date; nothing was run",
        "the dry run of the script ends here: the rest needs the results of the job one",
    ]
    assert sorted(path.name for path in here.iterdir()) == ["finally", "jobs.py"]
    assert encamp("run", "jobs.py").status == 0
    (here / "out/two/x").unlink()
    (here / "after-one").unlink()
    dry = encamp("run", "--dry-run", "jobs.py")
    assert "one: 0 to do, 1 up to date" in dry.out
    assert dry.out.endswith("needs the results of the job two\n")
    assert (here / "after-one").exists()
    assert not (here / "out/two/x").exists()
    assert encamp("run", "jobs.py").status == 0
    assert encamp("run", "--dry-run", "jobs.py").out.endswith("end of the script\n")


IN_A_THREAD = """
import queue
import threading
from pathlib import Path
import encamp

job = encamp.Job("one", to="out")
job.add("task", "touch x", outputs="x")
thread = threading.Thread(target=job.run)
try:
    thread.start()
    queue.Queue().get(timeout={wait})
except queue.Empty:
    thread.join()
finally:
    Path("finally").touch()
print("end of the script")
"""


@pytest.mark.parametrize("wait", ["0.001", "60"])
def test_a_job_in_a_thread_is_run_dry_and_ends_the_script_too(here: Path, wait: str) -> None:
    (here / "jobs.py").write_text(IN_A_THREAD.format(wait=wait))
    dry = encamp("run", "--dry-run", "jobs.py")
    assert (dry.status, dry.err) == (0, "")
    assert dry.out.endswith("ends here: the rest needs the results of the job one\n")
    assert sorted(path.name for path in here.iterdir()) == ["finally", "jobs.py"]


LEFT_BEHIND = """
import threading
import encamp

job = encamp.Job("one", to="out")
job.add("task", "touch x", outputs="x")

def late():
    threading.main_thread().join()
    job.run()

threading.Thread(target=late).start()
"""


def test_a_job_in_a_thread_that_outlasts_the_script_is_run_dry_too(here: Path) -> None:
    (here / "jobs.py").write_text(LEFT_BEHIND)
    dry = encamp("run", "--dry-run", "jobs.py")
    assert dry.status == 0
    assert "one: 1 to do, 0 up to date; nothing was run" in dry.out
    assert sorted(path.name for path in here.iterdir()) == ["jobs.py"]


@pytest.mark.parametrize(
    ("step", "status", "message"), [("false", 1, "exit status 1"), ("touch x", 0, "1 done")]
)
def test_a_job_that_fails_in_a_thread_fails_the_script(
    here: Path, step: str, status: int, message: str
) -> None:
    (here / "jobs.py").write_text(IN_A_THREAD.format(wait="0.001").replace("touch x", step))
    ran = encamp("run", "jobs.py")
    assert ran.status == status
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == "end of the script\n"
    assert (here / "out/x").exists() == (status == 0)


@pytest.mark.parametrize(("code", "status"), [("", 1), ("0", 1), ("3", 3)])
def test_a_script_that_exits_by_itself_hides_no_failure_of_a_thread(
    here: Path, code: str, status: int
) -> None:
    text = IN_A_THREAD.format(wait="0.001").replace("touch x", "false")
    (here / "jobs.py").write_text(f"{text}\nraise SystemExit({code})\n")
    assert encamp("run", "jobs.py").status == status


def test_bad_input_in_a_thread_fails_the_script(here: Path) -> None:
    text = IN_A_THREAD.format(wait="0.001").replace("outputs=", 'mirror="none.txt", outputs=')
    (here / "jobs.py").write_text(text)
    ran = encamp("run", "jobs.py")
    assert ran.status == 2
    assert ran.err.splitlines()[-1].startswith("encamp: task task: there is no 'none.txt'")


_LATE = (
    LEFT_BEHIND
    + """
import atexit
atexit.register(print, "at the end")
print("end of the script")
"""
)


@pytest.mark.parametrize(
    ("change", "end", "status"),
    [
        (("touch x", "false"), "", 1),
        (("touch x", "false"), "raise SystemExit(0)", 1),
        (("touch x", "false"), "raise SystemExit(3)", 3),
        (("job.run()", "encamp.Job('none', to='out').run()"), "", 2),
        (("job.run()", "raise ValueError('none')"), "", 0),  # as with Python
        (("touch x", "touch x"), "", 0),
    ],
)
def test_a_job_that_fails_in_a_thread_that_outlasts_the_script_fails_it_too(
    here: Path, change: tuple[str, str], end: str, status: int
) -> None:
    (here / "jobs.py").write_text(f"{_LATE.replace(*change)}\n{end}\n")
    ran = encamp("run", "jobs.py")
    assert ran.status == status
    assert ran.out == "end of the script\nat the end\n"
    assert ("Traceback" in ran.err) == ("none" in change[1])
