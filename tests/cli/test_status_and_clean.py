"""``encamp status`` and ``encamp clean``: their output, and which files are removed or kept."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from console_command import ENCAMP, encamp, start, stopped

from encamp.cli.read_job_status import StatusAndText
from encamp.cli.status import _print_changes as print_changes
from encamp.job_status import JobStatus
from encamp.testing.waiting import until

JOB = """
to = "results"
mirror = "shared"
[[task]]
name = "good"
steps = "touch fine"
outputs = "fine"
[[task]]
name = "bad"
steps = [{run = "echo oh no; exit 3", shell = true}]
[[task]]
name = "late"
after = "bad"
steps = "true"
"""

LONG = """
to = "results"
[[task]]
name = "quick"
steps = "true"
[[task]]
name = "long"
after = "quick"
steps = [{run = "echo $$ > {jobdir}/pid; sleep 600", shell = true}]
"""


@pytest.fixture
def half_done(here: Path) -> Path:
    """A job of which one task is done, one failed and one blocked; failed folders are kept."""
    (here / "shared").write_bytes(bytes(5000))
    (here / "half.toml").write_text(JOB)
    assert encamp("run", "--keep", "failed", "half.toml").status == 1
    return here


def test_status_tells_of_ten_failures_at_most(here: Path) -> None:
    task = '[[task]]\nname = "t{i:02d}"\nforeach = { i = { from = 1, to = 12 } }\nsteps = "false"\n'
    (here / "bad.toml").write_text(f'to = "results"\n{task}')
    assert encamp("run", "bad.toml").status == 1
    ended = encamp("status", "results")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert [line[:14] for line in lines[1:11]] == [f"  failed: t{i:02d}:" for i in range(1, 11)]
    assert lines[11] == "  … and 2 more failed"
    assert lines[12] == "  report: results/bad.job/report.html"


def test_status_tells_how_every_job_of_a_destination_stands(half_done: Path) -> None:
    (half_done / "other.toml").write_text('to = "results"\n[[task]]\nname = "t"\nsteps = "true"\n')
    encamp("run", "other.toml")
    ended = encamp("status", "results")
    assert (ended.status, ended.err) == (0, "")
    first, failed, report, second, _ = ended.out.splitlines()
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(f"half: 1 done, 1 failed, 1 blocked; the last run ended {when}", first)
    assert failed.startswith("  failed: bad: step 'echo oh no; exit 3' ended with")
    log = re.search(r"\(log: (.*)\)$", failed)
    assert log is not None
    assert Path(log[1]).read_text() == "oh no\n"
    assert report == "  report: results/half.job/report.html"
    assert Path(report.split()[-1]).exists()
    assert second.startswith("other: 1 done; the last run ended ")


def test_status_of_one_jobs_own_folder(half_done: Path) -> None:
    whole, one = encamp("status", "results"), encamp("status", "results/half.job")
    assert one.out == whole.out


def test_a_job_file_stands_for_its_jobs_folder(half_done: Path) -> None:
    whole, one = encamp("status", "results"), encamp("status", "half.toml")
    paths = (part.replace(f"{half_done}/", "") for part in (one.out, whole.out))
    assert len({*paths}) == 1
    assert "nothing to remove" in encamp("prune", "half.toml").out
    Path("new.toml").write_text('to = "elsewhere"\n[[task]]\nname = "t"\nsteps = "true"\n')
    encamp("status", "new.toml").check_refused("its job new has not run with the destination ")
    encamp("status", "none.toml").check_refused("there is no such file")


def test_status_runs_and_changes_nothing(half_done: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = [path for path in half_done.rglob("*") if path.is_file()]
        return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}

    before = state()
    encamp("status", "results")
    assert state() == before


def test_status_of_a_job_that_is_stopped_or_running_or_killed(here: Path) -> None:
    (here / "long.toml").write_text(LONG)

    def running() -> bool:
        file = here / "pid"
        return file.exists() and file.read_text().endswith("\n")

    stopped(signal.SIGINT, running, "run", "long.toml")
    output = encamp("status", "results").out
    assert output.startswith("long: 1 done, 1 waiting; the last run stopped ")
    (here / "pid").unlink()
    process = start("run", "long.toml")
    try:
        until(running)
        output = encamp("status", "results").out
        assert re.match(f"long: being run by {who(process.pid)}(; 1 task done so far)?\n", output)
    finally:
        process.kill()
        process.communicate()
    output = encamp("status", "results").out
    end = f"the last run, by {who(process.pid)}, was killed; run again to continue\n"
    assert output == f"long: 1 task done; {end}"


def who(pid: int) -> str:
    return f"process {pid} on {os.uname().nodename}"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "nowhere: there is no such folder"),
        ("empty", "empty: no job of this destination has run"),
        ("file", "file: there is no such folder"),
    ],
)
def test_status_of_what_is_no_destination_is_refused(here: Path, place: str, words: str) -> None:
    (here / "empty").mkdir()
    (here / "file").touch()
    encamp("status", place).check_refused(words, "name a job's destination")


def test_status_of_a_broken_report_is_refused(half_done: Path) -> None:
    report = half_done / "results" / "half.job" / "report.json"
    report.write_text(report.read_text()[:50])
    ended = encamp("status", "results")
    ended.check_refused("report.json", "is not a report of a run", "run the job again")
    report.write_text("")
    for command in (["status"], ["status", "--json"]):
        ended = encamp(*command, "results")
        ended.check_refused(
            "report.json", "is not a report of a run: it is empty; run the job again"
        )


def test_a_broken_report_hides_no_other_job(half_done: Path) -> None:
    broken = half_done / "results" / "a.job"
    shutil.copytree(half_done / "results" / "half.job", broken)
    (broken / "report.json").write_text("")
    ended = encamp("status", "results")
    assert ended.status == 0
    assert ended.out.startswith("results/a.job/report.json: is not a report of a run: it is empty")
    assert "\nhalf: " in ended.out
    ended = encamp("status", "--json", "results")
    assert [one["name"] for one in json.loads(ended.out)] == ["half"]
    assert ended.err.startswith("results/a.job/report.json: is not a report of a run")


@pytest.fixture
def storage(local_storage_base: Path) -> Path:
    """This user's folder in the local storage, with what a killed process left in it."""
    code = (
        "import os, signal\nfrom encamp.storage.owned_folder import OwnedFolder\n"
        "(OwnedFolder('dead').task / 'file').touch()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert run.returncode == -signal.SIGKILL
    [folder] = local_storage_base.glob("encamp-*")
    assert len(sandboxes(folder)) == 1
    return folder


def sandboxes(storage: Path) -> list[Path]:
    return [path for path in (storage / "sandboxes").iterdir() if path.is_dir()]


@pytest.fixture
def living(storage: Path) -> Iterator[Path]:
    """The sandbox of a process that lives."""
    code = (
        "import sys\nfrom encamp.storage.owned_folder import OwnedFolder\n"
        "owned = OwnedFolder('living')\nprint(owned.path, flush=True)\n"
        "sys.stdin.read()\nowned.remove()\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    yield Path(process.stdout.readline().strip())
    process.communicate(timeout=60)


def test_clean_removes_what_the_dead_left_and_nothing_of_the_living(
    storage: Path, living: Path
) -> None:
    [dead] = [path for path in sandboxes(storage) if path != living]
    ended = encamp("clean")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"removed {dead}\n"
    assert sandboxes(storage) == [living]
    assert living.joinpath("task").is_dir()
    assert encamp("clean").out == f"nothing to remove in {storage}\n"


def test_a_dry_run_of_clean_only_tells(storage: Path) -> None:
    [dead] = sandboxes(storage)
    for _ in range(2):
        assert encamp("clean", "--dry-run").out == f"would remove {dead}\n"
    assert (dead / "task" / "file").exists()
    encamp("clean")


@pytest.mark.parametrize("options", [["--dry-run"], ["--all"], ["--all", "--dry-run"], []])
def test_other_hosts_get_the_options_of_clean_once_each(
    here: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    ssh = here / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        'host=$(echo "$@" | grep -o "node[0-9]")\n'
        f'echo "$@" >> {here}/$host\n'
        "echo nothing to remove\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("ENCAMP_SSH", str(ssh))
    ended = encamp("clean", *options, "--hosts", "node1,node2:4,node1")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines() == [f"node{n}: nothing to remove" for n in (1, 2)]
    for name in ("node1", "node2"):
        [line] = (here / name).read_text().splitlines()
        assert line.endswith(" ".join([" -m encamp clean", *options]))


def test_clean_leaves_kept_folders_and_the_cache_but_tells_of_them(
    half_done: Path, local_storage_base: Path
) -> None:
    [storage] = local_storage_base.glob("encamp-*")
    [kept] = (storage / "kept").iterdir()
    assert encamp("clean").out.splitlines() == [
        f"nothing to remove in {storage}",
        f"1 folder was kept in {storage}/kept; --all removes kept folders, and empties the cache",
    ]
    assert kept.is_dir()
    dry = encamp("clean", "--all", "--dry-run").out.splitlines()
    assert dry == [f"would remove {kept}", "would remove 5000 bytes of cached inputs"]
    assert kept.is_dir()
    done = encamp("clean", "--all").out.splitlines()
    assert done == [f"removed {kept}", "removed 5000 bytes of cached inputs"]
    assert not kept.parent.exists()
    assert list(storage.glob("cache/files/*/*")) == []
    assert encamp("clean", "--all").out == f"nothing to remove in {storage}\n"


def test_a_job_runs_again_after_everything_was_cleaned(half_done: Path) -> None:
    encamp("clean", "--all")
    again = encamp("run", "--force", "half.toml")
    assert "1 done, 1 failed, 1 blocked" in again.err


def test_clean_follows_no_symlink_out_of_the_local_storage(storage: Path, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("mine")
    [dead] = sandboxes(storage)
    (dead / "task" / "link").symlink_to(outside)
    (storage / "sandboxes" / "planted").symlink_to(outside)
    encamp("clean", "--all")
    assert (outside / "file").read_text() == "mine"
    assert sandboxes(storage) == []


def test_clean_where_nothing_ever_ran_makes_nothing(local_storage_base: Path) -> None:
    ended = encamp("clean")
    assert ended.status == 0
    assert ended.out.startswith("nothing to remove in ")
    assert list(local_storage_base.iterdir()) == []


def test_a_report_of_a_killed_run_is_not_needed_for_status(here: Path) -> None:
    folder = here / "results" / "job.job"
    folder.mkdir(parents=True)
    record = {"event": "submitted", "task": "t", "time": 0.0, "attempt": 1}
    journal = folder / "journal.jsonl"
    journal.write_text(json.dumps(record) + "\n")
    assert encamp("status", "results").out == "job: 0 tasks done; no run of it has ended yet\n"
    report = {"name": "t", "state": "failed", "why": "it was late"}
    failed = {"event": "failed", "task": "t", "time": 0.0, "report": report}
    journal.write_text(json.dumps(record) + "\n" + json.dumps(failed) + "\n")
    assert encamp("status", "results").out.splitlines() == [
        "job: 0 tasks done, 1 failed; no run of it has ended yet",
        "  failed: t: it was late",
    ]


@pytest.mark.parametrize(
    "words", [["status", "."], ["cache", "list"], ["run", "--dry-run", "j.toml"]]
)
def test_closed_or_full_stdout_gives_no_traceback(here: Path, words: list[str]) -> None:
    Path("j.toml").write_text('to = "."\n[[task]]\nname = "a"\nsteps = "true"\n')
    if words[0] == "status":
        encamp("run", "j.toml")
    reader, writer = os.pipe()
    os.close(reader)
    command = [ENCAMP, *words]
    gone = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (1, b"")
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert result.returncode == 1
    assert result.stderr == b"encamp: standard output: no space left on device\n"


def test_status_follows_a_job_until_it_has_ended(here: Path) -> None:
    (here / "short.toml").write_text(
        'to = "results"\n[[task]]\nname = "short"\n'
        'steps = [{run = "touch {jobdir}/begun; until test -e {jobdir}/go; do sleep 0.05; done",'
        " shell = true}]\n"
    )
    process = start("run", "short.toml")
    until((here / "begun").exists)
    until((here / "results" / "short.job" / "status.json").exists)
    follower = start("status", "--follow", "results")
    programs = start("status", "--follow", "--json", "results")
    assert follower.stdout is not None
    assert programs.stdout is not None
    first, counts, running = (follower.stdout.readline() for _ in range(3))
    begun = json.loads(programs.stdout.readline())
    (here / "go").touch()
    process.communicate(timeout=60)
    rest, _ = follower.communicate(timeout=60)
    ended, _ = programs.communicate(timeout=60)
    assert first == f"short: being run by {who(process.pid)}\n"
    assert counts.startswith("  1 running; elapsed ")
    assert running.startswith("  running: short for ")
    assert "short: 1 done; the last run ended " in rest
    assert (begun["state"], begun["controller"]) == ("running", who(process.pid))
    last = json.loads(ended.splitlines()[-1])
    assert (last["state"], last["counts"]) == ("ended", {"done": 1})
    [now] = json.loads(encamp("status", "--json", "results").out)
    assert now == last


@pytest.mark.parametrize("as_json", [False, True])
def test_followed_job_is_printed_only_on_change(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    received: dict[str, object] = {}
    for done, now in ((1, 1.0), (1, 2.0), (2, 3.0), (2, 4.0)):
        status = JobStatus("job", "out/job.job", "running", "here", now, counts={"done": done})
        print_changes([StatusAndText(status, [f"{done} done"])], received, as_json=as_json)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["counts"]["done"] for line in lines if as_json] == [1, 2] * as_json
    assert as_json or lines == ["1 done", "2 done"]
