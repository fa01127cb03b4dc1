"""Identifying processes after a reboot, with reused ids and in other namespaces."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from other_processes import run, start

from conftest import need
from encamp.storage.dead_owners import keep_dead, reclaim
from encamp.storage.local_storage import LOCAL, local_storage
from encamp.storage.owned_folder import LOCK, OwnedFolder, sandboxes
from encamp.storage.process_identity import ProcessFacts, facts_in, start_of, this_process


def test_a_process_knows_itself_and_is_not_dead() -> None:
    facts = this_process()
    assert (facts.pid, facts.host) == (os.getpid(), socket.gethostname())
    assert facts.boot
    assert facts.start
    assert facts.near
    assert not facts.known_dead
    assert this_process() == facts
    assert facts_in(facts.as_bytes()) == facts


def test_another_process_has_other_facts() -> None:
    code = "import json; from encamp.storage.process_identity import this_process as t;"
    other = facts_in(run(code + "print(json.dumps(t().as_dict()))").encode())
    assert other is not None
    mine = this_process()
    assert (other.boot, other.namespace, other.host) == (mine.boot, mine.namespace, mine.host)
    assert (other.pid, other.start) != (mine.pid, mine.start)
    assert other.known_dead


def test_a_child_that_ended_is_dead_before_anybody_took_note() -> None:
    """A zombie has its process id still."""
    process = start("import sys; sys.stdin.read()", stdin=-1)
    born = start_of(process.pid)
    assert born is not None
    facts = replace(this_process(), pid=process.pid, start=born)
    assert not facts.known_dead
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert facts.known_dead
    process.communicate()


def test_a_name_with_brackets_and_blanks_does_not_confuse_the_kernels_line(tmp_path: Path) -> None:
    name = tmp_path / ") R 1 (x"
    name.symlink_to(sys.executable)
    code = "import os; print(open('/proc/self/stat').read(), flush=True); input()"
    process = subprocess.Popen([name, "-S", "-c", code], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert ") R 1 (x" in line or "python" in line
        assert start_of(process.pid) == line[line.rindex(")") + 2 :].split()[19]
    finally:
        process.communicate("\n")


def reboot(facts: ProcessFacts) -> ProcessFacts:
    return replace(facts, boot="the boot before")


def reuse(facts: ProcessFacts) -> ProcessFacts:
    return replace(facts, start="1")


def container(facts: ProcessFacts) -> ProcessFacts:
    return replace(facts, namespace="pid:[1]")


def other_host(facts: ProcessFacts) -> ProcessFacts:
    return replace(facts, host="elsewhere", boot="its boot")


def unknown_boot(facts: ProcessFacts) -> ProcessFacts:
    return replace(facts, boot="", namespace="")


Change = Callable[[ProcessFacts], ProcessFacts]


@pytest.mark.parametrize(
    ("change", "dead"),
    [(reboot, True), (reuse, True), (container, False), (other_host, False), (unknown_boot, False)],
)
def test_death_is_reported_only_if_certain(change: Change, dead: bool) -> None:
    assert change(this_process()).known_dead == dead


@pytest.mark.parametrize(
    "read",
    [None, [], 7, {}, {"pid": "1"}, {"host": "h", "boot": "b", "namespace": "n", "start": None},
     {"host": "h", "boot": "b", "namespace": "n", "start": "s", "pid": "7"}],
)  # fmt: skip
def test_invalid_process_facts_are_ignored(read: object) -> None:
    assert facts_in(json.dumps(read).encode()) is None


# Owners of folders


def left_by(change: Change) -> Path:
    """A folder whose lock nobody holds and whose lock file speaks of another process."""
    path = sandboxes(local_storage()) / "job.task.0123"
    (path / "task").mkdir(parents=True)
    (path / "task/half").write_text("half done")
    facts = change(this_process()).as_dict()
    path.with_name(path.name + LOCK).write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize("change", [reboot, reuse, container])
def test_a_folder_is_reclaimed_after_a_reboot_a_reused_id_or_from_a_dead_container(
    change: Change,
) -> None:
    """The lock is the same kernel's: that it is free says enough about other name spaces."""
    path = left_by(change)
    assert reclaim(dry_run=True) == [path]
    assert path.exists()
    assert reclaim() == [path]
    assert not path.exists()
    assert not path.with_name(path.name + LOCK).exists()


@pytest.mark.parametrize("change", [other_host, lambda facts: facts])
def test_a_folder_of_a_process_that_may_live_stays_though_its_lock_is_free(change: Change) -> None:
    """Another machine's locks may not be seen here; a living owner may have lost its own."""
    path = left_by(change)
    assert reclaim() == []
    assert (path / "task/half").read_text() == "half done"
    assert keep_dead(path) is None
    left_by_lock = path.with_name(path.name + LOCK)
    left_by_lock.write_text("")
    assert reclaim() == [path]


@pytest.mark.parametrize("written", ["", "{", "null", "[]", '{"pid": "x"}', "\0" * 100])
def test_a_lock_file_that_says_nothing_was_written_by_a_process_that_was_killed(
    written: str,
) -> None:
    path = left_by(reuse)
    path.with_name(path.name + LOCK).write_text(written)
    assert reclaim() == [path]


def test_the_lock_counts_whatever_the_file_says() -> None:
    """Facts may be wrong (a restored machine has the boot of before); a held lock is not."""
    owned = OwnedFolder("name")
    try:
        lock = owned.path.with_name(owned.path.name + LOCK)
        for change in (reboot, reuse, container, other_host):
            lock.write_text(json.dumps(change(this_process()).as_dict()))
            assert reclaim() == []
        assert owned.task.exists()
    finally:
        owned.remove()


HOLD = """
    import sys
    from encamp.storage.owned_folder import OwnedFolder
    owned = OwnedFolder("inside")
    print(owned.path, flush=True)
    sys.stdin.readline()
"""
INSIDE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def inside() -> list[str]:
    """What starts a command in a name space of process ids of its own, as containers have."""
    maps = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    line = [INSIDE[0], *maps, *INSIDE[1:]]
    try:
        worked = subprocess.run([*line, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        worked = False
    need("a way to start a process in another name space (unshare)", worked)
    return line


def started(line: list[str]) -> tuple[subprocess.Popen[str], Path]:
    command = [*line, sys.executable, "-c", "\n".join(x[4:] for x in HOLD.splitlines())]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_living_owner_in_a_container_keeps_its_folder_from_cleaners_outside(
    inside: list[str],
) -> None:
    process, path = started(inside)
    try:
        owner = facts_in(path.with_name(path.name + LOCK).read_bytes())
        assert owner is not None
        assert owner.pid < 10, "it is one of few in there"
        assert not owner.near
        assert reclaim() == []
        assert path.exists()
    finally:
        process.kill()
        process.communicate()
    assert reclaim() == [path]
    assert not path.exists()


def test_a_cleaner_in_a_container_takes_what_the_dead_left_and_nothing_of_the_living(
    inside: list[str],
) -> None:
    """In there the ids of all owners outside are unknown; their locks are not."""
    dead_process, dead = started([])
    dead_process.kill()
    dead_process.communicate()
    process, living = started([])
    code = "from encamp.storage.dead_owners import reclaim; print(*reclaim(), sep='\\n')"
    try:
        result = subprocess.run(
            [*inside, sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, LOCAL: os.environ[LOCAL]},
        )  # fmt: skip
        assert result.stdout.split() == [str(dead)]
        assert living.exists()
        assert not dead.exists()
    finally:
        process.kill()
        process.communicate()
        reclaim()
