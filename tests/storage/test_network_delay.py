"""Waiting for files of other hosts: only on network disks, and for a limited time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from encamp.errors import BadDestination
from encamp.storage.disk import mountinfo, network_delay
from encamp.storage.disk.network_delay import WAIT, is_network_disk, until_not_older, until_visible
from encamp.storage.inputs.mirror import Mirror, plan
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import as_outputs
from encamp.storage.outputs.stage import stage
from encamp.storage.sandbox_folder import Sandbox
from encamp.storage.shared_folders import portable
from encamp.testing.waiting import until


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """All disks are network disks."""
    monkeypatch.setattr(network_delay, "is_network_disk", lambda path: True)
    monkeypatch.setenv(WAIT, "30")


@contextmanager
def later(deed: Callable[[], object], after_looks: int) -> Iterator[None]:
    """Do something in another thread, once somebody has looked some times and in vain."""
    looks = 0
    enough = threading.Event()
    real = network_delay._status

    def look(path: Path) -> os.stat_result | None:
        nonlocal looks
        looks += 1
        if looks > after_looks:
            enough.set()
        return real(path)

    def work() -> None:
        if enough.wait(30):
            deed()

    worker = threading.Thread(target=work)
    worker.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_delay, "_status", look)
        yield
    assert enough.is_set(), "nobody waited"
    worker.join()


@pytest.mark.usefixtures("network")
def test_a_file_that_appears_late_is_waited_for(tmp_path: Path) -> None:
    def appear() -> None:
        (tmp_path / "hidden").write_bytes(bytes(100))
        (tmp_path / "hidden").rename(tmp_path / "a")

    with later(appear, 2):
        assert until_visible(tmp_path / "a", 100).st_size == 100


@pytest.mark.usefixtures("network")
def test_a_file_that_is_seen_too_short_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(50))
    with later(lambda: os.truncate(tmp_path / "a", 100), 2):
        assert until_visible(tmp_path / "a", 100).st_size == 100


@pytest.mark.usefixtures("network")
def test_a_file_that_is_seen_as_it_was_before_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", ns=(0, 1000))
    with later(lambda: os.utime(tmp_path / "a", ns=(0, 2000)), 2):
        until_not_older(tmp_path / "a", 2000)
    assert (tmp_path / "a").stat().st_mtime_ns == 2000


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("seconds", ["0", "0.3", "600"])
def test_the_wait_is_bounded(seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(network_delay, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setenv(WAIT, seconds)
    (tmp_path / "short").write_bytes(bytes(50))
    with pytest.raises(FileNotFoundError):
        until_visible(tmp_path / "none", 1)
    assert until_visible(tmp_path / "short", 100).st_size == 50
    until_not_older(tmp_path / "none", 1)
    until_not_older(tmp_path / "short", 2**62)
    assert now == pytest.approx(4 * float(seconds))


def test_local_disk_causes_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_delay, "is_network_disk", lambda path: False)

    def sleep(seconds: float) -> None:
        pytest.fail("waits")

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(FileNotFoundError):
        until_visible(tmp_path / "none", 1)
    until_not_older(tmp_path / "none", 1)


def test_visible_file_needs_no_disk_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That would cost a read of the mounts for every file."""
    monkeypatch.setattr(network_delay, "is_network_disk", lambda path: pytest.fail("asked"))
    (tmp_path / "a").write_bytes(bytes(10))
    assert until_visible(tmp_path / "a", 10).st_size == 10


@pytest.mark.parametrize("given", ["", "soon", "nan", "inf"])
def test_a_wait_that_is_no_number_is_the_usual_one(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WAIT, given)
    assert network_delay.wait_seconds() == 10


MOUNTS = """\
22 1 0:{device} / / rw - {kind} server:/home rw
30 22 0:999 / /elsewhere rw shared:1 - ext4 /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("nfs4", True), ("nfs", True), ("fuse.sshfs", True), ("lustre", True), ("ext4", False),
     ("tmpfs", False), ("overlay", False), ("cifs", True), ("btrfs", False)],
)  # fmt: skip
def test_the_kind_of_disk_is_what_the_kernel_says(
    kind: str, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    mounts = MOUNTS.format(device=0, kind=kind).replace(
        "0:0 ", f"{os.major(device)}:{os.minor(device)} "
    )
    odd = "9 1 0:99 / /media/a\u2028b\r\x0bc rw - tmpfs odd rw\n"  # not the ends of lines
    monkeypatch.setattr(mountinfo, "read", (odd + mounts).encode)
    assert is_network_disk(tmp_path / "not" / "there") == wanted


def test_this_machines_disk_for_temporary_files_is_known(tmp_path: Path) -> None:
    assert is_network_disk(tmp_path) in (True, False)


# Where it matters


@pytest.mark.usefixtures("network")
def test_publishing_waits_for_what_another_host_has_staged(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "task/a").write_text("made")
    staged = stage(tmp_path / "task", as_outputs("a"), tmp_path / "to", token="t", task="task")
    part = Path(str(staged[0].part))
    part.rename(tmp_path / "not seen yet")
    with later(lambda: (tmp_path / "not seen yet").rename(part), 2):
        deliver_one(staged)
    assert (tmp_path / "to/a").read_text() == "made"


@pytest.mark.usefixtures("network")
def test_file_missing_after_wait_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAIT, "0.05")
    (tmp_path / "task").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "task/a").write_text("made")
    staged = stage(tmp_path / "task", as_outputs("a"), tmp_path / "to", token="t", task="task")
    Path(str(staged[0].part)).unlink()
    with pytest.raises(BadDestination, match="no such file"):
        deliver_one(staged)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("readonly", [True, False])
def test_an_input_that_this_host_sees_as_it_was_is_waited_for(readonly: bool, here: Path) -> None:
    """Written on the spawning host a moment ago; the plan says what it must be like."""
    (here / "a").write_text("new")
    os.utime(here / "a", ns=(0, 2000))
    items = plan([Mirror("a", readonly=readonly)], here)

    def see(text: str, mtime_ns: int) -> None:
        (here / "a").write_text(text)
        os.utime(here / "a", ns=(0, mtime_ns))

    see("old", 1000)
    sandbox = Sandbox("test")
    try:
        with later(lambda: see("new", 2000), 2):
            sandbox.place(items)
        assert (sandbox.folder / "a").read_text() == "new"
    finally:
        sandbox.remove()


def test_that_a_file_is_not_seen_is_believed_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, other = portable(tmp_path / "late"), portable(tmp_path / "other")
    monkeypatch.setattr(network_delay, "_unseen", {})
    assert not network_delay.sees(name)
    (tmp_path / "late").touch()
    (tmp_path / "other").touch()
    assert not network_delay.sees(name)
    assert network_delay.sees(other)
    monkeypatch.setattr(network_delay, "_BELIEVED", 0.05)
    monkeypatch.setattr(network_delay, "_unseen", {})
    (tmp_path / "late").unlink()
    assert not network_delay.sees(name)
    (tmp_path / "late").touch()
    until(lambda: network_delay.sees(name))
