"""A lab: several hosts made on one Linux machine, for tests; see CONTRIBUTING.md."""

from .host import Host, LabError
from .lab import Lab, clean, missing

__all__ = ["Host", "Lab", "LabError", "clean", "missing"]
