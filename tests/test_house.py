"""The house: rooms on floors, imports that point down, names that stand once. What the contract forbids is refused."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "exporttools"
MODULES = sorted(PACKAGE.rglob("*.py"))


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a tree that has the package and pyproject.toml."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    return subprocess.run([sys.executable, "-c", command], cwd=tree, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the tree, to break."""
    shutil.copytree(PACKAGE, tmp_path / "exporttools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contract_is_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "imported", "said"),
    [
        ("bundle/reader.py", "database.store", "exporttools.bundle is not allowed to import exporttools.database"),
        ("analysis/costs.py", "database.store", "exporttools.analysis is not allowed to import exporttools.database"),
        ("database/store.py", "loading", "exporttools.database is not allowed to import exporttools.loading"),
        ("plots/lanes.py", "report", "exporttools.plots is not allowed to import exporttools.report"),
        ("records/schema.py", "bundle", "exporttools.records is not allowed to import exporttools.bundle"),
        ("files/durable.py", "connections.urls", "exporttools.files is not allowed to import exporttools.connections"),
        ("plots/time_axis.py", "plots.captions", "No circles"),
        ("bundle/bag.py", "database.store", "A recipient verifies a bundle with no driver installed"),
    ],
)
def test_an_import_that_breaks_it_is_refused(copy: Path, room: str, imported: str, said: str) -> None:
    broken = copy / "exporttools" / room
    broken.write_text(f"{broken.read_text()}\nimport exporttools.{imported}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert said in done.stdout


def test_a_new_room_has_to_be_given_a_floor(copy: Path) -> None:
    (copy / "exporttools" / "attic.py").write_text("")
    done = lint(copy)
    assert done.returncode == 1
    assert "exporttools.attic" in done.stdout


def test_a_module_name_stands_once() -> None:
    names = Counter(path.stem if path.stem != "__init__" else path.parent.name for path in MODULES)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_says_what_it_is_for() -> None:
    undocumented = [path.name for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert undocumented == []


def imported_names(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("exporttools"):
            for alias in node.names:
                yield node.module, alias.name


def test_no_private_name_is_imported_across_modules() -> None:
    private = [
        (path.name, module, name)
        for path in MODULES
        for module, name in imported_names(path)
        if name.startswith("_") and not name.startswith("__")
    ]
    assert private == []


def test_tests_stand_in_the_rooms_that_they_are_of() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    tested = {path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= tested
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "tests").rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 600
    }
    assert long == {}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_few_arrows_between_few_rooms() -> None:
    """The house stays one that a person can hold in mind."""
    arrows = set()
    for path in MODULES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module, name in imported_names(path):
            imported = f"{module}.{name}" if module == "exporttools" else module
            if room not in ("__init__", "__main__", room_of(imported)):
                arrows.add((room, room_of(imported)))
    rooms = {room for arrow in arrows for room in arrow}
    assert len(rooms) <= 20
    assert len(arrows) <= 80
