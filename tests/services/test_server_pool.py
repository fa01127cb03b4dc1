"""Which client gets which server, and which waits can never end; without processes."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.services.letters import LeaseEnded, WaitStarted
from encamp.services.registry.choose_server import ServerPool
from encamp.services.registry.client_letters import ClientLetters
from encamp.services.registry.deadlocks import Deadlocks
from encamp.services.registry.server_record import FREE, HELD, Request, ServerRecord


class Task:
    """As much of a task as a pool looks at."""

    def __init__(self, number: int) -> None:
        self.id = number


def _pool(*hosts: str) -> tuple[ServerPool, list[ServerRecord]]:
    pool = ServerPool(itertools.count(1), itertools.count(1))
    servers = [
        ServerRecord(number, Task(100 + number), host=host) for number, host in enumerate(hosts, 1)
    ]  # type: ignore[arg-type]
    for server in servers:
        pool.servers[server.number] = server
        pool.opened(server)
    return pool, servers


def _granted(pool: ServerPool) -> list[tuple[int, list[int]]]:
    return [
        (request.client, [server.number for server in servers])
        for request, servers in pool.grants()
    ]


def test_host_with_fewest_acquired_servers_is_preferred() -> None:
    pool, servers = _pool("a", "a", "a", "b")
    for client in range(4):
        pool.ask(client, 1, 1, 0)
    assert [servers for _, servers in _granted(pool)] == [[1], [4], [2], [3]]
    pool.freed(servers[1])
    pool.freed(servers[0])
    pool.ask(9, 1, 1, 0)
    assert _granted(pool) == [(9, [2])]


def test_first_request_for_certain_server_is_first() -> None:
    pool, servers = _pool("a", "a")
    for client, server in ((1, 0), (2, 0), (3, 2), (4, 0), (5, 1)):
        pool.ask(client, 1, 1, server)
    assert _granted(pool) == [(1, [1]), (2, [2])]
    pool.freed(servers[0])
    assert _granted(pool) == [(4, [1])]
    pool.freed(servers[1])
    assert _granted(pool) == [(3, [2])]
    pool.freed(servers[0])
    assert _granted(pool) == [(5, [1])]
    assert pool.waiting == 0


def test_first_request_is_served_first() -> None:
    pool, servers = _pool("a", "a", "b")
    for client in (1, 2, 3):
        pool.ask(client, 1, 1, 0)
    assert _granted(pool) == [(1, [1]), (2, [3]), (3, [2])]
    for client, server in ((4, 3), (5, 0), (6, 2)):
        pool.ask(client, 1, 1, server)
    pool.freed(servers[1])
    pool.freed(servers[2])
    assert _granted(pool) == [(4, [3]), (5, [2])]


def test_a_group_keeps_what_it_has_gathered_until_it_has_all() -> None:
    pool, servers = _pool("a", "a", "a")
    pool.ask(1, 1, 1, 0)
    assert _granted(pool) == [(1, [1])]
    pool.ask(2, 1, 3, 0)
    pool.ask(3, 1, 1, 0)
    assert _granted(pool) == []
    pool.freed(servers[0])
    assert _granted(pool) == [(2, [1, 2, 3])]
    assert all(server.state == HELD for server in servers)
    for server in servers:
        pool.freed(server)
    assert _granted(pool) == [(3, [1])]


def test_withdrawn_request_frees_gathered_servers() -> None:
    pool, _ = _pool("a", "a")
    pool.ask(1, 1, 1, 0)
    list(pool.grants())
    pool.ask(2, 7, 2, 0)
    assert _granted(pool) == []
    pool.ask(3, 1, 1, 0)
    pool.forget(2, 7)
    assert _granted(pool) == [(3, [2])]


def test_requests_for_lost_server_are_returned() -> None:
    pool, servers = _pool("a", "b")
    pool.ask(1, 1, 1, 0)
    list(pool.grants())
    wanted: Request = pool.ask(2, 1, 1, 1)
    assert pool.removed(servers[0]) == [wanted]
    assert [server.number for server in pool.live()] == [2]


def test_lost_server_no_longer_counts_as_acquired() -> None:
    pool, servers = _pool("a", "a", "b", "b")
    pool.ask(1, 1, 1, 0)
    assert _granted(pool) == [(1, [1])]
    pool.removed(servers[0])
    pool.ask(2, 1, 1, 0)
    assert _granted(pool) == [(2, [2])]  # both hosts have none acquired; it was free first


def test_a_server_that_continues_on_another_host_counts_there() -> None:
    pool, servers = _pool("a", "b", "b")
    pool.ask(1, 1, 1, 0)
    assert _granted(pool) == [(1, [1])]
    pool.moved(servers[0], "c")
    pool.ask(2, 1, 1, 0)
    assert _granted(pool) == [(2, [2])]
    pool.freed(servers[0])
    pool.ask(3, 1, 1, 0)
    assert _granted(pool) == [(3, [1])]  # as there is one acquired on b, and none on c
    pool.removed(servers[0])


def test_a_server_that_continues_on_another_host_counts_no_more_where_it_was() -> None:
    pool, servers = _pool("a", "b", "a")
    pool.ask(1, 1, 1, 0)
    assert _granted(pool) == [(1, [1])]
    pool.moved(servers[0], "b")
    pool.ask(2, 1, 1, 0)
    assert _granted(pool) == [(2, [3])]


def test_who_gets_a_server_is_told_when_it_is_lost() -> None:
    pool, servers = _pool("a", "a")
    pool.ask(5, 1, 0, 0)
    assert _granted(pool) == [(5, [1, 2])]
    pool.freed(servers[0])
    pool.ask(6, 1, 1, 1)
    assert _granted(pool) == [(6, [1])]
    assert [server.clients for server in servers] == [{5, 6}, {5}]


def test_group_excludes_servers_lost_meanwhile() -> None:
    pool, servers = _pool("a", "a", "a")
    pool.ask(1, 1, 1, 0)
    assert _granted(pool) == [(1, [1])]
    pool.ask(2, 1, 0, 0)
    assert _granted(pool) == []
    pool.removed(servers[1])
    pool.freed(servers[0])
    assert _granted(pool) == [(2, [1, 3])]


def test_request_for_all_is_met_after_loss_of_last_acquired() -> None:
    pool, servers = _pool("a", "a", "a")
    pool.ask(1, 1, 1, 0)
    assert _granted(pool) == [(1, [1])]
    pool.ask(2, 1, 0, 0)
    pool.ask(3, 1, 1, 0)
    assert _granted(pool) == []
    pool.removed(servers[0])
    assert _granted(pool) == [(2, [2, 3])]
    pool.freed(servers[2])
    assert _granted(pool) == [(3, [3])]


def test_requests_of_ended_client_are_dropped() -> None:
    pool, servers = _pool("a")
    pool.ask(1, 1, 1, 0)
    list(pool.grants())
    gone = [pool.ask(2, 7, 1, 0), pool.ask(2, 8, 1, 1)]
    pool.ask(3, 7, 1, 0)
    pool.forget(2)
    assert pool.waiting == 1
    assert not any(request.waits for request in gone)
    pool.freed(servers[0])
    assert _granted(pool) == [(3, [1])]


def test_release_of_ended_lease_frees_no_other_server() -> None:
    pool, (server,) = _pool("a")
    records: Any = SimpleNamespace(by_server={1: (SimpleNamespace(pool=pool), server)}, held={})
    grants = ClientLetters(records)
    for client in (1, 2):
        pool.ask(client, 1, 1, 0)
        list(pool.grants())
        first_time = server.lease == 1
        grants.lease_ended(client, LeaseEnded(1, 1), [])
        assert server.state == (FREE if first_time else HELD)
    assert (server.lease, server.holder) == (2, 2)


def test_server_for_ended_task_goes_to_next_request() -> None:
    pool, (server,) = _pool("a")
    received: list[int] = []
    records: Any = SimpleNamespace(
        controller=SimpleNamespace(tasks={3}),
        held={},
        send_letter=lambda client, *_: received.append(client),
    )
    service: Any = SimpleNamespace(
        pool=pool, published=SimpleNamespace(at_least_once=False), methods=[]
    )
    for client in (2, 3):
        pool.ask(client, 1, 1, 0)
    ClientLetters(records).grant(service)
    assert (received, server.holder, records.held) == ([3], 3, {3: {server}})


def _waits(*, server: int = 0, number: int = 0, service: int = 0, **more: object) -> WaitStarted:
    answered = more.get("answered", {})
    held = more.get("held", [])
    return WaitStarted(1, service, server, number, answered, held)  # type: ignore[arg-type]


@pytest.fixture
def known() -> tuple[Deadlocks, list[ServerRecord], set[int]]:
    """Servers 1 to 3, which are tasks 101 to 103; and who waits for any of them."""
    _, servers = _pool("a", "a", "a")
    waiting: set[int] = set()
    by_number = {server.number: server for server in servers}
    deadlocks = Deadlocks(lambda _: servers, by_number.get, lambda _, task: task in waiting)
    return deadlocks, servers, waiting


def test_servers_that_wait_for_each_other_are_found(
    known: tuple[Deadlocks, list[ServerRecord], set[int]],
) -> None:
    deadlocks, _, _ = known
    assert not deadlocks.wait_started(101, _waits(server=2, number=1))
    assert not deadlocks.wait_started(102, _waits(server=3, number=1))
    assert deadlocks.wait_started(103, _waits(server=1, number=1))
    deadlocks.wait_ended(103, 1)
    assert not deadlocks.wait_started(7, _waits(server=1, number=1))  # it only waits behind others


def test_the_end_of_an_earlier_wait_does_not_end_a_later_one(
    known: tuple[Deadlocks, list[ServerRecord], set[int]],
) -> None:
    deadlocks, _, _ = known
    later = _waits(server=2, number=2)
    later.ticket = 2
    assert not deadlocks.wait_started(101, _waits(server=2, number=1))
    assert not deadlocks.wait_started(101, later)
    deadlocks.wait_ended(101, 1)
    assert deadlocks.wait_started(102, _waits(server=1, number=1))


def test_an_answer_that_is_on_its_way_makes_no_deadlock(
    known: tuple[Deadlocks, list[ServerRecord], set[int]],
) -> None:
    deadlocks, _, _ = known
    assert not deadlocks.wait_started(101, _waits(server=2, number=5))
    assert not deadlocks.wait_started(102, _waits(server=1, number=1, answered={101: 5}))
    deadlocks.wait_ended(102)
    assert deadlocks.wait_started(102, _waits(server=1, number=1, answered={101: 4}))


def test_wait_for_any_server_is_a_deadlock_if_none_can_be_free(
    known: tuple[Deadlocks, list[ServerRecord], set[int]],
) -> None:
    deadlocks, servers, waiting = known
    waiting.add(101)
    for server in servers:
        server.state, server.holder, server.lease = HELD, 7, server.number
    assert not deadlocks.wait_started(101, _waits(service=1))  # task 7 may release one
    assert deadlocks.wait_started(7, _waits(server=1, number=1, held=[1, 2, 3]))
    deadlocks.wait_ended(7)
    still_held = _waits(server=1, number=1, held=[1, 2])  # 3 is being released
    assert not deadlocks.wait_started(7, still_held)
    waiting.discard(101)  # it has been given one just now
    assert not deadlocks.wait_started(7, _waits(server=1, number=1, held=[1, 2, 3]))
