"""Sandboxes of processes that are stopped or killed leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from other_processes import run, start

from encamp.storage.local_storage import local_storage

BLOCK = """
    import sys, time, encamp
    with encamp.sandbox(outputs={"*": sys.argv[1]}) as folder:
        (folder / "half").write_text("half done")
        print(folder, flush=True)
        time.sleep(600)
"""

FUNCTION = """
    import sys, time, encamp
    from pathlib import Path

    @encamp.sandboxed(outputs={"*": sys.argv[1]})
    def work():
        Path("half").write_text("half done")
        print(Path.cwd(), flush=True)
        time.sleep(600)

    work()
"""

COMMAND = """
    import subprocess, sys, encamp
    with encamp.sandbox(outputs={"*": sys.argv[1]}) as folder:
        (folder / "half").write_text("half done")
        subprocess.run(["sh", "-c", f"echo {folder}; exec sleep 600"], cwd=folder)
"""


def in_sandbox(code: str, to: Path) -> tuple[subprocess.Popen[str], Path]:
    process = start(code, to, start_new_session=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert (folder / "half").exists()
    return process, folder


def left() -> list[Path]:
    return sorted(local_storage().glob("sandboxes/*"))


@pytest.mark.parametrize("code", [BLOCK, FUNCTION, COMMAND])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_in_order(code: str, number: signal.Signals, tmp_path: Path) -> None:
    process, folder = in_sandbox(code, tmp_path / "to")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + number), err
    assert not folder.exists()
    assert left() == []
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("code", [BLOCK, FUNCTION])
def test_leftovers_of_killed_process_are_removed_by_next_sandbox(code: str, tmp_path: Path) -> None:
    process, folder = in_sandbox(code, tmp_path / "to")
    process.kill()
    process.communicate()
    assert folder.exists()
    run("import encamp\nwith encamp.sandbox(): pass")
    assert left() == []
    assert not (tmp_path / "to").exists()


def test_the_next_sandbox_leaves_those_of_living_processes_alone(tmp_path: Path) -> None:
    process, folder = in_sandbox(BLOCK, tmp_path / "to")
    try:
        run("import encamp\nwith encamp.sandbox(): pass")
        assert (folder / "half").exists()
    finally:
        process.terminate()
        process.communicate()
    assert left() == []


PUBLISHING = """
    import os, sys, signal, encamp
    number, where = int(sys.argv[2]), sys.argv[3]
    real = getattr(os, where)
    calls = []
    def killed(*args, **options):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    with encamp.sandbox(outputs={"*": sys.argv[1]}) as folder:
        for name in "abc":
            (folder / name).write_bytes(name.encode() * 3_000_000)
        setattr(os, where, killed)
"""


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_killed_while_it_brings_back_it_leaves_only_whole_files_once_the_next_has_cleaned(
    number: int, where: str, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    process = start(PUBLISHING, to, number, where)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for path in to.glob("[!.]*"):
        assert path.read_bytes() == path.name.encode() * 3_000_000
    run("import encamp\nwith encamp.sandbox(): pass")
    assert left() == []
    assert [path.name for path in to.iterdir() if path.name.startswith(".")] == []


def test_a_sigterm_handler_of_the_users_own_is_left_in_place(tmp_path: Path) -> None:
    output = run(
        """
        import os, signal, encamp
        signal.signal(signal.SIGTERM, lambda *_: print("mine"))
        with encamp.sandbox() as folder:
            os.kill(os.getpid(), signal.SIGTERM)
            print(folder.is_dir())
        """
    )
    assert output == "mine\nTrue\n"


def test_interpreter_exit_in_block_removes_folder() -> None:
    process = start("import sys, encamp\nwith encamp.sandbox() as f:\n    print(f); sys.exit(3)")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert not Path(out.strip()).exists()
    assert left() == []
