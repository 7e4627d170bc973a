"""Where an ONNX file begins to differ: the node is named, in the error and in the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_weights import spread_scores, write_tiny_weights
from torch import Tensor, nn

import alignrank
from alignrank.contracts import Predictions
from alignrank.detectors.postprocess import TopK
from alignrank.errors import ExportError
from alignrank.export import first_difference as search
from alignrank.export import onnx as export
from alignrank.export.first_difference import DIFFERS, FirstDifference, first_difference, located
from alignrank.export.graph import ExportGraph, subject_of
from alignrank.export.traced import onnx_program

onnx = pytest.importorskip("onnx")
SIDE = 64
WEIGHT = "model.head.cls.0.4.weight"
IMAGES = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Four layers in a row."""

    stride = 32

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Conv2d(3, 8, 32, 32)
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU(), nn.GroupNorm(2, 8)) for _ in range(4))

    def forward(self, images: Tensor) -> Predictions:
        x = self.enter(images)
        for layer in self.layers:
            x = layer(x)
        cells = x.flatten(2).transpose(1, 2)
        return Predictions(cells[..., :2], cells[..., 2:6].cumsum(-1))


@pytest.fixture(scope="module")
def graph() -> ExportGraph:
    return subject_of(Chain(), TopK(), imgsz=SIDE, names=["a", "b"]).graph


@pytest.fixture(scope="module")
def program(graph: ExportGraph) -> Any:
    """Traced once: that takes seconds."""
    return onnx_program(graph, (SIDE, SIDE))


@pytest.fixture
def exported(program: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(search, "onnx_program", lambda graph, size: program)
    monkeypatch.setattr(search, "AT_ONCE", 5)
    return program.model_proto


def changed(model: Any, name: str, factor: float) -> Any:
    """A copy in which the numbers of one weight are multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (weight,) = [tensor for tensor in copy.graph.initializer if tensor.name.endswith(name)]
    values = onnx.numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return copy


@pytest.mark.parametrize("layer", [0, 3])
def test_a_changed_weight_names_its_node(layer: int, graph: ExportGraph, exported: Any) -> None:
    """Of the first and of a later one of the runs that read values."""
    weight = f"layers.{layer}.0.weight"
    found = first_difference(changed(exported, weight, 1.1), graph, IMAGES)
    assert found is not None
    assert (found.operator, found.part) == ("Conv", f"model.layers.{layer}.0")
    (node,) = [node for node in exported.graph.node if node.name == found.node]
    assert any(name.endswith(weight) for name in node.input)
    assert 0.001 < found.share <= 0.15
    assert len(exported.graph.node) > 2 * search.AT_ONCE


def test_what_differs_by_less(graph: ExportGraph, exported: Any) -> None:
    assert first_difference(exported, graph, IMAGES) is None
    slightly = changed(exported, "layers.1.0.weight", 1.002)
    assert first_difference(slightly, graph, IMAGES, precision="fp16") is None
    broken = changed(exported, "enter.weight", float("nan"))
    assert first_difference(broken, graph, IMAGES, precision="int8") is not None


def test_in_words() -> None:
    error = located("export: no", FirstDifference("node_conv2d_3", "Conv", "model.head", 0.25), precision="fp32")
    assert str(error) == (
        "export: no; the first value that differs is that of node node_conv2d_3 (Conv of model.head), by 0.25 of its "
        "largest number"
    )
    first = {"node": "node_conv2d_3", "operator": "Conv", "part": "model.head", "share": 0.25}
    assert error.record == {"first_difference": first}
    error = located("export: no", FirstDifference("n", "Mul", "", float("inf")), precision="fp32")
    assert error.record["first_difference"]["share"] is None, "JSON has no infinity"
    assert "node n (Mul), by inf" in str(error)
    error = located("export: no", None, precision="fp16")
    assert f"no value of its graph alone differs by more than {DIFFERS['fp16']}" in str(error)
    assert error.record == {"first_difference": None}


def test_the_gate_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is damaged after its graph was compared fails on pictures, and the record says where."""
    detector = alignrank.Detector.load(write_tiny_weights(tmp_path / "w.safetensors", ("red", "green")))
    spread_scores(detector.model)
    write, trace, traced = export._write, export.onnx_program, []

    def kept(graph: ExportGraph, size: Any) -> Any:
        traced.append(trace(graph, size))
        return traced[0]

    def damaged(path: Path, content: bytes) -> None:
        write(path, changed(onnx.load_from_string(content), WEIGHT, 0.5).SerializeToString())

    monkeypatch.setattr(export, "onnx_program", kept)
    monkeypatch.setattr(search, "onnx_program", lambda graph, size: traced[0])
    monkeypatch.setattr(export, "_write", damaged)
    with pytest.raises(ExportError, match=r"onnx does not say .* not written; the first value that differs"):
        detector.export("onnx", out=tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx.parity.json", "w.safetensors"]
    written = json.loads((tmp_path / "m.onnx.parity.json").read_text())
    assert (written["file"], written["passed"], written["images"]) == ("m.onnx", False, 8)
    assert written["first_difference"]["operator"] == "Conv"
    assert written["first_difference"]["part"] == WEIGHT.removesuffix(".weight")
    assert written["first_difference"]["node"] in written["problem"]
