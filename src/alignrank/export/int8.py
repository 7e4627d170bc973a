"""An ONNX file with weights and activations of 8 bits, but for the parts that the order of its detections needs.

Static, by ONNX Runtime's own tools: ranges of activations from the user's images, a scale for each channel of weights.
Which parts stay in 32 bits is measured: the worst ones, as each is alone in 8 bits, until the rest keep the order.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from alignrank.contracts import Selection, Thresholds
from alignrank.detectors.postprocess import top_k
from alignrank.export.first_difference import module_of
from alignrank.export.graph import Array
from alignrank.export.parity import TOLERANCES, TOP, Parity
from alignrank.export.session import session_of
from alignrank.terminal.progress import say, steps

# What is in 8 bits. ONNX Runtime hands 8 bits on from one of these to the next. OpenVINO makes one operator of a
# convolution and its SiLU, which marks between the two would part: 1.1 to 1.15 times the time.
JOINED = ("Conv", "Add", "Concat", "MaxPool")
CHAINS = ("Conv", "Mul", "Sigmoid", "Add", "Concat", "MaxPool", "Resize", "Split", "Slice")
# A part is what has the first components of a module's path in common: model.backbone.stage3, model.head.box.
DEPTH = 3
# Share of the pairs of detections that all parts together may invert. With a .02 for each part alone, up to 10 of 17
# stayed in 32 bits, which cost the time that 8 bits save. All in 8 cost AP .000 to .009 (docs/lab-log.md, 2026-11-30).
INVERTED = 0.08
# Of the images with which ranges are found.
MEASURED = 16
KEY = "int8"


class Quantizer:
    """Of an ONNX model, which stays as it is. What is measured of it once serves for every number of spared parts.

    images: [1,3,H,W] float32 each, as the network takes them. kinds: of the operators in 8 bits. What comes before and
    behind the network stays.
    """

    def __init__(self, model: Any, images: Sequence[Array], kinds: Sequence[str]) -> None:
        self._model, self._kinds = model, kinds
        self._ranges, self._parts = _ranges(model, images, kinds), _parts(model)
        self._measured = images[:MEASURED]
        self._expected = _outputs(model, self._measured)

    def quantized(self, *, spared: int = 0) -> tuple[Any, int]:
        """The model in 8 bits, and how many of its parts are in 32. Its metadata `int8` is JSON: {inverted: share of
        the pairs of detections, kept: the parts in 32 bits, the worst first, alone: {part: share that it inverts if no
        other is in 8 bits}, of all parts if any was kept}.

        spared: parts that stay in 32 bits at least.
        """
        alone: dict[str, float] = {}
        kept: list[str] = []
        if not spared:
            small, inverted = self._tried(self._parts)
        if spared or inverted > INVERTED:
            alone = self._alone
            worst = sorted(alone, key=lambda name: alone[name], reverse=True)
            for count in range(min(max(spared, 1), len(worst)), len(worst) + 1):
                kept = worst[:count]
                small, inverted = self._tried([name for name in self._parts if name not in kept])
                if inverted <= INVERTED:
                    break
        shares = {name: round(share, 5) for name, share in alone.items()}
        about = {"inverted": round(inverted, 5), "kept": kept, "alone": shares}
        small.metadata_props.add(key=KEY, value=json.dumps(about))
        parts = len(self._parts)
        say(f"8 bits in {parts - len(kept)} of {parts} parts; in 32 for the order's sake: {_listed(kept)}")
        return small, len(kept)

    @cached_property
    def _alone(self) -> dict[str, float]:
        """{part: share of the pairs that it inverts if no other is in 8 bits}."""
        alone = {}
        with steps("measuring what 8 bits do to each part", len(self._parts)) as advance:
            for name in self._parts:
                alone[name] = self._tried([name])[1]
                advance()
        return alone

    def _tried(self, names: Iterable[str]) -> tuple[Any, float]:
        """The model with these parts in 8 bits, and the share of the pairs that it inverts."""
        nodes = [node for name in names for node in self._parts[name]]
        small = _in_8_bits(self._model, self._ranges, self._kinds, nodes)
        return small, _inversions(self._expected, _outputs(small, self._measured))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _parts(model: Any) -> dict[str, list[str]]:
    """{part: names of its nodes}, of parts with a convolution."""
    parts: dict[str, list[str]] = {}
    convolved = set()
    for node in model.graph.node:
        name = _part(node)
        if name is not None:
            parts.setdefault(name, []).append(node.name)
            if node.op_type == "Conv":
                convolved.add(name)
    return {name: nodes for name, nodes in parts.items() if name in convolved}


def _part(node: Any) -> str | None:
    """None for what belongs to the detector as a whole, such as the decoding of boxes."""
    path = module_of(node).split(".")
    return ".".join(path[:DEPTH]) if len(path) >= DEPTH else None


def _ranges(model: Any, images: Sequence[Array], kinds: Sequence[str]) -> Any:
    """Of every tensor at an operator of `kinds`, over the images."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    with TemporaryDirectory() as folder, steps("finding ranges", None):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        finder = create_calibrator(
            path, list(kinds), str(path.with_suffix(".all.onnx")), calibrate_method=CalibrationMethod.MinMax
        )
        finder.collect_data(_Reader(model.graph.input[0].name, images))
        return finder.compute_data()


class _Reader:
    """Images one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, name: str, images: Sequence[Array]) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter([{name: image} for image in images])

    def get_next(self) -> dict[str, Array] | None:
        """None at the end."""
        return next(self._feeds, None)


def _in_8_bits(model: Any, ranges: Any, kinds: Sequence[str], nodes: Sequence[str]) -> Any:
    """A copy with those of the nodes that are of `kinds` in 8 bits."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    if not nodes:  # it takes an empty list for all
        return copy.deepcopy(model)
    maker = QDQQuantizer(
        copy.deepcopy(model), per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8, tensors_range=ranges, nodes_to_quantize=list(nodes), nodes_to_exclude=[],
        op_types_to_quantize=list(kinds), extra_options={},
    )  # fmt: skip
    maker.quantize_model()
    return maker.model.model


def _outputs(model: Any, images: Sequence[Array]) -> list[Selection]:
    """The best `TOP` detections of each image; of graphs that end before NMS (point, class) pairs."""
    session = session_of(model.SerializeToString())
    name = session.get_inputs()[0].name
    found = []
    for image in images:
        boxes, scores, *labels = (torch.from_numpy(output) for output in session.run(None, {name: image}))
        rows = (boxes, scores, labels[0]) if labels else top_k(scores, boxes, TOP)
        found.append(Selection(*(row[0, :TOP] for row in rows)))
    return found


def _inversions(expected: Sequence[Selection], actual: Sequence[Selection]) -> float:
    """Share of pairs of detections that come in the other order."""
    parity, limits = Parity(), Thresholds(conf=0.0, iou=1.0, max_dets=TOP)
    for ours, theirs in zip(expected, actual, strict=True):
        parity.add(ours, theirs, TOLERANCES["int8"], limits, theirs)
    return parity.inversions / max(parity.pairs, 1)
