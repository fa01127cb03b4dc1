"""`map_files`: the same steps for every file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from encamp.errors import BadJob
from encamp.jobs.file.foreach import each_file, files_of, parameters_of_file
from encamp.jobs.job import Job
from encamp.jobs.run_options import check_spelling
from encamp.jobs.steps import Call, Command, Step, as_steps
from encamp.jobs.templates.placeholders import (
    fill,
    fill_command,
    fill_pattern,
    fill_rename,
)
from encamp.reports import JobReport
from encamp.storage.inputs.mirror import Mirror, MirrorMap
from encamp.storage.outputs.patterns import Output, OutputMap, as_outputs


def map_files(
    steps: Step | Iterable[Step],
    files: str | Path | Iterable[str | Path],
    *,
    to: str | Path,
    outputs: OutputMap = (),
    mirror: MirrorMap = (),
    values: str | None = None,
    name: str | None = None,
    retries: int = 0,
    time_limit: float | None = None,
    log_limit: int | str | None = None,
    executor: Executor | None = None,
    **run_options: Any,
) -> JobReport:
    """Run the same steps for every file, each in a private folder with a copy of it.

    ``files`` is a pattern, a path, or a list of these. A function is called with the file's name in
    the task's folder, followed by its own arguments; command lines and outputs may contain
    ``{input}``, ``{name}``, ``{stem}``, ``{suffix}`` and the like. ``mirror`` names files for all
    tasks, ``values`` a file with a task's values, as in `Job.add`. Tasks are named after the stems
    of their files, the job after its first step unless ``name`` is given. The other arguments are
    those of `Job` and `Job.run`.

        encamp.map_files("gzip -k {input}", "data/*.las", to="packed", outputs={"*.gz": "."})
    """
    check_spelling(run_options, map_files)
    given = as_steps(steps)
    if not given:
        raise BadJob("map_files", "has no steps; give a function or a command line")
    called = name or job_name(given[0])
    job = Job(
        called,
        to=to,
        mirror=mirror,
        retries=retries,
        time_limit=time_limit,
        log_limit=log_limit,
    )
    for path, known in each_file(_find_files(files, job.base)):
        task = known["stem"]
        if task in job.tasks:
            task = known["name"]
        if task in job.tasks:
            raise BadJob(f"the file {path}", "has the same name as another; rename one of them")
        known = {**known, "task": task, "to": str(job.to)}
        job.add(
            task,
            [_for_file(step, known) for step in given],
            mirror=Mirror(str(path), literal=True),
            outputs=[_filled(output, known) for output in as_outputs(outputs)],
            parameters=parameters_of_file(path, job.base),
            values=None if values is None else fill(values, known),
        )
    return job.run(executor, **run_options)


def job_name(step: Call | Command) -> str:
    """The name of a job whose first step this is: the name of its function or program."""
    first = step.label.rpartition("<locals>.")[2].split() or [""]
    words = re.findall(r"\w[\w.+-]*", first[0].rpartition("/")[2])
    return f"map-{words[0][:60] if words else 'files'}"


def _find_files(files: str | Path | Iterable[str | Path], base: Path) -> list[Path]:
    if not isinstance(files, Iterable) or isinstance(files, str):
        files = [files]
    patterns = list(files)
    if strange := [one for one in patterns if not isinstance(one, str | Path)]:
        raise BadJob("files", f"must be paths or patterns, not {strange[0]!r}")
    return list(dict.fromkeys(file for one in patterns for file in files_of(one, base)))


def _for_file(step: Call | Command, values: dict[str, str]) -> Call | Command:
    if isinstance(step, Command):
        return fill_command(step, values)
    return Call(step.function, (values["name"], *step.args), step.kwargs, step.time_limit)


def _filled(output: Output, values: dict[str, str]) -> Output:
    to = fill(output.to, values)
    if to.startswith("~") and not output.to.startswith("~"):
        to = f"./{to}"  # a file's name, not a user's home
    rename = None if output.rename is None else fill_rename(output.rename, values)
    return replace(output, pattern=fill_pattern(output.pattern, values), to=to, rename=rename)
