"""The house: a room imports only from rooms above it, no two modules import each other, and no
room is crowded.

`zooadapt/README.md` says what is in each room.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from tests.support.jobs import ROOT

ROOMS = (
    "stores", "checkpoints", "adapt", "zoos", "mirror", "proof", "pipeline", "reader", "upkeep",
    "cluster", "report", "job", "cli",
)  # fmt: skip
"""Each may import from those before it, and from the root's vocabulary."""
VOCABULARY = (
    "errors",
    "names",
    "types",
    "records",
    "targets",
    "bands",
    "presets",
    "costs",
    "progress",
    "ranges",
    "urls",
)
EXCEPTIONS = {
    ("zooadapt", "reader"): "the public face: what users call is the reader's",
    ("zooadapt.reader.mirror", "upkeep"): "Mirror.verify is `zooadapt verify` for notebooks",
}
"""Deferred imports that go the other way, and why."""

PACKAGE = ROOT / "zooadapt"
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, in functions and for types too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zooadapt"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def room(module: str) -> str:
    """The folder or the module below the package's root; "" for the root's ``__init__``."""
    return module.removeprefix("zooadapt").lstrip(".").partition(".")[0]


def folder(module: str) -> str:
    """The package that a module lies in."""
    is_package = MODULES[module].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_from_those_above_it(module: str) -> None:
    rank = dict.fromkeys(("", *VOCABULARY), 0) | {r: n for n, r in enumerate(ROOMS, 1)}
    for other in imported(module):
        is_above = rank[room(other)] <= rank[room(module)]
        assert is_above or (module, room(other)) in EXCEPTIONS, f"{module} imports {other}"


def test_no_two_modules_import_each_other() -> None:
    graph = {
        module: {o for o in imported(module) if (module, room(o)) not in EXCEPTIONS}
        for module in MODULES
        if module != "zooadapt"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_no_two_folders_import_each_other() -> None:
    folders: dict[str, set[str]] = {}
    for module in MODULES:
        for other in imported(module):
            pair = folder(module), folder(other)
            if "zooadapt" not in pair and (module, room(other)) not in EXCEPTIONS:
                folders.setdefault(pair[0], set()).update({pair[1]} - {pair[0]})
    TopologicalSorter(folders).prepare()


def test_no_room_is_crowded() -> None:
    for folder in (PACKAGE, *(each for each in PACKAGE.rglob("*") if each.is_dir())):
        modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(modules) <= (11 if folder == PACKAGE else 14), folder


def test_what_opens_a_folder_is_a_docstring_alone() -> None:
    for file in PACKAGE.glob("*/**/__init__.py"):
        (only,) = ast.parse(file.read_text()).body
        assert ast.get_docstring(ast.Module([only], [])), file
