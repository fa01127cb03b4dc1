"""The lab: its hosts are independent, fail on request, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from conftest import need
from encamp.storage.local_storage import LOCAL
from encamp.storage.process_identity import boot_id
from encamp.storage.shared_folders import MIRRORED
from encamp.testing.waiting import until
from lab import Host, Lab, LabError, clean, missing

TESTS = Path(__file__).parents[1]
ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
peer, _ = server.accept()
while some := peer.recv(100):
    peer.sendall(some)
"""
CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()
"""
ENGLISH = {"LC_ALL": "C"}
OWNER = """
import json, signal
from dataclasses import asdict
from lab import Lab
from lab.test_lab import Traces
with Lab(2) as lab:
    asleep = lab.hosts[0].popen(["sleep", "1000"])
    {deed}
    print(json.dumps(asdict(Traces.of(lab))), flush=True)
    {then}
"""
WAIT = "signal.pause()"


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    lacking = missing(sshfs=True)
    need(str(lacking), lacking is None)


@pytest.fixture(scope="module")
def lab(_possible: None) -> Iterator[Lab]:
    """For tests that break nothing; the third host has no share."""
    with Lab(3, without_share=1, variables={"MORE": "two words"}) as lab:
        yield lab


@pytest.fixture
def pair() -> Iterator[Lab]:
    """For a test that breaks something."""
    with Lab(2) as lab:
        yield lab


@dataclass
class Traces:
    """What can be seen of a lab from outside."""

    folder: str
    link: str
    hub: int

    @classmethod
    def of(cls, lab: Lab) -> Traces:
        return cls(str(lab.folder), lab._link, lab._hub.first.pid)

    def seen(self) -> list[str]:
        """Those that are there now.

        Processes in name spaces of the lab see it in their mounts; numbers of name spaces are
        used again at once.
        """
        links = [self.link] if Path("/sys/class/net", self.link).exists() else []
        folders = [self.folder] if Path(self.folder).exists() else []
        mounts = [line for line in read("/proc/self/mountinfo").splitlines() if self._in(line)]
        return [*links, *folders, *mounts, *filter(self._is_process, os.listdir("/proc"))]

    def _is_process(self, name: str) -> bool:
        files = (f"/proc/{name}/{file}" for file in ("cmdline", "mountinfo"))
        return name.isdigit() and any(self._in(read(file)) for file in files)

    def _in(self, text: str) -> bool:
        return Path(self.folder).name in text


def read(file: str) -> str:
    """What a file of the kernel says; nothing if it is no more."""
    try:
        return Path(file).read_text(errors="replace")
    except OSError:
        return ""


def echo(host: Host) -> socket.socket:
    """A connection to a program on the host that answers the same."""
    server = host.popen([sys.executable, "-Ic", ECHO, host.address], stdout=subprocess.PIPE)
    assert server.stdout is not None
    with closing(server.stdout) as out:
        connection = socket.create_connection((host.address, int(out.readline())), timeout=20)
    assert answers(connection)
    return connection


def answers(connection: socket.socket, within: float = 20.0) -> bool:
    """Whether the other end answers; False if nothing comes, not even an end."""
    connection.settimeout(within)
    connection.sendall(b"x")
    try:
        assert connection.recv(1) == b"x"
    except TimeoutError:
        return False
    return True


def output_of(host: Host, *command: str | Path) -> str:
    """What a command on the host prints."""
    return host.run(command).stdout.strip()


def boot_id_there(host: Host) -> str:
    """What encamp there takes for the boot id."""
    code = "from encamp.storage.process_identity import boot_id; print(boot_id())"
    return output_of(host, sys.executable, "-c", code)


def test_each_host_has_its_own_name_address_processes_memory_and_folders(lab: Lab) -> None:
    for host in lab.hosts:
        for folder in ("/tmp", "/dev/shm", host.storage):
            host.run(["touch", f"{folder}/{host.name}"])
    for host in lab.hosts:
        for folder in ("/tmp", "/dev/shm", host.storage):
            found = output_of(host, "find", folder, "-maxdepth", "1", "-name", "lab?")
            assert found == f"{folder}/{host.name}"
        assert output_of(host, "hostname") == host.name
        assert output_of(host, "ip", "-br", "-4", "addr").split()[-1] == f"{host.address}/24"
        assert "init.py" in output_of(host, "cat", "/proc/1/cmdline")
        assert output_of(host, "sh", "-c", "echo ~") == output_of(host, "sh", "-c", "echo ~root")
        assert output_of(host, "ps", "-e", "-o", "comm=").split().count("sshd") == 1
    assert len({Path(f"/proc/{host.pids()[0]}/ns/mnt").readlink() for host in lab.hosts}) == 3
    assert len({(host.address, host.storage) for host in lab.hosts}) == 3


def test_the_share_has_another_path_on_each_host_and_the_same_content(lab: Lab) -> None:
    first, second, _ = lab.hosts
    assert first.share is not None
    assert second.share is not None
    assert len({first.share, second.share, lab.share}) == 3
    first.run(["sh", "-c", f"echo content > {first.share}/file"])
    assert output_of(second, "cat", second.share / "file") == "content"
    assert (lab.share / "file").read_text() == "content\n"
    for elsewhere in (first.share, lab.share):
        assert "No such file" in second.run(["ls", elsewhere], check=False, env=ENGLISH).stderr


def test_a_host_can_be_without_the_share(lab: Lab) -> None:
    (lab.share / "here").touch()
    code = "from encamp.storage.shared_folders import shared_roots; print(shared_roots())"
    third = lab.hosts[2]
    assert third.share is None
    assert output_of(third, sys.executable, "-c", code) == "[]"
    assert output_of(third, "find", "/media", "/tmp", "-name", "here") == ""


@pytest.mark.parametrize(("start", "ssh"), [(None, "own"), (0, "ssh"), (2, "own")])
def test_ssh_gets_in_and_finds_the_hosts_variables(lab: Lab, start: int | None, ssh: str) -> None:
    run = from_outside if start is None else lab.hosts[start].run
    for host, target in zip(lab.hosts, ("lab1", lab.hosts[1].address, "lab3"), strict=True):
        words = [lab.ssh_command if ssh == "own" else ssh, target]
        done = run([*words, f"echo $(hostname) ${LOCAL} ${MIRRORED} $HOME $MORE"])
        home = output_of(host, "sh", "-c", "echo ~root")
        expected = [host.name, str(host.storage), str(host.share or ":"), home, "two", "words"]
        assert (done.stdout.split(), done.stderr) == (expected, "")


def from_outside(words: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)


def test_hosts_reach_programs_outside_by_the_outer_hosts_name(lab: Lab) -> None:
    with socket.create_server((lab.address, 0)) as server:
        for name in (socket.gethostname(), "outside"):
            lab.hosts[0].run([sys.executable, "-Ic", CONNECT, name, str(server.getsockname()[1])])
            peer, (address, _) = server.accept()
            peer.close()
            assert address == lab.hosts[0].address


def test_lab_run_passes_variables_and_reports_status_and_timeout(lab: Lab) -> None:
    host = lab.hosts[0]
    done = host.run(["sh", "-c", f"echo $MORE $EVEN ${LOCAL}; pwd"], env={"EVEN": "1"}, cwd="/tmp")
    assert done.stdout.split() == ["two", "words", "1", str(host.storage), "/tmp"]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        host.run(["sh", "-c", "exit 3"])
    assert failed.value.returncode == 3
    with pytest.raises(subprocess.TimeoutExpired):
        host.run(["sleep", "1000"], timeout=0.2)
    until(lambda: "sleep" not in output_of(host, "ps", "-e", "-o", "comm="))


def test_a_killed_host_says_no_goodbye_and_boots_again_with_its_disk(pair: Lab) -> None:
    host = pair.hosts[1]
    before = boot_id_there(host)
    host.run(["touch", "/tmp/gone", host.storage / "kept"])
    asleep = host.popen(["sleep", "1000"])
    with echo(host) as connection:
        pids = host.pids()
        host.kill()
        assert not answers(connection, within=0.5)
        assert asleep.wait(20) == -signal.SIGKILL
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert output_of(pair.hosts[0], "hostname") == "lab1"
        with pytest.raises(LabError, match="lab2 is not up"):
            host.run(["true"])
        with pytest.raises(OSError, match=r"timed out|No route"):
            socket.create_connection((host.address, 22), timeout=0.3)
        host.start()
        with pytest.raises(ConnectionResetError):
            until(lambda: answers(connection))
    found = output_of(host, "find", host.storage, "/tmp", "-maxdepth", "1", "-type", "f")
    assert found == str(host.storage / "kept")
    assert boot_id_there(host) != before
    assert output_of(pair.hosts[0], "ssh", host.name, "hostname") == host.name


def test_a_cut_host_hears_nothing_until_its_network_is_restored(pair: Lab) -> None:
    with echo(pair.hosts[0]) as cut, echo(pair.hosts[1]) as other:
        pair.hosts[0].cut()
        assert not answers(cut, within=0.5)
        assert answers(other)
        pair.hosts[0].restore()
        cut.settimeout(20)
        assert cut.recv(1) == b"x"
        assert answers(cut)


def test_a_frozen_host_does_nothing_until_it_thaws(pair: Lab) -> None:
    host = pair.hosts[0]
    with echo(host) as connection:
        host.freeze()
        assert {psutil.Process(pid).status() for pid in host.pids()} == {"stopped"}
        assert not answers(connection, within=0.5)
        host.thaw()
        assert connection.recv(1) == b"x"
        assert answers(connection)


def test_outside_processes_continue_after_thaw(pair: Lab) -> None:
    host = pair.hosts[0]
    cat = host.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    until(lambda: "cat " in host.commands().values())
    for _ in range(3):
        host.freeze()
        host.thaw()
    output, _ = cat.communicate("text", timeout=20)
    assert (cat.returncode, output) == (0, "text")


def test_a_frozen_host_can_be_killed(pair: Lab) -> None:
    asleep = pair.hosts[0].popen(["sleep", "1000"])
    pair.hosts[0].freeze()
    pair.hosts[0].kill()
    assert asleep.wait(20) == -signal.SIGKILL
    pair.hosts[0].start()
    assert output_of(pair.hosts[0], "hostname") == "lab1"


def test_a_full_disk_takes_nothing_more_until_it_is_freed(pair: Lab) -> None:
    def write(host: Host) -> str:
        words = ["sh", "-c", f"head -c 100000 /dev/zero > {host.storage}/new"]
        return host.run(words, check=False, env=ENGLISH).stderr

    host, other = pair.hosts
    host.fill_disk()
    assert "No space left on device" in write(host)
    assert write(other) == ""
    host.run(["sh", "-c", "echo > /tmp/room"])
    host.free_disk()
    assert write(host) == ""


def test_a_boot_id_is_the_hosts_own_and_can_be_changed(pair: Lab) -> None:
    first, second = pair.hosts
    assert len({boot_id_there(first), boot_id_there(second), boot_id()}) == 3
    new = first.new_boot_id()
    assert boot_id_there(first) == new
    assert output_of(first, "ssh", "lab1", "cat", "/proc/sys/kernel/random/boot_id") == new


def test_file_server_share_has_the_given_rate() -> None:
    size = 1_000_000
    with Lab(2, without_share=1, rate="16mbit") as lab:
        (lab.share / "file").write_bytes(bytes(size))
        host = lab.hosts[0]
        assert lab.files is not None
        assert host.share is not None
        assert f"{host.share} type fuse.sshfs" in output_of(host, "mount")
        assert output_of(host, "sh", "-c", f"cat {host.share}/file | wc -c") == str(size)
        limited = output_of(lab.files, "tc", "-s", "qdisc", "show", "dev", "eth0")
        assert "tbf" in limited
        assert "rate 16Mbit" in limited
        held_back = re.search(r"overlimits (\d+)", limited)
        assert held_back is not None
        assert int(held_back[1]) > 0
        host.run(["sh", "-c", f"echo back > {host.share}/new"])
        assert (lab.share / "new").read_text() == "back\n"
        assert lab.hosts[1].share is None
        traces = Traces.of(lab)
    assert traces.seen() == []


def test_a_lab_whose_hub_was_killed_is_down_and_can_be_closed() -> None:
    with Lab(1) as lab:
        traces = Traces.of(lab)
        os.kill(traces.hub, signal.SIGKILL)
        until(lambda: traces.seen() == [traces.folder])
    assert traces.seen() == []


def test_several_labs_can_be_up_at_once_and_know_nothing_of_each_other() -> None:
    with Lab(1) as one, Lab(1) as two:
        assert one.hosts[0].address != two.hosts[0].address
        assert output_of(one.hosts[0], "ssh", "lab1", "hostname") == "lab1"
        words = [sys.executable, "-Ic", CONNECT, two.hosts[0].address, "22"]
        assert "unreachable" in one.hosts[0].run(words, check=False).stderr


def test_nothing_is_left_after_an_exception_whatever_state_the_hosts_are_in() -> None:
    def fail() -> None:
        with Lab(2) as lab:
            found.append(Traces.of(lab))
            assert found[0].seen()[:2] == [found[0].link, found[0].folder]
            pids = {str(pid) for host in lab.hosts for pid in host.pids()}
            assert pids < {*found[0].seen()}
            lab.hosts[0].popen(["sleep", "1000"])
            lab.hosts[0].freeze()
            lab.hosts[1].kill()
            raise ZeroDivisionError

    found: list[Traces] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert found[0].seen() == []


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing() -> None:
    lab = Lab(1, rate="nonsense")
    with pytest.raises(LabError, match="nonsense"):
        lab.start()
    assert not lab.folder.exists()
    assert not Path("/sys/class/net", lab._link).exists()


@pytest.mark.parametrize(
    ("deed", "then", "number"),
    [
        ("", WAIT, signal.SIGKILL),
        ("", WAIT, signal.SIGTERM),
        ("lab.hosts[0].freeze()", WAIT, signal.SIGKILL),
        ("lab.hosts[0].cut()", "import os; os._exit(1)", 0),
    ],
)
def test_nothing_is_left_of_a_lab_whose_owner_ended(deed: str, then: str, number: int) -> None:
    owner, traces = owned(deed, then)
    with owner:
        owner.send_signal(number)
        owner.wait(20)
        until(lambda: traces.seen() == [])


def owned(deed: str, then: str) -> tuple[subprocess.Popen[str], Traces]:
    """A lab of another process."""
    code = OWNER.format(deed=deed, then=then)
    variables = {**os.environ, "PYTHONPATH": str(TESTS)}
    words = [sys.executable, "-c", code]
    owner = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=variables)
    assert owner.stdout is not None
    return owner, Traces(**json.loads(owner.stdout.readline()))


def test_folder_of_killed_owner_and_hub_is_removed_by_next_lab() -> None:
    owner, traces = owned("", WAIT)
    with owner:
        stopped = psutil.Process(traces.hub)
        stopped.suspend()
        owner.kill()
        owner.wait(20)
        assert traces.folder not in map(str, clean()), "it was removed while the hub was there"
        stopped.kill()
        until(lambda: traces.seen() == [traces.folder] or not Path(traces.folder).exists())
    until(lambda: not Path(traces.folder).exists() or clean())
    assert traces.seen() == []


def test_a_lab_by_hand_stays_until_ctrl_c() -> None:
    words = [sys.executable, "-m", "tests.lab", "up", "2", "--without-share", "1"]
    start = {"stdout": subprocess.PIPE, "text": True, "cwd": TESTS.parent}
    with subprocess.Popen(words, **start) as byhand:  # type: ignore[call-overload]
        output = list(iter(byhand.stdout.readline, "Ctrl-C takes it down\n"))
        ssh = next(line.split()[-2] for line in output if "to get in" in line)
        assert from_outside([ssh, "lab2", "hostname"]).stdout == "lab2\n"
        byhand.send_signal(signal.SIGINT)
        assert byhand.wait(20) == 0
    assert not Path(ssh).exists()
