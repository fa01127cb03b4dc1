"""`encamp.sandbox` and `encamp.sandboxed`: a private folder for as long as it is needed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
from other_processes import run
from sandboxed_work import double, double_in_thread

import encamp
from encamp.errors import BadDestination, MissingOutput, NoMatch, OutputConflict, TargetConflict
from encamp.storage.kept_folders import clean_kept, kept
from encamp.storage.local_storage import local_storage, local_storage_path


def left() -> list[Path]:
    return sorted(local_storage().glob("sandboxes/*"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_is_private_empty_and_removed_afterwards(here: Path) -> None:
    with encamp.sandbox() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.is_relative_to(local_storage())
        assert names(folder) == []
        (folder / "x").write_text("x")
    assert not folder.exists()
    assert left() == []
    assert names(here) == []


def test_inputs_exist_and_outputs_are_published(here: Path) -> None:
    (here / "a.txt").write_text("5")
    with encamp.sandbox({"*.txt": "in"}, {"out": "results"}) as folder:
        (folder / "out").write_text((folder / "in/a.txt").read_text() * 2)
        assert not (here / "results").exists()
    assert (here / "results/out").read_text() == "55"


def test_the_current_folder_stays_as_it_is(here: Path) -> None:
    with encamp.sandbox():
        assert Path.cwd() == here


def test_relative_destinations_are_below_to(here: Path, tmp_path: Path) -> None:
    with encamp.sandbox(outputs={"a": "deep"}, to=tmp_path / "elsewhere") as folder:
        (folder / "a").touch()
        os.chdir(tmp_path)
    assert (tmp_path / "elsewhere/deep/a").exists()


def test_two_inputs_for_one_place_are_refused(here: Path) -> None:
    (here / "x").mkdir()
    (here / "x/a").write_text("one")
    (here / "a").write_text("two")
    mirrors = [encamp.Mirror("a"), encamp.Mirror("x/a", readonly=True)]
    with pytest.raises(TargetConflict), encamp.sandbox(mirrors):
        pytest.fail("two files for one place")
    assert left() == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mirror": "*.las"}, NoMatch),
        ({"outputs": {"a": "x", "b/a": "x"}}, OutputConflict),
        ({"outputs": {"a": "/dev/null"}}, BadDestination),
    ],
)
def test_impossible_sandbox_is_refused_before_creation(
    options: dict[str, object], error: type[Exception], here: Path
) -> None:
    with pytest.raises(error), encamp.sandbox(**options):  # type: ignore[arg-type]
        pytest.fail("the block was entered")
    assert not local_storage_path().exists()
    assert names(here) == []


class Unforeseen(BaseException):
    pass


@pytest.mark.parametrize(
    "exc", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Unforeseen()]
)
def test_failed_block_publishes_nothing_and_leaves_nothing(exc: BaseException, here: Path) -> None:
    def work() -> None:
        with encamp.sandbox(outputs="*") as folder:
            (folder / "half").write_text("half done")
            raise exc

    with pytest.raises(type(exc)):
        work()
    assert names(here) == []
    assert left() == []
    with pytest.raises(RuntimeError):
        encamp.current_sandbox()


def test_a_missing_output_publishes_none_of_the_others(here: Path) -> None:
    with pytest.raises(MissingOutput), encamp.sandbox(outputs=["a", "b"]) as folder:
        (folder / "a").touch()
    assert names(here) == []
    assert left() == []


def test_unpublishable_output_leaves_no_partial_file(here: Path) -> None:
    def work() -> None:
        with encamp.sandbox(outputs=["a", "b", "c"]) as folder:
            for name in "abc":
                (folder / name).touch()
            (here / "b/precious").mkdir(parents=True)

    with pytest.raises(BadDestination):
        work()
    assert [name for name in names(here) if name.startswith(".")] == []
    assert names(here / "b") == ["precious"]


def test_a_folder_can_be_kept_for_looking_into(here: Path) -> None:
    def work() -> None:
        with encamp.sandbox(keep=True, name="look") as folder:
            (folder / "x").write_text("evidence")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        work()
    assert left() == []
    (place,) = kept(local_storage()).iterdir()
    assert place.name.startswith("look.")
    assert (place / "task/x").read_text() == "evidence"
    clean_kept()


def test_the_code_in_a_sandbox_can_ask_for_its_folder() -> None:
    with pytest.raises(RuntimeError, match="no sandbox"):
        encamp.current_sandbox()
    with encamp.sandbox() as folder:
        assert encamp.current_sandbox() == folder


def test_sandboxes_nest(here: Path) -> None:
    (here / "a").write_text("1")
    with encamp.sandbox("a") as outer:
        with encamp.sandbox(str(outer / "a"), {"b": "."}) as inner:
            assert encamp.current_sandbox() == inner
            (inner / "b").write_text((inner / "a").read_text() + "2")
        assert not inner.exists()
        assert encamp.current_sandbox() == outer
        assert names(outer) == ["a"]
    assert (here / "b").read_text() == "12"


def test_the_default_handler_of_sigterm_is_back_afterwards() -> None:
    with encamp.sandbox():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@contextmanager
def _inputs(here: Path, count: int) -> Iterator[None]:
    for number in range(count):
        (here / f"in-{number}").write_text(str(number))
    yield
    assert [(here / f"results/out-{n}").read_text() for n in range(count)] == [
        str(2 * n) for n in range(count)
    ]
    assert left() == []


def test_a_decorated_function_runs_in_its_own_folder_and_returns_what_it_returns(
    here: Path,
) -> None:
    with _inputs(here, 1):
        folder = double(0, "results")
        assert Path(folder).is_relative_to(local_storage())
        assert not Path(folder).exists()
        assert Path.cwd() == here
    assert double.__name__ == "double"
    assert (double.__doc__ or "").startswith("Read")


def test_the_current_folder_is_back_also_after_an_error(here: Path) -> None:
    @encamp.sandboxed(outputs="x")
    def fails() -> None:
        Path("x").touch()
        os.chdir("/")
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fails()
    assert Path.cwd() == here
    assert names(here) == []
    assert left() == []


def test_decorated_functions_nest(here: Path, tmp_path: Path) -> None:
    @encamp.sandboxed(outputs="b", to=tmp_path)
    def inner(text: str) -> Path:
        Path("b").write_text(text)
        return Path.cwd()

    @encamp.sandboxed(outputs="a", to=tmp_path)
    def outer() -> None:
        before = Path.cwd()
        assert inner("from inside") != before
        assert Path.cwd() == before
        Path("a").write_text((tmp_path / "b").read_text())

    outer()
    assert (tmp_path / "a").read_text() == "from inside"
    assert left() == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sandboxed_works_in_process_pool(method: str, here: Path) -> None:
    with (
        _inputs(here, 12),
        ProcessPoolExecutor(2, mp_context=get_context(method)) as pool,
    ):
        folders = set(pool.map(double, range(12), ["results"] * 12))
        assert len(folders) == 12


def test_sandboxed_works_in_thread_pool_without_chdir(here: Path) -> None:
    with _inputs(here, 24), ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(double_in_thread, range(24), ["results"] * 24))
        assert len(folders) == 24
        assert Path.cwd() == here


def test_a_current_folder_is_refused_in_threads_before_anything_is_copied(here: Path) -> None:
    (here / "in-0").touch()
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="chdir=False"):
        pool.submit(double, 0, "results").result()
    assert Path.cwd() == here
    assert not local_storage_path().exists()


def test_each_thread_has_a_sandbox_of_its_own() -> None:
    barrier = threading.Barrier(4)

    def work() -> tuple[Path, Path]:
        with encamp.sandbox() as folder:
            barrier.wait()
            asked = encamp.current_sandbox()
            barrier.wait()
            return folder, asked

    with ThreadPoolExecutor(4) as pool:
        pairs = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    assert all(folder == asked for folder, asked in pairs)
    assert len({folder for folder, _ in pairs}) == 4


def test_threads_share_one_fetch(here: Path) -> None:
    (here / "a").write_bytes(os.urandom(1 << 20))

    def work(_: int) -> int:
        with encamp.sandbox(encamp.Mirror("a", readonly=True)) as folder:
            return (folder / "a").stat().st_ino

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(32)))) == 1


def test_a_forked_child_that_leaves_the_block_harms_nothing(here: Path) -> None:
    run(
        """
        import os, sys, encamp
        with encamp.sandbox(outputs="a") as folder:
            child = os.fork()
            if child == 0:
                sys.exit(0)
            os.waitpid(child, 0)
            (folder / "a").touch()
        """
    )
    assert names(here) == ["a"]
    assert left() == []
