"""A host that dies during a job: every result exists exactly once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lab import Host, Lab

TASKS = 120
TIMES = int(os.environ.get("ENCAMP_CHAOS") or 1)
SCRIPT = f"""
import sys, time
from pathlib import Path
import encamp

def work(number):
    time.sleep(0.03)
    Path("out.txt").write_text(f"result {{number}}\\n" * 100)
    return number

if __name__ == "__main__":
    to, hosts, engine = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
    options = dict(machine="own") if engine == "pvm" else dict()
    job = encamp.Job("many", to=to)
    for number in range({TASKS}):
        one = encamp.Output("out.txt", "made", rename=f"{{number}}.txt")
        job.add(f"t{{number}}", encamp.call(work, number), outputs=one)
    with encamp.Cluster(engine, hosts=hosts, inline="threads", **options) as cluster:
        print("ready", flush=True)
        report = job.run(cluster)
    assert [task.value for task in report.tasks] == list(range({TASKS}))
"""


def started(host: Host, script: Path, to: Path, lab: Lab, engine: str) -> subprocess.Popen[str]:
    names = ",".join(one.name for one in lab.hosts[:3])
    command = [sys.executable, script, to, names, engine]
    pipe = subprocess.PIPE
    return host.popen(command, cwd=to.parent, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL)


def made(folder: Path) -> int:
    return len(os.listdir(folder)) if folder.is_dir() else 0


@pytest.mark.timeout(90 + 60 * TIMES)
@pytest.mark.chaos
@pytest.mark.parametrize("engine", ["pvm", "dask", "ipyparallel"])
def test_a_host_that_dies_in_the_middle_costs_no_result_and_doubles_none(
    lab: Lab, engine: str
) -> None:
    controller = lab.hosts[0]
    assert controller.share is not None
    (lab.share / "many.py").write_text(SCRIPT)
    chance = random.Random(1)
    for number in range(TIMES):
        name, victim = f"{engine}{number}", lab.hosts[chance.choice([1, 2])]
        folder = lab.share / name
        enough = chance.randrange(5, 60)
        with started(
            controller, controller.share / "many.py", controller.share / name, lab, engine
        ) as run:
            deadline = time.monotonic() + 80
            while made(folder / "made") < enough:
                assert run.poll() is None, run.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            victim.kill()
            _, errors = run.communicate(timeout=60)
        victim.start()
        assert run.returncode == 0, errors[-2000:]
        check(folder, victim.name)


def check(folder: Path, victim: str) -> None:
    """All results are there, whole, each published once; the others did the dead host's tasks."""
    assert list(folder.rglob(".encamp-*")) == []
    for number in range(TASKS):
        assert (folder / f"made/{number}.txt").read_text() == f"result {number}\n" * 100
    lines = (folder / "many.job/journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    done = Counter(record["task"] for record in records if record["event"] == "done")
    assert done == {f"t{number}": 1 for number in range(TASKS)}
    report = json.loads((folder / "many.job/report.json").read_text())
    lost = [task for task in report["tasks"] if len(task["attempts"]) > 1]
    assert lost
    for task in lost:
        assert task["attempts"][-1]["where"]["host"] != victim
