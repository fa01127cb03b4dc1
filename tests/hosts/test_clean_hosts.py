"""Local storages of other hosts are emptied, also of one that died and came back."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

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
    assert done.stderr.startswith("encamp: not done on 2 hosts: lab2: ")
    assert "nowhere: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bad_input_gets_one_sentence(lab: Lab) -> None:
    for given, said in {
        ("--hosts", ","): "it names no host",
        ("--python", "/usr/bin/python3"): "name some",
    }.items():
        done = lab.hosts[0].run([COMMAND, "clean", *given], check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    env = {"ENCAMP_SSH": "no-such-command"}
    done = lab.hosts[0].run([COMMAND, "clean", "--hosts", "lab1"], check=False, env=env)
    assert done.returncode == 1
    assert "there is no command no-such-command" in done.stderr
