"""How a host's slots start: after a shell command, with a niceness, with another Python."""

from __future__ import annotations

import os
import socket
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from encamp.agent.init_command import environment_after
from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, EngineFailed, NoSuchHost, UnsupportedByEngine
from encamp.testing.fake import FakeEngine


def _look() -> tuple[int, str | None, str | None, str | None]:
    environ = os.environ
    return os.nice(0), environ.get("FROM_INIT"), environ.get("OMP_NUM_THREADS"), environ.get("LEFT")


def _change() -> None:
    os.environ["FROM_INIT"] = "changed"


def test_slots_have_the_environment_and_niceness_that_is_said_for_their_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEFT", "not for slots")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    command = 'echo noise; FROM_INIT="two words"\nexport FROM_INIT OMP_NUM_THREADS=7; unset LEFT;'
    own = {"*": "exit 3", socket.gethostname(): command}
    before = os.nice(0)
    with Cluster("local", slots=1, init_command=own, niceness=2) as cluster:
        expected = before + 2, "two words", "7", None
        assert cluster.spawn(_look).result(20) == expected
        cluster.spawn(_change).result(20)
        assert cluster.spawn(_look).result(20) == expected  # what tasks change is undone
        assert cluster.spawn(_look, fresh=True).result(20) == expected
    assert os.environ["LEFT"] == "not for slots"


def test_hosts_may_have_others() -> None:
    engine = FakeEngine(slots=[1, 1])
    with Cluster(engine, init_command={"fake-1": "export FROM_INIT=1"}, niceness={}) as cluster:
        found = {host.name: cluster.spawn(_look, on=host).result(20)[1] for host in cluster.hosts()}
    assert found == {"fake-1": "1", "fake-2": None}


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has one module of its own, and no encamp."""
    folder = tmp_path_factory.mktemp("another")
    venv.create(folder, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    module = folder / "lib" / version / "site-packages" / "only_there.py"
    module.write_text("VALUE = 6\n")
    return folder / "bin" / "python"


def _by_which() -> tuple[str, int]:
    import only_there  # type: ignore[import-not-found]

    return sys.prefix, only_there.VALUE


def _own_prefix() -> str:
    return sys.prefix


def test_slots_run_with_the_interpreter_that_is_said_for_their_host(another: Path) -> None:
    found = str(another.parent.parent), 6
    with Cluster("local", slots=1, interpreter=str(another)) as cluster:
        assert cluster.spawn(_by_which).result(20) == found
        assert cluster.spawn(_by_which, fresh=True).result(20) == found
    engine = FakeEngine(slots=[1, 1])
    with Cluster(engine, interpreter={"fake-2": str(another)}) as cluster:
        assert cluster.spawn(_own_prefix, on="fake-1").result(20) == sys.prefix
        assert cluster.spawn(_own_prefix, on="fake-2").result(20) == found[0]


def test_an_interpreters_name_is_looked_up_after_the_hosts_command(another: Path) -> None:
    path = f"export PATH={another.parent}:$PATH"
    with Cluster("local", slots=1, init_command=path, interpreter="python") as cluster:
        assert cluster.spawn(_own_prefix).result(20) == str(another.parent.parent)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program of the shell that takes an interpreter's place."""

    def made(text: str) -> str:
        path = tmp_path / f"python-{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return made


def test_a_wrapper_may_be_the_interpreter(script: Callable[[str], str]) -> None:
    wrapper = script(f'export FROM_INIT=wrapped; exec {sys.executable} "$@"')
    with Cluster("local", slots=1, interpreter=wrapper) as cluster:
        assert cluster.spawn(_look).result(20)[1] == "wrapped"


def test_unusable_interpreter_is_reported(script: Callable[[str], str]) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    for interpreter, why in (
        ("/nowhere/python", "this host has no such program"),
        (script("echo cpython 2 7 0.1"), rf"it is cpython 2.7 .*agent cpython {version}"),
        (script("echo not today >&2; exit 4"), "exited with status 4 .*: not today"),
        (script("echo hello"), "exited with status 0"),
    ):
        with pytest.raises(EngineFailed, match=why):
            Cluster("local", slots=1, interpreter=interpreter)


def test_what_cannot_be_done_is_told() -> None:
    with pytest.raises(EngineFailed, match="'exit 3': it exited with status 3"):
        Cluster("local", slots=1, init_command="exit 3")
    with pytest.raises(BadJob, match=r"it exited with status 1: no such module"):
        environment_after("echo no such module >&2; false", {"PATH": os.environ["PATH"]})
    with pytest.raises(NoSuchHost, match="nowhere"):
        Cluster("local", slots=1, niceness={"nowhere": 3})
    wrong = {"init_command": 3}, {"niceness": "high"}, {"niceness": {"*": 1.5}}, {"interpreter": 3}
    for options in wrong:
        with pytest.raises(BadJob):
            Cluster("local", slots=1, **options)
    with pytest.raises(UnsupportedByEngine, match="init_command"):
        Cluster("local", slots=1, inline=True, init_command="true")
