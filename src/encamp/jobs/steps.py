"""Tasks and steps, in every form that users may write."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from typing import Any, Literal

from encamp.attempt_facts import quickly_pickled
from encamp.errors import LONGEST_STEP, BadJob, NotCallable, printable, shortened
from encamp.jobs.outputs_of import OutputsOf
from encamp.number_checks import limit
from encamp.storage.inputs.mirror import Mirror
from encamp.storage.outputs.patterns import Output
from encamp.task_values import Scalar


@dataclass(frozen=True, slots=True)
class Call:
    """A step that calls a Python function in the task's folder."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise not_callable(self.function, "call(f, x), not call(f(x))")
        code = getattr(self._unwrapped(), "__code__", None)
        if code is not None and code.co_flags & _GENERATES:
            why = "is a generator function: calling it runs none of its code; return a list instead"
            raise BadJob(f"the step {self.label}", why)

    @property
    def label(self) -> str:
        """The step's name in reports."""
        function = self._unwrapped()
        return str(getattr(function, "__qualname__", type(function).__name__))

    def _unwrapped(self) -> Callable[..., Any]:
        return self.function.func if isinstance(self.function, partial) else self.function


_GENERATES = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
Shell = bool | Literal["bash"]


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Command:
    """A step that runs a command line in its own process in the task's folder.

    ``line`` is the argument list, or one string for a shell: with ``shell=True`` for
    ``/bin/sh -c``, with ``shell="bash"`` for ``bash -o pipefail -c``.
    ``stdin`` and ``stdout`` name files in the task's folder; without them standard input is
    empty and all output goes to the task's log. ``env`` is added to the worker's environment.
    """

    line: tuple[str, ...] | str
    shell: Shell = False
    time_limit: float | None = None
    env: dict[str, str] = field(default_factory=dict)
    stdin: str | None = None
    stdout: str | None = None

    @property
    def label(self) -> str:
        """The step's name in reports; the middle of a long one is left out."""
        line = self.line if isinstance(self.line, str) else shlex.join(self.line)
        return shortened(line, LONGEST_STEP)


def line_of(step: Call | Command) -> str:
    """A step on one line: a command with its redirections, as in a shell."""
    if isinstance(step, Call):
        return step.label
    line = step.line if isinstance(step.line, str) else shlex.join(step.line)
    read = f" < {step.stdin}" if step.stdin else ""
    return printable(line + read + (f" > {step.stdout}" if step.stdout else ""))


def lines_of(step: Call | Command) -> list[str]:
    """A step on several lines: one for each of its variables, and the command."""
    env = step.env if isinstance(step, Command) else {}
    variables = [f"  env: {printable(name)}={printable(value)}" for name, value in env.items()]
    return [f"step: {line_of(step)}", *variables]


_SHELLS: tuple[Shell, ...] = (False, True, "bash")
Step = Callable[..., Any] | Call | Command | str


def not_callable(given: object, use: str, why: str = "is not a function") -> NotCallable:
    """The error for ``given`` where a function is needed; closes a coroutine."""
    if inspect.iscoroutine(given):
        given.close()
    return NotCallable(
        shortened(repr(given), _SHOWN), f"{why}, but of the type {type(given).__name__}", use
    )


_SHOWN = 60
"""Characters of a value in a message."""


def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call:
    """A step that calls ``function(*args, **kwargs)`` in the task's folder.

    Raises `NotCallable`, a `BadJob`, if it is not a function.
    """
    return Call(function, args, kwargs)


_FOR_A_SHELL = frozenset({"|", "<", ">", ">>", "2>", "2>&1", "&>", "&&", "||", "&"})


def command(
    line: str | Sequence[str | PathLike[str]],
    *,
    shell: Shell = False,
    time_limit: float | None = None,
    env: Mapping[str, str | PathLike[str]] | None = None,
    stdin: str | PathLike[str] | None = None,
    stdout: str | PathLike[str] | None = None,
) -> Command:
    """A step that runs a command line.

    A string is split into words as a shell would, but no shell runs: pipes, ``>`` and ``$VAR``
    need ``shell=True``. A pipeline of ``/bin/sh`` fails only if its last command does; with
    ``shell="bash"`` bash runs the line, and a pipeline fails if any of its commands does.
    ``time_limit`` is in seconds. Raises `BadJob` for an empty line, unbalanced quotes, and what is
    neither a string nor a path.
    """
    if not any(shell is known or shell == known == "bash" for known in _SHELLS):
        raise BadJob(f"shell={shell!r}", "is not known; use True for /bin/sh, or 'bash'")
    if shell:
        if not isinstance(line, str):
            raise BadJob("a shell step", "is one string, not a list of words")
        words: tuple[str, ...] | str = _text("a shell step", line)
    elif not isinstance(line, str):
        words = _words(line)
    else:
        try:
            words = _split(line)
        except ValueError as exc:
            raise BadJob(f"the command line {line!r}", f"has {str(exc).lower()}") from None
    if not words:
        raise BadJob("a step", "has an empty command line")
    if isinstance(line, str) and not shell and (found := _FOR_A_SHELL.intersection(words)):
        sign = sorted(found)[0]
        raise BadJob(
            f"the command line {line!r}",
            f"holds {sign!r}, but no shell runs; let one run it (shell = true in a job file, "
            "shell=True in Python, --shell of encamp map), or, in a job file or Python, write the "
            "step as a list of words",
        )
    return Command(
        words,
        shell,
        limit("the time limit of a step", time_limit),
        _variables(env or {}),
        None if stdin is None else _text("stdin of a step", stdin),
        None if stdout is None else _text("stdout of a step", stdout),
    )


def _words(line: Iterable[object]) -> tuple[str, ...]:
    if isinstance(line, bytes) or not isinstance(line, Iterable):
        raise BadJob(f"the command line {line!r}", "must be a string, or a list of words")
    return tuple([_text("a word of a command line", word) for word in line])


def _variables(env: Mapping[str, object]) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise BadJob("env of a step", f"must be a dictionary, not {env!r}")
    check_variables(env)
    return {name: _text(f"the variable {name!r} of a step", value) for name, value in env.items()}


def check_variables(names: Iterable[object]) -> None:
    """Raise `BadJob` for what cannot be the name of a variable."""
    for name in names:
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            why = "has a name that is not allowed in an environment"
            raise BadJob(f"the variable {name!r}", why)


def _text(what: str, given: object) -> str:
    """A string, or a path as a string. Raises `BadJob`."""
    text = given if isinstance(given, str) else None
    if isinstance(given, PathLike):
        text = given.__fspath__()
    if not isinstance(text, str):
        raise BadJob(what, f"must be a string or a path, not {given!r}")
    if "\0" in text:
        raise BadJob(what, "contains a null byte")
    return text


_WITHOUT_QUOTES = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\U0010ffff'\"\\]*")


def _split(line: str) -> tuple[str, ...]:
    """A line's words as in a shell; most lines have no quotes, and need no lexer."""
    return tuple(line.split() if _WITHOUT_QUOTES.fullmatch(line) else shlex.split(line))


def as_step(step: Step) -> Call | Command:
    """Any form of a step as `Call` or `Command`."""
    if isinstance(step, Call | Command):
        return step
    if isinstance(step, str):
        return command(step)
    if callable(step):
        return Call(step)
    if isinstance(step, list | tuple) and step and all(isinstance(word, str) for word in step):
        raise BadJob(f"the step {step!r}", "is a list of words; write command([...])")
    raise not_callable(step, "call(f, x), not f(x)", "is neither a function nor a command line")


def as_steps(steps: Step | Iterable[Step]) -> tuple[Call | Command, ...]:
    """One step or several, in any form."""
    if isinstance(steps, str | Call | Command) or callable(steps):
        return (as_step(steps),)
    if not isinstance(steps, Iterable):
        return (as_step(steps),)
    return tuple(map(as_step, steps))


Parameters = tuple[tuple[str, ...], tuple[Scalar, ...]]
"""Names and values."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a job; created by `Job.add`."""

    name: str
    steps: tuple[Call | Command, ...]
    mirror: tuple[Mirror, ...]
    outputs: tuple[Output, ...]
    on_failure: tuple[Output, ...]
    after: tuple[str, ...]
    retries: int
    time_limit: float | None
    takes: tuple[OutputsOf, ...] = ()
    parameters: Parameters | None = None
    """None for the arguments of its function."""
    values: str | None = None
    """The file in its folder with its values."""

    def _repr_html_(self) -> str:
        from encamp.notebook_html import box, heading, table

        facts = [("step", step.label) for step in self.steps]
        facts += [("input", one.pattern) for one in self.mirror]
        facts += [("input", str(one)) for one in self.takes]
        facts += [("output", f"{one.pattern} → {one.to}") for one in self.outputs]
        return box(heading(self.name, "a task"), table(("", ""), facts))
