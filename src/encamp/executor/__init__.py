"""`concurrent.futures.Executor` on a cluster: submit, map, dispatch, also in private folders."""

from encamp.executor.dispatch import dispatch
from encamp.executor.executor import Executor

__all__ = ["Executor", "dispatch"]
