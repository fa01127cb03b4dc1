"""``encamp clean``: remove the files of dead processes, on this host or on others."""

from __future__ import annotations

from pathlib import Path

from encamp.cli.print_answer import print_answer
from encamp.cli.run import names_in
from encamp.cli.ssh_commands import encamp_on
from encamp.engines.kit.hostfile import host_in
from encamp.errors import BadJob, CannotRemove, HostsNotReached, printable
from encamp.storage.cache.cache import clear_cache
from encamp.storage.kept_folders import clean_kept, kept
from encamp.storage.local_leftovers import reclaim_leftovers
from encamp.storage.local_storage import local_storage_path
from encamp.units import counted


def clean_command(
    *, everything: bool, dry_run: bool, hosts: str | None = None, python: str | None = None
) -> None:
    """Remove leftovers, or only list them; on ``hosts``, through ssh, if given."""
    if hosts is not None:
        _clean_elsewhere(_plain(names_in(hosts)), everything, dry_run, python)
        return
    if python is not None:
        raise BadJob("--python", "it needs --hosts; name some")
    verb = "would remove" if dry_run else "removed"
    stayed: dict[Path, OSError] = {}
    removed = reclaim_leftovers(dry_run=dry_run, stayed=stayed)
    if everything:
        removed += clean_kept(dry_run=dry_run, stayed=stayed)
    for folder in removed:
        print_answer(f"{verb} {printable(folder)}")
    if everything and (size := clear_cache(dry_run=dry_run)):
        print_answer(f"{verb} {size} bytes of cached inputs")
    elif not removed and not stayed:
        print_answer(f"nothing to remove in {printable(local_storage_path())}")
    _print_kept(everything)
    if stayed:
        raise CannotRemove({str(path): str(exc) for path, exc in stayed.items()})


def _plain(hosts: list[str]) -> list[str]:
    """Each host once, without options for engines: ``node1:4``, ``node1 ip=10.0.0.1``."""
    return list(dict.fromkeys(host_in(host).name for host in hosts))


def _clean_elsewhere(hosts: list[str], everything: bool, dry_run: bool, python: str | None) -> None:
    """Run the command on other hosts; raises `HostsNotReached` with those that failed."""
    given = {"--all": everything, "--dry-run": dry_run}
    options = [option for option, wanted in given.items() if wanted]
    answers = encamp_on(hosts, ["clean", *options], python)
    for answer in answers:
        for line in answer.lines:
            print_answer(f"{answer.host}: {line}")
    if failed := {answer.host: answer.why for answer in answers if answer.why}:
        raise HostsNotReached(failed)


def _print_kept(everything: bool) -> None:
    parent = kept(local_storage_path())
    folders: list[Path] = sorted(parent.iterdir()) if parent.is_dir() else []
    if folders and not everything:
        count = counted(len(folders), "folder was", "folders were")
        remedy = "--all removes kept folders, and empties the cache"
        print_answer(f"{count} kept in {printable(parent)}; {remedy}")
