"""One-token faults that a Python file can have, for `mutation.py`: where they are, and which nobody could notice."""

from __future__ import annotations

import ast
import hashlib
import io
import random
import sys
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

SWAPS = {"<": "<=", ">": ">=", "==": "!=", "+": "-", "*": "/", "+=": "-=", "*=": "/=", "and": "or"}
SWAPS |= {"min": "max", "amin": "amax", "argmin": "argmax", "minimum": "maximum"}
SWAPS |= {new: old for old, new in SWAPS.items()}
OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.And: "and", ast.Or: "or"}
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
# Calls whose arguments are for a reader, and keywords whose values change nothing that a caller can observe.
MESSAGES = {"print", "warn", "warning", "info", "debug", "error", "say"}
KEYWORDS = {
    "strict": "of zip: an assertion about ourselves",
    "non_blocking": "speed",
    "pin_memory": "speed",
    "persistent_workers": "speed",
    "maxsize": "of a cache: speed",
    "repr": "wording",
}
# Numbers that say how thick, large, light or far apart something is drawn: values of these keywords and keys, and those
# of lines that hold one of these texts.
DRAWN_IN = ("report/", "drawing.py")
DRAWN = {"linewidth", "width", "height", "alpha", "opacity", "size", "markersize", "fontsize", "labelsize", "length"}
DRAWN |= {"zorder", "shrink", "aspect", "pad", "linestyle", "font_size", "rotation", "tickfont", "margin"}
DRAWN_LINES = {
    "drawing.py": ("thickness = ", "size, padding", "text_width =", "text_height =", "lightness", "turn"),
    "report/charts.py": ("plain_layout(", "1.05", "bargap", "nticks", "MAX_STEPS =", "x_range = ", "size = 5 + 17"),
    "report/curves.py": (
        *("new_figure(", "float(np.clip(", "font = min(", "rotation=", "np.arange(kinds + 2)", "linewidth=", "shrink="),
        *("zorder=", "scilimits", "1.02"),
    ),
    "report/gallery.py": ("* size", "/ 17"),
    "report/html.py": ("sample = element(", "_mixed(color"),
    "report/pictures.py": ("_INK, _PAPER", "gap, strip", "font = ", "pen.text(", "tile: int"),
    "report/layer_curves.py": ("new_figure(", "linewidth=", "1.02", "1.05", "RAMP ="),
    "report/plot_parts.py": ("bbox_to_anchor", "w_pad", "dpi=", "absent, ha", "linewidth="),
    "report/plotly_parts.py": ('"margin"', "namelength", "standoff", "place = {"),
}
# (file, part of the faulty line that the line does not have without it): why no caller could observe the fault.
EQUIVALENT = {
    ("assign/atss.py", "overlap, -2)"): "any number below every overlap",
    ("assign/max_iou.py", "overlap, -2)"): "any number below every overlap",
    ("config.py", "key_node, deep=False)"): "for keys that are containers, which are refused either way",
    ("losses/ranking.py", "if len(gt_index) else 1"): "without entries the size is not used",
    ("data/digit_scene.py", "v / 256"): "looks: a grey of 255",
    ("data/digit_scene.py", "middle <= 128"): "looks: a grey of 255",
    ("detectors/reppoints_criterion.py", "progress: float = 1.1"): "no term of it fades in",
    ("inference/pixels.py", "clamp(0, 256)"): "what is let in above 1 rounds to 255",
    ("metrics/matching.py", "sizes: bool = True"): "who leaves it out reads the first of the sizes: speed",
    ("report/gallery.py", "right - 0.15 / size"): "looks",
    ("training/fit.py", "plan.devices != 1"): "of GPUs",
    ("training/fit.py", "plan.devices > 1 or"): "of GPUs",
    ("training/options.py", "num_bytes >= free_memory()"): "a byte of memory",
    ("report/charts.py", "len(d.density_edges) >= 1"): "a single edge bounds no density",
}


@dataclass(frozen=True)
class Fault:
    """`old` at a line and column of a file of src/alignrank becomes `new`."""

    file: str
    text: str
    line: int
    column: int
    old: str
    new: str

    @cached_property
    def faulty(self) -> str:
        lines = self.text.splitlines(keepends=True)
        line = lines[self.line - 1]
        lines[self.line - 1] = line[: self.column] + self.new + line[self.column + len(self.old) :]
        return "".join(lines)

    @property
    def compiles(self) -> bool:
        try:
            compile(self.faulty, self.file, "exec")
        except SyntaxError:
            return False
        return True

    @property
    def change(self) -> tuple[str, str]:
        """The line before and after."""
        return self.text.splitlines()[self.line - 1].strip(), self.faulty.splitlines()[self.line - 1].strip()

    @property
    def key(self) -> str:
        return digest(self.file, self.text, str((self.line, self.column, self.new)))

    @property
    def equivalent(self) -> tuple[str, str] | None:
        """The entry of the table that names it."""
        before, after = self.change
        return next((k for k in EQUIVALENT if k[0] == self.file and k[1] in after and k[1] not in before), None)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


class Finder(ast.NodeVisitor):
    """All faults that a file could have, in the order of its syntax tree."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text, self.faults, self.index = file, text, list[Fault](), False
        self.lines = text.splitlines()
        self.tokens = [
            ((t.start[0], t.start[1]), t.string) for t in tokenize.generate_tokens(io.StringIO(text).readline)
        ]
        self.visit(ast.parse(text))

    def place(self, node: ast.AST, end: bool = False) -> tuple[int, int]:
        """Line and column in characters; those of a syntax tree count bytes."""
        line: int = node.end_lineno if end else node.lineno  # type: ignore[attr-defined]
        offset: int = node.end_col_offset if end else node.col_offset  # type: ignore[attr-defined]
        return line, len(self.lines[line - 1].encode()[:offset].decode())

    def add(self, place: tuple[int, int], old: str, new: str | None = None) -> None:
        self.faults.append(Fault(self.file, self.text, *place, old, SWAPS[old] if new is None else new))

    def swap(self, words: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> None:
        """The first token from `start` to `end` that is one of the words."""
        for place, token in self.tokens:
            if start <= place < end and token in words:
                return self.add(place, token)
        return None

    def generic_visit(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list", "type_params"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_Raise(self, node: ast.Raise) -> None: ...

    def visit_If(self, node: ast.If) -> None:
        if not any(name in ast.unparse(node.test) for name in ("TYPE_CHECKING", "__name__")):
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            if isinstance(operator, COMPARISONS):
                self.swap(("<", "<=", ">", ">=", "==", "!="), self.place(left, end=True), self.place(right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.swap((OPERATORS[type(node.op)],), self.place(left, end=True), self.place(right))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.add(self.place(node), "not", "")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        # Strings, lists and tuples know one of the two operators: any test notices.
        joined = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)
        operands = (node.left, node.right)
        texts = (isinstance(operand, ast.Constant) and isinstance(operand.value, str) for operand in operands)
        if type(node.op) in OPERATORS and not any(isinstance(x, joined) for x in operands) and not any(texts):
            self.swap((OPERATORS[type(node.op)],), self.place(node.left, end=True), self.place(node.right))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.swap(("+=", "-=", "*=", "/="), self.place(node.target, end=True), self.place(node.value))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        outside, self.index = self.index, True
        self.visit(node.slice)
        self.index = outside

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in MESSAGES:
            return
        if name in SWAPS:
            line, column = self.place(node.func, end=True)
            self.add((line, column - len(name)), name)
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg in ("min", "max"):
            self.add(self.place(node), node.arg)
        if node.arg not in KEYWORDS and not self.drawn(node.arg, node.value):
            self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if not (isinstance(key, ast.Constant) and self.drawn(key.value, value)):
                self.visit(value)

    def drawn(self, name: object, value: ast.expr) -> bool:
        return self.file.startswith(DRAWN_IN) and name in DRAWN and isinstance(value, ast.Constant | ast.Tuple)

    def visit_Constant(self, node: ast.Constant) -> None:
        value, place = node.value, self.place(node)
        if any(part in self.lines[place[0] - 1] for part in DRAWN_LINES.get(self.file, ())):
            return
        old = self.lines[place[0] - 1][place[1] : self.place(node, end=True)[1]]
        if isinstance(value, bool):
            self.add(place, old, str(not value))
        elif isinstance(value, int):
            self.add(place, old, str(0 if self.index and value == 1 else value + 1))
        elif isinstance(value, float):
            self.add(place, old, "0.1" if value == 0 else "0.0" if value < 1e-5 else repr(float(f"{value * 1.1:.6g}")))


def chosen(files: dict[str, str], count: int, seed: int) -> list[Fault]:
    """From each file as many as is its share of all code, rounded up or down by the seed; of a line one at most."""
    found = {file: Finder(file, text).faults for file, text in files.items()}
    nodes = {file: [n for n in ast.walk(ast.parse(files[file])) if isinstance(n, ast.expr)] for file in files}
    sizes = {file: len({n.lineno for n in nodes[file]}) if found[file] else 0 for file in files}
    start, share, faults = random.Random(seed).random(), count / max(1, sum(sizes.values())), list[Fault]()
    for file in sorted(files, key=lambda file: digest(str(seed), file)):
        end, lines = start + sizes[file] * share, set[int]()
        for fault in sorted(found[file], key=lambda fault: digest(str(seed), *fault.change, str(fault.column))):
            free = len(lines) < int(end + 1e-9) - int(start + 1e-9) and fault.line not in lines
            if free and fault.equivalent is None and fault.compiles:
                faults.append(fault)
                lines.add(fault.line)
        start = end
    named = {fault.equivalent for file in files for fault in found[file]}
    for file, part in EQUIVALENT:
        if file in files and (file, part) not in named:
            print(f"EQUIVALENT: {file} has no fault {part!r}", file=sys.stderr)
    return faults
