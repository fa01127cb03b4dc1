"""Services: calls in order, servers shared fairly, and no call that hangs when a server dies."""

# ruff: noqa: S101

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

import encamp
from encamp.cluster.cluster import Cluster
from encamp.errors import (
    CannotTravel,
    CircularCall,
    ClusterClosed,
    GroupBroken,
    NoSuchConsole,
    NoSuchHost,
    NotEnough,
    NotInTime,
    ProxyReleased,
    ServerLost,
    ServiceEnded,
    ServiceFailed,
    WrongLength,
)
from encamp.services.collective_calls import gather
from encamp.services.proxy import Proxy
from encamp.services.registry.consoles import find
from encamp.services.service import Service
from encamp.testing import served, work
from encamp.testing.conformance.bound import PATIENCE, Bound, ClusterOf, ReusedCluster
from encamp.testing.waiting import until

Publish = Callable[..., Service]
_LONG = 2 * PATIENCE


class ServiceSuite(Bound):
    """Common base of the suites of services."""

    @pytest.fixture
    def cluster(self, kept: ReusedCluster) -> Cluster:
        """A cluster of four idle slots; what is published on it is terminated by `publish`."""
        return kept.open()

    @pytest.fixture
    def publish(self, cluster: Cluster) -> Iterator[Publish]:
        """Publishes, and terminates at the end of the test."""
        made: list[Service] = []

        def publish(*args: Any, **options: Any) -> Service:
            made.append(cluster.publish(*args, **options))
            return made[-1]

        yield publish
        for service in made:
            service.terminate()

        def over() -> bool:
            return cluster.free_slots == cluster.slots and not cluster.tasks()

        with suppress(AssertionError):
            until(over, 5)
        if not over():
            cluster.kill_all()
            until(over)

    def pid_of(self, proxy: Proxy) -> int:
        """The process id of a server as seen from here."""
        return self.here(*proxy.pid().get(PATIENCE))

    def kill(self, proxy: Proxy) -> None:
        os.kill(self.pid_of(proxy), signal.SIGKILL)


class Calling(ServiceSuite):
    """Acquired, called, released."""

    def test_calls_of_a_proxy_run_in_their_order(self, publish: Publish) -> None:
        service = publish(served.Counter, 5, count=1)
        with service.acquire(PATIENCE) as proxy:
            results = [proxy.add(number) for number in range(1000)]
            assert gather(results) == [5 + n * (n + 1) // 2 for n in range(1000)]
            assert proxy.later("awaited").get(PATIENCE) == "awaited"
            assert proxy.call("add", number=1).get(PATIENCE) == 5 + 999 * 500 + 1

    def test_attributes_are_read_and_set_in_order_with_calls(self, publish: Publish) -> None:
        service = publish(served.Counter(start=3), count=1)
        with service.acquire(PATIENCE) as proxy:
            first = proxy.count
            proxy.count = 10
            assert first.get(PATIENCE) == 3
            assert proxy.add().get(PATIENCE) == 11
            assert proxy.write("count", 5).get(PATIENCE) is None
            assert proxy.read("count").get(PATIENCE) == 5
            with pytest.raises(AttributeError, match="missing"):
                proxy.missing.get(PATIENCE)
            with pytest.raises(AttributeError, match="no method 'missing'; it has add"):
                proxy.missing(1)
            with pytest.raises(AttributeError):
                proxy._private  # noqa: B018

    def test_errors_come_as_themselves_with_their_traceback(self, publish: Publish) -> None:
        service = publish(served.Counter, count=1)
        with service.acquire(PATIENCE) as proxy:
            with pytest.raises(ValueError, match="no good") as caught:
                proxy.fail("no good").get(PATIENCE)
            assert "raise ValueError(text)" in str(caught.value.__cause__)
            for how, expected in (("raise", served.Odd), ("return", CannotTravel)):
                with pytest.raises(expected):
                    proxy.odd(how).get(PATIENCE)
            with pytest.raises(RuntimeError, match="refused to be read"):
                proxy.odd("unreadable").get(PATIENCE)
            with pytest.raises(CannotTravel, match=r"Counter\.same"):
                proxy.same(threading.Lock())
            assert proxy.add().get(PATIENCE) == 1

    def test_a_released_proxy_raises_and_its_server_is_free_behind_its_calls(
        self, publish: Publish, marks: Path
    ) -> None:
        service = publish(served.Counter, count=1)
        proxy = service.acquire(PATIENCE)
        slow = proxy.wait_for(str(marks / "go"))
        proxy.release()
        proxy.release()
        with pytest.raises(ProxyReleased):
            proxy.add()
        with pytest.raises(TimeoutError, match="Counter"):
            service.acquire(0.05)
        (marks / "go").touch()
        other = service.acquire(PATIENCE)
        assert slow.done()
        other.release()  # none was made
        service.acquire(PATIENCE).release()
        del proxy, other
        kept = service.acquire(PATIENCE)
        del kept  # as if it had been released
        service.acquire(PATIENCE).release()

    def test_who_has_asked_first_is_first(self, publish: Publish, marks: Path) -> None:
        service = publish(served.Counter, count=1)
        proxy = service.acquire(PATIENCE)
        order: list[int] = []

        def wait(number: int) -> None:
            with service.acquire(_LONG) as mine:
                order.append(number)
                mine.add().get(PATIENCE)

        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            until(lambda number=number: service.statistics().queue == number + 1)  # type: ignore[misc]
        proxy.release()
        for thread in threads:
            thread.join(_LONG)
        assert order == list(range(5))

    def test_a_hundred_clients_share_the_servers(self, publish: Publish) -> None:
        service = publish(served.Counter)
        failures: list[BaseException] = []

        def use(number: int) -> None:
            try:
                for _ in range(3):
                    with service.acquire(_LONG) as proxy:
                        proxy.alone(number)
                        proxy.add()
                        proxy.left().get(PATIENCE)
            except BaseException as exc:  # noqa: BLE001 - raised below
                failures.append(exc)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * _LONG)
        assert failures == []
        service.ready(4, PATIENCE)
        with service.group(timeout=PATIENCE) as group:
            counts = [member.count.get(PATIENCE) for member in group.members]
        assert sum(counts) == 300
        assert service.statistics().queue == 0

    def test_one_proxy_is_used_from_many_threads_and_coroutines(self, publish: Publish) -> None:
        service = publish(served.Counter, count=1)
        with service.acquire(PATIENCE) as proxy:
            found: list[int] = []

            def use() -> None:
                found.extend(proxy.add().get(_LONG) for _ in range(50))

            threads = [threading.Thread(target=use) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(_LONG)
            assert sorted(found) == list(range(1, 401))

        async def coroutine() -> list[int]:
            async with service.aacquire() as mine:
                return list(await asyncio.gather(*(mine.add() for _ in range(20))))

        async def both() -> list[list[int]]:
            return list(await asyncio.wait_for(asyncio.gather(coroutine(), coroutine()), _LONG))

        assert asyncio.run(both()) == [list(range(401, 421)), list(range(421, 441))]

        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(service.aacquire(), 0.05)

        with service.acquire(PATIENCE):
            asyncio.run(give_up())
        service.acquire(PATIENCE).release()

    def test_large_and_deep_arguments_are_taken_as_they_are(self, publish: Publish) -> None:
        numpy = pytest.importorskip("numpy")
        service = publish(served.Counter, count=1)
        with service.acquire(PATIENCE) as proxy:
            sent = numpy.arange(1_000_000.0)
            result = proxy.same(sent)
            sent[:] = 0
            got = result.get(PATIENCE)
            assert got[-1] == 999_999
            got[0] = 1
            deep: list[Any] = []
            for _ in range(200):
                deep = [deep]
            assert proxy.same(deep).get(PATIENCE) == deep
            big = b"x" * (5 << 20)
            assert gather([proxy.same(big), proxy.same(1), proxy.same(big)]) == [big, 1, big]

    def test_calls_do_not_meet_the_tasks_own_messages(
        self, cluster: Cluster, publish: Publish
    ) -> None:
        service = publish(served.Counter, count=1)
        echo = cluster.spawn(work.echo, 1, notify=False)
        with service.acquire(PATIENCE) as proxy:
            cluster.send(echo, "mine")
            assert proxy.add().get(PATIENCE) == 1
            got = cluster.receive(PATIENCE)
            assert got is not None
            assert got.message == "mine"
            (task,) = (task for task in cluster.tasks() if task.name.startswith("Counter"))
            received = proxy.receive()
            more = proxy.add()
            cluster.send(task, "for the object")
            assert received.get(PATIENCE) == "for the object"
            assert more.get(PATIENCE) == 2
        assert cluster.receive(0) is None

    def test_whoever_is_free_is_called(self, publish: Publish) -> None:
        service = publish(served.Counter, count=2)
        assert sorted(service.map("same", range(30))) == list(range(30))
        assert gather([service.call("same", n) for n in range(30)]) == list(range(30))
        with pytest.raises(ValueError, match="told"):
            service.call("fail", "told").get(PATIENCE)
        found = service.statistics()
        assert found.calls == 61
        assert sum(server.failed for server in found.servers) == 1
        assert "Counter: 2 of 2 servers" in str(found)

    def test_tasks_use_services_and_proxies(self, cluster: Cluster, publish: Publish) -> None:
        service = publish(served.Counter, count=2)
        tasks = cluster.spawn_many(served.use, [(service, 20)] * 4, notify=False)
        values = [task.result(_LONG) for task in tasks]
        assert all(len(found) == 20 and found == sorted(found) for found in values)
        with service.acquire(PATIENCE) as proxy:
            before = proxy.count.get(PATIENCE)
            passed = cluster.spawn(served.call_passed, proxy, 10, notify=False)
            assert passed.result(_LONG) == list(range(before + 1, before + 11))
        late = cluster.spawn(served.call_passed, proxy_of_released(service), 1, notify=False)
        with pytest.raises(ProxyReleased):
            late.result(_LONG)

    def test_what_a_task_had_is_free_when_it_ends(
        self, cluster: Cluster, publish: Publish, marks: Path
    ) -> None:
        service = publish(served.Counter, count=1)
        task = cluster.spawn(served.hold, service, str(marks / "has"), notify=False)
        until((marks / "has").exists)
        with pytest.raises(TimeoutError):
            service.acquire(0.05)
        task.kill()
        with service.acquire(_LONG) as proxy:
            assert proxy.add().get(PATIENCE) == 2

    def test_services_call_each_other(self, publish: Publish) -> None:
        chains, counters = publish(served.Chain, count=1), publish(served.Counter, count=1)
        with chains.acquire(PATIENCE) as chain:
            with counters.acquire(PATIENCE) as counter:
                assert chain.through(counter, "through").get(PATIENCE) == "through"
                assert chain.awaited(counter, "too").get(PATIENCE) == "too"
            assert chain.any_of(counters).get(PATIENCE)
            assert chain.acquire(counters).get(PATIENCE)

    def test_circles_of_calls_are_told(self, publish: Publish) -> None:
        chains = publish(served.Chain, count=3)
        with chains.group(3, timeout=_LONG) as group:
            one, two, three = group.members
            for circle in ([one], [two, one], [two, three, one], [two, three, two]):
                with pytest.raises(CircularCall):
                    one.ask(circle, 1).get(_LONG)
            assert one.ask([two, three], "straight").get(PATIENCE) == "straight"
            with pytest.raises(TimeoutError):  # all are held by the program, who may release them
                one.acquire(chains).get(0.3)
            three.release()
            assert two.pid().get(PATIENCE)
        alone = publish(served.Chain, count=1)
        with alone.acquire(PATIENCE) as proxy, pytest.raises(CircularCall):
            proxy.acquire(alone).get(_LONG)
        with alone.acquire(PATIENCE) as proxy, pytest.raises(CircularCall):
            proxy.any_of(alone).get(_LONG)

    def test_all_servers_are_called_at_once(self, publish: Publish) -> None:
        service = publish(served.Counter, count=3)
        service.ready(3, _LONG)
        assert gather(service.broadcast("add", 2)) == [2, 2, 2]
        assert gather(service.scatter("add", [1, (2,), 3], [{}, {}, {}])) == [3, 4, 5]
        with pytest.raises(WrongLength, match="2 arguments for 3 servers"):
            service.scatter("add", [1, 2])
        assert service.reduce(max, "add", 1) == 6
        with service.group(2, timeout=PATIENCE) as group:
            assert len(group) == 2
            with pytest.raises(WrongLength):
                group.scatter("add", [1, 2, 3])
            bad = [group.members[0].fail("here"), group.members[1].add()]
            with pytest.raises(ValueError, match="here"):
                gather(bad)
            values = gather(bad, return_exceptions=True)
            assert isinstance(values[0], ValueError)
            assert values[1] > 0

    def test_members_of_a_group_talk_to_each_other(self, publish: Publish) -> None:
        service = publish(served.Member, count=3)
        with service.group(timeout=_LONG) as group:
            assert gather(group.broadcast("rank")) == [(0, 3), (1, 3), (2, 3)]
            assert gather(group.broadcast("ring", 30))[0] == 90
        with service.acquire(PATIENCE) as proxy, pytest.raises(RuntimeError, match="group"):
            proxy.rank().get(PATIENCE)
        with service.group(timeout=PATIENCE) as group:
            heard = group.members[0].listen()
            self.kill(group.members[1])
            with pytest.raises(GroupBroken):
                heard.get(_LONG)

    def test_parameters_go_before_a_call_and_come_back_after_it(self, publish: Publish) -> None:
        service = publish(served.Counter, count=2)
        parameters = encamp.Parameters(service, {"scale": 3, "count": 7}, read=["count", "scale"])
        assert parameters.call("scaled", 5).get(PATIENCE) == 15
        assert dict(parameters) == {"scale": 3, "count": 8}
        parameters["scale"] = 4
        assert parameters.call("scaled", 5).get(PATIENCE) == 20
        assert parameters["count"] == 9
        with pytest.raises(ValueError, match="told"):
            parameters.call("fail", "told").get(PATIENCE)

    def test_what_can_never_be_served_is_an_error_at_once(
        self, cluster: Cluster, publish: Publish
    ) -> None:
        with pytest.raises(NotEnough, match="slots"):
            publish(served.Counter, count=5)
        with pytest.raises(NotEnough):
            publish(served.Counter, cores=100_000)
        with pytest.raises(NoSuchHost):
            publish(served.Counter, on="nowhere")
        with pytest.raises(CannotTravel):
            publish(served.Counter(threading.Lock()))  # type: ignore[arg-type]
        service = publish(served.Counter, count=1)
        with pytest.raises(NotEnough):
            service.group(3)
        with pytest.raises(NotEnough, match="2 servers of Counter are needed, but there are no"):
            service.ready(2)
        broken = publish(served.Broken, count=2)
        with pytest.raises(ServiceFailed, match="the model is not there"):
            broken.acquire(_LONG)
        with pytest.raises(ServiceFailed):
            broken.call("anything").get(PATIENCE)


def proxy_of_released(service: Service) -> Proxy:
    """A copy of a proxy whose original was released."""
    import pickle

    with service.acquire(PATIENCE) as proxy:
        proxy.add().get(PATIENCE)
        data = pickle.dumps(proxy)
    with service.acquire(PATIENCE) as other:  # so that the release is over
        other.add().get(PATIENCE)
    copy: Proxy = pickle.loads(data)  # noqa: S301 - made just now
    return copy


class Lasting(ServiceSuite):
    """Servers that die, freeze, wait and end."""

    CHAOS: ClassVar[int] = 5
    """Rounds of a hundred calls each; a server is killed in every other round."""

    def test_a_dead_server_fails_its_calls_and_is_replaced(
        self, publish: Publish, marks: Path
    ) -> None:
        service = publish(served.Counter, count=2)
        service.ready(2, _LONG)
        proxy = service.acquire(PATIENCE)
        first = proxy.server
        host, there = proxy.pid().get(PATIENCE)
        done, begun, behind = proxy.add(), proxy.wait_for(str(marks / "go")), proxy.add()
        until((marks / "go begun").exists)
        os.kill(self.here(host, there), signal.SIGKILL)
        assert done.get(PATIENCE) == 1
        with pytest.raises(ServerLost, match=r"SIGKILL.*wait_for had begun") as caught:
            begun.get(_LONG)
        assert caught.value.begun is True
        with pytest.raises(ServerLost, match="had not begun") as caught:
            behind.get(PATIENCE)
        assert caught.value.begun is False
        with pytest.raises(ServerLost):
            proxy.add().get(PATIENCE)
        proxy.release()
        assert service.ready(2, _LONG) == 2
        found = service.statistics()
        assert found.lost == 1
        assert first not in [server.server for server in found.servers]
        with service.group(2, timeout=PATIENCE) as group:
            assert len({self.pid_of(member) for member in group.members}) == 2

    @pytest.mark.chaos
    def test_servers_that_are_killed_at_random_lose_no_call(self, publish: Publish) -> None:
        chance = random.Random(1)  # noqa: S311
        service = publish(served.Counter)
        service.ready(4, _LONG)
        answered = failed = 0
        rounds = self.CHAOS * int(os.environ.get("ENCAMP_CHAOS", "1"))
        for _ in range(rounds):
            proxies = [service.acquire(_LONG) for _ in range(4)]
            victims = chance.sample(proxies, chance.randrange(2))
            pids = [self.pid_of(proxy) for proxy in victims]
            results = []
            for number in range(25):
                results += [proxy.add() for proxy in proxies]
                if number == 12:
                    for pid in pids:
                        os.kill(pid, signal.SIGKILL)
            for proxy in proxies:
                proxy.release()
            for result in results:
                error = result.exception(_LONG)
                assert error is None or isinstance(error, ServerLost)
                answered += error is None
                failed += error is not None
        assert answered + failed == 100 * rounds
        assert answered > failed
        assert service.ready(4, _LONG) == 4

    def test_calls_are_tried_again_if_that_is_asked_for(
        self, publish: Publish, marks: Path
    ) -> None:
        service = publish(served.Counter, count=1)
        with pytest.raises(ServerLost):
            service.call("die").get(_LONG)
        again = service.options(retries=2).call("wait_for", str(marks / "go"))
        begun = marks / "go begun"
        until(begun.exists)
        pid, _, host = begun.read_text().partition(" ")
        begun.unlink()
        os.kill(self.here(host, int(pid)), signal.SIGKILL)
        until(begun.exists)
        (marks / "go").touch()
        assert again.get(_LONG) == str(marks / "go")

    def test_a_service_whose_servers_cannot_live_fails(self, publish: Publish) -> None:
        service = publish(served.Counter, count=1, restarts=1)
        for _ in range(2):
            with pytest.raises(ServerLost):
                service.call("die").get(_LONG)
        with pytest.raises(ServiceFailed, match="exit status 7"):
            service.call("add").get(_LONG)

    def test_a_successor_has_the_last_state_that_was_saved(self, publish: Publish) -> None:
        for kind in (served.Counter, served.Saving):
            service = publish(kind, count=1, checkpoint_every=10)
            with service.acquire(_LONG) as proxy:
                assert gather([proxy.add() for _ in range(25)])[-1] == 25
                with pytest.raises(ServerLost) as caught:
                    proxy.die().get(_LONG)
            assert caught.value.lost == 5
            assert service.call("add").get(_LONG) == 21
            service.terminate()

    def test_calls_since_the_last_state_are_run_again(self, publish: Publish) -> None:
        service = publish(served.Saving, count=1, checkpoint_every=10, at_least_once=True)
        with service.acquire(_LONG) as proxy:
            first = [proxy.add() for _ in range(25)]
            pid = self.pid_of(proxy)
            os.kill(pid, signal.SIGKILL)
            more = [proxy.add() for _ in range(10)]
            assert gather([*first, *more], timeout=_LONG) == list(range(1, 36))
            with pytest.raises(ServerLost):  # not forever
                proxy.die().get(_LONG)
            assert proxy.add().get(_LONG) == 36
        assert service.call("add").get(_LONG) == 37

    def test_a_frozen_server_keeps_nobody_else_waiting(self, publish: Publish) -> None:
        service = publish(served.Counter, count=2)
        service.ready(2, _LONG)
        with service.acquire(PATIENCE) as frozen:
            pid = self.pid_of(frozen)
            os.kill(pid, signal.SIGSTOP)
            try:
                late = frozen.add()
                with pytest.raises(TimeoutError):
                    late.get(0.05)
                assert service.call("same", 1).get(PATIENCE) == 1
            finally:
                os.kill(pid, signal.SIGCONT)
            assert late.get(PATIENCE) == 1

    def test_servers_that_answer_nothing_for_too_long_are_replaced(
        self, publish: Publish, marks: Path
    ) -> None:
        service = publish(served.Counter, count=2, call_limit=1)
        service.ready(2, _LONG)
        with service.group(timeout=PATIENCE) as group:
            first, second = group.members
            os.kill(self.pid_of(first), signal.SIGSTOP)
            frozen, endless = first.add(), second.sleep(600)
            behind = second.add()
            for result, begun in ((frozen, False), (endless, True), (behind, False)):
                with pytest.raises(ServerLost, match="call_limit of 1 s") as caught:
                    result.get(_LONG)
                assert (caught.value.begun, caught.value.limit) == (begun, 1)
        assert service.ready(2, _LONG) == 2
        found = service.statistics()
        assert (found.lost, len(found.servers)) == (2, 2)
        with service.acquire(PATIENCE) as proxy:
            short = gather([proxy.sleep(0.4) for _ in range(4)])  # together longer than the limit
        assert short == [0.4] * 4
        assert service.statistics().lost == 2

    def test_servers_wait_for_slots_and_say_so(
        self, cluster: Cluster, publish: Publish, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = publish(served.Counter)
        first.ready(4, _LONG)
        task = cluster.spawn(work.add, 8, notify=False)
        assert (
            "tasks wait because servers of Counter occupy all slots; "
            "terminate it, or publish it with count=" in caplog.text
        )
        assert repr(task) == f"<{task.name}: pending: servers of Counter occupy all slots>"
        with pytest.raises(NotInTime, match=r"task \d+ has not ended within 0.05 s; it is pending"):
            task.result(0.05)
        second = publish(served.Member, count=2)
        with pytest.raises(TimeoutError, match="2 wait for free slots"):
            second.ready(1, 0.05)
        until(lambda: "2 servers of Member wait for free slots; Counter has slots" in caplog.text)
        first.terminate()
        assert second.ready(2, _LONG) == 2
        assert task.result(_LONG) == 9
        with pytest.raises(ServiceEnded, match="Counter"):
            first.acquire(PATIENCE)

    def test_terminate_lets_what_was_told_be_done(self, publish: Publish, marks: Path) -> None:
        service = publish(served.Counter, count=1)
        proxy = service.acquire(_LONG)
        result = proxy.wait_for(str(marks / "go"))
        waiting = service.call("add")
        service.terminate()
        with pytest.raises(ServiceEnded):
            waiting.get(PATIENCE)
        (marks / "go").touch()
        assert result.get(PATIENCE) == str(marks / "go")
        until(lambda: proxy.add().exception(PATIENCE) is not None)
        with pytest.raises(ServiceEnded):
            proxy.add().get(PATIENCE)

    def test_servers_have_folders_with_inputs_and_outputs(
        self, publish: Publish, share: Path, cluster: Cluster
    ) -> None:
        (share / "model.txt").write_text("warm")
        service = publish(
            served.Counter,
            count=1,
            mirror={str(share / "model.txt"): "."},
            outputs={"made.txt": "."},
            to=share / "made",
        )
        with service.acquire(_LONG) as proxy:
            assert proxy.read_file("model.txt").get(PATIENCE) == "warm"
            assert proxy.call("write", "made.txt", "whole").get(PATIENCE)
        service.terminate()
        until(lambda: not cluster.tasks())
        assert (share / "made" / "made.txt").read_text() == "whole"

    def test_what_a_server_prints_can_be_followed_on_the_programs_host(
        self, publish: Publish, marks: Path
    ) -> None:
        service = publish(served.Counter, count=1)
        proxy = service.acquire(_LONG)
        proxy.say("before").get(PATIENCE)
        proxy.wait_for(str(marks / "go"))
        console = find(f"Counter/{proxy.server}")
        assert console.facts.host == service.statistics().servers[0].host
        output: list[bytes] = []
        follower = threading.Thread(target=console.follow, args=(output.append,))
        follower.start()
        until(lambda: b"".join(output) == b"before\n")  # while a call runs
        (marks / "go").touch()
        proxy.say("after").get(PATIENCE)
        service.terminate()
        follower.join(PATIENCE)
        assert b"".join(output) == b"before\nafter\n"
        with pytest.raises(NoSuchConsole, match=f"Counter/{proxy.server}"):
            find(f"Counter/{proxy.server}")

    def test_idle_servers_end_if_that_is_asked_for(
        self, cluster: Cluster, publish: Publish
    ) -> None:
        service = publish(served.Counter, count=1, idle_limit=0.2)
        assert service.call("add").get(_LONG) == 1
        until(lambda: not cluster.tasks())
        assert cluster.free_slots == cluster.slots

    def test_closing_a_cluster_waits_for_calls_and_ends_services(
        self, cluster_of: ClusterOf, share: Path
    ) -> None:
        with cluster_of(2) as cluster:
            service = cluster.publish(served.Counter)
            results = [service.call("add") for _ in range(20)]
            held = service.acquire(_LONG)
            del held
        assert len(gather(results)) == 20
        with pytest.raises(ClusterClosed):
            service.acquire()

    def test_a_forked_process_leaves_proxies_to_its_parent(self, publish: Publish) -> None:
        service = publish(served.Counter, count=1)
        with service.acquire(_LONG) as proxy:
            pid = os.fork()
            if not pid:
                try:
                    proxy.add()
                except ClusterClosed:
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0
            assert proxy.add().get(PATIENCE) == 1


class Services(Calling, Lasting):
    """The suite for services on every engine."""
