"""Jobs of ordinary users: overlays in namespaces of their slots, as private and as safe as root's.

Where the tests run as root, an interpreter that anybody may run is started as somebody else.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import encamp
from conftest import need
from encamp.storage.disk.overlay import mounts_below
from encamp.storage.local_storage import LOCAL

NOBODY = "65534"
MODULES = "import encamp, cloudpickle, msgspec, psutil, wcmatch"


def python(somebody: str = NOBODY) -> list[str]:
    """What starts Python as an ordinary user."""
    if os.geteuid() != 0:
        return [sys.executable]
    ids = [f"--reuid={somebody}", f"--regid={somebody}", "--clear-groups"]
    return ["setpriv", *ids, anybodys_python()]


@functools.cache
def anybodys_python() -> str:
    """A Python that any user may run with what is installed here; root's own may be in /root."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    usual = [f"{folder}/{version}" for folder in ("/usr/local/bin", "/usr/bin")]
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for path in (*usual, sys.executable):
        line = ["setpriv", *ids, path, "-c", MODULES]
        with tempfile.TemporaryDirectory() as folder:
            there = subprocess.run(
                line, cwd="/", env=environment(Path(folder)), capture_output=True, check=False
            )
        if there.returncode == 0:
            return path
    return sys.executable


def environment(base: Path) -> dict[str, str]:
    package = Path(encamp.__file__).parents[1]
    paths = f"{package}{os.pathsep}{sysconfig.get_path('purelib')}"
    words = {"HOME": str(base), "PYTHONPATH": paths, LOCAL: str(base / "local")}
    return {**os.environ, **words, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that anybody may write to, its sources, and a local storage in it."""
    folder = Path(tempfile.mkdtemp(prefix="encamp-test-"))
    for name in (".", "local", "data", "data/tree"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name).chmod(0o777)
    for number in range(40):
        (folder / f"data/tree/{number}").write_text(f"content {number}")
    (folder / "data/big").write_bytes(os.urandom(1 << 20))
    there = subprocess.run(
        [*python(), "-c", MODULES], cwd=folder, env=environment(folder), check=False
    )
    need("a Python that an ordinary user can run", there.returncode == 0)
    namespaces = [*python()[:-1], "unshare", "--user", "--mount", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode:
        shutil.rmtree(folder)
        pytest.skip("this kernel gives ordinary users no namespaces")
    yield folder
    left = list(folder.glob("local/encamp-*/sandboxes/*"))
    mounted = mounts_below(folder)
    shutil.rmtree(folder)
    assert left == []
    assert mounted == []


START = """
    import json, os, sys
    from pathlib import Path
    import encamp
    from encamp.storage.disk import overlay
    job = encamp.Job("job", to="../out", mirror=encamp.Mirror("tree", mode="overlay"))
"""
END = """
    report = job.run(slots=1, check=False, keep=KEEP)
    print(json.dumps([[t.state, t.why, t.value, t.kept] for t in report.tasks]))
"""


def run(base: Path, tasks: str, *, keep: str = "never", somebody: str = NOBODY) -> list[list[Any]]:
    """Run a job as an ordinary user; state, why, value and kept folder of each task."""
    code = textwrap.dedent(START) + textwrap.dedent(tasks)
    code += textwrap.dedent(END).replace("KEEP", repr(keep))
    (base / "data/job.py").write_text(code)
    ended = subprocess.run(
        [*python(somebody), "job.py"],
        cwd=base / "data",
        env=environment(base),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    tasks: list[list[Any]] = json.loads(ended.stdout)
    return tasks


def test_overlays_are_mounted_in_slot_namespace(base: Path) -> None:
    tasks = run(
        base,
        """
        def work():
            mounts = overlay.mounts_below(Path())
            return [os.getuid(), os.getgid(), [os.path.basename(m) for m in mounts]]
        job.add("task", work, mirror=encamp.Mirror("big", mode="overlay"))
        """,
    )
    user = int(NOBODY) if os.geteuid() == 0 else os.geteuid()
    assert tasks == [["done", tasks[0][1], [user, tasks[0][2][1], ["task", "tree"]], None]]


def test_a_task_that_writes_changes_its_own_copy_only(base: Path) -> None:
    before = {path.name: path.read_bytes() for path in (base / "data/tree").iterdir()}
    big = (base / "data/big").read_bytes()
    tasks = run(
        base,
        """
        def change():
            Path("tree/1").write_text("mine")
            Path("tree/2").unlink()
            Path("tree/new").write_text("new")
            Path("big").write_bytes(b"mine")
            os.rename("tree/3", "tree/moved")
            return sorted(os.listdir("tree"))
        def look():
            texts = [Path("tree", str(n)).read_text() for n in range(40)]
            return texts == [f"content {n}" for n in range(40)] and len(Path("big").read_bytes())
        big = encamp.Mirror("big", mode="overlay")
        job.add("change", change, mirror=big, outputs={"tree/*": "changed"})
        job.add("look", look, mirror=big, after="change")
        """,
    )
    assert [task[0] for task in tasks] == ["done", "done"]
    assert {"new", "moved"} <= set(tasks[0][2])
    assert not {"2", "3"} & set(tasks[0][2])
    assert tasks[1][2] == 1 << 20
    assert {path.name: path.read_bytes() for path in (base / "data/tree").iterdir()} == before
    assert (base / "data/big").read_bytes() == big
    published = {path.name: path.read_text() for path in (base / "out/changed").iterdir()}
    assert published == {"1": "mine", "moved": "content 3", "new": "new"}


@pytest.mark.parametrize("files", [31, 40])
def test_allowed_operations_do_not_depend_on_tree_size(base: Path, files: int) -> None:
    for number in range(files, 40):
        (base / f"data/tree/{number}").unlink()
    (base / "data/tree/deep").mkdir()
    (base / "data/tree/deep/a").write_text("a")
    (base / "data/tree").rename(base / "data/own")
    (base / "data/tree").mkdir()
    tasks = run(
        base,
        """
        import shutil
        def change():
            os.rename("own/deep", "own/other")
            os.rename("own/other/a", "b")
            Path("x").write_text("x")
            os.replace("x", "own/1")
            os.link("own/2", "linked")
            os.rename("own", "mine")
            shutil.rmtree("mine")
            return sorted(os.listdir())
        job.add("one", change, mirror=["own", encamp.Mirror("big", to="sub")])
        job.add("two", change, mirror=["own", encamp.Mirror("big", to="sub")])
        """,
    )
    assert [task[:3:2] for task in tasks] == [["done", ["b", "linked", "sub", "tree"]]] * 2


CHANGED = """
    def change():
        Path("tree/1").write_text("mine")
        Path("made").write_text("mine")
        END
    mirror = [encamp.Mirror("big", mode="overlay")]
    job.add("task", change, mirror=mirror, on_failure={"made": "rescued", "tree/1": "rescued"})
"""


@pytest.mark.parametrize("end", ["raise ValueError", "os.kill(os.getpid(), 9)"])
def test_the_folder_of_a_task_that_failed_or_crashed_is_kept_as_plain_files(
    base: Path, end: str
) -> None:
    """A killed slot takes its mounts along; what was changed is looked for all the same."""
    (task,) = run(base, CHANGED.replace("END", end), keep="failed")
    assert task[0] == "failed"
    kept = Path(task[3].partition(":")[2]) / "task"
    assert (kept / "tree/1").read_text() == "mine"
    assert (kept / "made").read_text() == "mine"
    assert (kept / "tree/2").read_text() == "content 2"
    assert (kept / "big").read_bytes() == (base / "data/big").read_bytes()


def test_kept_folder_shows_input_changes_of_crashed_task(base: Path) -> None:
    """All kinds of changes, put together from what the kernel left of the overlay."""
    for name in ("data/tree/gone", "data/tree/replaced", "data/tree/joined"):
        (base / name).mkdir()
        (base / name / "old").write_text("old")
    (task,) = run(
        base,
        """
        def change():
            import shutil
            for name in ("gone", "replaced"):
                shutil.rmtree(f"tree/{name}")
            os.mkdir("tree/replaced")
            Path("tree/replaced/new").write_text("new")
            Path("tree/joined/new").write_text("new")
            Path("tree/1").unlink()
            os.mkdir("tree/1")
            Path("tree/1/inner").write_text("inner")
            os.rename("tree/2", "tree/moved")
            os.symlink("moved", "tree/link")
            Path("tree/3").chmod(0o600)
            os.kill(os.getpid(), 9)
        job.add("task", change, mirror=encamp.Mirror("big", mode="overlay"))
        """,
        keep="failed",
    )
    tree = Path(task[3].partition(":")[2]) / "task/tree"
    names = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    plain = {"0", *(str(number) for number in range(3, 40))}
    changed = {"1", "1/inner", "moved", "link", "joined", "joined/old", "joined/new"}
    assert names == plain | changed | {"replaced", "replaced/new"}
    assert (tree / "link").read_text() == "content 2"
    assert (tree / "3").stat().st_mode & 0o777 == 0o600
    assert (tree / "39").read_text() == "content 39"


@pytest.mark.parametrize("end", ["raise ValueError", "os.kill(os.getpid(), 9)"])
def test_files_of_failed_or_crashed_task_are_rescued(base: Path, end: str) -> None:
    (task,) = run(base, CHANGED.replace("END", end))
    assert task[0] == "failed"
    assert (base / "out/rescued/made").read_text() == "mine"
    assert (base / "out/rescued/1").read_text() == "mine"


def test_somebody_else_sees_neither_sandboxes_nor_the_cache(base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("two users need root")
    run(base, 'job.add("task", "true")', keep="always")
    (storage,) = (base / "local").iterdir()
    look = """
        import os, sys
        for at in (sys.argv[1], *(f"{sys.argv[1]}/{n}" for n in ("cache", "kept", "sandboxes"))):
            for deed in (os.listdir, lambda at: os.mkdir(f"{at}/new")):
                try:
                    deed(at)
                except PermissionError:
                    continue
                print("could")
    """
    received = []
    for somebody in ("1234", NOBODY):
        line = [*python(somebody), "-c", textwrap.dedent(look), str(storage)]
        ended = subprocess.run(line, capture_output=True, text=True, cwd="/", check=True)
        received.append(ended.stdout.split())
    for new in storage.glob("*/new"):
        new.rmdir()
    assert received == [[], ["could"] * 8]


def test_two_users_of_one_local_storage_have_a_folder_each(base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("two users need root")
    first = run(base, 'job.add("task", "cat tree/1")')
    shutil.rmtree(base / "out")
    second = run(base, 'job.add("task", "cat tree/1")', somebody="1234")
    assert [first[0][0], second[0][0]] == ["done", "done"]
    folders = sorted((base / "local").iterdir())
    assert len(folders) == 2
    assert {folder.stat().st_uid for folder in folders} == {1234, int(NOBODY)}
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
