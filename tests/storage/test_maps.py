"""Any form of a map of inputs or outputs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from encamp.errors import BadJob
from encamp.storage.inputs.mirror import as_mirrors
from encamp.storage.outputs.patterns import as_outputs


@pytest.mark.parametrize("make", [as_mirrors, as_outputs])
@pytest.mark.parametrize("odd", [b"a.txt", [b"a.txt"], [None], [97]])
def test_invalid_pattern_is_named_as_given(make: Any, odd: Any) -> None:
    given = odd[0] if isinstance(odd, list) else odd
    with pytest.raises(BadJob, match=re.escape(repr(given))):
        make(odd)
