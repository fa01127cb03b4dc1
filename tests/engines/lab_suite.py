"""What binds the conformance suite to a lab: processes, files and storages of hosts, from here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
from class_wide import ClassWide

from conftest import need
from encamp.storage.local_storage import LOCAL
from encamp.storage.shared_folders import MIRRORED
from encamp.testing.conformance.resources import GPUS
from encamp.testing.waiting import until
from lab import Host, Lab, missing


class OnLab(ClassWide):
    """For classes whose clusters work on the hosts of a lab."""

    lab: ClassVar[Lab]
    HOSTS: ClassVar[int] = 3

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def a_lab(cls, no_slots_left: None) -> Iterator[None]:
        lacking = missing()
        need(str(lacking), lacking is None)
        variables = {"PVM_ALLOW_ROOT": "1", "ENCAMP_GPUS": ",".join(GPUS)}
        with Lab(cls.HOSTS, disk="256m", variables=variables) as lab:
            cls.lab = lab
            yield
            up = [host for host in lab.hosts if host.up]
            with suppress(AssertionError):
                until(lambda: not any(map(remains, up)), 5)
            left = {host.name: remains(host) for host in up}
        assert not any(left.values()), f"left: {left}"

    @pytest.fixture(scope="class")
    @classmethod
    def share(cls, a_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """The lab's own; after the tests no host has folders of tasks."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cls.lab.environment.items():
                patch.setenv(name, value)
            patch.setenv(MIRRORED, str(cls.lab.share))
            patch.setenv(LOCAL, str(tmp_path_factory.mktemp("local")))
            yield cls.lab.share

    @classmethod
    def host(cls, name: str | None) -> Host:
        """A host by its name."""
        return next(host for host in cls.lab.hosts if host.name == name)

    def here(self, host: str | None, pid: int) -> int:
        """See `Bound.here`."""
        for outside in self.host(host).pids():
            with suppress(OSError):
                status = Path(f"/proc/{outside}/status").read_text()
                if f"\t{pid}\n" in status[status.index("NSpid:") :].splitlines(True)[0]:
                    return outside
        return 0

    def path(self, host: str | None, path: str) -> Path:
        """See `Bound.path`."""
        return self.host(host).path(path)

    @classmethod
    def storages(cls) -> list[Path]:
        """See `Bound.storages`."""
        return [host.path(host.storage) for host in cls.lab.hosts if host.up]


def remains(host: Host) -> list[str]:
    """What of PVM and of agents is left on a host."""
    found = host.path("/tmp").glob("pvm*")
    files = [path.name + path.read_text() if path.is_file() else path.name for path in found]
    return [*files, *host.commands().values()]
