"""Files for hosts without a common disk: whole, consistent, from allowed places, once."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from msgspec.structs import replace
from other_processes import DEADLINE, finish, start

from encamp.errors import ShippingFailed, SourceChanged, UnusableInput
from encamp.storage.inputs import send_inputs
from encamp.storage.inputs.mirror import Item, Mirror, plan
from encamp.storage.inputs.send_inputs import (
    CHUNK,
    Chunk,
    Sender,
    SentEntry,
    receive_file,
    receive_tree,
)
from encamp.storage.inputs.tree import tree_state
from encamp.storage.local_storage import local_storage
from encamp.storage.sandbox_folder import Sandbox
from encamp.storage.shared_folders import MIRRORED, Portable, SharedPath

SERVE = """
    import pickle, sys
    from multiprocessing.connection import Connection
    from encamp.storage.inputs.send_inputs import Sender
    pipe = Connection(int(sys.argv[1]))
    sender = Sender(sys.argv[2:])
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            break
        try:
            answer = getattr(sender, name)(*args)
        except Exception as exc:
            answer = exc
        pipe.send(answer)
"""


@dataclass
class Pipe:
    """A channel to a process of its own; notes what is asked."""

    pipe: Connection
    asked: list[tuple[str, Portable]] = field(default_factory=list)

    def _ask(self, name: str, *args: object) -> object:
        self.asked.append((name, args[0]))  # type: ignore[arg-type]
        self.pipe.send((name, args))
        assert self.pipe.poll(DEADLINE)
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def chunk(self, path: Portable, offset: int) -> Chunk:
        answer = self._ask("chunk", path, offset)
        assert isinstance(answer, Chunk)
        return answer

    def entries(self, path: Portable, exclude: tuple[str, ...]) -> list[SentEntry]:
        answer = self._ask("entries", path, exclude)
        assert isinstance(answer, list)
        return answer


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A folder that only the other host sees, one of its shared roots."""
    (tmp_path / "away").mkdir()
    return tmp_path / "away"


@pytest.fixture
def to(tmp_path: Path) -> Path:
    (tmp_path / "to").mkdir()
    return tmp_path / "to"


@pytest.fixture
def channel(away: Path) -> Iterator[Pipe]:
    """A way to a host with other roots, which sends what is in ``away``."""
    ours, theirs = socket.socketpair()
    roots = f"/no-such-folder{os.pathsep}{away}"
    server = start(
        SERVE,
        theirs.fileno(),
        away,
        pass_fds=[theirs.fileno()],
        env={**os.environ, MIRRORED: roots},
    )
    theirs.close()
    with Connection(ours.detach()) as pipe:
        yield Pipe(pipe)
    finish(server)


def state(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def make(path: Path, size: int) -> bytes:
    content = os.urandom(size)
    path.write_bytes(content)
    os.utime(path, ns=(0, 1_600_000_000_123_456_789))
    return content


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_file_of_any_size_arrives_whole(size: int, channel: Pipe, away: Path, to: Path) -> None:
    content = make(away / "a", size)
    receive_file(channel, str(away / "a"), to / "a", state(away / "a"), 0o640)
    assert (to / "a").read_bytes() == content
    assert (to / "a").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (to / "a").stat().st_mode & 0o7777 == 0o640
    assert len(channel.asked) == max(1, -(-size // CHUNK))


def test_a_file_that_is_there_is_never_overwritten(channel: Pipe, away: Path, to: Path) -> None:
    make(away / "a", 10)
    (to / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        receive_file(channel, str(away / "a"), to / "a", state(away / "a"), 0o600)
    assert (to / "a").read_text() == "mine"


@pytest.fixture
def tree(away: Path) -> Path:
    (away / "tree/deep/empty").mkdir(parents=True)
    make(away / "tree/deep/a", 1000)
    make(away / "tree/b", 0)
    (away / "tree/deep/a").chmod(0o755)
    (away / "tree/link").symlink_to("deep/a")
    (away / "tree/out").symlink_to("/no/such")
    (away / os.fsdecode(b"tree/caf\xe9 \n\\")).write_text("odd")
    (away / "tree/left.bak").write_text("x")
    return away / "tree"


def test_a_tree_arrives_as_it_is(channel: Pipe, tree: Path, to: Path) -> None:
    left_out = ("*.bak",)
    got = receive_tree(channel, str(tree), to / "tree", left_out, readonly=False)
    assert got.content == tree_state(tree, left_out).content == tree_state(to / "tree").content
    assert (got.files, got.size) == (3, 1003)
    assert os.readlink(to / "tree/out") == "/no/such"
    assert (to / "tree/deep/a").stat().st_mode & 0o777 == 0o755
    assert (to / "tree/deep/empty").is_dir()


def test_a_tree_to_be_linked_arrives_without_the_right_to_write(
    channel: Pipe, tree: Path, to: Path
) -> None:
    receive_tree(channel, str(tree), to / "tree", (), readonly=True)
    files = [path for path in (to / "tree").rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.stat().st_mode & 0o222 for path in files} == {0}


# What the receiver must not believe


@dataclass
class Scripted:
    """A channel whose other end says what a test wants it to."""

    listed: list[SentEntry] = field(default_factory=list)
    answer: Callable[[Portable, int], Chunk] = lambda path, offset: chunk_of(b"")

    def chunk(self, path: Portable, offset: int) -> Chunk:
        return self.answer(path, offset)

    def entries(self, path: Portable, exclude: tuple[str, ...]) -> list[SentEntry]:
        return self.listed


def chunk_of(data: bytes, size: int | None = None, mtime_ns: int = 1) -> Chunk:
    return Chunk(
        data, send_inputs.digest_of_piece(data), len(data) if size is None else size, mtime_ns
    )


def entry(path: str, kind: str = "file", target: str = "") -> SentEntry:
    return SentEntry(path, kind, 0, 1, 0o644, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_chunk_that_was_changed_on_the_way_is_refused(number: int, away: Path, to: Path) -> None:
    make(away / "a", 2 * CHUNK + 1)
    sender = Sender([away])

    def corrupted(path: Portable, offset: int) -> Chunk:
        chunk = sender.chunk(path, offset)
        if offset // CHUNK != number:
            return chunk
        return replace(chunk, data=bytes([chunk.data[0] ^ 1]) + chunk.data[1:])

    with pytest.raises(ShippingFailed) as caught:
        receive_file(
            Scripted(answer=corrupted), str(away / "a"), to / "a", state(away / "a"), 0o600
        )
    assert caught.value.path == str(away / "a")
    assert str(number * CHUNK) in caught.value.why
    assert list(to.iterdir()) == []


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def shorten(path: Path) -> None:
    os.truncate(path, CHUNK)


def lengthen(path: Path) -> None:
    os.truncate(path, 4 * CHUNK)


@pytest.mark.parametrize("change", [rewrite, shorten, lengthen])
@pytest.mark.parametrize("number", [0, 1])
def test_a_file_that_changes_on_the_way_is_named_and_leaves_nothing(
    change: Callable[[Path], None], number: int, away: Path, to: Path
) -> None:
    make(away / "a", 2 * CHUNK + 1)
    sender = Sender([away])

    def changing(path: Portable, offset: int) -> Chunk:
        if offset // CHUNK == number:
            change(away / "a")
        return sender.chunk(path, offset)

    before = state(away / "a")
    with pytest.raises(SourceChanged) as caught:
        receive_file(Scripted(answer=changing), str(away / "a"), to / "a", before, 0o600)
    assert caught.value.path == str(away / "a")
    assert list(to.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"abc", b"x" * 20])
def test_more_or_fewer_bytes_than_were_promised_are_refused(data: bytes, to: Path) -> None:
    liar = Scripted(answer=lambda path, offset: chunk_of(data if offset == 0 else b"", 10))
    with pytest.raises(SourceChanged):
        receive_file(liar, "/a", to / "a", (10, 1), 0o600)
    assert list(to.iterdir()) == []


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../a")],
        [entry("..", "folder")],
        [entry("x", "folder"), entry("x/..", "folder"), entry("x/../../a")],
        [entry("x", "folder"), entry("x/../../a")],
        [entry("/tmp/encamp-hostile")],
        [entry("/", "folder"), entry("/encamp-hostile")],
        [entry("out", "link", "/"), entry("out/tmp/encamp-hostile")],
        [entry("out", "link", ".."), entry("out/a")],
        [entry("not/announced")],
        [entry("")],
        [entry(".")],
        [entry("a\0b")],
    ],
)
def test_entries_that_would_leave_the_folder_are_refused(
    entries: list[SentEntry], to: Path
) -> None:
    hostile = Scripted(entries, lambda path, offset: chunk_of(b""))
    with pytest.raises(ShippingFailed) as caught:
        receive_tree(hostile, "/tree", to / "tree", (), readonly=False)
    assert caught.value.path == "/tree"
    assert [path.name for path in to.iterdir()] == ["tree"]
    assert not Path("/tmp/encamp-hostile").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize("first", ["file", "link"])
def test_an_entry_in_the_place_of_another_is_refused(first: str, kind: str, to: Path) -> None:
    (to / "victim").write_text("victim")
    hostile = Scripted([entry("a", first, "../victim"), entry("a", kind, "../victim")])
    with pytest.raises(OSError, match="exists"):
        receive_tree(hostile, "/tree", to / "tree", (), readonly=False)
    assert (to / "victim").read_text() == "victim"


# What the sender must not give


def test_sender_sends_only_allowed_files(tmp_path: Path) -> None:
    for name in ("told/a", "told-too/a", "secret/a", "file", "file2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "told/link").symlink_to("../secret/a")
    (tmp_path / "told/up").symlink_to("../secret")
    (tmp_path / "alias").symlink_to("told")
    sender = Sender([tmp_path / "alias", str(tmp_path / "file")])
    for good in ("told/a", "alias/a", "file", "secret/../told/a"):
        path = f"{tmp_path}/{good}"
        assert sender.chunk(path, 0).data == Path(path).read_bytes()
    for bad in ("secret/a", "told/../secret/a", "told/link", "told/up/a", "told-too/a", "file2"):
        with pytest.raises(UnusableInput, match="not one of the files"):
            sender.chunk(f"{tmp_path}/{bad}", 0)
    for bad in ("secret", "", "told/up", "told-too", "told/.."):
        with pytest.raises(UnusableInput, match="not one of the files"):
            sender.entries(f"{tmp_path}/{bad}", ())


def test_symlink_targets_are_sent_with_tree(away: Path, to: Path) -> None:
    (away / "tree").mkdir()
    (away / "far").mkdir()
    make(away / "file", 10)
    make(away / "far/x", CHUNK + 1)
    make(away / "secret", 10)
    for link, target in {"one": "../file", "all": "../far", "left": "../secret"}.items():
        (away / "tree" / link).symlink_to(target)
    sender = Sender([away / "tree"])
    with pytest.raises(UnusableInput, match="not one of the files"):
        sender.chunk(str(away / "tree/one"), 0)  # not listed yet
    got = receive_tree(sender, str(away / "tree"), to / "tree", ("left",), readonly=False)
    assert (to / "tree/one").read_bytes() == (away / "file").read_bytes()
    assert (to / "tree/all/x").read_bytes() == (away / "far/x").read_bytes()
    assert got.content == tree_state(away / "tree", ("left",)).content
    assert got.content == tree_state(to / "tree").content
    with pytest.raises(UnusableInput, match="not one of the files"):
        sender.chunk(str(away / "tree/left"), 0)


def test_sender_without_files_sends_nothing() -> None:
    with pytest.raises(UnusableInput):
        Sender([]).chunk("/etc/hostname", 0)


def test_special_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    sender = Sender([tmp_path])
    with pytest.raises(UnusableInput, match="not a file"):
        sender.chunk(str(tmp_path / "fifo"), 0)
    with pytest.raises(UnusableInput):
        sender.chunk(str(tmp_path), 0)
    with pytest.raises(UnusableInput, match="does not exist"):
        sender.chunk(str(tmp_path / "none"), 0)


def test_channel_passes_errors_unchanged(channel: Pipe, to: Path) -> None:
    with pytest.raises(UnusableInput, match=r"/etc/hostname: it is not one of the files"):
        receive_file(channel, "/etc/hostname", to / "a", (1, 1), 0o600)
    assert list(to.iterdir()) == []


def test_chunks_and_entries_survive_pickling() -> None:
    for one in (chunk_of(b"x"), entry("a")):
        assert pickle.loads(pickle.dumps(one)) == one


# Into sandboxes


def planned_there(away: Path, roots: str, *mirrors: Mirror) -> list[Item]:
    """A plan as the other host makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MIRRORED, roots)
        return [elsewhere(item) for item in plan(mirrors, away)]


def elsewhere(item: Item) -> Item:
    """As planned on a host where the file has another inode, or disk."""
    return replace(item, identity=item.identity[::-1])


MAP = (Mirror("a"), Mirror("tree"), Mirror("a", rename="linked", readonly=True))


@pytest.mark.parametrize("roots", ["/no-such-folder", "{away}", "/x:/y:{away}"])
@pytest.mark.parametrize("here", ["/no-such-folder", "{to}", "{to}:{to}/none:{to}/other"])
def test_a_camp_fetches_once_a_host_what_it_does_not_see(
    roots: str, here: str, channel: Pipe, tree: Path, away: Path, to: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Outside every root, on a share that is not mounted here, on a root that is none here."""
    make(away / "a", 5000)
    items = planned_there(away, roots.format(away=away), *MAP)
    monkeypatch.setenv(MIRRORED, here.format(to=to))
    for first in (True, False):
        asked = len(channel.asked)
        sandbox = Sandbox("test", as_their_root(channel, items, away))
        try:
            sandbox.place(items)
            assert (sandbox.folder / "a").read_bytes() == (away / "a").read_bytes()
            assert (sandbox.folder / "linked").read_bytes() == (away / "a").read_bytes()
            assert tree_state(sandbox.folder / "tree").content == tree_state(tree).content
            assert (len(channel.asked) > asked) == first
            assert sandbox.brought == (6004 if first else 0)
        finally:
            sandbox.remove()


def test_what_is_excluded_from_a_tree_is_not_shipped(
    channel: Pipe, tree: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "left-out").write_text("large")
    items = planned_there(away, "/no-such-folder", Mirror("tree", exclude="left-*"))
    monkeypatch.setenv(MIRRORED, "/no-such-folder")
    sandbox = Sandbox("test", channel)
    try:
        sandbox.place(items)
        assert (sandbox.folder / "tree/b").exists()
        assert not (sandbox.folder / "tree/left-out").exists()
    finally:
        sandbox.remove()
    assert channel.asked[0] == ("entries", str(tree))
    assert not any("left-out" in str(path) for _, path in channel.asked)


def as_their_root(channel: Pipe, items: list[Item], away: Path) -> Pipe:
    """The channel; its far end has ``away`` as the root that the plan's paths start from."""
    source = items[0].source
    if not isinstance(source, SharedPath):
        return channel

    class Renumbered(Pipe):
        def _ask(self, name: str, *args: object) -> object:
            (path, *rest) = args
            assert isinstance(path, SharedPath)
            channel.asked.append((name, path))
            return channel._ask(name, replace(path, root=1), *rest)

    return Renumbered(channel.pipe)


def test_visible_inputs_are_not_sent(
    channel: Pipe, tree: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(away / "a", 5000)
    monkeypatch.setenv(MIRRORED, str(away))
    sandbox = Sandbox("test", channel)
    try:
        sandbox.place(plan(MAP, away))
        assert (sandbox.folder / "a").stat().st_size == 5000
    finally:
        sandbox.remove()
    assert channel.asked == []


def test_visible_inputs_outside_roots_are_not_sent(
    channel: Pipe, tree: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(away / "a", 5000)
    monkeypatch.setenv(MIRRORED, "/no-such-folder")
    sandbox = Sandbox("test", channel)
    try:
        sandbox.place(plan(MAP, away))
        assert (sandbox.folder / "tree/b").stat().st_size == 0
    finally:
        sandbox.remove()
    assert channel.asked == []


def test_another_file_or_tree_by_the_same_name_is_not_taken_for_the_input(
    channel: Pipe, tree: Path, away: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts whose home folders are not shared, though both are named as shared roots."""
    make(away / "a", 5000)
    items = planned_there(away, str(away), Mirror("a"), Mirror("tree"))
    make(to / "a", 4000)
    (to / "tree").mkdir()
    make(to / "tree/b", 10)
    monkeypatch.setenv(MIRRORED, str(to))
    sandbox = Sandbox("test", as_their_root(channel, items, away))
    try:
        sandbox.place(items)
        assert (sandbox.folder / "a").read_bytes() == (away / "a").read_bytes()
        assert tree_state(sandbox.folder / "tree").content == tree_state(tree).content
    finally:
        sandbox.remove()


def test_input_of_single_task_is_sent_too(channel: Pipe, away: Path) -> None:
    make(away / "a", 5000)
    items = [replace(item, cached=False) for item in planned_there(away, "/none", Mirror("a"))]
    sandbox = Sandbox("test", channel)
    try:
        sandbox.place(items)
        assert (sandbox.folder / "a").read_bytes() == (away / "a").read_bytes()
    finally:
        sandbox.remove()
    assert len(channel.asked) == 1


def test_a_corrupted_shipment_leaves_nothing_in_the_cache(away: Path) -> None:
    make(away / "a", 5000)
    sender = Sender([away])

    def corrupted(path: Portable, offset: int) -> Chunk:
        return replace(sender.chunk(path, offset), digest=b"no such digest")

    items = planned_there(away, "/none", Mirror("a"))
    sandbox = Sandbox("test", Scripted(answer=corrupted))
    try:
        with pytest.raises(ShippingFailed, match=str(away / "a")):
            sandbox.place(items)
    finally:
        sandbox.remove()
    cache = local_storage() / "cache"
    assert [p for name in ("files", "trees", "partial") for p in (cache / name).rglob("*")] == []


def test_a_tree_that_changes_while_it_is_shipped_is_named_and_not_cached(
    away: Path, tree: Path
) -> None:
    sender = Sender([away])

    def changing(path: Portable, offset: int) -> Chunk:
        (tree / "deep/a").write_text("changed")
        return sender.chunk(path, offset)

    items = planned_there(away, "/none", Mirror("tree"))
    sandbox = Sandbox("test", Scripted(sender.entries(str(tree), ()), changing))
    try:
        with pytest.raises(SourceChanged):
            sandbox.place(items)
    finally:
        sandbox.remove()
    assert not list((local_storage() / "cache/trees").glob("*/*"))


PLACING = """
    import socket, sys
    from msgspec.structs import replace
    from encamp.storage.sandbox_folder import Sandbox
    from encamp.storage.inputs.mirror import Mirror, plan
    from encamp.storage.inputs.send_inputs import Sender
    from pathlib import Path
    away = Path(sys.argv[1])
    sender, asked = Sender([away]), []
    class Counting:
        def chunk(self, path, offset):
            asked.append(path)
            return sender.chunk(path, offset)
        def entries(self, path, exclude):
            return sender.entries(path, exclude)
    items = [replace(item, identity=item.identity[::-1]) for item in plan([Mirror("*")], away)]
    print("ready", flush=True)
    sys.stdin.readline()
    sandbox = Sandbox("test", Counting())
    sandbox.place(items)
    for item in items:
        assert (sandbox.folder / item.target).read_bytes() == (away / item.target).read_bytes()
    sandbox.remove()
    print(len(asked))
"""


def test_processes_at_once_ship_each_file_once_a_host(away: Path) -> None:
    for number in range(6):
        make(away / str(number), 100_000)
    env = {**os.environ, MIRRORED: "/no-such-folder"}
    processes = [start(PLACING, away, stdin=-1, env=env) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(int(finish(process)) for process in processes) == 6


def test_this_module_needs_no_network() -> None:
    """Engines bring the channel: nothing here opens one."""
    assert "socket" not in vars(sys.modules["encamp.storage.inputs.send_inputs"])
