"""Mirroring random trees by random patterns, compared with a slow and simple model."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placed_inputs import mirrored

from encamp.errors import UnusableInput
from encamp.storage.inputs.mirror import Mirror, Mode, plan

Tree = dict[str, "Tree | str"]
"""Name → folder, or ``"file"``, or ``"> target"`` for a symlink."""

MODES: set[Mode] = {"auto", "copy", "link"}

NAMES = st.sampled_from(["a", "b", "c.txt", "d.txt", ".h", "a b", "-x", "[1]", "\udcff", "x\ny"])
LEAVES = st.sampled_from(["file", "> a", "> ..", "> no-such"])
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=3),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, inner), max_size=3),
    max_leaves=12,
)
PARTS = st.sampled_from(["*", "**", "a", "b", "?", "*.txt", ".*", "[ab]", "[!a]*"])
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
EXCLUDES = st.lists(st.sampled_from(["a", "*.txt", ".h", "a/*", "b/a"]), max_size=2).map(tuple)


def build(folder: Path, tree: Tree) -> None:
    for name, what in tree.items():
        path = folder / name
        if isinstance(what, dict):
            path.mkdir()
            build(path, what)
        elif what == "file":
            path.write_text(f"{path}", errors="surrogateescape")
        else:
            path.symlink_to(what[2:])


def seen(folder: Path) -> dict[str, str]:
    """Every file, symlink and folder below a folder → its content."""
    found = {}
    for at, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(at, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"> {os.readlink(path)}"
            elif path.is_dir():
                found[key] = "folder"
            else:
                found[key] = path.read_text(errors="surrogateescape")
    return found


def component(pattern: str) -> re.Pattern[str]:
    """One part of a glob as a regular expression, written out by hand."""
    text = "" if pattern.startswith(".") else r"(?!\.)"
    for piece in re.findall(r"\[!?[^\]]*\]|.", pattern):
        if len(piece) > 1:
            text += piece.replace("[!", "[^")
        else:
            text += {"*": ".*", "?": "."}.get(piece, re.escape(piece))
    return re.compile(text, re.DOTALL)


def globbed(at: Path, parts: tuple[str, ...], pattern: list[str]) -> set[tuple[str, ...]]:
    """Parts of every path below ``at`` that the pattern's parts match, by trying everything."""
    if not pattern:
        return {parts}
    head, rest = pattern[0], pattern[1:]
    found = globbed(at, parts, rest) if head == "**" else set()
    for child in at.iterdir():
        longer = (*parts, child.name)
        if head == "**":
            if child.name.startswith("."):
                continue
            if child.is_dir() and not child.is_symlink():
                found |= globbed(child, longer, pattern)
            elif set(rest) <= {"**"}:
                found.add(longer)
        elif component(head).fullmatch(child.name):
            if not rest:
                found.add(longer)
            elif child.is_dir():
                found |= globbed(child, longer, rest)
    return found


def left_out(parts: tuple[str, ...], excludes: tuple[str, ...]) -> bool:
    """Whether the path or a folder on the way to it is excluded."""
    for length in range(1, len(parts) + 1):
        for exclude in excludes:
            against = "/".join(parts[:length]) if "/" in exclude else parts[length - 1]
            text = "".join({"*": ".*"}.get(c, re.escape(c)) for c in exclude)
            if re.fullmatch(text, against, re.DOTALL):
                return True
    return False


def is_file_or_nothing(path: Path) -> bool:
    """A file, or a symlink to one or to nothing; not one to itself, which no glob sees."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except OSError as exc:
        return exc.errno != errno.ELOOP


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES, excludes=EXCLUDES, mode=st.sampled_from(sorted(MODES)))
def test_a_tree_arrives_as_it_is_but_for_what_is_excluded(
    tree: Tree, excludes: tuple[str, ...], mode: Mode
) -> None:
    with tempfile.TemporaryDirectory() as base:
        source = Path(base, "tree")
        source.mkdir()
        build(source, tree)
        expected = {
            path: content
            for path, content in seen(source).items()
            if not left_out(tuple(path.split("/")), excludes)
        }
        with mirrored(Mirror("tree", exclude=excludes, mode=mode), Path(base)) as folder:
            assert seen(folder / "tree") == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES, pattern=PATTERNS, excludes=EXCLUDES)
def test_two_stars_find_what_the_slow_model_finds(
    tree: Tree, pattern: str, excludes: tuple[str, ...]
) -> None:
    pattern = f"top/**/{pattern}"
    with tempfile.TemporaryDirectory() as base:
        source = Path(base, "top")
        source.mkdir()
        build(source, tree)
        mirror = Mirror(pattern, exclude=excludes, required=False)
        wanted = pattern.split("/")[1:]
        matching = [
            parts
            for parts in globbed(source, (), wanted)
            if is_file_or_nothing(source.joinpath(*parts)) and not left_out(parts, excludes)
        ]
        if not all(source.joinpath(*parts).exists() for parts in matching):
            with pytest.raises(UnusableInput):
                plan([mirror], Path(base))
            return
        with mirrored(mirror, Path(base)) as folder:
            found = {path: what for path, what in seen(folder).items() if what != "folder"}
        assert found == {
            "/".join(parts): source.joinpath(*parts).read_text(errors="surrogateescape")
            for parts in matching
        }
