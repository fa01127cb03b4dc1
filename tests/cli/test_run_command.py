"""``encamp run``: job files and scripts, options, exit statuses and output."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from fcntl import ioctl
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from console_command import ENCAMP, encamp, results, start, stopped

from encamp.jobs.display.terminal import kept_text
from encamp.testing.waiting import until

UPPER = """
to = "results"
[[task]]
foreach = "data/*.txt"
steps = [{run = "tr a-z A-Z < {name} > {stem}.up; echo working on {name}", shell = true}]
outputs = "{stem}.up"
"""

HALF_BAD = """
to = "results"
[[task]]
foreach = "data/*.txt"
steps = [{run = "echo one; echo two on {name}; touch {stem}; test {name} != b.txt", shell = true}]
outputs = "{stem}"
[[task]]
name = "late"
after = "b"
steps = "true"
"""


@pytest.fixture
def data(here: Path) -> Path:
    """A current folder with three input files."""
    (here / "data").mkdir()
    for name in "abc":
        (here / "data" / f"{name}.txt").write_text(f"{name} text\n")
    return here


def job_file(name: str, text: str) -> str:
    Path(f"{name}.toml").write_text(text)
    return f"{name}.toml"


def test_job_file_run_prints_plain_lines(data: Path) -> None:
    ended = encamp("run", job_file("upper", UPPER))
    assert ended.status == 0
    assert ended.out == ""
    assert results(data / "results") == {f"{n}.up": f"{n.upper()} TEXT\n".encode() for n in "abc"}
    lines = ended.err.splitlines()
    assert re.fullmatch(r"upper: 3 tasks in \d+ slots?", lines[0])
    assert {line.split()[2] for line in lines[1:4]} == {"a", "b", "c"}
    for number, line in enumerate(lines[1:4], start=1):
        assert re.fullmatch(rf"\[{number}/3\] done \S+ on \S+ \(slot-\d+\) in [\d.]+ m?s", line)
    assert re.fullmatch(r"upper: 3 done in [\d.]+ m?s, 21 B mirrored", lines[4])
    assert lines[5:] == [f"report: {data}/results/upper.job/report.html"]
    assert "\x1b" not in ended.err


def test_a_second_run_runs_nothing_until_an_input_changes(data: Path) -> None:
    file = job_file("upper", UPPER)
    encamp("run", file)
    again = encamp("run", file)
    assert again.status == 0
    assert "done" not in again.err
    assert "upper: 3 up to date in" in again.err
    (data / "data" / "b.txt").write_text("new\n")
    third = encamp("run", file)
    assert "upper: 1 done, 2 up to date in" in third.err
    assert results(data / "results")["b.up"] == b"NEW\n"


def test_force_runs_what_is_up_to_date(data: Path) -> None:
    file = job_file("upper", UPPER)
    encamp("run", file)
    assert "upper: 3 done in" in encamp("run", "--force", file).err
    assert "upper: 3 done in" in encamp("run", file, "-f").err


def test_a_dry_run_says_what_would_run_and_why_and_changes_nothing(data: Path) -> None:
    file = job_file("upper", UPPER)
    first = encamp("run", "--dry-run", file)
    assert first.status == 0
    assert not (data / "results").exists()
    assert first.out.splitlines() == [
        *(f"to do       {name}  (it has not been done before)" for name in "abc"),
        "upper: 3 to do, 0 up to date; nothing was run",
    ]
    encamp("run", file)
    (data / "data" / "c.txt").write_text("new\n")
    assert encamp("run", "--dry-run", file).out.splitlines() == [
        "up to date  a  (nothing changed)",
        "up to date  b  (nothing changed)",
        "to do       c  (an input changed: data/c.txt)",
        "upper: 1 to do, 2 up to date; nothing was run",
    ]
    assert results(data / "results")["c.up"] == b"C TEXT\n"


def test_quiet_says_nothing_of_what_went_well(data: Path) -> None:
    ended = encamp("run", "-q", job_file("upper", UPPER))
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_failed_tasks_are_listed_with_the_last_lines_of_their_logs(data: Path) -> None:
    ended = encamp("run", job_file("half", HALF_BAD))
    ended.check_failed("blocked late: it waits for b, which failed")
    assert "half: 2 done, 1 failed, 1 blocked in" in ended.err
    at = ended.err.splitlines().index("failed: b")
    assert ended.err.splitlines()[at + 1].endswith("ended with exit status 1")
    assert ended.err.splitlines()[at + 2 : at + 4] == ["  | one", "  | two on b.txt"]
    assert sorted(results(data / "results")) == ["a", "c"]


def test_quiet_still_lists_failures(data: Path) -> None:
    lines = encamp("run", "--quiet", job_file("half", HALF_BAD)).err.splitlines()
    assert lines[0] == "failed: b"
    assert lines[2:] == ["  | one", "  | two on b.txt"]


@pytest.mark.parametrize(("keep", "count"), [("never", 0), ("failed", 1), ("always", 3)])
def test_keep_chooses_whose_folders_stay(
    data: Path, local_storage_base: Path, keep: str, count: int
) -> None:
    ended = encamp("run", "--keep", keep, job_file("half", HALF_BAD))
    kept = list(local_storage_base.glob("encamp-*/kept/*"))
    assert len(kept) == count
    if keep == "failed":
        assert f"the folder was kept: {kept[0]}\n" in ended.err
        assert (kept[0] / "task" / "b.txt").read_text() == "b text\n"


def test_kept_folder_names_host_only_if_remote() -> None:
    assert kept_text(f"{os.uname().nodename}:/tmp/kept/a") == "/tmp/kept/a"
    assert kept_text("elsewhere:/tmp/kept/a") == "elsewhere:/tmp/kept/a"


def test_workers_says_how_many_tasks_run_at_once(data: Path) -> None:
    ended = encamp("run", "-n", "1", job_file("upper", UPPER))
    assert ended.err.startswith("upper: 3 tasks in 1 slot\n")
    report = json.loads((data / "results" / "upper.job" / "report.json").read_text())
    spans = sorted(
        (phase["start"], phase["start"] + phase["seconds"])
        for task in report["tasks"]
        for phase in task["attempts"][0]["phases"]
    )
    for (_, end), (begin, _) in pairwise(spans):
        assert end <= begin + 1e-3


def test_to_names_another_destination(data: Path) -> None:
    assert encamp("run", "--to", "elsewhere", job_file("upper", UPPER)).status == 0
    assert sorted(results(data / "elsewhere")) == ["a.up", "b.up", "c.up"]
    assert not (data / "results").exists()


SCRIPT = """
import sys
from pathlib import Path
import encamp
import beside

def upper(name):
    Path("out").write_text(beside.loud(Path(name).read_text()))

if __name__ == "__main__":
    job = encamp.Job("script", to=sys.argv[1])
    for file in Path("data").iterdir():
        job.add(file.stem, encamp.call(upper, file.name), mirror=str(file),
                outputs=encamp.Output("out", rename=f"{file.stem}.up"))
    report = job.run()
    print("arguments", *sys.argv[1:])
    print("tasks", len(report.tasks))
"""


@pytest.fixture
def script(data: Path) -> Path:
    """A script in another folder, with a module of its own beside it."""
    folder = data / "scripts"
    folder.mkdir()
    (folder / "beside.py").write_text("def loud(text):\n    return text.upper()\n")
    (folder / "survey.py").write_text(SCRIPT)
    return folder / "survey.py"


def test_a_script_is_run_with_its_arguments_and_the_modules_beside_it(
    data: Path, script: Path
) -> None:
    ended = encamp("run", script, "made", "--dry-run", "--force", "--", "-x")
    assert ended.status == 0, ended
    assert ended.out == "arguments made --dry-run --force -- -x\ntasks 3\n"
    assert "script: 3 done in" in ended.err
    assert sorted(results(data / "made")) == ["a.up", "b.up", "c.up"]


def test_options_before_a_script_are_for_its_jobs(data: Path, script: Path) -> None:
    encamp("run", script, "made")
    assert "script: 3 done in" in encamp("run", "-f", script, "made").err
    dry = encamp("run", "--dry-run", script, "made")
    assert "script: 0 to do, 3 up to date; nothing was run" in dry.out
    assert encamp("run", "-q", script, "made").err == ""


def python_script(text: str) -> str:
    Path("script.py").write_text(text)
    return "script.py"


def test_a_script_that_raises_shows_its_own_traceback_only(here: Path) -> None:
    ended = encamp("run", python_script("def f():\n    raise RuntimeError('mine')\nf()\n"))
    assert ended.status == 1
    shown = [line for line in ended.err.splitlines() if line.strip("~^ ")]  # marks of 3.13
    assert shown == [
        "Traceback (most recent call last):",
        '  File "script.py", line 3, in <module>',
        "    f()",
        '  File "script.py", line 2, in f',
        "    raise RuntimeError('mine')",
        "RuntimeError: mine",
    ]


def test_a_script_that_cannot_be_compiled_shows_where(here: Path) -> None:
    ended = encamp("run", python_script("fine = 1\ndef (:\n"))
    assert ended.status == 1
    assert ended.err.startswith('  File "script.py", line 2\n')
    assert ended.err.endswith("SyntaxError: invalid syntax\n")


def test_a_script_that_exits_gives_its_own_status(here: Path) -> None:
    assert encamp("run", python_script("raise SystemExit(7)")).status == 7
    ended = encamp("run", python_script("import sys; sys.exit('enough')"))
    assert (ended.status, ended.err) == (1, "enough\n")


FAILS = """
import encamp
def f():
    print("first words")
    raise ValueError("bad value")
job = encamp.Job("s", to="results")
job.add("bad", f)
job.add("good", "touch fine", outputs="fine")
job.run()
print("never said")
"""


def test_a_script_whose_job_fails_ends_with_1_and_the_failures_not_a_traceback_of_the_job(
    here: Path,
) -> None:
    ended = encamp("run", python_script(FAILS))
    assert (ended.status, ended.out) == (1, "")
    assert "failed: bad\n  step 'f' raised ValueError: bad value\n" in ended.err
    assert "  | ValueError: bad value\n" in ended.err
    assert "JobFailed" not in ended.err
    assert "run_job" not in ended.err
    assert list(results(here / "results")) == ["fine"]


def test_bad_input_in_a_script_is_one_sentence(here: Path) -> None:
    text = (
        "import encamp\njob = encamp.Job('s', to='results')\njob.add('t', 'true', mirror='*.x')\n"
    )
    ended = encamp("run", python_script(text + "job.run()\n"))
    ended.check_refused("no file matches '*.x'", str(here), "check the pattern")


LONG = """
to = "results"
[[task]]
name = "quick"
steps = "touch done"
outputs = "done"
[[task]]
name = "long"
after = "quick"
steps = [{run = "echo $$ > {jobdir}/pid; sleep 600", shell = true}]
"""


def running(folder: Path) -> bool:
    file = folder / "pid"
    return file.exists() and file.read_text().endswith("\n")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGINT, "stopped"),
        (signal.SIGTERM, "stopped by SIGTERM"),
        (signal.SIGHUP, "stopped by SIGHUP"),
        (signal.SIGRTMIN + 1, "stopped by SIGRTMIN+1"),
    ],
)
def test_signal_ends_tasks_and_next_run_continues(
    here: Path, local_storage_base: Path, number: int, message: str
) -> None:
    file = job_file("long", LONG)
    ended = stopped(number, lambda: running(here), "run", file)
    assert ended.status == 128 + number, ended
    assert "Traceback" not in ended.err
    assert list((here / "results/long.job").glob("running-*")) == []
    assert "long: 1 done, 1 waiting in" in ended.err
    assert ended.err.endswith(
        f"encamp: {message}; finished tasks stay done; run again to continue\n"
    )
    assert not psutil.pid_exists(int((here / "pid").read_text()))
    assert list(local_storage_base.glob("encamp-*/sandboxes/*")) == []
    again = encamp("run", job_file("long", LONG.replace("sleep 600", "true")))
    assert again.status == 0
    assert "long: 1 done, 1 up to date in" in again.err


def test_a_scripts_own_exit_status_is_no_signal(here: Path) -> None:
    (here / "own.py").write_text("import sys; sys.exit(143)")
    ended = encamp("run", "own.py")
    assert (ended.status, ended.err) == (143, "")


def test_leftovers_of_script_are_collected(here: Path) -> None:
    (here / "own.py").write_text(
        "from pathlib import Path\n"
        "class Writer:\n"
        "    def __del__(self, file=Path('file')):\n"
        "        file.write_text('all')\n"
        "writer = Writer()\n"
        "writer.itself = writer\n"
        "del writer\n"
    )
    assert encamp("run", "own.py").status == 0
    assert (here / "file").read_text() == "all"


def test_a_job_that_is_being_run_is_not_run_twice(here: Path) -> None:
    file = job_file("long", LONG)
    first = start("run", file)
    try:
        until(lambda: running(here))
        ended = encamp("run", file)
        ended.check_refused("is being run by process", str(first.pid), "wait for it to end")
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=60)
    assert first.returncode == 130


def on_a_terminal(*words: str, columns: int = 100) -> tuple[int, str]:
    """Exit status of the command, and all that it wrote to its terminal."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "CI"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [ENCAMP, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        text = _all_of(ours)
        return process.wait(timeout=30), text
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _all_of(terminal: int, seconds: float = 60.0) -> str:
    deadline = time.monotonic() + seconds
    text = b""
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            text += os.read(terminal, 65536)
        except OSError:  # nobody has the other end open any more
            return text.decode()
    raise AssertionError(f"the terminal was not given up within {seconds} s: {text!r}")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_on_a_terminal_a_bar_shows_what_is_done_and_failures_stand_above_it(data: Path) -> None:
    status, text = on_a_terminal("run", job_file("half", HALF_BAD))
    assert status == 1
    assert "\x1b[" in text
    shown = plain(text)
    assert "failed b on" in shown
    assert "2 done" in shown
    assert re.search(r" \d/4", shown)
    assert shown.index("failed b on") < shown.rindex("failed: b")
    assert "half: 2 done, 1 failed, 1 blocked in" in shown
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor is shown again"


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_the_bar_fits_terminals_of_any_width(data: Path, columns: int) -> None:
    status, text = on_a_terminal("run", job_file("upper", UPPER), columns=columns)
    assert status == 0
    bars = [line for line in re.split(r"[\r\n]+", plain(text)) if "━" in line or "╺" in line]
    assert all(len(line) <= columns for line in bars), bars


def test_a_quiet_run_on_a_terminal_shows_no_bar(data: Path) -> None:
    assert on_a_terminal("run", "-q", job_file("upper", UPPER)) == (0, "")


def test_only_some_tasks_are_run_and_the_others_are_counted(data: Path) -> None:
    file = job_file("upper", UPPER)
    ended = encamp("run", "--only", "[ab]", file, "-j", "1")
    assert ended.err.startswith("upper: 2 tasks in 1 slot\n")
    assert "upper: 2 done, 1 not selected in" in ended.err
    assert "upper: 2 done, 1 not selected; the last run ended" in encamp("status", "results").out
    encamp("run", file, "--only", "x").check_refused("no task of this job is called 'x'")


def test_failed_tasks_run_again_with_new_retries_and_limit(data: Path) -> None:
    file = job_file("half", HALF_BAD)
    encamp("run", file)
    ended = encamp("run", "--failed", "--retries", "1", "--time-limit", "300", file)
    ended.check_failed("half: 1 task in", "attempt 2 of b failed", "half: 1 failed, 3 not selected")
    other = job_file("slow", 'task = [{name = "a", steps = "sleep 60"}]')
    ended = encamp("run", "--time-limit", "100ms", other)
    ended.check_failed("longer than its limit of 0.1 s")
    encamp("run", "--time-limit", "soon", other).check_refused("--time-limit soon", "'5 min'")


def test_a_run_is_stopped_by_too_many_failures(data: Path) -> None:
    text = 'task = [{name = "{n}", foreach = {n = {from = 1, to = 50}}, steps = "false"}]'
    ended = encamp("run", "-n", "1", "--max-failures", "2", job_file("bad", text))
    ended.check_failed("warning: no more tasks were started after", "waiting")
    assert "waiting; the last run stopped" in encamp("status", "results").out
