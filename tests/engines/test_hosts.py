"""Host names and hostfiles in the notations of MPI, PVM and ssh, from all kinds of editors."""

from __future__ import annotations

from pathlib import Path

import pytest

from encamp.cli import clean
from encamp.engines.kit.hostfile import HostLine, host_in, hosts_in, hosts_of_file, names_in
from encamp.engines.mpi.find_launcher import find_launcher
from encamp.engines.mpi.launched_engine import LaunchedMPI
from encamp.engines.pvm.host_names import host_names
from encamp.errors import BadHostfile, BadJob, EngineUnavailable

LINES = {
    "node1": ("node1", 0),
    "node1:4": ("node1", 4),
    "node1 : 4": ("node1", 4),
    "node1 slots=4": ("node1", 4),
    "node1 slots = 4 max_slots=8": ("node1", 4),
    "node-1.example.org:12 binding=user:4,5": ("node-1.example.org", 12),
    "node1 ip=10.0.0.2 lo=me": ("node1", 0),
    "user@node1:2": ("user@node1", 2),
    "10.0.0.7:3": ("10.0.0.7", 3),
    "::1": ("::1", 0),
    "fe80::1": ("fe80::1", 0),
    "[fe80::1]:4": ("fe80::1", 4),
    "[fe80::1%eth0] slots=2": ("fe80::1%eth0", 2),
    "2001:db8:0:0:0:0:0:7 slots=3": ("2001:db8:0:0:0:0:0:7", 3),
    "user@[::1]:4": ("user@::1", 4),
    "user@::1": ("user@::1", 0),
    "::ffff:10.0.0.1": ("::ffff:10.0.0.1", 0),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_names_a_host_and_its_slots(line: str) -> None:
    found = host_in(line)
    assert (found.name, found.slots) == LINES[line]
    assert found.six == ("::" in line or line.startswith("2001:"))


@pytest.mark.parametrize(
    "line",
    ["", "-oProxyCommand=x", "node1:", "node1:0", "node1:-2", "node1:two", "node1 slots=x", "[::1",
     "[node1]:4", "::1]", "fe80::zz", "a b", "user@", "node1:4:5", "node1,node2", "node1:²"],
)  # fmt: skip
def test_invalid_host_names_are_refused(line: str) -> None:
    with pytest.raises(BadJob, match=r"write it like"):
        host_in(line)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_hostfiles_of_any_editor_are_read(tmp_path: Path, ends: str, mark: str) -> None:
    lines = ["# our hosts", "", "node1:2   # fast", "  node2 slots=4", "[::1]:3", "node1", "\t"]
    file = tmp_path / "hosts"
    file.write_bytes((mark + ends.join(lines)).encode())
    assert hosts_of_file(file) == (HostLine("node1", 3), HostLine("node2", 4), HostLine("::1", 3))


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf# none\r\n", b"\xff\xfen\0o\0d\0e\0", b"a b"])
def test_hostfiles_that_name_no_host_are_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(data)
    with pytest.raises(BadHostfile, match="cannot be used"):
        hosts_of_file(file)


def test_an_option_is_a_list_or_has_commas() -> None:
    for given in ("node1:2, [::1]:4,,node1", ["node1:2", " [::1]:4", "", "node1"]):
        assert hosts_in(names_in(given)) == (HostLine("node1", 3), HostLine("::1", 4))
    with pytest.raises(BadJob):
        names_in([1])  # type: ignore[list-item]


def test_ssh_is_given_names_without_brackets_and_numbers() -> None:
    given = ["node1:4", "[::1]:2", "me@[fe80::1]", "node1 ip=10.0.0.2"]
    assert clean._plain(given) == ["node1", "::1", "me@fe80::1"]


@pytest.mark.parametrize("host", ["::1", "[::1]:4", "user@[fe80::1]"])
def test_pvm_says_that_it_knows_no_such_addresses(host: str) -> None:
    with pytest.raises(BadJob, match="does not support IPv6"):
        host_names([host])
    with pytest.raises(BadJob, match="leave it out"):
        host_names(["node1:4"])
    assert host_names(["\ufeffnode1  ip=10.0.0.2", "node2"]) == ["node1 ip=10.0.0.2", "node2"]


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
def test_only_open_mpi_takes_such_addresses(mpi: str) -> None:
    try:
        find_launcher(mpi=mpi)
    except EngineUnavailable as exc:
        pytest.skip(str(exc))
    if mpi == "mpich":
        with pytest.raises(EngineUnavailable, match="takes no IPv6"):
            LaunchedMPI(hosts=["node1", "[fe80::1]:2"], mpi=mpi)
    else:
        LaunchedMPI(hosts=["node1", "[fe80::1]:2"], mpi=mpi).stop()
