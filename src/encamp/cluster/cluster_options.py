"""The options of `Cluster` that do not concern its engine, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from encamp.cluster.print_output import Follower, follower
from encamp.cluster.spawn_options import bytes_of
from encamp.engines.engine_interface import Engine
from encamp.errors import BadJob
from encamp.storage.real_paths import current_folder
from encamp.storage.shared_folders import SharedPath, portable
from encamp.wire.protocol import ANY, SlotKind

T = TypeVar("T")


@dataclass(frozen=True)
class ClusterSettings:
    """Settings for all agents of a cluster; some are by host name, with `ANY` for all others."""

    folder: str
    """The current folder of tasks, as JSON of a portable path."""
    follow: Follower | None
    output_limit: int
    init_commands: dict[str, str]
    niceness: dict[str, int]
    interpreters: dict[str, str]

    @classmethod
    def checked(
        cls,
        startup_dir: str | Path | None,
        follow: bool | Follower,
        output_limit: int | str,
        init_command: str | Mapping[str, str],
        niceness: int | Mapping[str, int],
        interpreter: str | Mapping[str, str],
    ) -> ClusterSettings:
        """The settings for these options of `Cluster`. Raises `BadJob`."""
        return cls(
            _folder(startup_dir),
            follower(follow),
            bytes_of("output_limit", output_limit, 1 << 10),
            _by_host("init_command", init_command, ""),
            _by_host("niceness", niceness, 0),
            _by_host("interpreter", interpreter, ""),
        )

    @property
    def named(self) -> set[str]:
        """The hosts that they name, perhaps also `ANY`."""
        return {*self.init_commands, *self.niceness, *self.interpreters}


def kind_of_slots(inline: bool | str, engine: Engine) -> SlotKind:
    """The kind of slots. This process's main thread belongs to the program, so it is not a slot."""
    if not inline:
        return SlotKind.PROCESS
    threads = inline == "threads" or engine.agent_here is not None
    return SlotKind.THREAD if threads else SlotKind.INLINE


def _folder(startup_dir: str | Path | None) -> str:
    given = Path(startup_dir or ".").expanduser()
    if not given.is_absolute():
        given = current_folder() / given
    if startup_dir is not None and not given.is_dir():
        raise BadJob(f"startup_dir {str(startup_dir)!r}", "there is no such folder")
    path = portable(given)
    return json.dumps([path.root, path.rest] if isinstance(path, SharedPath) else path)


def _by_host(name: str, given: T | Mapping[str, T], none: T) -> dict[str, T]:
    """An option per host. Raises `BadJob`."""
    each = dict(given) if isinstance(given, Mapping) else {ANY: given} if given != none else {}
    for host, one in each.items():
        if not isinstance(host, str) or type(one) is not type(none):
            kind = "a string" if none == "" else "an integer"
            raise BadJob(name, f"must be {kind}, or one for each host's name, not {given!r}")
    return each
