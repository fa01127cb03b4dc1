"""Tasks on a host without the share: inputs and outputs are sent whole."""

from __future__ import annotations

import subprocess
import sys

from lab import Lab

AFAR = "lab4"
SCRIPT = """
import os, sys, time
from pathlib import Path
import encamp

to = Path(sys.argv[1])
BIG = 9_000_000

def work(name):
    assert Path("in.bin").stat().st_size == BIG
    assert sorted(p.name for p in Path("tree").rglob("*")) == ["deep", "x", "y"]
    Path("big.bin").write_bytes(Path("in.bin").read_bytes()[::-1])
    Path("small.txt").write_text(name)
    return encamp.current_task().host

def fail():
    Path("why.txt").write_text("because")
    raise ValueError("no")

def crash():
    Path("big.bin").write_bytes(Path("in.bin").read_bytes())
    os._exit(7)

def hang():
    Path("big.bin").write_bytes(bytes(BIG))
    time.sleep(600)

if __name__ == "__main__":
    with encamp.Cluster("pvm", machine="own", hosts=["lab1", "lab4"]) as cluster:
        given = {"mirror": [to / "in.bin", to / "tree"], "to": to / "out", "on": "lab4"}
        elsewhere = encamp.Output("small.txt", str(to / "other" / "place"))
        outputs = ["big.bin", elsewhere]
        assert cluster.spawn(work, "one", outputs=outputs, **given).result(60) == "lab4"
        try:
            left = {"on_failure": "why.txt", "outputs": "none", "to": to / "out", "on": "lab4"}
            cluster.spawn(fail, **left).result(60)
        except ValueError:
            pass
        left |= {"on_failure": "*", "outputs": (), "to": to / "crash", "mirror": to / "in.bin"}
        print(cluster.spawn(crash, **left).exception(60).exit_code)
        hung = cluster.spawn(hang, outputs="big.bin", to=to / "gone", on="lab4")
        while not hung.running():
            time.sleep(0.01)
        hung.kill()
        print(type(hung.exception(60)).__name__)
        missing = cluster.spawn(os.getpid, outputs="not-made", to=to / "gone", on="lab4")
        print(missing.exception(60))
"""


def test_inputs_and_outputs_of_a_host_without_the_share_are_whole(lab: Lab) -> None:
    controller, afar = lab.hosts[0], lab.hosts[-1]
    assert controller.share is not None
    assert afar.share is None
    folder = lab.share / "ships"
    (folder / "tree/deep").mkdir(parents=True)
    content = bytes(range(256)) * 35_157
    (folder / "in.bin").write_bytes(content[:9_000_000])
    for name in ("tree/deep/x", "tree/y"):
        (folder / name).write_text(name)
    (folder / "script.py").write_text(SCRIPT)
    there = controller.share / "ships"
    done = controller.run([sys.executable, there / "script.py", there], timeout=100)
    code, killed, missing = done.stdout.splitlines()
    assert (code, killed) == ("7", "TaskKilled")
    assert "matches the output 'not-made'" in missing
    assert (folder / "out/big.bin").read_bytes() == content[:9_000_000][::-1]
    assert (folder / "other/place/small.txt").read_text() == "one"
    assert (folder / "out/why.txt").read_text() == "because"
    crashed = sorted((folder / "crash").iterdir())
    assert [path.name for path in crashed] == ["big.bin", "in.bin"]
    assert [path.read_bytes() == content[:9_000_000] for path in crashed] == [True, True]
    assert not (folder / "gone").exists()
    assert list(folder.rglob(".encamp-*")) == []
    assert afar.run(["find", "/media/lab1"], check=False).stdout == ""


IMPORTS = """
import encamp

def step():
    import depths
    return depths.DEPTHS, depths.__file__

if __name__ == "__main__":
    with encamp.Cluster("pvm", machine="own", hosts=["lab1", "lab2"]) as cluster:
        print(*cluster.spawn(step, on="lab2").result(60))
"""


def test_modules_beside_a_script_in_the_share_are_found_where_a_host_has_it(lab: Lab) -> None:
    controller, other = lab.hosts[:2]
    assert controller.share is not None
    folder = lab.share / "imports"
    folder.mkdir()
    (folder / "script.py").write_text(IMPORTS)
    (folder / "depths.py").write_text("DEPTHS = 42\n")
    done = controller.run([sys.executable, controller.share / "imports/script.py"], timeout=100)
    assert done.stdout == f"42 {other.share}/imports/depths.py\n"


def test_a_host_that_dies_while_it_sends_leaves_nothing_at_the_destination(lab: Lab) -> None:
    controller, afar = lab.hosts[0], lab.hosts[-1]
    assert controller.share is not None
    folder = lab.share / "dies"
    folder.mkdir()
    (folder / "script.py").write_text(SENDS)
    there = controller.share / "dies"
    command = [sys.executable, there / "script.py", there]
    pipe = subprocess.PIPE
    with controller.popen(command, stdout=pipe, stderr=pipe) as run:
        while not list((folder / "out").glob(".encamp-*-0")):
            assert run.poll() is None, run.communicate()
        afar.kill()
        output, errors = run.communicate(timeout=100)
    assert run.returncode == 0, errors
    assert output == "TaskLost\n"
    assert not (folder / "out").exists()


SENDS = """
import sys
from pathlib import Path
import encamp

def work():
    with open("big.bin", "wb") as file:
        file.truncate(2_000_000_000)

if __name__ == "__main__":
    with encamp.Cluster("pvm", machine="own", hosts=["lab1", "lab4"]) as cluster:
        to = Path(sys.argv[1], "out")
        print(type(cluster.spawn(work, outputs="big.bin", to=to, on="lab4").exception(90)).__name__)
"""
