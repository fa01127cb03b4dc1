"""How services are published, and how a cluster ends whose servers have all slots."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

from encamp import gather
from encamp.cluster.cluster import Cluster, port_of
from encamp.cluster.disk_thread import DiskThread
from encamp.errors import (
    BadJob,
    NotEnough,
    NotInTime,
    ProxyReleased,
    ServerLost,
    ServiceEnded,
    ServiceError,
    ServiceFailed,
    TaskLost,
    UnknownOption,
)
from encamp.services.letters import LeaseEnded
from encamp.services.proxy import Proxy
from encamp.services.server import current_server
from encamp.services.service import Service
from encamp.testing import served
from encamp.testing.waiting import until

SOON = 30.0


class Adder:
    def add(self, number: int) -> int:
        return number + 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("wait", ["ready", "call", "none"])
def test_a_cluster_ends_though_a_service_waits_for_slots_of_another(wait: str) -> None:
    with Cluster("local", slots=1) as cluster:
        cluster.publish(Adder, count=1).ready(timeout=SOON)
        other = cluster.publish(Adder, name="other", count=1)
        call = other.call("add", 1) if wait == "call" else None
        if wait == "ready":
            with pytest.raises(TimeoutError, match="1 wait for free slots"):
                other.ready(timeout=0.1)
    if call is not None:
        with pytest.raises(ServiceEnded):
            call.get(SOON)


@pytest.mark.timeout(60)
def test_tasks_waiting_behind_servers_run_when_they_end() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Adder, count=1)
        service.ready(timeout=SOON)
        task = cluster.spawn(abs, -1)
        answer = service.call("add", 1)
    assert task.result(SOON) == 1
    assert answer.get(SOON) == 2


@pytest.mark.timeout(60)
def test_republish_reports_slots_of_earlier_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = "2 servers of Adder wait for free slots; an earlier service Adder has slots: terminate"
    with Cluster("local", slots=2) as cluster:
        first = cluster.publish(Adder)
        first.ready(2, SOON)
        again = cluster.publish(Adder)
        until(lambda: words in caplog.text, SOON)
        with pytest.raises(NotInTime, match=r"Adder has not had 2 servers within 0\.05 s; 2 wait"):
            again.ready(2, 0.05)
        first.terminate()
        assert again.ready(2, SOON) == 2


@pytest.mark.timeout(60)
def test_a_task_behind_two_services_runs_when_they_end() -> None:
    with Cluster("local", slots=2) as cluster:
        cluster.publish(Adder).ready(2, SOON)
        task = cluster.spawn(abs, -1)
        cluster.publish(Adder)  # whose servers wait, and are cancelled at the end
    assert task.result(SOON) == 1


@pytest.mark.timeout(60)
def test_tasks_that_wait_for_servers_to_end_cause_no_advice(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with Cluster("local", slots=1) as cluster:
        assert cluster.spawn(abs, -1).result(SOON) == 1
        service = cluster.publish(Waiter)
        proxy = service.acquire(SOON)
        call = proxy.until_there(str(tmp_path / "go"))
        service.terminate()
        task = cluster.spawn(abs, -2)
        assert "wait because" not in caplog.text
        assert repr(task) == f"<{task.name}: pending: servers of Waiter occupy all slots>"
        (tmp_path / "go").touch()
        call.get(SOON)
        assert task.result(SOON) == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("awaits", [False, True])
def test_waiting_for_own_servers_is_logged_once(
    awaits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def acquired() -> Proxy:
        return await service.aacquire()

    def wait() -> None:
        proxy = asyncio.run(acquired()) if awaits else service.acquire()
        proxy.release()

    words = "waiting for a server of Adder: this program holds 2, which release() gives back"
    with Cluster("local", slots=2) as cluster:
        service = cluster.publish(Adder)
        with service.group(2, SOON):
            waiting = [threading.Thread(target=wait) for _ in range(2)]
            for thread in waiting:
                thread.start()
            until(lambda: words in caplog.text, SOON)
        for thread in waiting:
            thread.join(SOON)
    assert caplog.text.count("waiting for") == 1


@pytest.mark.timeout(60)
def test_wait_timeout_names_its_target_and_call_errors_pass_through(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    with Cluster("local", slots=1) as cluster:
        proxy = cluster.publish(Waiter).acquire(SOON)
        call = proxy.until_there(str(go))
        for wait in (call.get, call.result, call.exception):
            with pytest.raises(NotInTime) as caught:
                wait(0.05)
            what = "Waiter.until_there has not returned within 0.05 s; the call continues"
            assert str(caught.value) == what
            assert isinstance(caught.value, TimeoutError)
        go.touch()
        call.get(SOON)
        with pytest.raises(TimeoutError, match="mine") as raised:
            proxy.fail().get(SOON)
        assert not isinstance(raised.value, NotInTime)


@pytest.mark.parametrize(
    ("given", "meant"), [("checkpoints_every", "checkpoint_every"), ("time_limit", "idle_limit")]
)
def test_an_option_that_is_none_of_publish_is_refused(given: str, meant: str) -> None:
    with Cluster("local", slots=1) as cluster, pytest.raises(UnknownOption) as caught:
        cluster.publish(Adder, **{given: 1})  # type: ignore[misc]
    assert f"no option {given!r}" in str(caught.value)
    assert meant in str(caught.value)
    assert "call_limit" in str(caught.value)
    assert "persistent" not in str(caught.value)


class Waiter:
    def until_there(self, path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.01)

    def fail(self) -> None:
        raise TimeoutError("mine")


class Unsaved(Adder):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Unrestored(Adder):
    def checkpoint(self) -> str:
        return "old"

    def restore(self, state: str) -> None:
        raise ValueError("old format")

    def end(self) -> None:
        os._exit(3)


def test_a_state_that_cannot_be_saved_is_named() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Unsaved, checkpoint_every=1)
        assert service.call("add", 1).get(SOON) == 2
        with pytest.raises(
            ServiceError, match=r"state of Unsaved could not be saved: .*pickle"
        ) as e:
            service.call("add", 1).get(SOON)
        assert "check the object's checkpoint() and restore()" in str(e.value)


def test_a_state_that_cannot_be_restored_is_named() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Unrestored, checkpoint_every=1, restarts=1)
        service.call("add", 1).get(SOON)
        with pytest.raises(ServerLost, match="acquire a new server"):
            service.call("end").get(SOON)
        with pytest.raises(ServiceFailed, match=r"last saved state of Unrestored .*old format"):
            service.call("add", 1).get(SOON)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [3, None, "", b"add"])
def test_unknown_method_is_refused_and_servers_continue(name: object) -> None:
    method: str = name  # type: ignore[assignment]
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Adder)
        for call in (
            lambda: service.call(method, 1),
            lambda: service.broadcast(method, 1),
            lambda: service.scatter(method, [1]),
            lambda: service.map(method, [1]),
        ):
            with pytest.raises(BadJob, match="Adder: name a method or an attribute"):
                call()
        with service.acquire(SOON) as proxy:
            for read in (proxy.call, proxy.read):
                with pytest.raises(BadJob, match="Adder: name a method or an attribute"):
                    read(method)
        assert service.call("add", 1).get(SOON) == 2


class Frail(Adder):
    def end(self) -> None:
        os._exit(3)

    def touch_and_wait(self, path: str) -> None:
        Path(path).touch()
        threading.Event().wait()


def test_deaths_with_answers_in_between_are_not_too_many() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(served.Counter, restarts=1)
        for _ in range(2):
            with pytest.raises(ServerLost):
                service.call("die").get(SOON)
            assert service.call("same", 1).get(SOON) == 1


def test_a_state_that_is_not_on_the_disk_yet_is_there_for_the_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DiskThread, "run", lambda *_: None)  # the disk takes for ever
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(served.Saving, count=1, checkpoint_every=10)
        with service.acquire(SOON) as proxy:
            assert gather([proxy.add() for _ in range(11)], timeout=SOON)[-1] == 11
            with pytest.raises(ServerLost) as caught:
                proxy.die().get(SOON)
        assert caught.value.lost == 1
        assert service.call("add").get(SOON) == 11


def test_a_call_that_ends_two_servers_says_how() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Frail, checkpoint_every=9, at_least_once=True)
        with service.acquire(SOON) as proxy:
            with pytest.raises(
                ServerLost, match=r"with exit status 3 \(the second one in this"
            ) as e:
                proxy.end().get(SOON)
            assert (e.value.begun, e.value.exit_code) == (True, 3)
            assert proxy.add(1).get(SOON) == 2


def test_failed_publish_leaves_no_service() -> None:
    with Cluster("local", slots=1) as cluster:
        with pytest.raises(NotEnough):
            cluster.publish(Adder, cores=1_000_000)
        assert port_of(cluster).services() == []
        service = cluster.publish(Adder)
        assert service.call("add", 1).get(SOON) == 2
        assert len(port_of(cluster).services()) == 1


class Stuck(Adder):
    def wait(self) -> None:
        threading.Event().wait()


def test_a_successor_is_watched_as_the_server_before_it_was() -> None:
    """It repeats the call that did not end, and must not wait in it for ever."""
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Stuck, checkpoint_every=9, at_least_once=True, call_limit=0.2)
        with service.acquire(SOON) as proxy:
            with pytest.raises(ServerLost, match="the second one in this"):
                proxy.wait().get(SOON)
            assert proxy.add(1).get(SOON) == 2


class Adding:
    def __init__(self, file: Path) -> None:
        self.file, self.count = file, 0

    def add(self) -> int:
        self.count += 1
        self.file.write_text(str(os.getpid()))
        return self.count


def test_answered_call_survives_two_server_kills(
    tmp_path: Path,
) -> None:
    file = tmp_path / "process"
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Adding, file, checkpoint_every=9, at_least_once=True)
        with service.acquire(SOON) as proxy:
            assert proxy.add().get(SOON) == 1
            first = file.read_text()
            os.kill(int(first), signal.SIGKILL)
            until(lambda: file.read_text() not in ("", first))  # the successor has repeated it
            os.kill(int(file.read_text()), signal.SIGKILL)
            assert proxy.add().get(SOON) == 2


def test_calls_interrupted_by_close_raise_service_ended(
    tmp_path: Path,
) -> None:
    cluster = Cluster("local", slots=1)
    with cluster.publish(Frail).acquire(SOON) as proxy:
        running, behind = proxy.touch_and_wait(str(tmp_path / "begun")), proxy.add(1)
        until((tmp_path / "begun").exists)
    cluster.close(cancel=True)
    for result in (running, behind):
        with pytest.raises(ServiceEnded):
            result.get(SOON)


def test_call_of_deliberately_killed_server_is_not_reported_as_not_begun(
    tmp_path: Path,
) -> None:
    with Cluster("local", slots=1) as cluster:
        with cluster.publish(Frail, restarts=0).acquire(SOON) as proxy:
            running = proxy.touch_and_wait(str(tmp_path / "begun"))
            until((tmp_path / "begun").exists)
            cluster.kill_all()
            with pytest.raises(ServerLost) as caught:
                running.get(SOON)
        assert caught.value.begun in (True, None)


def _have_all(service: Service, file: Path) -> None:
    file.write_text(str(os.getpid()))
    with service.group():
        pass


def test_servers_gathered_by_dead_task_are_released(tmp_path: Path) -> None:
    with Cluster("local", slots=3) as cluster:
        service = cluster.publish(Adder, count=2)
        service.ready(2, SOON)
        with service.acquire(SOON):
            task = cluster.spawn(_have_all, service, tmp_path / "pid")
            until(lambda: service.statistics().queue == 1)
            behind = service.call("add", 1)
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            assert behind.get(SOON) == 2
        assert isinstance(task.exception(SOON), TaskLost)


@pytest.mark.parametrize("at_least_once", [False, True])
def test_a_server_is_free_when_the_group_that_has_had_it_is_released(at_least_once: bool) -> None:
    every = 100 if at_least_once else 0
    with Cluster("local", slots=2) as cluster:
        service = cluster.publish(Adder, checkpoint_every=every, at_least_once=at_least_once)
        service.ready(2, SOON)
        for _ in range(20):
            with service.group() as group:
                assert [one.state for one in service.statistics().servers] == ["held"] * 2
                assert gather(group.broadcast("add", 1), timeout=SOON) == [2, 2]
            assert [one.state for one in service.statistics().servers] == ["free"] * 2


def test_a_copy_of_a_released_proxy_is_refused_however_many_have_been_acquired_since() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Adder, count=1)
        released = service.acquire(SOON)
        copy = pickle.loads(pickle.dumps(released))
        released.release()
        for _ in range(250):
            with service.acquire(SOON) as proxy:
                pickle.dumps(proxy)  # the server learns of the release of a passed proxy
        with service.acquire(SOON) as holder:
            assert holder.add(1).get(SOON) == 2
            with pytest.raises(ProxyReleased):
                copy.add(1).get(SOON)
            assert holder.add(2).get(SOON) == 3


def test_a_call_of_a_later_lease_ends_the_leases_before_it() -> None:
    """The release of a group may arrive at the server after the call of the next client."""
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Adder, count=1)
        first = service.acquire(SOON)
        copy = pickle.loads(pickle.dumps(first))
        first._client.send_letter(LeaseEnded(first.server, first._lease), [])
        with service.acquire(SOON) as holder:
            assert holder.add(1).get(SOON) == 2
            with pytest.raises(ProxyReleased):
                copy.add(1).get(SOON)


class Ranked(Adder):
    def rank(self) -> int:
        return current_server().rank

    def die(self) -> None:
        os._exit(3)


def test_a_successor_knows_the_groups_and_the_ended_leases_of_the_saved_state() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Ranked, count=1, checkpoint_every=1, at_least_once=True)
        released = service.acquire(SOON)
        copy = pickle.loads(pickle.dumps(released))
        released.release()
        with service.group() as group:
            (member,) = group.members
            assert member.rank().get(SOON) == 0
            assert member.add(1).get(SOON) == 2
            with pytest.raises(ServerLost):
                member.die().get(SOON)
            assert member.rank().get(SOON) == 0
            with pytest.raises(ProxyReleased):
                copy.add(1).get(SOON)
