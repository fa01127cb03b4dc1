"""What is done while faults happen, each by a process of its own that has loaded everything.

This file is a program: for each request on its standard input it forks, which costs milliseconds
where a new interpreter costs hundreds, and lets the fork begin when it is told to, so that a
tracer can be attached first and sees nothing but the deed. See `forks` for the other side.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import sqlite3  # noqa: F401 - the storage plane loads it when it needs it
import sys
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import wcmatch.glob  # noqa: F401
from msgspec.structs import replace
from sealed import files_below, is_whole, seal

import encamp
import encamp.storage.sandbox
from encamp.errors import EncampError, SourceChanged
from encamp.storage.inputs.mirror import Item, Mirror, plan
from encamp.storage.inputs.tree import tree_state
from encamp.storage.local_leftovers import reclaim_leftovers
from encamp.storage.sandbox_folder import Sandbox
from encamp.storage.spare_folder import owned_folder, remove_spare

KINDS = ("small", "large", "shut", "forest", "twigs")
"""Inputs that go by the cache: copied, by overlay, by link, a tree by overlay, one by links."""
ALONE = ("own", "shrub")
"""Inputs that only one task wants."""


class OwnTrouble(Exception):
    """The task itself, not the storage plane, met the fault."""


def staging(source: str, to: str) -> None:
    """One task's whole life in the storage plane."""
    top = Path(source)
    mirrors = [Mirror(f"{source}/{name}", readonly=name == "shut") for name in KINDS[:-1]]
    mirrors.append(Mirror(f"{source}/twigs", mode="link"))
    outputs = [encamp.Output(name) for name in ("all.out", "large.out", "tree")]
    outputs.append(encamp.Output("kept", existing="keep"))
    with encamp.sandbox(mirrors, outputs, to=to, name="staging") as folder:
        alone = Sandbox("alone")
        try:
            items = plan([Mirror(f"{source}/{name}") for name in ALONE], top)
            alone.place(replace(item, cached=False) for item in items)
            work(top, [folder, alone.folder], folder)
        finally:
            alone.remove()


def work(source: Path, inputs: list[Path], folder: Path) -> None:
    """Read all inputs, write over some, make outputs; as a task would."""
    try:
        found = {name: text for top in inputs for name, text in files_below(top).items()}
        wanted = files_below(source)
        assert found == wanted, sorted(set(found.items()) ^ set(wanted.items()))
        (folder / "small").write_bytes(b"spoiled")
        (folder / "forest/0").write_bytes(b"spoiled")
        for name, content in outputs_of(wanted).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as exc:
        raise OwnTrouble from exc


def outputs_of(inputs: dict[str, bytes]) -> dict[str, bytes]:
    """What the task makes of its inputs, which is published under the same names."""
    everything = b"".join(inputs[name] for name in sorted(inputs))
    return {
        "all.out": seal(everything),
        "large.out": inputs["large"],
        "kept/first": seal(b"kept" + everything[:100]),
        "tree/a/b/leaf": inputs["small"],
        "tree/leaf": inputs["own"],
    }


def using(source: str, names: list[str], *, at_once: bool = False) -> int:
    """Use inputs by the cache one after the other; returns how many bytes it had to bring.

    Those with names of even length are used read-only. The folder is used again, as in a slot.
    """
    try:
        return sum(_use(Path(source), some) for some in ([names] if at_once else zip(names)))
    finally:
        remove_spare()


def _use(source: Path, names: Collection[str]) -> int:
    mirrors = [Mirror(f"{source}/{name}", readonly=len(name) % 2 == 0) for name in names]
    sandbox = Sandbox("using", owned=owned_folder("using"))
    try:
        sandbox.place(plan(mirrors, source))
        found = files_below(sandbox.folder)
        assert found == {n: t for n, t in files_below(source).items() if n.split("/")[0] in names}
        return sandbox.brought
    finally:
        sandbox.put_aside()


def reclaiming() -> list[str]:
    """Clean up after the dead."""
    return [str(path) for path in reclaim_leftovers()]


def watching(folder: str, stop: str) -> dict[str, Any]:
    """Look at all final names below ``folder`` again and again until there is a file ``stop``."""
    seen: dict[str, tuple[int, ...]] = {}
    looks, bad = 0, []
    while not Path(stop).exists():
        looks += 1
        for at, _, names in os.walk(folder):
            bad += [
                f"{at}/{name}" for name in names if name[0] != "." and not _whole_at(at, name, seen)
            ]
        time.sleep(0.001)
    return {"looks": looks, "files": len(seen), "bad": bad}


def _whole_at(folder: str, name: str, seen: dict[str, tuple[int, ...]]) -> bool:
    """Whether what is under a name now is whole, or was when it was last looked at."""
    try:
        with Path(folder, name).open("rb") as file:
            status = os.fstat(file.fileno())
            state = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen.get(f"{folder}/{name}") == state:
                return True
            good = is_whole(file.read())
    except FileNotFoundError:
        return True
    seen[f"{folder}/{name}"] = state
    return good


EPOCH = 1_700_000_000
"""Version n of a source has this modification time, plus n seconds."""


def edit(path: Path, version: int, size: int, rng: random.Random) -> None:
    """Put another version of a file in its place, whole at once."""
    head = f"{path.name} {version}\n".encode()
    new = path.with_name(f".new-{path.name}")
    rest = size - 32 - len(head)
    new.write_bytes(seal(head + (rng.randbytes(997) * (1 + rest // 997))[:rest]))
    os.utime(new, (EPOCH + version, EPOCH + version))
    new.rename(path)


def editing(source: str, how: str, seed: int) -> None:
    """Change files below ``source`` again and again, until killed or for some seconds."""
    rng = random.Random(seed)
    end = time.monotonic() + 5
    time.sleep(rng.uniform(0, 0.003))
    for version in itertools.count(2):
        files = sorted(p for p in Path(source).rglob("*") if p.is_file() and p.name[0] != ".")
        CHANGES[how](rng.choice(files), version, rng)
        if time.monotonic() > end:
            return
        time.sleep(rng.uniform(0, 0.002))


def _rewrite(path: Path, version: int, rng: random.Random) -> None:
    """In place and never shorter, in several writes."""
    content = seal(f"{path.name} {version}\n".encode() + rng.randbytes(path.stat().st_size - 50))
    with path.open("r+b", buffering=0) as file:
        for start in range(0, len(content), 8192):
            file.write(content[start : start + 8192])


def _truncate(path: Path, version: int, rng: random.Random) -> None:
    content = path.read_bytes()
    os.truncate(path, rng.randrange(len(content) + 1))
    path.write_bytes(content)


def _replace(path: Path, version: int, rng: random.Random) -> None:
    edit(path, version, max(100, path.stat().st_size + rng.choice([0, -1])), rng)


def _replace_by_symlink(path: Path, version: int, rng: random.Random) -> None:
    """By a symlink to another version, or to nothing."""
    other = path.with_name(f".other-{path.name}")
    if rng.random() < 0.5:
        edit(path, version, path.stat().st_size, rng)
        path.rename(other)
    else:
        other.unlink(missing_ok=True)
    new = path.with_name(f".link-{path.name}")
    new.symlink_to(other.name)
    new.rename(path)
    if not other.exists():
        edit(path, version, 5000, rng)


def _replace_folder(path: Path, version: int, rng: random.Random) -> None:
    """Its whole folder goes and comes back, for some time a symlink in its place."""
    folder, away = path.parent, path.parent.with_name(f".away-{path.parent.name}")
    folder.rename(away)
    folder.symlink_to(away.name)
    time.sleep(rng.uniform(0, 0.001))
    folder.unlink()
    away.rename(folder)


def _remove(path: Path, version: int, rng: random.Random) -> None:
    """Gone, and back as another version."""
    size = path.stat().st_size
    path.unlink()
    edit(path, version, size, rng)


CHANGES = {
    "rewrite": _rewrite,
    "truncate": _truncate,
    "replace": _replace,
    "symlink": _replace_by_symlink,
    "folder": _replace_folder,
    "remove": _remove,
}


def random_uses(source: str, seed: int, turns: int, log: str) -> int:
    """Use inputs at random, in random modes; note in ``log`` what was used and brought."""
    rng = random.Random(seed)
    changed = 0
    for _ in range(turns):
        try:
            _random_use(Path(source), rng, Path(log))
        except (SourceChanged, encamp.errors.UnusableInput, encamp.errors.NoMatch):
            changed += 1
    return changed


def _random_use(source: Path, rng: random.Random, log: Path) -> None:
    names = rng.sample(sorted(p.name for p in source.iterdir() if p.name[0] != "."), 3)
    mirrors = [
        Mirror(f"{source}/{name}", readonly=rng.random() < 0.3, mode=rng.choice(_MODES))
        for name in names
    ]
    items = plan(mirrors, source)
    sandbox = Sandbox("random")
    try:
        sandbox.place(items)
        for item in items:
            check_version(sandbox.folder / item.target, item)
        if rng.random() < 0.5:
            _scribble(sandbox.folder, items)
        with log.open("a") as file:
            used = {item.identity: item.size for item in items}
            file.write(json.dumps({"brought": sandbox.brought, "used": used}) + "\n")
    finally:
        sandbox.remove()


_MODES: list[Any] = ["auto", "copy", "link", "overlay" if os.geteuid() == 0 else "auto"]


def check_version(place: Path, item: Item) -> None:
    """What was placed is whole, and the version that the plan saw."""
    if item.kind == "tree":
        assert tree_state(place).content == item.content, f"another version of {item.name}"
    else:
        assert place.stat().st_mtime_ns == item.mtime_ns, f"another version of {item.name}"
    for path in [place] if item.kind == "file" else [p for p in place.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        assert is_whole(content), f"{path} is not whole"
        version = int(content[32:].split(b"\n")[0].split()[1])
        assert path.stat().st_mtime_ns == (EPOCH + version) * 10**9, f"{path} is of another time"


def _scribble(folder: Path, items: list[Item]) -> None:
    """Write over the task's own copies."""
    for item in items:
        if not item.readonly:
            place = folder / item.target
            inner = [path for path in place.rglob("*") if path.is_file()]
            (inner[0] if inner else place).write_bytes(b"spoiled")


DEEDS: dict[str, Callable[..., Any]] = {
    deed.__name__: deed for deed in (staging, using, reclaiming, watching, editing, random_uses)
}


def _done(deed: str, given: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": DEEDS[deed](**given)}
    except OwnTrouble:
        return {"error": "OwnTrouble", "named": True, "text": "the task's own"}
    except Exception as exc:  # noqa: BLE001 - the test looks at what it is
        named = isinstance(exc, EncampError)
        facts = {name: value for name, value in vars(exc).items() if isinstance(value, str | int)}
        told = {"error": type(exc).__name__, "named": named, "text": str(exc), "facts": facts}
        return {**told, "trace": traceback.format_exc()}


def _child(request: dict[str, Any], go: int, said: int) -> None:
    """Do the deed when told to; never returns."""
    try:
        os.environ.update(request["env"])
        os.read(go, 1)
        answer = _done(request["deed"], request["given"])
        os.write(said, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _forked(request: dict[str, Any]) -> tuple[int, int, int]:
    """The fork's process id, where to tell it to go, and where it answers."""
    go, tell_go = os.pipe()
    answer, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell_go)
        os.close(answer)
        _child(request, go, said)
    os.close(go)
    os.close(said)
    return pid, tell_go, answer


def _serve() -> None:
    gc.freeze()  # so that forks leave the memory of what is loaded to all
    for line in iter(sys.stdin.readline, ""):
        pid, tell_go, answer = _forked(json.loads(line))
        print(json.dumps({"pid": pid}), flush=True)
        sys.stdin.readline()
        os.close(tell_go)  # the end of the pipe is the sign
        with os.fdopen(answer, "rb") as told:
            said = told.read()
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, **json.loads(said or b"{}")}), flush=True)


if __name__ == "__main__":
    _serve()
