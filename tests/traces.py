"""What a program did to files and names, as strace(1) saw it."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import need

CALLS = """
    write pwrite64 writev copy_file_range sendfile rename renameat renameat2 link linkat
    fsync fdatasync syncfs sync
"""


@dataclass
class Call:
    """A system call that went well; ``began`` and ``ended`` are lines of the trace."""

    name: str
    arguments: str
    began: int
    ended: int

    @property
    def file(self) -> str:
        """What its first descriptor is open on."""
        found = re.match(r"\d+<([^>]*)>", self.arguments)
        return found[1] if found else ""

    @property
    def texts(self) -> list[bytes]:
        """Its arguments that are strings."""
        quoted = re.findall(r'"(?:\\.|[^"\\])*"', self.arguments)
        return [ast.literal_eval(f"b{text}") for text in quoted]

    def before(self, other: Call) -> bool:
        """Whether it had ended when the other one began."""
        return self.ended < other.began

    @property
    def paths(self) -> list[str]:
        """The paths in its arguments, as seen from the folders that they are relative to."""
        folders = re.findall(r'(?:AT_FDCWD|\d+)<([^>]*)>, "', self.arguments) or [""] * 2
        texts = (text.decode() for text in self.texts)
        return [str(Path(folder, text)) for folder, text in zip(folders, texts, strict=True)]


class Trace:
    """What a program and its slots did to files and names."""

    def __init__(self, text: str) -> None:
        self.calls: list[Call] = []
        unfinished: dict[str, tuple[int, str]] = {}
        for number, line in enumerate(text.splitlines()):
            pid, _, rest = line.partition(" ")
            rest, began = rest.strip(), number
            if rest.endswith("<unfinished ...>"):
                unfinished[pid] = number, rest.removesuffix("<unfinished ...>")
                continue
            if resumed := re.match(r"<\.\.\. \w+ resumed>", rest):
                began, head = unfinished.pop(pid)
                rest = head + rest[resumed.end() :]
            if made := re.fullmatch(r"(\w+)\((.*)\) += (\d+).*", rest):
                self.calls.append(Call(made[1], made[2], began, number))

    def namings(self, folder: Path) -> Iterator[tuple[str, str, Call]]:
        """What got a name below ``folder`` that is not hidden: its old name, the new one."""
        for call in self.calls:
            if call.name.startswith(("rename", "link")):
                old, new = call.paths
                if folder in Path(new).parents and not Path(new).name.startswith("."):
                    yield old, new, call

    def flushes(self, path: str | Path) -> list[Call]:
        """After which of its calls what is in a file or folder is on the disk."""
        syncs = [call for call in self.calls if call.name.startswith(("fsync", "fdatasync"))]
        whole = [call for call in self.calls if call.name in ("sync", "syncfs")]
        return [call for call in syncs if call.file == str(path)] + whole

    def flushed(self, path: str | Path, before: Call) -> bool:
        """Whether all that was written to a file was on the disk when another call began."""
        marks = "write", "copy_file_range", "sendfile"
        written = [c for c in self.calls if any(m in c.name for m in marks)]
        mine = [call for call in written if f"<{path}>" in call.arguments and call.before(before)]
        flushes = [call for call in self.flushes(path) if call.before(before)]
        return any(all(w.before(f) for w in mine) for f in flushes)

    def records(self, journal: Path) -> list[tuple[dict[str, Any], Call]]:
        """The lines that it appended to the journal."""
        return [
            (json.loads(line), call)
            for call in self.calls
            if "write" in call.name and call.file == str(journal)
            for line in b"".join(call.texts).splitlines()
        ]


def traced(script: Path) -> Trace:
    """Run a script to its good end; skips where there is no strace."""
    need("strace", shutil.which("strace") is not None)
    log = script.with_suffix(".trace")
    calls = ",".join(f"?{call}" for call in CALLS.split())
    options = ["-f", "--seccomp-bpf", "-y", "-qq", "-s", "1000000", "-o", str(log)]
    words = ["strace", *options, "-e", "signal=none", "-e", f"trace={calls}", sys.executable]
    subprocess.run([*words, str(script)], check=True, timeout=100)
    return Trace(log.read_text())
