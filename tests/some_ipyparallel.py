"""An ipyparallel cluster in processes of its own, which ends with its standard input.

``python some_ipyparallel.py FOLDER 4`` prints where its connection file is.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class SomeEngines:
    """A cluster that runs."""

    file: str
    process: subprocess.Popen[str]

    @property
    def options(self) -> dict[str, Any]:
        """Options of the engine."""
        return {"connection_file": self.file}

    def order(self, what: str) -> str:
        """Have the cluster do something: ``start_engines 2``; its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def some_engines(folder: Path, engines: int) -> Iterator[SomeEngines]:
    """A controller and so many engines, with the files of both in the folder."""
    with subprocess.Popen(
        [sys.executable, __file__, str(folder), str(engines)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "IPYTHONDIR": str(folder)},
        cwd=folder,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield SomeEngines(process.stdout.readline().strip(), process)
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def main(folder: str, engines: int) -> None:
    import ipyparallel

    cluster = ipyparallel.Cluster(
        n=engines, profile_dir=f"{folder}/profile", enable_curve=True, log_level=logging.ERROR
    )
    with cluster as client:
        client.wait_for_engines(engines)
        file = f"{cluster.profile_dir}/security/ipcontroller-{cluster.cluster_id}-client.json"
        print(file, flush=True)
        for line in sys.stdin:
            what, number = line.split()
            getattr(cluster, f"{what}_sync")(int(number))
            print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
