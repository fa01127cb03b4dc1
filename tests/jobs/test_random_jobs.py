"""Random jobs, edited at random between runs, against a small model of what must run."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from job_steps import counted, join

import encamp


class Model:
    """What a job of tasks that join their inputs must do, told without looking at encamp.

    Every task joins its own input and the outputs of the tasks that it uses; it waits for more
    tasks than it uses.
    """

    def __init__(self, rng: random.Random, size: int, counter: Path) -> None:
        self.rng, self.counter = rng, counter
        self.names = [f"t{number:03d}" for number in range(size)]
        self.uses = {n: self._some(self.names[:i]) for i, n in enumerate(self.names)}
        self.waits = {n: self._some(self.names[:i]) for i, n in enumerate(self.names)}
        self.factor = dict.fromkeys(self.names, 1)
        self.clock = 1_000_000_000
        self.stale = set(self.names)
        for name in self.names:
            self._write(name)

    def _some(self, names: list[str]) -> list[str]:
        recent = names[-40:]
        return self.rng.sample(recent, min(len(recent), self.rng.randrange(3)))

    def _write(self, name: str) -> None:
        self.clock += 1
        Path(f"{name}.in").write_text(f"{name} {self.clock}")
        os.utime(f"{name}.in", (self.clock, self.clock))

    def job(self) -> encamp.Job:
        job = encamp.Job("job", to="out")
        for name in self.names:
            mirror = {f"{name}.in": "."} | {f"out/{used}.txt": "." for used in self.uses[name]}
            job.add(
                name,
                encamp.call(join, str(self.counter), name, self.factor[name]),
                mirror=mirror,
                outputs=encamp.Output("out.txt", rename=f"{name}.txt"),
                after=[*self.uses[name], *self.waits[name]],
            )
        return job

    def edit(self) -> None:
        """Change something of some tasks, and note which must run for it."""
        for name in self.rng.sample(self.names, self.rng.randrange(1, 6)):
            match self.rng.randrange(4):
                case 0:
                    self._write(name)
                case 1:
                    self.factor[name] += 1
                case 2:
                    Path(f"out/{name}.txt").unlink(missing_ok=True)
                case 3:
                    Path(f"out/{name}.txt").write_text("damaged")
            self.stale.add(name)

    def touch(self) -> None:
        """Change what must not count: the time of an output that nobody else uses."""
        used = {name for names in self.uses.values() for name in names}
        for name in self.rng.sample(self.names, 5):
            if name not in used and Path(f"out/{name}.txt").exists():
                os.utime(f"out/{name}.txt")

    def must_run(self) -> set[str]:
        """The stale tasks, and what uses the outputs of a task that runs."""
        running: set[str] = set()
        for name in self.names:
            if name in self.stale or running & set(self.uses[name]):
                running.add(name)
        return running

    def content(self) -> dict[str, str]:
        made: dict[str, str] = {}
        for name in self.names:
            files = {f"{name}.in": Path(f"{name}.in").read_text()}
            files |= {f"{used}.txt": made[used] for used in self.uses[name]}
            made[name] = "".join(f"{f}={t}" for f, t in sorted(files.items())) * self.factor[name]
        return made


def _check_run(model: Model) -> None:
    expected, before = model.must_run(), len(counted(model.counter))
    report = model.job().run(slots=2)
    ran = counted(model.counter)[before:]
    assert sorted(ran) == sorted(expected)
    assert {task.name for task in report.tasks if task.state == "done"} == expected
    place = {name: number for number, name in enumerate(ran)}
    for name in ran:
        awaited = {*model.uses[name], *model.waits[name]} & place.keys()
        assert all(place[earlier] < place[name] for earlier in awaited)
    found = {path.stem: path.read_text() for path in Path("out").glob("*.txt")}
    assert found == model.content()
    model.stale.clear()


@pytest.mark.parametrize(("seed", "size", "rounds"), [(1, 120, 4), (2, 25, 12), (3, 25, 12)])
def test_just_what_must_run_runs(here: Path, seed: int, size: int, rounds: int) -> None:
    model = Model(random.Random(seed), size, here / "counter")
    _check_run(model)
    for _ in range(rounds):
        model.edit()
        model.touch()
        _check_run(model)
    _check_run(model)
