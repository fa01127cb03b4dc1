"""What a program asks of its pump is done in the order in which it was asked."""

from __future__ import annotations

import threading

from encamp.agent.pump import Pump


def test_what_is_quick_stays_behind_what_was_asked_for_while_another_drove() -> None:
    pump = Pump()
    done: list[int] = []
    driving, go_on = threading.Event(), threading.Event()

    def drive() -> None:
        with pump._lock:
            driving.set()
            go_on.wait(30)

    other = threading.Thread(target=drive)
    other.start()
    assert driving.wait(30)
    pump.quick(lambda: done.append(1))
    go_on.set()
    other.join(30)
    pump.quick(lambda: done.append(2))
    pump.quick(lambda: done.append(3))
    assert done == [1, 2, 3]
    pump.close()
