"""The samples of the page about PVM run as they are printed, those for several hosts on a lab."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import need
from lab import Lab, missing

PAGE = Path(__file__).parents[2] / "docs/pvm.md"


def samples(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return "\n".join(found)


def printed(sample: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", sample],
        capture_output=True,
        text=True,
        env={**os.environ, "PVM_ALLOW_ROOT": "1", **environment},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_samples_for_one_host_run() -> None:
    need("pvm", shutil.which("pvmd") is not None)
    assert "362880" in printed(samples("python"))


def test_the_samples_for_several_hosts_run_on_a_lab() -> None:
    need("pvm", shutil.which("pvmd") is not None)
    lacking = missing()
    need(str(lacking), lacking is None)
    with Lab(3, variables={"PVM_ALLOW_ROOT": "1"}) as lab:
        sample = samples("py").replace('machine="own"', f'machine="own", address="{lab.address}"')
        for number, host in enumerate(lab.hosts, 1):
            sample = sample.replace(f'("node{number}"', f'("{host.name} ip={host.address}"')
            sample = sample.replace(f'"node{number}"', f'"{host.name} ip={host.address}"')
        sample = re.sub(r'on="(\w+) ip=\S+"', r'on="\1"', sample)
        output = printed(sample, **lab.environment)
    assert "{'lab1': 3, 'lab2': 2}" in output or "{'lab2': 3, 'lab1': 2}" in output
    assert "HostAdded(host=Host(name='lab3'" in output
