"""Jobs and clusters in a notebook: cells that a real kernel runs."""

from __future__ import annotations

import re
from pathlib import Path

from notebook_kernel import Kernel, kernel, living_kernel

__all__ = ["kernel", "living_kernel"]

STRIPS = """
import time, encamp
from pathlib import Path

def ground(name):
    time.sleep(wait)
    if name == bad:
        raise ValueError("no ground points")
    Path(f"{name}.txt").write_text(name)
    return {"points": len(name)}

def strips():
    job = encamp.Job("strips", to="results")
    for name in ("s1", "s2", "s3"):
        job.add(name, encamp.call(ground, name), outputs="*.txt")
    return job

wait, bad = 0.0, None
"""


def test_a_job_shows_itself_its_progress_and_its_report(kernel: Kernel) -> None:
    kernel.run(STRIPS)
    assert "3 tasks" in kernel.html("job = strips(); job")
    assert "<b>s1" not in kernel.html("job.tasks['s1']")
    outputs = kernel.run("wait = 0.6\nreport = job.run(slots=1)\nreport")
    shown, result = outputs
    assert shown["output_type"] == "display_data"
    assert "3 done" in shown["data"]["text/html"]
    assert "report.html" in shown["data"]["text/html"]
    assert result["output_type"] == "execute_result"
    assert "points" in result["data"]["text/html"]
    assert "s1" in kernel.html("report['s1']")
    assert shown["data"]["text/html"].count("done") == 1, "the bar is the report's"
    assert kernel.text("print(job.report is report)") == "True\n"


def test_a_run_leaves_its_result_however_short_it_was(kernel: Kernel) -> None:
    kernel.run(STRIPS)
    for words in ("3 done in", "3 up to date in"):
        [shown] = kernel.run("job = strips()\nreport = job.run(slots=2)")
        assert words in shown["data"]["text/html"]
        assert words in shown["data"]["text/plain"]


def test_a_dry_run_shows_what_would_run_and_why(kernel: Kernel) -> None:
    kernel.run(STRIPS + "\nstrips().run(slots=2)\nPath('results/s2.txt').unlink()")
    markup = kernel.html("strips().run(dry_run=True)")
    assert "1 to do, 2 up to date; nothing was run" in markup
    assert "s2.txt was removed or changed" in markup
    assert ">s1<" not in markup
    assert "points" not in markup
    assert "report.html" not in markup


def test_notebook_failure_is_short_and_carries_report(kernel: Kernel) -> None:
    kernel.run(STRIPS)
    *_, error = kernel.run("bad = 's2'\njob = strips()\nreport = job.run(slots=2)")
    assert (error["output_type"], error["ename"]) == ("error", "JobFailed")
    text = "\n".join(error["traceback"])
    assert len(text.splitlines()) < 20
    assert re.match(r"Cell In\[\d+\], line 3: report = job.run\(slots=2\)", text)
    assert "s2: step 'ground' raised ValueError: no ground points" in text
    assert "site-packages" not in text
    assert kernel.text("import sys; print(sys.last_value.report.count('done'))") == "2\n"
    assert kernel.text("print(job.report['s2'].state)") == "failed\n"
    *_, error = kernel.run("encamp.Job('a/b', to='results')")
    assert len(error["traceback"]) == 2
    assert "must be a file name" in error["traceback"][-1]
    *_, error = kernel.run("job.add('s1', 'true')")
    assert error["traceback"][-1] == (
        "BadJob: task s1: occurs twice; give every task its own name; "
        "or run the cell that creates the Job again, too"
    )


def test_a_failure_in_a_library_shows_the_lines_of_the_cells_and_the_inputs(
    kernel: Kernel, here: Path
) -> None:
    kernel.run(
        """
import encamp, json
from pathlib import Path

def read(name):
    return json.loads(Path(name).read_text())
"""
    )
    Path("broken.json").write_text("{")
    *_, error = kernel.run(
        "job = encamp.Job('one', to='results')\n"
        "job.add('one', encamp.call(read, 'broken.json'), mirror='broken.json')\n"
        "job.run(slots=1, keep='failed')"
    )
    lines = "\n".join(error["traceback"]).splitlines()
    own = [line.removeprefix("  one | ") for line in lines if line.startswith("  one | ")]
    where, folder, head, place, line, last = own
    assert where == f"input: {here}/broken.json"
    assert folder.startswith("folder: ")
    assert head == "Traceback (most recent call last):"
    assert re.fullmatch(r"  Cell In\[\d+\], line 5, in read", place)
    assert line == "    return json.loads(Path(name).read_text())"
    assert last.startswith("json.decoder.JSONDecodeError: ")
    markup = kernel.html("job.report['one']")
    assert f"{here}/broken.json" in markup
    assert "], line 5, in read" in markup
    assert "raw_decode" not in markup
    assert "font-family:monospace" in markup


def test_an_interrupted_kernel_stops_the_job_in_good_order(kernel: Kernel, here: Path) -> None:
    kernel.run(STRIPS)
    kernel.run(
        "def mark(name):\n    Path(begun).touch()\n    time.sleep(60 if name == 's2' else 0)\n"
        "    Path(f'{name}.txt').write_text(name)\n"
        f"ground, begun = mark, {str(here / 'begun')!r}\njob = strips()"
    )
    begun = here / "begun"
    for cell in ("job.run(slots=2)", "import asyncio\nawait asyncio.sleep(0)\njob.run(slots=2)"):
        *_, error = kernel.run(cell, interrupt=begun)
        *where, text = error["traceback"]
        assert [line.partition(": ")[2] for line in where] == ["job.run(slots=2)"]
        assert text.startswith("KeyboardInterrupt: the run was stopped: ")
        assert text.endswith("; run it again to continue")
        states = "print(job.report.interrupted, job.report['s2'].state)"
        assert kernel.text(states) == "True waiting\n"
        begun.unlink()
        assert not list(here.glob("results/strips.job/running-*"))
        assert kernel.text("print(1 + 1)") == "2\n"


def test_redefined_cell_function_counts_as_changed(kernel: Kernel, here: Path) -> None:
    kernel.run(STRIPS)
    cell = "report = strips().run(slots=2)\nprint(*(task.why for task in report.tasks), sep='; ')"
    again = "; ".join(["nothing changed"] * 3)
    kernel.run(cell)
    assert kernel.text(cell) == f"{again}\n"
    kernel.run(STRIPS)  # as it was
    assert kernel.text(cell) == f"{again}\n"
    kernel.run(STRIPS.replace("write_text(name)", "write_text(name * 2)"))
    assert kernel.text(cell) == "; ".join(["the code of its steps changed"] * 3) + "\n"
    assert (here / "results/s1.txt").read_text() == "s1s1"
    kernel.run(
        "helper = lambda name: name\ndef ground(name): Path(f'{name}.txt').write_text(helper(name))"
    )
    kernel.run(cell)
    kernel.run("helper = lambda name: name + '!'")
    assert kernel.text(cell) == "; ".join(["the code of its steps changed"] * 3) + "\n"


def test_redefinition_after_add_gives_warning(kernel: Kernel) -> None:
    kernel.run(
        "import encamp\ndef main(): return {'v': 1}\ndef other(): return {'v': 0}\n"
        "job = encamp.Job('numbers', to='results')\njob.add('a', main)\njob.add('b', other)"
    )
    code = "report = job.run(); print(report.values()[0]['v'], *report.warnings)"
    assert kernel.text(code).endswith("1\n")
    kernel.run("def other(): return {'v': 0}  # as before")
    assert kernel.text(code).endswith("1\n")
    kernel.run("def main(): return {'v': 2}")
    warning = (
        "the function main was defined again after it was added to task a: the job runs the old "
        "one; run the cell that makes the job again to use the new one"
    )
    assert f"1 {warning}\n" in kernel.text(code)
    assert warning in kernel.text("print(*job.run(dry_run=True).warnings)")


def test_a_cluster_in_a_notebook_awaits_and_takes_functions_as_they_are_now(kernel: Kernel) -> None:
    kernel.run("import encamp\ncluster = encamp.Cluster('local', slots=2)\ndef f(x): return x + 1")
    assert kernel.text("print(await cluster.spawn(f, 1))") == "2\n"
    kernel.run("def f(x): return x * 10")
    assert kernel.text("task = cluster.spawn(f, 4); print(await task)") == "40\n"
    assert "40" in kernel.html("task")
    assert "slots" in kernel.html("cluster")
    kernel.run("class Server:\n    def add(self, x): return x + base\nbase = 5")
    kernel.run("service = cluster.publish(Server)\nserver = await service.aacquire()")
    assert kernel.text("print(await server.add(1))") == "6\n"
    markup = kernel.html("service")
    assert "2 of 2 servers" in markup
    assert "held" in markup
    kernel.run("cluster.close()")
    assert "closed" in kernel.html("cluster")


def test_single_count_is_singular(kernel: Kernel) -> None:
    kernel.run("import encamp\njob = encamp.Job('j', to='results')\njob.add('one', 'true')")
    assert "1 task, to" in kernel.html("job")
    assert kernel.text("print(job)").startswith("<Job 'j': 1 task, to ")
    lines = kernel.text(
        "from encamp.cluster.cluster import port_of\n"
        "with encamp.Cluster('local', slots=1) as c: print(repr(c), port_of(c).about)"
    )
    assert lines == "<Cluster 'local': 1 slot on 1 host> 1 slot on this host\n"
