"""The shape of the repository: which way imports go, and how modules may be called."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("rlhf", "reward", "annotation")

# What each package of the library may import of this project, besides itself and the version in `rlhf`.
ALLOWED = {
    "rlhf.data": (),
    "rlhf.algorithms": (),
    "rlhf.engine": ("rlhf.data",),
    "rlhf.evaluation": ("rlhf.data", "rlhf.engine", "rlhf.algorithms"),
    # One way only: trainers measure with the metrics of evaluation.
    "rlhf.training": ("rlhf.data", "rlhf.engine", "rlhf.algorithms", "rlhf.evaluation"),
    "reward": ("rlhf.data", "rlhf.engine", "rlhf.algorithms", "rlhf.evaluation", "rlhf.training"),
    "annotation": ("rlhf.data", "rlhf.engine", "rlhf.algorithms", "rlhf.evaluation", "rlhf.training"),
}
DRAWERS = {"common", "helper", "helpers", "misc", "util", "utilities", "utils"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
# Modules directly in `rlhf` are what users start; so are these of the other packages.
ENTRY_POINTS = {
    name
    for name, path in MODULES.items()
    if path.name != "__init__.py"
    and (
        path.parent == ROOT / "rlhf"
        or re.fullmatch(r"(reward|annotation)\.((train_|evaluate_|export_|app|command).*|\w+_command)", name)
    )
}
LIBRARY = sorted(set(MODULES) - ENTRY_POINTS - {"rlhf"})


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; for `from a import b`, both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def package_of(name: str) -> str:
    return next(package for package in ALLOWED if within(name, package))


@pytest.mark.parametrize("name", LIBRARY)
def test_imports_go_one_way(name: str) -> None:
    own = package_of(name)
    for imported in imports(MODULES[name]):
        if imported.split(".")[0] not in PACKAGES or imported in ("rlhf", "rlhf.__version__"):
            continue
        assert any(within(imported, package) for package in (own, *ALLOWED[own])), f"{name} imports {imported}"


@pytest.mark.parametrize("name", LIBRARY)
def test_library_modules_import_no_entry_point(name: str) -> None:
    for imported in imports(MODULES[name]):
        assert not any(within(imported, entry) for entry in ENTRY_POINTS), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in LIBRARY if within(name, "rlhf.data")])
def test_data_needs_the_standard_library_only(name: str) -> None:
    # Only the chat module applies templates, whose errors are Jinja's.
    others = {"rlhf", "jinja2"} if name == "rlhf.data.chat" else {"rlhf"}
    for imported in imports(MODULES[name]):
        top = imported.split(".")[0]
        assert top in sys.stdlib_module_names or top in others, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in LIBRARY if within(name, "rlhf.algorithms")])
def test_algorithms_are_functions_on_tensors(name: str) -> None:
    for imported in imports(MODULES[name]):
        top = imported.split(".")[0]
        assert top in sys.stdlib_module_names or top in ("rlhf", "torch"), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "annotation")])
def test_annotation_runs_without_torch(name: str) -> None:
    heavy = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
    for imported in imports(MODULES[name]):
        assert imported.split(".")[0] not in heavy, f"{name} imports {imported}"
        assert not within(imported, "rlhf.engine"), f"{name} imports {imported}"
        assert not within(imported, "rlhf.training"), f"{name} imports {imported}"


@pytest.fixture(scope="module")
def other_packages() -> set[str]:
    return (set(importlib.metadata.packages_distributions()) | sys.stdlib_module_names) - set(PACKAGES)


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_no_module_hides_another_package(name: str, other_packages: set[str]) -> None:
    """`accelerate launch rlhf/train_ppo.py` puts `rlhf/` first on the path."""
    assert name.rpartition(".")[2] not in other_packages


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_is_a_drawer(name: str) -> None:
    assert not DRAWERS.intersection(name.split("."))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_modules_is_a_package(package: str) -> None:
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md"),
        *("Makefile", "pyproject.toml", "constraints.txt", ".ci/run"),
    ],
)
def test_the_files_a_reader_looks_for_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


def test_the_ci_script_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(item for items in extras.values() for item in items)]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0] for requirement in wanted} - {project["name"]}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {name.lower().replace("_", "-") for name in pins}
    assert {name for name in names if name.lower().replace("_", "-") not in pinned} == set()
    assert "+" not in pins["torch"]
