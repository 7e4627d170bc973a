"""The house keeps its order: imports point down, files and functions stay small, `import alignrank` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import alignrank

SOURCE = Path(__file__).resolve().parents[1] / "src" / "alignrank"

# Top floor first. A room may import rooms of lower rows, and itself; rooms of one row do not know each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"api"},
    {"tuning"},
    {"training"},
    {"evaluation", "benchmark", "serve"},
    {"inference"},
    {"export", "data"},
    {"weights"},
    {"detectors", "metrics", "report"},
    {"plug"},
    {"assign", "losses", "nn"},
    {"boxes"},
    {"contracts", "config"},
    {"detections"},
    {"drawing"},
    {"class_names", "fonts"},
    {"files", "folders", "device", "input_size", "terminal"},
    {"extras", "arguments", "cores", "allocator", "imports"},
    {"errors", "version"},
]
RANK = {part: row for row, parts in enumerate(LAYERS) for part in parts}

MAX_LINES, SOFT_LINES, MAX_FUNCTION, MAX_PARAMETERS = 500, 300, 80, 7
# Files of more than SOFT_LINES lines: why, and since when. An entry that is no longer needed fails.
LONG_FILES: dict[str, str] = {
    "api.py": "the public object: a verb is a signature, what it means and one call; 2026-11-28",
}
# Functions of more than MAX_PARAMETERS: why, and since when. An entry that is no longer needed fails. The command line
# and the API, where a user's options come in one by one, are free.
MANY_PARAMETERS: dict[str, str] = {
    "assign/task_aligned.py:task_aligned": "a public name: predictions, truth and hyper-parameters; 2026-11-24",
    "nn/fine.py:__init__": "a public name: the paper's choices, which ablations vary; 2026-11-28",
    "losses/ranking.py:rank_consistent_loss": "a public name: inputs and hyper-parameters; 2026-11-24",
    "plug/fine.py:add_fine": "a public name: the model and FINE's options; 2026-11-28",
}
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
            if target == own:
                continue
            if target == "alignrank" or target.startswith("__"):
                found.append(f"{name}:{line} imports the top package, which sees all")
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
        ("data/coco.py", "def f():\n    from alignrank.training import run"),
        ("losses/focal.py", "from alignrank import detectors"),
        ("metrics/summary.py", "from ..training.fit import fit"),
        ("detectors/yolo.py", "if TYPE_CHECKING:\n    from alignrank.report.curves import plot"),
        ("export/onnx.py", "from alignrank.data.decode import decode"),
        ("training/fit.py", "import alignrank\nalignrank.Detector"),
        ("weights/checkpoint.py", "from alignrank import __version__"),
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
        ("weights/checkpoint.py", "from alignrank.version import __version__"),
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


def module_of(name: str) -> str:
    """`nn/conv.py` -> alignrank.nn.conv; of a package's __init__ the package."""
    return ".".join(["alignrank", *Path(name).with_suffix("").parts]).removesuffix(".__init__")


def circles(files: dict[str, str]) -> list[list[str]]:
    """Groups of modules that import each other, directly or around corners; deferred and TYPE_CHECKING imports count.

    `from a import b` is an import of the module a.b where there is one, else of a.
    """
    modules = {module_of(name): name for name in files}
    edges: dict[str, set[str]] = {}
    for module, name in modules.items():
        package = ".".join(["alignrank", *Path(name).parts[:-1]])
        found = set()
        for node in ast.walk(ast.parse(files[name])):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).rstrip(".")
                found |= {of if (of := f"{base}.{alias.name}") in modules else base for alias in node.names}
        edges[module] = (found & modules.keys()) - {module}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for module in edges[waiting.pop()] - seen:
                seen.add(module)
                waiting.append(module)
        return seen

    everything = {module: reached(module) for module in modules}
    groups = {tuple(sorted(o for o in seen if m in everything[o])) for m, seen in everything.items() if m in seen}
    return [list(group) for group in sorted(groups)]


def test_no_circles() -> None:
    """No two files import each other; the package's own __init__, which sees all, is imported by none."""
    assert circles(sources()) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"nn/a.py": "from alignrank.nn.b import x", "nn/b.py": "def f():\n    from alignrank.nn import a"},
            [["a", "b"]],
        ),
        (
            {"nn/a.py": "from . import b", "nn/b.py": "import alignrank.nn.c", "nn/c.py": "from .a import x"},
            [["a", "b", "c"]],
        ),
        ({"nn/a.py": "if TYPE_CHECKING:\n    from .b import T", "nn/b.py": "from .a import x"}, [["a", "b"]]),
        ({"nn/__init__.py": "from alignrank.nn.a import x", "nn/a.py": "from alignrank.nn import x"}, [["", "a"]]),
        ({"nn/a.py": "from .b import x", "nn/b.py": "import torch", "nn/c.py": "from .a import x"}, []),
    ],
)
def test_the_circle_check_works(files: dict[str, str], expected: list[list[str]]) -> None:
    full = [[f"alignrank.nn.{name}".removesuffix(".") for name in group] for group in expected]
    assert circles(files) == full


def crowded(files: dict[str, str]) -> list[str]:
    """`file:function` of more than MAX_PARAMETERS parameters, methods and lambdas included; self and cls are none."""
    found = []
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in taken)
                if count > MAX_PARAMETERS:
                    found.append(f"{name}:{getattr(node, 'name', 'lambda')}")
    return found


def test_functions_take_few_parameters() -> None:
    below = {name: text for name, text in sources().items() if not name.startswith("cli/") and name != "api.py"}
    assert sorted(crowded(below)) == sorted(MANY_PARAMETERS), "options travel as records"


def test_the_parameter_check_works() -> None:
    seven, eight = (", ".join(f"p{i}" for i in range(count)) for count in (7, 8))
    assert crowded({"a.py": f"class A:\n    def f(self, {seven}): ...\n    def g(self, *, {eight}): ..."}) == ["a.py:g"]


def test_import_takes_no_heavy_library() -> None:
    """In a fresh interpreter: neither torch nor what else takes time."""
    code = "import sys, alignrank; print(alignrank.__version__, *sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, *modules = result.stdout.split()
    assert version[0].isdigit()
    assert "alignrank" in modules
    heavy = {"torch", "torchvision", "numpy", "pydantic", "lightning", "timm", "matplotlib", "PIL", "supervision"}
    assert heavy & set(modules) == set()


def test_sub_packages_load_when_they_are_used() -> None:
    """`import alignrank; alignrank.losses.varifocal_loss` works in a fresh interpreter."""
    code = "import alignrank; print(alignrank.losses.varifocal_loss.__name__, alignrank.boxes.pairwise_iou.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["varifocal_loss", "pairwise_iou"]


def test_version_is_the_project_s() -> None:
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == alignrank.__version__
