"""A Dask cluster in processes of its own: nannies, TLS, whatever is asked for; ends with stdin.

``python some_dask.py '{"n_workers": 2, "threads_per_worker": 4}'`` prints its address.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILES = ("tls_ca_file", "tls_client_cert", "tls_client_key")


@dataclass
class SomeDask:
    """One that runs. ``files`` are what a client needs of TLS."""

    address: str
    files: dict[str, str]
    process: subprocess.Popen[str]

    @property
    def security(self) -> Any:
        """For clients in this process."""
        from distributed import Security

        return Security(require_encryption=True, **self.files) if self.files else None

    @property
    def code(self) -> str:
        """Options of the engine as Python code."""
        if not self.files:
            return f"address={self.address!r}"
        security = f"__import__('distributed').Security(require_encryption=True, **{self.files!r})"
        return f"address={self.address!r}, security={security}"

    @property
    def options(self) -> dict[str, Any]:
        """Options of the engine."""
        return {"address": self.address, "security": self.security}

    def order(self, what: str) -> str:
        """Have the cluster do something: ``scale 3``, ``adapt 0 3``; its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def some_dask(folder: Path, **options: Any) -> Iterator[SomeDask]:
    """A cluster with these options of `distributed.LocalCluster`."""
    with subprocess.Popen(
        [sys.executable, __file__, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            data = json.loads(process.stdout.readline())
            files = {}
            for name, text in data["files"].items():
                file = folder / f"{name}.pem"
                file.write_text(text)
                file.chmod(0o600)
                files[name] = str(file)
            yield SomeDask(data["address"], files, process)
        finally:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def main(options: dict[str, Any]) -> None:
    from distributed import LocalCluster

    made: Any = LocalCluster
    with made(dashboard_address="127.0.0.1:0", **options) as cluster:
        files = {}
        if options.get("security"):
            files = {name: getattr(cluster.security, name) for name in _FILES}
        print(json.dumps({"address": cluster.scheduler_address, "files": files}), flush=True)
        for line in sys.stdin:
            what, *numbers = line.split()
            if what == "adapt":
                least, most = map(int, numbers)
                cluster.adapt(minimum=least, maximum=most, interval="500ms", wait_count=10)
            else:
                getattr(cluster, what)(*map(int, numbers))
            print("done", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
