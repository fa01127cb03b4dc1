"""Clusters that the tests of a class share: what is looked for after a test is looked for then."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from encamp.storage.roots import LOCAL, MIRRORED


@pytest.fixture(scope="class", autouse=True)
def local_storage_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A fresh local storage; afterwards no sandbox may be left in it."""
    base = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOCAL, str(base))
        patch.delenv(MIRRORED, raising=False)
        yield
    left = list(base.glob("encamp-*/sandboxes/*"))
    assert left == [], f"left in the local storage: {left}"


@pytest.fixture(scope="class", autouse=True)
def no_slots_left() -> Iterator[None]:
    """No process that the tests started may outlive them."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    now = psutil.Process().children(recursive=True)
    new = [process for process in now if process.pid not in before and process.is_running()]
    assert new == [], f"left running: {new}"
