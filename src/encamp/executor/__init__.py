"""`concurrent.futures.Executor` on a cluster: submit, map, dispatch, in private folders if wanted.

This package is the standard interface to `encamp.cluster`. It knows nothing of jobs.
"""

from encamp.executor.executor import Executor, dispatch

__all__ = ["Executor", "dispatch"]
