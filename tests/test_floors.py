"""The package is built in floors: every import inside it goes strictly downward, wherever the import statement stands.

The tables below are the rule; the functions after them only read source files, so they are tried on made-up packages.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "deepnlme"

# Each top-level module or subpackage has one floor and may import only from floors below its own.
# "__init__" is the package itself: `import deepnlme` or a public name taken from it.
FLOORS: dict[float, tuple[str, ...]] = {
    0: ("errors",),
    0.5: ("axes", "numerics"),
    1: ("data", "parameters", "nn"),
    2: ("dynamics", "observation", "learning"),
    3: ("model",),
    3.5: ("joint",),
    4: ("estimation",),
    4.5: ("simulation",),
    5: ("covariates", "amortised", "discovery", "diagnostics", "compare"),
    6: ("plots", "__init__"),
    6.5: ("report",),
}
IMPORTED_ONLY_BY = {"plots": ("report",), "report": (), "__init__": ()}
ONLY_IN = {"matplotlib": "plots", "jinja2": "report"}
VAGUE_NAMES = ("utils", "util", "misc", "helpers", "helper")
NOT_AT_IMPORT = ("matplotlib", "arviz", "optuna", "sklearn", "dask", "pyro", "jinja2")


@dataclass(frozen=True)
class Import:
    """One import: the module that holds it, the line, and the dotted name that it asks for."""

    module: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def source_modules(package: Path) -> dict[str, Path]:
    """Dotted module name -> file, for every file of the package; a package goes by its own name, without __init__."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(module: str, path: Path, modules: dict[str, Path]) -> list[Import]:
    """Every import in one file: at the top, in functions, for types only, relative, or by importlib with a literal."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            found += [Import(module, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join(here[: len(here) - node.level + 1] + ([node.module] if node.module else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(Import(module, node.lineno, inner if inner in modules else base))
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                found.append(Import(module, node.lineno, str(node.args[0].value)))
    return found


def part_of(module: str) -> str:
    """The top-level part that a dotted name inside the package belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def check(package: Path) -> list[str]:
    """All violations in a package laid out as the tables say; an empty list when there are none."""
    floor = {part: number for number, parts in FLOORS.items() for part in parts}
    modules = source_modules(package)
    problems, edges = [], {module: set() for module in modules}
    for module, path in modules.items():
        own = part_of(module)
        if own not in floor:
            problems.append(f"{module} has no floor: add `{own}` to the table")
            continue
        for item in imports_of(module, path, modules):
            top = item.target.split(".")[0]
            if top in ONLY_IN and own != ONLY_IN[top]:
                problems.append(f"{item}: only {ONLY_IN[top]} may")
            if top != package.name:
                continue
            other = part_of(item.target)
            if other == own and module != item.target:
                edges[module].add(item.target)
            elif own not in IMPORTED_ONLY_BY.get(other, (own,)):
                problems.append(f"{item}: nobody may" + "".join(f" but {who}" for who in IMPORTED_ONLY_BY[other]))
            elif other not in floor:
                problems.append(f"{item}: `{other}` has no floor")
            elif other != own and floor[other] >= floor[own]:
                problems.append(f"{item}: floor {floor[other]} from floor {floor[own]}")
    return problems + [f"cycle: {' -> '.join(cycle)}" for cycle in cycles(edges)]


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Import cycles among modules, each as the path that closes it."""
    found, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


def test_imports_go_strictly_downward():
    assert source_modules(PACKAGE), f"no modules under {PACKAGE}"
    problems = check(PACKAGE)
    assert not problems, "\n".join(problems)


def test_no_vague_module_names():
    vague = [name for name in source_modules(PACKAGE) if set(name.split(".")) & set(VAGUE_NAMES)]
    assert not vague


def test_import_is_light():
    code = f"import sys, deepnlme; print([name for name in {NOT_AT_IMPORT!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def write_package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "deepnlme"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


GOOD = {
    "__init__.py": "from deepnlme.model import Model\nfrom deepnlme.estimation import fit\n",
    "errors.py": "class DataError(ValueError): ...\n",
    "data/__init__.py": "from deepnlme.data.population import Population\n",
    "data/population.py": "import numpy\nfrom ..errors import DataError\nfrom .records import Records\n",
    "data/records.py": "from deepnlme.errors import DataError\n",
    "model.py": "def f():\n    from deepnlme.data import Population\n    import torch\n",
    "estimation/__init__.py": "from deepnlme import model\n",
    "plots/__init__.py": "import matplotlib.pyplot\nfrom deepnlme.model import Model\n",
    "report/__init__.py": "import jinja2\nfrom deepnlme.plots import plot_vpc\n",
}
BAD = {
    "upward": ("data/records.py", "from deepnlme.model import Model", "deepnlme.model: floor 3 from floor 1"),
    "in a function": (
        "model.py",
        "def f():\n    from .estimation import fit",
        "deepnlme.estimation: floor 4 from floor 3",
    ),
    "for types only": (
        "model.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deepnlme.estimation",
        "floor 4 from floor 3",
    ),
    "same floor": ("nn.py", "from deepnlme.data import Population", "deepnlme.data: floor 1 from floor 1"),
    "relative": ("data/records.py", "from .. import model", "deepnlme.model: floor 3 from floor 1"),
    "public names": ("model.py", "import deepnlme as dn", "imports deepnlme: nobody may"),
    "public name": ("model.py", "from deepnlme import fit", "imports deepnlme: nobody may"),
    "plots": ("__init__.py", "def f():\n    from deepnlme import plots", "deepnlme.plots: nobody may but report"),
    "report": ("plots/page.py", "from deepnlme.report import report", "deepnlme.report: nobody may"),
    "matplotlib in a report": ("report/page.py", "import matplotlib", "only plots may"),
    "by name": (
        "model.py",
        "import importlib\nimportlib.import_module('deepnlme.report')",
        "deepnlme.report: nobody may",
    ),
    "matplotlib": ("model.py", "def f():\n    import matplotlib.pyplot as plt", "only plots may"),
    "jinja2": ("plots/page.py", "from jinja2 import Template", "only report may"),
    "no floor": ("extras.py", "", "deepnlme.extras has no floor"),
    "cycle": ("data/records.py", "from deepnlme.data.population import Population", "cycle: deepnlme.data.population"),
    "cycle through the package": ("data/records.py", "from deepnlme.data import Population", "cycle: deepnlme.data ->"),
}


def test_checker_accepts_a_good_package(tmp_path):
    assert check(write_package(tmp_path, GOOD)) == []


@pytest.mark.parametrize("name", BAD)
def test_checker_finds(name, tmp_path):
    file, text, message = BAD[name]
    problems = check(write_package(tmp_path, {**GOOD, file: text}))
    assert len(problems) == 1 and message in problems[0], problems
