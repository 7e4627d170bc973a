"""A network as an ONNX file that ONNX Runtime computes the same as PyTorch, checked before the file is written.

Knows neither losses nor data. Shape letters: B images, A points, C classes, K selected (at most `max_dets`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignrank.contracts import Postprocess, Predictions
from alignrank.errors import ExportError, InputError, first_line
from alignrank.export.first_difference import FirstDifference, first_difference, located
from alignrank.export.graph import (
    MAX_DETS,
    Array,
    ExportGraph,
    Opened,
    Subject,
    no_other_sides,
    subject_of,
)
from alignrank.export.half import halve
from alignrank.export.int8 import CHAINS, Quantizer
from alignrank.export.session import session_of
from alignrank.export.traced import onnx_program
from alignrank.extras import require
from alignrank.folders import replacing
from alignrank.input_size import ImageSize, InputSize, Size

MODULES = ("onnx", "onnxscript", "onnxruntime")
# Largest differences between ONNX Runtime and PyTorch: of boxes relative to their largest coordinate (at least 1 px),
# of scores absolute.
BOX_TOLERANCE, SCORE_TOLERANCE = 1e-3, 1e-4


def export_onnx(
    model: Any,
    postprocess: Postprocess,
    path: str | Path,
    *,
    imgsz: ImageSize | InputSize,
    names: Sequence[str],
    max_dets: int = MAX_DETS,
    recipe: str = "",
) -> Path:
    """Write `model` as ONNX to `path`, replacing what is there; the model itself stays as it is.

    Input `images` [B,3,H,W] float 0..1 RGB, letterboxed, any B; H = W = imgsz, of a pair the canvas of a landscape
    picture. An InputSize also tells the metadata its `fit`, else it is ours. Outputs by `postprocess`,
    see ExportGraph: NMS-free for TopK, raw otherwise. Metadata: see docs/deploy.md.
    Raises InputError for a size that does not fit and for missing packages, ExportError where ONNX Runtime
    and PyTorch disagree; `path` is then left as it was.
    """
    subject = subject_of(model, postprocess, imgsz=imgsz, names=names, max_dets=max_dets, recipe=recipe)
    write(subject, Path(path))
    return Path(path)


def write(subject: Subject, path: Path) -> None:
    """As `export_onnx`, with all options but `int8`, which is of `in_8_bits`."""
    exported = _checked(subject)
    if subject.options.half:
        halve(exported)
    _write(path, exported.SerializeToString())


def in_8_bits(subject: Subject) -> Callable[[Path, int], int]:
    """What writes the subject in 8 bits to a path, with that number of parts spared at least, and returns how many
    were; may be called again with another number. Raises as `write` does.
    """
    made = quantizer(subject, CHAINS)

    def write(path: Path, spared: int) -> int:
        model, kept = made.quantized(spared=spared)
        _write(path, model.SerializeToString())
        return kept

    return write


def quantizer(subject: Subject, kinds: Sequence[str]) -> Quantizer:
    """Of the subject's ONNX model, which is checked. kinds: of the operators in 8 bits."""
    return Quantizer(_checked(subject), subject.calibration, kinds)


def _checked(subject: Subject) -> Any:
    """The ONNX model (a protobuf) in 32 bits, with its metadata; that it says what the network says was seen."""
    require("export", *MODULES)
    graph, sizes = subject.graph, [subject.size.landscape]
    exported = _to_onnx(graph, sizes[0])
    for key, value in subject.about().items():
        exported.metadata_props.add(key=key, value=value)
    if graph.dynamic:
        height, width = sizes[0]
        sizes.append((height + 2 * graph.model.stride, width + graph.model.stride))
    content = exported.SerializeToString()
    try:
        check_parity(graph, content, size=sizes[0])
    except ExportError as error:
        images = torch.rand(2, 3, *sizes[0], generator=torch.Generator().manual_seed(0))
        raise located(str(error), first_difference(exported, graph, images), precision="fp32") from None
    for size in sizes[1:]:
        with no_other_sides(graph):
            check_parity(graph, content, size=size)
    del exported.graph.output[len(graph.outputs) :]
    return exported


def first_difference_in(path: Path, subject: Subject, images: Tensor) -> FirstDifference | None:
    """Where a file of `subject` begins to differ from it; images: two or more, as the network takes them."""
    import onnx

    return first_difference(onnx.load(path), subject.graph, images, precision=subject.options.precision)


def open_file(path: Path) -> Opened:
    """Raises InputError for what is no ONNX file, and where ONNX Runtime is not installed."""
    require("export", "onnxruntime")
    try:
        session = session_of(path)
    except Exception as error:
        raise InputError(f"{path}: is no ONNX file that ONNX Runtime can run ({first_line(error)})") from None
    (name, *others) = [given.name for given in session.get_inputs()]
    about = dict(session.get_modelmeta().custom_metadata_map) if not others else {}
    return Opened(lambda images: session.run(None, {name: images}), about)


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
            if graph.suppression is not None:
                _check_suppressed(graph, outputs, expected)
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
    theirs_by, own_by = (-np.sort(-_scores(choice.priority)) for choice in (same, own))
    _compare("scores that cells are chosen by", theirs_by, own_by, SCORE_TOLERANCE)
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


def _check_suppressed(graph: ExportGraph, outputs: Sequence[Array], expected: Sequence[Array]) -> None:
    """Before suppression the two agree; what stays is what PyTorch makes of what ONNX Runtime gave to it."""
    _compare("boxes before NMS", outputs[3], expected[3], _box_tolerance(expected[3]))
    _compare("scores before NMS", outputs[4], expected[4], SCORE_TOLERANCE)
    raw_boxes, raw_scores = (torch.from_numpy(output) for output in outputs[3:])
    assert graph.suppression is not None
    stay = replace(graph.suppression, stable=True)(raw_scores, raw_boxes, graph.max_dets)
    _compare("scores", -np.sort(-outputs[1]), stay[1].numpy(), SCORE_TOLERANCE)
    every = torch.zeros(*stay[1].shape, raw_scores.shape[-1]).scatter_(2, stay[2][..., None], stay[1][..., None])
    for boxes, scores, labels, all_boxes, all_scores in zip(*outputs[:3], stay[0].numpy(), every.numpy(), strict=True):
        is_one = scores > 0
        _check_rows(boxes[is_one], scores[is_one], labels[is_one], all_boxes, all_scores)


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
    return onnx_program(graph, size).model_proto


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
