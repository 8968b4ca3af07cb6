"""Who imports whom: the dashboard stands on public names alone, and nothing stands on it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

import simulator

APP = sorted((ROOT / "dashboard").rglob("*.py"))
PRODUCT = sorted([*(ROOT / "simulator").rglob("*.py"), *(ROOT / "calibration").rglob("*.py")])
COMMAND = ROOT / "simulator" / "cli" / "dashboard.py"


def imports(file: Path) -> Iterator[tuple[str, str, bool]]:
    """Module, name ("" for the module itself) and whether it is imported inside a function."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from ((node.module or "", alias.name, inside) for alias in node.names)
        inside = inside or isinstance(node, ast.FunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), False)


@pytest.mark.parametrize("file", APP, ids=lambda file: file.name)
def test_the_dashboard_uses_public_names_of_the_simulator(file: Path) -> None:
    for module, name, _ in imports(file):
        top = module.partition(".")[0]
        if top == "simulator":
            assert module == "simulator", f"{file.name} imports from {module}"
            assert not name or name in simulator.__all__, f"{file.name} imports {name}"
        elif top == "calibration":
            assert name, f"{file.name} imports {module}"
            assert not any(part.startswith("_") for part in (*module.split("."), name)), name
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="simulator"), attr=name):
                assert name in simulator.__all__, f"{file.name} uses simulator.{name}"


def test_nothing_stands_on_the_dashboard() -> None:
    for file in PRODUCT:
        for module, name, inside in imports(file):
            top = module.partition(".")[0]
            assert top not in ("streamlit", "uvicorn", "starlette"), f"{file}: {module}"
            if top == "dashboard":
                assert file == COMMAND, f"{file}: {module}"
                assert inside, f"{file}: {module}.{name} is imported for every command"


@pytest.mark.parametrize(
    "what",
    [
        "import simulator",
        "from simulator.cli import cli; cli.main(['run', 'chat-8b-h100', '--no-files', '--set',"
        " 'workload.slice.requests=20'], standalone_mode=False)",
    ],
    ids=["import", "run"],
)
def test_other_commands_load_neither_streamlit_nor_plotly(what: str) -> None:
    code = f"""
import sys
try:
    {what}
except SystemExit as end:
    assert not end.code, end.code
print(sorted({{'streamlit', 'plotly', 'dashboard', 'uvicorn'}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
