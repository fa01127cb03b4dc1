"""A service with a server on each host: shared paths differ, and one host is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lab import Lab

SCRIPT = """
import os, sys, time
from pathlib import Path
import encamp
from encamp.errors import ServerLost

class Model:
    def __init__(self, name):
        self.text = Path(name).read_text()
        print("made of", self.text, flush=True)

    def where(self):
        kept = Path("/tmp/kept/data/more/b.txt").read_text()
        host = encamp.current_task().host
        return host, self.text, kept, os.environ.get("SIZE"), os.nice(0)

    def host(self):
        return encamp.current_task().host

    def sleep(self):
        time.sleep(600)

if __name__ == "__main__":
    hosts, share = sys.argv[2].split(","), Path(sys.argv[1])
    own = {"*": "export SIZE=small", hosts[2]: "export SIZE=large"}
    options = dict(machine="own", hosts=hosts, init_command=own, niceness=1)
    with encamp.Cluster("pvm", **options) as cluster:
        encamp.copy_files(cluster, share / "models", ["data/*.txt"], "/tmp/kept")
        model = share / "models/warm.txt"
        service = cluster.publish(Model, "warm.txt", per="host", mirror={str(model): "."})
        assert service.ready(3, 60) == 3
        told = encamp.gather(service.broadcast("where"))
        assert sorted(host for host, *_ in told) == hosts, told
        assert all(rest == ["warm", "data/more/b.txt"] for _, *rest, _, _ in told), told
        sizes = {host: size for host, _, _, size, _ in told}
        assert sizes == {hosts[0]: "small", hosts[1]: "small", hosts[2]: "large"}, sizes
        assert {nice for *_, nice in told} == {os.nice(0) + 1}, told
        proxies = {proxy.where().get()[0]: proxy for proxy in service.group().members}
        lost = proxies[hosts[2]].sleep()
        for host, proxy in proxies.items():
            print(host, proxy.server, flush=True)
        sys.stdin.readline()  # the console of one was looked at, and the third host is lost
        try:
            lost.get(60)
        except ServerLost as exc:
            assert exc.host == hosts[2], exc
        else:
            raise AssertionError("it was answered")
        for host in hosts[:2]:
            assert proxies[host].where().get(20)[0] == host
        for proxy in proxies.values():
            proxy.release()
        assert sorted(one.host for one in service.statistics().servers) == hosts[:2]
        print("lost", flush=True)
        sys.stdin.readline()  # it is there again
        cluster.add_hosts(hosts[2])
        while len(cluster.hosts()) < 3:
            cluster.receive(60, source=0)
        assert service.ready(3, 60) == 3
        assert sorted(encamp.gather(service.broadcast("host"))) == hosts
        service.terminate()
"""


@pytest.mark.timeout(150)
def test_a_service_on_three_hosts_outlives_the_loss_of_one(lab: Lab) -> None:
    first, _, last = hosts = lab.hosts[:3]
    assert first.share is not None
    (lab.share / "service.py").write_text(SCRIPT)
    for name, text in (("warm.txt", "warm"), ("data/more/b.txt", "data/more/b.txt")):
        path = lab.share / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = ",".join(host.name for host in hosts)
    command = [sys.executable, str(first.share / "service.py"), str(first.share), names]
    pipe = subprocess.PIPE
    with first.popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as run:
        assert run.stdout is not None
        assert run.stdin is not None
        servers = dict(line.split() for _ in hosts if (line := run.stdout.readline()))
        assert sorted(servers) == names.split(","), run.communicate(timeout=60)
        name = f"Model/{servers[last.name]}"
        follow = [sys.executable, "-m", "encamp", "attach", name]
        with first.popen(follow, stdout=pipe) as attached:
            assert attached.stdout is not None
            assert attached.stdout.readline() == "made of warm\n"
            last.kill()
            print(file=run.stdin, flush=True)
            assert run.stdout.readline() == "lost\n", run.communicate(timeout=60)
            assert attached.wait(20) == 0
        last.start()
        print(file=run.stdin, flush=True)
        _, output = run.communicate(timeout=60)
        assert run.returncode == 0, output
