"""A kernel as notebooks have it, in which tests run cells."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Kernel", "kernel", "living_kernel"]

_ANEW = """
import os
%reset -f
import os
os.chdir({folder!r})
os.environ["PARALLEL_LOCAL_STORAGE"] = {storage!r}
"""


class Kernel:
    """Cells are run one after the other, and their outputs kept."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, code: str, *, interrupt: Path | None = None) -> list[dict[str, Any]]:
        """The outputs of a cell; the kernel is interrupted when the file ``interrupt`` is there."""
        import nbformat.v4

        cell = nbformat.v4.new_code_cell(code)
        self._client.nb.cells.append(cell)
        over = threading.Event()
        watcher = threading.Thread(target=self._interrupt, args=(interrupt, over))
        watcher.start()
        try:
            self._client.execute_cell(cell, len(self._client.nb.cells) - 1)
        finally:
            over.set()
            watcher.join()
        return list(cell.outputs)

    def text(self, code: str) -> str:
        """What a cell prints; it raises nothing."""
        outputs = self.run(code)
        assert not any(one["output_type"] == "error" for one in outputs), outputs
        return "".join(one.get("text", "") for one in outputs)

    def html(self, code: str) -> str:
        """The HTML of a cell's result."""
        [result] = [one for one in self.run(code) if one["output_type"] == "execute_result"]
        markup: str = result["data"]["text/html"]
        return markup

    def _interrupt(self, when: Path | None, over: threading.Event) -> None:
        while when is not None and not over.wait(0.05):
            if when.exists():
                self._client.km.provisioner.process.send_signal(signal.SIGINT)
                return


@pytest.fixture(scope="module")
def living_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for all tests of a module: it takes a second to start."""
    import nbclient
    import nbformat.v4

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.delenv("MPLBACKEND", raising=False)
        client = nbclient.NotebookClient(
            nbformat.v4.new_notebook(), timeout=100, allow_errors=True, kernel_name="python3"
        )
        with client.setup_kernel():
            yield Kernel(client)


@pytest.fixture
def kernel(living_kernel: Kernel, here: Path) -> Kernel:
    """A kernel without any names, in an empty folder."""
    storage = os.environ["PARALLEL_LOCAL_STORAGE"]
    living_kernel.text(_ANEW.format(folder=str(here), storage=storage))
    return living_kernel
