"""Which folders of shared libraries ranks take on other hosts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from encamp.engines.kit.hostfile import hosts_in
from encamp.engines.mpi.find_launcher import Launcher
from encamp.engines.mpi.launch_plan import LaunchPlan
from encamp.engines.mpi.libraries import libraries_for_hosts, take_left_out, with_libraries
from encamp.engines.mpi.mpi_variables import LIBRARIES
from encamp.search_paths import only_ours

STRANGER = 65534
FOLDERS: dict[str, Callable[[Path], None]] = {
    "ours": lambda folder: folder.chmod(0o755),
    "with a space": lambda folder: folder.chmod(0o700),
    "everybody's": lambda folder: folder.chmod(0o777),
    "sticky": lambda folder: folder.chmod(0o1777),
    "a group's": lambda folder: (os.chown(folder, -1, STRANGER), folder.chmod(0o775))[0],
    "root's group's": lambda folder: (os.chown(folder, -1, 0), folder.chmod(0o775))[0],
    "a stranger's": lambda folder: os.chown(folder, STRANGER, STRANGER),
}


def taken(given: str, known: str = "") -> tuple[list[str], list[str]]:
    """The library path of a program that was started so, and what was left out."""
    command = with_libraries(["sh", "-c", 'echo "$LD_LIBRARY_PATH|$ENCAMP_MPI_LIBRARIES_LEFT_OUT"'])
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": known, LIBRARIES: given}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    path, _, left_out = out.stdout.strip().partition("|")
    assert out.stderr == ""
    return path.split(":"), [one for one in left_out.split(":") if one]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_shell_finds_the_same_folders_ours_as_python_does(tmp_path: Path) -> None:
    only_ours.cache_clear()
    folders = []
    for name, make in FOLDERS.items():
        for folder in (tmp_path / name, tmp_path / name / "below"):
            folder.mkdir()
            folders.append(str(folder))
        make(tmp_path / name)
    ours = [folder for folder in folders if only_ours(folder)]
    assert len(ours) == 7
    others = [folder for folder in folders if folder not in ours]
    assert taken(":".join([*folders, "/", str(tmp_path / "missing")])) == (ours, others)


def test_host_libraries_come_first(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    known = str(tmp_path)
    assert taken(f"{known}:/usr/lib", known) == ([known, os.path.realpath("/usr/lib")], [])


def test_library_path_is_not_sent_to_other_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/some/lib")
    for mpi in ("mpich", "openmpi"):
        plan = LaunchPlan(
            Launcher("/nowhere/bin/mpiexec", mpi, (5,)), 2, hosts_in(["node1"]), "m", ()
        )
        words = " ".join(plan.command(tmp_path)).replace(LIBRARIES, "")
        before, _, program = words.partition("/bin/sh")
        assert "LD_LIBRARY_PATH" not in before
        assert program
        assert plan.variables()[LIBRARIES] == "/some/lib"
    assert libraries_for_hosts({}) == {}
    monkeypatch.setenv("ENCAMP_MPI_LIBRARIES_LEFT_OUT", "/a:/b")
    assert take_left_out() == ["/a", "/b"]
    assert take_left_out() == []
