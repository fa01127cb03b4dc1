"""Ctrl-C reaches tasks on a host that cannot see the job's folder."""

from __future__ import annotations

import signal
import subprocess
import sys

from encamp.testing.waiting import until
from lab import Lab

SCRIPT = """
import sys, time
from pathlib import Path
import encamp

def work():
    Path("begun").touch()
    Path("out.txt").write_text("never wanted")
    time.sleep(1000)

if __name__ == "__main__":
    job = encamp.Job("far", to=sys.argv[1])
    job.add("one", work, outputs="out.txt")
    job.run(engine="pvm", machine="own", hosts=["lab4"])
"""


def test_a_stopped_run_ends_its_tasks_on_a_host_without_the_share(lab: Lab) -> None:
    controller, afar = lab.hosts[0], lab.hosts[-1]
    assert controller.share is not None
    (lab.share / "stopped.py").write_text(SCRIPT)
    command = [sys.executable, controller.share / "stopped.py", controller.share / "stopped"]
    pipe = subprocess.PIPE
    with controller.popen(command, stdout=pipe, stderr=pipe) as run:
        begun = ["find", afar.storage, "-name", "begun"]
        until(lambda: run.poll() is not None or afar.run(begun, check=False).stdout)
        assert run.poll() is None, run.communicate()
        commands = controller.commands().items()
        python = next(pid for pid, line in commands if "stopped.py" in line)
        subprocess.run(["kill", f"-{signal.SIGINT}", str(python)], check=True)
        run.communicate(timeout=60)
    assert afar.run(["find", afar.storage, "-path", "*sandboxes/*"]).stdout == ""
    assert list((lab.share / "stopped").rglob(".encamp-*")) == []
    assert not (lab.share / "stopped/out.txt").exists()
