"""The ``encamp`` command in forks of this program, which has loaded it: its start costs little.

Each message on the socket that is named by its descriptor has a command's words, variables and
umask, with three descriptors: its folder, and the files for its standard output and error. It is
answered by the command's process id, and at its end by its exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
import types
from pathlib import Path

for name in (
    "cli.attach", "cli.cache", "cli.clean", "cli.command_line", "cli.debug",
    "cli.doctor.doctor_command", "cli.map", "cli.prune", "cli.run", "cli.show", "cli.status",
    "cluster.cluster", "executor.executor", "jobs.file.jobfile", "jobs.run.run_job",
):  # fmt: skip
    importlib.import_module(f"encamp.{name}")


def become(message: bytes, folder: int, out: int, err: int) -> None:
    """Be the command, up to the exception with which it ends."""
    words, variables, umask = json.loads(message)
    os.fchdir(folder)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in (folder, out, err):
        os.close(descriptor)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
    main = types.ModuleType("__main__")
    main.__file__ = words[0]
    sys.modules["__main__"] = main
    exec(compile(Path(words[0]).read_text(), words[0], "exec"), main.__dict__)


def serve(link: socket.socket) -> None:
    gc.freeze()  # so that forks leave the memory of what is loaded to all
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, 1 << 17, 3)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            link.close()
            become(message, *descriptors)
            sys.exit()
        for descriptor in descriptors:
            os.close(descriptor)
        link.send(b"%d" % pid)
        link.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
