"""``encamp attach``: the output of servers, in another terminal or in windows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from console_command import encamp, start

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, NoSuchConsole
from encamp.services.proxy import Proxy
from encamp.services.registry.consoles import KEPT, Consoles, consoles, find
from encamp.testing import served
from encamp.testing.waiting import until
from some_display import x_display


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster("local", slots=2) as cluster:
        yield cluster


def _serving(cluster: Cluster, **options: object) -> Proxy:
    return cluster.publish(served.Counter, count=1, **options).acquire(20)  # type: ignore[arg-type]


def test_a_server_is_followed_from_another_terminal_until_it_ends(cluster: Cluster) -> None:
    proxy = _serving(cluster)
    name = f"Counter/{proxy.server}"
    proxy.say("\x1b[32mgreen\x1b[0m \N{SNOWMAN}").get(20)
    assert encamp("attach").out.startswith(f"{name}  ")
    encamp("attach", "Counter/99").check_refused("'Counter/99'", f"there are {name}")
    with start("attach", name) as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == "\x1b[32mgreen\x1b[0m \N{SNOWMAN}\n"
        proxy.say("more").get(20)
        assert attached.stdout.readline() == "more\n"
        proxy._service.terminate()
        assert attached.communicate(timeout=20)[1] == f"[encamp: {name} has ended]\n"
        assert attached.returncode == 0
    encamp("attach", name).check_refused("your programs on this host have none")


def test_several_programs_may_have_a_server_of_one_name() -> None:
    first, second = Consoles(), Consoles()
    first.introduce("Counter", 1, "here", 0)
    second.introduce("Counter", 1)
    encamp("attach", "Counter/1").check_refused("--program", str(os.getpid()))
    assert encamp("attach", "--program", "1").out == ""
    assert len(encamp("attach", "--program", str(os.getpid())).out.splitlines()) == 2
    second.introduce("Counter", 2)
    assert [one.facts.name for one in consoles()] == ["Counter/1", "Counter/1", "Counter/2"]
    second.close()
    assert find("Counter/1", os.getpid()).facts.host == "here"
    with pytest.raises(NoSuchConsole):
        find("Counter/1", 1)
    first.close()


def test_a_console_keeps_what_came_last_and_takes_no_more_disk() -> None:
    own = Consoles()
    own.introduce("Counter", 1)
    line = "\N{SNOWMAN}" * 33 + "\n"
    for _ in range(120):
        own.printed(1, line.encode() * 1000)
    [console] = consoles()
    [file] = console._folder.glob("*.text")
    assert file.stat().st_size == 12_000_000
    assert file.stat().st_blocks * 512 < 4 * KEPT
    received: list[bytes] = []
    write = received.append

    def end(text: bytes) -> None:
        own.ended(1)  # what is there is read nevertheless
        write(text)

    console.follow(end)
    text = b"".join(received).decode()  # no character is cut apart
    assert text.endswith(line * 1000)
    assert KEPT - 4 < len(text.encode()) <= KEPT
    own.close()


SCRIPT = """
import encamp, time
from encamp.testing import served
cluster = encamp.Cluster("local", slots=1)
cluster.publish(served.Counter).call("say", "here").get()
print("ready", flush=True)
time.sleep(600)
"""


def test_a_console_ends_with_a_program_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        with start("attach", "Counter/1") as attached:
            assert attached.stdout is not None
            assert attached.stdout.readline() == "here\n"
            program.kill()
            attached.communicate(timeout=20)
            assert attached.returncode == 0
    assert consoles() == []
    assert encamp("clean").status == 0


@pytest.fixture
def display() -> Iterator[str]:
    for program in ("xterm", "xwd", "xwininfo"):
        need(program, shutil.which(program) is not None)
    with x_display() as (name, _):
        yield name


def _windows(display: str) -> str:
    line = ["xwininfo", "-display", display, "-root", "-tree"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def _greens(display: str, shot: Path) -> int:
    """How much of a picture of the screen is bright green; see XWDFile.h for its head."""
    subprocess.run(["xwd", "-silent", "-root", "-display", display, "-out", shot], check=True)
    data = shot.read_bytes()
    head = [int.from_bytes(data[at : at + 4], "big") for at in range(0, 100, 4)]
    pixels = memoryview(data)[head[0] + 12 * head[19] :].cast("I")
    return sum(pixel & 0xFFFFFF == 0x00FF00 for pixel in pixels)


def test_consoles_open_as_windows_that_stay(cluster: Cluster, display: str, tmp_path: Path) -> None:
    proxy = _serving(cluster, display=display, window="40x10+300+50", window_delay=0.1)
    title = f'"{cluster.hosts()[0].name}: Counter/{proxy.server}"'
    until(lambda: any(title in w and "+300+50" in w for w in _windows(display).splitlines()))
    proxy.say("\x1b[102m" + 30 * " " + "\x1b[0m").get(20)
    until(lambda: _greens(display, tmp_path / "shot") > 1000)
    proxy._service.terminate()
    until(lambda: not cluster.tasks())
    until(lambda: _attached() == [])
    assert title in _windows(display)
    assert _greens(display, tmp_path / "shot") > 1000


def _attached() -> list[int]:
    """The processes that follow consoles here."""
    words = f"--program {os.getpid()} "
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        line = " ".join(process.info["cmdline"] or ())
        if words in line and process.info["name"] != "xterm":
            found.append(process.pid)
    return found


def test_windows_that_cannot_be_opened_are_refused_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(BadJob, match="DISPLAY is not set"):
        cluster.publish(served.Counter, display=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadJob, match="no xterm"):
        cluster.publish(served.Counter, display=":1")
