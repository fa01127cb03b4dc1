"""One host of a lab, and what tests do to it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

INIT = str(Path(__file__).with_name("init.py"))
NEW_NAMESPACES = ["--mount", "--uts", "--ipc", "--net", "--pid"]
WITHIN = 30.0
STOPPED = "TtZX"


class LabError(Exception):
    """The lab cannot do what it is asked for."""


class FirstProcess:
    """Process 1 of new namespaces, as its starter sees it; all that runs there ends with it."""

    def __init__(
        self,
        kind: str,
        facts: Mapping[str, Any],
        log: Path,
        inside: FirstProcess | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        self._log = log
        self._depth = 2 if inside else 1
        enter = inside.enter("pid", "mount") if inside else []
        new = ["unshare", *NEW_NAMESPACES, "--fork", "--mount-proc", "--kill-child"]
        with log.open("ab") as errors:
            self._starter = subprocess.Popen(
                [*enter, *new, sys.executable, "-I", INIT, kind, json.dumps(facts)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C is for the owner alone
            )

    @property
    def pid(self) -> int:
        """Its process id as the lab's owner sees it."""
        pid = self._starter.pid
        try:
            for _ in range(self._depth):
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (OSError, IndexError):
            raise LabError("the first process is no more") from None
        return pid

    def expect(self, word: str) -> None:
        """Wait until it says this."""
        heard = b""
        if select.select([self._out], [], [], WITHIN)[0]:
            heard = self._out.readline()
        if heard.decode().strip() != word:
            why = self._log.read_text(errors="replace")[-2000:].strip()
            raise LabError(f"a first process is not {word} within {WITHIN:g} s: {why}")

    def go_on(self) -> None:
        """Let it continue."""
        assert self._starter.stdin is not None
        self._starter.stdin.write(b"\n")

    def enter(self, *namespaces: str) -> list[str]:
        """The words before a command that make it run in these namespaces."""
        return ["nsenter", "--target", str(self.pid), *(f"--{name}" for name in namespaces)]

    def end(self) -> None:
        """End all that runs in its namespaces; nothing of it is left then."""
        if self._starter.poll() is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except (OSError, LabError):
                self._starter.kill()
        self._starter.wait(WITHIN)
        for pipe in (self._starter.stdin, self._starter.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def _out(self) -> IO[bytes]:
        assert self._starter.stdout is not None
        return self._starter.stdout


class Hub:
    """Where the cables of all hosts meet."""

    def __init__(self, first: FirstProcess) -> None:
        self.first = first

    def ip(self, *lines: str) -> None:
        """Change the network that joins the hosts, by lines for ``ip -batch``."""
        command = [*self.first.enter("net"), "ip", "-batch", "-"]
        done = subprocess.run(command, input="\n".join(lines), text=True, capture_output=True)
        if done.returncode:
            raise LabError(f"the network refuses {lines}: {done.stderr.strip()}")


class Host:
    """A host of the lab.

    ``name`` and ``address`` are what others reach it by, ``share`` is where it has the shared
    folder (None if it has not), ``disk`` is a disk of its own of limited size that outlives the
    host, and ``storage`` is the folder for local storage on it. All paths are the host's own;
    see `path` for how to look at them from outside.
    """

    def __init__(self, hub: Hub, facts: Mapping[str, Any], folder: Path) -> None:
        self.name: str = facts["name"]
        self.address: str = facts["address"]
        self.share = Path(facts["share"]) if facts["share"] else None
        self.disk = Path(facts["disk"])
        self.storage = self.disk / "storage"
        self.environment: dict[str, str] = facts["environment"]
        self._hub, self._facts = hub, facts
        self._boot_id, self._log = folder / "boot_id", folder / "log"
        self._first: FirstProcess | None = None
        self._started: list[subprocess.Popen[str]] = []

    # Starting and ending

    def start(self) -> None:
        """Boot: up again after `kill`, with the same disk and a new boot id; blocks until it is."""
        for step in (self.start_first, self.plug_in, self.wait_until_up):
            step()

    def start_first(self) -> None:
        """The first step of `start`; a lab does each for all of its hosts."""
        assert self._first is None, f"{self.name} is up"
        self.new_boot_id()
        self._first = FirstProcess("host", self._facts, self._log, inside=self._hub.first)

    def plug_in(self) -> None:
        """The second step: a network."""
        self._up.expect("made")
        other_end = f"peer name eth0 address {self._facts['mac']} netns {self._up.pid}"
        self._hub.ip(f"link add {self.name} type veth {other_end}", *self._cable("master bridge"))
        self._up.go_on()

    def wait_until_up(self) -> None:
        """The last step: sshd answers, and the share is there."""
        self._up.expect("ready")
        self.path(self.storage).mkdir(exist_ok=True)

    def kill(self) -> None:
        """Lose power: everything on the host ends at once, and nobody is told."""
        with suppress(LabError):
            self._hub.ip(f"link del {self.name}")  # the kernel would say goodbye to its peers
        self.end()

    def end(self) -> None:
        """End all processes of the host, however they are."""
        self.end_started()
        if self._first is not None:
            self._first.end()
            self._first = None

    def end_started(self) -> None:
        """End what was run from outside.

        It comes first: a process cannot vanish while its parent is stopped, as nsenter is on a
        frozen host, and namespaces end with their last process.
        """
        for process in self._started:
            process.kill()
        while self._started:
            self._started.pop().wait(WITHIN)

    @property
    def up(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._first is not None

    @property
    def _up(self) -> FirstProcess:
        if self._first is None:
            raise LabError(f"{self.name} is not up")
        return self._first

    # Running something there

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = "/",
        timeout: float = 60.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, with no input, and keep its outputs.

        Raises as `subprocess.run` does. The environment is this process's, the host's own
        PARALLEL_LOCAL_STORAGE and PARALLEL_MIRRORED_STORAGE, and ``env``.
        """
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.popen(command, env=env, cwd=cwd, **pipes) as process:
            try:
                outputs = process.communicate(timeout=timeout)
            finally:
                process.kill()
        done = subprocess.CompletedProcess(process.args, process.returncode, *outputs)
        if check:
            _check(done)
        return done

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = "/",
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a command on the host; it is killed when this thread or the host ends."""
        dies = ["setpriv", "--pdeathsig", "KILL"]
        enter = self._up.enter("mount", "uts", "ipc", "net", "pid")
        words = [*dies, *enter, *dies, "env", f"--chdir={cwd}", *map(str, command)]
        own = {"HOME": self._facts["home"], **self.environment}
        environment = {**os.environ, **own, **(env or {})}
        process = subprocess.Popen(words, env=environment, text=True, **options)
        self._started.append(process)
        return process

    def path(self, path: str | Path) -> Path:
        """A path of the host as it is reached from outside while the host is up."""
        return Path(f"/proc/{self._up.pid}/root", *Path(path).parts[1:])

    def pids(self) -> list[int]:
        """The host's processes, by the ids that they have outside."""
        mine = _pid_namespace(self._up.pid)
        all_of_them = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return [pid for pid in all_of_them if _pid_namespace(pid) == mine]

    def commands(self) -> dict[int, str]:
        """The command lines of what was started there, by the process ids that it has outside.

        What makes it a host (its first process, and what belongs to sshd) is left out, and so is
        what has ended: processes come and go while this looks.
        """
        lines = {pid: _command_line(pid) for pid in self.pids()}
        own = (INIT, "sshd")
        return {pid: line for pid, line in lines.items() if line and not any(map(line.count, own))}

    # Faults

    def cut(self) -> None:
        """Cut the network: what is sent from and to the host is lost, and nobody is told."""
        self._hub.ip(*self._cable("nomaster"))

    def restore(self) -> None:
        """Mend the network."""
        self._hub.ip(*self._cable("master bridge"))

    def _cable(self, where: str) -> list[str]:
        return [f"link set {self.name} {where}", f"link set {self.name} up"]

    def freeze(self) -> None:
        """Stop all processes of the host where they are; its kernel still answers the network."""
        _until(self._all_rest, f"{self.name} does not freeze")

    def _all_rest(self) -> bool:
        """Whether everything rests; what does not is told to."""
        running = [pid for pid in self.pids() if not _rests(pid)]
        for pid in running:
            _send(pid, signal.SIGSTOP)
        # nsenter stops with what it has started; it could not be woken before it has
        return not running and all(map(_rests, self._enterers()))

    def thaw(self) -> None:
        """Let all processes of the host continue."""
        for pid in [*self.pids(), *self._enterers()]:
            _send(pid, signal.SIGCONT)

    def _enterers(self) -> Iterator[int]:
        return (process.pid for process in self._started if process.poll() is None)

    def fill_disk(self) -> None:
        """Leave no room on the host's disk."""
        with self._ballast.open("ab") as file, suppress(OSError):
            room = os.fstatvfs(file.fileno())
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1))

    def free_disk(self) -> None:
        """Give back what `fill_disk` took."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.path(self.disk / "ballast")

    def new_boot_id(self) -> str:
        """Make the host look as if it had booted again; says the new id."""
        new = str(uuid.uuid4())
        self._boot_id.write_text(new + "\n")
        return new


def _check(done: subprocess.CompletedProcess[str]) -> None:
    try:
        done.check_returncode()
    except subprocess.CalledProcessError as exc:
        exc.add_note(done.stderr)
        raise


def _pid_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _rests(pid: int) -> bool:
    """Whether a process is stopped, or no more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat[stat.rindex(")") + 2] in STOPPED


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(otherwise)
        time.sleep(0.005)
