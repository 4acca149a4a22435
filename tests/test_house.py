"""The house: rooms on floors, imports that point down, names that stand once. What the contract forbids is refused."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.bundle.test_imports import DRIVERS as NOT_INSTALLED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "exporttools"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


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


FLOORS, CIRCLES, DRIVERS = (contract["name"] for contract in CONTRACTS)


@pytest.mark.parametrize(
    ("room", "imported", "broken", "said"),
    [
        ("bundle/reader.py", "exporttools.database.store", FLOORS, "exporttools.bundle is not allowed to import exporttools.database"),
        ("analysis/costs.py", "exporttools.database.store", FLOORS, "exporttools.analysis is not allowed to import exporttools.database"),
        ("database/store.py", "exporttools.loading", FLOORS, "exporttools.database is not allowed to import exporttools.loading"),
        ("plots/lanes.py", "exporttools.report", FLOORS, "exporttools.plots is not allowed to import exporttools.report"),
        ("records/schema.py", "exporttools.bundle", FLOORS, "exporttools.records is not allowed to import exporttools.bundle"),
        ("files/durable.py", "exporttools.connections.urls", FLOORS, "exporttools.files is not allowed to import exporttools.connections"),
        ("plots/time_axis.py", "exporttools.plots.captions", CIRCLES, "No cycles are allowed in exporttools.plots"),
        ("bundle/bag.py", "sqlalchemy", DRIVERS, "exporttools.bundle is not allowed to import sqlalchemy"),
        ("dataset/reading.py", "pandas", DRIVERS, "exporttools.dataset is not allowed to import pandas"),
    ],
)  # fmt: skip
def test_an_import_that_breaks_it_is_refused(copy: Path, room: str, imported: str, broken: str, said: str) -> None:
    module = copy / "exporttools" / room
    module.write_text(f"{module.read_text()}\nimport {imported}\n")
    done = lint(copy)
    assert done.returncode == 1
    # The name alone says nothing: it is printed of a contract that is kept, too.
    assert f"{broken} BROKEN" in done.stdout
    assert said in done.stdout


def test_the_contract_forbids_what_a_recipient_lacks() -> None:
    """What the contract forbids is what the test of a recipient's machine takes away."""
    (contract,) = (contract for contract in CONTRACTS if contract["name"] == DRIVERS)
    assert set(contract["forbidden_modules"]) == NOT_INSTALLED


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


def private_attributes(source: str) -> list[str]:
    """The private names of our modules that a module reads through the module."""
    tree = ast.parse(source)
    modules = {"exporttools"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname for alias in node.names if alias.asname and alias.name.startswith("exporttools.")}
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "exporttools":
            path = ROOT.joinpath(*node.module.split("."))
            modules |= {
                alias.asname or alias.name
                for alias in node.names
                if (path / f"{alias.name}.py").is_file() or (path / alias.name).is_dir()
            }
    return [
        text
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if (text := ast.unparse(node)).split(".")[0] in modules
    ]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import exporttools.times\nexporttools.times._UNITS_S", ["exporttools.times._UNITS_S"]),
        ("import exporttools.times as clock\nclock._UNITS_S", ["clock._UNITS_S"]),
        ("from exporttools import times\ntimes._UNITS_S['d']", ["times._UNITS_S"]),
        ("from exporttools.text import inert as safe\nsafe._FORMULA_STARTS", ["safe._FORMULA_STARTS"]),
        ("from exporttools import times\ntimes.EPOCH, times.__name__, self._times", []),
        ("from exporttools.records.schema import Column\nColumn._fields", []),
    ],
)
def test_a_private_attribute_is_seen(source: str, found: list[str]) -> None:
    assert private_attributes(source) == found


def test_no_private_attribute_is_read_across_modules() -> None:
    private = {path.name: found for path in MODULES if (found := private_attributes(path.read_text()))}
    assert private == {}


def test_whatever_tests_import_is_declared() -> None:
    """Else they pass only on the machine of whoever wrote them."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *declared["dependencies"],
        *(name for extra in declared["optional-dependencies"].values() for name in extra),
    ]
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    stated, held = ({_distribution(line) for line in lines} for lines in (wanted, pinned))
    assert stated - held == {"exporttools"}
    distributions = packages_distributions()
    imported = {name.partition(".")[0] for path in sorted((ROOT / "tests").rglob("*.py")) for name in _imports(path)}
    assert {
        module
        for module in imported
        if module in distributions and held.isdisjoint(map(_distribution, distributions[module]))
    } <= {"exporttools"}


def _distribution(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


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
    assert len(arrows) <= 82
