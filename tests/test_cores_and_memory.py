"""Cores and memory are those available to this process, not those of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from encamp import cores_and_memory, slurm
from encamp.control_groups import processes_left
from encamp.cores_and_memory import cores, memory

GIB = 1 << 30
SLICE = "/system.slice/job.scope"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight cores and 64 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores_and_memory, "memory_of_machine", lambda: 64 * GIB)


def test_a_machines_memory_is_what_others_say_of_it() -> None:
    asked = (
        "import psutil; from encamp.cores_and_memory import memory_of_machine as ours; "
        "print(ours() == psutil.virtual_memory().total)"
    )
    result = subprocess.run(
        [sys.executable, "-c", asked], check=True, capture_output=True, text=True
    )
    assert result.stdout == "True\n"


def tree(
    root: Path, version: int, path: str, inside: str = "/", at: str = "/sys/fs/cgroup"
) -> Path:
    """A made-up root; where the groups are mounted in it."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    if version == 2:
        lines = [f"0::{path}"]
        mounts = [f"31 23 0:28 {inside} {at} rw shared:9 - cgroup2 cgroup rw,nsdelegate"]
    else:
        lines = ["9:name=systemd:/x", f"4:memory:{path}", f"2:cpu,cpuacct:{path}", "0::/elsewhere"]
        mounts = [
            f"33 31 0:30 {inside} {at}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
            f"35 31 0:32 {inside} {at}/memory rw - cgroup cgroup rw,memory",
            f"37 31 0:34 / {at}/unified rw - cgroup2 cgroup2 rw",
        ]
    (proc / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    mounts = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *mounts]
    (proc / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return root / at.replace("\\040", " ").lstrip("/")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("max 100000", 8),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("30000 10000", 3),
        ("1600000 100000", 8),
        ("nonsense", 8),
    ],
)
def test_a_quota_of_cpu_time_counts_as_so_many_cores(
    tmp_path: Path, given: str, wanted: int
) -> None:
    group = tree(tmp_path, 2, SLICE) / SLICE[1:]
    write(group, cpu__max=given, memory__max="max")
    assert cores(tmp_path) == wanted
    assert memory(tmp_path) == 64 * GIB


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    mounted = tree(tmp_path, 2, SLICE)
    write(mounted / SLICE[1:], cpu__max="max 100000", memory__max=str(20 * GIB))
    write(mounted / "system.slice", cpu__max="200000 100000", memory__max=str(2 * GIB))
    assert (cores(tmp_path), memory(tmp_path)) == (2, 2 * GIB)


@pytest.mark.parametrize(("quota", "wanted"), [("-1", 8), ("100000", 1), ("250000", 3)])
def test_the_first_version_of_cgroups_is_heeded_too(
    tmp_path: Path, quota: str, wanted: int
) -> None:
    mounted = tree(tmp_path, 1, "/docker/7f")
    write(mounted / "cpu,cpuacct/docker/7f", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    write(mounted / "memory/docker/7f", memory__limit_in_bytes="9223372036854771712")
    write(mounted / "memory/docker", memory__limit_in_bytes=str(3 * GIB))
    assert (cores(tmp_path), memory(tmp_path)) == (wanted, 3 * GIB)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("path", "inside"), [("/docker/7f", "/docker/7f"), ("/", "/"), ("/../..", "/")]
)
def test_a_container_sees_its_own_group_as_the_topmost(
    tmp_path: Path, version: int, path: str, inside: str
) -> None:
    mounted = tree(tmp_path, version, path, inside, at="/sys/fs\\040/cgroup")
    if version == 2:
        write(mounted, cpu__max="100000 100000", memory__max=str(GIB))
    else:
        cpu = mounted / "cpu,cpuacct"
        write(cpu, cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
        write(mounted / "memory", memory__limit_in_bytes=str(GIB))
    assert (cores(tmp_path), memory(tmp_path)) == (1, GIB)


def test_affinity_counts_where_it_is_tighter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    write(tree(tmp_path, 2, "/"), cpu__max="400000 100000")
    assert cores(tmp_path) == 1


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    assert (cores(tmp_path), memory(tmp_path)) == (8, 64 * GIB)


_IN_GROUP = """
import os, sys
for folder in sys.argv[1:]:
    open(os.path.join(folder, "cgroup.procs"), "w").write(str(os.getpid()))
import encamp
from encamp.compat.pyopus.base import getNumberOfCores
with encamp.Cluster() as cluster:
    host, = cluster.hosts()
    print(cluster.slots, host.cores, host.memory, getNumberOfCores())
"""


@pytest.fixture
def real_groups() -> Iterator[list[Path]]:
    """Groups of this machine for one core and 1 GiB, where it lets us make some."""
    base = Path("/sys/fs/cgroup")
    name = f"encamp-test-{os.getpid()}"
    made: list[Path] = []
    try:
        if (base / "cgroup.controllers").exists():
            files = [(base / name, {"cpu.max": "100000 100000", "memory.max": str(GIB)})]
        else:
            files = [
                (base / "cpu" / name, {"cpu.cfs_quota_us": "100000"}),
                (base / "memory" / name, {"memory.limit_in_bytes": str(GIB)}),
            ]
        try:
            for folder, limits in files:
                folder.mkdir()
                made.append(folder)
                for file, text in limits.items():
                    (folder / file).write_text(text)
        except OSError as exc:
            pytest.skip(f"no control group can be made here ({exc})")
        yield made
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def test_a_cluster_in_a_real_group_has_what_the_group_has(real_groups: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IN_GROUP, *map(str, real_groups)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["1", "1", str(GIB), "1"], done.stderr


def test_as_many_processes_may_start_as_the_fullest_group_allows(tmp_path: Path) -> None:
    assert processes_left(tmp_path) is None
    top = tree(tmp_path, 2, SLICE)
    files = {"pids.current": "40\n"}
    write(top / SLICE.lstrip("/"), **files, **{"pids.max": "100\n"})
    assert processes_left(tmp_path) == 60
    write(top / "system.slice", **files, **{"pids.max": "50\n"})
    write(top, **files, **{"pids.max": "max\n"})
    assert processes_left(tmp_path) == 10
    write(top / "system.slice", **{"pids.max": "30\n"})
    assert processes_left(tmp_path) == 0


@pytest.mark.parametrize(
    ("variables", "mib"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "300"}, 300),
        ({"SLURM_MEM_PER_CPU": "100"}, 100),
        ({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4"}, 400),
        ({"SLURM_MEM_PER_NODE": "300", "SLURM_MEM_PER_CPU": "100"}, 300),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
    ],
)
def test_slurm_tells_memory_for_a_host_or_for_each_core(
    variables: dict[str, str], mib: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "here", **variables}.items():
        monkeypatch.setenv(name, text)
    assert slurm.memory() == (None if mib is None else mib << 20)
    monkeypatch.delenv("SLURMD_NODENAME")
    assert slurm.memory() is None
