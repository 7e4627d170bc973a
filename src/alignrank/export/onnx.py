"""A network as an ONNX file that ONNX Runtime computes the same as PyTorch, checked before the file is written.

Knows neither losses nor data. Shape letters: B images, A points, C classes, K selected (at most `max_dets`).
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignrank.contracts import Postprocess, Predictions
from alignrank.detectors import deployed
from alignrank.detectors.postprocess import TopK, top_k
from alignrank.errors import InputError
from alignrank.export.metadata import Shapes, metadata
from alignrank.extras import require
from alignrank.folders import replacing
from alignrank.input_size import Fit, ImageSize, InputSize, Size, check_size
from alignrank.nn.pan import split_top_down

# Largest differences between ONNX Runtime and PyTorch: of boxes relative to their largest coordinate (at least 1 px),
# of scores absolute.
BOX_TOLERANCE, SCORE_TOLERANCE = 1e-3, 1e-4
Array = np.ndarray[Any, Any]


class ExportError(RuntimeError):
    """The exported graph does not compute what the network does: a fault of ours or of the exporter."""


class ExportGraph(nn.Module):
    """images [B,3,H,W] float 0..1 -> boxes [B,K,4] px, scores [B,K], labels [B,K], best first, if `nms_free`;
    otherwise boxes [B,A,4] and scores [B,A,C] in 0..1, which still need NMS.

    After them, of a network that chooses among its cells (see `contracts.Choice`), its `choices`.
    """

    def __init__(self, model: Any, *, nms_free: bool, max_dets: int, agnostic: bool = False) -> None:
        super().__init__()
        self.model, self.nms_free, self.max_dets, self.agnostic = model, nms_free, max_dets, agnostic

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if not self.choices:
            predictions = self.model(images)
            return self.selected(predictions) if self.nms_free else (predictions.boxes, predictions.scores())
        chosen = self.model.choose(images)
        said: Predictions = chosen.predictions
        return *self.selected(self.model.settle(said)), chosen.cells, said.boxes, said.logits

    def selected(self, predictions: Predictions) -> tuple[Tensor, ...]:
        """The NMS-free outputs."""
        return top_k(predictions.scores(), predictions.boxes, self.max_dets, agnostic=self.agnostic)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Their names, in order."""
        return ("boxes", "scores", "labels") if self.nms_free else ("boxes", "scores")

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of what is compared but not shipped: cells [B,K], and boxes [B,K,4] and logits [B,K,C] of them."""
        chooses = self.nms_free and hasattr(self.model, "choose")
        return ("cells", "chosen_boxes", "chosen_logits") if chooses else ()


def export_onnx(
    model: Any,
    postprocess: Postprocess,
    path: str | Path,
    *,
    imgsz: ImageSize | InputSize,
    names: Sequence[str],
    max_dets: int = 300,
    recipe: str = "",
) -> Path:
    """Write `model` as ONNX to `path`, replacing what is there; the model itself stays as it is.

    Input `images` [B,3,H,W] float 0..1 RGB, letterboxed, any B; H = W = imgsz, of a pair the canvas of a landscape
    picture. An InputSize also tells the metadata its `fit`, else it is ours. Outputs by `postprocess`,
    see ExportGraph: NMS-free for TopK, raw otherwise. Metadata: see docs/deploy.md.
    Raises InputError for a size that does not fit and for missing packages, ExportError where ONNX Runtime
    and PyTorch disagree; `path` is then left as it was.
    """
    path = Path(path)
    given, fit = (imgsz.imgsz, imgsz.fit) if isinstance(imgsz, InputSize) else (imgsz, Fit())
    check_size(given, model.stride)
    if max_dets < 1:
        raise InputError(f"max_dets: must be at least 1, got {max_dets}")
    if reason := getattr(model, "no_export", None):
        raise InputError(f"export: {reason}")
    require("export", "onnx", "onnxscript", "onnxruntime")
    model = copy.deepcopy(model).cpu().float().eval()
    model = split_top_down(deployed(model))
    nms_free = isinstance(postprocess, TopK)
    agnostic = isinstance(postprocess, TopK) and postprocess.agnostic
    graph = ExportGraph(model, nms_free=nms_free, max_dets=max_dets, agnostic=agnostic).eval()
    fitted = InputSize.of(given, rect=False, step=model.stride, fit=fit)
    size = fitted.landscape
    exported = _to_onnx(graph, size)
    described = metadata(_shapes(graph, size), postprocess, size=fitted, names=names, recipe=recipe)
    for key, value in described.items():
        exported.metadata_props.add(key=key, value=value)
    check_parity(graph, exported.SerializeToString(), size=size)
    del exported.graph.output[len(graph.outputs) :]
    _write(path, exported.SerializeToString())
    return path


def check_parity(graph: ExportGraph, content: bytes, *, size: Size) -> None:
    """Run both on the same random images, in batches of two sizes. Raises ExportError if they disagree."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for count in (1, 3):
        images = torch.rand(count, 3, *size, generator=generator)
        outputs = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = [x.numpy() for x in graph(images)]
            if [x.shape for x in outputs] != [x.shape for x in expected]:
                shapes = f"{[x.shape for x in outputs]}, PyTorch {[x.shape for x in expected]}"
                raise ExportError(f"export: ONNX Runtime gives outputs of shape {shapes}")
            if not graph.nms_free:
                _compare("boxes", outputs[0], expected[0], _box_tolerance(expected[0]))
                _compare("scores", outputs[1], expected[1], SCORE_TOLERANCE)
                continue
            made_from = _followed(graph, images, *outputs[3:]) if graph.choices else graph.model(images)
            _check_selected(outputs[:3], made_from, graph)


def _followed(graph: ExportGraph, images: Tensor, cells: Array, boxes: Array, logits: Array) -> Predictions:
    """The network's output for ONNX Runtime's choices: what its selection is made from. Raises ExportError where other
    cells would have been better, and where the network says other things of these.

    Which of equal cells are chosen, and which of two boxes at a threshold, is up to the last digit. One such choice
    moves merged boxes by pixels, and networks that have learned nothing score all cells of a level the same. So each
    step is compared on what ONNX Runtime gave to it.
    """
    same, own = graph.model.choose(images, torch.from_numpy(cells)), graph.model.choose(images)
    if any(len(np.unique(row)) < len(row) for row in cells):
        raise ExportError("export: ONNX Runtime chooses a cell twice; not written")
    _compare("scores of the chosen cells", -np.sort(-_scores(same.best)), _scores(own.best), SCORE_TOLERANCE)
    expected: Predictions = same.predictions
    theirs = replace(expected, boxes=torch.from_numpy(boxes), logits=torch.from_numpy(logits))
    _compare("boxes of cells", boxes, expected.boxes.numpy(), _box_tolerance(expected.boxes.numpy()))
    _compare("scores of cells", theirs.scores().numpy(), expected.scores().numpy(), SCORE_TOLERANCE)
    settled: Predictions = graph.model.settle(theirs)
    return settled


def _scores(logits: Tensor) -> Array:
    scores: Array = logits.sigmoid().numpy()
    return scores


def _check_selected(outputs: Sequence[Array], predictions: Predictions, graph: ExportGraph) -> None:
    """Equal scores may come in any order: the sorted scores must agree, and every row must be one of the network's
    (point, class) pairs.
    """
    _compare("scores", -np.sort(-outputs[1]), graph.selected(predictions)[1].numpy(), SCORE_TOLERANCE)
    made_from = predictions.boxes.numpy(), predictions.scores().numpy()
    for boxes, scores, labels, all_boxes, all_scores in zip(*outputs, *made_from, strict=True):
        _check_rows(boxes, scores, labels, all_boxes, all_scores)


def _compare(what: str, actual: Array, expected: Array, tolerance: Array | float) -> None:
    difference = np.abs(actual - expected)
    # Written so that NaN fails.
    if not (difference <= tolerance).all():
        raise ExportError(
            f"export: {what} of ONNX Runtime and PyTorch differ by up to {difference.max():.3g}; not written"
        )


def _box_tolerance(boxes: Array) -> Array:
    """[...,4] px -> [...,1] px. A coordinate is a centre and a distance: a small sum is as inexact as a large one."""
    largest: Array = np.maximum(np.abs(boxes).max(-1, keepdims=True), 1)
    return BOX_TOLERANCE * largest


def _check_rows(boxes: Array, scores: Array, labels: Array, all_boxes: Array, all_scores: Array) -> None:
    """boxes [K,4], scores [K], labels [K] must all occur among all_boxes [A,4], all_scores [A,C]."""
    same_box = (np.abs(boxes[:, None] - all_boxes) <= _box_tolerance(boxes)[:, None]).all(-1)  # [K,A]
    same_score = np.abs(scores[:, None] - all_scores[:, labels].T) <= SCORE_TOLERANCE  # [K,A]
    missing = ~(same_box & same_score).any(1)
    if missing.any():
        raise ExportError(f"export: {missing.sum()} of {len(scores)} exported rows are not the network's; not written")


def _to_onnx(graph: ExportGraph, size: Size) -> Any:
    """The ONNX model (a protobuf) with a dynamic batch."""
    # The exporter talks on stdout, which is for results, and warns of its own internals.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            # Two images: a batch of one would be taken for a constant.
            (torch.zeros(2, 3, *size),),
            dynamo=True,
            input_names=["images"],
            output_names=[*graph.outputs, *graph.choices],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _shapes(graph: ExportGraph, size: Size) -> Shapes:
    image = torch.zeros(1, 3, *size)
    with torch.no_grad():
        outputs, strides = graph(image)[: len(graph.outputs)], graph.model(image).strides
    points = [] if strides is None else torch.unique_consecutive(strides.flatten(), return_counts=True)[1].tolist()
    shapes = {name: list(output.shape[1:]) for name, output in zip(graph.outputs, outputs, strict=True)}
    return Shapes(size, graph.model.stride, shapes, points)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
