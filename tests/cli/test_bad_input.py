"""Bad input gives one sentence and the right exit status, and changes nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from console_command import Ended, as_ordinary_user, encamp, results, with_small_disk, works

from conftest import need
from encamp.storage.local_storage import LOCAL


@pytest.fixture
def here(here: Path) -> Path:
    """Inputs, and a result of an earlier time that must stay as it is."""
    for name in ("data/a.txt", "other/a.txt", "tree/inside.txt"):
        file = here / name
        file.parent.mkdir()
        file.write_text(f"{name}\n")
    (here / "tree" / "link").symlink_to("/tmp")
    (here / "results").mkdir()
    (here / "results" / "x").write_text("earlier")
    return here


EARLIER = {"x": b"earlier"}


def run_job(text: str, to: str = "results", by: list[str] | None = None) -> Ended:
    Path("job.toml").write_text(f'to = "{to}"\n{text}')
    return encamp("run", "job.toml", by=by or [])


def run_task(text: str, steps: str = '"touch x"', by: list[str] | None = None) -> Ended:
    return run_job(f'[[task]]\nname = "t"\nsteps = [{steps}]\n{text}\n', by=by)


def refused_without_harm(ended: Ended, *words: str) -> None:
    ended.check_refused(*words)
    assert results(Path("results")) == EARLIER
    assert not list(Path("results").glob("*.job")), "a job that cannot work leaves no trace"


REFUSED = {
    "missing input": (
        'mirror = "data/none.txt"',
        ["task t: there is no 'data/none.txt' in {here}", "check its name"],
    ),
    "missing absolute input": ('mirror = "/none/a.txt"', ["there is no '/none/a.txt'; check"]),
    "pattern that matches nothing": (
        'mirror = "data/*.las"',
        ["task t: no file matches 'data/*.las' in {here}", "check the pattern", "not required"],
    ),
    "foreach that matches nothing": (
        'foreach = "data/*.las"',
        ["job.toml:5:11: no file matches 'data/*.las' in {here}; check the pattern"],
    ),
    "target above the sandbox": (
        'mirror = {"data/a.txt" = "../up"}',
        [
            "job.toml:5:26",
            "'../up' leaves the task's folder through '..'",
            "inside the task's folder",
        ],
    ),
    "absolute target": (
        'mirror = {"data/a.txt" = "/tmp"}',
        ["job.toml:5:26", "'/tmp' is absolute", "inside the task's folder"],
    ),
    "output above the sandbox": (
        'outputs = "../x"',
        ["job.toml:5:11", "'../x' leaves the task's folder through '..'"],
    ),
    "absolute output": ('outputs = ["/etc/hosts"]', ["job.toml:5:12", "'/etc/hosts' is absolute"]),
    "two inputs with one place": (
        'mirror = ["data/a.txt", "other/a.txt"]',
        ["{here}/data/a.txt and {here}/other/a.txt would both become 'a.txt'", "rename one"],
    ),
    "two outputs with one destination": (
        'outputs = ["x", "made/x"]',
        ["x and made/x would both be published as {here}/results/x", "rename one"],
    ),
    "two tasks with one destination": (
        'outputs = "x"\n[[task]]\nname = "u"\nsteps = ["touch x"]\noutputs = "x"',
        ["task t and task u would both be published as {here}/results/x", "rename one"],
    ),
    "destination that is a file": (
        'outputs = {x = "HERE/data/a.txt"}',
        ["cannot publish to", "data/a.txt is not a folder", "choose a different folder"],
    ),
    "destination beside the destination": (
        'outputs = {x = "../beside"}',
        [
            "cannot publish to ../beside: it is outside the destination",
            "write the absolute path",
        ],
    ),
    "unknown key": ('outptus = "x"', ["job.toml:5:1: unknown key 'outptus'", "'outputs'?"]),
    "wrong type": ('retries = "often"', ["job.toml:5:11: 'retries' must be an integer"]),
    "bad placeholder": (
        'outputs = "{stme}"',
        ["job.toml:5:12: {{stme}}: no such placeholder", "{{index}}"],
    ),
    "no TOML": ("retries = = 1", ["job.toml:5:11: this is not TOML", "check the quotes"]),
    "unknown task in after": ('after = "u"', ["job.toml:5:9: no task of this job is called 'u'"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_job_file_that_cannot_work_is_refused(here: Path, what: str) -> None:
    text, words = REFUSED[what]
    text = text.replace("HERE", str(here))
    refused_without_harm(run_task(text), *(word.format(here=here) for word in words))


@pytest.mark.parametrize(
    "line",
    [
        ["map", "true {line}", "--lines", "/dev/zero", "--no-outputs"],
        ["map", "true {x}", "--csv", "/dev/zero", "--no-outputs"],
        ["run", "zero.toml"],
        ["run", "job.toml", "-e", "mpi", "--hostfile", "/dev/zero"],
    ],
)
def test_a_file_without_an_end_is_refused(here: Path, line: list[str]) -> None:
    Path("job.toml").write_text('[[task]]\nname = "t"\nsteps = ["true"]\n')
    Path("zero.toml").symlink_to("/dev/zero")
    encamp(*line).check_refused("zero", "give a smaller file")


def test_a_broken_symlink_is_refused(here: Path) -> None:
    (here / "data" / "b.txt").symlink_to("nowhere")
    ended = run_task('mirror = "data/*.txt"')
    refused_without_harm(ended, f"{here}/data/b.txt", "it does not exist (a broken symlink?)")


def test_special_files_are_refused(here: Path) -> None:
    os.mkfifo(here / "data" / "pipe")
    ended = run_task('mirror = "data/pipe"')
    refused_without_harm(ended, f"{here}/data/pipe", "a FIFO")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("data/sock")
        ended = run_task('mirror = {data = {exclude = "pipe"}}')
    refused_without_harm(ended, f"{here}/data/sock", "a socket", "exclude='sock'")


@pytest.fixture
def ordinary() -> list[str]:
    """What starts a command that permissions hold back."""
    line = as_ordinary_user()
    need("a way to give up root's rights (setpriv)", works(line) if line else True)
    return line


@pytest.mark.parametrize("what", ["data/a.txt", "data"])
def test_an_unreadable_input_is_refused(here: Path, ordinary: list[str], what: str) -> None:
    (here / what).chmod(0)
    ended = run_task(f'mirror = "{what}"', by=ordinary)
    (here / what).chmod(0o700)
    refused_without_harm(ended, f"cannot use the input {here}/{what}", "permission denied")


@pytest.mark.parametrize("name", ["job.toml", "script.py"])
def test_an_unreadable_job_is_refused(here: Path, ordinary: list[str], name: str) -> None:
    Path(name).touch(mode=0)
    encamp("run", name, by=ordinary).check_refused(name, "cannot be read", "check its permissions")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["none.toml"], ["none.toml: there is no such file", "check its name"]),
        (["none.py"], ["none.py: there is no such file", "check its name"]),
        (["data"], ["data: this is a folder"]),
        (["data/a.txt"], ["data/a.txt: a job is a .toml file or a .py script"]),
        (["job.toml", "extra"], ["extra: a job file takes no arguments"]),
        (["--to", "results", "script.py"], ["--to: it is only for job files"]),
    ],
)
def test_invalid_job_argument_is_refused(here: Path, line: list[str], words: list[str]) -> None:
    Path("script.py").touch()
    Path("job.toml").write_text('to = "results"\n[[task]]\nname = "t"\nsteps = "true"\n')
    refused_without_harm(encamp("run", *line), *words)


def test_a_destination_that_cannot_be_written_is_refused(here: Path, ordinary: list[str]) -> None:
    (here / "locked").mkdir(mode=0o500)
    whole = run_job('[[task]]\nname = "t"\nsteps = "true"\n', to="locked/in", by=ordinary)
    words = [f"{here}/locked cannot be written to", "choose a different folder"]
    refused_without_harm(whole, f"cannot publish to {here}/locked/in", *words)
    one = run_task(f'outputs = {{x = "{here}/locked"}}', by=ordinary)
    refused_without_harm(one, f"cannot publish to {here}/locked", *words)


def test_a_destination_in_the_local_storage_is_refused(
    here: Path, local_storage_base: Path
) -> None:
    encamp("run", "--to", "elsewhere", make_trivial_job())
    [storage] = local_storage_base.glob("encamp-*")
    for folder in (storage, storage / "sandboxes" / "mine"):
        ended = run_task(f'outputs = {{x = "{folder}"}}')
        refused_without_harm(ended, f"cannot publish to {folder}", "in the local storage")


def make_trivial_job() -> str:
    Path("trivial.toml").write_text('to = "to"\n[[task]]\nname = "t"\nsteps = "true"\n')
    return "trivial.toml"


def check_failed_without_harm(ended: Ended, *words: str) -> None:
    """The task failed for the reason given; the task beside it is done."""
    ended.check_failed(*words, "1 done, 1 failed")
    assert results(Path("results")) == EARLIER | {"good": b""}


GOOD = '[[task]]\nname = "good"\nsteps = "touch good"\noutputs = "good"\n'


def test_a_command_that_is_not_there_fails_its_task(here: Path) -> None:
    ended = run_task(f'outputs = "x"\n{GOOD}', '"no-such-program x"')
    words = "no command 'no-such-program' on", "install it there, give its full path"
    check_failed_without_harm(ended, *words)


def test_a_command_that_cannot_be_run_fails_its_task(here: Path) -> None:
    ended = run_task(f'mirror = "data/a.txt"\noutputs = "x"\n{GOOD}', '"./a.txt"')
    check_failed_without_harm(ended, "step './a.txt' could not start: permission denied")


def test_a_target_through_a_symlink_of_another_input_fails_its_task(here: Path) -> None:
    before = set(Path("/tmp").iterdir())
    mirror = 'mirror = {tree = ".", "data/a.txt" = "tree/link"}'
    ended = run_task(f'{mirror}\noutputs = "x"\n{GOOD}')
    check_failed_without_harm(ended, "'tree/link' goes through a symlink")
    assert not [path for path in set(Path("/tmp").iterdir()) - before if path.name == "a.txt"]


def test_two_outputs_that_turn_out_to_have_one_destination_fail_their_task(here: Path) -> None:
    steps = "{run = 'mkdir d e; touch d/x e/x', shell = true}"
    ended = run_task(f'outputs = {{"d/*" = ".", "e/*" = "."}}\n{GOOD}', steps)
    check_failed_without_harm(ended, f"d/x and e/x would both be published as {here}/results/x")


def test_an_output_that_was_not_made_fails_its_task_and_says_what_was(here: Path) -> None:
    ended = run_task(f'outputs = "x"\n{GOOD}', '"touch y z"')
    check_failed_without_harm(ended, "matches the output 'x'; the task made y, z")


SCRIPTS = {
    "lock": ("threading.Lock()", "_thread.lock"),
    "socket": ("socket.socket()", "socket"),
    "generator": ("(n for n in [1])", "generator"),
}


@pytest.mark.parametrize("what", SCRIPTS)
@pytest.mark.parametrize("way", ["global", "argument"])
def test_a_callable_that_cannot_travel_is_refused(here: Path, what: str, way: str) -> None:
    thing, named = SCRIPTS[what]
    step = "uses_global" if way == "global" else "encamp.call(takes, thing)"
    Path("script.py").write_text(
        "import encamp, socket, threading\n"
        f"thing = {thing}\n"
        "def uses_global(): print(thing)\n"
        "def takes(given): print(given)\n"
        "job = encamp.Job('job', to='results')\n"
        "job.add('good', 'touch good', outputs='good')\n"
        f"job.add('bad', {step})\n"
        "job.run()\n"
    )
    who = "uses_global" if way == "global" else "takes"
    words = f"task bad: {who} cannot be sent to another process"
    refused_without_harm(encamp("run", "script.py"), words, named, "inside the function")


def bad_storage(base: Path) -> dict[str, tuple[Path, str]]:
    """What is wrong with a local storage → its PARALLEL_LOCAL_STORAGE, and what is to be said."""
    user = next(path.name for path in base.glob("encamp-*"))
    (base / "file").touch()
    (base / "locked").mkdir(mode=0o500)
    for name in ("holds-file", "holds-link"):
        (base / name).mkdir()
    (base / "holds-file" / user).touch()
    (base / "holds-link" / user).symlink_to(base / "elsewhere")
    (base / "elsewhere").mkdir()
    return {
        "a file": (base / "file", "it is a file, not a folder"),
        "below a file": (base / "file" / "deep", "file, not a folder"),
        "unwritable": (base / "locked", "permission denied"),
        "below an unwritable folder": (base / "locked" / "deep", "permission denied"),
        "holding a file": (base / "holds-file", "it is a file, not a folder"),
        "holding a symlink": (base / "holds-link", "a symlink is not allowed"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "a file",
        "below a file",
        "unwritable",
        "below an unwritable folder",
        "holding a file",
        "holding a symlink",
    ],
)
def test_a_local_storage_that_cannot_be_used_is_refused(
    here: Path,
    local_storage_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    ordinary: list[str],
    what: str,
) -> None:
    assert encamp("run", make_trivial_job()).status == 0
    place, words = bad_storage(local_storage_base)[what]
    monkeypatch.setenv(LOCAL, str(place))
    ended = run_task('outputs = "x"', by=ordinary)
    refused_without_harm(
        ended, f"cannot use the local storage {place}", words, f"set {LOCAL} to a folder"
    )


@pytest.fixture
def small_disk(here: Path) -> Callable[[Path, str], list[str]]:
    need("a way to mount a small disk (unshare)", works(with_small_disk(here / "data", "64k")))
    return with_small_disk


@pytest.mark.parametrize("shared", [False, True])
def test_a_full_local_storage_fails_the_tasks_that_need_more(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Callable[[Path, str], list[str]],
    shared: bool,
) -> None:
    (here / "disk").mkdir()
    (here / "big").write_bytes(bytes(400_000))
    monkeypatch.setenv(LOCAL, str(here / "disk"))
    by = small_disk(here / "disk", "256k")
    if shared:
        ended = run_job('mirror = "big"\n[[task]]\nname = "t"\nsteps = "true"\n', by=by)
    else:
        ended = run_task(f'mirror = "big"\n{GOOD}', by=by)
    ended.check_failed("the disk of", f"{here}/disk", "390.6 KiB are needed", "are free")
    assert results(Path("results")) == (EARLIER if shared else EARLIER | {"good": b""})


def test_a_full_destination_fails_the_task_and_keeps_what_is_published(
    here: Path, small_disk: Callable[[Path, str], list[str]]
) -> None:
    script = here / "look"
    script.write_text('#!/bin/sh\n"$@"; status=$?; cp -a results/. seen; exit $status\n')
    script.chmod(0o700)
    (here / "seen").mkdir()
    steps = "{run = 'head -c 400000 /dev/zero > x; touch w', shell = true}"
    by = [*small_disk(here / "results", "256k"), str(script)]
    ended = run_task(f'outputs = ["w", "x"]\n{GOOD}', steps, by=by)
    ended.check_failed(f"the disk of {here}/results/x", "390.6 KiB are needed")
    assert results(here / "seen") == {"good": b""}
    hidden = [path.name for path in (here / "seen").rglob(".encamp-*")]
    assert hidden == []


def test_full_destination_gives_one_sentence(
    here: Path, small_disk: Callable[[Path, str], list[str]]
) -> None:
    ended = run_task('outputs = "x"', by=small_disk(here / "results", "4k"))
    ended.check_failed(f"the disk of {here}/results/job.job", "0 B are free")
    assert results(here / "results") == EARLIER


def test_a_job_folder_that_cannot_be_written_is_refused(here: Path, ordinary: list[str]) -> None:
    run_task("")
    folder = here / "results" / "job.job"
    before = (folder / "journal.jsonl").read_bytes()
    folder.chmod(0o500)
    ended = run_task('outputs = "x"', by=ordinary)
    folder.chmod(0o700)
    ended.check_refused(f"cannot publish to {folder}", "permission denied")
    assert (folder / "journal.jsonl").read_bytes() == before
    assert results(here / "results") == EARLIER


ODD_NAMES = [
    b"with space",
    b"new\nline",
    b"non\xff\xfeutf-8",
    b"-n",
    b"--help",
    b"-rf *",
    "ünï 漢字".encode(),
    b"quo'te\"d",
    b"$(touch pwned)",
    b"brack[et]?*",
    b"{stem}",
    b" lead and trail ",
    b"tab\t\x1b[31mred",
    b"back\\slash",
]


def test_files_with_odd_names_go_through_command_lines_whole(here: Path) -> None:
    for name in ODD_NAMES:
        (here / "data" / os.fsdecode(name)).write_bytes(name)
    (here / "data" / "a.txt").unlink()
    ended = run_job(
        '[[task]]\nforeach = "data/*"\nname = "task {name}"\n'
        'steps = ["cp -- {name} copy", '
        '{run = "wc -c < {input} >> copy; echo {name}", shell = true}]\n'
        'outputs = {copy = {rename = "{input}"}}\n',
        to="made",
    )
    assert ended.status == 0, ended
    assert "ünï 漢字" in ended.err
    assert "\x1b" not in ended.err
    assert len(ended.err.splitlines()) == len(ODD_NAMES) + 3, "a name is one line"
    made = {os.fsencode(name): text for name, text in results(here / "made").items()}
    assert made == {name: name + f"{len(name)}\n".encode() for name in ODD_NAMES}
    assert list(here.rglob("pwned")) == []
    again = encamp("run", "job.toml")
    assert f"{len(ODD_NAMES)} up to date" in again.err
    assert encamp("status", "made").status == 0
    assert f"0 to do, {len(ODD_NAMES)} up to date" in encamp("run", "--dry-run", "job.toml").out


def test_messages_about_odd_names_stay_on_one_line(here: Path) -> None:
    name = os.fsdecode(b"data/new\nline \xff\x1b[31m")
    (here / name).symlink_to("nowhere")
    message = run_task('mirror = "data/new*"').check_refused("does not exist")
    assert r"data/new\nline \xff\x1b[31m" in message


def test_a_job_file_with_an_odd_name_is_run(here: Path) -> None:
    for name in (b"new\nline.toml", b"non\xff.toml", b"with space.toml"):
        file = here / os.fsdecode(name)
        file.write_text('to = "made"\n[[task]]\nname = "t"\nsteps = "true"\n')
        ended = encamp("run", file)
        assert ended.status == 0, ended
        assert (here / "made" / f"{file.stem}.job" / "report.html").exists()
    dashed = here / "-x.toml"
    dashed.write_text('to = "made"\n[[task]]\nname = "t"\nsteps = "true"\n')
    assert encamp("run", "--", "-x.toml").status == 0


def test_output_works_on_ascii_terminals(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (here / "data" / "漢字").touch()
    text = '[[task]]\nforeach = "data/*"\nname = "{name}"\nsteps = "true"\n'
    assert run_job(text).status == 0
    assert r"\u6f22\u5b57" in encamp("run", "--dry-run", "job.toml").out


def test_python_warnings_do_not_appear_in_ordinary_use(here: Path) -> None:
    ended = encamp("run", make_trivial_job(), by=["env", "PYTHONWARNINGS=error"])
    assert ended.status == 0, ended
    assert "Warning" not in ended.err
