"""Names of tasks that are made from their parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST = 40
"""Characters of a name without its digest."""


def name_of_values(values: Sequence[str]) -> str:
    """A name for the task with these values, independent of their position in a table.

    Characters that do not belong in a file name are replaced; then a digest keeps names unique.
    """
    from hashlib import blake2b

    whole = "-".join(values)
    name = re.sub(r"[^\w.+-]+", "_", whole)[:_LONGEST]
    if name == whole and name.strip("."):
        return name
    digest = blake2b("\0".join(values).encode("utf-8", "surrogateescape"), digest_size=4)
    return f"{name.strip('._')}-{digest.hexdigest()}".lstrip("-")
