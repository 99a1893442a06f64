"""The shape of the code: rooms of a readable size, imports one way, no side effects of an import.

The order of the rooms and what stays free of torch, Ray and MLflow is held by ``lint-imports``
(contracts in ``pyproject.toml``).
"""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("okddip_search", "trainer")
MOST_FILES = 15
MOST_LAYERS = 12


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


MODULES = modules()


def imports(module: str, *, lazy: bool) -> set[str]:
    """Return the modules of ours that a module imports; ``lazy``: in functions and types, too."""
    tree = ast.parse(MODULES[module].read_text())
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found |= {name if name in MODULES else node.module} & MODULES.keys()
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES.keys()
    return found - {module}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_can_be_read_at_a_glance(package):
    for folder in (ROOT / package, *(ROOT / package).rglob("*/")):
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder} has {len(files)} modules"


def test_a_file_has_one_idea():
    for path in MODULES.values():
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_way_down_is_short():
    @cache
    def layers(module: str) -> int:
        below = {m for m in imports(module, lazy=False) if m.startswith("okddip_search")}
        return 1 + max(map(layers, below), default=0)

    depth = {module: layers(module) for module in MODULES if module.startswith("okddip_search")}
    deepest = max(depth, key=lambda module: depth[module])
    assert depth[deepest] <= MOST_LAYERS, f"{deepest} stands on {depth[deepest] - 1} others"


def test_no_import_leads_back_to_where_it_began():
    """Lazy and type-only imports included: a reader follows them all the same."""
    graph = {module: imports(module, lazy=True) for module in MODULES}
    open_, done = [], set()

    def visit(module: str) -> None:
        assert module not in open_, " → ".join([*open_[open_.index(module) :], module])
        if module in done:
            return
        open_.append(module)
        for other in sorted(graph[module]):
            visit(other)
        done.add(open_.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_changes_nothing_in_the_process(package):
    probe = f"""
import os, sys
umask = os.umask(0); os.umask(umask)
before = dict(os.environ), umask
import {package}
now = os.umask(0)
assert (dict(os.environ), now) == before
assert not {{"torch", "ray", "mlflow", "optuna"}} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", probe], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "okddip_search", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ", version 0." in done.stdout
