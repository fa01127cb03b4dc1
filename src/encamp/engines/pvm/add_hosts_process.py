"""The program that adds hosts to a virtual machine, in its own PVM task.

It is a separate process because libpvm blocks until a daemon has started or failed, for minutes if
a host does not answer. It needs only the standard library.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Collection, Sequence

from encamp.engines.pvm import libpvm

_GONE_WITHIN = 1.0
"""Seconds to remove a host whose daemon is alive; others take minutes."""
_ENDS_WITHIN = 10.0
"""Seconds that a daemon that is ending may block a new one."""
_LOOK = 0.05
_LOGS_REMOVED_WITHIN = 2.0
_ENDED = 1
"""The tag of messages about the end of a task."""
_REMOVE_LOG = (
    "for fd in /proc/$PPID/fd/*; do log=$(readlink $fd); "
    'case $log in */pvml.*) rm -f "$log";; esac; done'
)
_THERE_ALREADY = -28
"""PVM's error for a host that is in the machine already, perhaps under a different name."""


def main(given: str) -> None:
    """Add hosts, and print as JSON the tid or the error code of each that was not in the machine.

    Hosts that are in the machine under a different name also have their tid. ``given`` is JSON:
    ``hosts`` to add, and the names of ``dead`` ones, which are removed first, because the machine
    waits for them. If the machine is the user's ``own``, logs are removed.
    """
    wanted = json.loads(given)
    libpvm.mytid()
    libpvm.setopt(libpvm.AUTO_ERR, 0)
    dead = _in_machine() & set(wanted["dead"])
    if dead:
        take_out(dead)
    have = _in_machine()
    new = [host for host in wanted["hosts"] if host.split()[0] not in have]
    codes = _add(new, patient=bool(dead))
    for number, code in enumerate(codes):
        if code == _THERE_ALREADY:
            codes[number] = _find_host(new[number]) or code
    if wanted["own"]:
        _remove_logs({code for code in codes if code > 0})
    libpvm.leave()
    sys.stdout.write(json.dumps(dict(zip(new, codes, strict=True))))


def remove_log(host: libpvm.HostInfo) -> int:
    """Start a task that removes the open log file of a host's daemon; returns its id."""
    return libpvm.spawn("/bin/sh", ["-c", _REMOVE_LOG], libpvm.TASK_HOST, host.name)[0]


def _remove_logs(tids: Collection[int]) -> None:
    """Remove the logs of added hosts, except this one, and wait for it: they may leave soon."""
    here = libpvm.tidtohost(libpvm.mytid())
    hosts = [host for host in libpvm.config() if host.tid in tids and host.tid != here]
    tasks = [task for task in map(remove_log, hosts) if task > 0]
    if tasks:
        libpvm.notify(libpvm.TASK_EXIT, _ENDED, tasks)
    deadline, ended = time.monotonic() + _LOGS_REMOVED_WITHIN, 0
    while ended < len(tasks) and time.monotonic() < deadline:
        ended += libpvm.nrecv(libpvm.ANY, _ENDED) > 0
        time.sleep(_LOOK / 5)


def _in_machine() -> set[str]:
    return {host.name for host in libpvm.config()}


def _find_host(given: str) -> int:
    """The tid of a host that is in the machine under a different name; 0 if it is not found."""
    name, *options = given.split()
    given_addresses = [option[3:] for option in options if option.startswith("ip=")]
    address = _address(given_addresses[0] if given_addresses else name)
    if address is None:
        return 0
    if _is_here(address):
        return libpvm.tidtohost(libpvm.mytid())
    return next((host.tid for host in libpvm.config() if _address(host.name) == address), 0)


def _address(name: str) -> str | None:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None


def _is_here(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def take_out(names: Collection[str]) -> None:
    """Remove hosts from the machine; daemons that are alive end."""
    libpvm.delhosts(list(names))
    deadline = time.monotonic() + _GONE_WITHIN
    while _in_machine() & set(names) and time.monotonic() < deadline:
        time.sleep(_LOOK)
    for host in libpvm.config():
        if host.name in names:
            libpvm.fail_host(host.tid)


def _add(hosts: Sequence[str], *, patient: bool) -> list[int]:
    codes = libpvm.addhosts(hosts) if hosts else []
    deadline = time.monotonic() + _ENDS_WITHIN
    while patient and min(codes, default=0) < 0 and time.monotonic() < deadline:
        time.sleep(_LOOK)
        failed = [number for number, code in enumerate(codes) if code < 0]
        for number, code in zip(failed, libpvm.addhosts([hosts[n] for n in failed]), strict=True):
            codes[number] = code
    return codes
