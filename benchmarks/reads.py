"""How many bytes are read from each file below a folder, by any process: strace(1) counts them."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

_CALLS = (
    "read", "readv", "pread64", "preadv", "preadv2", "copy_file_range", "sendfile", "splice",
    "mmap", "ioctl",
)  # fmt: skip
_CALL = re.compile(r"(\w+)\((.*)\) += (0x[0-9a-f]+|\d+)")
_FILE = re.compile(r"\d+<((?:[^>\\]|\\.)*)>")
_READER = {"sendfile": 1}
"""Which of the files that a call names is read; of the other calls, the first."""


def count_reads(command: list[str], below: Path) -> Counter[str]:
    """Run ``command`` to its good end; the bytes read of each file below ``below``, by its path.

    Also a mapping into memory counts, by its length, and a copy that the disk makes by sharing
    blocks (an ioctl), by the file's size.
    """
    top = os.path.realpath(below)
    with tempfile.TemporaryDirectory(prefix="encamp-reads-") as folder:
        options = ["-f", "-ff", "-y", "-qq", "--seccomp-bpf", "-s", "0", "-e", "signal=none"]
        trace = ["-e", f"trace={','.join(_CALLS)}", "-o", f"{folder}/trace"]
        subprocess.run(["strace", *options, *trace, *command], check=True)
        counts: Counter[str] = Counter()
        for file in Path(folder).iterdir():
            for line in file.read_text(errors="surrogateescape").splitlines():
                if top in line and (found := _CALL.match(line)):
                    _add(counts, found, top)
    return counts


def _add(counts: Counter[str], call: re.Match[str], top: str) -> None:
    name, arguments, result = call.groups()
    files = _FILE.findall(arguments)
    if not files:
        return
    reader = files[-1] if name == "ioctl" else files[_READER.get(name, 0) % len(files)]
    if not reader.startswith(f"{top}/"):
        return
    if name == "mmap":
        counts[reader] += int(arguments.split(",")[1])
    elif name == "ioctl":
        counts[reader] += Path(reader).stat().st_size if "CLONE" in arguments else 0
    else:
        counts[reader] += int(result, 0)
