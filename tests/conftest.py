"""What all tests share: a local storage of their own, and a look at what they leave behind."""

from __future__ import annotations

import copyreg
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from encamp.jobs.worker.slots import slots_here
from encamp.slot.isolation.process_tree import descendants
from encamp.storage.local_storage import LOCAL
from encamp.storage.shared_folders import MIRRORED
from encamp.testing.waiting import until
from lab import Lab, missing

_STARTERS_OWN = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD,
                 signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN,
                 signal.SIGTTOU)  # fmt: skip
_TERMINALS_OWN = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE",
                  "TTY_COMPATIBLE", "TTY_INTERACTIVE", "PYTHONWARNINGS", "PYTHONOPTIMIZE",
                  "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "ENCAMP_CACHE_LIMIT",
                  "ENCAMP_SSH")  # fmt: skip


def _as_if_nobody_had_started_us() -> None:
    """Undo what shells' background jobs, nohup and CI hand down to all that tests start."""
    for number in _STARTERS_OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    for name in _TERMINALS_OWN:
        os.environ.pop(name, None)


_as_if_nobody_had_started_us()

# How long an example takes says nothing on a machine that others use.
settings.register_profile("encamp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("encamp")


def pytest_collection_finish() -> None:
    """Keep all that was collected out of each look for garbage, and out of what forks copy."""
    gc.collect()
    gc.freeze()


_LIMIT = pytest.StashKey[Any]()


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Note a test's time limit."""
    item.stash[_LIMIT] = settings


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Bound what a failed test's fixtures do: pytest-timeout leaves that to the debugger's user."""
    if _LIMIT in node.stash and not node.config.option.usepdb:
        node.ihook.pytest_timeout_set_timer(item=node, settings=node.stash[_LIMIT])


@pytest.fixture(scope="session")
def local_storage_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where those of all tests are: pytest's own way looks through all that are there for each."""
    return tmp_path_factory.mktemp("local")


@pytest.fixture(autouse=True)
def local_storage_base(
    local_storage_bases: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A fresh PARALLEL_LOCAL_STORAGE for every test; afterwards no sandbox may be left in it."""
    base = Path(tempfile.mkdtemp(dir=local_storage_bases))
    monkeypatch.setenv(LOCAL, str(base))
    monkeypatch.delenv(MIRRORED, raising=False)
    yield base
    slots_here().close()
    with suppress(AssertionError):  # slots of a pool's workers end after these
        until(lambda: not list(base.glob("encamp-*/sandboxes/*")), 5)
    left = list(base.glob("encamp-*/sandboxes/*"))
    assert left == [], f"left in the local storage: {left}"


@pytest.fixture(autouse=True)
def errors_are_pickled_by_python() -> None:
    """Dask has tblib pickle errors in another way, in this process and from its import on."""
    if "tblib" in sys.modules:
        for kind in list(copyreg.dispatch_table):
            if isinstance(kind, type) and issubclass(kind, BaseException):
                del copyreg.dispatch_table[kind]


@pytest.fixture(autouse=True)
def no_slots_left() -> Iterator[None]:
    """No process that a test started through encamp may outlive it."""
    before = {process.pid for process in descendants()}
    yield
    slots_here().close()
    new = [one for one in descendants() if one.pid not in before and _is_slot(one)]
    assert new == [], f"slots left running: {new}"


def _is_slot(process: psutil.Process) -> bool:
    try:
        return any("encamp.slot.slot_command" in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def need(what: str, there: bool) -> None:
    """Skip where a tool is missing, but fail in CI, where it must be there."""
    if not there:
        reason = f"{what} is not installed"
        if os.environ.get("ENCAMP_REQUIRE_ENGINES"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def four_hosts() -> Iterator[Lab]:
    """Three hosts that have the shared folder, each at another path, and a fourth without it."""
    lacking = missing()
    need(str(lacking), lacking is None)
    need("pvm", shutil.which("pvmd") is not None)
    with Lab(4, without_share=1, variables={"PVM_ALLOW_ROOT": "1"}) as made:
        yield made


@pytest.fixture
def lab(four_hosts: Lab) -> Iterator[Lab]:
    """The four hosts; what a test kills or cuts is there again for the next one."""
    yield four_hosts
    for host in four_hosts.hosts:
        if host.up:
            host.restore()
        else:
            host.start()
