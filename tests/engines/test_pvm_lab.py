"""PVM hosts that join, die, are cut off and return, in a lab."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from lab_suite import remains
from test_conformance_pvm_lab import PVMOnLab

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostAdded, HostDeleted
from encamp.errors import TaskLost
from encamp.testing import work
from encamp.testing.conformance import ClusterOf, Hosts
from encamp.testing.conformance.bound import PATIENCE
from encamp.testing.conformance.hosts import event
from encamp.testing.waiting import gone, until


class TestHosts(PVMOnLab, Hosts):
    HOSTS = 4
    SPARE = 1

    @pytest.fixture
    def tidy(self, share: object) -> Iterator[None]:
        """After each test all hosts are up and in reach, and nothing is left on them."""
        yield
        for host in self.lab.hosts:
            if not host.up:
                host.start()
            host.restore()
        until(lambda: not any(map(remains, self.lab.hosts)), 15)

    def name_of(self, host: str) -> str:
        return f"{host} ip={self.host(host).address}"

    def add_host(self, cluster: Cluster) -> str:
        spare = self.lab.hosts[-1].name
        cluster.add_hosts(self.name_of(spare))
        return spare

    def add_again(self, cluster: Cluster, host: str) -> str:
        if not self.host(host).up:
            self.host(host).start()
        cluster.add_hosts(self.name_of(host))
        return host

    def kill_host(self, cluster: Cluster, host: str) -> None:
        self.host(host).kill()

    def cut(self, cluster: Cluster, host: str) -> None:
        self.host(host).cut()

    def restore(self, cluster: Cluster, host: str) -> None:
        self.host(host).restore()

    def tell_console(self, cluster: Cluster, said: str) -> None:
        """Have PVM's own console do something."""
        machine = cluster._engine._member.machine  # type: ignore[attr-defined]
        environment = {**os.environ, **machine.variables}
        subprocess.run(["pvm"], input=f"{said}\nquit\n", text=True, env=environment, check=True)

    def test_a_host_that_others_add_is_used(self, cluster_of: ClusterOf, tidy: None) -> None:
        with cluster_of(self.SLOTS) as cluster:
            spare = self.lab.hosts[-1].name
            self.tell_console(cluster, f'add "{self.name_of(spare)} dx=/usr/lib/pvm3/lib/pvmd"')
            assert event(cluster, HostAdded).host.name == spare
            assert cluster.spawn(work.whoami, on=spare).result(PATIENCE)[1] == spare

    def test_hosts_that_others_delete_have_left_and_count_as_no_restarts(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        with cluster_of(self.SLOTS, restarts=1) as cluster:
            stays, *others = (host.name for host in cluster.hosts())
            for name in others:
                self.tell_console(cluster, f"delete {name}")
                assert event(cluster, HostDeleted).host.name == name
            (agent,) = cluster._controller.agents.by_number.values()
            assert agent.facts is not None
            os.kill(self.here(stays, agent.facts.pid), signal.SIGKILL)
            assert event(cluster, HostAdded).host.name == stays
            assert cluster.spawn(work.whoami, on=stays).result(PATIENCE)[1] == stays

    def test_killed_daemon_is_noticed_and_host_rejoins(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        with cluster_of(self.SLOTS) as cluster:
            host = self.host(cluster.hosts()[-1].name)
            doomed = cluster.spawn(work.wait_for_ever, on=host.name)
            pid = self.pid_sent_by(cluster, doomed)
            commands = host.commands().items()
            (daemon,) = (one for one, line in commands if "pvmd" in line.split()[0])
            os.kill(daemon, signal.SIGKILL)
            with pytest.raises(TaskLost):
                doomed.result(self.NOTICED)
            until(lambda: gone(pid))
            until(lambda: remains(host) == [])
            cluster.add_hosts(self.name_of(host.name))
            assert event(cluster, HostAdded).host.name == host.name
            assert cluster.spawn(work.whoami, on=host.name).result(PATIENCE)[1] == host.name

    def test_hosts_share_slots_unevenly_and_each_has_one_agent(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        with cluster_of(5) as cluster:
            assert sorted(host.slots for host in cluster.hosts()) == [1, 2, 2]
            assert len(cluster._controller.agents.by_number) == 3
        with cluster_of(4, inline=True) as cluster:
            assert sorted(host.slots for host in cluster.hosts()) == [1, 1, 2]
            assert len(cluster._controller.agents.by_number) == 4

    @pytest.mark.usefixtures("quick_beats")
    def test_cut_off_host_rejoins_by_itself(self, cluster_of: ClusterOf, tidy: None) -> None:
        with cluster_of(self.SLOTS) as cluster:
            lost = cluster.hosts()[-1]
            task = cluster.spawn(work.wait_for_ever, on=lost)
            pid = self.pid_sent_by(cluster, task)
            self.cut(cluster, lost.name)
            assert event(cluster, HostDeleted).host == lost
            assert not gone(pid)
            self.restore(cluster, lost.name)
            until(lambda: gone(pid))
            assert event(cluster, HostAdded).host == lost
            assert cluster.spawn(work.whoami, on=lost).result(PATIENCE)[1] == lost.name
