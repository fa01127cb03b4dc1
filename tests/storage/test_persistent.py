"""Persistent sandboxes: reused unchanged, renewed with reason, removed with their process."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_processes import run, start

import encamp
from encamp.errors import InputDamaged
from encamp.storage.inputs.mirror import Mirror, MirrorMap, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.owned_folder import sandboxes
from encamp.storage.persistent import remove_idle
from encamp.storage.sandbox_folder import Sandbox


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    remove_idle()


@pytest.fixture
def data(here: Path) -> Path:
    (here / "a").write_text("a")
    (here / "tree").mkdir()
    (here / "tree/b").write_text("b")
    return here


def used(mirror: MirrorMap = ("a", "tree"), *, name: str = "one", renew: bool = False) -> Path:
    """Use a folder, leave a trace in it, and return it."""
    with encamp.sandbox(mirror, name=name, persistent=True, renew=renew) as folder:
        with (folder / "trace").open("a") as file:
            file.write("x")
        return folder


def traces(folder: Path) -> int:
    return len((folder / "trace").read_text())


def left() -> list[Path]:
    return sorted(sandboxes(local_storage()).glob("*"))


def test_folder_without_a_name_persists() -> None:
    for expected in (1, 2):
        with encamp.sandbox(name="", persistent=True) as folder:
            with (folder / "trace").open("a") as file:
                file.write("x")
            assert traces(folder) == expected


def test_the_next_user_finds_it_as_it_was_left(data: Path) -> None:
    first = used()
    (first / "a").write_text("changed by a user")
    second = used()
    assert second == first
    assert traces(second) == 2
    assert (second / "a").read_text() == "changed by a user"


def test_unchanged_input_is_not_mirrored_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = used()

    def refuse(*args: object) -> None:
        pytest.fail("something is mirrored")

    monkeypatch.setattr("encamp.storage.placing.place.Placer.place", refuse)
    monkeypatch.setattr("encamp.storage.placing.place.copy_file", refuse)
    assert used() == first


def touch(here: Path) -> None:
    os.utime(here / "a", ns=(0, 1))


def rewrite_in_tree(here: Path) -> None:
    (here / "tree/b").write_text("other")


def add_to_tree(here: Path) -> None:
    (here / "tree/c").write_text("c")


def make_executable(here: Path) -> None:
    (here / "a").chmod(0o777)


@pytest.mark.parametrize("change", [touch, rewrite_in_tree, add_to_tree, make_executable])
def test_changed_inputs_recreate_persistent_folder(
    change: Callable[[Path], None], data: Path
) -> None:
    first = used()
    change(data)
    second = used()
    assert second != first
    assert traces(second) == 1
    assert not first.exists()
    assert (second / "a").stat().st_mtime_ns == (data / "a").stat().st_mtime_ns
    inputs = {path.name for path in (second / "tree").iterdir()}
    assert inputs == {path.name for path in (data / "tree").iterdir()}


@pytest.mark.parametrize(
    "other",
    [
        ("a",),
        {"a": "elsewhere", "tree": "."},
        (Mirror("a", rename="b"), "tree"),
        (Mirror("a", readonly=True), "tree"),
        ("a", Mirror("tree", exclude=("b",))),
    ],
)
def test_changed_map_recreates_persistent_folder(other: MirrorMap, data: Path) -> None:
    first = used()
    second = used(other)
    assert second != first
    assert not first.exists()
    assert used(other) == second


def test_renew_recreates_persistent_folder(data: Path) -> None:
    first = used()
    second = used(renew=True)
    assert second != first
    assert not first.exists()
    assert traces(second) == 1
    assert used() == second


def test_each_name_has_one_of_its_own(data: Path) -> None:
    one, two = used(name="one"), used(name="two")
    assert one != two
    assert (used(name="one"), used(name="two")) == (one, two)


def test_two_users_at_once_have_two_folders_and_one_stays(data: Path) -> None:
    with encamp.sandbox("a", name="one", persistent=True) as outer:
        with encamp.sandbox("a", name="one", persistent=True) as inner:
            assert inner != outer
            (outer / "a").write_text("outer's")
            assert (inner / "a").read_text() == "a"
        assert inner.exists()
    assert [folder.exists() for folder in (inner, outer)] == [True, False]
    with encamp.sandbox("a", name="one", persistent=True) as later:
        assert later == inner


def test_threads_at_once_never_share_one(data: Path) -> None:
    threads = 4
    meet = threading.Barrier(threads)
    at_once: list[set[Path]] = [set() for _ in range(10)]

    def work() -> None:
        for turn in at_once:
            with encamp.sandbox("a", name="one", persistent=True) as folder:
                meet.wait(30)
                turn.add(folder)
                meet.wait(30)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(turn) for turn in at_once] == [threads] * 10
    remove_idle()
    assert left() == []


def test_after_an_error_the_next_user_finds_what_is_there(data: Path) -> None:
    """The folder is its users' own affair; who doubts it says renew=True."""
    folders = []

    def block() -> None:
        with encamp.sandbox("a", name="one", persistent=True) as folder:
            folders.append(folder)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        block()
    assert used("a") == folders[0]


@pytest.mark.parametrize("name", ["a", "tree/b"])
@pytest.mark.parametrize("raises", [False, True])
def test_persistent_folder_with_damaged_shared_input_is_dropped(
    name: str, raises: bool, data: Path
) -> None:
    """A read-only input is a link to the cache; the damaged one must not reach the next user."""
    shared = [Mirror("a", mode="link"), Mirror("tree", mode="link")]
    folders = []

    def block() -> None:
        with encamp.sandbox(shared, name="one", persistent=True) as folder:
            folders.append(folder)
            (folder / name).chmod(0o600)
            (folder / name).write_text("damaged")
            if raises:
                raise ValueError("mine")

    with pytest.raises(ValueError if raises else InputDamaged):
        block()
    with encamp.sandbox(shared, name="one", persistent=True) as folder:
        assert folder != folders[0]
        assert (folder / "a").read_text() == "a"
        assert (folder / "tree/b").read_text() == "b"


def test_one_whose_input_was_damaged_stays_damaged(data: Path) -> None:
    """The first look has the entry fetched again; a second one must not find all well."""
    sandbox = Sandbox("one")
    sandbox.place(plan([Mirror("a", mode="link")], data))
    (sandbox.folder / "a").chmod(0o600)
    (sandbox.folder / "a").write_text("damaged")
    for task in ("first", "second"):
        with pytest.raises(InputDamaged, match=task):
            sandbox.check_inputs(task)
        (sandbox.folder / "a").unlink(missing_ok=True)
    sandbox.remove()


def test_removed_persistent_folder_is_recreated(data: Path) -> None:
    first = used()
    shutil.rmtree(first.parent)
    second = used()
    assert second != first
    assert (second / "a").read_text() == "a"


def test_inputs_that_cannot_be_placed_leave_nothing_and_the_next_try_works(data: Path) -> None:
    used()
    clash = [Mirror("tree"), Mirror("a", "tree", rename="b")]
    with pytest.raises(encamp.EncampError):
        used(clash)
    assert left() == []
    assert traces(used()) == 1


def test_outputs_of_every_use_are_published(data: Path) -> None:
    for number in range(3):
        made = {f"out-{number}": str(data / "to")}
        with encamp.sandbox("a", made, name="one", persistent=True) as folder:
            (folder / f"out-{number}").write_text(str(number))
    assert sorted(path.name for path in (data / "to").iterdir()) == ["out-0", "out-1", "out-2"]


def test_a_decorated_function_finds_its_folder_again(data: Path) -> None:
    @encamp.sandboxed("a", persistent=True)
    def work() -> tuple[Path, int]:
        with Path("trace").open("a") as file:
            file.write("x")
        return Path.cwd(), traces(Path())

    first, second = work(), work()
    assert first[0] == second[0]
    assert [first[1], second[1]] == [1, 2]


USER = """
    import os, signal, sys, encamp
    for _ in range(2):
        with encamp.sandbox("a", name="one", persistent=True) as folder:
            (folder / "mine").write_text("x")
    print(folder.parent, flush=True)
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("import threading; threading.Thread(target=print).start(); 1 / 0", 1),
    ],
)
def test_the_end_of_the_process_removes_it(end: str, status: int, data: Path) -> None:
    process = start(USER + "    " + end, cwd=data)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert out.strip()
    assert left() == []


def test_sigterm_within_a_block_removes_it(data: Path) -> None:
    code = USER + '    with encamp.sandbox("a", name="one", persistent=True):\n'
    process = start(code + "        os.kill(os.getpid(), signal.SIGTERM)", cwd=data)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert left() == []


def test_persistent_folder_of_killed_process_is_reclaimed(data: Path) -> None:
    process = start(USER + "    os.kill(os.getpid(), signal.SIGKILL)", cwd=data)
    out, _ = process.communicate(timeout=60)
    killed = Path(out.strip())
    assert (killed / "task/mine").exists()
    out = run(USER + "    print(os.path.exists(sys.argv[1]))", killed, cwd=data)
    again, there = out.split()
    assert again != str(killed)
    assert there == "False"
    assert left() == []


def test_one_of_a_living_process_is_its_own(data: Path) -> None:
    process = start(USER + "    sys.stdin.readline()", cwd=data, stdin=-1)
    assert process.stdout is not None
    mine = Path(process.stdout.readline().strip())
    other = used("a").parent
    run("import encamp\nwith encamp.sandbox(): pass")
    assert (mine / "task/mine").exists()
    process.communicate("go\n", timeout=60)
    assert other != mine
    assert not mine.exists()


FORKED = """
    import os, sys, encamp
    from encamp.storage.persistent import remove_idle
    def use():
        with encamp.sandbox("a", name="one", persistent=True) as folder:
            return folder
    mine = use()
    child = os.fork()
    if child == 0:
        theirs = use()
        assert theirs != mine, "the child uses its parent's"
        assert use() == theirs
        remove_idle()
        assert not theirs.exists()
        assert mine.exists(), "the child removed its parent's"
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert use() == mine
    with encamp.sandbox("a", name="two", persistent=True) as held:
        child = os.fork()
        if child == 0:
            sys.exit(0)  # out of the block, and by the end of the interpreter
        assert os.waitpid(child, 0)[1] == 0
        assert held.exists(), "the child removed what its parent uses"
    assert mine.exists()
"""


def test_a_forked_child_has_no_part_in_it(data: Path) -> None:
    run(FORKED, cwd=data)
    assert left() == []
