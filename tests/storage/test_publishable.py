"""A task publishes every kind of file unchanged, or fails with a reason."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_processes import open_folder, unprivileged

import encamp
from encamp.errors import BadDestination, UnusableOutput
from encamp.storage.disk.temporary_names import PART
from encamp.storage.files_by_request import TaskFiles, WritePiece
from encamp.storage.local_storage import local_storage
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import Output, OutputMap, as_outputs, bound
from encamp.storage.outputs.send_outputs import OutputPaths, Piece
from encamp.storage.outputs.stage import stage, unstage
from encamp.storage.outputs.still_intact import intact
from encamp.storage.shared_folders import MIRRORED


@pytest.fixture
def folder(local_storage_base: Path) -> Path:
    """A task's folder, empty."""
    path = local_storage() / "task"
    path.mkdir()
    return path


def write(base: Path, *names: str) -> None:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")


Bring = Callable[[OutputMap], Path]
"""Stages and publishes; gives the destination."""


def locally(folder: Path, to: Path, spec: OutputMap) -> None:
    deliver_one(stage(folder, as_outputs(spec), to, token="t", task="name"))


class Sea:
    """A channel whose other side has the shared root somewhere else."""

    def __init__(self, files: TaskFiles, roots: Path) -> None:
        self.files, self.roots = files, roots

    def write(self, piece: Piece) -> OutputPaths:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MIRRORED, str(self.roots))
            sent = self.files.answer(WritePiece(piece))
            assert isinstance(sent, OutputPaths)
            return sent


def by_channel(folder: Path, to: Path, spec: OutputMap) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MIRRORED, str(to.parent))
        wanted = bound(as_outputs(spec), to)
        sea = Sea(TaskFiles((), wanted), to.parent)
        patch.setenv(MIRRORED, "/no-such-folder")
        staged = stage(folder, wanted, Path("/none"), token="t", task="name", channel=sea)
        patch.setenv(MIRRORED, str(to.parent))
        deliver_one(staged)


@pytest.fixture(params=[locally, by_channel])
def bring(request: pytest.FixtureRequest, folder: Path, here: Path) -> Iterator[Bring]:
    def brought(spec: OutputMap) -> Path:
        request.param(folder, here / "to", spec)
        return here / "to"

    yield brought
    assert [path for path in here.rglob("*") if path.name.startswith(PART)] == []


def seen(top: Path) -> dict[str, str]:
    """All paths below a folder, and what is there: text, ``-> target`` or ``/`` for a folder."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            what = f"-> {path.readlink()}"
        else:
            what = "/" if path.is_dir() else path.read_text()
        found[str(path.relative_to(top))] = what
    return found


def test_empty_folders_are_published(bring: Bring, folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "tree/deep/empty").mkdir(parents=True)
    write(folder, "tree/a")
    assert seen(bring(["empty", "tree"])) == {
        "empty": "/",
        "tree": "/",
        "tree/a": "content of tree/a",
        "tree/deep": "/",
        "tree/deep/empty": "/",
    }


@pytest.mark.parametrize("pattern", ["*", "**", "out*", "out/**", "out/*"])
def test_also_by_patterns(pattern: str, bring: Bring, folder: Path) -> None:
    write(folder, "out/x/a")
    (folder / "out/empty/er").mkdir(parents=True)
    top = bring(pattern)
    top = top / "out" if (top / "out").exists() else top
    assert seen(top) == {"empty": "/", "empty/er": "/", "x": "/", "x/a": "content of out/x/a"}


def test_folder_matched_by_double_star_is_copied_with_its_tree(bring: Bring, folder: Path) -> None:
    write(folder, "runs/1/results/a", "runs/1/other", "runs/2/results/b")
    assert seen(bring("runs/**/results")) == {
        "1": "/",
        "1/results": "/",
        "1/results/a": "content of runs/1/results/a",
        "2": "/",
        "2/results": "/",
        "2/results/b": "content of runs/2/results/b",
    }


def test_symlinks_in_a_tree_stay_what_they_are(bring: Bring, folder: Path) -> None:
    write(folder, "tree/run/a")
    (folder / "tree/latest").symlink_to("run")
    (folder / "tree/run/again").symlink_to("a")
    (folder / "tree/run/up").symlink_to("../run/a")
    (folder / "tree/self").symlink_to(".")
    (folder / "tree/chain").symlink_to("latest")
    home = bring({"tree": "."})
    assert {name: what for name, what in seen(home).items() if what.startswith("->")} == {
        "tree/latest": "-> run",
        "tree/run/again": "-> a",
        "tree/run/up": "-> ../run/a",
        "tree/self": "-> .",
        "tree/chain": "-> latest",
    }
    assert (home / "tree/chain/a").read_text() == "content of tree/run/a"


def test_absolute_symlink_to_published_file_is_adapted(bring: Bring, folder: Path) -> None:
    write(folder, "tree/deep/a", "tree/b")
    (folder / "tree/deep/link").symlink_to(folder / "tree/b")
    (folder / "tree/folder").symlink_to(folder / "tree/deep")
    home = bring("tree")
    assert (home / "tree/deep/link").readlink() == Path("../b")
    assert (home / "tree/folder").readlink() == Path("deep")


def test_a_symlink_whose_target_is_renamed_leads_to_the_new_name(
    bring: Bring, folder: Path
) -> None:
    write(folder, "run-3")
    (folder / "latest").symlink_to("run-3")
    home = bring([Output("run-3", rename="result"), Output("latest")])
    assert seen(home) == {"result": "content of run-3", "latest": "-> result"}


def test_symlink_published_with_target_stays_symlink(bring: Bring, folder: Path) -> None:
    write(folder, "run-3.csv")
    (folder / "latest.csv").symlink_to("run-3.csv")
    assert seen(bring("*.csv")) == {
        "run-3.csv": "content of run-3.csv",
        "latest.csv": "-> run-3.csv",
    }


def test_symlink_published_without_target_becomes_file(bring: Bring, folder: Path) -> None:
    write(folder, "runs/3", "tree/a")
    (folder / "latest").symlink_to("runs/3")
    (folder / "tree/out").symlink_to("../runs/3")
    (folder / "chain").symlink_to("latest")
    assert seen(bring({"latest": "x", "tree": "y", "chain": "z"})) == {
        "x": "/",
        "x/latest": "content of runs/3",
        "y": "/",
        "y/tree": "/",
        "y/tree/a": "content of tree/a",
        "y/tree/out": "content of runs/3",
        "z": "/",
        "z/chain": "content of runs/3",
    }


def test_matched_symlink_to_unpublished_folder_becomes_tree(bring: Bring, folder: Path) -> None:
    write(folder, "runs/3/a")
    (folder / "runs/3/again").symlink_to("a")
    (folder / "runs/3/empty").mkdir()
    (folder / "latest").symlink_to("runs/3")
    assert seen(bring("latest")) == {
        "latest": "/",
        "latest/a": "content of runs/3/a",
        "latest/again": "-> a",
        "latest/empty": "/",
    }


def test_hard_links_are_two_files(bring: Bring, folder: Path) -> None:
    write(folder, "a")
    os.link(folder / "a", folder / "b")
    assert seen(bring("*")) == {"a": "content of a", "b": "content of a"}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        server.bind(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nothing")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def outward_file(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def outward_folder(path: Path) -> None:
    path.symlink_to("/etc")


def outward_relative(path: Path) -> None:
    path.symlink_to("../../../../..")


ODD = [
    (fifo, "it is a FIFO"),
    (listening, "it is a socket"),
    (dangling, "which does not exist"),
    (outward_file, "points to /etc/passwd, outside the task's folder"),
    (outward_folder, "points to /etc, outside the task's folder"),
    (outward_relative, "outside the task's folder"),
]


@pytest.mark.parametrize(("make", "why"), ODD)
@pytest.mark.parametrize("pattern", ["tree/odd", "tree", "tree/*", "**", "*/odd"])
def test_unpublishable_entry_is_an_error_naming_it(
    pattern: str, make: Callable[[Path], None], why: str, bring: Bring, folder: Path, here: Path
) -> None:
    write(folder, "tree/a")
    make(folder / "tree/odd")
    with pytest.raises(UnusableOutput, match=why) as caught:
        bring(pattern)
    assert caught.value.path == "tree/odd"
    assert not (here / "to").exists()


@pytest.mark.parametrize("pattern", ["tree/odd", "tree"])
def test_symlink_to_itself_is_unusable_output(pattern: str, bring: Bring, folder: Path) -> None:
    write(folder, "tree/a")
    loop(folder / "tree/odd")
    with pytest.raises(UnusableOutput, match="which does not exist"):
        bring(pattern)


@pytest.mark.parametrize("pattern", ["way/passwd", "way/*", "way/pass*"])
def test_match_behind_symlink_is_unusable_output(pattern: str, bring: Bring, folder: Path) -> None:
    (folder / "way").symlink_to("/etc")
    with pytest.raises(UnusableOutput, match=r"outside the task's folder"):
        bring(pattern)


def test_tree_symlink_to_unpublished_folder_is_an_error(bring: Bring, folder: Path) -> None:
    write(folder, "tree/a", "other/b")
    (folder / "tree/link").symlink_to("../other")
    with pytest.raises(
        UnusableOutput, match="a symlink to the folder other, which is not an output"
    ):
        bring("tree")
    assert seen(bring(["tree", "other"]))["tree/link"] == "-> ../other"


def test_a_failed_task_leaves_what_can_go_home(folder: Path, here: Path) -> None:
    write(folder, "tree/a")
    for number, (make, _) in enumerate(ODD):
        make(folder / f"tree/{number}")
    outputs = as_outputs([Output("tree", required=False)])
    deliver_one(stage(folder, outputs, here / "to", token="t", task="name", lenient=True))
    assert seen(here / "to/tree") == {"a": "content of tree/a"}


def test_removing_the_task_folder_is_an_error(folder: Path, here: Path) -> None:
    folder.rmdir()
    with pytest.raises(
        UnusableOutput, match=r"its output \*.txt .* the task's folder has vanished"
    ):
        stage(folder, as_outputs("*.txt"), here / "to", token="t", task="name")
    assert stage(folder, as_outputs("a"), here / "to", token="t", task="name", lenient=True) == []


def test_folders_that_cannot_be_listed_are_an_error(here: Path) -> None:
    with open_folder() as base:
        for name in ("task", "task/shut", "to"):
            (base / name).mkdir()
            (base / name).chmod(0o777)
        write(base, "task/shut/a", "task/b")
        (base / "task/shut").chmod(0)

        def attempt(pattern: str) -> None:
            stage(base / "task", as_outputs(pattern), base / "to", token="t", task="name")

        for pattern in ("*", "shut", "*/a", "**/a"):
            try:
                message = unprivileged(lambda: attempt(pattern))  # noqa: B023
            finally:
                pass
            assert "its output" in message, pattern
            assert "shut" in message, pattern
        (base / "task/shut").chmod(0o777)


def test_published_links_and_folders_are_intact_until_they_change(folder: Path, here: Path) -> None:
    write(folder, "a")
    (folder / "link").symlink_to("a")
    (folder / "empty").mkdir()
    published = deliver_one(stage(folder, as_outputs("*"), here / "to", token="t", task="name"))
    assert all(map(intact, published))
    assert {one.kind for one in published} == {"file", "link", "folder"}
    (here / "to/link").unlink()
    (here / "to/link").symlink_to("empty")
    (here / "to/empty").rmdir()
    assert [one.kind for one in published if not intact(one)] == ["folder", "link"]


@pytest.mark.parametrize("existing", ["replace", "keep", "error"])
def test_links_and_folders_heed_what_is_there(existing: str, folder: Path, here: Path) -> None:
    write(folder, "a")
    (folder / "link").symlink_to("a")
    (folder / "empty").mkdir()
    write(here, "to/link", "to/empty/mine")
    spec = [
        Output("link", existing=existing),  # type: ignore[arg-type]
        Output("empty", existing=existing),  # type: ignore[arg-type]
        Output("a"),
    ]
    if existing == "error":
        with pytest.raises(encamp.InputError):
            locally(folder, here / "to", spec)
    else:
        locally(folder, here / "to", spec)
    assert (here / "to/link").is_symlink() == (existing == "replace")
    assert (here / "to/empty/mine").exists()


def test_a_file_in_the_place_of_an_empty_folder_is_not_lost(folder: Path, here: Path) -> None:
    (folder / "empty").mkdir()
    write(here, "to/empty")
    with pytest.raises(BadDestination, match="a file with that name"):
        locally(folder, here / "to", "empty")
    assert (here / "to/empty").read_text() == "content of to/empty"


def test_unpublished_staged_files_are_removed(folder: Path, here: Path) -> None:
    write(folder, "a")
    (folder / "link").symlink_to("a")
    (folder / "empty").mkdir()
    unstage(stage(folder, as_outputs("*"), here / "to", token="t", task="name"))
    assert seen(here / "to") == {}


def test_at_a_url_links_are_what_they_lead_to_and_empty_folders_are_made(
    folder: Path, here: Path
) -> None:
    write(folder, "tree/a")
    (folder / "tree/link").symlink_to("a")
    (folder / "tree/empty").mkdir()
    locally(folder, here, {"tree": "memory://far"})
    far = pytest.importorskip("fsspec").filesystem("memory")
    files = {path: far.cat(path).decode() for path in far.find("/far")}
    assert files == dict.fromkeys(("/far/tree/a", "/far/tree/link"), "content of tree/a")
    assert far.isdir("/far/tree/empty")
    far.rm("/far", recursive=True)
    (folder / "tree/way").symlink_to("empty")
    with pytest.raises(UnusableOutput, match="a symlink to the folder"):
        locally(folder, here, {"tree": "memory://far"})


def test_a_job_brings_links_and_empty_folders_home_and_is_up_to_date_then(here: Path) -> None:
    states = []
    for _ in range(2):
        job = encamp.Job("job", to="out")
        for name in ("one", "two"):
            step = f"mkdir -p t/{name} t/empty; echo > t/{name}/a; ln -s {name} t/latest-{name}"
            job.add(name, encamp.command(step, shell=True), outputs={"t/*": "t"})
        report = job.run(slots=1)
        states += [task.state for task in report.tasks]
    assert states == ["done", "done", "up to date", "up to date"]
    assert (here / "out/t/latest-one").readlink() == Path("one")
    assert (here / "out/t/empty").is_dir()
    (here / "out/t/latest-two").unlink()
    report = job.run(slots=1)
    assert [task.state for task in report.tasks] == ["up to date", "done"]


def test_a_jobs_task_says_what_cannot_go_home(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", "mkfifo pipe", outputs="*")
    report = job.run(slots=1, check=False)
    assert report["task"].state == "failed"
    assert "pipe cannot be published: it is a FIFO" in report["task"].why
