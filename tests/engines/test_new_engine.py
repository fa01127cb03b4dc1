"""The engine that docs/new-engine.md shows does what every engine must."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from class_wide import ClassWide

from encamp import Cluster
from encamp.engines.find_engine import engine_names
from encamp.errors import EngineFailed
from encamp.testing.conformance import ClusterOf, Conformance, Facts, Inline, LosesController
from page_samples import blocks

PAGE = Path(__file__).parents[2] / "docs/new-engine.md"


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's module, with the entry point that the page shows."""
    folder = tmp_path_factory.mktemp("installed")
    (module,) = (block for block in blocks(PAGE) if block.title is not None)
    (point,) = (block.text for block in blocks(PAGE) if "entry-points" in block.text)
    (folder / f"{module.title}").write_text(module.text)
    about = folder / "encamp_ssh-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: encamp-ssh\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[encamp.engines]\nssh = encamp_ssh\n")
    assert '[project.entry-points."encamp.engines"]\nssh = "encamp_ssh"\n' in point
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        path = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", str(folder) if path is None else f"{folder}:{path}")
        yield
    sys.modules.pop("encamp_ssh", None)


class Ssh(ClassWide):
    facts = Facts(engine="ssh")
    code = 'Cluster("ssh", hosts=["localhost:2"])'

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("ssh", hosts=[f"localhost:{slots}"], **options)

        return make


class TestSsh(Ssh, Conformance, LosesController):
    pass


class TestSshInline(Ssh, Inline):
    pass


def test_its_name_is_known() -> None:
    assert "ssh" in engine_names()


def test_a_host_that_ssh_does_not_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCAMP_SSH", "sh -c 'echo cannot log in >&2; exit 255'")
    with pytest.raises(EngineFailed, match=r"node7: cannot log in"):
        Cluster("ssh", hosts=["node7:2"])
