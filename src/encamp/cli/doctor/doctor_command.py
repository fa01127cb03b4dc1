"""``encamp doctor``: check the hosts of an engine for problems, and suggest remedies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from encamp import slurm
from encamp.cli.doctor.check_result import CheckResult, why_of
from encamp.cli.doctor.checks_between_hosts import clock, frames
from encamp.cli.doctor.checks_on_each_host import ProgramFacts, check, libraries_here, python_here
from encamp.cli.doctor.login_checks import (
    BY_HAND,
    log_in_to,
    login_result,
    remedy_for,
    same_host,
    silent,
)
from encamp.cli.doctor.port_checks import ports
from encamp.cli.print_answer import print_answer
from encamp.cli.run import engine_options
from encamp.cli.ssh_commands import HostOutput
from encamp.cluster.cluster import Cluster
from encamp.engines.find_engine import engine_module
from encamp.engines.kit.hostfile import host_in
from encamp.errors import EncampError, InputError, printable
from encamp.storage.disk.path_to_destination import NAMED
from encamp.storage.disk.temporary_names import PART, new_token
from encamp.storage.outputs.sees_destination import Beacons
from encamp.storage.real_paths import current_folder
from encamp.storage.shared_folders import portable
from encamp.units import counted

_BY_SSH = ("mpi", "pvm", "dask", "ipyparallel")
"""Engines that use ssh to start their agents."""
_ON_MESH = ("dask", "ipyparallel")
"""Engines that send frames by encamp's own connections."""
_WITHIN = 120.0
"""Seconds that the checks of one host may take."""
_ALL = "all hosts together"
Table = dict[str, list[CheckResult]]
"""Host → the results of its checks."""


def doctor_command(
    destination: str | None,
    *,
    engine: str,
    slots: int | None,
    hosts: str | None,
    hostfile: str | None,
    more: tuple[str, ...],
) -> int:
    """Print the results of all checks; exit status 1 if a check fails."""
    base = current_folder()
    engine_module(engine)
    options = engine_options(hosts, hostfile, more)
    if slots is not None:
        options["slots"] = slots
    table: Table = {}
    with _facts(_existing_part(base / destination if destination else base), table) as facts:
        named = [host_in(line).name for line in options.get("hosts", [])]  # type: ignore[attr-defined]
        logins = log_in_to(named) if engine in _BY_SSH and slurm.job_id() is None else []
        dead = {login.host for login in logins if silent(login)}
        if dead:  # some engines would wait for these for minutes
            lines = options["hosts"]
            options["hosts"] = [line for line in lines if host_in(line).name not in dead]  # type: ignore[attr-defined]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            if dead and not options["hosts"]:
                _look_here(facts, table)
            else:
                _check_together(engine, options, facts, table)
        _note(warned, table)
        _add_logins(logins, table)
    for host, lines in table.items():
        _print(host, lines)
    return _sum_up(table)


# The checks


def _existing_part(folder: Path) -> Path:
    """The folder, or its nearest existing parent; creates nothing."""
    return next(path for path in (folder, *folder.parents) if path.exists())


@contextmanager
def _facts(folder: Path, table: Table) -> Iterator[ProgramFacts]:
    """A context with the facts for other hosts. Meanwhile ``folder`` has a beacon and a lock."""
    token = new_token()
    beacons, lock = Beacons(token), folder / f"{PART}{token}-lock"
    facts = ProgramFacts(python_here(), libraries_here(), portable(folder), printable(folder))
    with ExitStack() as undo:
        undo.callback(beacons.close)
        beacons.put({Path(os.path.realpath(folder)): NAMED})
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            why = f"{printable(folder)}: {(exc.strerror or str(exc)).lower()}"
            remedy = "give a DESTINATION that you can write to"
            table[socket.gethostname()] = [CheckResult("fails", "destination", why, remedy)]
            yield facts
            return
        undo.callback(lock.unlink, missing_ok=True)
        undo.callback(os.close, fd)
        facts = replace(facts, beacon=beacons.description)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = replace(facts, lock=portable(lock))
        except OSError as exc:
            why = f"{printable(folder)} has none: {(exc.strerror or str(exc)).lower()}"
            remedy = "mount the disk with locks, or run a job from one host at a time"
            table[socket.gethostname()] = [CheckResult("note", "locks", why, remedy)]
        yield facts


def _note(warned: Sequence[warnings.WarningMessage], table: Table) -> None:
    """Add warnings during the checks as a note on the program's host."""
    for text in dict.fromkeys(str(one.message) for one in warned):
        table.setdefault(socket.gethostname(), []).append(CheckResult("note", "warning", text))


# The hosts of the engine's cluster


def _check_together(
    engine: str, options: Mapping[str, object], facts: ProgramFacts, table: Table
) -> None:
    """Check all hosts together; each alone if the cluster does not start."""
    lines = options.get("hosts")
    each = lines if isinstance(lines, list) else []
    try:
        _check_hosts(engine, options, facts, table)
    except InputError:
        raise
    except EncampError as exc:
        whole = CheckResult("fails", "cluster", why_of(exc), "see the lines of each host")
        alone = dict(options)
        alone.pop("slots", None)
        well = True
        for line in each if len(each) > 1 else []:
            well &= _check_alone(
                engine, {**alone, "hosts": [line]}, host_in(line).name, facts, table
            )
        if len(each) < 2:
            name = host_in(each[0]).name if each else socket.gethostname()
            table.setdefault(name, []).append(replace(whole, remedy=remedy_for(whole.found, name)))
        elif well:
            table[_ALL] = [replace(whole, remedy="each works on its own; see docs/hosts.md")]
    if not any(same_host(socket.gethostname(), host) and len(table[host]) > 1 for host in table):
        _look_here(facts, table)


def _look_here(facts: ProgramFacts, table: Table) -> None:
    here = check(replace(facts, beacon="", lock=None))
    table.setdefault(socket.gethostname(), []).extend(here.lines)


def _check_alone(
    engine: str, options: Mapping[str, object], name: str, facts: ProgramFacts, table: Table
) -> bool:
    """Check one host; returns whether it could be reached."""
    try:
        _check_hosts(engine, options, facts, table)
    except EncampError as exc:
        why = why_of(exc)
        table.setdefault(name, []).append(
            CheckResult("fails", "cluster", why, remedy_for(why, name))
        )
        return False
    return True


def _check_hosts(
    engine: str, options: Mapping[str, object], facts: ProgramFacts, table: Table
) -> None:
    """Run the checks on the hosts of a cluster. Raises an `EncampError`."""
    lines = options.get("hosts")
    wanted = [host_in(line).name for line in lines] if isinstance(lines, list) else []
    with Cluster(engine, **options) as cluster:  # type: ignore[arg-type]
        hosts = cluster.hosts()
        begun = time.time()
        tasks = {
            host: cluster.spawn(
                check, replace(facts, slots=host.slots), on=host, name="check", notify=False
            )
            for host in hosts
        }
        for host, task in tasks.items():
            lines_of_host = table.setdefault(host.name, [])
            try:
                found = task.result(_WITHIN)
            except Exception as exc:  # noqa: BLE001 - any failure is a result of the check
                remedy = "see the other lines of this host; tasks cannot run there"
                lines_of_host.append(CheckResult("fails", "task", why_of(exc), remedy))
            else:
                lines_of_host.extend([*found.lines, clock(found, begun, time.time())])
            if engine in _ON_MESH:
                lines_of_host.append(frames(host))
        for name, line in ports(cluster).items():
            table.setdefault(name, []).append(line)
        cluster.kill_all()
    missing = [name for name in wanted if not any(same_host(name, host.name) for host in hosts)]
    if len(hosts) < len(set(wanted)):
        for name in missing:
            line = CheckResult("fails", "cluster", "it has not joined", BY_HAND.format(host=name))
            table.setdefault(name, []).append(line)


def _add_logins(logins: Sequence[HostOutput], table: Table) -> None:
    for login in logins:
        host = next((host for host in table if same_host(host, login.host)), login.host)
        table.setdefault(host, []).append(login_result(login, here=_works(table.get(host, []))))


def _works(lines: Sequence[CheckResult]) -> bool:
    return any(line.what == "clock" for line in lines)


# Printing


def _print(host: str, lines: Sequence[CheckResult]) -> None:
    _print_line(host)
    wide = max(len(line.what) for line in lines) if lines else 0
    for line in lines:
        _print_line(f"  {line.level:<5}  {line.what:<{wide}}  {line.found}")
        if line.level != "ok" and line.remedy:
            _print_line(f"  {'':<5}  {'':<{wide}}  -> {line.remedy}")


def _sum_up(table: Table) -> int:
    levels = [line.level for lines in table.values() for line in lines]
    failures, notes = levels.count("fails"), levels.count("note")
    hosts = counted(len([host for host in table if host != _ALL]), "host")
    wrong = f"{counted(failures, 'thing')} will not work" if failures else "all will work"
    _print_line(f"{hosts}: {wrong}, {counted(notes, 'note')}")
    return 1 if failures else 0


def _print_line(text: str) -> None:
    with suppress(BrokenPipeError):
        print_answer(text)
