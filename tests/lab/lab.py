"""Several hosts on one Linux machine, for tests: ``with Lab(3) as lab: lab.hosts[0].run(...)``.

A lab is a hub and its hosts. The hub is a process with namespaces of its own, in which a bridge
joins the hosts' networks; the hosts' processes and disks live inside of the hub's namespaces. So
the end of the hub is the end of all, and the hub ends when the owner of the lab does.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from encamp.storage.local_storage import LOCAL
from encamp.storage.shared_folders import MIRRORED

from .host import NEW_NAMESPACES, FirstProcess, Host, Hub, LabError

TOOLS = ("ip", "mount", "nsenter", "setpriv", "ssh", "ssh-keygen", "sshd", "umount", "unshare")
SSHFS_TOOLS = ("sshfs", "tc")
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"
PREFIX = "encamp-lab-"
TMP = Path("/tmp")
MEDIA = Path("/media")
BITS = 24
OUTSIDE = 254
BROAD = 16
"""Routes with fewer bits give way: a lab's is the narrower one."""
FILES = "labfiles"


def missing(*, sshfs: bool = False) -> str | None:
    """What a lab needs and is not there; None if all is."""
    if os.geteuid() != 0:
        return "the right to make name spaces (root)"
    tools: Sequence[str] = TOOLS + SSHFS_TOOLS if sshfs else TOOLS
    for tool in tools:
        if shutil.which(tool, path=os.environ.get("PATH", "") + SBIN) is None:
            return tool
    tried = subprocess.run(["unshare", *NEW_NAMESPACES, "--fork", "true"], capture_output=True)
    allowed = tried.returncode == 0
    return None if allowed else "a kernel that lets root make name spaces"


class Lab:
    """Hosts ``lab1``, ``lab2``, … with a shared folder that each has at another path.

    The last ``without_share`` hosts do not have it. With ``sshfs``, it is on a file server of its
    own, `files`, and the hosts mount it from there; the server sends no faster than ``rate``
    (such as ``"20mbit"``). ``disk`` is the size of each host's disk and ``tmp`` that of its
    ``/tmp``, as mount options of tmpfs say it. ``variables`` are further environment variables
    that whatever starts on a host finds, also through ssh.

    Made by ``with`` or by `start` and `close`, which block; it is also taken down when the
    process that made it ends, however it does. From outside, `share` is the shared folder,
    `address` is where hosts reach outside programs, and `ssh_command` is an ``ssh`` that knows
    the hosts by name; it works at the same path on every host.
    """

    def __init__(
        self,
        hosts: int = 2,
        *,
        without_share: int = 0,
        sshfs: bool = False,
        rate: str | None = None,
        disk: str = "64m",
        tmp: str = "128m",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._names = [f"lab{number}" for number in range(1, hosts + 1)]
        self._unshared = set(self._names[hosts - without_share :])
        self._sshfs, self._rate = sshfs or rate is not None, rate
        self._disk, self._tmp = disk, tmp
        self.variables = dict(variables or {})
        self._owner = os.getpid()
        self._made = ExitStack()
        self.hosts: list[Host] = []
        self.files: Host | None = None
        """The file server, if there is one."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Make all hosts; blocks until all are up. Raises `LabError` if they cannot be made."""
        clean()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.folder = self._new_folder()
        self._network = self._free_network()
        self.address = str(self._network[OUTSIDE])
        self.share = self.folder / "share"
        self.ssh_command = str(self.folder / "etc/ssh")
        for name in ("share", "etc", "logs"):
            (self.folder / name).mkdir()
        self._write_files()
        self._hub = self._start_hub()
        if self._sshfs:
            self.files = self._host(FILES)
            self.files.start()
        self.hosts = [self._host(name) for name in self._names]
        for host in self.hosts:
            host.start_first()
        for host in self.hosts:
            host.plug_in()
        for host in self.hosts:
            host.wait_until_up()

    def _host(self, name: str) -> Host:
        host = Host(self._hub, self._facts(name), self._of(name))
        self._made.callback(host.end)
        return host

    def close(self) -> None:
        """Take everything down; blocks until nothing is left. Does nothing if nothing is there."""
        if os.getpid() == self._owner:  # no fork of it
            self._made.close()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for programs outside: where the share is, how to reach hosts."""
        return {
            MIRRORED: str(self.share),
            "HYDRA_LAUNCHER": "ssh",
            "HYDRA_LAUNCHER_EXEC": self.ssh_command,
            "UCX_TLS": "tcp,self",  # hosts that share a kernel do not share memory
            "PRTE_MCA_plm_ssh_agent": self.ssh_command,
            "PRTE_MCA_prte_if_include": str(self._network),
            "OMPI_MCA_btl": "tcp,self",
            "OMPI_MCA_btl_tcp_if_include": str(self._network),
            "PVM_RSH": self.ssh_command,
            "ENCAMP_SSH": self.ssh_command,
        }

    # The folder and the network, which are this lab's alone

    def _new_folder(self) -> Path:
        """A folder that is locked for as long as the owner or the hub is there; see `clean`."""
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=TMP))
            self._lock = os.open(folder, os.O_RDONLY)
            self._made.callback(os.close, self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if folder.exists():  # else it was taken for a leftover before it was locked
                self._made.callback(shutil.rmtree, folder)
                return folder

    def _free_network(self) -> ipaddress.IPv4Network:
        """A private network that nobody on this machine uses, and no other lab takes."""
        used = list(_routes())
        for number in random.sample(range(1 << 14), 200):
            network = ipaddress.IPv4Network((0x0AC00000 + (number << 8), BITS))
            if any(network.overlaps(one) for one in used if one.prefixlen >= BROAD):
                continue
            reserved = self._made.enter_context(socket.socket(socket.AF_UNIX))
            with suppress(OSError):
                reserved.bind(f"\0{PREFIX}{network}")
                return network
        raise LabError("no private network is free")

    @property
    def _link(self) -> str:
        """The name of the cable's outer end, unique as the network is."""
        parts = str(self._network.network_address).split(".")
        return f"elab-{parts[1]}-{parts[2]}"

    def _start_hub(self) -> Hub:
        owner = os.pidfd_open(os.getpid())
        disks = dict.fromkeys([*self._names, FILES], self._disk)
        facts = {"disks": disks, "owner": owner, "link": "outside", "folder": str(self.folder)}
        log = self.folder / "logs/hub"
        try:
            first = FirstProcess("hub", facts, log, fds=[owner, self._lock])
        finally:
            os.close(owner)
        self._made.callback(first.end)
        first.expect("ready")
        hub = Hub(first)
        self._plug_in(hub)
        return hub

    def _plug_in(self, hub: Hub) -> None:
        """A cable from outside to the bridge."""
        peer = ["peer", "name", "outside", "netns", str(hub.first.pid)]
        _ip("link", "add", self._link, "type", "veth", *peer)
        self._made.callback(self._unplug)
        _ip("addr", "add", f"{self.address}/{BITS}", "dev", self._link)
        _ip("link", "set", self._link, "up")
        hub.ip("link set outside master bridge", "link set outside up", "link set bridge up")

    def _unplug(self) -> None:
        """Take the cable away; the kernel would take its time for it when the hub ends."""
        with suppress(LabError):
            _ip("link", "del", self._link)

    # What hosts are told

    def _of(self, name: str) -> Path:
        return self.folder / "logs" / name

    def _address(self, name: str) -> str:
        everybody = [*self._names, FILES]
        return str(self._network[everybody.index(name) + 1])

    def _facts(self, name: str) -> dict[str, Any]:
        """What a host's first process is to do."""
        self._of(name).mkdir()
        has_share = name not in self._unshared
        by_sshfs = self._sshfs and name != FILES
        own = MEDIA / name
        share = str(own / "shared") if has_share else None
        etc = self.folder / "etc"
        server = f"{FILES}:{MEDIA / FILES / 'shared'}" if by_sshfs and has_share else None
        roots = {LOCAL: str(own / "disk/storage"), MIRRORED: share or os.pathsep}
        environment = {**self.variables, **roots}
        self._write_sshd_config(name, environment)
        (etc / f"{name}.passwd").write_text(_passwd(str(own / "home")))
        return {
            "name": name,
            "address": self._address(name),
            "bits": BITS,
            "mac": _mac(self._address(name)),
            "rate": self._rate if name == FILES else None,
            "disk": str(own / "disk"),
            "share": share,
            "source": str(self.share) if has_share and not by_sshfs else None,
            "server": server,
            "visible": self._visible(),
            "tmp": self._tmp,
            "sshd": str(etc / f"{name}.sshd"),
            "ssh_config": str(etc / "ssh_config"),
            "files": self._files(name),
            "environment": environment,
            "home": str(own / "home"),
        }

    def _visible(self) -> list[str]:
        """What lies in ``/tmp`` outside and is there on every host, too."""
        here = [Path(__file__).parents[2], Path(sys.prefix), Path(sys.base_prefix)]
        wanted = [self.folder / "etc", *(path for path in here if path.is_relative_to(TMP))]
        return [str(path) for path in dict.fromkeys(wanted)]

    def _files(self, name: str) -> dict[str, str]:
        """Files that are different on the host: from path to where the content is."""
        etc = self.folder / "etc"
        files = {
            "/proc/sys/kernel/random/boot_id": str(self._of(name) / "boot_id"),
            "/etc/hosts": str(etc / "hosts"),
            "/etc/ssh/ssh_config": str(etc / "ssh_config"),
            "/etc/shadow": str(etc / "shadow"),
            "/etc/passwd": str(etc / f"{name}.passwd"),
        }
        return {path: content for path, content in files.items() if Path(path).exists()}

    # Files about ssh

    def _write_files(self) -> None:
        etc = self.folder / "etc"
        everybody = [*self._names, *([FILES] if self._sshfs else [])]
        addresses = {name: self._address(name) for name in everybody}
        for name in ("key", *everybody):
            _make_key(etc / name)
        outside = {socket.gethostname(): self.address, "outside": self.address}
        lines = [f"{address} {name}" for name, address in {**addresses, **outside}.items()]
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        (etc / "shadow").write_text("root:*:19000:0:99999:7:::\n")  # not locked, no password
        known = [f"{n},{a} {(etc / f'{n}.pub').read_text()}" for n, a in addresses.items()]
        (etc / "known_hosts").write_text("".join(known))
        (etc / "ssh_config").write_text(_ssh_config(etc, addresses))
        wrapper = Path(self.ssh_command)
        wrapper.write_text(f'#!/bin/sh\nexec ssh -F {shlex.quote(str(etc))}/ssh_config "$@"\n')
        wrapper.chmod(0o755)

    def _write_sshd_config(self, name: str, environment: dict[str, str]) -> None:
        etc = self.folder / "etc"
        lines = [
            f"ListenAddress {self._address(name)}",
            f"HostKey {etc / name}",
            f"AuthorizedKeysFile {etc / 'key.pub'}",
            "SetEnv " + " ".join(f'"{key}={value}"' for key, value in environment.items()),
            *("PermitRootLogin prohibit-password", "PasswordAuthentication no"),
            *("KbdInteractiveAuthentication no", "UsePAM no", "UseDNS no", "PidFile none"),
            "StrictModes no",  # the folder of the lab is in /tmp
            *("MaxStartups 200", "MaxSessions 200", "Subsystem sftp internal-sftp", ""),
        ]
        (etc / f"{name}.sshd").write_text("\n".join(lines))


def clean() -> list[Path]:
    """Remove the folders of labs whose owner and hub are no more; the kernel removed the rest."""
    removed = []
    for folder in TMP.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed.append(folder)
            finally:
                os.close(lock)
    return removed


def _ip(*words: str) -> str:
    """What ``ip`` says."""
    env = {**os.environ, "PATH": os.environ.get("PATH", "") + SBIN}
    done = subprocess.run(["ip", *words], capture_output=True, text=True, env=env)
    if done.returncode:
        raise LabError(f"ip refuses {words}: {done.stderr.strip()}")
    return done.stdout


def _routes() -> Iterator[ipaddress.IPv4Network]:
    """The networks that this machine knows a way to."""
    for route in json.loads(_ip("-4", "-json", "route", "show", "table", "all") or "[]"):
        if route["dst"] != "default":
            yield ipaddress.IPv4Network(route["dst"], strict=False)


def _mac(address: str) -> str:
    """An Ethernet address that stays a host's when it boots again."""
    return "02:ab:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _make_key(path: Path) -> None:
    command: Sequence[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _passwd(home: str) -> str:
    """This machine's users; root has another home, for this one's start files are none of it."""
    lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    for line in lines:
        if line[0] == "root":
            line[5] = home
    return "".join(":".join(line) + "\n" for line in lines)


def _ssh_config(etc: Path, addresses: dict[str, str]) -> str:
    hosts = [f"Host {name}\n  HostName {address}" for name, address in addresses.items()]
    everywhere = [
        f"Host {' '.join([*addresses, *addresses.values()])}",
        *("  User root", f"  IdentityFile {etc / 'key'}", "  IdentitiesOnly yes"),
        *(f"  UserKnownHostsFile {etc / 'known_hosts'}", "  GlobalKnownHostsFile none"),
        *("  StrictHostKeyChecking yes", "  CheckHostIP no", "  UpdateHostKeys no"),
        *("  BatchMode yes", "  LogLevel ERROR", "  ConnectTimeout 20"),
        *("  KexAlgorithms curve25519-sha256", ""),  # the default takes ten times as long
    ]
    return "\n".join([*hosts, *everywhere])
