"""HTML for notebooks: small tables and bars in the notebook's own colours; all text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from encamp.errors import shown

_COLOURS = {
    "done": "#2b7d50",
    "failed": "#c0322f",
    "blocked": "#94621b",
    "up to date": "#6c7a86",
    "running": "#3f74a8",
    "to do": "#3f74a8",
}
_OTHER = "rgba(128,128,128,.3)"
_LONGEST = 300
_CELL = "text-align:left;padding:2px 14px 2px 0;vertical-align:top"


def escaped(text: object, most: int = _LONGEST) -> str:
    """A string with HTML's special characters escaped; a long one is shortened."""
    plain = shown(str(text)).encode("utf-8", "backslashreplace").decode()
    return html.escape(plain if len(plain) <= most else plain[: most - 1] + "…")


def box(*parts: str) -> str:
    """A box with the parts one below the other."""
    return f'<div style="line-height:1.5">{"".join(parts)}</div>'


def heading(title: str, words: str = "") -> str:
    """A name in bold, and its description."""
    more = f' <span style="opacity:.75">{escaped(words)}</span>' if words else ""
    return f"<div><strong>{escaped(title)}</strong>{more}</div>"


def line(text: str) -> str:
    """A line of text."""
    return f'<div style="opacity:.75">{escaped(text)}</div>'


def printed(text: str, most: int = 4000) -> str:
    """The end of a program's output; nothing if it is empty."""
    style = "font-family:monospace;white-space:pre-wrap;overflow-x:auto"
    return f'<pre style="{style}">{escaped(text[-most:], most)}</pre>' if text else ""


def bar(counts: Mapping[Any, int], width: int = 480) -> str:
    """A bar with a section for each state, as long as its share of all."""
    whole = sum(counts.values())
    parts = "".join(
        f'<i title="{escaped(state)}: {number}" style="display:inline-block;height:10px;'
        f'width:{100 * number / whole:.2f}%;background:{_COLOURS.get(state, _OTHER)}"></i>'
        for state, number in counts.items()
        if number
    )
    style = f"max-width:{width}px;height:10px;line-height:0;font-size:0;margin:4px 0"
    return f'<div style="{style};border-radius:4px;overflow:hidden">{parts}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], more: int = 0) -> str:
    """A table; its last line is about the ``more`` rows that are left out, if any."""
    head = "".join(f'<th style="{_CELL};opacity:.75">{escaped(one)}</th>' for one in heads)
    body = "".join(
        "<tr>" + "".join(_cell(cell, first=at == 0) for at, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    rest = line(f"and {more} more") if more > 0 else ""
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<table style="border-collapse:collapse;margin:4px 0">{inner}</table>{rest}'


def _cell(value: object, *, first: bool) -> str:
    colour = _COLOURS.get(value) if isinstance(value, str) else None
    text = escaped(value) if colour is None else f'<b style="color:{colour}">{escaped(value)}</b>'
    return f'<td style="{_CELL}{";white-space:nowrap" if first else ""}">{text}</td>'
