"""The command has help, rejects unknown options, and starts quickly."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from console_command import encamp

from encamp.version import __version__

HEAVY = ("rich", "msgspec", "psutil", "cloudpickle", "numpy", "wcmatch", "tree_sitter")


def test_help_teaches_the_way_from_a_job_to_its_results() -> None:
    ended = encamp("--help")
    assert ended.status == 0
    for words in ("encamp run JOB.toml", "encamp status results", "encamp clean", "--version"):
        assert words in ended.out
    assert encamp("-h").out == ended.out


def test_without_arguments_the_help_is_shown() -> None:
    ended = encamp()
    assert ended.status == 2
    assert "encamp run JOB.toml" in ended.err


def test_the_help_of_run_shows_examples_options_and_exit_statuses() -> None:
    text = " ".join(encamp("run", "--help").out.split())
    for words in (
        "encamp run opamp.toml run a job file",
        "encamp run survey.py strips/2026",
        "--dry-run",
        "--force",
        "--keep [never|failed|always]",
        "--quiet",
        "--slots",
        "Exit status: 0 all tasks are done 1 a task failed, the engine could not start on any host",
        "could not start on any host, or all hosts were lost 2 the input cannot be used",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("clean", "Folders of running programs are never touched"),
        ("status", "Nothing is run"),
    ],
)
def test_every_command_has_help(command: str, words: str) -> None:
    ended = encamp(command, "--help")
    assert ended.status == 0
    assert words in ended.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_command_lines(shell: str) -> None:
    ended = encamp("completion", shell)
    assert ended.status == 0
    assert "_ENCAMP_COMPLETE" in ended.out
    assert encamp("completion", "csh").status == 2


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("encamp sta", "plain,status"),
        ("encamp run -e ipy", "plain,ipyparallel"),
        ("encamp run --max", "plain,--max-failures"),
        ("encamp run jo", "file,jo"),
        ("encamp status re", "dir,re"),
    ],
)
def test_shells_are_offered_what_fits(line: str, offered: str) -> None:
    asked = (f"COMP_WORDS={line}", f"COMP_CWORD={line.count(' ')}")
    ended = encamp(by=["env", *asked, "_ENCAMP_COMPLETE=bash_complete"])
    assert ended.out.splitlines() == [offered], ended


def test_version_option_prints_version() -> None:
    assert encamp("--version").out == f"encamp, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing argument 'JOB.toml|SCRIPT.py'"),
        (["run", "--frobnicate", "job.toml"], "No such option '--frobnicate'"),
        (["run", "job.toml", "--frobnicate"], "No such option '--frobnicate'"),
        (["run", "-n", "0", "job.toml"], "0 is not in the range"),
        (["run", "-n", "many", "job.toml"], "'many' is not a valid integer"),
        (["run", "--keep", "some", "job.toml"], "'some' is not one of"),
        (["status"], "Missing argument 'JOB.toml|DESTINATION'"),
        (["clean", "everything"], "unexpected extra argument (everything)"),
    ],
)
def test_a_wrong_command_line_is_explained(words: list[str], message: str) -> None:
    ended = encamp(*words)
    assert ended.status == 2
    assert message.replace("'", "") in ended.err.replace("'", "").replace("option: ", "option ")
    assert re.search(r"Try 'encamp[ a-z]* (-h|--help)' for help", ended.err)
    assert "Traceback" not in ended.err


def loaded_by(line: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``line``."""
    report = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    code = f"{line}\n{report}"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(run.stdout.splitlines()[-1].split())


def test_importing_encamp_loads_no_third_party_module() -> None:
    loaded = loaded_by("import encamp") - loaded_by("pass")
    assert "encamp" in loaded
    assert loaded - {"encamp"} <= sys.stdlib_module_names


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version_load_no_heavy_module(words: list[str]) -> None:
    line = f"""
import sys
from encamp.cli.command_line import main
sys.argv = ["encamp", *{words!r}]
try:
    main()
except SystemExit as exc:
    assert exc.code == 0
"""
    loaded = loaded_by(line)
    assert "click" in loaded
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)
