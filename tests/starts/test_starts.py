"""Slots and commands start in the same state, however the program was started."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from started import FLAGS

from conftest import need
from encamp.slot.current_task import current_task
from encamp.testing.waiting import until

STARTED = Path(__file__).with_name("started.py")
BROKEN = Path(__file__).with_name("broken")
ENCAMP = str(Path(sys.executable).with_name("encamp"))
SOON = 30.0
WAYS = ("on_cluster", "on_executor", "in_job")
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1,
           signal.SIGPIPE)  # fmt: skip
JOB = """
to = "results"
[[task]]
foreach = { n = [1, 2, 3] }
name = "t{n}"
steps = [{ run = "cat < /dev/stdin > {n}.txt; echo said {n}", shell = true }]
outputs = "{n}.txt"
"""


def start(
    *words: str | Path, before: Callable[[], None] = lambda: None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=60, preexec_fn=before,
        env={**os.environ, **environment},
    )  # fmt: skip


def answer_of(
    way: str, here: Path, *flags: str, before: Callable[[], None] = lambda: None, **more: str
) -> Any:
    done = start(sys.executable, *flags, STARTED, way, before=before, **more)
    assert done.returncode == 0, done.stderr
    return json.loads((here / "said.json").read_text())


def careless() -> None:
    """What shells' background jobs, nohup and others do to what they start, all at once."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGALRM, signal.SIGUSR2))


# Signals


@pytest.mark.parametrize("way", WAYS)
def test_slots_and_commands_begin_with_default_signals(way: str, here: Path) -> None:
    facts = answer_of(way, here, before=careless)
    assert facts["status"] == 1
    pythons = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert facts["own"] == {"SigBlk": 0, "SigIgn": pythons}
    assert facts["commands"] == {"SigBlk": 0, "SigIgn": 0}


def test_unknown_exit_status_is_not_invented(here: Path) -> None:
    ended, after = answer_of("lost", here, before=careless)
    assert "ended with exit status 0" not in ended
    assert "was lost" in ended
    assert after == 2


def test_command_tracks_its_children_regardless_of_parent(here: Path) -> None:
    Path("job.toml").write_text(JOB + '[[task]]\nname = "bad"\nsteps = "false"\n')
    done = start(ENCAMP, "run", "job.toml", before=careless)
    assert done.returncode == 1
    assert "step 'false' ended with exit status 1" in done.stderr
    assert sorted(path.name for path in Path("results").glob("*.txt")) == [
        "1.txt",
        "2.txt",
        "3.txt",
    ]


def test_under_nohup_sigint_stays_ignored_and_sigterm_stops_in_good_order(here: Path) -> None:
    Path("job.toml").write_text('to = "out"\n[[task]]\nname = "t"\nsteps = "sleep 60"\n')
    begun = here / "out" / "job.job" / "journal.jsonl"
    with subprocess.Popen(
        [ENCAMP, "run", "job.toml"], stderr=subprocess.PIPE, text=True, preexec_fn=careless
    ) as process:
        until(lambda: begun.exists() and '"submitted"' in begun.read_text())
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped" in errors
    assert not list((here / "out" / "job.job").glob("running-*"))


# Standard streams

CLOSED = [(0,), (1,), (2,), (1, 2), (0, 1, 2)]


def closing(streams: Sequence[int]) -> Callable[[], None]:
    return lambda: [os.close(fd) for fd in streams] and None


@pytest.mark.parametrize("streams", CLOSED)
def test_the_command_runs_without_standard_streams(streams: tuple[int, ...], here: Path) -> None:
    Path("job.toml").write_text(JOB)
    line = f"exec {ENCAMP} run job.toml " + " ".join(f"{fd}>&-" for fd in streams)
    done = start("sh", "-c", line)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert [Path(f"results/{n}.txt").read_text() for n in (1, 2, 3)] == [""] * 3
    assert Path("results/job.job/logs/t1.1.log").read_text() == "said 1\n"


@pytest.mark.parametrize("way", WAYS)
def test_slots_have_all_streams_where_their_program_has_none(way: str, here: Path) -> None:
    done = start("sh", "-c", f"exec {sys.executable} {STARTED} {way} <&- >&- 2>&-")
    assert done.returncode == 0
    facts = json.loads((here / "said.json").read_text())
    assert facts["streams"] == [True] * 3
    assert facts["stdin"] == os.devnull
    assert facts["status"] == 1


# The interpreter

DEFAULTS = dict.fromkeys(FLAGS, 0) | {"dev_mode": False}


@pytest.mark.parametrize(
    ("flags", "differ", "warnings", "x"),
    [
        (("-O", "-W", "error::UserWarning"), {"optimize": 1}, ["error::UserWarning"], []),
        (("-OO", "-s", "-E"), {"optimize": 2, "no_user_site": 1, "ignore_environment": 1}, [], []),
        (
            ("-I", "-B"),
            {"isolated": 1, "no_user_site": 1, "ignore_environment": 1, "dont_write_bytecode": 1},
            [],
            [],
        ),
        (
            ("-X", "utf8", "-b"),
            {"utf8_mode": 1, "bytes_warning": 1},
            ["default::BytesWarning"],
            ["utf8"],
        ),
        (("-X", "dev", "-u"), {"dev_mode": True}, ["default"], ["dev"]),
    ],
)  # fmt: skip
def test_slots_have_the_flags_of_their_program(
    flags: tuple[str, ...], differ: dict[str, int], warnings: list[str], x: list[str], here: Path
) -> None:
    facts = answer_of("on_cluster", here, *flags, PYTHONUTF8="0")
    assert facts["flags"] == DEFAULTS | differ
    assert facts["warnings"] == warnings
    assert facts["x"] == x


STRICT = """
import encamp


def twice(number):
    return 2 * number


if __name__ == "__main__":
    with encamp.Cluster("local", slots=1) as cluster:
        print(cluster.spawn(twice, 3).result(30))
    job = encamp.Job("strict", to="out")
    slow = encamp.command("sleep 0.5; echo word > made", shell=True)  # long enough to be measured
    job.add("task", [encamp.call(twice, 4), slow], outputs={"made": "."})
    print(job.run(slots=1)["task"].value)
"""


def test_nothing_depends_on_the_locale_or_compares_bytes_with_texts(here: Path) -> None:
    (here / "strict.py").write_text(STRICT)
    flags = ["-bb", "-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    done = subprocess.run(
        [sys.executable, *flags, "strict.py"], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["6", "8"], done.stderr


def test_frozen_program_learns_what_to_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from encamp.cluster.cluster import Cluster
    from encamp.errors import NoPython
    from encamp.jobs.job import Job

    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(NoPython, match=r"is frozen.*freeze_support"):
        Cluster("local", slots=1)
    job = Job("frozen", to="results")
    job.add("one", "true")
    with pytest.raises(NoPython, match=r"is frozen.*freeze_support"):
        job.run(slots=1)


FROZEN = """
import os, sys
sys.frozen = True  # as in a program that was made by PyInstaller: sys.executable is the program
sys.executable = os.path.abspath("program")
import encamp
encamp.freeze_support()
with open("ran", "a") as file:
    file.write("once\\n")
with encamp.Executor(slots=2) as executor:
    print(list(executor.map(abs, [-1, -2])))
"""


def test_a_frozen_program_becomes_its_slots(here: Path) -> None:
    program = here / "program"
    program.write_text(f"#!{sys.executable}\n{FROZEN}")
    program.chmod(0o755)
    done = start(program)
    assert done.stdout == "[1, 2]\n", done.stderr
    assert (here / "ran").read_text() == "once\n"


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_program_that_embeds_python_uses_the_one_of_its_installation(
    nothing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encamp.cluster.cluster import Cluster
    from encamp.errors import NoPython

    monkeypatch.setattr(sys, "executable", nothing)
    monkeypatch.setattr("multiprocessing.spawn._python_exe", None)
    with Cluster("local", slots=1) as cluster:
        assert cluster.spawn(abs, -1).result() == 1
    monkeypatch.setattr(sys, "exec_prefix", "/nowhere")
    with pytest.raises(NoPython, match=r"sys\.executable.*is empty.*set_executable"):
        Cluster("local", slots=1)


# Slots that cannot start


def test_a_job_whose_slots_cannot_start_ends_with_their_words(here: Path) -> None:
    job = "".join(f'[[task]]\nname = "t{n}"\nsteps = "true"\n' for n in range(100))
    Path("job.toml").write_text(f'to = "out"\n{job}')
    done = start(ENCAMP, "run", "job.toml", PYTHONPATH=str(BROKEN), BROKEN=str(STARTED))
    assert done.returncode == 1
    assert "a slot cannot start on" in done.stderr
    assert "ImportError: half of it is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert "waiting" in done.stderr  # not each of a hundred tasks has tried it anew


def test_a_cluster_whose_slots_cannot_start_fails_with_their_words(here: Path) -> None:
    for text in answer_of("unstartable", here, PYTHONPATH=str(BROKEN), BROKEN=str(STARTED)):
        assert "ImportError: half of it is missing" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_whose_slots_die_again_and_again(
    number: signal.Signals, here: Path
) -> None:
    step = '{ run = "kill -9 $PPID", shell = true }'
    job = "".join(f'[[task]]\nname = "t{n}"\nsteps = [{step}]\n' for n in range(500))
    Path("job.toml").write_text(f'to = "out"\n{job}')
    journal = here / "out" / "job.job" / "journal.jsonl"
    with subprocess.Popen(
        [ENCAMP, "run", "-q", "job.toml"], stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: journal.exists() and journal.stat().st_size > 0)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 128 + number


def break_and_die(marker: str) -> None:
    Path(marker).touch()
    os._exit(1)


def test_failed_slot_restart_fails_all_tasks_with_reason(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encamp.cluster.cluster import Cluster

    marker = str(here / "broken")
    monkeypatch.setenv("PYTHONPATH", str(BROKEN))
    monkeypatch.setenv("BROKEN", marker)
    with Cluster("local", slots=1) as cluster:
        assert cluster.spawn(abs, -1).result() == 1
        first = cluster.spawn(break_and_die, marker)
        behind = [cluster.spawn(abs, -n) for n in range(3)]
        assert "ended with exit status 1" in str(first.exception())
        for task in behind:
            assert "ImportError: half of it is missing" in str(task.exception())


# Open files


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_files_is_reported_once_before_run(here: Path) -> None:
    Path("job.toml").write_text(JOB)
    done = start(ENCAMP, "run", "-n", "2", "job.toml", before=limited(30, 30))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "2 slots need" in line
    assert "this process may have only 30" in line
    assert "ulimit -n" in line


@pytest.mark.parametrize("way", WAYS)
def test_slots_keep_the_limit_that_their_program_had(way: str, here: Path) -> None:
    assert answer_of(way, here, before=limited(32, 512))["files"] == 32


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_slot_that_finds_no_descriptors_left_is_started_when_there_are_some(
    here: Path,
) -> None:
    from encamp.cluster.cluster import Cluster

    with Cluster("local", slots=1) as cluster:
        assert cluster.spawn(abs, -1).result() == 1
        with no_descriptor_free():
            lost = cluster.spawn(os._exit, 7)
            behind = cluster.spawn(abs, -2)
            assert "ended with exit status 7" in str(lost.exception())
        assert behind.result() == 2


def hear(count: int) -> list[Any]:
    task = current_task()
    task.send(0, "ready")
    return [got and got.message for got in (task.receive(SOON) for _ in range(count))]


def hear_with_no_descriptor_free(count: int) -> list[Any]:
    with no_descriptor_free():
        return hear(count)


def tell(to: int, count: int) -> None:
    for number in range(count):
        current_task().send(to, number)


def tell_by_link(to: int, count: int) -> None:
    """Send the first message, which may go through the agent, and the others by the link."""
    current_task().send(to, 0)
    assert current_task().receive(0.5) is None  # the link arrives
    for number in range(1, count):
        current_task().send(to, number)


def test_tasks_send_messages_where_their_program_has_no_descriptors_left(here: Path) -> None:
    from encamp.cluster.cluster import Cluster

    with Cluster("local", slots=2) as cluster:
        hears = cluster.spawn(hear, 3)
        assert cluster.receive(SOON, source=hears) is not None
        with no_descriptor_free():
            cluster.spawn(tell, hears.id, 3).result(SOON)
            assert hears.result(SOON) == [0, 1, 2]


def test_task_without_descriptors_gets_error_about_messages(here: Path) -> None:
    from encamp.cluster.cluster import Cluster

    with Cluster("local", slots=2) as cluster:
        hears = cluster.spawn(hear_with_no_descriptor_free, 3)
        assert cluster.receive(SOON, source=hears) is not None
        tells = cluster.spawn(tell_by_link, hears.id, 3)
        assert "opened so many files" in str(hears.exception(SOON))
        tells.result(SOON)
        again = cluster.spawn(hear, 3)
        assert cluster.receive(SOON, source=again) is not None
        cluster.spawn(tell, again.id, 3).result(SOON)
        assert again.result(SOON) == [0, 1, 2]


def test_a_start_that_fails_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from encamp.agent import child_process
    from encamp.cluster.cluster import Cluster
    from encamp.errors import EngineFailed

    begun: list[int] = []
    sentinel = child_process.Sentinel

    def third_fails(pid: int) -> Any:
        begun.append(pid)
        if len(begun) == 3:
            raise OSError(24, "Too many open files")
        return sentinel(pid)

    with Cluster("local", slots=1) as cluster:  # what is opened once is open then
        cluster.spawn(abs, -1).result()
    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(child_process, "Sentinel", third_fails)
    with pytest.raises(EngineFailed, match="Too many open files"):
        Cluster("local", slots=4)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert [pid for pid in begun if os.path.exists(f"/proc/{pid}")] == []  # noqa: PTH110


# Refused system calls


@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM"])
def test_slots_do_without_calls_that_containers_refuse(refusal: str, here: Path) -> None:
    import shutil

    need("strace", shutil.which("strace") is not None)
    calls = "pidfd_open,memfd_create,eventfd2,pidfd_send_signal"
    done = start(
        "strace", "-f", "--seccomp-bpf", "-qq", "-o", os.devnull, "-e", f"trace={calls}",
        "-e", f"inject={calls}:error={refusal}", sys.executable, STARTED, "lost",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended, after = json.loads((here / "said.json").read_text())
    assert "ended with exit status 7" in ended
    assert after == 2
