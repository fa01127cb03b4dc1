"""The protocol between the two sides of a cluster: the envelopes of their messages.

An envelope is the first part of a message; payloads and buffers follow it. Agents read only
envelopes, and the answers to their own questions. Other payloads are unpickled only in slots and
by the controller.

    controller ── Orders, Recall, Stop, Housekeeping, Ping, End ──► agent
    controller ── Run, Message, Location, Answer ──► agent ──► slot
    controller ◄── Hello, ManyResults, SlotEnded, Rescued, HousekeepingDone, Pong ── agent
    controller ◄── Ask ── agent,   controller ── Answer ──► agent, when it rescues files
    controller ◄── Results, Started, OutputText, Message, Locate, Ask, GivenBack ── agent ◄── slot
    agent ── Recall, Link ──► slot,   agent ◄── Exiting ── slot
    program ── CheckMemory ──► slot, and slot ──► program, when both share memory
    a job's worker ── Run, Answer ──► slot,   worker ◄── Results, SupervisorMessage, Ask ── slot
    Bundle: several of these in one frame between controller and agent, or between agents
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from encamp.errors import BadFrame
from encamp.wire.frames import MARK, Buffer, Parts

SPAWNER = 0
"""The task number of the controller's own program."""
SERVICES = 1
"""`Message.port` of messages between services, their servers and clients."""
NOWHERE = -1
ANY = "*"
"""The key for all hosts that are not named."""
T = TypeVar("T")
_MARKED = bytes([MARK])


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """Base of all envelopes."""


class SlotKind(StrEnum):
    """What the slots of a cluster are."""

    PROCESS = "process"
    THREAD = "thread"
    """A thread of its agent's process."""
    INLINE = "inline"
    """The agent itself."""


class Orders(Envelope, tag=0):
    """The settings of an agent and its slots, sent when it starts."""

    slots: int = 0
    """0: as many as the host has cores."""
    kind: SlotKind = SlotKind.PROCESS
    folder: str = ""
    """The current folder of tasks, a portable path as JSON; empty: the agent's local storage."""
    sys_path: list[str] = []
    key: bytes = b""
    """The key for seals; empty if the engine's network is private."""
    follow: bool = False
    """Whether to send the output of tasks while they run."""
    silence_limit: float = 0.0
    """Seconds without a frame from the controller after which the agent ends itself; 0: never."""
    output: int = 1 << 20
    """Bytes of a task's output that are kept."""
    threads: dict[str, str] = {}
    """The `encamp.slot.numerical_threads.VARIABLES` that the program has set."""
    init_commands: dict[str, str] = {}
    """By host, the command to be run before slots start; `ANY` is for all others."""
    niceness: dict[str, int] = {}
    interpreters: dict[str, str] = {}
    cluster: str = ""
    """A unique name of the cluster; slots use it to recognize objects of other clusters."""


def of_host(each: Mapping[str, T], host: str, otherwise: T) -> T:
    """The value for a host, or for `ANY`."""
    return each.get(host, each.get(ANY, otherwise))


class Hello(Envelope, tag=1):
    """An agent has started."""

    host: str
    pid: int
    slots: int
    cores: int
    memory: int
    gpus: list[str]
    python: str
    version: str
    left_out: list[str] = []
    """Folders of the controller's ``sys.path`` that this host does not search."""


class Run(Envelope, tag=2):
    """Calls for a slot: how many, and the numbers of functions that are new there.

    The calls follow as one part (`encode_calls`), then the functions, one part each, and then the
    large buffers of the calls' arguments.
    """

    slot: int
    count: int
    functions: list[int]
    fresh: bool = False
    """Whether the call gets its own process."""
    life: int = 0
    """How many processes of the slot had ended before; the calls are not for a later one."""
    number: int = 0
    """Grows with every `Run` for the slot."""
    dropped: list[int] = []
    """Numbers of functions and initializers that will not be used again."""
    settings: bytes = b""
    """`encamp.slot.program_settings`, to be applied first; empty if they are unchanged."""


Call = tuple[int, int, bytes, int, bytes]
"""The numbers of the task and the function, the pickle of the arguments, how many large buffers
they have, and the pickle of a `Setup`, empty for a call without options."""


class Recall(Envelope, tag=3):
    """Take back the calls that a slot has not started.

    ``runs``, which the agent fills in, is how many `Run` messages were sent before.
    """

    slot: int
    ticket: int
    runs: int = 0


class GivenBack(Envelope, tag=4):
    """The tasks that a slot has given back, and its running task (-1: none)."""

    slot: int
    ticket: int
    tasks: list[int]
    running: int


class Stop(Envelope, tag=5):
    """End a slot's process with all its descendants, unless it has ended already.

    With a ``ticket``, only if it has not answered that `Recall` within a second, by the agent's
    clock. After this the slot gives nothing back: only its end is reported.
    """

    slot: int
    life: int = 0
    ticket: int = 0


CallResult = tuple[int, bool, float, bytes, int]
"""The result of a call: task, whether it has returned, seconds, payload, and how many buffers."""


class Results(Envelope, tag=6):
    """Results of calls; their buffers follow."""

    slot: int
    results: list[CallResult]
    first: int = 0
    """The number of the first one among all results of the slot's process."""
    count: int = 1


class ResultCount(Envelope, tag=6):
    """The part of `Results` that agents read."""

    slot: int
    results: msgspec.Raw
    first: int = 0
    count: int = 1


class ManyResults(Envelope, tag=23):
    """Several `Results` of a slot without buffers, which follow as one part each."""

    slot: int


class Started(Envelope, tag=7):
    """A call has started. Only for calls with this option."""

    slot: int
    task: int


class OutputText(Envelope, tag=8):
    """Output of a task, from byte ``start`` on; ``last`` if the task has ended."""

    slot: int
    task: int
    start: int
    text: bytes
    last: bool
    head: bytes = b""
    """In the last one, the kept beginning of the output, with a mark for what is left out."""


class SupervisorMessage(Envelope, tag=9):
    """A message of a running function to its supervisor; the payload follows."""

    slot: int
    task: int


class Message(Envelope, tag=10):
    """A message from one task to another; the payload follows."""

    to: int
    sender: int
    agent: int = NOWHERE
    slot: int = NOWHERE
    """The slot of ``to`` on its host; if it is unknown, the controller forwards the message."""
    run: int = 0
    """The number of the `Run` with ``to``, if it is known. The message may arrive before that."""
    port: int = 0
    """The queue at the receiver: 0 for `receive`, or `SERVICES`."""


class Received(msgspec.Struct, frozen=True):
    """A message, and the id of its sender (0: the program). Can be unpacked like a pair."""

    # Not a named tuple: to create one takes a tenth of the time of an MPI message longer.

    source: int
    message: Any

    def __iter__(self) -> Iterator[Any]:
        yield self.source
        yield self.message


class Locate(Envelope, tag=11):
    """A slot asks where a task is."""

    slot: int
    task: int


class Location(Envelope, tag=12):
    """The answer to `Locate`; agent -1 if messages should go to the controller."""

    slot: int
    task: int
    agent: int
    its_slot: int
    run: int


class Link(Envelope, tag=13):
    """Brings a socket that is connected with another slot of the host."""

    slot: int


class Ask(Envelope, tag=14):
    """A question of a task to the controller, which follows."""

    slot: int
    """`NOWHERE` if the agent asks for the task."""
    task: int
    ticket: int


class Answer(Envelope, tag=15):
    """The controller's answer, which follows; if it is not ``ok``, an error."""

    slot: int
    ticket: int
    ok: bool


class Housekeeping(Envelope, tag=16):
    """Work for the agent itself: ``clear`` its host's cache, or ``refresh`` its slots."""

    ticket: int
    what: str


class HousekeepingDone(Envelope, tag=17):
    """The work is done. ``value`` is its value, or the error message if it has failed."""

    ticket: int
    ok: bool
    value: str


class SlotEnded(Envelope, tag=18):
    """A slot's process has ended; ``exit_code`` as subprocess gives it (None: unknown)."""

    slot: int
    exit_code: int | None
    text: bytes
    """The end of its output."""
    began: bool = True
    """Whether it has begun a call that has no result."""
    gone: bool = False
    """Whether the slot has ended, too, since no other process could be started."""
    mark: tuple[int, int] = (0, 0)
    """The last `Ledger.mark` of its call."""
    rescue: int = 0
    """The task of which files are being rescued, until `Rescued`; 0: none."""


class Rescued(Envelope, tag=26):
    """An agent has rescued what it could of the files of a task whose process is dead."""

    task: int


class Exiting(Envelope, tag=24):
    """The last message of a slot's process, which ends."""

    slot: int


class Ping(Envelope, tag=19):
    ticket: int


class Pong(Envelope, tag=20):
    ticket: int


class CheckMemory(Envelope, tag=25):
    """There may be a short message in the shared memory (`shared_memory`)."""


class End(Envelope, tag=21):
    """The cluster is closed."""


class Bundle(Envelope, tag=22):
    """Several messages in one frame: the number of parts of each."""

    counts: list[int]


_encoder = msgspec.msgpack.Encoder()
_Any = (
    Orders | Hello | Run | Recall | GivenBack | Stop | Results | Started | OutputText
    | SupervisorMessage | Message | Locate | Location | Link | Ask | Answer | Housekeeping
    | HousekeepingDone | SlotEnded | Ping | Pong | End | Bundle | ManyResults | Exiting
    | CheckMemory | Rescued
)  # fmt: skip


def reader(kind: Any, what: str) -> Callable[[Buffer], Any]:
    """A function that decodes ``kind`` from a part of a message; ``what`` is its name in errors.

    It raises `BadFrame`, and runs no code of the sender.
    """
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)

    def read(part: Buffer) -> Any:
        try:
            return decoder.decode(part)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BadFrame(f"its {what} cannot be read ({exc})") from exc

    return read


encode = _encoder.encode
decode = reader(_Any, "envelope")
decode_calls: Callable[[Buffer], list[Call]] = reader(list[Call], "calls")


def encode_calls(calls: list[Call]) -> bytes:
    """Calls as one part of a message."""
    return _encoder.encode(calls)


RESULTS = encode(Results(0, []))[:2]
"""The first bytes of an envelope of results; agents use them to recognize it without decoding."""
count_results = msgspec.msgpack.Decoder(ResultCount).decode
decode_results = msgspec.msgpack.Decoder(Results).decode
"""Both raise `msgspec.DecodeError`."""


def encode_results(slot: int, results: Sequence[msgspec.Raw], first: int) -> bytes:
    """The envelope of results that are encoded already (each a `CallResult`)."""
    return _encoder.encode(Results(slot, results, first, len(results)))  # type: ignore[arg-type]


@lru_cache(256)
def addressed(
    to: int, sender: int, agent: int, slot: int, run: int = 0, port: int = 0
) -> tuple[Message, bytes]:
    """A `Message`, and its encoding; cached, because senders use the same ones again."""
    message = Message(to, sender, agent, slot, run, port)
    return message, encode(message)


LABEL = struct.Struct("=Bxxxiqqq")
"""The head of short messages (`ShortMessages`): `MARK`, the receiver's slot, the receiving and the
sending task, and `Message.run`. The payload follows, and after it there may be unused bytes.
"""


def label(message: Message) -> bytes:
    """A `Message` as the head of a short message."""
    return LABEL.pack(MARK, max(0, message.slot), message.to, message.sender, message.run)


def _labelled(part: Buffer) -> tuple[Message, Parts]:
    """A short message as an ordinary one. Raises `BadFrame`."""
    if len(part) < LABEL.size:
        raise BadFrame("a short message is too short")
    _, slot, to, sender, run = LABEL.unpack_from(part)
    message = Message(to, sender, NOWHERE, slot, run)
    return message, [encode(message), memoryview(part)[LABEL.size :]]


def unbundled(parts: Parts) -> list[tuple[Any, Parts]]:
    """The messages of one frame, each with its envelope. Raises `BadFrame`."""
    if parts[0][:1] == _MARKED and len(parts) == 1:
        return [_labelled(parts[0])]
    envelope = decode(parts[0])
    if not isinstance(envelope, Bundle):
        return [(envelope, parts)]
    messages, start = [], 1
    for count in envelope.counts:
        inner = parts[start : start + count]
        if count < 1 or len(inner) != count:
            raise BadFrame("a bundle has fewer parts than its header announces")
        if isinstance(envelope := decode(inner[0]), Bundle):
            raise BadFrame("a bundle is in a bundle")
        messages.append((envelope, inner))
        start += count
    if start != len(parts):
        raise BadFrame("a bundle has more parts than its header announces")
    return messages
