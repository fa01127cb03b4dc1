"""A task that takes outputs of other tasks gets exactly these, and runs again when they change."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from job_steps import count, counted, write

import encamp
from encamp.attempt_facts import Published
from encamp.errors import BadJob, BadJobFile, NoMatch, TargetConflict
from encamp.jobs.file.jobfile import load_job
from encamp.jobs.outputs_of import InputMap, OutputsOf, PublishedOutputs, chosen
from encamp.jobs.plan.graph import Graph
from encamp.reports import JobReport
from encamp.storage.outputs.patterns import OutputMap, as_outputs


def run(job: encamp.Job, **options: Any) -> JobReport:
    """Run a job in a slot of this process, which stays for the next one."""
    with ThreadPoolExecutor(1) as pool:
        return job.run(pool, **options)


def make(counter: str, name: str, files: Mapping[str, str]) -> None:
    """Count the run and write files."""
    count(counter, name)
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)


def take(counter: str, name: str) -> None:
    """Count the run and list all files of the folder, with what is in them."""
    count(counter, name)
    files = sorted(path for path in Path().rglob("*") if path.is_file())
    Path("list.txt").write_text("\n".join(f"{path}={path.read_text()}" for path in files))


class Chain:
    """Makers ``m<i>``, one task that takes what they made, and a counter of what ran."""

    def __init__(self) -> None:
        self.counter = str(Path("counter").absolute())
        self.mirror: InputMap = encamp.outputs_of("m*", "*.txt", to="in")
        self.outputs: OutputMap = {"*.txt": "m"}

    def job(self, numbers: Iterable[int], text: str = "") -> encamp.Job:
        job = encamp.Job("job", to="out")
        for n in numbers:
            files = {f"m{n}.txt": f"{n}{text}"}
            job.add(f"m{n}", encamp.call(make, self.counter, f"m{n}", files), outputs=self.outputs)
        step = encamp.call(take, self.counter, "sum")
        job.add("sum", step, mirror=self.mirror, outputs="list.txt")
        return job

    def run(self, numbers: Iterable[int], text: str = "", **options: Any) -> set[str]:
        """Run it; which tasks ran."""
        before = len(counted(self.counter))
        run(self.job(numbers, text), **options)
        return set(counted(self.counter)[before:])

    @property
    def taken(self) -> list[str]:
        return Path("out/list.txt").read_text().split("\n")


@pytest.fixture
def chain(here: Path) -> Chain:
    return Chain()


def test_changed_mirror_destination_is_reason_to_run(here: Path) -> None:
    chain = Chain()
    assert chain.run([1]) == {"m1", "sum"}
    chain.mirror = encamp.outputs_of("m*", "*.txt", to="elsewhere")
    assert chain.run([1]) == {"sum"}
    assert chain.taken == ["elsewhere/m1.txt=1"]


def test_taker_gets_exactly_the_current_job_outputs(chain: Chain) -> None:
    assert chain.run([1, 2, 3]) == {"m1", "m2", "m3", "sum"}
    assert chain.taken == ["in/m1.txt=1", "in/m2.txt=2", "in/m3.txt=3"]
    assert chain.run([1, 2]) == {"sum"}
    assert chain.taken == ["in/m1.txt=1", "in/m2.txt=2"]
    assert chain.run([1, 4]) == {"m4", "sum"}
    assert chain.taken == ["in/m1.txt=1", "in/m4.txt=4"]
    assert chain.run([1, 4]) == set()
    assert chain.run([4, 1, 2]) == {"sum"}
    assert chain.taken == ["in/m1.txt=1", "in/m2.txt=2", "in/m4.txt=4"]


def test_the_report_says_why_it_ran_again(chain: Chain) -> None:
    chain.run([1, 2])
    report = run(chain.job([1]))
    assert report["sum"].why == "its inputs from other tasks changed"


def test_bytes_count_and_not_when_they_were_made(chain: Chain) -> None:
    chain.run([1, 2])
    Path("out/m/m1.txt").unlink()
    assert chain.run([1, 2]) == {"m1"}  # the same bytes again
    os.utime("out/m/m2.txt", (1, 1))
    assert chain.run([1, 2]) == set()
    assert chain.run([1, 2], text="x") == {"m1", "m2", "sum"}
    assert chain.taken == ["in/m1.txt=1x", "in/m2.txt=2x"]
    assert chain.run([1, 2], text="x", force=True) == {"m1", "m2", "sum"}
    assert chain.run([1, 2], text="x") == set()


def test_an_output_with_a_new_name_is_taken_by_that(chain: Chain) -> None:
    chain.run([1, 2])
    chain.outputs = encamp.Output("*.txt", to="m", rename="new-{name}")
    assert chain.run([1, 2]) == {"m1", "m2", "sum"}
    assert Path("out/m/m1.txt").exists()
    assert chain.taken == ["in/new-m1.txt=1", "in/new-m2.txt=2"]


def test_strangers_in_the_destination_are_not_taken(chain: Chain) -> None:
    Path("out/m").mkdir(parents=True)
    Path("out/m/m9.txt").write_text("somebody's")
    chain.run([1])
    assert chain.taken == ["in/m1.txt=1"]


def test_a_maker_that_failed_blocks_the_taker(chain: Chain) -> None:
    job = chain.job([1])
    job.add("m2", "false")
    report = run(job, check=False)
    assert [report[name].state for name in ("m1", "m2", "sum")] == ["done", "failed", "blocked"]


def test_a_dry_run_tells_of_a_set_that_changed(chain: Chain) -> None:
    chain.run([1, 2])
    report = chain.job([1]).run(dry_run=True)
    assert (report["m1"].state, report["sum"].state) == ("up to date", "to do")
    report = chain.job([1, 3]).run(dry_run=True)
    assert report["sum"].why == "it waits for m3"


def test_makers_that_made_nothing_there(chain: Chain) -> None:
    chain.mirror = encamp.outputs_of("m*", "*.dat", required=False)
    chain.run([1])
    assert chain.taken == [""]
    chain.mirror = encamp.outputs_of("m*", "*.dat")
    report = run(chain.job([1]), check=False)
    assert report["sum"].state == "failed"
    assert "what m* published" in report["sum"].why


def test_forms(here: Path) -> None:
    job = encamp.Job("job", to="out")
    first = job.add("m[1]", "true")
    other = job.add("m1", "true")
    forms: list[tuple[InputMap, list[str], str]] = [
        (encamp.outputs_of("m1"), ["m1"], "."),
        ([encamp.outputs_of(["m1", "m[1]"], to="in")], ["m1", "m[1]"], "in"),
        ({encamp.outputs_of("m*"): "deep/in"}, ["m[1]", "m1"], "deep/in"),
        (encamp.outputs_of(first), ["m[1]"], "."),
        (encamp.outputs_of([first, other]), ["m[1]", "m1"], "."),
        ({"own.cfg": "x", encamp.outputs_of(other): "y"}, ["m1"], "y"),
        (iter(["own.cfg", encamp.outputs_of(other)]), ["m1"], "."),
    ]
    for number, (mirror, makers, to) in enumerate(forms):
        task = job.add(f"take{number}", "true", mirror=mirror)
        assert Graph(job.tasks).before[task.name] == makers
        assert [taken.to for taken in task.takes] == [to]
        assert [one.pattern for one in task.mirror] == ["own.cfg"] * (number > 4)


def _chosen(wanted: OutputsOf, *makers: tuple[OutputMap, list[str]]) -> list[str]:
    made = [
        PublishedOutputs(as_outputs(o), [Published(p, 1, 1, "d") for p in paths])
        for o, paths in makers
    ]
    return sorted(chosen(wanted, made, Path("/d")))


TREE = ({"model": "."}, ["/d/model/a.txt", "/d/model/b/c.dat"])
STRIPS = [({"h.txt": f"import/{n}"}, [f"/d/import/{n}/h.txt"]) for n in (1, 2)]


@pytest.mark.parametrize(
    ("pattern", "makers", "wanted"),
    [
        (None, [TREE], ["model/a.txt", "model/b/c.dat"]),
        ("*.dat", [TREE], ["model/b/c.dat"]),
        ("model/*", [TREE], ["a.txt", "b/c.dat"]),
        ("model/", [TREE], ["model/a.txt", "model/b/c.dat"]),
        ("./model/", [TREE], ["model/a.txt", "model/b/c.dat"]),
        ("model/**", [TREE], ["a.txt", "b/c.dat"]),
        ("mod*/b", [TREE], ["b/c.dat"]),
        ("model/*.txt", [TREE], ["a.txt"]),
        ("**/*.dat", [TREE], ["model/b/c.dat"]),
        ("import/**", STRIPS, ["1/h.txt", "2/h.txt"]),
        ("import/*/", STRIPS, ["1/h.txt", "2/h.txt"]),
        ("import/2/*", STRIPS, ["h.txt"]),
        ("*.txt", [({"*.txt": "/else"}, ["/else/a.txt", "/else/b.dat"])], ["a.txt"]),
        ("/else/*", [({"*": "/else"}, ["/else/a.txt"]), TREE], ["a.txt"]),
        ("*.txt", [({"*.txt": "memory://x/y"}, ["memory://x/y/a.txt"])], ["a.txt"]),
        ("memory://x/**", [({"*.txt": "memory://x/y"}, ["memory://x/y/a.txt"])], ["y/a.txt"]),
        ("*", [({"*.txt": ".", "*.dat": "m"}, ["/d/a.txt", "/d/m/b.dat"])], ["a.txt", "b.dat"]),
        ("run[[]1].txt", [("*", ["/d/run[1].txt", "/d/run1.txt"])], ["run[1].txt"]),
    ],
)
def test_which_outputs_and_where_they_go(
    pattern: str | None, makers: list[tuple[OutputMap, list[str]]], wanted: list[str]
) -> None:
    assert _chosen(encamp.outputs_of("m*", pattern), *makers) == wanted


def test_names_that_are_left_out_or_changed() -> None:
    assert _chosen(encamp.outputs_of("m", exclude="*.txt"), TREE) == ["model/b/c.dat"]
    assert _chosen(encamp.outputs_of("m", exclude="b"), TREE) == ["model/a.txt"]
    assert _chosen(encamp.outputs_of("m", "*.txt", rename="x-{stem}.t"), TREE) == ["model/x-a.t"]


def test_two_for_one_place_are_an_error() -> None:
    with pytest.raises(TargetConflict, match=r"import/1/h.txt and .*import/2/h.txt"):
        _chosen(encamp.outputs_of("m*", "*.txt"), *STRIPS)
    with pytest.raises(NoMatch):
        _chosen(encamp.outputs_of("m*", "*.csv"), *STRIPS)


def _refused(job: encamp.Job) -> str:
    with pytest.raises(BadJob) as caught:
        job.run()
    assert not Path("out").exists()
    return str(caught.value)


def test_bad_outputs_of_is_refused_before_run(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", "true", mirror=encamp.outputs_of("b*"))
    assert "task a: outputs_of: no task is called 'b*'" in _refused(job)
    job.add("b1", "true", mirror=encamp.outputs_of("c"))
    job.add("c", "true", mirror=encamp.outputs_of("a"))
    assert re.search("→.*wait for each other", _refused(job))
    job = encamp.Job("job", to="out")
    job.add("a", "true", mirror=encamp.outputs_of("a"))
    assert "no task is called 'a' but this one" in _refused(job)
    with pytest.raises(BadJob, match="job inputs must exist before any task runs"):
        encamp.Job("job", to="out", mirror=[encamp.outputs_of("a")])
    with pytest.raises(BadJob, match="names no task"):
        encamp.outputs_of([])
    with pytest.raises(BadJob, match="outputs_of"), encamp.sandbox(mirror=encamp.outputs_of("a")):  # type: ignore[arg-type]
        pass


def test_outputs_at_a_url_are_taken_as_well(here: Path, tmp_path: Path) -> None:
    there = f"file://{tmp_path}/there"
    for text in ("one", "two"):
        job = encamp.Job("job", to="out")
        job.add("m", encamp.call(write, "x.txt", text), outputs={"x.txt": there})
        mirror = encamp.outputs_of("m", to="in")
        job.add("take", "cp in/x.txt y.txt", mirror=mirror, outputs="y.txt")
        report = run(job)
        assert report.count("done") == 2
        assert Path("out/y.txt").read_text() == text
    assert run(job).count("up to date") == 2


def test_in_a_job_file(here: Path) -> None:
    def summed(numbers: str, pattern: str) -> JobReport:
        Path("job.toml").write_text(
            f"""
            [[task]]
            name = "m{{i}}"
            foreach = {{ i = {numbers} }}
            steps = [{{ run = "echo {{i}}", stdout = "m{{i}}.txt" }}]
            outputs = {{ "*.txt" = "m" }}
            [[task]]
            name = "twice-{{i}}"
            foreach = {{ i = {numbers} }}
            mirror = {{ "*.txt" = {{ outputs_of = "m{{i}}" }} }}
            steps = [{{ run = "cat m{{i}}.txt m{{i}}.txt", stdout = "t{{i}}.txt" }}]
            outputs = "t{{i}}.txt"
            [[task]]
            name = "sum"
            mirror = [{{ outputs_of = ["m*", "twice-*"], {pattern} to = "in" }}]
            steps = [{{ run = "cat in/*", shell = true, stdout = "sum.txt" }}]
            outputs = "sum.txt"
            """
        )
        return run(load_job(Path("job.toml")))

    summed("[1, 2, 3]", 'pattern = "m/*.txt",')
    assert Path("results/sum.txt").read_text().split() == ["1", "2", "3"]
    summed("[1, 2]", 'pattern = "m/*.txt",')
    assert Path("results/sum.txt").read_text().split() == ["1", "2"]
    report = summed("[1, 4]", "")
    assert Path("results/sum.txt").read_text().split() == ["1", "4", "1", "1", "4", "4"]
    assert report["m1"].state == "up to date"


@pytest.mark.parametrize(
    ("mirror", "where", "why"),
    [
        ('[{ outputs_of = "n*" }]', "4:26", "no task of this job is called 'n*'"),
        ('[{ to = "x" }]', "4:11", "the key 'pattern' is missing here"),
        ("[{ outputs_of = 3 }]", "4:26", "'outputs_of' must be a string in quotes or a list"),
        ('[{ outputs_of = "m", to = "/x" }]', "4:11", "is absolute"),
        ('[{ output_of = "m" }]', "4:13", "did you mean 'outputs_of'?"),
    ],
)
def test_mistakes_in_a_job_file_have_their_place(
    here: Path, mirror: str, where: str, why: str
) -> None:
    text = f'[[task]]\nname = "m"\nsteps = ["true"]\nmirror = {mirror}\n'
    Path("job.toml").write_text(text)
    with pytest.raises(BadJobFile) as caught:
        load_job(Path("job.toml"))
    assert f"job.toml:{where}: " in str(caught.value)
    assert why in str(caught.value)


def test_job_inputs_of_a_job_file_take_nothing(here: Path) -> None:
    text = 'mirror = [{ outputs_of = "m" }]\n[[task]]\nname = "m"\nsteps = ["true"]\n'
    Path("job.toml").write_text(text)
    with pytest.raises(BadJobFile, match="is for the mirror of a"):
        load_job(Path("job.toml"))
