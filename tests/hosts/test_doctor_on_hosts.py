"""``encamp doctor`` on several hosts; one is unknown and one lacks the share."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from lab import Lab

COMMAND = Path(sysconfig.get_path("scripts"), "encamp")
AFAR = "lab4"


def sections(out: str) -> dict[str, str]:
    """What is said of each host."""
    found: dict[str, str] = {}
    host = ""
    for line in out.splitlines():
        if not line.startswith(" "):
            host = line
        found[host] = f"{found.get(host, '')}{line}\n"
    return found


@pytest.mark.timeout(300)  # clusters start one after the other
def test_each_host_of_a_lab_has_its_own_lines(lab: Lab) -> None:
    first, second, *_ = lab.hosts
    assert first.share is not None
    assert second.share is not None
    destination = first.share / "results"
    first.run(["mkdir", destination])
    names = f"lab1,lab2,lab9,{AFAR}"
    words = ["doctor", "-e", "pvm", "-o", "machine=own", "--hosts", names, destination]
    pipe = subprocess.PIPE
    with first.popen([COMMAND, *words], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as run:
        out, errors = run.communicate(timeout=280)
    assert (run.returncode, errors) == (1, ""), out
    output = sections(out)
    assert set(output) >= {"lab1", "lab2", "lab9", AFAR}
    assert "note   warning" in output["lab1"]
    assert "can read the network between the hosts" in output["lab1"]
    assert f"seen here as {second.share / 'results'}" in output["lab2"]
    for host in ("lab1", "lab2"):
        assert "a lock that the program's host holds is visible here" in output[host]
        assert "the ports of all other hosts can be reached" in output[host]
    assert "fails" in output["lab9"]
    assert "  note   shared folders" in output[AFAR]
    assert "PARALLEL_MIRRORED_STORAGE" in output[AFAR]
    assert "fails" not in output["lab2"] + output[AFAR]
    assert first.run(["ls", "-A", destination]).stdout == ""
