"""Tests of the behaviour that every engine must have; a file of a few lines binds them to one.

::

    from encamp import Cluster
    from encamp.testing.conformance import Conformance, Facts

    class TestMine(Conformance):
        facts = Facts(engine="mine", hosts=2)

        @pytest.fixture(scope="class")
        @classmethod
        def cluster_of(cls):
            return lambda slots, **options: Cluster("mine", slots=slots, **options)

Needs pytest and psutil; uses NumPy if it is installed.
"""

import pytest

_PARTS = (
    "bound", "closing", "endings", "files", "hosts", "inline", "isolation", "losses", "messages",
    "resources", "running", "services", "sharing",
)  # fmt: skip
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from encamp.testing.conformance.bound import Bound, ClusterOf, Facts  # noqa: E402
from encamp.testing.conformance.closing import Closing  # noqa: E402
from encamp.testing.conformance.endings import Endings  # noqa: E402
from encamp.testing.conformance.files import Files  # noqa: E402
from encamp.testing.conformance.hosts import Hosts  # noqa: E402
from encamp.testing.conformance.inline import Inline  # noqa: E402
from encamp.testing.conformance.isolation import Isolation  # noqa: E402
from encamp.testing.conformance.losses import LosesController, LosesHosts  # noqa: E402
from encamp.testing.conformance.messages import Messages  # noqa: E402
from encamp.testing.conformance.resources import Resources  # noqa: E402
from encamp.testing.conformance.running import Running  # noqa: E402
from encamp.testing.conformance.services import Services  # noqa: E402
from encamp.testing.conformance.sharing import Sharing, SharingInline, SharingThreads  # noqa: E402


class Conformance(Running, Messages, Sharing, Endings, Isolation, Files, Resources, Closing):
    """The suite for slots that are processes; `Inline` is for the others."""


__all__ = [
    "Bound",
    "ClusterOf",
    "Conformance",
    "Facts",
    "Hosts",
    "Inline",
    "LosesController",
    "LosesHosts",
    "Services",
    "Sharing",
    "SharingInline",
    "SharingThreads",
]
