"""``encamp cache``: what this host's cache of inputs holds, and why."""

from __future__ import annotations

import time
from pathlib import Path

from msgspec.structs import replace

from encamp.cli.print_answer import print_answer
from encamp.errors import UnusableInput, printable
from encamp.storage.cache.cache import HostCache, clear_cache
from encamp.storage.cache.room import cache_limit
from encamp.storage.inputs.mirror import Item, Mirror, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.placing.modes import mode_of
from encamp.storage.real_paths import current_folder
from encamp.units import counted, size_text


def list_command() -> None:
    """Print every entry, least recently used first."""
    with HostCache() as cache:
        rows = cache.rows()
        if rows:
            print_answer(f"{'last used':19}  {'size':>10}  {'kind':>12}  source")
        for row in rows:
            kind = counted(row.files, "file") if row.kind == "tree" else "file"
            print_answer(f"{_when(row.used)}  {size_text(row.size):>10}  {kind:>12}  {row.source}")
        held, limit = sum(row.size for row in rows), cache_limit(cache.root)
        entries = counted(len(rows), "entry", "entries")
        print_answer(f"{entries}, {size_text(held)} of at most {size_text(limit)}")


def why_command(path: str) -> None:
    """Print the history of one input in the cache, and how it would be mirrored now and why."""
    items = plan([Mirror(path, required=False)], current_folder())
    with HostCache() as cache:
        for item in items:
            _print_item(item, cache)
            _print_history(item.name, cache)
        gone = printable(Path(path).absolute())
        if not items and not cache.events(gone):
            raise UnusableInput(path, "it does not exist, and the cache has never held it")
        if not items:
            print_answer(f"{gone}: does not exist now")
            _print_history(gone, cache)


def _print_item(item: Item, cache: HostCache) -> None:
    print_answer(f"{item.name}: {_now(item)}")
    print_answer(f"  {_where(item, cache)}")
    print_answer(f"  {_mode(item, readonly=False)}")
    print_answer(f"  {_mode(item, readonly=True)}")


def _where(item: Item, cache: HostCache) -> str:
    """Say which entries exist; job inputs have a separate, read-only entry."""
    own, shared = (cache.is_whole(replace(item, readonly=readonly)) for readonly in (False, True))
    if own and shared:
        return "is in the cache twice: read-only (for job inputs), and with its own permissions"
    if own or shared:
        return f"is in the cache{', read-only, as job inputs are' if shared else ''}"
    return "is not in the cache in its present state"


def _print_history(name: str, cache: HostCache) -> None:
    for row in cache.rows_of(name):
        print_answer(f"  {_when(row.fetched)}  entry of {row.state}; last used {_when(row.used)}")
    for event in cache.events(name):
        print_answer(f"  {_when(event.time)}  {event.what}: {event.why}")


def clear_command(*, dry_run: bool) -> None:
    """Remove every entry that is not in use."""
    size = clear_cache(dry_run=dry_run)
    print_answer(f"{'would remove' if dry_run else 'removed'} {size_text(size)}")


def _mode(item: Item, *, readonly: bool) -> str:
    mode, why = mode_of(replace(item, readonly=readonly), local_storage())
    role = "as a job input, or if declared read-only" if readonly else "as a task's own input"
    return f"mode {role}: {mode} ({why})"


def _now(item: Item) -> str:
    files = f"{counted(item.files, 'file')}, " if item.kind == "tree" else ""
    return f"{files}{size_text(item.size)} ({item.size} bytes)"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
