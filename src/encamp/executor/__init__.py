"""`concurrent.futures.Executor` on a cluster: submit, map, dispatch, also in private folders.

What is here knows `encamp.cluster` and is a standard face of it; nothing of jobs.
"""

from encamp.executor.executor import Executor, dispatch

__all__ = ["Executor", "dispatch"]
