"""The package's structure: nothing imports in a circle, and each folder says what lives there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import encamp

SOURCE = Path(__file__).parents[1] / "src"
MOST = 21
"""Modules in one folder."""


def _modules(source: Path) -> dict[str, Path]:
    found = {}
    for path in source.rglob("*.py"):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.ImportFrom) and statement.module is not None:
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}"
                yield inner if inner in modules else statement.module
        elif isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)


def _circle(source: Path) -> list[str]:
    """Modules that import each other in a circle, in functions and for types as well; or none."""
    modules = _modules(source)
    graph = {
        name: {other for other in _imported(path, modules) if other in modules and other != name}
        for name, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return list(exc.args[1])
    return []


def test_no_import_cycles_including_local_and_type_imports() -> None:
    assert _circle(SOURCE) == []


def test_a_circle_is_found_also_where_a_part_of_it_is_in_a_function_or_for_types_only(
    tmp_path: Path,
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "__init__.py").write_text("")
    (tmp_path / "some" / "one.py").write_text("def f():\n    from some import other\n")
    (tmp_path / "some" / "other.py").write_text("from some.one import f\n")
    assert set(_circle(tmp_path)) == {"some.one", "some.other"}
    (tmp_path / "some" / "one.py").write_text("")
    assert _circle(tmp_path) == []
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from some import other\n"
    (tmp_path / "some" / "one.py").write_text(for_types)
    assert set(_circle(tmp_path)) == {"some.one", "some.other"}


FOLDERS = [path.parent for path in SOURCE.rglob("__init__.py")]


def _docstring(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_folder_says_what_lives_there_and_is_small_enough_to_be_read(folder: Path) -> None:
    assert _docstring(folder)
    assert len(list(folder.glob("*.py"))) - 1 <= MOST


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_table_of_a_folders_modules_has_all_of_them_and_no_others(folder: Path) -> None:
    listed = re.findall(r"^(\w+) {2,}\S", _docstring(folder), re.MULTILINE)
    modules = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
    folders = [path.parent.name for path in folder.glob("*/__init__.py")]
    assert sorted(listed) in ([], sorted(modules + folders))


def _names_in(module: str, modules: dict[str, Path]) -> set[str]:
    """What a module defines or imports, and the modules in a folder."""
    names = {name.rpartition(".")[2] for name in modules if name.rpartition(".")[0] == module}
    for statement in ast.parse(modules[module].read_text()).body:
        match statement:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(statement.name)
            case ast.ImportFrom():
                names.update(alias.name for alias in statement.names)
            case ast.Assign() | ast.AnnAssign():
                names.update(node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
    return names


def _exists(name: str, modules: dict[str, Path]) -> bool:
    """Whether a dotted name, in full or from its module's name on, leads to something here.

    So it does if its beginning is no file of ours.
    """
    parts = name.split(".")
    if parts[0] == "encamp" and len(parts) == 2:
        return name in modules or parts[1] in dir(encamp)
    if parts[0] == "encamp":
        steps = range(len(parts), 0, -1)
        at = next(n for n in steps if ".".join(parts[:n]) in modules)
        return at == len(parts) or parts[at] in _names_in(".".join(parts[:at]), modules)
    homes = [module for module, path in modules.items() if path.stem == parts[0]]
    return not homes or any(parts[1] in _names_in(module, modules) for module in homes)


def test_modules_and_what_is_in_them_exist_if_a_text_names_them_in_backquotes() -> None:
    modules = _modules(SOURCE)
    named = re.compile(r"(?<!`)`([a-z_]\w*(?:\.\w+)+)`(?!`)")
    wrong = {
        f"{name} in {path.relative_to(SOURCE)}"
        for path in modules.values()
        for name in named.findall(path.read_text())
        if not _exists(name, modules)
    }
    assert wrong == set()


PRIVATE = {
    "compat/pyopus/clustered.py vm._debug": "a function that slots run for the class beside it",
    "compat/pyopus/clustered.py vm._startup": "the same",
    "engines/ipyparallel/engine.py self._client._query_socket": "ipyparallel has no public way",
    "engines/ipyparallel/tunnels.py client._build_targets": "the same",
    "engines/ipyparallel/tunnels.py self._client._control_stream": "the same",
    "engines/ipyparallel/tunnels.py self._client._futures": "the same",
    "engines/ipyparallel/tunnels.py self._client._io_loop": "the same",
    "jobs/run/executors.py executor._broken": "executors of other libraries have no public way",
    "jobs/run/executors.py executor._max_workers": "the same",
    "jobs/run/executors.py executor._client": "the same",
    "jobs/run/executors.py client._closed": "the same of ipyparallel's client",
    "jobs/run/executors.py client._config": "the same",
    "slot/isolation/process_tree.py subprocess._active": "a module that may not have been imported",
    "slot/isolation/restore_process.py _ENVIRONMENT._data": "os.environ has no public way to bytes",
    "slot/program_settings.py formatter._fmt": "logging has no public way",
    "slot/program_settings.py formatter._style": "the same",
    "testing/conformance/services.py proxy._private": "a test that it is an AttributeError",
}
"""Where code reads private parts of other modules' objects, and why. It may only get shorter."""


def _private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.endswith("__")


def _defined(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes and attributes that a module defines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=slots)):
                yield from (slot.value for slot in slots if isinstance(slot, ast.Constant))


def _intrusions(tree: ast.AST) -> Iterator[str]:
    """Reads and writes of private attributes that the module defines nowhere.

    Those of ``self``, which may be a base's, and of modules such as `os` do not count.
    """
    defined = set(_defined(tree))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import))
    exempt = {"self", "cls"} | {alias.name for node in imports for alias in node.names}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=of, attr=name):
                pass
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"),
                args=[of, ast.Constant(value=name), *_],
            ):
                pass
            case _:
                continue
        if _private(name) and name not in defined and ast.unparse(of) not in exempt:
            yield f"{ast.unparse(of)}.{name}"


def test_modules_do_not_read_private_parts_of_other_modules_objects() -> None:
    package = SOURCE / "encamp"
    found = {
        f"{path.relative_to(package)} {intrusion}"
        for path in package.rglob("*.py")
        for intrusion in _intrusions(ast.parse(path.read_text()))
    }
    assert found == PRIVATE.keys()


def test_a_read_of_a_private_part_is_found_in_any_form() -> None:
    text = """
class Own:
    __slots__ = ("_slot",)
    def f(self, other):
        self._base, self.other._its0, os._exit, other._slot, other._mine, other.__len__
        other._its, other.one._its2, getattr(other, "_its3", None)
        other._its4 = 1
    def _mine(self): pass
import os
"""
    found = sorted(_intrusions(ast.parse(text)))
    assert found == [
        "other._its",
        "other._its3",
        "other._its4",
        "other.one._its2",
        "self.other._its0",
    ]


def test_no_two_test_modules_have_one_name() -> None:
    """pytest imports them by their names alone."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("*.py"))
    assert [name for name, count in names.items() if count > 1 and name != "__init__.py"] == []
