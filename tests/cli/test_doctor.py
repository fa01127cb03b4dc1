"""``encamp doctor`` finds problems of hosts, and suggests remedies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from console_command import Ended, encamp, with_small_disk, works

from conftest import need
from encamp.cli.doctor import checks_on_each_host
from encamp.cli.doctor.check_result import Level
from encamp.cli.doctor.checks_between_hosts import clock
from encamp.cli.doctor.checks_on_each_host import (
    HostReport,
    ProgramFacts,
    check,
    libraries_here,
    python_here,
)
from encamp.cli.doctor.login_checks import login_result
from encamp.cli.ssh_commands import HostOutput
from encamp.control_groups import processes_left
from encamp.storage.local_storage import LOCAL, local_storage


def line(out: str, what: str) -> tuple[str, str]:
    """The level of what was looked at, and all that is said of it."""
    lines = out.splitlines()
    [at] = [n for n, text in enumerate(lines) if text[9:].startswith(f"{what} ")]
    more = lines[at + 1] if lines[at + 1].lstrip().startswith("->") else ""
    return lines[at].split()[0], lines[at] + more


def facts(**given: object) -> ProgramFacts:
    usual: dict[str, object] = {"python": python_here(), "libraries": libraries_here()}
    return ProgramFacts(**{**usual, "folder": "/", "shown": "/", **given})  # type: ignore[arg-type]


def level_of(found: HostReport, what: str) -> Level:
    [level] = [line.level for line in found.lines if line.what == what]
    return level


def test_this_host_is_well_and_nothing_is_left(here: Path) -> None:
    ended = encamp("doctor", "-n", "1", "not/there")
    assert ended.status == 0, ended
    for what in ("Python", "libraries", "slots", "local storage", "shared folders", "locks",
                 "open files", "processes", "/dev/shm", "clock"):  # fmt: skip
        assert line(ended.out, what)[0] in ("ok", "note"), ended.out
    assert line(ended.out, "locks")[0] == "ok"
    assert "1 host: all will work" in ended.out
    assert list(here.iterdir()) == []


def test_a_local_storage_that_cannot_be_written_to_fails_with_a_remedy(here: Path) -> None:
    by = with_small_disk(here, "64k")
    need("a name space with mounts of its own", works(by))
    shell = f'mkdir store && mount -o remount,ro "{here}" && {LOCAL}="{here}/store" exec "$@"'
    ended = encamp("doctor", "-n", "1", by=[*by, "sh", "-c", shell, "sh"])
    assert ended.status == 1, ended
    level, output = line(ended.out, "local storage")
    assert level == "fails"
    assert "read-only file system" in output
    assert f"-> set {LOCAL}" in output
    assert line(ended.out, "destination")[0] == "fails"


def test_a_small_shared_memory_and_few_files_are_noted(here: Path) -> None:
    by = with_small_disk(Path("/dev/shm"), "4k")
    need("a name space with mounts of its own", works(by))
    limited = [*by, "sh", "-c", 'ulimit -n 500 && exec "$@"', "sh"]
    ended = encamp("doctor", "-n", "2", by=limited)
    assert ended.status == 0, ended
    level, output = line(ended.out, "/dev/shm")
    assert (level, "2 ranks of MPI may need 64.0 MiB" in output) == ("note", True)
    assert "--shm-size" in output
    assert line(ended.out, "open files")[0] == "note"


def _with_ssh_that_says(words: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """What doctor finds out of two hosts where every login fails like this."""
    ssh = here / "ssh"
    ssh.write_text(f"#!/bin/sh\necho '{words}' >&2; exit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("ENCAMP_SSH", str(ssh))
    pytest.importorskip("mpi4py")
    ended = encamp("doctor", "-e", "mpi", "--hosts", "one.invalid,two.invalid", timeout=110)
    assert ended.status == 1, ended
    return ended


def test_hosts_that_cannot_be_reached_are_lines_of_their_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the engine names only the first of them."""
    ended = _with_ssh_that_says("nobody@host: Permission denied (publickey).", here, monkeypatch)
    for host in ("one.invalid", "two.invalid"):
        section = ended.out.split(f"{host}\n", 1)[1]
        assert section.startswith("  fails")
        assert f"ssh-copy-id {host}" in section
    assert "local storage" in ended.out  # of this host


def test_an_engine_is_not_asked_for_hosts_that_do_not_answer(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PVM would wait for minutes."""
    ended = _with_ssh_that_says("ssh: Connection timed out", here, monkeypatch)
    for host in ("one.invalid", "two.invalid"):
        first, second, third = ended.out.split(f"{host}\n", 1)[1].splitlines()[:3]
        assert first.split()[:2] == ["fails", "ssh"]
        assert "switched on" in second
        assert not third.startswith(" ")
    assert "local storage" in ended.out  # of this host


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-e", "nope"], "there is no such engine"),
        (["-o", "mpi"], "write it as NAME=VALUE"),
        (["-o", "colour=red"], "it has no option 'colour'"),
        (["--hosts", ","], "it names no host"),
        (["--hosts", "one,two"], "it has no option 'hosts'; name an engine that has other hosts"),
        (["-e", "mpi", "-o", "address=x"], "it has no option 'address'; its options are"),
    ],
)
def test_what_cannot_be_used_is_refused(here: Path, words: list[str], said: str) -> None:
    encamp("doctor", *words).check_refused(said)


def test_differing_versions_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check(facts(python="CPython 3.99.1", libraries={"encamp": "99"}))
    assert level_of(found, "Python") == level_of(found, "libraries") == "fails"
    found = check(facts(libraries={**libraries_here(), "numpy": "0.1"}))
    assert level_of(found, "libraries") == "note"


def test_cleaner_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmpreaper").write_text("#!/bin/sh\n")
    (tmp_path / "tmpreaper").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(checks_on_each_host, "_TMP", [local_storage().parent])
    assert level_of(check(facts()), "cleaners") == "note"


def test_a_lock_that_others_do_not_see_is_noted(tmp_path: Path) -> None:
    from encamp.storage.disk.path_to_destination import NAMED
    from encamp.storage.disk.temporary_names import new_token
    from encamp.storage.outputs.sees_destination import Beacons

    beacons = Beacons(new_token())
    beacons.put({tmp_path: NAMED})
    (tmp_path / "lock").touch()
    try:
        free = facts(folder=str(tmp_path), beacon=beacons.description, lock=str(tmp_path / "lock"))
        assert level_of(check(free), "locks") == "note"
    finally:
        beacons.close()


def test_the_processes_that_groups_leave_are_counted(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/mine"
    for folder, most, now in ((group, "100", "40"), (group.parent, "max", "400")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pids.max").write_text(f"{most}\n")
        (folder / "pids.current").write_text(f"{now}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/mine\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    )
    assert processes_left(tmp_path) == 60
    (group / "pids.max").write_text("max\n")
    assert processes_left(tmp_path) is None


@pytest.mark.parametrize(
    ("now", "level", "said"),
    [(105.0, "ok", "agrees"), (170.0, "note", "60 s ahead of"), (70.0, "note", "30 s behind")],
)
def test_a_clock_is_wrong_by_what_lies_outside_of_asking(
    now: float, level: Level, said: str
) -> None:
    found = clock(HostReport(now), 100.0, 110.0)
    assert (found.level, said in found.found) == (level, True)


@pytest.mark.parametrize(
    ("lines", "why", "level", "said"),
    [
        (["encamp-doctor /bin/bash"], "", "ok", "to bash"),
        (["Welcome!", "encamp-doctor /bin/bash"], "", "note", "prints 'Welcome!'"),
        (["encamp-doctor /usr/bin/fish"], "", "note", "is fish"),
        ([], "ssh: connect to host n port 22: Connection refused", "fails", "refused"),
    ],
)
def test_logins_are_judged(lines: list[str], why: str, level: Level, said: str) -> None:
    found = login_result(HostOutput("n", lines, why), here=False)
    assert (found.level, said in found.found) == (level, True)
    assert bool(found.remedy) is (level != "ok")
