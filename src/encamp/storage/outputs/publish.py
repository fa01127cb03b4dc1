"""Making staged outputs visible: by rename, by one party, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from encamp.attempt_facts import Published
from encamp.errors import BadDestination, EncampError, OutputExists, printable
from encamp.storage import urls
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.disk_kind import keeps_owners
from encamp.storage.disk.flush import flush_files, flush_folder
from encamp.storage.disk.network_delay import is_network_device, until_visible
from encamp.storage.disk.path_to_destination import Trust, open_folder, opened
from encamp.storage.disk.temporary_names import PART, Written
from encamp.storage.disk.trusted_files import open_regular
from encamp.storage.outputs.stage import Staged
from encamp.storage.shared_folders import Portable, local
from encamp.storage.urls import is_url

_NO_LINK = {errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


def publish(staged: Collection[Staged], own: Collection[str]) -> list[Published]:
    """Give staged files, checked by `names_to_take`, their final names; returns what is published.

    Existing files are replaced, or kept, or an error (`OutputExists`), as each output says; ``own``
    are final names that may be replaced anyway, as earlier results of the same task. A file is seen
    whole or not at all. The names may not be on the disk before `flush_folders` returns. Blocks.
    Raises `BadDestination` for a temporary file that is missing or was tampered with.
    """
    return [_published(one, own) for one in staged]


def staged_by(one: Staged, token: str) -> bool:
    """Whether its temporary file is beside its final name, and has this owner's token."""
    folder, _, _ = final_name(one.final).rpartition("/")
    above, _, name = final_name(one.part).rpartition("/")
    return above == folder and name.startswith(f"{PART}{token}")


def names_to_take(staged: Collection[Staged], own: Collection[str]) -> list[str]:
    """The final names that `publish` will give, without those that are kept.

    Blocks, on a network disk until it shows what another host has written there. Raises the errors
    of `publish` that are known beforehand.
    """
    for one in staged:
        _check(one, own)
    given = ((one, final_name(one.final)) for one in staged)
    return [
        name
        for one, name in given
        if one.kind != "folder"
        and (one.existing == "replace" or name in own or not _is_there(one.final))
    ]


def _check(one: Staged, own: Collection[str]) -> None:
    name = final_name(one.final)
    if one.kind == "folder":
        return _check_folder(one, name)
    if one.existing == "error" and name not in own and _is_there(one.final):
        raise OutputExists(name)
    if is_url(one.final):
        return None
    try:
        _check_way(os.path.dirname(name), one.trust)  # noqa: PTH120
        if _is_folder(name) and not (one.kind == "link" and Path(name).is_symlink()):
            raise BadDestination(name, "there is a folder with that name")
        if one.kind == "link":
            return None
        part = local(one.part)
        whole = _is_as_written(one, part, until_visible(part, one.size), None)
    except OSError as exc:
        raise BadDestination(name, (exc.strerror or str(exc)).lower()) from exc
    if not whole:
        raise BadDestination(name, f"its temporary file {printable(local(one.part))} was changed")
    return None


def _check_way(folder: str, trust: Trust) -> None:
    """Raise `BadDestination` if another user has put a link or folder into the path of a folder."""
    with suppress(FileNotFoundError):
        os.close(open_folder(folder, trust))


def _is_folder(name: str) -> bool:
    """Raises OSError if that cannot be seen."""
    try:
        return stat.S_ISDIR(Path(name).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return False
        raise


def _is_as_written(
    one: Staged, path: Path | str, status: os.stat_result, folder: int | None
) -> bool:
    """Whether a file is the one that was staged, and was not written to since.

    ``path`` may be relative to the descriptor of a folder. Network disks may show a different inode
    and time on another host; there the bytes are compared.
    """
    if not stat.S_ISREG(status.st_mode) or status.st_size != one.size or one.written is None:
        return False
    if Written.of(status) == one.written:
        return True
    if not is_network_device(status.st_dev):
        return False
    shows_owners = keeps_owners(status.st_dev)
    if shows_owners and status.st_uid not in (one.written.uid, os.geteuid()):
        return False
    return digest_of(path, folder) == one.digest


def _check_folder(one: Staged, name: str) -> None:
    """Create an empty folder; because it cannot be incomplete, it is published first."""
    if is_url(one.final):
        return urls.make_folder(name)
    try:
        with opened(Path(name), one.trust.below(1), make=True):
            pass
    except NotADirectoryError as exc:
        raise BadDestination(name, "there is a file with that name") from exc
    except OSError as exc:
        raise BadDestination(name, (exc.strerror or str(exc)).lower()) from exc
    return None


def final_name(final: Portable) -> str:
    """A final name on this host."""
    return final if isinstance(final, str) else str(local(final))


def _is_there(final: Portable) -> bool:
    if is_url(final):
        return urls.size_of(str(final)) is not None
    return os.path.lexists(local(final))


def _published(one: Staged, own: Collection[str]) -> Published:
    name = final_name(one.final)
    replace = one.existing == "replace" or name in own
    if one.kind == "folder":
        return Published(name, 0, 0, "", kind="folder")
    if is_url(one.final):
        return _published_url(one, name, replace=replace)
    try:
        with opened(Path(name).parent, one.trust, make=one.kind == "link") as folder:
            return _named(one, name, folder, replace=replace)
    except OSError as exc:
        raise BadDestination(name, (exc.strerror or str(exc)).lower()) from exc


def _named(one: Staged, name: str, folder: int, *, replace: bool) -> Published:
    """Give a temporary file its final name; both are in ``folder``, a descriptor."""
    part, final = local(one.part).name, os.path.basename(name)  # noqa: PTH119
    if one.kind == "link":
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
        os.symlink(one.target, part, dir_fd=folder)
    if replace:
        os.rename(part, final, src_dir_fd=folder, dst_dir_fd=folder)
    elif not _moved_if_new(part, final, folder):
        if one.existing == "error":
            raise OutputExists(name)
        return _as_it_is(name, folder)
    found = os.stat(final, dir_fd=folder, follow_symlinks=False)
    if one.kind == "file" and not _is_as_written(one, final, found, folder):
        raise BadDestination(
            name, "a different process has put a different file there in the meantime"
        )
    return Published(
        name, one.size, found.st_mtime_ns, one.digest, kind=one.kind, target=one.target
    )


def _moved_if_new(part: str, final: str, folder: int) -> bool:
    """Rename, but never replace anything: a link fails where a rename would replace.

    On a disk without links, the name is checked first, which cannot see what appears right then.
    """
    try:
        os.link(part, final, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        os.unlink(part, dir_fd=folder)
        return False
    except OSError as exc:
        if exc.errno not in _NO_LINK:
            raise
        if new := not _is_in(final, folder):
            os.rename(part, final, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            os.unlink(part, dir_fd=folder)
        return new
    os.unlink(part, dir_fd=folder)
    return True


def _is_in(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _as_it_is(path: str, folder: int) -> Published:
    name = os.path.basename(path)  # noqa: PTH119
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        target, size, at = os.readlink(name, dir_fd=folder), found.st_size, found.st_mtime_ns
        return Published(path, size, at, "", kept=True, kind="link", target=target)
    digest = digest_of(name, folder)
    return Published(path, found.st_size, found.st_mtime_ns, digest, kept=True)


def _published_url(one: Staged, name: str, *, replace: bool) -> Published:
    part = str(one.part)
    if not replace and urls.size_of(name) is not None:
        urls.remove(part)
        if one.existing == "error":
            raise OutputExists(name)
        return Published(name, urls.size_of(name) or 0, 0, "", kept=True)
    urls.move(part, name)
    return Published(name, one.size, 0, one.digest)


def parents(published: Iterable[Published]) -> set[Path]:
    """The folders on disks of this host that published files are in."""
    names = {os.path.dirname(one.path) for one in published if not is_url(one.path)}  # noqa: PTH120
    return set(map(Path, names))


def flush_copies(staged: Iterable[Staged], others: Iterable[Path] = ()) -> dict[Portable, OSError]:
    """Wait until copies that `stage` left to this process, and other files, are on the disk.

    Returns the (temporary) names of those that could not be flushed, and why.
    """
    names: dict[Path, Portable] = {local(one.part): one.part for one in staged if not one.flushed}
    names |= {file: str(file) for file in others}
    return {names[file]: exc for file, exc in flush_files(names).items()}


def flush_error(one: Staged, exc: OSError) -> EncampError:
    """Why a copy that `flush_copies` names cannot be published."""
    name = final_name(one.final)
    full = disk_full(exc, Path(name), one.size)
    return full or BadDestination(name, (exc.strerror or str(exc)).lower())


def flush_folders(folders: Iterable[Path]) -> None:
    """Wait until the names in these folders are on the disk. Raises `BadDestination`."""
    for folder in folders:
        try:
            flush_folder(folder)
        except OSError as exc:
            why = f"its new files may be lost in a power cut: {(exc.strerror or str(exc)).lower()}"
            raise BadDestination(str(folder), why) from exc


def digest_of(path: Path | str, folder: int | None = None) -> str:
    """blake2b-128 of a file, in hexadecimal; it may be relative to the descriptor of a folder."""
    with open_regular(path, folder=folder) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
