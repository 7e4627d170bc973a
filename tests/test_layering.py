"""The house keeps its order: imports point down, files and functions stay small, `import alignrank` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "alignrank"

# Top first. A part may import parts of lower rows, and itself; parts of one row do not know each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"api"},
    {"engine"},
    {"detectors", "data", "metrics", "report"},
    {"plug"},
    {"assign", "losses", "nn"},
    {"boxes"},
    {"contracts", "config"},
    {"drawing", "files"},
    {"errors"},
]
RANK = {part: row for row, parts in enumerate(LAYERS) for part in parts}

MAX_LINES, SOFT_LINES, MAX_FUNCTION = 500, 300, 80
# Files of more than SOFT_LINES lines: why, and since when. An entry that is no longer needed fails.
LONG_FILES: dict[str, str] = {}
DRAWERS = {"utils", "util", "misc", "common", "helpers", "helper"}


def part_of(module: str) -> str:
    """`alignrank.nn.conv` -> nn; `alignrank` alone -> alignrank."""
    return module.split(".")[1] if "." in module else module


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ours in `tree`, function-level and TYPE_CHECKING ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "alignrank":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, module]).rstrip(".")
            if module == "alignrank":
                yield from ((node.lineno, f"alignrank.{alias.name}") for alias in node.names)
            elif module.startswith("alignrank."):
                yield node.lineno, module


def upward_imports(files: dict[str, str]) -> list[str]:
    """Violations in {path below alignrank/: source text}."""
    found = []
    for name, text in files.items():
        path = Path(name)
        own = path.parts[0].removesuffix(".py")
        package = ".".join(["alignrank", *path.parts[:-1]])
        for line, module in imports(ast.parse(text), package):
            target = part_of(module)
            if target.startswith("__") or target == own:  # the version
                continue
            if target == "alignrank":
                # `import alignrank` gives the version; the public names behind it belong to the top layers.
                used = {
                    node.attr
                    for node in ast.walk(ast.parse(text))
                    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == target
                }
                if RANK[own] > RANK["api"] and used - {"__version__"}:
                    found.append(f"{name}:{line} uses {sorted(used)} of the top package")
            elif target not in RANK:
                found.append(f"{name}:{line} imports {module}, which has no layer")
            elif RANK[target] <= RANK[own]:
                found.append(f"{name}:{line} ({own}) imports {module}")
    return found


def sources() -> dict[str, str]:
    """Every file but the package's own __init__, which sees all."""
    return {
        str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8")
        for path in sorted(SOURCE.rglob("*.py"))
        if path != SOURCE / "__init__.py"
    }


def test_every_part_has_a_layer() -> None:
    assert {Path(name).parts[0].removesuffix(".py") for name in sources()} <= set(RANK)


def test_imports_point_down() -> None:
    assert upward_imports(sources()) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("boxes.py", "from alignrank.nn import conv"),
        ("nn/conv.py", "import alignrank.losses"),
        ("data/coco.py", "def f():\n    from alignrank.metrics import evaluate"),
        ("losses/focal.py", "from alignrank import detectors"),
        ("metrics/summary.py", "from ..engine.train import fit"),
        ("detectors/yolo.py", "if TYPE_CHECKING:\n    from alignrank.report.curves import plot"),
        ("engine/train.py", "import alignrank\nalignrank.Detector"),
        ("nn/conv.py", "from alignrank.nowhere import x"),
    ],
)
def test_the_check_finds_what_it_should(name: str, text: str) -> None:
    assert len(upward_imports({name: text})) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cli.py", "from alignrank.api import Detector"),
        ("nn/csp.py", "from alignrank.nn.conv import ConvNormAct\nfrom .conv import x\nfrom ..boxes import area"),
        ("engine/checkpoint.py", "import alignrank\nalignrank.__version__\nfrom alignrank import __version__"),
        ("config.py", "from alignrank.errors import InputError"),
    ],
)
def test_the_check_allows_what_it_should(name: str, text: str) -> None:
    assert upward_imports({name: text}) == []


def test_files_are_short() -> None:
    lengths = {name: text.count("\n") for name, text in sources().items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}
    long = {name for name, length in lengths.items() if length > SOFT_LINES}
    assert long == set(LONG_FILES), "LONG_FILES must name exactly the files of more than 300 lines"


def test_functions_are_short() -> None:
    long = [
        f"{name}:{node.lineno} {node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for name, text in sources().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    ]
    assert long == []


def test_no_drawers() -> None:
    names = {part.removesuffix(".py") for name in sources() for part in Path(name).parts}
    assert names & DRAWERS == set()


def test_import_takes_no_heavy_library() -> None:
    """In a fresh interpreter: neither torch nor what else takes time."""
    code = "import sys, alignrank; print(alignrank.__version__, *sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, *modules = result.stdout.split()
    assert version[0].isdigit()
    assert "alignrank" in modules
    heavy = {"torch", "torchvision", "numpy", "pydantic", "lightning", "timm", "matplotlib", "PIL", "supervision"}
    assert heavy & set(modules) == set()
