"""The first process of a lab host, and of the hub that all hosts of a lab live in.

``init.py hub FACTS`` and ``init.py host FACTS`` run as process 1 of namespaces of their own; what
they do to mounts, names and network ends with them. Needs nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

DISKS = "/media"
NEW = Path("/run/new")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SSHD_WITHIN = 15.0
DEAD_WITHIN = 10.0

Facts = dict[str, Any]


def main() -> None:
    """Be what the arguments say."""
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    facts = json.loads(sys.argv[2])
    {"hub": hub, "host": host}[sys.argv[1]](facts)


def run(*command: str, given: Iterable[str] = ()) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, input="\n".join(given), text=True, check=True)


def say(word: str) -> None:
    """Tell the owner of the lab how far this is."""
    print(word, flush=True)


# The hub


def hub(facts: Facts) -> None:
    """Keep the hosts' disks and their network, until the owner of the lab is no more."""
    mount_tmpfs(DISKS)
    for name, size in facts["disks"].items():
        mount_tmpfs(f"{DISKS}/{name}", size=size)
    run(
        "ip", "-batch", "-", given=["link set lo up", "link add bridge type bridge forward_delay 0"]
    )
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what hosts leave behind needs nobody to wait
    say("ready")
    select.select([facts["owner"]], [], [])
    end(facts)


def end(facts: Facts) -> None:
    """Leave nothing; everything else goes with this process."""
    with suppress(OSError):
        run("ip", "link", "del", facts["link"])
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    deadline = time.monotonic() + DEAD_WITHIN
    while others() and time.monotonic() < deadline:
        time.sleep(0.005)
    shutil.rmtree(facts["folder"], ignore_errors=True)


def others() -> list[str]:
    """The processes here besides this one."""
    return [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]


# A host


def host(facts: Facts) -> None:
    """Become a host of the lab: its own name, files, network, and a door to come in by."""
    say("made")  # the owner plugs in the network now
    socket.sethostname(facts["name"])
    arrange_files(facts)
    sys.stdin.readline()
    join_network(facts)
    open_door(facts)
    if facts["server"]:
        mount_share(facts)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the host need nobody to wait
    say("ready")
    while True:
        signal.pause()


def arrange_files(facts: Facts) -> None:
    """Private folders, the host's own disk and share, and files that say where it is."""
    for path, content in facts["files"].items():
        run("mount", "--bind", content, path)
    mount_tmpfs("/run", size="16m")
    Path("/run/sshd").mkdir(mode=0o755)
    disk = arranged(f"{DISKS}/{facts['name']}")
    share = arranged(facts["source"]) if facts["source"] else None
    visible = [(arranged(path), Path(path)) for path in facts["visible"]]
    mount_tmpfs("/tmp", size=facts["tmp"], mode="1777")
    mount_tmpfs("/dev/shm", size=facts["tmp"], mode="1777")
    run("umount", "--recursive", DISKS)
    mount_tmpfs(DISKS)
    for there, path in [*visible, (disk, Path(facts["disk"])), (share, facts["share"])]:
        if there is not None:
            move(there, Path(path))
    Path(facts["home"]).mkdir(mode=0o700)
    run("mount", "-t", "sysfs", "sysfs", "/sys")  # the old one shows another network


def mount_tmpfs(path: str, **options: str) -> None:
    """An empty folder in memory."""
    Path(path).mkdir(exist_ok=True)
    words = ",".join(f"{name}={value}" for name, value in {"mode": "755", **options}.items())
    run("mount", "-t", "tmpfs", "-o", words, "lab", path)


def arranged(path: str) -> Path:
    """Keep hold of a folder while others are mounted over it."""
    place = NEW / str(len(list(NEW.iterdir())) if NEW.exists() else 0)
    place.mkdir(parents=True)
    run("mount", "--bind", path, str(place))
    return place


def move(mounted: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    run("mount", "--move", str(mounted), str(to))


def join_network(facts: Facts) -> None:
    """Own address on the cable; a host with a rate limit sends no faster than that."""
    address = f"{facts['address']}/{facts['bits']}"
    lines = ["link set lo up", f"addr add {address} dev eth0", "link set eth0 up"]
    run("ip", "-batch", "-", given=lines)
    if facts["rate"]:
        limit = ["tbf", "rate", facts["rate"], "burst", "128kb", "latency", "200ms"]
        run("tc", "qdisc", "add", "dev", "eth0", "root", *limit)


def open_door(facts: Facts) -> None:
    """Start sshd, and wait until somebody could come in, and whoever looked has left again."""
    program = shutil.which("sshd")
    assert program is not None
    door = subprocess.Popen([program, "-D", "-e", "-f", facts["sshd"]], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + SSHD_WITHIN
    served = Path(f"/proc/{door.pid}/task/{door.pid}/children")
    for condition in (lambda: greets(facts["address"]), lambda: not served.read_text()):
        while not condition():
            if door.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("sshd does not answer")
            time.sleep(0.01)


def greets(address: str) -> bool:
    """Whether sshd says its first words, which it does in a process of its own."""
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def mount_share(facts: Facts) -> None:
    """Mount the share as the file server has it; others' changes are seen within a second."""
    share = Path(facts["share"])
    share.mkdir(parents=True, exist_ok=True)
    options = ["-F", facts["ssh_config"], "-o", "dcache_timeout=1"]
    run("sshfs", *options, facts["server"], str(share))


if __name__ == "__main__":
    main()
