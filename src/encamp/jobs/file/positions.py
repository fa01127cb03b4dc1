"""Lines and columns in a TOML file, for error messages.

`tomllib` keeps no positions, so the file is parsed again with tree-sitter, only when an error has
to be located.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from encamp.errors import BadJob, InputError
from encamp.jobs.templates.template import TOKEN

if TYPE_CHECKING:
    from tree_sitter import Node

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of tables and indices of lists, from the file's top."""


class Problem(Exception):
    """An error in a job file, and its place: the value or, with ``key``, the key of ``path``.

    ``token`` is a placeholder in the value that causes it.
    """

    def __init__(self, path: KeyPath, why: str, *, key: bool = False, token: str = "") -> None:
        super().__init__(path, why)
        self.path, self.why, self.key, self.token = path, why, key, token


class at:  # noqa: N801 - reads as a function; generators take twice the time, in a million tasks
    """Assign errors in the user's input in this block to the given path."""

    __slots__ = ("_path",)

    def __init__(self, *path: str | int) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: BaseException | None, _trace: object) -> None:
        if isinstance(exc, BadJob):
            token = exc.what if exc.what[:1] in ("{", "}") else ""
            raise Problem(self._path, str(exc), token=token) from exc
        if isinstance(exc, InputError):
            raise Problem(self._path, str(exc)) from exc


def items_of(given: str | list[Any], *path: str | int) -> Iterator[tuple[KeyPath, Any]]:
    """The items of a list with their paths; a string is a list of one."""
    if isinstance(given, str):
        yield path, given
    else:
        for number, item in enumerate(given):
            yield (*path, number), item


def line_and_column(text: str, at: int) -> tuple[int, int]:
    """Line and column, both from 1 and in characters, of the character number ``at``."""
    before = text[:at]
    return before.count("\n") + 1, at - before.rfind("\n")


class Positions:
    """The positions of all keys and values of a TOML text."""

    def __init__(self, text: str) -> None:
        import tree_sitter
        import tree_sitter_toml

        language = tree_sitter.Language(tree_sitter_toml.language())
        self._source = text.encode()
        self._keys: dict[KeyPath, Node] = {}
        self._values: dict[KeyPath, Node] = {}
        self._counts: dict[KeyPath, int] = {}
        root = tree_sitter.Parser(language).parse(self._source).root_node
        for node in root.named_children:
            self._top(node)

    def of(self, path: KeyPath, *, key: bool = False, token: str = "") -> tuple[int, int]:
        """Line and column of the value at ``path``, or, with ``key``, of its key.

        ``token`` is a placeholder to look for in the value, then in the key. For something that is
        not in the file, such as a missing key, it is the position of the table that should have it.
        (0, 0) is the file as a whole.
        """
        while path and path not in self._values:
            path, key = path[:-1], False
        if not path:
            return 0, 0
        first, second = self._values[path], self._keys.get(path, self._values[path])
        for node in (first, second) if token else ():
            for match in TOKEN.finditer(_text(node)):
                if match[0] == token:
                    before = self._source[: node.start_byte].decode()
                    return line_and_column(before + _text(node), len(before) + match.start())
        return self._place(second if key else first)

    def _place(self, node: Node) -> tuple[int, int]:
        before = self._source[: node.start_byte].decode()
        return line_and_column(before, len(before))

    def _top(self, node: Node) -> None:
        if node.type == "pair":
            self._pair((), node)
        elif node.type in ("table", "table_array_element"):
            path = self._header(node, is_array=node.type == "table_array_element")
            for child in node.named_children[1:]:
                if child.type == "pair":
                    self._pair(path, child)

    def _header(self, node: Node, *, is_array: bool) -> KeyPath:
        path: KeyPath = ()
        for name, key in _names(node.named_children[0]):
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
            path = (*path, name)
            self._keys.setdefault(path, key)
            self._values.setdefault(path, node)
        if is_array:
            index = self._counts.get(path, 0)
            self._counts[path] = index + 1
            path = (*path, index)
            self._values[path] = node
        return path

    def _pair(self, path: KeyPath, node: Node) -> None:
        key, value = (child for child in node.named_children if child.type != "comment")
        for name, part in _names(key):
            path = (*path, name)
            self._keys.setdefault(path, part)
            self._values.setdefault(path, value)
        self._value(path, value)

    def _value(self, path: KeyPath, node: Node) -> None:
        self._values[path] = node
        children = [child for child in node.named_children if child.type != "comment"]
        if node.type == "array":
            for index, child in enumerate(children):
                self._value((*path, index), child)
        elif node.type == "inline_table":
            for child in children:
                self._pair(path, child)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _names(key: Node) -> Iterator[tuple[str, Node]]:
    if key.type == "dotted_key":
        for part in key.named_children:
            yield from _names(part)
    elif key.type == "quoted_key":
        yield next(iter(tomllib.loads(f"{_text(key)} = 0"))), key
    else:
        yield _text(key), key
