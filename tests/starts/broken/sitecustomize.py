"""Lets no slot start while the file that ``BROKEN`` names is there, as a half-done upgrade does."""

import os
import sys

if "ENCAMP_SLOT" in os.environ and os.path.exists(os.environ.get("BROKEN", "")):  # noqa: PTH110
    sys.stderr.write("Traceback (most recent call last):\nImportError: half of it is missing\n")
    sys.stderr.flush()
    os._exit(3)
