"""Files whose size is reported wrongly are refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from placed_inputs import mirrored

import encamp
from encamp.errors import InputError, SourceChanged, UnusableInput
from encamp.storage.disk import copy_file as copy_module
from encamp.storage.disk.copy_file import copy_file
from encamp.storage.inputs.mirror import Mirror, plan
from encamp.storage.inputs.send_inputs import Sender

MADE_UP = ["/proc/cpuinfo", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"]
MADE_UP = [name for name in MADE_UP if os.access(name, os.R_OK)]


@pytest.mark.parametrize("name", MADE_UP)
def test_kernel_files_are_refused_before_run(name: str, here: Path) -> None:
    job = encamp.Job("job", to="out", mirror=name)
    job.add("task", "true")
    with pytest.raises(UnusableInput, match=r"does not hold the \d+ bytes that the disk reports"):
        job.run(slots=1)


@pytest.mark.parametrize("name", MADE_UP)
def test_a_symlink_to_it_is_refused_as_well(name: str, here: Path) -> None:
    (here / "link").symlink_to(name)
    with pytest.raises(UnusableInput), mirrored("link", here):
        pytest.fail("it would be empty")


@pytest.mark.parametrize("mode", ["copy", "link", "auto"])
def test_tree_of_kernel_files_is_refused(mode: str, here: Path) -> None:
    mirror = Mirror("/proc/sys/kernel/random", mode=mode)  # type: ignore[arg-type]
    with pytest.raises(UnusableInput, match="does not"), mirrored(mirror, here):
        pytest.fail("its files would be empty")


@pytest.mark.parametrize("name", MADE_UP)
def test_kernel_file_sent_to_other_host_is_refused(name: str) -> None:
    with pytest.raises(UnusableInput, match="does not"):
        all_chunks(Sender([name]), name)


def all_chunks(sender: Sender, name: str) -> None:
    at = 0
    while at <= Path(name).stat().st_size:
        at += len(sender.chunk(name, at).data)


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_plain_files_are_what_they_say(size: int, here: Path) -> None:
    (here / "plain").write_bytes(bytes(size))
    with mirrored("plain", here) as folder:
        assert (folder / "plain").read_bytes() == bytes(size)


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_file_that_changes_while_it_is_copied_is_said_to_have_changed(
    more: bytes, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows, or is cut short."""
    (here / "log").write_bytes(bytes(1000))
    real = copy_module._copy_bytes

    def copied(*args: int) -> int:
        with (here / "log").open("ab") as log:
            log.write(more)
            if not more:
                log.truncate(10)
        return real(*args)

    monkeypatch.setattr(copy_module, "_copy_bytes", copied)
    with pytest.raises(SourceChanged):
        copy_file(here / "log", here / "copy", None)
    assert not (here / "copy").exists()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "what"), [(fifo, "a FIFO"), (listening, "a socket"), (device, "a device")]
)
@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_file_is_refused_by_name(
    link: bool, make: Callable[[Path], None], what: str, here: Path
) -> None:
    make(here / "odd")
    (here / "link").symlink_to("odd")
    with pytest.raises(InputError, match=f"it is {what}"):
        plan([Mirror("link" if link else "odd")], here)


@pytest.mark.parametrize(("make", "what"), [(fifo, "a FIFO"), (listening, "a socket")])
def test_special_file_in_tree_is_refused(
    make: Callable[[Path], None], what: str, here: Path
) -> None:
    (here / "tree").mkdir()
    make(here / "tree/odd")
    with pytest.raises(InputError, match=f"it is {what}; leave it out with exclude='odd'"):
        plan([Mirror("tree")], here)
