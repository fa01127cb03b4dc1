"""A worker notices when its run has ended, and never assumes so wrongly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from encamp.jobs.run_lease import Lease, LeaseWatch, leases, new_lease
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.process_identity import start_of

TOKEN, DAMAGED = "0123456789ab", "ba9876543210"


def _controlled(lease: Lease, **facts: Any) -> Lease:
    return replace(lease, controller=replace(lease.controller, **facts))


def _of_a_dead_controller(lease: Lease) -> Lease:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_of(process.pid)
    assert started
    process.communicate(b"\n")
    return _controlled(lease, pid=process.pid, start=started)


def test_running_lease_is_valid_until_end(tmp_path: Path) -> None:
    lease = new_lease(str(tmp_path), TOKEN)
    lease.take(TrustedFolder(tmp_path))
    watch = LeaseWatch(lease)
    assert not watch.over()
    lease.end()
    lease.end()
    assert watch.over()


def test_a_worker_that_begins_after_the_end_sees_it_too(tmp_path: Path) -> None:
    assert LeaseWatch(new_lease(str(tmp_path), TOKEN)).over()


def test_a_controller_that_died_on_this_host_is_missed_at_once(tmp_path: Path) -> None:
    lease = _of_a_dead_controller(new_lease(str(tmp_path), TOKEN))
    lease.take(TrustedFolder(tmp_path))
    assert LeaseWatch(lease).over()


def test_a_process_id_that_another_process_has_now_is_no_controller(tmp_path: Path) -> None:
    lease = _controlled(new_lease(str(tmp_path), TOKEN), start="1")
    lease.take(TrustedFolder(tmp_path))
    assert LeaseWatch(lease).over()


def test_on_another_host_only_a_file_that_was_seen_and_went_counts(tmp_path: Path) -> None:
    far = _controlled(
        _of_a_dead_controller(new_lease(str(tmp_path), TOKEN)), host="far", boot="far"
    )
    watch = LeaseWatch(far)
    assert not watch.over()
    far.take(TrustedFolder(tmp_path))
    assert not watch.over()
    far.end()
    assert watch.over()


def test_leases_of_killed_runs_are_found_and_damaged_ones_skipped(tmp_path: Path) -> None:
    lease = new_lease(str(tmp_path), TOKEN)
    lease.take(TrustedFolder(tmp_path))
    (tmp_path / f"running-{DAMAGED}").write_text("{")
    (tmp_path / "running-").write_text("{}")  # whose token all names begin with
    (tmp_path / f"running-{TOKEN}x").write_text("{}")
    assert [(file.name, bool(facts)) for file, facts in leases(TrustedFolder(tmp_path))] == [
        (f"running-{TOKEN}", True),
        (f"running-{DAMAGED}", False),
    ]
