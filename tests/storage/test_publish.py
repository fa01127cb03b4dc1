"""Publishing beside existing files: policies, and races with others."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace

import encamp
from encamp.attempt_facts import Published
from encamp.errors import BadDestination, BadJob, OutputExists
from encamp.storage.disk.temporary_names import PART
from encamp.storage.outputs import publish as publishing
from encamp.storage.outputs import stage as staging
from encamp.storage.outputs.deliveries import Delivery, deliver, deliver_one
from encamp.storage.outputs.patterns import Existing, Output, as_outputs
from encamp.storage.outputs.publish import digest_of
from encamp.storage.outputs.stage import Staged, stage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task's folder with outputs in it."""
    path = tmp_path / "task"
    path.mkdir()
    for name in "abc":
        (path / name).write_text("new")
    return path


@pytest.fixture
def to(tmp_path: Path) -> Path:
    path = tmp_path / "to"
    path.mkdir()
    return path


def staged(folder: Path, to: Path, existing: Existing, *names: str) -> list[Staged]:
    wanted = as_outputs([Output(name, ".", existing=existing) for name in names or ("a",)])
    return stage(folder, wanted, to, token="token", task="task")


def there(to: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(to.iterdir())}


@pytest.mark.parametrize("existing", get_args(Existing))
def test_new_file_is_published_under_every_policy(
    existing: Existing, folder: Path, to: Path
) -> None:
    (published,) = deliver_one(staged(folder, to, existing))
    assert there(to) == {"a": "new"}
    assert published.digest == digest_of(to / "a")
    assert published.mtime_ns == (to / "a").stat().st_mtime_ns


@pytest.mark.parametrize("kept", [0, 2, 4])
def test_a_copy_that_the_disk_changed_before_it_was_whole_is_refused(
    kept: int, folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some network disks do, which tell of it only when a file is flushed or closed."""
    monkeypatch.setattr(staging, "flushed", lambda fd, _: os.ftruncate(fd, kept))
    with pytest.raises(BadDestination, match="kept fewer bytes"):
        staged(folder, to, "replace")
    assert there(to) == {}


class NetworkDisk:
    """Shows files of other hosts with another inode; ``owners``: with the same owners."""

    def __init__(self, patch: pytest.MonkeyPatch, *, owners: bool) -> None:
        patch.setattr(publishing, "is_network_device", lambda _: True)
        patch.setattr(publishing, "keeps_owners", lambda _: owners)

    @staticmethod
    def staged(folder: Path, to: Path, uid: int) -> list[Staged]:
        """As another host has staged it for a user who has this number there."""
        (one,) = staged(folder, to, "replace")
        assert one.written is not None
        return [replace(one, written=replace(one.written, inode=1, mtime_ns=2, uid=uid))]


@pytest.mark.parametrize("owners", [False, True])
def test_a_network_disk_may_show_a_file_with_another_inode_and_our_own_owner(
    owners: bool, folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = NetworkDisk(monkeypatch, owners=owners)
    deliver_one(disk.staged(folder, to, os.geteuid() + 1))
    assert there(to) == {"a": "new"}


@pytest.mark.parametrize("same_size", [False, True])
def test_a_file_on_a_network_disk_has_the_bytes_that_were_staged(
    same_size: bool, folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = NetworkDisk(monkeypatch, owners=False)
    made = disk.staged(folder, to, os.geteuid())
    (part,) = to.iterdir()
    part.write_text("odd" if same_size else "other")
    with pytest.raises(BadDestination, match="was changed"):
        deliver_one(made)
    assert there(to) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("owners", [False, True])
def test_a_file_of_another_owner_on_a_network_disk_is_refused_if_that_shows_owners(
    owners: bool, folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = NetworkDisk(monkeypatch, owners=owners)
    made = disk.staged(folder, to, os.geteuid())
    (part,) = to.iterdir()
    os.chown(part, 12345, -1)
    with pytest.raises(BadDestination, match="was changed") if owners else nullcontext():
        deliver_one(made)


def test_existing_file_follows_policy(folder: Path, to: Path) -> None:
    (to / "a").write_text("old one")
    (kept,) = deliver_one(staged(folder, to, "keep"))
    assert there(to) == {"a": "old one"}
    assert (kept.size, kept.digest) == (7, digest_of(to / "a"))
    with pytest.raises(OutputExists) as caught:
        deliver_one(staged(folder, to, "error"))
    assert caught.value.path == str(to / "a")
    for part in to.glob(f"{PART}*"):
        part.unlink()
    assert there(to) == {"a": "old one"}
    deliver_one(staged(folder, to, "replace"))
    assert there(to) == {"a": "new"}


def test_a_broken_symlink_is_something_that_is_there(folder: Path, to: Path) -> None:
    (to / "a").symlink_to("nowhere")
    with pytest.raises(OutputExists):
        deliver_one(staged(folder, to, "error"))
    assert os.readlink(to / "a") == "nowhere"


def test_irreplaceable_file_holds_back_all_others(folder: Path, to: Path) -> None:
    (to / "c").write_text("old")
    with pytest.raises(OutputExists):
        deliver_one(staged(folder, to, "error", "a", "b", "c"))
    assert {n: t for n, t in there(to).items() if not n.startswith(PART)} == {"c": "old"}


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_earlier_outputs_of_the_same_task_may_be_replaced(
    existing: Existing, folder: Path, to: Path
) -> None:
    (to / "a").write_text("earlier")
    (to / "b").write_text("somebody's")
    deliver([Delivery(staged(folder, to, existing), own={str(to / "a")})])
    assert there(to) == {"a": "new", "b": "somebody's"}


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_concurrently_created_file_is_never_replaced(
    existing: Existing, folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look at what is there, before the new name is given."""
    real = publishing._published

    def published(one: Staged, own: frozenset[str]) -> Published:
        (to / "a").write_text("theirs")
        return real(one, own)

    monkeypatch.setattr(publishing, "_published", published)
    ready = staged(folder, to, existing)
    if existing == "keep":
        (kept,) = deliver_one(ready)
        assert kept.digest == digest_of(to / "a")
    else:
        with pytest.raises(OutputExists):
            deliver_one(ready)
    assert there(to) == {"a": "theirs"}


def test_file_swapped_during_rename_is_detected(
    folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of the temporary file and the rename."""
    real = os.rename

    def rename(part: str, final: str, **folders: int) -> None:
        (to / part).unlink()
        (to / part).write_text("new")  # of the same size, but another file
        real(part, final, **folders)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(BadDestination, match="a different process has put a different file there"):
        deliver_one(staged(folder, to, "replace"))


def test_exactly_one_concurrent_publisher_succeeds(folder: Path, to: Path) -> None:
    """By links, which are refused where there is a name; no look beforehand could see to it."""
    threads = 8
    for turn in range(20):
        meet, done = threading.Barrier(threads), []
        (folder / "x").write_text(str(turn))
        wanted = Output("x", rename=f"x{turn}", existing="error")
        ready = [stage(folder, [wanted], to, token=f"t{n}", task="task") for n in range(threads)]

        def work(one: list[Staged], meet: threading.Barrier, done: list[str]) -> None:
            meet.wait(30)
            try:
                deliver_one(one)
                done.append("published")
            except OutputExists:
                done.append("there already")

        workers = [threading.Thread(target=work, args=(one, meet, done)) for one in ready]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert done.count("published") == 1
        assert done.count("there already") == threads - 1
    assert len([path for path in to.iterdir() if not path.name.startswith(PART)]) == 20


def test_a_disk_without_links_is_no_reason_to_replace_what_is_there(
    folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and some network disks have none; then the look and the rename are two steps."""

    def no_link(*args: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    deliver_one(staged(folder, to, "error"))
    assert there(to) == {"a": "new"}
    (folder / "a").write_text("newer")
    deliver_one(staged(folder, to, "keep"))
    assert there(to) == {"a": "new"}


def test_a_policy_that_there_is_not_is_refused_when_it_is_written() -> None:
    with pytest.raises(BadJob, match="never"):
        Output("a", existing="never")  # type: ignore[arg-type]


# In jobs


def job(existing: Existing, text: str = "made", to: str = "out") -> encamp.Job:
    job = encamp.Job("job", to=to)
    step = encamp.command(f"echo {text} > a; echo {text} > b", shell=True)
    job.add("task", step, outputs=[Output("a", existing=existing), Output("b")])
    return job


def results() -> dict[str, str]:
    return {path.name: path.read_text() for path in Path("out").iterdir() if path.is_file()}


def test_an_output_that_exists_fails_its_task_which_publishes_nothing(here: Path) -> None:
    Path("out").mkdir()
    Path("out/a").write_text("theirs")
    report = job("error").run(slots=1, check=False)
    assert report["task"].attempts[0].error_type == "OutputExists"
    assert len(report["task"].attempts) == 1
    assert "out/a exists already" in report["task"].why
    assert results() == {"a": "theirs"}
    assert not list(Path("out").rglob(f"{PART}*"))


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_foreign_files_are_never_claimed(existing: Existing, here: Path) -> None:
    """That the job looked at it, or kept it, does not make it the job's own."""
    Path("out").mkdir()
    Path("out/a").write_text("theirs")
    for text in ("one", "two", "two"):
        job(existing, text).run(slots=1, check=False, force=True)
        assert Path("out/a").read_text() == "theirs"
    Path("out/a").unlink()
    for text in ("one", "two"):
        job(existing, text).run(slots=1)
        assert Path("out/a").read_text() == f"{text}\n"


def test_a_kept_output_is_part_of_the_result(here: Path) -> None:
    Path("out").mkdir()
    Path("out/a").write_text("theirs")
    report = job("keep").run(slots=1)
    assert results() == {"a": "theirs", "b": "made\n"}
    digests = {Path(one.path).name: one.digest for one in report["task"].outputs}
    assert digests == {name: digest_of(Path("out", name)) for name in "ab"}
    assert job("keep").run(slots=1)["task"].state == "up to date"


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_a_job_may_replace_what_it_has_published_itself(existing: Existing, here: Path) -> None:
    for text in ("one", "two", "three"):
        assert job(existing, text).run(slots=1)["task"].state == "done"
        assert results() == {"a": f"{text}\n", "b": f"{text}\n"}


def test_a_job_may_not_replace_what_another_job_has_published(here: Path) -> None:
    other = encamp.Job("other", to="out")
    other.add("task", encamp.command("echo other > a", shell=True), outputs="a")
    other.run(slots=1)
    assert job("error").run(slots=1, check=False)["task"].state == "failed"
    assert results() == {"a": "other\n"}
