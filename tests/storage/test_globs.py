"""Patterns that are translated here match the same as in wcmatch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcmatch import glob

from encamp.storage.inputs.globs import _tokens, _tokens_meet, matches, names_may_meet
from encamp.storage.inputs.mirror import find

NAMES = [
    "a.txt",
    "b.txt",
    "ab",
    "a b",
    ".hidden",
    ".a.txt",
    "é",
    "x+y",
    "a\nb",
    "(c)",
    "{d}",
    "[e]",
]
PATTERNS = ["*", "*.txt", "?", "??", "a*", ".*", ".?*", "*b", "x+?", "a?b", "é*", "(*", "{*", "*]"]


@given(
    st.text(st.sampled_from("ab.*? +$^|"), min_size=1),
    st.text(st.sampled_from("ab. +$^|"), min_size=1),
)
def test_a_name_meets_the_patterns_that_the_long_way_finds(pattern: str, name: str) -> None:
    dots = name.startswith(".") <= pattern.startswith(".")
    found = dots and _tokens_meet(_tokens(name), _tokens(pattern))
    assert names_may_meet(name, pattern) is names_may_meet(pattern, name) is found


@given(
    st.text(st.sampled_from("ab.*? +$^|"), min_size=1),
    st.text(st.sampled_from("ab. +$^|\n"), min_size=1),
)
def test_names_match_as_for_wcmatch(pattern: str, name: str) -> None:
    if name in (".", "..") or "**" in pattern:
        return
    theirs = glob.translate(pattern, flags=glob.GLOBSTAR)[0]
    assert matches(pattern, name) == any(re.fullmatch(one, name) for one in theirs)


@pytest.mark.parametrize("pattern", ["?", "[a]", "a", "*.txt", "*.[t]xt"])
def test_a_newline_at_the_end_belongs_to_the_name(pattern: str) -> None:
    name = {"*": "x.txt"}.get(pattern[0], "a")
    assert matches(pattern, name)
    assert not matches(pattern, f"{name}\n")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("above", ["", "data/", "data/../data/"])
def test_files_are_found_as_by_wcmatch(pattern: str, above: str, tmp_path: Path) -> None:
    folder = tmp_path / above
    (tmp_path / "data").mkdir()
    for name in NAMES:
        (folder / name).write_text(name)
    there = glob.glob(above + pattern, flags=glob.GLOBSTAR, root_dir=str(tmp_path))
    expected = sorted((folder / Path(one).name).resolve() for one in there)
    assert find(above + pattern, tmp_path) == expected


def test_a_folder_that_is_not_there_has_no_matches(tmp_path: Path) -> None:
    assert find("nowhere/*.txt", tmp_path) == []
    assert find("nowhere/a.txt", tmp_path) == []
