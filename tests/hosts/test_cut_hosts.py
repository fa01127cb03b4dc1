"""A host that is cut off during a job: the others run its tasks, and it disturbs nothing."""

from __future__ import annotations

import subprocess
import sys
import time

from lab import Lab

TASKS = 60
SCRIPT = f"""
import sys, time
from pathlib import Path
import encamp
from encamp.cluster import start_hosts

start_hosts.CONTROLLER_SILENT = 10

def work(number):
    time.sleep(0.1)
    Path("out.txt").write_text(f"result {{number}}\\n")
    return number

if __name__ == "__main__":
    job = encamp.Job("cut", to=sys.argv[1])
    for number in range({TASKS}):
        one = encamp.Output("out.txt", "made", rename=f"{{number}}.txt")
        job.add(f"t{{number}}", encamp.call(work, number), outputs=one)
    hosts = ["lab1", "lab2", "lab3"]
    report = job.run(engine="pvm", machine="own", hosts=hosts)
    assert [task.value for task in report.tasks] == list(range({TASKS}))
    print(sum(len(task.attempts) for task in report.tasks))
"""


def test_returning_cut_off_host_disturbs_nothing(lab: Lab) -> None:
    controller, victim = lab.hosts[0], lab.hosts[1]
    assert controller.share is not None
    (lab.share / "cut.py").write_text(SCRIPT)
    command = [sys.executable, controller.share / "cut.py", controller.share / "cut"]
    pipe, made = subprocess.PIPE, lab.share / "cut/made"
    with controller.popen(command, stdout=pipe, stderr=pipe) as run:
        while not made.is_dir() or len(list(made.iterdir())) < 10:
            assert run.poll() is None, run.communicate()
        victim.cut()
        output, errors = run.communicate(timeout=100)
    assert run.returncode == 0, errors
    assert int(output) > TASKS
    victim.restore()
    deadline = time.monotonic() + 40
    # agents and slots only: PVM's daemon takes minutes to give up
    while any("encamp.agent" in line for line in victim.commands().values()):
        assert time.monotonic() < deadline, victim.run(["ps", "axww"]).stdout
        time.sleep(0.1)
    results = {path.name: path.read_text() for path in made.glob("*")}
    assert results == {f"{number}.txt": f"result {number}\n" for number in range(TASKS)}
    assert list((lab.share / "cut").rglob(".encamp-*")) == []
    left = victim.run(["find", victim.storage, "-path", "*/sandboxes/*"]).stdout
    assert left == ""
