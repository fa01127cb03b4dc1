"""The engine ``dask`` does what every engine must, on three hosts, which come, die and return."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from lab_suite import OnLab

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import ClusterOf, Facts, Hosts, LosesController
from encamp.testing.conformance.closing import Closing
from encamp.testing.conformance.files import Files
from encamp.testing.conformance.messages import Messages
from encamp.testing.waiting import until
from lab import Host

THREADS = {"lab1": 2}
"""Of workers by host, where it is not one."""


@contextmanager
def scheduler(address: str, folder: Path) -> Iterator[str]:
    """A scheduler on this host; its address."""
    file = folder / "scheduler.json"
    options = ["--host", address, "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *options]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            until(file.exists)
            from distributed import Client

            made: Any = Client
            with made(scheduler_file=str(file), set_as_default=False) as client:
                yield str(client.scheduler.address)
        finally:
            process.terminate()


class DaskOnLab(OnLab):
    facts = Facts(engine="dask", hosts=3, idle_cpu=0.1)
    SPARE: ClassVar[int] = 0
    """Hosts of the lab that clusters do not begin with."""
    address: ClassVar[str]
    workers: ClassVar[dict[str, subprocess.Popen[Any]]]
    numbers: ClassVar[dict[str, int]]
    """How many workers each host has had: they are named by it."""

    @classmethod
    def start_worker(cls, host: Host) -> None:
        """Have a worker on a host."""
        cls.numbers[host.name] = cls.numbers.get(host.name, 0) + 1
        name = f"{host.name}-{cls.numbers[host.name]}"
        options = [
            "--name",
            name,
            "--nthreads",
            str(THREADS.get(host.name, 1)),
            "--no-dashboard",
            "--no-nanny",
        ]
        where = ["--host", host.address, "--local-directory", str(host.disk)]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cls.address]
        cls.workers[host.name] = host.popen(
            [*command, *options, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @classmethod
    def end_worker(cls, name: str) -> None:
        """End the one of a host, if there is any."""
        if (worker := cls.workers.pop(name, None)) is not None:
            worker.terminate()
            worker.wait(20)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(
        cls, a_lab: None, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[ClusterOf]:
        try:
            import distributed  # noqa: F401
        except ImportError:
            need("distributed", False)
        cls.workers, cls.numbers = {}, {}
        with scheduler(cls.lab.address, tmp_path_factory.mktemp("dask")) as cls.address:
            for host in cls.lab.hosts[: cls.HOSTS - cls.SPARE]:
                cls.start_worker(host)

            def make(slots: int, **options: Any) -> Cluster:
                wanted = {} if slots == cls.SLOTS else {"slots": slots}
                cls.wait_for_workers()
                return Cluster("dask", address=cls.address, **wanted, **options)

            yield make
            for name in list(cls.workers):
                cls.end_worker(name)

    @classmethod
    def wait_for_workers(cls) -> None:
        """Wait until all workers that were started are there."""
        from distributed import Client

        wanted = {f"{name}-{cls.numbers[name]}" for name in cls.workers}
        made: Any = Client
        with made(cls.address, set_as_default=False) as client:
            until(lambda: wanted <= names_of(client), 60)

    @property
    def code(self) -> str:
        return f'Cluster("dask", slots=2, address={self.address!r})'


def names_of(client: Any) -> set[str]:
    """The names of the workers that a scheduler has."""
    return {worker["name"] for worker in client.scheduler_info()["workers"].values()}


class TestDaskOnLab(DaskOnLab, Messages, Files, Closing, LosesController):
    """Only what depends on the engine: the rest is the same code as on one host."""


class TestHosts(DaskOnLab, Hosts):
    HOSTS = 4
    SPARE = 1

    @pytest.fixture
    def tidy(self, share: object) -> Iterator[None]:
        """After each test all hosts are up and in reach, and the first three have workers."""
        yield
        self.end_worker(self.lab.hosts[-1].name)
        for host in self.lab.hosts:
            host_was_up = host.up
            if not host_was_up:
                self.workers.pop(host.name, None)
                host.start()
            host.restore()
            if not host_was_up and host is not self.lab.hosts[-1]:
                self.start_worker(host)
        self.wait_for_workers()

    def add_host(self, cluster: Cluster) -> str:
        spare = self.lab.hosts[-1]
        self.start_worker(spare)
        self.wait_for_workers()
        return spare.name

    def add_again(self, cluster: Cluster, host: str) -> str:
        found = self.host(host)
        if not found.up:
            self.workers.pop(host, None)
            found.start()
            self.start_worker(found)
            self.wait_for_workers()
        return host

    def kill_host(self, cluster: Cluster, host: str) -> None:
        self.host(host).kill()

    def cut(self, cluster: Cluster, host: str) -> None:
        self.host(host).cut()

    def restore(self, cluster: Cluster, host: str) -> None:
        self.host(host).restore()
