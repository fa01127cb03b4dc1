"""Files with final names survive a power cut, according to the system calls."""

from __future__ import annotations

from pathlib import Path

from traces import traced

SANDBOX = """\
import encamp, os
outputs = [encamp.Output("a", "one"), encamp.Output("b", "two", existing="error")]
with encamp.sandbox(outputs=[*outputs, encamp.Output("c", "two", existing="keep")]) as folder:
    for name in "abc":
        (folder / name).write_text(name)
os.write(1, b"over")
"""


def test_outputs_of_a_sandbox_and_their_names_are_on_the_disk_when_it_ends(here: Path) -> None:
    Path("script.py").write_text(SANDBOX)
    trace = traced(here / "script.py")
    (over,) = [call for call in trace.calls if call.texts == [b"over"]]
    named = [it for name in ("one", "two") for it in trace.namings(here / name)]
    assert sorted(Path(final).name for _, final, _ in named) == ["a", "b", "c"]
    for part, final, naming in named:
        assert trace.flushed(part, before=naming), f"{final} may not be whole"
        flushes = trace.flushes(Path(final).parent)
        assert any(naming.before(call) and call.before(over) for call in flushes)


LANDING = """\
import os
from pathlib import Path, PurePosixPath
from encamp.storage.outputs import send_outputs
from encamp.storage.outputs.send_outputs import RemoteTarget, Receiver, send_file
from encamp.storage.shared_folders import portable
from encamp.storage.disk.path_to_destination import NAMED
send_outputs.CHUNK = 1000
Path("source").write_bytes(bytes(2500))
to = Path("out").absolute()
far = RemoteTarget(portable(to), PurePosixPath("a"))
sent, _, _ = send_file(Receiver({to: NAMED}), Path("source"), far, "t")
os.write(1, str(sent.part).encode())
"""


def test_a_file_that_was_sent_is_on_the_disk_when_that_is_said(here: Path) -> None:
    Path("script.py").write_text(LANDING)
    trace = traced(here / "script.py")
    part = here / "out/.encamp-t"
    assert part.stat().st_size == 2500
    (received,) = [call for call in trace.calls if call.texts == [str(part).encode()]]
    assert trace.flushed(part, before=received)
