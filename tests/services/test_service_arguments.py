"""Invalid arguments of services: clear errors, and no server is lost."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import encamp
from conftest import need
from encamp.errors import BadJob, InputError, NoMatch, NoSuchHost, NotEnough, WrongLength
from encamp.services import xterm_windows
from encamp.services.copy_files import take_over
from encamp.services.service import Service
from encamp.testing.waiting import until
from some_display import x_display

SOON = 30.0
SERVERS = 2
NO_TIMEOUTS = ["x", b"1", [], math.nan, True, object()]


class Adder:
    def wait(self, path: str) -> None:
        until(Path(path).exists)

    def late(self) -> None:
        raise TimeoutError("the simulator was late")

    def add(self, number: int, more: int = 0) -> int:
        return number + more

    def send(self, rank: Any) -> None:
        encamp.current_server().send(rank, "message")

    def receive(self, *arguments: Any) -> Any:
        return encamp.current_server().receive(*arguments)


@pytest.fixture(scope="module")
def cluster() -> Iterator[encamp.Cluster]:
    with encamp.Cluster("local", slots=SERVERS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def service(cluster: encamp.Cluster) -> Iterator[Service]:
    service = cluster.publish(Adder)
    service.ready(SERVERS, SOON)
    yield service
    service.terminate(cancel=True)


@pytest.fixture(autouse=True)
def _whole(service: Service) -> Iterator[None]:
    """Whatever was refused, all servers are free afterwards, and nobody waits for one."""
    yield
    with service.group(timeout=SOON) as group:
        assert encamp.gather(group.broadcast("add", 1), timeout=SOON) == [1] * SERVERS
    now = service.statistics()
    assert [one.state for one in now.servers] == ["free"] * SERVERS
    assert now.queue == 0


@pytest.mark.parametrize("timeout", NO_TIMEOUTS)
def test_invalid_timeout_is_always_refused(service: Service, timeout: Any) -> None:
    done = service.call("add", 1)
    assert done.get(SOON) == 1
    for wait in (
        lambda: service.acquire(timeout),
        lambda: service.group(1, timeout),
        lambda: service.ready(1, timeout),
        lambda: done.get(timeout),
        lambda: done.exception(timeout),
        lambda: encamp.gather([done], timeout=timeout),
    ):
        with pytest.raises(BadJob, match="timeout: must be a number of seconds or None, not") as e:
            wait()
        assert isinstance(e.value, TypeError)


@pytest.mark.parametrize("flag", [0, 1, "no", None, []])
def test_non_boolean_flag_is_refused(service: Service, flag: Any) -> None:
    done = service.call("add", 1)
    with pytest.raises(BadJob, match=r"^return_exceptions: must be True or False, not"):
        encamp.gather([done], return_exceptions=flag)
    with pytest.raises(BadJob, match=r"^cancel: must be True or False, not"):
        service.terminate(cancel=flag)
    assert done.get(SOON) == 1


def test_a_timeout_that_is_over_or_endless_is_one(service: Service) -> None:
    for timeout in (0, -1, 1e300, math.inf, 10**400):
        with service.group(timeout=SOON):
            if timeout in (0, -1):
                with pytest.raises(TimeoutError, match="no server of Adder was free within"):
                    service.acquire(timeout)
        assert service.call("add", 1).get(max(timeout, 1)) == 1


def test_timeouts_are_reported(service: Service, tmp_path: Path) -> None:
    gone = tmp_path / "go"
    with service.acquire(SOON) as proxy:
        done, waits = proxy.add(1), proxy.wait(str(gone))
        with pytest.raises(TimeoutError, match=r"^Adder.wait has not returned within 0.1 s; the c"):
            waits.get(0.1)
        with pytest.raises(TimeoutError, match=r"^result 2 has not arrived within 0 s; its call"):
            encamp.gather([done, waits], timeout=0)
        gone.touch()
        assert waits.get(SOON) is None
        with pytest.raises(TimeoutError, match="the simulator was late"):
            proxy.late().get(SOON)


@pytest.mark.parametrize("given", [None, 5, "ab", b"ab", {1: 2, 3: 4}, object(), encamp.gather])
def test_scatter_takes_a_list(service: Service, given: Any) -> None:
    with pytest.raises(
        TypeError, match="scatter: must be a list of arguments, one for each server, not"
    ):
        service.scatter("add", given)
    if given is not None:
        with pytest.raises(TypeError, match="keywords: must be a list of dicts, not"):
            service.scatter("add", [1, 2], given)
    with pytest.raises(TypeError, match="keywords: must be a dict of names and values, not"):
        service.scatter("add", [1, 2], [{}, [given]])  # type: ignore[list-item]


def test_scatter_takes_any_iterable_of_the_right_length(service: Service) -> None:
    given = (number for number in (1, 2))
    assert encamp.gather(service.scatter("add", given, iter([{}, {"more": 5}]))) == [1, 7]
    with pytest.raises(WrongLength, match="0 arguments for 2 servers"):
        service.scatter("add", [])
    with pytest.raises(WrongLength, match="1 named arguments for 2 servers"):
        service.scatter("add", [1, 2], [{}])
    with pytest.raises(BadJob, match=r"keywords: name a method or an attribute, .* not 1"):
        service.scatter("add", [1, 2], [{}, {1: 2}])  # type: ignore[dict-item]


def test_map_takes_values(service: Service) -> None:
    for given in (None, 5, object(), "ab", b"ab"):
        with pytest.raises(TypeError, match="map: takes lists or other iterables of values, not"):
            service.map("add", [1], given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"map: takes values for 'add', such as map\('add', \[1,"):
        service.map("add")
    with pytest.raises(BadJob, match="name a method"):
        service.map("", [])
    assert list(service.map("add", (n for n in range(3)), [])) == []
    assert list(service.map("add", (n for n in range(3)), [1, 2, 3])) == [1, 3, 5]


def test_gather_and_reduce_take_results_and_a_function(service: Service) -> None:
    for given in (None, 5, [None], "x", [service.broadcast("add", 1)]):
        with pytest.raises(TypeError, match="gather: takes results of calls, as broadcast returns"):
            encamp.gather(given)  # type: ignore[arg-type]
    for operation in (None, "max", 3):
        with pytest.raises(TypeError, match="reduce: takes a function of two values first, not"):
            service.reduce(operation, "add", 1)  # type: ignore[arg-type]


def test_a_server_is_called_by_its_number(service: Service) -> None:
    for number in (None, 0, -1, "1", 1.5, True):
        with pytest.raises(BadJob, match="server: must be an integer, 1 or more, not"):
            service.call_one(number, "add", 1)  # type: ignore[arg-type]
    with pytest.raises(BadJob, match="server: Adder has no server 99; its servers are 1, 2"):
        service.call_one(99, "add", 1).get(SOON)


@pytest.mark.parametrize("rank", [None, -1, "1", 1.5, SERVERS])
def test_members_have_ranks(service: Service, rank: Any) -> None:
    with service.group(timeout=SOON) as group:
        calls = group.broadcast("send", rank)
        if rank is not None:
            calls += group.broadcast("receive", None, rank)
        for call in calls:
            with pytest.raises(BadJob, match="rank: must be"):
                call.get(SOON)
        with pytest.raises(TypeError, match="timeout: must be a number"):
            group.members[0].receive("x").get(SOON)


def test_parameters_are_values_by_name(service: Service) -> None:
    anything: Any
    for anything in (None, "Adder", Adder()):
        with pytest.raises(TypeError, match="service: must be what publish returned, not"):
            encamp.Parameters(anything)
    for anything in (5, "x", [1], [("a", 1)]):
        with pytest.raises(TypeError, match="values: must be a dict of names and values, not"):
            encamp.Parameters(service, anything)
    for anything in ({1: 2}, {"": 1}, {None: 1}):
        with pytest.raises(BadJob, match="values: name a method or an attribute"):
            encamp.Parameters(service, anything)
        with pytest.raises(BadJob, match="values: name a method or an attribute"):
            encamp.Parameters(service).update(anything)
    for anything in (5, None, {"a": 1}, [1], [None]):
        with pytest.raises(TypeError, match="read: must be"):
            encamp.Parameters(service, read=anything)
    with pytest.raises(BadJob, match="Adder: name a method"):
        encamp.Parameters(service).call("")
    assert encamp.Parameters(service, None, (n for n in ["more"]))._read == ("more",)


FLOORS = {"count": 1, "restarts": 0, "checkpoint_every": 0, "cores": 1, "gpus": 0}


def _refused() -> Iterator[tuple[str, Any]]:
    for option, least in FLOORS.items():
        for value in ("x", least - 1, 1.5, math.nan, [], True):
            yield option, value
    for option in ("idle_limit", "call_limit"):
        for value in ("x", 0, -1, math.nan, [], True):
            yield option, value
    for option in ("at_least_once", "display"):
        for value in ("", 0, 1, [], "yes"):
            yield option, value
    for value in ("x", -1, math.nan, math.inf, [], None, 10**400):
        yield "window_delay", value
    for value in (None, 3, "big", "80x", "80 x 24"):
        yield "window", value
    for value in (None, 3, "two\nlines", b"x"):
        yield "name", value
    for value in (3, "x", [1], [("a", 1)], {1: 2}):
        yield "kwargs", value
    for value in (None, "", "gpu", 1):
        yield "per", value
    for value in (3, [], [None], [3]):
        yield "on", value
    for value in (-1, "x", 1.5, None, []):
        yield "memory", value


@pytest.mark.parametrize(("option", "value"), list(_refused()))
def test_options_that_cannot_be_used_are_named(
    cluster: encamp.Cluster, option: str, value: Any
) -> None:
    given: dict[str, Any] = {option: value}
    if option in ("window", "window_delay"):
        given["display"] = ":1"
    with pytest.raises(InputError, match=f"^{option}: "):
        cluster.publish(Adder, **given)


def test_more_servers_than_slots_are_refused(cluster: encamp.Cluster) -> None:
    with pytest.raises(NotEnough):
        cluster.publish(Adder, count=10**30)
    with pytest.raises(NotEnough, match="inf TiB of memory is needed"):
        cluster.publish(Adder, memory=10**400)


def test_publishing_none_is_refused(cluster: encamp.Cluster) -> None:
    with pytest.raises(TypeError, match="publish: takes an object, or a class or function that"):
        cluster.publish(None)


def test_a_display_that_cannot_be_used_is_refused(
    cluster: encamp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("xterm", shutil.which("xterm") is not None)
    message = r"display: the X display '{}' cannot be opened; check .* \(xset -display {} q\)"
    for name in ("nobody", "here:", ":x", ":1 ", "a b:0"):
        with pytest.raises(BadJob, match="display: must be the name of an X display, like ':0'"):
            cluster.publish(Adder, display=name)
    with pytest.raises(BadJob, match=message.format(":987", ":987")):
        cluster.publish(Adder, display=":987")
    monkeypatch.setenv("DISPLAY", ":988.0")
    with pytest.raises(BadJob, match=message.format(":988.0", ":988.0")):
        cluster.publish(Adder, display=True)


def test_a_display_that_does_not_answer_is_refused(
    cluster: encamp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("xterm", shutil.which("xterm") is not None)
    monkeypatch.setattr(xterm_windows, "GREETS", 0.5)
    with x_display() as (name, server):
        server.send_signal(signal.SIGSTOP)
        with pytest.raises(BadJob, match=f"display '{name}' has not answered within 0.5 s"):
            cluster.publish(Adder, display=name)


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({"root": None}, TypeError, "root: must be the path of a folder, not None"),
        ({"root": 5}, TypeError, "root: must be the path of a folder, not 5"),
        ({"to": None}, TypeError, "to: must be the path of a folder, not None"),
        ({"to": ""}, TypeError, "to: must be the path of a folder, not ''"),
        ({"to": {"elsewhere": "x"}}, BadJob, "to: names no folder for"),
        ({"patterns": None}, TypeError, "patterns: must be a list of strings, not None"),
        ({"patterns": [5]}, TypeError, "patterns: must be strings, not 5"),
        ({"patterns": "/etc/*"}, BadJob, "patterns: must stay below .*, not '/etc/\\*'"),
        ({"patterns": ["../*.dat"]}, BadJob, "patterns: must stay below"),
        ({"patterns": "*.none"}, NoMatch, "none"),
        ({"exclude": None}, TypeError, "exclude: must be a list of strings, not None"),
        ({"exclude": [None]}, TypeError, "exclude: must be strings, not None"),
        ({"hosts": []}, BadJob, "on: must be hosts"),
        ({"hosts": [5]}, BadJob, "on: must be hosts"),
        ({"hosts": "elsewhere"}, NoSuchHost, "elsewhere"),
    ],
)
def test_files_that_cannot_be_copied_are_refused(
    tmp_path: Path, given: dict[str, Any], error: type[Exception], why: str
) -> None:
    (tmp_path / "a.dat").write_text("a")
    usual = {"root": tmp_path, "patterns": "*.dat", "to": tmp_path / "to"}
    with encamp.Cluster("local", slots=1) as own:
        with pytest.raises(error, match=why) as caught:
            encamp.copy_files(own, **(usual | given))
        assert isinstance(caught.value, InputError)
        assert not (tmp_path / "to").exists()
        assert own.tasks() == []


def test_single_pattern_and_host_need_no_list(tmp_path: Path) -> None:
    for name in ("a.dat", "b.dat", "old.dat"):
        (tmp_path / name).write_text(name)
    with encamp.Cluster("local", slots=1) as own:
        [host] = own.hosts()
        to = tmp_path / "to"
        copied = encamp.copy_files(own, tmp_path, "*.dat", to, hosts=host, exclude="old")
    assert copied == ["a.dat", "b.dat"]
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == copied


def test_a_file_that_cannot_be_copied_leaves_nothing_in_its_place(here: Path) -> None:
    for name in ("a", "b"):
        Path(name).write_text(name)
        os.utime(name, (1, 1_000_000))
        Path(name).chmod(0o750)
    (here / "to/b").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        take_over(["a", "b"], str(here / "to"))
    assert sorted(path.name for path in Path("to").iterdir()) == ["a", "b"]
    status = Path("to/a").stat()
    assert (status.st_mtime, status.st_mode & 0o777) == (1_000_000, 0o750)


def test_windows_are_opened_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    waits: list[float] = []
    monkeypatch.setattr(xterm_windows, "time", SimpleNamespace(monotonic=lambda: now))
    pump: Any = SimpleNamespace(call_later=lambda wait, _: waits.append(wait))
    opener = xterm_windows.Opener(pump, cast("Any", None))
    windows = xterm_windows.Windows(":0", "", 0.5)
    for _ in range(3):
        opener.open(windows, "name/1", "host")
    now += 60.0
    for _ in range(2):
        opener.open(windows, "name/1", "host")
    assert waits == [0.0, 0.5, 1.0, 0.0, 0.5]


class OutOfTime(Exception):
    pass


class TakesLong:
    """Its time is over while it is pickled."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(0)
        return int, ()


def out_of_time(number: int, frame: object) -> None:
    raise OutOfTime


def test_signal_handler_exception_is_not_blamed_on_argument(
    cluster: encamp.Cluster, service: Service
) -> None:
    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        with service.acquire(timeout=SOON) as proxy:
            with pytest.raises(OutOfTime):
                proxy.add(TakesLong())
            assert proxy.add(1, 2).get(SOON) == 3
        with pytest.raises(OutOfTime):
            service.broadcast("add", TakesLong())
        with pytest.raises(OutOfTime):
            cluster.publish(Adder, kwargs={"more": TakesLong()})
    finally:
        signal.signal(signal.SIGALRM, before)
