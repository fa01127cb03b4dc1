"""The virtual machine that a process joins: a running one, or one that it starts.

A machine that it starts belongs to another small process (`encamp.engines.pvm.machine_owner`),
which ends it when this process ends, even by a kill.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO

from encamp.engines.kit.own_interpreter import PACKAGE, python_here
from encamp.engines.kit.wait_for_process import Sentinel
from encamp.engines.pvm import machine_owner
from encamp.errors import EngineUnavailable
from encamp.timeouts import ENDS, GREETED
from encamp.wire.wait_for_descriptor import readable

REMEDY = "install PVM (Debian: apt-get install pvm libpvm3)"
ROOT = "/usr/lib/pvm3"
_OWN = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from encamp.engines.pvm.machine_owner import main; sys.exit(main(*sys.argv[2:]))"
)
_END_WITHIN = 25.0
"""Seconds that the machine's owner may take to end; it gives the machine less."""
_LONGEST_FOLDER = 80
"""Longest folder for PVM's sockets, whose paths the kernel limits to 108 bytes."""

_used_tmp: str | None = None
"""libpvm reads PVM_TMP from the environment once, and never again."""


class Machine:
    """A running virtual machine; libpvm finds it by the environment ``variables``."""

    own = False

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)

    @contextmanager
    def known(self) -> Iterator[None]:
        """Set the environment of this machine for a block."""
        global _used_tmp
        before = {name: os.environ.get(name) for name in self.variables}
        os.environ.update(self.variables)
        _used_tmp = self.variables["PVM_TMP"]
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def log(self) -> str:
        """The contents of the daemon's log."""
        name = self.variables.get("PVM_VMID", os.environ.get("PVM_VMID", ""))
        with suppress(OSError):
            file = Path(self.variables["PVM_TMP"], _file("pvml", name))
            return file.read_text(encoding="utf-8", errors="replace")
        return ""

    def close(self) -> None:
        """Do nothing: the machine was running before."""


class OwnMachine(Machine):
    """A virtual machine that ends with this process.

    ``name`` is the name of its first host, by default this host's; ``process`` is the daemon's
    process id, 0 if there is none.
    """

    own = True

    def __init__(self, name: str) -> None:
        folder = _folder()
        variables = {
            "PVM_ROOT": os.environ.get("PVM_ROOT", ROOT),
            "PVM_TMP": folder or _used_tmp or "/tmp",  # noqa: S108
            "PVM_VMID": f"encamp{os.getpid()}{token_hex(4)}",
        }
        if "PVM_RSH" not in os.environ and (ssh := shutil.which("ssh")):
            variables["PVM_RSH"] = ssh
        super().__init__(variables)
        self.process, self._folder = 0, folder
        self._owner = subprocess.Popen(
            [python_here(), "-I", "-S", "-c", _OWN, PACKAGE, name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            cwd="/",
            start_new_session=True,
        )
        try:
            self.process = self._started()
        except BaseException:
            self.close()
            raise

    def _started(self) -> int:
        """Start the daemon; returns its process id. Raises `EngineUnavailable`."""
        assert self._owner.stdout is not None  # noqa: S101
        ready = readable(self._owner.stdout, GREETED)
        line = self._owner.stdout.readline().decode(errors="replace") if ready else ""
        word, _, pid = line.partition(" ")
        if word == "ready":
            return int(pid)
        output = (
            line + _rest(self._owner.stdout) if ready else ("it has not reported that it is ready")
        )
        why = f"its daemon does not start: {' '.join(output.split())}"
        raise EngineUnavailable("pvm", why, "see what the command pvmd prints")

    def close(self) -> None:
        """Halt the machine and remove its files. Idempotent."""
        owner = self._owner
        with suppress(OSError, ValueError):
            os.write(owner.stdin.fileno(), b"x")  # type: ignore[union-attr]
        for pipe in (owner.stdin, owner.stdout):
            if pipe is not None:
                pipe.close()
        try:
            owner.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            owner.kill()
            owner.wait()
        if owner.returncode < 0:
            self._halt_without_owner()

    def _halt_without_owner(self) -> None:
        """Halt the machine if its owner was killed and could not."""
        with self.known():
            with suppress(OSError):
                if self.variables["PVM_VMID"].encode() in _environment(self.process):
                    machine_owner.halt()
                    _end(self.process)
            machine_owner.remove(self.process, self._folder)


def find_machine(which: str | None, address: str | None, usual: str) -> Machine:
    """The machine to join: ``"running"``, ``"own"``, or None for a running one, else a new one.

    In a new one this host is called ``address``, by default its ``usual`` name. Raises
    `EngineUnavailable`.
    """
    if which not in (None, "own", "running"):
        raise EngineUnavailable("pvm", f"machine={which!r} is not known", "use 'own' or 'running'")
    _check_programs()
    if address:
        _check_address(address)
    machine = None if which == "own" else running()
    if machine is None and which == "running":
        raise EngineUnavailable("pvm", "no virtual machine runs here", "start one: pvm")
    if machine is not None and address:
        why = f"address={address!r} is not possible for a virtual machine that runs already"
        remedy = f"use machine='own', or end that one and start it with: pvm -n{address}"
        raise EngineUnavailable("pvm", why, remedy)
    return machine or OwnMachine(address or usual)


def _check_address(address: str) -> None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
            trial.bind((address, 0))
    except OSError:
        why = f"address={address!r} is not an address of this host"
        remedy = (
            "give the address at which the other hosts reach it, such as 10.0.0.5; see: ip address"
        )
        raise EngineUnavailable("pvm", why, remedy) from None


def running() -> Machine | None:
    """This user's virtual machine that the environment names, if it is running."""
    tmp, name = os.environ.get("PVM_TMP", "/tmp"), os.environ.get("PVM_VMID", "")  # noqa: S108
    here = Path(tmp, _file("pvmd", name))
    if _used_tmp not in (None, tmp) or not _answers(here):
        return None
    variables = {"PVM_ROOT": os.environ.get("PVM_ROOT", ROOT), "PVM_TMP": tmp}
    return Machine({**variables, "PVM_VMID": name} if name else variables)


def daemon_files() -> list[Path]:
    """The file in which the host's daemon writes its address, and the socket that it names."""
    file = Path(os.environ.get("PVM_TMP", "/tmp"), _file("pvmd", os.environ.get("PVM_VMID", "")))  # noqa: S108
    try:
        address = file.read_text(encoding="utf-8").strip()
    except OSError:
        return []
    return [file, Path(address)] if address.startswith("/") else [file]


def _file(kind: str, name: str) -> str:
    return ".".join(filter(None, (kind, str(os.getuid()), name)))


def _answers(file: Path) -> bool:
    """Whether a daemon listens at the address in its file; files of killed daemons remain."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if file.stat().st_uid != os.getuid():
            return False
        address = file.read_text(encoding="utf-8").strip()
        if not address.startswith("/"):
            return ":" in address
        probe.connect(address)
        return True
    return False


def _check_programs() -> None:
    missing = [name for name in ("pvmd", "pvm") if shutil.which(name) is None]
    if missing:
        raise EngineUnavailable("pvm", f"there is no command {missing[0]}", REMEDY)
    if os.geteuid() == 0 and "PVM_ALLOW_ROOT" not in os.environ:
        why = "PVM refuses to work for root, since other hosts could then run anything as root"
        raise EngineUnavailable("pvm", why, "use a different account, or set PVM_ALLOW_ROOT=1")


def _folder() -> str:
    """A new folder for a new machine's files; empty if libpvm already uses a different one."""
    global _own_folder
    if _used_tmp is None:
        base = tempfile.gettempdir()
        base = base if len(os.fsencode(base)) < _LONGEST_FOLDER else "/tmp"  # noqa: S108
        _own_folder = tempfile.mkdtemp(prefix=f"encamp-pvm-{os.getpid()}-", dir=base)
        return _own_folder
    if _own_folder == _used_tmp:
        _make_again(Path(_own_folder))
        return _own_folder
    return ""


def _make_again(folder: Path) -> None:
    """Create a folder that this process has used before, if it has been removed.

    Files of a killed machine in it do not matter, since every machine has its own name.
    """
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            why = (
                f"{folder}, the folder of this process's virtual machine, is not a folder of "
                "this user"
            )
            raise EngineUnavailable("pvm", why, "remove it") from None
        folder.chmod(0o700)


_own_folder = ""


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def _end(pid: int) -> None:
    """Wait some seconds for the end of a process, and then kill it."""
    process = Sentinel(pid)
    try:
        if not readable(process, ENDS):
            process.kill()
    finally:
        process.close()


def _rest(source: IO[bytes]) -> str:
    return source.read().decode(errors="replace")
