"""Names with characters that are special to shells and terminals work like any others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from job_steps import join

import encamp
from encamp.storage.local_storage import local_storage

NAMES = [
    b"with space",
    b"with\nnewline",
    b"with\ttab",
    b'it\'s "quoted"',
    b"-rf",
    b"--help",
    b"$HOME;`id`",
    b"not\xffutf8",
    b"*?[x]",
    b"{stem}",
    b"%s%d",
    b"~",
    b"#!",
    "grüße-日本".encode(),
    b"x" * 150,
]
IDS = [repr(name)[:20] for name in NAMES]


@pytest.mark.parametrize("raw", NAMES, ids=IDS)
def test_inputs_outputs_and_tasks_may_have_any_name(here: Path, raw: bytes) -> None:
    name = os.fsdecode(raw)
    data = here / "data"
    data.mkdir()
    (data / name).write_text("content")
    counter = str(here / "counter")
    escaped = name.replace("{", "{{").replace("}", "}}")
    job = encamp.Job("job", to="out")
    job.add(
        name,
        [encamp.command(["cp", "--", name, "copy"]), encamp.call(join, counter, name)],
        mirror=str(data / name),
        outputs=encamp.Output("copy", ".", rename=escaped),
    )
    report = job.run()
    assert Path("out", name).read_text() == "content"
    assert report[name].outputs[0].path == str(here / "out" / name)
    assert job.run()[name].state == "up to date"
    Path("out", name).unlink()
    assert job.run()[name].state == "done"
    json.loads(Path("out/job.job/report.json").read_bytes())
    assert not list((local_storage() / "sandboxes").glob("*"))


def test_a_job_and_its_destination_may_have_any_name(here: Path) -> None:
    name = os.fsdecode(b"job \xff\n'")
    job = encamp.Job(name, to=os.fsdecode(b"out \xfe\n"))
    job.add("task", "sh -c 'echo x > x.txt; echo said'", outputs="x.txt")
    report = job.run()
    assert report["task"].log is not None
    assert (job.folder / report["task"].log).read_text() == "said\n"
    assert (job.to / "x.txt").read_text() == "x\n"
    assert job.run()["task"].state == "up to date"


def test_map_files_takes_files_of_any_name(here: Path) -> None:
    Path("data").mkdir()
    for raw in NAMES:
        Path("data", os.fsdecode(raw)).write_bytes(raw)
    files = sorted(Path("data").iterdir())
    report = encamp.map_files(
        "cp -- {input} result",
        files,
        to="out",
        outputs=encamp.Output("result", "{stem}"),
    )
    assert report.ok
    found = {path.parent.name: path.read_bytes() for path in Path("out").glob("*/result")}
    expected = {path.stem: path.read_bytes() for path in files}
    assert found == expected
