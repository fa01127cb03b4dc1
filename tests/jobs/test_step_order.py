"""In which order a run flushes, renames and journals, as strace(1) saw it.

A file that has its final name is whole on the disk; whose that name is was journaled before; that
its task is done is journaled when the name is on the disk as well. So a kill or a power cut between
any two steps leaves what the next run understands.
"""

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

JOB = """\
import encamp
job = encamp.Job("job", to="out")
for name, existing in {"a": "replace", "b": "error", "c": "keep"}.items():
    outputs = [encamp.Output(f"{name}.{n}", f"to-{n}/{name}", existing=existing) for n in "xy"]
    job.add(name, [f"cp input {name}.{n}" for n in "xy"], mirror="input", outputs=outputs)
job.run(slots=1)
"""
CALLS = "write pwrite64 writev rename renameat renameat2 link linkat fsync fdatasync syncfs sync"


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
                old, new = (text.decode() for text in call.texts)
                if folder in Path(new).parents and not Path(new).name.startswith("."):
                    yield old, new, call

    def flushes(self, path: str | Path) -> list[Call]:
        """After which of its calls what is in a file or folder is on the disk."""
        syncs = [call for call in self.calls if call.name.startswith(("fsync", "fdatasync"))]
        whole = [call for call in self.calls if call.name in ("sync", "syncfs")]
        return [call for call in syncs if call.file == str(path)] + whole

    def records(self, journal: Path) -> list[tuple[dict[str, Any], Call]]:
        """The lines that it appended to the journal."""
        return [
            (json.loads(line), call)
            for call in self.calls
            if "write" in call.name and call.file == str(journal)
            for line in b"".join(call.texts).splitlines()
        ]


def traced() -> Trace:
    """Run the job under strace."""
    strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-qq",
        "-s",
        "1000000",
        "-e",
        "signal=none",
        "-o",
        "trace",
    ]
    calls = ",".join(f"?{call}" for call in CALLS.split())
    words = [*strace, "-e", f"trace={calls}", sys.executable, "job.py"]
    subprocess.run([*words, "job.py"], check=True, timeout=100)
    return Trace(Path("trace").read_text())


def test_each_step_of_publishing_waits_for_the_one_before(here: Path) -> None:
    need("strace", shutil.which("strace") is not None)
    Path("job.py").write_text(JOB)
    for text in ("first", "second"):  # into empty folders, and over the run's own results
        Path("input").write_text(text)
        trace = traced()
        assert [p.read_text() for p in Path("out").glob("to-*/*/*")] == [text] * 6
        _check_names(trace, here / "out")
        _check_journal(trace, here / "out/job.job/journal.jsonl")


def _check_names(trace: Trace, out: Path) -> None:
    records = trace.records(out / "job.job/journal.jsonl")
    named = [it for n in "xy" for it in trace.namings(out / f"to-{n}")]
    assert len(named) == 6
    for part, final, naming in named:
        task = Path(final).name[0]
        claims = [c for r, c in records if r["event"] == "publishing" and final in r["paths"]]
        (done,) = [c for r, c in records if (r["event"], r["task"]) == ("done", task)]
        flushed = trace.flushes(Path(final).parent)
        assert any(call.before(naming) for call in trace.flushes(part)), f"{final} is not whole"
        assert any(call.before(naming) for call in claims), f"nobody knows whose {final} is"
        assert any(naming.before(call) and call.before(done) for call in flushed), (
            f"{final} is said to be done, and its name is not on the disk"
        )


def _check_journal(trace: Trace, journal: Path) -> None:
    last = trace.records(journal)[-1][1]
    assert any(last.before(call) for call in trace.flushes(journal))
    anew = [(old, call) for old, new, call in trace.namings(journal.parent) if new == str(journal)]
    assert len(anew) == 1
    for old, call in anew:
        written = [c for c in trace.calls if "write" in c.name and c.file == old]
        flushed = trace.flushes(old)
        assert any(call_.before(call) for call_ in flushed), "an empty journal may take its place"
        assert all(any(w.before(f) for f in flushed if f.before(call)) for w in written)
