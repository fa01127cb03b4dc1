"""The options of `Cluster.spawn`: how a call is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from encamp.cluster.events import Host
from encamp.errors import BadJob, UnknownOption
from encamp.number_checks import limit, whole
from encamp.storage.disk.path_to_destination import named
from encamp.storage.inputs.mirror import Item, MirrorMap, as_mirrors, plan
from encamp.storage.outputs.patterns import Output, OutputMap, as_outputs, bound, check_outputs
from encamp.storage.real_paths import current_folder
from encamp.units import parse_size


class Need(NamedTuple):
    """The resources that a task needs. Tasks with equal needs wait in one queue."""

    on: frozenset[str] | None = None
    cores: int = 1
    memory: int = 0
    gpus: int = 0
    alone: bool = False
    """Whether no other calls are sent ahead to its slot."""
    slot: tuple[int, int] | None = None
    """The only slot that it may have: its agent's number and its own."""


PLAIN = Need()


class SharedOptions(TypedDict, total=False):
    """The options that tasks and the servers of services share; see `Cluster.spawn`."""

    on: Host | str | Iterable[Host | str] | None
    mirror: MirrorMap
    outputs: OutputMap
    to: str | Path | None
    cores: int
    memory: int | str
    gpus: int


class TaskOptions(SharedOptions, total=False):
    """The options of a task; see `Cluster.spawn`."""

    on_failure: OutputMap
    persistent: bool
    time_limit: float | None
    fresh: bool
    name: str
    notify: bool


@dataclass(frozen=True, kw_only=True)
class InternalOptions:
    """Options of calls that are not for users; they need no checks."""

    initializer: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
    answer: Callable[[Any], Any] | None = None
    """The function that answers the questions of the call; None for the cluster."""
    owner: object = None
    """The owner of the call; its spawner uses it to find its own calls."""
    on_output: Callable[[bytes], None] | None = None
    """A function that gets the output of the call while it runs."""
    at_once: bool = False
    """Whether its arguments are pickled when it is spawned, so that they may be changed then."""


_INTERNAL = tuple(field.name for field in fields(InternalOptions))


@dataclass(frozen=True, kw_only=True)
class CheckedOptions(InternalOptions):
    """The checked options of a call. ``items`` is the plan of its mirror map."""

    need: Need = PLAIN
    name: str = ""
    time_limit: float | None = None
    fresh: bool = False
    notify: bool = False
    items: tuple[Item, ...] = ()
    outputs: tuple[Output, ...] = ()
    on_failure: tuple[Output, ...] = ()
    to: Path | None = None
    persistent: bool = False

    staged: bool = field(init=False)
    """Whether calls have their own folder."""
    plain: bool = field(init=False)
    """Whether a slot needs no options to run the call."""

    def __post_init__(self) -> None:
        staged = bool(self.items or self.outputs or self.on_failure or self.persistent)
        need = self.need.gpus or self.need.cores > 1
        special = (
            self.name or self.time_limit or staged or self.initializer or self.on_output or need
        )
        object.__setattr__(self, "staged", staged)
        object.__setattr__(self, "plain", not special)


@dataclass(frozen=True, kw_only=True)
class SpawnOptions(InternalOptions):
    """The options of a call as given: those of `TaskOptions`, and internal ones."""

    on: Any = None
    mirror: MirrorMap = ()
    outputs: OutputMap = ()
    on_failure: OutputMap = ()
    to: str | Path | None = None
    persistent: bool = False
    cores: int = 1
    memory: int | str = 0
    gpus: int = 0
    time_limit: float | None = None
    fresh: bool = False
    name: str = ""
    notify: bool = False
    slot: tuple[int, int] | None = None
    """See `Need.slot`."""
    alone: bool = False
    """See `Need.alone`."""
    ready: CheckedOptions | None = field(default=None, init=False, repr=False, compare=False)
    """The checked options, if they will be the same next time."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> SpawnOptions:
        """Options from keyword arguments. Raises `UnknownOption`."""
        known = TaskOptions.__annotations__
        for name in given:
            if name not in known:
                raise UnknownOption(name, tuple(sorted(known)))
        return cls(**given)

    def checked(self) -> CheckedOptions:
        """The checked options; the mirror map is planned now. Raises an `InputError`."""
        if self.ready is not None:
            return self.ready
        if not (isinstance(self.name, str) and self.name.isprintable()):
            raise BadJob("name", f"must be a string of one line, not {self.name!r}")
        for name in ("persistent", "fresh", "notify"):
            check_flag(name, getattr(self, name))
        base = current_folder()
        wanted, left = as_outputs(self.outputs), as_outputs(self.on_failure)
        destination = named(base, self.to or ".") if wanted or left else None
        if destination is not None:
            check_outputs(wanted, destination)
            check_outputs(left, destination)
        options = CheckedOptions(
            need=self.need(),
            name=self.name,
            time_limit=limit("time_limit", self.time_limit),
            fresh=self.fresh,
            notify=self.notify,
            items=tuple(plan(as_mirrors(self.mirror), base)) if self.mirror else (),
            outputs=wanted if destination is None else bound(wanted, destination),
            on_failure=left if destination is None else bound(left, destination),
            to=destination,
            persistent=self.persistent,
            **{name: getattr(self, name) for name in _INTERNAL},
        )
        if not options.staged:  # otherwise inputs or the current folder may differ next time
            object.__setattr__(self, "ready", options)
        return options

    def need(self) -> Need:
        """What a slot must have for the task. Raises an `InputError`."""
        memory = _bytes(self.memory)
        cores, gpus = whole("cores", self.cores, 1), whole("gpus", self.gpus, 0)
        alone = self.alone or self.fresh or cores > 1 or memory > 0 or gpus > 0
        need = Need(names(self.on), cores, memory, gpus, alone, self.slot)
        return PLAIN if need == PLAIN else need


def check_flag(what: str, value: object) -> None:
    """Raise `BadJob` unless an option is True or False."""
    if not isinstance(value, bool):
        raise BadJob(what, f"must be True or False, not {value!r}")


def bytes_of(what: str, given: int | str, least: int) -> int:
    """A number of bytes, given as a number or a string. Raises `BadJob`."""
    if isinstance(given, str):
        if (size := parse_size(given)) is None:
            raise BadJob(what, f"{given!r} is not a size; write it like '2 GiB'")
        given = size
    return whole(what, given, least)


def _bytes(memory: int | str) -> int:
    if isinstance(memory, str):
        return bytes_of("memory", memory, 0)
    return whole("memory", memory, 0)


def names(on: Any) -> frozenset[str] | None:
    """The host names in any form of ``on``."""
    if on is None:
        return None
    given: list[Any] = [on] if isinstance(on, str) or not isinstance(on, Iterable) else list(on)
    found = [host if isinstance(host, str) else getattr(host, "name", None) for host in given]
    if not found or None in found:
        raise BadJob("on", f"must be hosts or their names, at least one, not {on!r}")
    return frozenset(map(str, found))
