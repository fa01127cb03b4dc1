"""Modules that a job of command lines must not load, so that it starts quickly."""

from __future__ import annotations

import subprocess
import sys

_LATE = ("asyncio", "ssl", "psutil", "wcmatch", "multiprocessing.connection")
_PROGRAM = f"""
import sys
from encamp.slot import main
from encamp.slot import slot_command
from encamp.jobs.worker import run_phases
from encamp.jobs.run import run_job
from encamp.executor import executor
print([name for name in {_LATE} if name in sys.modules])
"""


def test_a_job_loads_nothing_that_few_jobs_need() -> None:
    result = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True)
    assert result.stdout.split() == [b"[]"]


def test_slot_does_not_load_openssl() -> None:
    program = "import sys, encamp.slot.main; print(sorted({'hashlib', 'ssl'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert loaded.stdout.split() == [b"[]"]
