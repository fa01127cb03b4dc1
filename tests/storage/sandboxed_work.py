"""Functions in sandboxes that other processes can import."""

from __future__ import annotations

from pathlib import Path

import encamp


@encamp.sandboxed(
    mirror=lambda number, to: {f"in-{number}": "."},
    outputs=lambda number, to: {"out-*": to},
)
def double(number: int, to: str) -> str:
    """Read ``in-<number>`` from the current folder and write ``out-<number>`` to it."""
    assert sorted(path.name for path in Path.cwd().iterdir()) == [f"in-{number}"]
    Path(f"out-{number}").write_text(str(2 * int(Path(f"in-{number}").read_text())))
    return str(Path.cwd())


@encamp.sandboxed(
    mirror=lambda number, to: {f"in-{number}": "."},
    outputs=lambda number, to: {"out-*": to},
    chdir=False,
)
def double_in_thread(number: int, to: str) -> str:
    """The same without a current folder."""
    folder = encamp.current_sandbox()
    assert sorted(path.name for path in folder.iterdir()) == [f"in-{number}"]
    (folder / f"out-{number}").write_text(str(2 * int((folder / f"in-{number}").read_text())))
    return str(folder)
