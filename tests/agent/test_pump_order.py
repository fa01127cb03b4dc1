"""The pump runs orders in order, and delivers events only to their current receivers."""

from __future__ import annotations

import os
import threading
import time

from encamp.loop.pump import Pump


def test_quick_calls_stay_behind_earlier_orders() -> None:
    pump = Pump()
    done: list[int] = []
    driving, go_on = threading.Event(), threading.Event()

    def drive() -> None:
        with pump.lock:
            driving.set()
            go_on.wait(30)

    other = threading.Thread(target=drive)
    other.start()
    assert driving.wait(30)
    pump.call_now_or_soon(lambda: done.append(1))
    go_on.set()
    other.join(30)
    pump.call_now_or_soon(lambda: done.append(2))
    pump.call_now_or_soon(lambda: done.append(3))
    assert done == [1, 2, 3]
    pump.close()


def test_stale_events_do_not_reach_new_owner_of_descriptor() -> None:
    pump = Pump()
    read, write = os.pipe()
    other_read, other_write = os.pipe()
    received: list[str] = []

    def replaced(_: int) -> None:
        received.append("first")
        pump.forget(read)
        pump.forget(other_read)
        for fd in (read, write, other_read, other_write):
            os.close(fd)
        ends[:] = [*os.pipe(), *os.pipe()]  # the same numbers
        assert {read, other_read} <= {*ends}
        for fd in (ends[0], ends[2]):
            pump.watch(fd, lambda _: received.append("new"))

    ends: list[int] = []
    pump.watch(read, replaced)
    pump.watch(other_read, replaced)
    os.write(write, b"x")
    os.write(other_write, b"x")
    pump.turn(0)
    assert received == ["first"]
    os.write(ends[1], b"x")
    pump.turn(0)
    assert received == ["first", "new"]
    pump.close()
    for fd in ends:
        os.close(fd)


def test_late_timer_does_not_delay_waiters() -> None:
    pump, rung = Pump(), list[int]()
    pump.call_later(-1.0, lambda: rung.append(1))
    assert pump.until(lambda: rung, 10)
    pump.call_later(-1.0, lambda: rung.append(2))
    pump.turn(None)
    assert rung == [1, 2]
    pump.close()


def test_waiting_callback_lets_other_callbacks_run() -> None:
    pump, done = Pump(), list[int]()

    def waits() -> None:
        pump.until(lambda: done, 30)
        done.append(2)

    pump.call_soon(waits)
    pump.call_soon(lambda: done.append(1))
    pump.call_soon(lambda: done.append(3))
    pump.turn(0)
    pump.turn(0)
    assert done[0] == 1
    assert sorted(done) == [1, 2, 3]
    pump.close()


def test_background_thread_continues_after_long_order() -> None:
    pump, rung = Pump(), threading.Event()

    def takes_long() -> None:
        pump.start()  # the thread finds another one that drives for long, and sleeps
        time.sleep(0.2)
        pump.call_later(0.0, rung.set)

    pump.call_now_or_soon(takes_long)
    assert rung.wait(30)
    pump.close()


def test_an_order_of_the_thread_that_drives_stays_behind_those_that_wait() -> None:
    pump, done = Pump(), list[int]()

    def handle() -> None:
        pump.call_soon(lambda: done.append(1))
        pump.call_now_or_soon(lambda: done.append(2))
        done.append(0)

    pump.call_now_or_soon(handle)
    assert pump.until(lambda: len(done) == 3, 10)
    assert done == [0, 1, 2]
    pump.close()


def test_an_order_that_orders_itself_again_leaves_the_turn_to_others() -> None:
    pump, done = Pump(), list[int]()

    def again() -> None:
        done.append(len(done))
        if len(done) < 5:
            pump.call_soon(again)

    pump.call_soon(again)
    for turn in range(1, 6):
        pump.turn(0)
        assert len(done) == turn
    pump.close()


def test_what_an_order_has_to_send_is_sent_at_once_if_no_thread_drives() -> None:
    pump, posted, sent = Pump(), list[int](), list[int]()
    pump.due.append(lambda: posted)

    def send() -> None:
        sent.extend(posted)
        posted.clear()

    pump.at_turn_end.append(send)
    pump.call_now_or_soon(lambda: posted.append(7))
    assert sent == [7]
    pump.call_now_or_soon(lambda: None)
    assert sent == [7]
    pump.close()
