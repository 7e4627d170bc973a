"""Where an ONNX file begins to say other things than the network: for a comparison that has failed.

PyTorch's exporter gives the values of a graph the names of the traced program's steps. Both are run on the same images,
the file without the runtime's optimizations, and their values are compared in the program's order. What has no
counterpart of its name, such as the parts of what the exporter joined, is passed over; so are whole numbers, which
places of a sorting are: among equal scores any order is right.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from alignrank.errors import ExportError
from alignrank.export.graph import Array, ExportGraph
from alignrank.export.session import session_of
from alignrank.export.traced import onnx_program

# By precision: the share of a value's largest number from which on it is another one. In 8 bits each differs a little.
DIFFERS = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.25}
# Values that are read in one run: all of a large network would take gigabytes.
AT_ONCE = 32
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """node: its name in the file; operator: its kind; part: path of the network's module, "" outside of all; share: the
    difference, of the value's largest number (infinite for NaN).
    """

    node: str
    operator: str
    part: str
    share: float

    def __str__(self) -> str:
        part = f" of {self.part}" if self.part else ""
        return (
            f"the first value that differs is that of node {self.node} ({self.operator}{part}), by {self.share:.2g} of "
            "its largest number"
        )


def first_difference(
    model: Any, graph: ExportGraph, images: Tensor, *, precision: str = "fp32"
) -> FirstDifference | None:
    """Of an ONNX model (a protobuf) that `graph` was exported to, None where no value differs by more than `DIFFERS`.

    images: [B,3,H,W] float32, B at least 2, which the graph was made for; H and W as the file takes them. Traces the
    graph once more.
    """
    program = onnx_program(graph, (images.shape[2], images.shape[3])).exported_program
    if program is None:
        return None
    made_by = {name: node for node in model.graph.node for name in node.output}
    steps = program.module()
    values = _FileValues(model, [node.name for node in steps.graph.nodes if node.name in made_by], images.numpy())
    found: list[FirstDifference] = []

    def see(name: str, expected: Tensor) -> None:
        if found or name not in made_by or not expected.is_floating_point():
            return
        share = _share(torch.from_numpy(values[name]), expected)
        # Written so that NaN differs.
        if not share <= DIFFERS[precision]:
            node = made_by[name]
            found.append(FirstDifference(node.name, node.op_type, module_of(node), share))

    with torch.no_grad():
        _Watched(steps, see).run(images)
    return found[0] if found else None


def located(message: str, found: FirstDifference | None, *, precision: str) -> ExportError:
    """The error of a comparison that has failed, as `message` has it, with where that begins."""
    nowhere = (
        f"no value of its graph alone differs by more than {DIFFERS[precision]:g} of its largest number: small "
        "differences add up, or the runtime's own optimizations make them"
    )
    first = None if found is None else asdict(found) | {"share": found.share if isfinite(found.share) else None}
    return ExportError(f"{message}; {found or nowhere}", {"first_difference": first})


def module_of(node: Any) -> str:
    """Path of the module whose forward made an ONNX node, "" where that is the graph itself."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)  # of modules, outermost first, and of the operator itself
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _share(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    difference, largest = (actual.double() - expected.double()).abs().max(), expected.double().abs().max()
    return float((difference / largest.clamp(min=1e-9)).nan_to_num(float("inf")))


class _Watched(torch.fx.Interpreter):
    """Runs a program and shows each of its tensors, by the step's name."""

    def __init__(self, program: Any, see: Callable[[str, Tensor], None]) -> None:
        super().__init__(program)
        self._see = see

    def run_node(self, n: torch.fx.Node) -> Any:
        """As its base."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self._see(n.name, value)
        return value


class _FileValues(Mapping[str, Array]):
    """Values of an ONNX model by name, `AT_ONCE` read when one of them is asked for; `names` in the order of asking."""

    def __init__(self, model: Any, names: Sequence[str], images: Array) -> None:
        self._model, self._names, self._images = model, names, images
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._read:
            first = self._names.index(name)
            self._read = self._run(self._names[first : first + AT_ONCE])
        return self._read[name]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _run(self, names: Sequence[str]) -> dict[str, Array]:
        import onnx

        opened = onnx.ModelProto()
        opened.CopyFrom(self._model)
        del opened.graph.output[:]
        opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        session = session_of(opened.SerializeToString(), optimized=False)
        (given,) = session.get_inputs()
        return dict(zip(names, session.run(list(names), {given.name: self._images}), strict=True))
