"""Changes of a call to its process are undone, or the process is replaced."""

from __future__ import annotations

import contextvars
import ctypes
import decimal
import faulthandler
import gc
import io
import locale
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encamp.cluster.cluster import Cluster
from encamp.executor import Executor
from encamp.jobs.job import Job
from encamp.jobs.steps import call

SOON = 30.0
folders = sys.path
"""As after `from sys import path`."""
ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster("local", slots=1) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def local_storage_base() -> None:
    """Nothing here has a folder, so that all tests may share one cluster."""


@pytest.fixture(autouse=True)
def no_slots_left(cluster: Cluster) -> None:
    """The cluster outlives each test."""


def state() -> dict[str, Any]:
    """What may be changed, as far as it can be compared."""
    zone = time.tzname, time.timezone, time.localtime(0).tm_hour
    return {
        "process": os.getpid(),
        "zone": zone,
        "environment": {name: os.environ[name] for name in os.environ if name != "ENCAMP_SLOT"},
        "path": sys.path[:],
        "folder": str(Path.cwd()),
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "handlers": [
            str(signal.getsignal(n)).partition(" at ")[0] for n in sorted(signal.valid_signals())
        ],
        "timers": [signal.getitimer(timer) for timer in range(3)],
        "users": (os.getresuid(), os.getresgid(), os.getgroups()),
        "cores": os.sched_getaffinity(0),
        "nice": os.nice(0),
        "policy": os.sched_getscheduler(0),
        "umask": (mask := os.umask(0o77), os.umask(mask))[0],
        "limits": [resource.getrlimit(n) for n in range(16)],
        "locale": locale.setlocale(locale.LC_ALL),
        "number": f"{1.5:n}",
        "filters": [entry for entry in warnings.filters if entry[0] == "error"],
        "time-out": socket.getdefaulttimeout(),
        "decimals": (decimal.getcontext().prec, decimal.getcontext().rounding),
        "numpy": (np.geterr(), np.get_printoptions()["precision"]),
        "variable": variable.get(0),
        "recursion": sys.getrecursionlimit(),
        "switches": sys.getswitchinterval(),
        "streams": [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "encodings": [(one.encoding, one.errors) for one in (sys.stdin, sys.stdout, sys.stderr)],
        "arguments": (sys.argv, getattr(sys, "tracebacklimit", None), sys.getdlopenflags()),
        "stack": threading.stack_size(),
        "buffering": [
            (one.line_buffering, one.write_through) for one in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "hooks": (
            sys.excepthook.__module__,
            sys.displayhook.__module__,
            sys.unraisablehook.__module__,
            threading.excepthook.__module__,
        ),
        "tracing": (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()),
        "digits": sys.get_int_max_str_digits(),
        "collecting": (gc.isenabled(), gc.get_threshold(), gc.get_debug()),
        "logging": (len(logging.root.handlers), logging.root.level, logging.root.manager.disable),
        "root logger": (logging.root.propagate, logging.root.disabled),
        "logged": logging.getLogger("encamp of a test").isEnabledFor(logging.DEBUG),
        "dumps": faulthandler.is_enabled(),
    }


variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")


def hook(*_: Any) -> None:
    pass


def change_zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def change_zone_and_hide_it() -> None:
    change_zone()
    del os.environ["TZ"]


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1})
    signal.raise_signal(signal.SIGALRM)  # waits, and would end the process by default


def start_timers() -> None:
    for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
        signal.signal(number, hook)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0.01, 0.01)


def change_handlers() -> None:
    for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGQUIT, signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, hook)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def be_another_user() -> None:
    if ROOT:
        os.setgroups([12345])
        os.setegid(12345)
        os.seteuid(12345)


def use_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def change_files() -> None:
    os.chdir("/")
    os.umask(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.environ["MORE"] = "1"
    sys.path.append("/more")


def change_locale() -> None:
    locale.setlocale(locale.LC_ALL, "C.UTF-8")


def change_warnings() -> None:
    warnings.simplefilter("error")


def change_numbers() -> None:
    decimal.getcontext().prec = 3
    np.seterr(all="raise")
    np.set_printoptions(precision=2)
    variable.set(3)


def change_python() -> None:
    sys.setrecursionlimit(5000)
    sys.setswitchinterval(0.1)
    sys.stdin, sys.stdout, sys.stderr = sys.stderr, sys.stdin, sys.stdout
    sys.excepthook = sys.displayhook = hook
    threading.excepthook = hook
    gc.disable()
    gc.set_threshold(5)
    socket.setdefaulttimeout(0.5)
    faulthandler.disable()
    sys.setprofile(hook)
    threading.settrace(hook)
    threading.setprofile(hook)
    sys.set_int_max_str_digits(1000)


def change_logging() -> None:
    logging.basicConfig(filename="/dev/null", level=logging.DEBUG)
    logging.disable(logging.ERROR)


def change_policy() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def handle_realtime_signals() -> None:
    signal.signal(signal.SIGRTMIN + 1, hook)


def change_more_of_python() -> None:
    sys.stdout.reconfigure(encoding="latin-1", errors="ignore")  # type: ignore[union-attr]
    sys.argv = ["program", "--option"]
    sys.tracebacklimit = 0
    sys.setdlopenflags(os.RTLD_GLOBAL | os.RTLD_NOW)
    threading.stack_size(1 << 20)
    gc.set_debug(gc.DEBUG_SAVEALL)
    sys.setrecursionlimit(30)


def be_less_important() -> None:
    if ROOT:  # nobody else may undo it
        os.nice(3)


def change_hooks() -> None:
    sys.displayhook = sys.unraisablehook = hook
    sys.settrace(hook)


def change_in_place() -> None:
    sys.argv.append("--more")
    sys.stdout.reconfigure(line_buffering=False)  # type: ignore[union-attr]
    sys.stderr.reconfigure(write_through=True)  # type: ignore[union-attr]
    logging.root.setLevel(logging.DEBUG)
    logging.getLogger("encamp of a test").isEnabledFor(logging.DEBUG)  # it remembers the answer
    logging.root.propagate, logging.root.disabled = False, True


def replace_objects() -> None:
    os.environ = {"PATH": "/nowhere"}  # type: ignore[assignment]  # noqa: B003
    sys.path = ("/nowhere",)  # type: ignore[assignment]
    del sys.stdout, sys.excepthook


def real_time_priority() -> tuple[bool, int]:
    """Whether a change from 5 to 20 is undone, and to which priority."""
    from encamp.slot.isolation.restore_process import ProcessRestored

    with ProcessRestored("/"):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
        isolation = ProcessRestored("/")
        os.sched_setparam(0, os.sched_param(20))
        good = isolation.undo()
        return good, os.sched_getparam(0).sched_priority


DEEDS: list[Callable[[], None]] = [
    change_zone,
    change_zone_and_hide_it,
    block_signals,
    start_timers,
    change_handlers,
    be_another_user,
    use_one_core,
    change_files,
    change_locale,
    change_warnings,
    change_numbers,
    change_python,
    change_logging,
    change_policy,
    handle_realtime_signals,
    change_more_of_python,
    be_less_important,
    change_hooks,
    change_in_place,
    replace_objects,
]


@pytest.mark.parametrize("deed", DEEDS)
def test_a_call_finds_its_process_as_the_first_one_did(
    cluster: Cluster, deed: Callable[[], None]
) -> None:
    cluster.spawn(state).result(SOON)  # loads what it uses
    before = cluster.spawn(state).result(SOON)
    cluster.spawn(deed).result(SOON)
    cluster.spawn(time.sleep, 0.03).result(SOON)
    assert cluster.spawn(state).result(SOON) == before


def exit_soon() -> None:
    faulthandler.dump_traceback_later(0.5, exit=True)


def test_a_process_that_a_call_wants_to_end_later_lives_on(cluster: Cluster) -> None:
    before = cluster.spawn(os.getpid).result(SOON)
    cluster.spawn(exit_soon).result(SOON)
    cluster.spawn(time.sleep, 0.6).result(SOON)
    assert cluster.spawn(os.getpid).result(SOON) == before


def test_every_checked_property_is_restored(
    cluster: Cluster,
) -> None:
    before = cluster.spawn(state).result(SOON)
    for _ in range(2):  # what was restored is no longer the object that was kept
        cluster.spawn(change_in_place).result(SOON)
        assert cluster.spawn(state).result(SOON) == before


def warn() -> None:
    warnings.warn("of each call", UserWarning, stacklevel=1)


def test_a_real_time_priority_is_restored(cluster: Cluster) -> None:
    if isinstance(cluster.spawn(real_time_priority).exception(SOON), PermissionError):
        pytest.skip("this user may not use real-time priorities")
    assert cluster.spawn(real_time_priority).result(SOON) == (True, 5)


def test_a_warning_is_shown_in_each_call_that_causes_it(cluster: Cluster) -> None:
    for _ in range(2):
        call = cluster.spawn(warn)
        call.result(SOON)
        assert "UserWarning: of each call" in call.output


def is_import_path() -> bool:
    same = folders is sys.path
    sys.path = [*sys.path, "/more"]
    folders.append("/even/more")
    return same


def test_sys_path_object_is_kept(cluster: Cluster) -> None:
    assert [cluster.spawn(is_import_path).result(SOON) for _ in range(3)] == [True] * 3
    assert "/even/more" not in cluster.spawn(state).result(SOON)["path"]


def test_limits_are_looked_up_only_after_a_call_that_can_have_changed_some(tmp_path: Path) -> None:
    imported = "'resource' in __import__('sys').modules"
    with Cluster("local", slots=1) as cluster:
        assert cluster.spawn(eval, imported).result(SOON) is False
        cluster.spawn(os.getpid, mirror={}).result(SOON)
        assert cluster.spawn(eval, imported).result(SOON) is False
    job = Job("job", to=tmp_path / "out")
    job.add("task", call(eval, imported))
    assert job.run(slots=1)["task"].value is False


def change_all() -> None:
    for deed in DEEDS:
        if deed not in (start_timers, be_another_user):  # after which nothing else is possible
            deed()


def test_initializer_changes_stay(cluster: Cluster) -> None:
    with Executor(cluster, initializer=change_numbers) as executor:
        after = executor.submit(state).result(SOON)
        assert after["decimals"][0] == 3
        assert after["numpy"][1] == 2
        assert after["variable"] == 3
        assert executor.submit(state).result(SOON) == after
    cluster._housekeeping("refresh", None, each=True)


def be_somebody_else_for_good() -> int:
    if ROOT:
        os.setuid(12345)
    else:
        os.nice(1)
    return os.getpid()


def test_irreversible_change_ends_process_after_call(cluster: Cluster) -> None:
    before = cluster.spawn(state).result(SOON)
    pid = cluster.spawn(be_somebody_else_for_good).result(SOON)
    after = cluster.spawn(state).result(SOON)
    assert pid == before["process"]
    assert after["process"] != pid
    assert after["users"] == before["users"]
    assert after["nice"] == before["nice"]


@pytest.mark.skipif(not ROOT, reason="chroot is for root")
def test_a_call_finds_all_files_after_one_that_has_called_chroot(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "inside").touch()
    before = cluster.spawn(os.listdir, "/").result(SOON)
    cluster.spawn(os.chroot, str(tmp_path)).result(SOON)
    assert cluster.spawn(os.listdir, "/").result(SOON) == before


def close_streams() -> None:
    sys.stdin.close()
    sys.stdout.close()
    sys.stderr.close()


def test_a_call_can_print_after_one_that_has_closed_the_streams(cluster: Cluster) -> None:
    cluster.spawn(close_streams).result(SOON)
    printed = cluster.spawn(print, "word")
    printed.result(SOON)
    assert printed.output == "word\n"


def detach_output() -> None:
    sys.stdout = io.TextIOWrapper(sys.stdout.detach(), "utf-8")


def break_warnings_and_logging() -> None:
    warnings.filters = None  # type: ignore[assignment]
    logging.root.handlers = None  # type: ignore[assignment]


def read_another_file() -> None:
    os.dup2(os.open("/etc/passwd", os.O_RDONLY), 0)
    input()


def give_up_privileges() -> None:
    assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS


@pytest.mark.parametrize(
    "deed",
    [detach_output, break_warnings_and_logging, read_another_file, give_up_privileges],
)
def test_irreversible_change_fails_no_call(cluster: Cluster, deed: Callable[[], None]) -> None:
    before = cluster.spawn(os.getpid).result(SOON)
    cluster.spawn(deed).result(SOON)
    after = cluster.spawn(os.getpid)
    assert after.result(SOON) != before
    assert cluster.spawn(eval, "__import__('sys').stdin.read()").result(SOON) == ""


def dump_at(number: int) -> None:
    faulthandler.register(number)


def test_a_signal_dumps_nothing_after_the_call_that_has_registered_it(cluster: Cluster) -> None:
    cluster.spawn(dump_at, signal.SIGINT).result(SOON)
    later = cluster.spawn(signal.raise_signal, signal.SIGINT)
    later.result(SOON)
    assert later.output == ""


def test_a_slot_ends_when_it_is_asked_to_whatever_a_call_had_registered(cluster: Cluster) -> None:
    cluster.spawn(dump_at, signal.SIGTERM).result(SOON)
    pid = cluster.spawn(os.getpid).result(SOON)
    os.kill(pid, signal.SIGTERM)
    assert cluster.spawn(os.getpid).result(SOON) != pid


def test_steps_of_a_job_are_undone_before_outputs_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLEL_LOCAL_STORAGE", str(tmp_path / "local"))
    monkeypatch.chdir(tmp_path)
    job = Job("undone", to="out")
    job.add("before", [call(state)])
    job.add("deeds", [call(change_all), call(_write)], outputs={"made": "."}, after="before")
    job.add("after", [call(state)], after="deeds")
    report = job.run(slots=1)
    assert (tmp_path / "out/made").read_text() == "made"
    before, _, after = (task.value for task in report.tasks)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"folder", "process"}


def _write() -> None:
    Path("made").write_text("made")


KEPT = """
import os
from encamp.slot.isolation.restore_process import ProcessRestored
isolation = ProcessRestored("/")
os.environ.update(OUTER="of the call", OWN="of the call", SET="by the initializer")
isolation.keep(except_for=["OUTER", "OWN"])
os.environ.update(OUTER="of a later call", SET="by a later call", LATER="by a later call")
isolation.undo()
print([os.environ.get(name) for name in ("OUTER", "OWN", "SET", "LATER")])
"""


def test_initializer_variables_stay_but_call_variables_do_not() -> None:
    environment = {**os.environ, "OUTER": "of the slot"}
    done = subprocess.run(
        [sys.executable, "-c", KEPT], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['of the slot', None, 'by the initializer', None]"
