"""Has docstrings read well on the site: lists of parameters, and links to other public names."""

from __future__ import annotations

import re
from typing import Any

import griffe

_TERM = re.compile(r"^(\S[^\n]*)\n    (?=\S)", re.MULTILINE)
_NAME = re.compile(r"(?<![`\[])`([A-Za-z_]\w*)(?:\.(\w+))?`(?![`\]])")


class Docstrings(griffe.Extension):
    """Turns "name, and its text indented below" into a definition list, `Name` into a link."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._rewrite(pkg, set(pkg.exports or ()), _classes(pkg["errors"]))

    def _rewrite(self, within: griffe.Object, public: set[str], errors: set[str]) -> None:
        if within.docstring is not None:
            within.docstring.value = linked(listed(within.docstring.value), public, errors)
        for member in within.members.values():
            if not member.is_alias:
                self._rewrite(member, public, errors)  # type: ignore[arg-type]


def _classes(module: griffe.Object) -> set[str]:
    own = {name: member for name, member in module.members.items() if not member.is_alias}
    return {name for name, member in own.items() if member.is_class and name[0] != "_"}


def listed(text: str) -> str:
    """Terms with indented text as a definition list of Markdown."""
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if line and line[0] not in " -*|" and after.startswith("    ") and after.strip():
            found += ["", f"`{line}`".replace(", ", "`, `")]
        elif line.startswith("    ") and found and found[-1].endswith("`") and not found[-2:-1][0]:
            found.append(f":   {line.strip()}")
        else:
            found.append(line)
    return "\n".join(found)


def linked(text: str, public: set[str], errors: set[str]) -> str:
    """Public names in backquotes as links to where the reference has them."""

    def link(found: re.Match[str]) -> str:
        name, attribute = found[1], found[2]
        if name not in public | errors:
            return found[0]
        home = "encamp.errors" if name in errors else "encamp"
        whole = f"{home}.{name}" + (f".{attribute}" if attribute else "")
        return f"[{found[0]}][{whole}]"

    return _NAME.sub(link, text)
