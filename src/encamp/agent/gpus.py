"""The GPUs of this host, as their vendors' tools report them."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Environment variables with the devices that a process may see."""
_ASK = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]


def gpus_here() -> list[str]:
    """Names of the devices that this process may use.

    ENCAMP_GPUS or CUDA_VISIBLE_DEVICES lists them if set (names separated by commas); otherwise
    nvidia-smi is asked, if there is one.
    """
    for name in ("ENCAMP_GPUS", *VISIBLE):
        if (given := os.environ.get(name)) is not None:
            return [device.strip() for device in given.split(",") if device.strip()]
    if shutil.which(_ASK[0]):
        with suppress(OSError, subprocess.SubprocessError):
            asked = subprocess.run(_ASK, capture_output=True, text=True, timeout=10, check=True)
            return asked.stdout.split()
    return []
