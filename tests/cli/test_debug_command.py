"""``encamp debug``: a task's folder as at its start, with a shell or pdb in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from console_command import ENCAMP, Ended, encamp

JOB = """
to = "results"
mirror = "models/*"
[[task]]
name = "first"
steps = "cp shared.lib first.out"
outputs = "*.out"
[[task]]
name = "bad"
mirror = ["strip.txt", { outputs_of = "first" }]
steps = [{ run = "wc -l strip.txt nothing.txt", env = { LEVEL = "3" }, stdout = "n.txt" }]
"""
SCRIPT = """
import sys
from pathlib import Path
import encamp

def ground(name, classes):
    lines = Path(f"{name}.txt").read_text().split()
    if len(lines) < classes:
        raise ValueError(f"only {len(lines)} lines")
    return len(lines)

before = encamp.Job("before", to=sys.argv[1])
before.add("prepared", "true")
before.run(slots=1)
job = encamp.Job("survey", to=sys.argv[1])
job.add("strip", ["touch made", encamp.call(ground, "strip", 2)], mirror="strip.txt")
job.run(slots=1)
print("not reached by debug")
"""


def debug(typed: str, *words: str) -> Ended:
    """The command with something typed into what it opens."""
    ended = subprocess.run(
        [ENCAMP, "debug", *words],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SHELL": "/bin/sh"},
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def job(here: Path) -> Path:
    Path("models").mkdir()
    Path("models/shared.lib").write_text("model\n")
    Path("strip.txt").write_text("1\n")
    Path("j.toml").write_text(JOB)
    Path("survey.py").write_text(SCRIPT)
    return here


def test_a_shell_finds_the_inputs_and_the_variables_of_a_task(job: Path) -> None:
    debug("", "j.toml", "bad").check_refused("task bad", "waits for first, which is not done")
    assert encamp("run", "-q", "j.toml").status == 1
    before = sorted(Path("results").rglob("*"))
    ended = debug("ls; echo level $LEVEL; touch left.out; pwd; exit 7\n", "j.toml", "bad")
    *names, level, folder = ended.out.split("\n")[:-1]
    assert (names, level) == (["first.out", "shared.lib", "strip.txt"], "level 3")
    assert ended.status == 7
    assert "  step: wc -l strip.txt nothing.txt > n.txt\n    env: LEVEL=3\n" in ended.err
    assert not Path(folder).exists()
    assert sorted(Path("results").rglob("*")) == before
    kept = debug("touch left.out\n", "--keep", "j.toml", "bad")
    [line] = [line for line in kept.err.splitlines() if "is kept: " in line]
    assert list(Path(line.partition("is kept: ")[2].partition(";")[0]).rglob("left.out"))
    debug("", "j.toml", "badd").check_refused("did you mean 'bad'?")


def test_a_notebook_and_a_folder_with_results_lead_to_the_way_for_notebooks(here: Path) -> None:
    Path("work.ipynb").write_text("{}")
    Path("results/strips.job").mkdir(parents=True)
    Path("empty").mkdir()
    for given in ("work.ipynb", "results"):
        debug("", given, "strip5").check_refused('in a notebook, job.run(keep="failed") keeps')
    assert "in a notebook" not in debug("", "empty", "strip5").err


def test_pdb_is_in_a_function_and_where_its_error_came_up(job: Path) -> None:
    debug("", "survey.py", "strip", "out").check_refused("task strip", "not in the job before")
    assert encamp("run", "-q", "survey.py", "out").status == 1
    ended = debug("p classes\nc\np lines\nq\n", "survey.py", "strip", "out")
    assert ended.status == 1
    assert "lines = Path" in ended.out
    assert "(Pdb) 2\n" in ended.out
    assert "(Pdb) ['1']\n" in ended.out
    assert "ValueError: only 1 lines" in ended.err
    assert "encamp/" not in ended.err.partition("Traceback")[2]
    assert "not reached" not in ended.out
    assert debug("q\n", "survey.py", "strip", "out").status == 0
    shell = debug("ls\n", "--shell", "survey.py", "strip", "out")
    assert (shell.status, shell.out) == (0, "strip.txt\n")
