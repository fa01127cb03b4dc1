"""The terrain job on hosts that have the share at different paths, or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from encamp.engines.mpi.find_launcher import find_launcher
from encamp.errors import EngineUnavailable
from encamp.storage.local_storage import LOCAL
from lab import Host, Lab

COMMAND = Path(sysconfig.get_path("scripts"), "encamp")
READABLE = (
    r"UserWarning: anybody who can read the network between the hosts|_warn_once\(_READABLE\)"
)
"""What is said once of an engine whose frames others can read, and where."""
EXAMPLE = Path(__file__).parents[2] / "examples/terrain/terrain.py"


def terrain(host: Host, to: Path, *options: str, storage: str = "storage") -> None:
    """Run the job from a host, which ends well and says nothing."""
    command = [COMMAND, "run", "--quiet", *options, EXAMPLE, to, "--minutes", "360"]
    done = host.run(command, env={LOCAL: f"{host.disk}/{storage}"}, timeout=100)
    output = (done.stdout + done.stderr).splitlines()
    assert [line for line in output if not re.search(READABLE, line)] == []


def results(folder: Path) -> dict[str, str]:
    """Digests of all results; what tells of time and place is left out."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "terrain.job" not in str(path)
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "MANIFEST"
    }


def attempts(folder: Path) -> list[dict[str, Any]]:
    report = json.loads((folder / "terrain.job/report.json").read_text())
    return [attempt for task in report["tasks"] for attempt in task["attempts"]]


@pytest.fixture(scope="module")
def on_one_host(four_hosts: Lab) -> dict[str, str]:
    terrain(four_hosts.hosts[0], shared(four_hosts, "one"), storage="other")
    return results(four_hosts.share / "one")


def shared(lab: Lab, name: str) -> Path:
    """A folder on the share, as the first host calls it."""
    assert lab.hosts[0].share is not None
    return lab.hosts[0].share / name


def options_for(engine: str, lab: Lab) -> list[str]:
    """What the command is told; all hosts take part."""
    names = ",".join(host.name for host in lab.hosts)
    if engine in ("pvm", "dask", "ipyparallel"):
        return ["--engine", engine, "--hosts", names]
    try:
        find_launcher(mpi=engine)
    except EngineUnavailable:
        need(engine, False)
    return ["--engine", "mpi", "--option", f"mpi={engine}", "--hosts", names, "-n", "4"]


@pytest.mark.parametrize("engine", ["pvm", "mpich", "openmpi", "dask", "ipyparallel"])
def test_hosts_with_other_mount_points_and_one_without_give_the_same_bytes(
    engine: str, lab: Lab, on_one_host: dict[str, str]
) -> None:
    for host in lab.hosts:
        host.run([COMMAND, "clean", "--all"])
    terrain(lab.hosts[0], shared(lab, engine), *options_for(engine, lab))
    folder = lab.share / engine
    assert results(folder) == on_one_host
    assert len(on_one_host) > 10
    assert list(folder.rglob(".encamp-*")) == []
    where = {attempt["where"]["host"] for attempt in attempts(folder)}
    assert where == {host.name for host in lab.hosts}
    check_inputs_read_once(folder, lab)
    for host in lab.hosts:
        left = host.run(["find", host.storage, "-path", "*sandboxes/*"]).stdout
        assert left == "", f"left on {host.name}"


def check_inputs_read_once(folder: Path, lab: Lab) -> None:
    """The job's input is brought to each host once; the host without the share gets all others."""
    survey = EXAMPLE.with_name("survey.toml").stat().st_size
    brought: dict[str, int] = {}
    for attempt in attempts(folder):
        host = attempt["where"]["host"]
        brought[host] = brought.get(host, 0) + attempt["bytes_shared"]
    with_share = [host.name for host in lab.hosts if host.share is not None]
    assert {name: brought[name] for name in with_share} == dict.fromkeys(with_share, survey)
    assert brought[lab.hosts[-1].name] > survey
