"""Export of networks that choose among their cells: what is up to the last digit is followed, the rest is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from alignrank.contracts import Choice, Predictions
from alignrank.detectors import alignrank as detector
from alignrank.detectors.postprocess import TopK
from alignrank.export import onnx as export
from alignrank.export.onnx import ExportError, ExportGraph, export_onnx
from alignrank.weights.recipe import load_recipe

NAMES = ["cell", "plate"]
SIDE = 64
NUM_CELLS, CHOSEN = 12, 7


class Choosing(nn.Module):
    """Twelve cells in a row, 3 px apart, with boxes 20 px wide: the best seven are merged above .6.

    All cells have the same score, which the brightness of the image decides: like a network that has learned nothing.
    """

    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.suppression = detector.Suppression(0.8, consensus=0.6)
        nn.init.ones_(self.suppression.strength)
        left = 3.0 * torch.arange(NUM_CELLS)
        self.register_buffer("boxes", torch.stack([left, left * 0, left + 20, left * 0 + 20], -1))
        self.register_buffer("order", torch.arange(NUM_CELLS))
        self.register_buffer("better", torch.zeros(NUM_CELLS))

    def forward(self, images: Tensor) -> Predictions:
        return self.settle(self.choose(images).predictions)

    def choose(self, images: Tensor, cells: Tensor | None = None) -> Choice:
        brightness = images.mean((1, 2, 3))[:, None]
        scores = brightness + self.better  # [B,A]
        if cells is None:
            cells = self.order[scores[:, self.order].topk(CHOSEN).indices]
        best = scores.gather(1, cells)
        logits = torch.stack([best, best - 5], -1)
        boxes = self.boxes[cells] * self.scale
        return Choice(cells, best, Predictions(logits, boxes))

    def settle(self, chosen: Predictions) -> Predictions:
        return Predictions(*self.suppression.merge(chosen.logits, chosen.boxes))


@pytest.fixture(scope="module")
def exported() -> bytes:
    """The graph with its choices; of equal cells it takes the first."""
    content: bytes = export._to_onnx(graph_of(Choosing()), (SIDE, SIDE)).SerializeToString()
    return content


def graph_of(model: Choosing) -> ExportGraph:
    return ExportGraph(model, nms_free=True, max_dets=CHOSEN).eval()


def test_equal_cells_are_chosen_in_any_order(exported: bytes) -> None:
    """PyTorch chooses from the other end. Its boxes are others, so the outputs alone cannot be compared."""
    graph, images = graph_of(Choosing()), torch.full((1, 3, SIDE, SIDE), 0.5)
    graph.model.order.copy_(graph.model.order.flip(0))
    export.check_parity(graph, exported, size=(SIDE, SIDE))
    boxes, scores, labels, *_ = onnxruntime.InferenceSession(exported).run(None, {"images": images.numpy()})
    assert (boxes.shape, scores.shape, labels.shape) == ((1, CHOSEN, 4), (1, CHOSEN), (1, CHOSEN))
    with torch.no_grad():
        other = graph.model(images)
    with pytest.raises(ExportError, match="are not the network's"):
        export._check_rows(boxes[0], scores[0], labels[0], other.boxes[0].numpy(), other.scores()[0].numpy())


def moved_means(model: Any) -> None:
    """Merged boxes are half a pixel away."""
    merge = model.suppression.merge
    model.suppression.merge = lambda logits, boxes: (merge(logits, boxes)[0], merge(logits, boxes + 0.5)[1])


def wrong_logits(model: Any) -> None:
    """Those of the second class are higher."""
    choose = model.choose

    def wrong(images: Tensor, cells: Tensor | None = None) -> Choice:
        chosen: Choice = choose(images, cells)
        chosen.predictions.logits = chosen.predictions.logits + torch.tensor([0.0, 0.1])
        return chosen

    model.choose = wrong


FAULTS: dict[str, Callable[[Any], object]] = {
    "scores that cells are chosen by": lambda model: model.better.copy_(torch.linspace(0, 1, NUM_CELLS)),
    "scores of cells": wrong_logits,
    "boxes of cells": lambda model: model.scale.data.fill_(1.01),
    "rows are not the network's": moved_means,
    "scores of ONNX Runtime; another consensus": lambda model: setattr(model.suppression, "consensus", 0.9),
    "scores of ONNX Runtime; other duplicates": lambda model: setattr(model.suppression, "iou", 0.3),
}


@pytest.mark.parametrize("what", FAULTS)
def test_true_differences_are_found(what: str, exported: bytes) -> None:
    graph = graph_of(Choosing())
    export.check_parity(graph, exported, size=(SIDE, SIDE))
    FAULTS[what](graph.model)
    with pytest.raises(ExportError, match=what.partition(";")[0]):
        export.check_parity(graph, exported, size=(SIDE, SIDE))


def test_a_cell_that_is_chosen_twice() -> None:
    graph = graph_of(Choosing())
    images = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        chosen = graph.model.choose(images)
        cells, boxes, logits = (x.numpy() for x in (chosen.cells, chosen.predictions.boxes, chosen.predictions.logits))
        export._followed(graph, images, cells, boxes, logits)
        with pytest.raises(ExportError, match="a cell twice"):
            export._followed(graph, images, np.zeros_like(cells), boxes, logits)


def test_choices_are_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is what is exported without them: the same operations."""
    import onnx

    shipped = onnx.load(export_onnx(Choosing(), TopK(), tmp_path / "a.onnx", imgsz=SIDE, names=NAMES))
    monkeypatch.setattr(ExportGraph, "choices", ())
    monkeypatch.setattr(export, "check_parity", lambda *_, **__: None)
    plain = onnx.load(export_onnx(Choosing(), TopK(), tmp_path / "b.onnx", imgsz=SIDE, names=NAMES))
    assert [output.name for output in shipped.graph.output] == ["boxes", "scores", "labels"]
    assert [node.op_type for node in shipped.graph.node] == [node.op_type for node in plain.graph.node]


def test_a_fresh_alignrank_with_consensus(tmp_path: Path) -> None:
    """Its cells have the scores of their level alone."""
    overrides = {"model.size": "t", "head.consensus_iou": 0.7, "head.refine": False, "head.fusion": False}
    built = load_recipe("alignrank-n", num_classes=3, overrides=overrides).build()
    assert export_onnx(built.model, built.postprocess, tmp_path / "m.onnx", imgsz=96, names=["a", "b", "c"]).exists()
