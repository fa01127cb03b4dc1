"""The protocol between the two sides of a cluster: the envelopes of their messages.

An envelope is the first part of a message; payloads and buffers follow it. Agents read only
envelopes. Payloads are unpickled only in slots and by the controller.

    controller ── Run, Recall, Stop, Message, Where, Answer, Order, Ping, End ──► agent ──► slot
    controller ◄── Hello, Results, Started, Said, Told, Message, WhereIs, Ask, GivenBack,
                   SlotEnded, OrderDone, Pong ──────────────────────────────────── agent ◄── slot
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from encamp.errors import BadFrame
from encamp.wire.frames import MARK, Buffer, Parts

SPAWNER = 0
"""Task number of the controller's own program."""
SERVICES = 1
ABOUT_SERVICES = "service"
"""What questions begin with that steps of jobs ask about services."""
"""`Message.port` of what services, their servers and clients say to each other."""
NOWHERE = -1
ANY = "*"
"""Any host that is not named."""
T = TypeVar("T")
_MARKED = bytes([MARK])


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """Base of all envelopes."""


class Orders(Envelope, tag=0):
    """The settings of an agent and its slots, sent when it starts."""

    slots: int = 0
    """0: as many as it has cores."""
    kind: str = "child"
    """Or ``inline``, or ``thread``."""
    folder: str = ""
    """Where tasks start, as JSON of a portable path; empty: the agent's local storage."""
    sys_path: list[str] = []
    key: bytes = b""
    """Seals what travels, where the engine's network is not private."""
    follow: bool = False
    """Whether to send what tasks print while they run."""
    lonely: float = 0.0
    """Seconds of silence after which the controller is taken to be gone; 0: never."""
    output: int = 1 << 20
    """Bytes of a task's output that are kept."""
    threads: dict[str, str] = {}
    """How many threads libraries are to start, as far as the program has chosen."""
    init_commands: dict[str, str] = {}
    """By hosts, what is run before slots start; `ANY` is for all others."""
    niceness: dict[str, int] = {}
    interpreters: dict[str, str] = {}
    cluster: str = ""
    """What no other cluster is called: what slots are given may be of another one."""


def of_host(each: Mapping[str, T], host: str, otherwise: T) -> T:
    """The value for a host."""
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
    """Folders of the controller's in which this host looks for no modules."""


class Run(Envelope, tag=2):
    """Calls for a slot: how many, and the numbers of functions that are new there.

    The calls follow as one part (`encode_calls`), then the functions, one part each, and then the
    large buffers of the calls' arguments.
    """

    slot: int
    count: int
    functions: list[int]
    fresh: bool = False
    """In a process of its own."""
    life: int = 0
    """How many processes of the slot had ended; the calls are for no later one."""
    number: int = 0
    """Grows with every one for the slot."""
    dropped: list[int] = []
    """Functions that are not called again under these numbers."""
    around: bytes = b""
    """What `take_on` is to take on first; empty if that is as before."""


Call = tuple[int, int, bytes, int, bytes]
"""Its task's number, its function's, the pickle of its arguments, how many large buffers they
have, and how it is to be run (the pickle of a `Setup`; empty if there is nothing to say)."""


class Recall(Envelope, tag=3):
    """Take back the calls that a slot has not started.

    ``runs``, which the agent fills in, is how many messages with calls were sent before.
    """

    slot: int
    ticket: int
    runs: int = 0


class GivenBack(Envelope, tag=4):
    """Tasks that a slot gave back, and its running task (-1: none)."""

    slot: int
    ticket: int
    tasks: list[int]
    running: int


class Stop(Envelope, tag=5):
    """End a slot's process with all its descendants, unless it has ended already.

    With ``ticket`` only if it has not answered that `Recall` within a second, by the agent's clock.
    After this the slot gives nothing back: only its end is reported.
    """

    slot: int
    life: int = 0
    ticket: int = 0


Result = tuple[int, bool, float, bytes, int]
"""What came of a call: task, whether it returned, seconds, the payload, and how many buffers."""


class Results(Envelope, tag=6):
    """Results of calls; their buffers follow."""

    slot: int
    results: list[Result]
    first: int = 0
    """Number of the first of them, of all that the slot's process has had."""
    count: int = 1


class Counted(Envelope, tag=6):
    """The part of `Results` that agents read."""

    slot: int
    results: msgspec.Raw
    first: int = 0
    count: int = 1


class ManyResults(Envelope, tag=23):
    """Envelopes of results without buffers follow, one part each, as a slot has sent them."""

    slot: int


class Started(Envelope, tag=7):
    """A call has started, for calls that ask for this report."""

    slot: int
    task: int


class Said(Envelope, tag=8):
    """The output of a task, from byte ``start`` on; ``last`` if it has ended."""

    slot: int
    task: int
    start: int
    text: bytes
    last: bool
    head: bytes = b""
    """What is kept of all before ``start``, with a mark; for the last one."""


class Told(Envelope, tag=9):
    """A message of a function to its supervisor; the payload follows."""

    slot: int
    task: int


class Message(Envelope, tag=10):
    """From one task to another; the payload follows."""

    to: int
    sender: int
    agent: int = NOWHERE
    slot: int = NOWHERE
    """Where ``to`` is, if the sender knows; otherwise it goes by way of the controller."""
    run: int = 0
    """`Run.number` of what ``to`` came with, if the sender knows: this may be there before it."""
    port: int = 0
    """Whose it is at the receiver: its own code's queue, or that of a layer above (`SERVICES`)."""


class Received(msgspec.Struct, frozen=True):
    """A message, and the id of its sender (0: the program); it unpacks as this pair.

    (Creating a named tuple takes twice as long, a tenth of what MPI takes for a message.)
    """

    source: int
    message: Any

    def __iter__(self) -> Iterator[Any]:
        yield self.source
        yield self.message


class WhereIs(Envelope, tag=11):
    """A slot asks where a task is."""

    slot: int
    task: int


class Where(Envelope, tag=12):
    """The answer: agent -1 if the messages should go to the controller."""

    slot: int
    task: int
    agent: int
    its_slot: int
    run: int


class Link(Envelope, tag=13):
    """A socket to another slot of the host comes with this."""

    slot: int


class Ask(Envelope, tag=14):
    """A task asks the controller for something; the question follows."""

    slot: int
    task: int
    ticket: int


class Answer(Envelope, tag=15):
    """The answer follows: whether it is one or an error."""

    slot: int
    ticket: int
    ok: bool


class Order(Envelope, tag=16):
    """An order for the agent itself."""

    ticket: int
    what: str


class OrderDone(Envelope, tag=17):
    """An order was carried out: whether successfully, and the value or the error's text."""

    ticket: int
    ok: bool
    value: str


class SlotEnded(Envelope, tag=18):
    """A slot's process has ended; ``exit_code`` as subprocess gives it (None: unknown)."""

    slot: int
    exit_code: int | None
    text: bytes
    """The end of what it printed."""
    began: bool = True
    """Whether it had calls."""
    gone: bool = False
    """Whether there is no other process in its place, since none could be started."""
    mark: tuple[int, int] = (0, 0)
    """How far its call had come, as that has noted (`Ledger.mark`)."""


class Leaves(Envelope, tag=24):
    """A slot's process runs nothing more, and ends: its last message."""

    slot: int


class Ping(Envelope, tag=19):
    ticket: int


class Pong(Envelope, tag=20):
    ticket: int


class Look(Envelope, tag=25):
    """There may be a short message in memory that both ends share (`shared_memory`)."""


class End(Envelope, tag=21):
    """The cluster is closed."""


class Bundle(Envelope, tag=22):
    """Several messages in one: how many parts each has."""

    counts: list[int]


_encoder = msgspec.msgpack.Encoder()
_Any = (
    Orders | Hello | Run | Recall | GivenBack | Stop | Results | Started | Said | Told | Message
    | WhereIs | Where | Link | Ask | Answer | Order | OrderDone | SlotEnded | Ping | Pong | End
    | Bundle | ManyResults | Leaves | Look
)  # fmt: skip
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_Any)

encode = _encoder.encode
_calls: msgspec.msgpack.Decoder[list[Call]] = msgspec.msgpack.Decoder(list[Call])


def encode_calls(calls: list[Call]) -> bytes:
    """Calls as one part of a message."""
    return _encoder.encode(calls)


def decode_calls(part: Buffer) -> list[Call]:
    """The calls. Raises `BadFrame`."""
    try:
        return _calls.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadFrame(f"its calls cannot be read ({exc})") from exc


RESULTS = encode(Results(0, []))[:2]
"""How an envelope of results begins, so that agents can pass these on without reading them."""
count_results = msgspec.msgpack.Decoder(Counted).decode


def encode_results(slot: int, results: Sequence[msgspec.Raw], first: int) -> bytes:
    """The envelope of results that are encoded already (each a `Result`)."""
    return _encoder.encode(Results(slot, results, first, len(results)))  # type: ignore[arg-type]


@lru_cache(256)
def addressed(
    to: int, sender: int, agent: int, slot: int, run: int = 0, port: int = 0
) -> tuple[Message, bytes]:
    """A `Message`, and its bytes, cached since senders repeat them."""
    message = Message(to, sender, agent, slot, run, port)
    return message, encode(message)


def decode(part: Buffer) -> Any:
    """The envelope. Raises `BadFrame`; runs no code of the sender."""
    try:
        return _decoder.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadFrame(f"its envelope cannot be read ({exc})") from exc


LABEL = struct.Struct("=Bxxxiqqq")
"""What short messages begin with (`ShortMessages`): the mark, the receiver's slot, and the tasks
that it is for and from, and `Message.run`. The payload follows, and then maybe what means nothing.
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
            raise BadFrame("a bundle has fewer parts than it says")
        if isinstance(envelope := decode(inner[0]), Bundle):
            raise BadFrame("a bundle is in a bundle")
        messages.append((envelope, inner))
        start += count
    if start != len(parts):
        raise BadFrame("a bundle has more parts than it says")
    return messages
