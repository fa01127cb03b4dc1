"""Clusters that the tests of a class share: what is looked at after each test is looked at then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


class ClassWide:
    """Takes the place of the fixtures that all other tests have."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def no_slots_left(cls) -> Iterator[None]:
        """No process that the tests started may outlive them."""
        before = {process.pid for process in psutil.Process().children(recursive=True)}
        yield
        now = psutil.Process().children(recursive=True)
        new = [process for process in now if process.pid not in before]
        _, left = psutil.wait_procs(new, 20)  # another system's processes may just be ending
        assert left == [], f"left running: {left}"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def local_storage_base(cls, no_slots_left: None, share: Path) -> Path:
        """The suite sees to it."""
        return share
