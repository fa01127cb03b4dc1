"""A shell line as the grammar of bash parses it: where values are, and whether it runs data.

A line counts as parsed only if this grammar, dash and bash are known to agree on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, ClassVar

from encamp.jobs.templates.shell_commands import (
    Word,
    code_files,
    is_safe_test,
    is_special,
    names,
    runs_variable,
    why_unsafe,
)

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

    from encamp.jobs.templates.template import Placeholder

_KNOWN = names(
    "program list pipeline command command_name redirected_statement file_redirect "
    "herestring_redirect subshell compound_statement negated_command if_statement elif_clause "
    "else_clause while_statement for_statement do_group case_statement case_item "
    "function_definition variable_assignment variable_assignments declaration_command "
    "unset_command word number string string_content raw_string concatenation simple_expansion "
    "expansion variable_name special_variable_name command_substitution process_substitution "
    "test_command unary_expression binary_expression parenthesized_expression test_operator "
    "file_descriptor comment brace_expression arithmetic_expansion array subscript "
    "extglob_pattern regex"
)
_HOLDS_A_WORD = names(
    "command file_redirect herestring_redirect variable_assignment array for_statement "
    "case_statement case_item test_command unary_expression binary_expression "
    "parenthesized_expression"
)
_KEEPS_A_WORD = names("variable_assignment array for_statement")
_EXPANSION = re.compile(
    r"\$\{#?(\w+|[@*#?$!-])(\[([0-9]+|[@*])\])?"
    r"((:?[-+?]|##?|%%?|//?|\^\^?|,,?)[\w ./*?:,@%+=^-]*)?\}"
)
"""Expansions in braces that run nothing and contain no quotes."""
_SUM = re.compile(r"[\s\d+*/%()<>=!&|^~?:,$\[\]-]*")
_NOT_DECIMAL = "its arithmetic contains more than decimal numbers"
_COMPARES_NUMBERS = names("-eq -ne -lt -le -gt -ge -v -R")
_READ_OTHERWISE = re.compile(r"\S\\\n\S|[^\S \t\n]|[\0-\x08\x0e-\x1f\x7f]")
"""A word on two lines, and white space that shells count as a part of a word."""
_LITERAL = re.compile(r"[^\\$`*?\[\]{}~'\"()!<>&|;\s]*")
_NEVER = {"comment": "a comment", "expansion": "${...}", "ansi_c_string": "$'...'"}
_QUOTES = {"raw_string": "'", "string_content": '"', "string": '"'}
_PATTERNS = names("extglob_pattern regex")
_EXPANDED = names("simple_expansion expansion command_substitution")
_OPERATORS = names("test_operator ! = == != ( )")
_NO_WORDS = names("variable_assignment file_redirect herestring_redirect heredoc_redirect")


@dataclass(frozen=True)
class Context:
    """Where a value is inserted in a line, and which values can be inserted there."""

    quotes: str
    begins_word: bool
    may_be_option: bool
    never: str
    """Why no value can be inserted; empty if some can."""
    only_numbers: str
    """The construct inside which only numbers can be inserted; empty if there is none."""
    only_plain: str
    """Why only plain values can be inserted; empty if all can."""


class ShellLine:
    """A shell line, parsed with a word in place of each value."""

    def __init__(self, pieces: tuple[str | Placeholder, ...], *, bash: bool) -> None:
        self._bash = bash
        self._source = b""
        placeholders: list[tuple[Placeholder, int]] = []
        for piece in pieces:
            if not isinstance(piece, str):
                placeholders.append((piece, len(self._source)))
                piece = f"encamp_{piece.name}"
            self._source += piece.encode(errors="surrogateescape")
        self._starts = [start for _, start in placeholders]
        self._root = _parser().parse(self._source).root_node
        self._all = list(_below(self._root))
        self.contexts = [(placeholder, self._context(start)) for placeholder, start in placeholders]

    @cached_property
    def why_unsafe(self) -> str:
        """Why data in this line might be run as code; empty if it is not."""
        if self._root.has_error or _READ_OTHERWISE.search(self._source.decode(errors="replace")):
            return "the line cannot be parsed for certain"
        return next((why for node in self._all if (why := self._why(node))), "") or self._why_file()

    def _context(self, start: int) -> Context:
        leaf = word = self._root.descendant_for_byte_range(start, start + 1) or self._root
        while word.parent and word.parent.type in ("concatenation", "string"):
            word = word.parent
        begins = re.search(rb"(^|[\s;|&()<>=])['\"]?$", self._source[:start]) is not None
        return Context(
            quotes=_QUOTES.get(leaf.type, ""),
            begins_word=begins,
            may_be_option=start - word.start_byte < 2 and self._may_be_option(word),
            never=self._never(leaf, start),
            only_numbers=next((what for node in _above(word) if (what := _of_sum(node))), ""),
            only_plain=_only_plain(leaf, word),
        )

    def _never(self, leaf: Node, start: int) -> str:
        if leaf.type not in ("raw_string", "comment"):
            before = self._source[:start]
            if before.endswith(b"$"):
                instead = "for a variable of the shell write ${{v}}, or leave out the $"
                return f"cannot follow a $ in a shell step; {instead}"
            if (len(before) - len(before.rstrip(b"\\"))) % 2:
                return "cannot follow a \\ in a shell step; leave out the \\"
        inside = [_NEVER[node.type] for node in _above(leaf) if node.type in _NEVER]
        inside += ["backquotes" for node in _above(leaf) if _is_backquoted(node)]
        documents = [node for node in self._all if node.type == "heredoc_redirect"]
        inside += ["a here-document" for node in documents if node.start_byte < start]
        if not inside:
            return ""
        return (
            f"cannot be inserted inside {inside[0]} of a shell step; "
            'give it as env = { VALUE = "{v}" } and write "$VALUE" there'
        )

    def _may_be_option(self, word: Node) -> bool:
        """Whether a program could take the word for an option, now or through a variable."""
        holder = word.parent
        if holder is None or holder.type != "command":
            return holder is not None and holder.type in _KEEPS_A_WORD
        before = [_text(one) for one in _word_nodes(holder) if one.start_byte < word.start_byte]
        if before[:1] in (["echo"], ["printf"], ["test"], [":"]):
            return b"xargs" in self._source
        return before[:1] == ["set"] or "--" not in before

    # Whether data is run

    def _why(self, node: Node) -> str:
        kind = node.type
        if not node.is_named or (kind == "ansi_c_string" and self._bash):
            return ""
        if kind not in _KNOWN:
            return f"the line has a {kind.replace('_', ' ')}"
        if kind == "arithmetic_expansion" or _is_sum(node):
            return "" if _SUM.fullmatch(_text(node)) else _NOT_DECIMAL
        if kind == "command":
            words = self._words(node)
            return why_unsafe(words) if words else ""
        rule = self._RULES.get(kind)
        safe = rule is None or rule(self, node)
        return "" if safe else f"{_written(node)} might run data as code"

    def _is_safe_redirection(self, node: Node) -> bool:
        words = [one for one in node.named_children if one.type != "file_descriptor"]
        by = "".join(one.type for one in node.children if not one.is_named)
        return not by.endswith("&") or all(self._word(one).text is not None for one in words)

    def _is_safe_substitution(self, node: Node) -> bool:
        return not (_is_backquoted(node) and "\\" in _text(node))

    def _is_comment(self, node: Node) -> bool:
        """Whether the shells, too, begin a comment at this node."""
        return self._source[: node.start_byte][-1:] in (b"", b" ", b"\t", b"\n", b";")

    def _is_safe_expansion(self, node: Node) -> bool:
        return _EXPANSION.fullmatch(_text(node)) is not None

    def _is_safe_test(self, node: Node) -> bool:
        words = [self._word(one) for one in _operands(node)]
        if _text(node).startswith("[["):
            return self._bash and not _COMPARES_NUMBERS.intersection(
                word.text or "" for word in words
            )
        return is_safe_test(words)

    def _is_safe_assignment(self, node: Node) -> bool:
        name = next(
            (one for one in node.children if one.type in ("variable_name", "subscript")), node
        )
        if name.type == "subscript":
            return re.fullmatch(r"\w+\[[0-9]+\]", _text(name)) is not None
        known = re.sub(rf"\$\{{?(HOME|PWD|{_text(name)})\b\}}?", "", _text(node))
        runs = runs_variable(_text(name)) or (
            node.type == "for_statement" and is_special(_text(name))
        )
        return not runs and not (is_special(_text(name)) and re.search("[$`]", known))

    def _is_safe_array(self, node: Node) -> bool:
        starts = [_text(one) for one in node.named_children if _text(one).startswith("[")]
        return all(re.match(r"\[[0-9]+\]=", text) for text in starts)

    def _is_safe_declaration(self, node: Node) -> bool:
        """Whether an ``export`` or the like has only names, and values that stay one word."""
        for child in node.named_children:
            if child.type == "variable_assignment":
                if self._word(child.named_children[-1]).splits:
                    return False
            elif self._has_value(child) or not re.fullmatch(r"[A-Za-z_]\w*", _text(child)):
                return False
        return _text(node.children[0]) not in ("declare", "typeset")

    def _why_file(self) -> str:
        """Whether the line may write a file that it runs."""
        run: set[str] = set()
        other: set[str] = set()
        for words in (self._words(node) for node in self._all if node.type == "command"):
            files = code_files(words)
            run |= files
            other |= {
                word.text for word in words if word.text and _file_name(word.text) not in files
            }
        for node in (one.named_children[-1] for one in self._all if one.type == "file_redirect"):
            if not self._has_value(node):  # a name with a value is not among those that are run
                text = re.sub("['\"]", "", _text(node))
                other.add(re.sub(r".*(\$\w+|[$`*?\])}])", "*", text))
        for file in run:
            for text in other:
                if text.endswith(file) or (text[0] == "*" and re.search(rf"{text[1:]}$", file)):
                    return f"the line may write {file}, which it runs"
        return ""

    # Words

    def _words(self, command: Node) -> list[Word]:
        nodes = _word_nodes(command)
        words = [self._word(node) for node in nodes]
        if nodes and nodes[0].type != "word":
            words[0] = Word(None)  # a name in quotes, or put together
        return words

    def _has_value(self, node: Node) -> bool:
        return any(node.start_byte <= start < node.end_byte for start in self._starts)

    def _word(self, node: Node) -> Word:
        """The literal part of a word."""
        if _text(node) == "{}" or re.fullmatch(r"\\[;()!]", _text(node)):
            text = _text(node)[1:]
            return Word(text if text != "}" else None)  # what find and xargs put there
        if node.type == "concatenation":
            parts = [self._word(child) for child in node.children]
            until = next((n for n, part in enumerate(parts) if part.text is None), len(parts))
            start = "".join(part.start for part in parts[: until + 1])
            splits = any(part.splits for part in parts)
            return Word(start if until == len(parts) else None, start, splits)
        if node.type in _EXPANDED:
            return Word(None, splits=not re.fullmatch(r"\$[#?$!]", _text(node)))
        ends = [start for start in self._starts if start >= node.start_byte]
        if node.type == "string":
            ends += [one.start_byte for one in node.named_children if one.type != "string_content"]
        end = min([*ends, node.end_byte])
        text = self._source[node.start_byte : end].decode(errors="replace")
        if node.type in ("string", "raw_string"):
            text = text[1:-1] if end == node.end_byte else text[1:]
            text = re.sub(r'\\([$`"\\\n])', r"\1", text) if node.type == "string" else text
            return Word(text if end == node.end_byte else None, text)
        if node.type in _OPERATORS:
            return Word(text, text)
        found = _LITERAL.match(text)
        start = found[0] if found else ""
        return Word(start if start == text and end == node.end_byte else None, start, start != text)

    _RULES: ClassVar[dict[str, Callable[[ShellLine, Node], bool]]] = {
        "file_redirect": _is_safe_redirection,
        "command_substitution": _is_safe_substitution,
        "comment": _is_comment,
        "expansion": _is_safe_expansion,
        "test_command": _is_safe_test,
        "variable_assignment": _is_safe_assignment,
        "array": _is_safe_array,
        "for_statement": _is_safe_assignment,
        "declaration_command": _is_safe_declaration,
        "unset_command": _is_safe_declaration,
    }


@cache
def _parser() -> Parser:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def _only_plain(leaf: Node, word: Node) -> str:
    """Why only plain values can be inserted there; empty if all can."""
    holder = word.parent
    odd_pattern = leaf.type in _PATTERNS and re.search(r"[\\'\"$`]", _text(leaf))
    is_word = leaf.type in ("word", *_QUOTES, *_PATTERNS) and not odd_pattern
    if holder is None or holder.type not in _HOLDS_A_WORD or not is_word:
        return "the shell may treat a value there as code"
    name = _text(holder.children[0])
    if holder.type == "variable_assignment" and is_special(name):
        return f"shells and programs act upon the variable {name}"
    return ""


def _of_sum(node: Node) -> str:
    """The name of a construct with shell arithmetic; empty for other nodes."""
    text = _text(node)
    if node.type == "arithmetic_expansion" and text.startswith("$["):
        return "$[...]"
    if node.type in ("arithmetic_expansion", "c_style_for_statement") or _is_sum(node):
        return "((...))"
    if node.type == "subscript" or (node.type == "concatenation" and text.startswith("[")):
        return "a subscript"
    operators = {_text(one) for one in _below(node) if one.type == "test_operator"}
    if node.type == "test_command" and text.startswith("[[") and operators & _COMPARES_NUMBERS:
        return "[[ ... ]] with a comparison of numbers"
    return ""


def _word_nodes(command: Node) -> list[Node]:
    """The words of a command; some may follow the file of a redirection."""
    around = command.parent
    redirected = around.named_children if around and around.type == "redirected_statement" else []
    found = [one for one in command.named_children if one.type not in _NO_WORDS]
    if found and found[0].type == "command_name":
        found[0] = found[0].children[0]
    for one in (*command.named_children, *redirected):
        if one.type == "file_redirect":
            found += [word for word in one.named_children if word.type != "file_descriptor"][1:]
    return found


def _operands(test: Node) -> Iterator[Node]:
    for child in test.children:
        if child.type in ("unary_expression", "binary_expression", "parenthesized_expression"):
            yield from _operands(child)
        elif child.is_named or child.type in _OPERATORS:
            yield child


def _below(node: Node) -> Iterator[Node]:
    nodes = [node]
    while nodes:
        last = nodes.pop()
        yield last
        nodes += reversed(last.children)


def _above(node: Node | None) -> Iterator[Node]:
    while node is not None:
        yield node
        node = node.parent


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def _written(node: Node) -> str:
    """A node as the user has written it."""
    return re.sub(r"\bencamp_(\w+)", r"{\1}", _text(node))


def _is_sum(node: Node) -> bool:
    kinds = ("compound_statement", "test_command", "subshell")
    return node.type in kinds and _text(node).startswith("((")


def _is_backquoted(node: Node) -> bool:
    return node.type == "command_substitution" and _text(node).startswith("`")
