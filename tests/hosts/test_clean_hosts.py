"""Local storages of other hosts are emptied, even of one that died and returned."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from encamp.testing.waiting import until
from lab import Host, Lab

COMMAND = Path(sysconfig.get_path("scripts"), "encamp")
NAMES = "lab1,lab2,lab3"
SCRIPT = """
import sys, time
import encamp

def work(seconds):
    open("begun", "w").close()
    time.sleep(seconds)

if __name__ == "__main__":
    data, hosts = sys.argv[1], sys.argv[2].split(",")
    with encamp.Cluster("pvm", machine="own", hosts=hosts) as cluster:
        options = {"mirror": encamp.Mirror(data, mode="copy"), "notify": False}
        for name in hosts:
            cluster.spawn(work, 0, on=name, **options).result(60)
        if sys.argv[3] == "hang":
            tasks = [cluster.spawn(work, 600, on=name, **options) for name in hosts[1:2]]
            print("hanging", flush=True)
            tasks[0].exception()
        else:
            print(sorted(cluster.clear_local_storage(60).items()), flush=True)
"""


def begun(lab: Lab, what: str) -> subprocess.Popen[str]:
    """The script, on the first host."""
    controller = lab.hosts[0]
    assert controller.share is not None
    (lab.share / "work.py").write_text(SCRIPT)
    (lab.share / "data").write_bytes(b"x" * 5000)
    command = [sys.executable, controller.share / "work.py", controller.share / "data", NAMES, what]
    pipe = subprocess.PIPE
    return controller.popen(command, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL)


def stored(host: Host, what: str) -> list[str]:
    """Files and folders of some kind in a host's local storage."""
    found = host.run(["find", host.storage, "-path", f"*/{what}"])
    return found.stdout.split()


def test_a_cluster_empties_the_storages_of_all_its_hosts(lab: Lab) -> None:
    with begun(lab, "clear") as run:
        output, errors = run.communicate(timeout=100)
    assert run.returncode == 0, errors
    assert output == f"{[(name, 5000) for name in NAMES.split(',')]}\n"
    for host in lab.hosts[:3]:
        assert stored(host, "cache/files/*/*") == []
        assert stored(host, "sandboxes/*") == []


def test_the_command_empties_hosts_also_one_that_died_and_came_back(lab: Lab) -> None:
    victim = lab.hosts[1]
    with begun(lab, "hang") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "hanging\n", run.communicate()
        deadline = time.monotonic() + 60
        while not stored(victim, "sandboxes/*/begun"):
            assert time.monotonic() < deadline
        victim.kill()
        run.kill()
    victim.start()
    assert stored(victim, "sandboxes/*/begun")
    command = [COMMAND, "clean", "--all", "--hosts", NAMES]
    done = lab.hosts[2].run(command)
    assert [line for line in done.stdout.splitlines() if "lab2: removed /" in line]
    for host in lab.hosts[:3]:
        assert stored(host, "sandboxes/*") == []
        assert stored(host, "cache/files/*/*") == []


def test_hosts_that_cannot_be_reached_are_named_and_the_others_cleaned(lab: Lab) -> None:
    lab.hosts[1].kill()
    command = [COMMAND, "clean", "--all", "--hosts", "lab1,lab2,nowhere"]
    done = lab.hosts[0].run(command, check=False, env={"ENCAMP_SSH": "ssh -o ConnectTimeout=2"})
    assert done.returncode == 1
    assert done.stdout.startswith("lab1: ")
    assert done.stderr.startswith("encamp: failed on 2 hosts: lab2: ")
    assert "nowhere: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bad_input_gets_one_sentence(lab: Lab) -> None:
    for given, expected in {
        ("--hosts", ","): "it names no host",
        ("--python", "/usr/bin/python3"): "name some",
    }.items():
        done = lab.hosts[0].run([COMMAND, "clean", *given], check=False)
        assert done.returncode == 2
        assert expected in done.stderr
        assert len(done.stderr.splitlines()) == 1
    env = {"ENCAMP_SSH": "no-such-command"}
    done = lab.hosts[0].run([COMMAND, "clean", "--hosts", "lab1"], check=False, env=env)
    assert done.returncode == 1
    assert "there is no command no-such-command" in done.stderr


QUESTIONS = """
import json, sys
from encamp.engines.kit.hostfile import HostLine
from encamp.engines.mpi.host_checks import HostChecks
hosts = [HostLine(name, 1) for name in sys.argv[2].split(",")]
questions = HostChecks(hosts, sys.argv[1].split(), "/bin/sh", "/", 40)
print(json.dumps(questions.faults()))
"""


def test_a_server_that_lets_in_few_at_a_time_is_asked_again(lab: Lab) -> None:
    """All names are of one sshd, as if many hosts were behind a jump host."""
    host = lab.hosts[0]
    usual = (lab.folder / "etc" / f"{host.name}.sshd").read_text().splitlines()
    own = ("ListenAddress", "MaxStartups", "SetEnv")
    lines = [line for line in usual if not line.startswith(own)]
    config = lab.share / "sshd"
    config.write_text("\n".join([*lines, "ListenAddress 0.0.0.0:2222", "MaxStartups 2:100:2", ""]))
    names = ",".join(f"127.0.0.{number}" for number in range(2, 14))
    key = lab.folder / "etc/key"
    ssh = f"ssh -p 2222 -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    assert host.share is not None
    door = host.popen(
        ["/usr/sbin/sshd", "-D", "-e", "-f", host.share / "sshd"], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: host.run([*ssh.split(), "127.0.0.1", "true"], check=False).returncode == 0)
        clean = [COMMAND, "clean", "--python", "/bin/true", "--hosts", names]
        done = host.run(["env", f"ENCAMP_SSH={ssh}", *clean], check=False)
        assert done.returncode == 0, done.stderr
        asked = host.run([sys.executable, "-c", QUESTIONS, ssh, ",".join(names.split(",")[:6])])
        assert set(json.loads(asked.stdout).values()) <= {"", "has no mpi4py for " + sys.executable}
    finally:
        door.terminate()
        door.wait()
