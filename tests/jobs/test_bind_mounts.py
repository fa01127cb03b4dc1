"""A folder that is mounted at a second place is one folder for what tasks read and publish."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import encamp
from encamp.errors import BadDestination, BadJob
from encamp.jobs.plan.prepare import Prepared
from encamp.storage.disk import one_name as module
from encamp.storage.disk.one_name import _Mounts, one_name

_TWO = b"""\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:25 / /home/eve/with\\040blank rw shared:1 - tmpfs tmpfs rw
29 27 254:0 /home/eve/out /mnt/out rw - ext4 /dev/vda rw
30 27 254:0 /home/eve/hidden /mnt/other rw - ext4 /dev/vda rw
31 27 0:26 / /home/eve/hidden rw - tmpfs tmpfs rw
32 27 254:0 /home/eve/file /mnt/file rw - ext4 /dev/vda rw
"""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/mnt/out", "/home/eve/out"),
        ("/mnt/out/a/b", "/home/eve/out/a/b"),
        ("/mnt/outer/a", "/mnt/outer/a"),
        ("/mnt/file", "/home/eve/file"),
        ("/home/eve/out/a", "/home/eve/out/a"),
        ("/home/eve/with blank/a", "/home/eve/with blank/a"),
        ("/mnt/other/a", "/mnt/other/a"),
        ("/", "/"),
    ],
)
def test_a_path_has_the_name_in_the_mount_that_shows_most(path: str, name: str) -> None:
    assert _Mounts(_TWO).first_name(path) == name


def test_no_disk_of_a_system_without_binds_has_several_places() -> None:
    assert not _Mounts(_TWO.splitlines()[0]).several
    assert not _Mounts(b"").several


@pytest.fixture
def bound(here: Path) -> Iterator[Path]:
    """The destination, mounted at a second place."""
    for folder in ("out/import/1", "out/job.job", "bound", "folders/import"):
        Path(folder).mkdir(parents=True)
    Path("out/import/1/h.txt").touch()
    places = [("out", "bound"), ("out/import", "folders/import")]
    mounted = []
    try:
        for folder, place in places:
            words = ["mount", "--bind", here / folder, here / place]
            if subprocess.run(words, check=False, capture_output=True).returncode:
                pytest.skip("mounting is not allowed here")
            mounted.append(here / place)
        module._mounts.cache_clear()
        yield here / "bound"
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)
        module._mounts.cache_clear()


def test_names_by_mounts_and_symlinks_are_one(bound: Path, here: Path) -> None:
    Path("link").symlink_to("bound/import")
    names = {one_name(name) for name in ("out/import", "bound/import", "link", "folders/import")}
    assert names == {str(here / "out/import")}


@pytest.mark.parametrize(
    "mirror",
    [
        "bound/import",
        "bound/import/1/h.txt",
        "bound/**/*.txt",
        "folders/*",
        "bound/import/2",
    ],
)
def test_inputs_through_bind_mount_have_makers(bound: Path, mirror: str) -> None:
    job = encamp.Job("job", to="out")
    job.add("make", "true", outputs={"h.txt": "import/1"})
    job.add("make-2", "true", outputs={"h.txt": "import/2"})
    job.add("read", "true", mirror=encamp.Mirror(mirror, required=False))
    with pytest.raises(BadJob, match="reads what task make"):
        Prepared(job)


@pytest.mark.parametrize("to", ["bound/job.job", "bound/job.job/logs"])
@pytest.mark.parametrize("pattern", ["journal.jsonl", "*.jsonl"])
def test_no_output_gets_into_the_jobs_folder_by_a_mount(
    bound: Path, here: Path, pattern: str, to: str
) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", "touch journal.jsonl", outputs={pattern: str(here / to)})
    with pytest.raises(BadDestination, match="job's own folder"):
        job.run()


def test_a_job_publishes_to_a_mounted_folder_and_finds_its_results_again(
    bound: Path, here: Path
) -> None:
    def job() -> encamp.Job:
        job = encamp.Job("mounted", to="bound")
        outputs = [encamp.Output("a"), encamp.Output("b*", to=str(here / "folders/import"))]
        job.add("task", "touch a b1", outputs=outputs)
        job.add("bad", ["touch c", "false"], on_failure="c")
        return job

    first = job().run(check=False)
    assert first["task"].state == "done"
    published = [output.path for output in (*first["task"].outputs, *first["bad"].rescued)]
    assert published == [f"{bound}/a", f"{here}/folders/import/b1", f"{bound}/c"]
    again = job().run(check=False)
    assert again["task"].state == "up to date"
    assert again.orphans == 0
