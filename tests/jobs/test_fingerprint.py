"""A code digest changes with the behaviour of a step, and with nothing else."""

from __future__ import annotations

import collections
import enum
import functools
import http
import importlib
import itertools
import json
import math
import random
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from encamp.jobs.plan.fingerprint import _Hasher, fingerprint
from encamp.jobs.plan.plain_value_digest import NotPlainError, digest_of_ordered, ordered

PROJECT = {
    "low.py": """\
LIMIT = 5
TABLE = {"a": {1, 2}, "b": (3, 4)}

def lowest(x):
    return x + LIMIT

class Shape:
    SIDES = 4

    def area(self):
        return self.SIDES * 2

    @staticmethod
    def still():
        return "static"

    @classmethod
    def made(cls):
        return "class"

    @property
    def size(self):
        return "property"
""",
    "middle.py": """\
import functools
import http
import low

def middle(x):
    return low.lowest(x)

@functools.lru_cache
def cached(x):
    return x + 1

def recursive(n):
    return n and other(n - 1)

def other(n):
    return n and recursive(n - 1)

def unused(x):
    return x
""",
    "pack/__init__.py": "",
    "pack/inner.py": "def deep(x):\n    return x\n",
    "late.py": "def late(x):\n    return x\n",
    "top.py": """\
import functools
import http
import math
import random
import numpy as np
import low
import pack.inner
from middle import cached, middle, recursive

FACTOR = 2

def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

def step(x, scale=3, *, shift=1):
    return middle(x) * FACTOR * scale + shift + math.sin(x)

def uses_shape():
    return low.Shape().area(), low.TABLE

def uses_cached(x):
    return cached(x)

def uses_pack(x):
    return pack.inner.deep(x)

def uses_recursive(n):
    return recursive(n)

def uses_late(x):
    import late
    return late.late(x)

def listed(names):
    return [name + "a" for name in names]

@decorate
def decorated(x):
    return x + 1

def closed(n):
    def inner(x):
        return x + n
    return inner

adds_one, adds_two = closed(1), closed(2)
short = lambda x: x + 1
part = functools.partial(step, 1, shift=2)
""",
}
STEPS = (
    "step",
    "uses_shape",
    "uses_cached",
    "uses_pack",
    "uses_recursive",
    "uses_late",
    "listed",
    "decorated",
    "adds_one",
    "short",
    "part",
)


class Project:
    """A project of the user's in ``folder`` that can be edited and loaded anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in PROJECT.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert text.count(old) == 1, (file, old)
        (self.folder / file).write_text(text.replace(old, new))

    def load(self) -> ModuleType:
        for name in ("top", "middle", "low", "late", "pack", "pack.inner"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("top")

    def prints(self) -> dict[str, str]:
        top = self.load()
        return {name: fingerprint(getattr(top, name)) for name in STEPS}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Project(tmp_path)


EDITS: dict[str, tuple[str, str, str, set[str]]] = {
    "code": ("top.py", "* FACTOR *", "+ FACTOR *", {"step", "part"}),
    "default": ("top.py", "scale=3", "scale=4", {"step", "part"}),
    "keyword default": ("top.py", "shift=1)", "shift=9)", {"step", "part"}),
    "own constant": ("top.py", "FACTOR = 2", "FACTOR = 3", {"step", "part"}),
    "helper, one level down": ("middle.py", "low.lowest(x)", "low.lowest(x) + 1", {"step", "part"}),
    "helper, two levels down": ("low.py", "x + LIMIT", "x - LIMIT", {"step", "part"}),
    "constant, two levels down": ("low.py", "LIMIT = 5", "LIMIT = 6", {"step", "part"}),
    "method": ("low.py", "self.SIDES * 2", "self.SIDES * 3", {"uses_shape"}),
    "class constant": ("low.py", "SIDES = 4", "SIDES = 5", {"uses_shape"}),
    "static method": ("low.py", '"static"', '"other"', {"uses_shape"}),
    "class method": ("low.py", '"class"', '"other"', {"uses_shape"}),
    "property": ("low.py", '"property"', '"other"', {"uses_shape"}),
    "set in a table": ("low.py", "{1, 2}", "{1, 3}", {"uses_shape"}),
    "cached function": ("middle.py", "return x + 1", "return x + 2", {"uses_cached"}),
    "module in a package": ("pack/inner.py", "return x", "return -x", {"uses_pack"}),
    "late import": ("late.py", "return x", "return -x", {"uses_late"}),
    "recursion": (
        "middle.py",
        "n and recursive(n - 1)",
        "n or recursive(n - 1)",
        {"uses_recursive"},
    ),
    "text in a comprehension": ("top.py", 'name + "a"', 'name + "b"', {"listed"}),
    "decorated function": (
        "top.py",
        "def decorated(x):\n    return x + 1",
        "def decorated(x):\n    return x + 2",
        {"decorated"},
    ),
    "decorator": ("top.py", "return function(*args)", "return -function(*args)", {"decorated"}),
    "closure's value": ("top.py", "closed(1), closed(2)", "closed(5), closed(2)", {"adds_one"}),
    "lambda": ("top.py", "lambda x: x + 1", "lambda x: x + 2", {"short"}),
    "partial's argument": ("top.py", "step, 1, shift=2", "step, 2, shift=2", {"part"}),
    "comment": ("top.py", "FACTOR = 2", "FACTOR = 2  # twice", set()),
    "lines moved": ("low.py", "LIMIT = 5", "\n\n\nLIMIT = 5", set()),
    "comment in a late import": ("late.py", "def late", "# late\n\ndef late", set()),
    "unused function": (
        "middle.py",
        "def unused(x):\n    return x",
        "def unused(x):\n    return 0",
        set(),
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_changes_the_steps_that_use_it_and_no_others(project: Project, what: str) -> None:
    file, old, new, expected = EDITS[what]
    before = project.prints()
    project.edit(file, old, new)
    after = project.prints()
    assert {name for name in STEPS if before[name] != after[name]} == expected


def test_a_changed_docstring_changes_nothing(project: Project) -> None:
    project.edit("low.py", "def lowest(x):\n", 'def lowest(x):\n    """One."""\n')
    before = project.prints()
    project.edit("low.py", '"""One."""', '"""Another."""')
    assert project.prints() == before


def test_fingerprints_are_the_same_in_every_process(project: Project) -> None:
    code = (
        "import json, sys, top, numpy as np\n"
        "from encamp.jobs.plan.fingerprint import fingerprint\n"
        f"found = [fingerprint(getattr(top, name)) for name in {STEPS!r}]\n"
        "values = [{'a', 'b', 'c'}, {'x': {1, 'y'}, 2: None}, np.arange(4), top.low.Shape()]\n"
        "print(json.dumps(found + [fingerprint(value) for value in values]))\n"
    )

    def run(seed: str) -> list[str]:
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=project.folder,
            env=environment,
            capture_output=True,
            check=True,
        )
        return list(json.loads(done.stdout))

    first = run("0")
    assert all(run(seed) == first for seed in ("1", "4711", "random"))
    assert len(set(first)) == len(first)


@dataclass
class Point:
    x: int
    tags: set[str] = field(default_factory=set)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Flags(enum.Flag):
    A = 1
    B = 2


class Text(str):
    """A text that can carry more."""

    more = 0


class Table(dict[str, int]):
    def __missing__(self, key: str) -> int:
        return 0


class Made(type):
    value = 1


class Made2(type):
    value = 2


def texted(more: int) -> Text:
    text = Text("x")
    text.more = more
    return text


def made(how: type) -> type:
    """A class of this module, of a metaclass."""
    return how("Class", (), {"__module__": __name__})


EQUAL: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: {"a", "b", "c"}, lambda: {"c", "b", "a"}),
    (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    (lambda: {1: "x", (2, 3): "y"}, lambda: {(2, 3): "y", 1: "x"}),
    (lambda: Point(1, {"p", "q"}), lambda: Point(1, {"q", "p"})),
    (lambda: np.arange(6).reshape(2, 3), lambda: np.asfortranarray(np.arange(6).reshape(2, 3))),
    (lambda: [[1], [1]], lambda: [[1]] * 2),
    (lambda: Path("a") / "b", lambda: Path("a/b")),
    (lambda: functools.partial(math.pow, 2), lambda: functools.partial(math.pow, 2)),
    (lambda: Point(1).__eq__, lambda: Point(1).__eq__),
    (lambda: Flags(0), lambda: Flags.A & Flags.B),
    (lambda: re.compile("a"), lambda: re.compile("a")),
    (lambda: collections.defaultdict(int), lambda: collections.defaultdict(int)),
    (lambda: texted(1), lambda: texted(1)),
    (lambda: memoryview(b"a"), lambda: memoryview(bytearray(b"a"))),
]
DIFFERENT: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: 1,
    lambda: 1.0,
    lambda: "1",
    lambda: b"1",
    lambda: Path("1"),
    lambda: [1],
    lambda: (1,),
    lambda: {1},
    lambda: {1: 1},
    lambda: [[1]],
    lambda: [1, 2],
    lambda: [2, 1],
    lambda: ["ab", "c"],
    lambda: ["a", "bc"],
    lambda: Point(1),
    lambda: Point(2),
    lambda: Point(1, {"a"}),
    lambda: Colour.RED,
    lambda: Colour.BLUE,
    lambda: Flags.A,
    lambda: Flags.A | Flags.B,
    lambda: np.arange(6),
    lambda: np.arange(6).reshape(2, 3),
    lambda: np.arange(6, dtype="i2"),
    lambda: np.arange(6)[::-1],
    lambda: np.array([{"a": 1}, None]),
    lambda: np.array([{"a": 2}, None]),
    lambda: math.sin,
    lambda: math.cos,
    lambda: json.dumps,
    lambda: json.loads,
    lambda: functools.partial(math.pow, 2),
    lambda: functools.partial(math.pow, 3),
    lambda: ",".join,
    lambda: ";".join,
    lambda: Point(1).__eq__,
    lambda: Point(2).__eq__,
    lambda: Point,
    lambda: lambda x: x,
    lambda: lambda x: -x,
    lambda: [lambda x: x, lambda x: -x],
    lambda: [lambda x: -x, lambda x: x],
    lambda: re.compile("a"),
    lambda: re.compile("a", re.IGNORECASE),
    lambda: re.compile("b"),
    lambda: np.sin,
    lambda: np.cos,
    lambda: np.array([[1]]).view(np.recarray),
    lambda: np.array([[1]]),
    lambda: dict[str, int](),
    lambda: collections.defaultdict(int),
    lambda: collections.defaultdict(list),
    lambda: collections.Counter(),
    lambda: Table(),
    lambda: "x",
    lambda: texted(1),
    lambda: texted(2),
    lambda: made(Made),
    lambda: made(Made2),
    lambda: memoryview(b"a"),
    lambda: memoryview(b"b"),
    lambda: {"a": 1}.keys(),
    lambda: {"b": 1}.keys(),
    lambda: types.MappingProxyType({"a": 1}),
    lambda: types.MappingProxyType({"a": 2}),
]


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_equal_values_have_one_fingerprint(
    first: Callable[[], Any], second: Callable[[], Any]
) -> None:
    assert fingerprint(first()) == fingerprint(second())


def test_different_values_have_different_fingerprints() -> None:
    prints = [fingerprint(make()) for make in DIFFERENT]
    same = [
        (i, j) for i, j in itertools.combinations(range(len(prints)), 2) if prints[i] == prints[j]
    ]
    assert same == []


def test_recursive_value_has_fingerprint() -> None:
    def circle(text: str) -> list[Any]:
        inside: list[Any] = [text]
        inside.append({"me": inside})
        return inside

    assert fingerprint(circle("a")) == fingerprint(circle("a")) != fingerprint(circle("b"))


def test_installed_functions_count_by_name_only() -> None:
    assert fingerprint(np.linalg.norm) == fingerprint(np.linalg.norm)
    assert fingerprint(np.linalg.norm) != fingerprint(np.linalg.det)


def test_functions_that_all_call_each_other_take_no_time(tmp_path: Path) -> None:
    names = [f"f{n}" for n in range(40)]
    source = "".join(f"def {name}():\n    return {', '.join(names)}\n" for name in names)
    file = tmp_path / "knot.py"
    file.write_text(source)
    space: dict[str, Any] = {"__name__": "knot"}
    exec(compile(source, str(file), "exec"), space)
    fingerprint(space["f0"])


def quick_digest(value: object) -> bytes:
    return digest_of_ordered(ordered(value))


def _plain_value(chance: random.Random, depth: int = 0) -> Any:
    kinds = 11 if depth < 3 else 8
    texts = ["", "a", "é\udcff", "x" * 40, "\0", "line", "None"]
    match chance.randrange(kinds):
        case 0:
            return chance.choice([None, True, False])
        case 1:
            return chance.choice([0, 1, -1, 10**30, 1.0, -0.0, float("inf"), 1 + 2j])
        case 2 | 3 | 4 | 5 | 6 | 7:
            return chance.choice(texts)
        case 8:
            return tuple(_plain_value(chance, depth + 1) for _ in range(chance.randrange(4)))
        case 9:
            return [_plain_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            names = chance.sample(texts, chance.randrange(4))
            return {name: _plain_value(chance, depth + 1) for name in names}


def test_plain_values_have_different_digests_exactly_if_they_differ() -> None:
    chance = random.Random(5)
    values = [_plain_value(chance) for _ in range(500)]
    long = {_Hasher().digest(value) for value in values}
    assert len({quick_digest(value) for value in values}) == len(long) > 100
    stands_for: dict[bytes, set[bytes]] = {}
    for value in values:
        for digest in (quick_digest(value), _Hasher().digest(value)):
            stands_for.setdefault(digest, set()).add(quick_digest(value))
    assert {len(values) for values in stands_for.values()} == {1}


ALIKE = [
    *(None, "None", True, 1, 1.0, "1", 1 + 0j, (1,), [1], ((1,),), [[1]], [1, 1]),
    *(0, False, 0.0, -0.0, "", (), [], {}, [()], [[]], [{}], ((),), float("nan"), "nan"),
    *("a', 'b", ["a", "b"], ["a', 'b"], ("a", "b"), {"a": "b"}, [["a", "b"]], {"a": ["b"]}),
    *("\\udc80", "\udc80", "\x80", "\\x80", "ä", "\\xe4", "a\n", "a\\n", "'", '"', "'\""),
]


def test_plain_values_that_look_alike_have_different_digests() -> None:
    assert len({quick_digest(value) for value in ALIKE}) == len(ALIKE)
    assert len({quick_digest(["x", value]) for value in ALIKE}) == len(ALIKE)


def test_the_order_of_a_dictionary_does_not_count() -> None:
    inner = {"b": 1, "a": {"d": 2, "c": [{"f": 3, "e": 4}]}}
    other = {"a": {"c": [{"e": 4, "f": 3}], "d": 2}, "b": 1}
    assert quick_digest([inner]) == quick_digest([other])
    assert fingerprint([inner, {1}]) == fingerprint([other, {1}])


def test_complex_values_use_slow_digest() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    long = 10**5000  # in more digits than Python writes
    others = ({1: 2}, {"a": {1}}, [http.HTTPStatus.OK], [Path("x")], b"a", [bytearray(b"a")], long)
    for value in (circle, deep, *others):
        with pytest.raises(NotPlainError):
            quick_digest(value)
        assert fingerprint(value) == _Hasher().digest(value).hex()


def test_a_variable_that_is_named_like_an_attribute_is_not_used() -> None:
    code = "def grid(points):\n    return points.x + points.mean() + offset\n"
    space: dict[str, Any] = {"__name__": "some_script", "offset": 1}
    exec(code, space)
    before = fingerprint(space["grid"])
    space |= {"x": random.Random(1), "mean": 5}
    assert fingerprint(space["grid"]) == before
    space["offset"] = 2
    assert fingerprint(space["grid"]) != before
