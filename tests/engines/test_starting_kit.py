"""Shared code to start programs: logins in waves, numbers of cores, ends of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from encamp import cores_and_memory
from encamp.engines.kit import hostfile, ssh_logins
from encamp.engines.kit.cores import with_cores
from encamp.engines.kit.hostfile import HostLine, hosts_of_file, spread
from encamp.engines.kit.ssh_logins import AT_ONCE, LogIns, refused
from encamp.engines.kit.variables_not_inherited import not_inherited
from encamp.engines.kit.wait_for_process import Sentinel
from encamp.errors import BadHostfile
from encamp.wire.wait_for_descriptor import readable


class Clock:
    """A clock that only `wait` and `passes` move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.ended = False

    def monotonic(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds

    # In place of a threading.Event

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if not self.ended:
            self.now += seconds
        return self.ended

    def is_set(self) -> bool:
        return self.ended

    def set(self) -> None:
        self.ended = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ssh_logins, "time", SimpleNamespace(monotonic=clock.monotonic))
    threads = SimpleNamespace(Lock=threading.Lock, Event=lambda: clock)
    monkeypatch.setattr(ssh_logins, "threading", threads)
    return clock


def log_in(log_ins: LogIns, times: int = 1) -> None:
    for _ in range(times):
        log_ins.call(lambda: None, lambda _: False)


@pytest.mark.parametrize("idle", [0.0, 100.0])
def test_some_logins_start_together_and_the_others_one_after_the_other(
    idle: float, clock: Clock
) -> None:
    """Also after a pause, in which no more turns are saved than for one wave."""
    log_ins = LogIns(1000.0)
    if idle:
        log_in(log_ins, 50)
        clock.passes(idle)
        clock.waits.clear()
    log_in(log_ins, AT_ONCE)
    assert clock.waits == [pytest.approx(0.0)] * AT_ONCE
    began = clock.now
    log_in(log_ins, 10)
    assert clock.now - began == pytest.approx(10 * 0.05, abs=0.051)


def test_a_refused_login_is_tried_again_after_longer_and_longer_pauses(clock: Clock) -> None:
    log_ins, tries = LogIns(30.0), []

    def log_in() -> int:
        tries.append(clock.now)
        return len(tries)

    assert log_ins.call(log_in, lambda number: number < 4) == 4
    pauses = [later - sooner for sooner, later in pairwise(tries)]
    for pause, usual in zip(pauses, (0.3, 0.6, 1.2), strict=True):
        assert 0.5 * usual <= pause <= 1.5 * usual + 0.06


@pytest.mark.parametrize("ends", ["time", "end"])
def test_a_login_that_is_always_refused_is_given_up(ends: str, clock: Clock) -> None:
    log_ins, tries = LogIns(30.0), []

    def log_in() -> str:
        tries.append(clock.now)
        if ends == "end":
            log_ins.end()
        return "refused"

    began = clock.now
    assert log_ins.call(log_in, lambda _: True) == "refused"
    if ends == "end":
        assert len(tries) == 1
    else:
        assert 5 < len(tries) < 30
        assert tries[-1] - began == pytest.approx(30.0)
        assert max(clock.waits) <= 1.5 * 5.0


@pytest.mark.parametrize(
    ("code", "message", "was"),
    [
        (255, "kex_exchange_identification: read: Connection reset by peer", True),
        (255, "Connection closed by 10.0.0.1 port 22", True),
        (255, "Permission denied (publickey).", False),
        (1, "Connection closed by 10.0.0.1 port 22", False),
        (None, "Connection closed by 10.0.0.1 port 22", False),
    ],
)
def test_ssh_says_whether_a_login_was_refused(code: int | None, message: str, was: bool) -> None:
    assert refused(code, message) == was


@pytest.mark.parametrize(
    ("program", "slots"),
    [
        ("print('Welcome 99'); print(4)", 4),
        ("print(0)", 1),
        ("print('no number')", 1),
        ("", 1),
        ("raise SystemExit(3)", 1),
    ],
)
def test_a_host_says_its_cores_last_and_has_one_slot_at_least(program: str, slots: int) -> None:
    def command(_: HostLine, words: Sequence[str]) -> list[str]:
        return [sys.executable, "-S", "-c", program]

    assert with_cores([HostLine("far")], command, 60) == [HostLine("far", slots)]


def test_only_hosts_without_slot_count_are_queried() -> None:
    asked = []

    def command(host: HostLine, words: Sequence[str]) -> list[str]:
        asked.append(host.name)
        return ["/nonexistent"]

    hosts = [HostLine("a", 3), HostLine("localhost"), HostLine("b")]
    found = with_cores(hosts, command, 60)
    assert found == [
        HostLine("a", 3),
        HostLine("localhost", cores_and_memory.cores()),
        HostLine("b", 1),
    ]
    assert asked == ["b"]


@pytest.mark.parametrize(
    ("name", "is_foreign"),
    [
        ("PMI_RANK", True),
        ("PMIX_RANK", True),
        ("HYDI_CONTROL_FD", True),
        ("HYDRA_PROXY_ID", True),
        ("MPIR_CVAR_NEMESIS", True),
        ("OMPI_COMM_WORLD_RANK", True),
        ("PRTE_MCA_x", True),
        ("OPAL_PREFIX", True),
        ("MPI_LOCALRANKID", True),
        ("PVMSOCK", True),
        ("PVMEPID", True),
        ("PVMTMASK", True),
        ("PVMCTX", True),
        ("PVMTRCBUF", True),
        ("PVMSPAWNWD", True),
        ("PVM_ROOT", False),
        ("PVM_ARCH", False),
        ("OMP_NUM_THREADS", False),
    ],
)
def test_what_makes_a_process_a_rank_or_a_task_of_pvm_is_for_no_other(
    name: str, is_foreign: bool
) -> None:
    assert not_inherited(name) is is_foreign


def test_slots_are_spread_in_rounds() -> None:
    hosts = [HostLine("a", 2), HostLine("b"), HostLine("c", 3)]
    assert [(one.name, one.slots) for one in spread(hosts, 1)] == [("a", 1)]
    assert [(one.name, one.slots) for one in spread(hosts, 6)] == [("a", 2), ("b", 1), ("c", 3)]
    assert [(one.name, one.slots) for one in spread(hosts, 9)] == [("a", 4), ("b", 2), ("c", 3)]
    assert spread([], 3) == []


def test_a_hostfile_may_have_as_many_bytes_as_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostfile, "_MOST", 8)
    (tmp_path / "hosts").write_text("node1:4\n")
    assert hosts_of_file(tmp_path / "hosts") == (HostLine("node1", 4),)
    (tmp_path / "hosts").write_text("node1:4\n\n")
    with pytest.raises(BadHostfile, match="more than"):
        hosts_of_file(tmp_path / "hosts")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("pidfd", [True, False])
def test_the_end_of_a_process_makes_a_descriptor_readable(
    pidfd: bool, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    sentinel = Sentinel(sleeper.pid)
    assert not readable(sentinel, 0)
    sentinel.kill()
    assert readable(sentinel, 60)
    if not pidfd:  # the thread that waits keeps nothing open
        assert os.read(sentinel.fileno(), 1) == b"\0"
        assert readable(sentinel, 60)
        assert os.read(sentinel.fileno(), 1) == b""
    assert sleeper.wait() == -9, "the exit status is left to others"
    sentinel.close()
    sentinel.close()
    assert sentinel.fileno() == -1


@pytest.mark.parametrize("pidfd", [True, False])
def test_sentinel_of_ended_process_is_refused(pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError):
        Sentinel(ended.pid)
