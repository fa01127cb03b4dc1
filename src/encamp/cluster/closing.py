"""How a cluster ends: closed by its program, dropped, or left open when the program ends.

This module holds no reference to the `Cluster`, so that the garbage collector can find out that it
is unused.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import TYPE_CHECKING

from encamp.cluster.records import WAITING, Cause
from encamp.errors import ClusterError
from encamp.timeouts import ALL_END, KILLED
from encamp.wire.protocol import End, encode

if TYPE_CHECKING:
    from encamp.agent.agent import Agent
    from encamp.cluster.controller import Controller

_OPEN: set[Lifetime] = set()


class Lifetime:
    """When one cluster ends: its controller, its engine, and any agent in this process."""

    def __init__(self, controller: Controller) -> None:
        self._controller, self._pump = controller, controller.pump
        self.agent: Agent | None = None
        self._dropped = False
        self._ending = threading.RLock()
        self.process = os.getpid()
        """The process that has created it; others may be forked from it."""

    @property
    def closed(self) -> bool:
        """Whether it accepts nothing new."""
        return self._controller.closed

    @closed.setter
    def closed(self, closed: bool) -> None:
        self._controller.closed = closed

    @property
    def ended(self) -> bool:
        """Whether its agents and its engine have ended."""
        return self._controller.ended

    def begin(self) -> None:
        """Record that the cluster has started; it must end before the program does."""
        _OPEN.add(self)
        atexit.unregister(_close_all)
        atexit.register(_close_all)  # again, so that it runs before the engine's exit functions

    def drop(self) -> bool:
        """End the unreferenced cluster after its tasks; False if it has ended.

        Takes no lock, because it may be called at any point of the program.
        """
        if self.ended or self.closed or self._dropped or os.getpid() != self.process:
            return False
        self._dropped = True
        self._pump.end_with(self._close_dropped)
        return True

    def _close_dropped(self) -> None:
        self._wait()
        if not self.closed:  # the program's end waits for this thread
            self.closed = True
            self.end(wait=False)

    def close(self, *, cancel: bool) -> None:
        """See `Cluster.close`."""
        if self.ended or os.getpid() != self.process:  # a forked process must not end it
            return
        if not cancel:
            self._wait()
        self.closed = True
        try:
            if cancel:
                self._pump.call(self._cancel)
        finally:
            self.end()

    def _wait(self) -> None:
        """Wait for all tasks, and then for those of services to end."""
        controller = self._controller

        def done() -> bool:
            services = controller.services
            if controller.incoming or services is None:
                return not (controller.incoming or controller.tasks)
            alone = len(controller.tasks) <= services.servers or services.occupy_all_slots
            return alone and services.idle

        self._pump.until(done)
        if controller.services is not None:
            self._pump.call(controller.services.end_servers)
            self._pump.until(lambda: not (controller.incoming or controller.tasks))

    def _cancel(self) -> None:
        controller = self._controller
        for task in controller.known():
            task.end_soon(Cause.KILLED)
            if task.state is WAITING:
                controller.cancelled(task)

    def end(self, *, wait: bool = True) -> None:
        """End all agents and the engine; running tasks are killed. Further calls do nothing."""
        if not self._ending.acquire(blocking=wait and not self._pump.driving):
            return  # another thread is ending it, and waits for this one
        try:
            if not self.ended:
                self._let_go()
                self._controller.ended = True
        finally:
            self._ending.release()

    def _let_go(self) -> None:
        controller = self._controller

        def end() -> None:
            controller.closing = True
            for agent in controller.agents.by_number:
                controller.outbox.post(agent, [encode(End())])
            controller.outbox.flush()

        try:
            self._pump.call(end)
            if self.agent is not None:
                agent = self.agent
                self._pump.until(lambda: agent.over, ALL_END + KILLED)
            controller.disk_thread.close()
            self._pump.call(lambda: None)  # a turn, which settles the tasks
            self._pump.close()
        finally:
            controller.engine.stop()
            controller.setups.close()
            if controller.services is not None:
                controller.services.close()
            controller.abandon()
            controller.messages.call_waiters(failed=True)
            _OPEN.discard(self)

    def forked(self) -> None:
        """In a forked process: leave the cluster to the parent."""
        self.closed = True
        self._pump.forked()


def _forked() -> None:
    for life in _OPEN:
        life.forked()
    _OPEN.clear()


os.register_at_fork(after_in_child=_forked)


def _close_all() -> None:
    """End what a program has left open, so that nothing outlives it."""
    for life in list(_OPEN):
        try:
            life.close(cancel=True)
        except (ClusterError, OSError) as exc:
            sys.stderr.write(f"encamp: {exc}\n")
