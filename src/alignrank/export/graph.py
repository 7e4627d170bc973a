"""A network as the graph that is exported, whatever the format; and what has been opened of such a file.

Shape letters: B images, A points, C classes, K selected (at most `max_dets`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignrank.contracts import USUAL_THRESHOLDS, Postprocess, Predictions
from alignrank.detectors import deployed
from alignrank.detectors.masked_nms import MaskedNms
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK, top_k
from alignrank.errors import ExportError, InputError, first_line
from alignrank.export.metadata import Shapes, metadata
from alignrank.export.options import PLAIN, ExportOptions
from alignrank.input_size import MAX_SIDE, Fit, ImageSize, InputSize, check_size
from alignrank.nn.csp import split_entries

Array = np.ndarray[Any, Any]
MAX_DETS = 300


class ExportGraph(nn.Module):
    """images [B,3,H,W] float 0..1 -> boxes [B,K,4] px, scores [B,K], labels [B,K], best first, if `nms_free`;
    otherwise boxes [B,A,4] and scores [B,A,C] in 0..1, which still need NMS.

    After them its `choices`, of a network that chooses among its cells (see `contracts.Choice`), and of suppression.
    suppression: of a network that needs NMS, within the graph, which is then `nms_free`; rows of score 0 are none.
    dynamic: of any height and width that suit the stride.
    """

    def __init__(
        self,
        model: Any,
        *,
        nms_free: bool,
        max_dets: int,
        agnostic: bool = False,
        suppression: MaskedNms | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.nms_free, self.max_dets, self.agnostic = model, nms_free, max_dets, agnostic
        self.suppression, self.dynamic = suppression, dynamic

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.suppression is not None:
            raw = self.model(images)
            return *self.selected(raw), raw.boxes, raw.scores()
        if not self.choices:
            predictions = self.model(images)
            return self.selected(predictions) if self.nms_free else (predictions.boxes, predictions.scores())
        chosen = self.model.choose(images)
        said: Predictions = chosen.predictions
        return *self.selected(self.model.settle(said)), chosen.cells, said.boxes, said.logits

    def selected(self, predictions: Predictions) -> tuple[Tensor, ...]:
        """The NMS-free outputs."""
        if self.suppression is not None:
            return self.suppression(predictions.scores(), predictions.boxes, self.max_dets)
        return top_k(predictions.scores(), predictions.boxes, self.max_dets, agnostic=self.agnostic)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Their names, in order."""
        return ("boxes", "scores", "labels") if self.nms_free else ("boxes", "scores")

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of what is compared but not shipped: cells [B,K], and boxes [B,K,4] and logits [B,K,C] of them; of
        suppression boxes [B,A,4] and scores [B,A,C] before it.
        """
        if self.suppression is not None:
            return "raw_boxes", "raw_scores"
        chooses = self.nms_free and hasattr(self.model, "choose")
        return ("cells", "chosen_boxes", "chosen_logits") if chooses else ()


class ShippedGraph(nn.Module):
    """An ExportGraph without its choices: for formats that are compared by their outputs alone."""

    def __init__(self, graph: ExportGraph) -> None:
        super().__init__()
        self.whole = graph  # `graph` is a name of PyTorch's own programs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.whole(images)[: len(self.whole.outputs)]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported: the graph, the size of its input, how to read its outputs. calibration, for 8 bits: images
    [1,3,H,W] as the network takes them.
    """

    graph: ExportGraph
    size: InputSize
    postprocess: Postprocess
    names: Sequence[str]
    recipe: str
    options: ExportOptions
    calibration: Sequence[Array] = ()

    @property
    def example(self) -> Tensor:
        """Two images: a batch of one would be taken for a constant."""
        return torch.zeros(2, 3, *self.size.landscape)

    def in_full(self) -> Subject:
        """The same with weights of 32 bits."""
        return replace(self, options=replace(self.options, half=False, int8=False))

    def about(self, *, one_image: bool = False) -> dict[str, str]:
        """The metadata, see docs/deploy.md. one_image: the file takes one at a time."""
        shapes = shapes_of(self.graph, self.size, one_image=one_image)
        return metadata(shapes, self.postprocess, size=self.size, names=self.names, recipe=self.recipe)


@dataclass(frozen=True, slots=True)
class Opened:
    """A file of another runtime, ready to run: images [B,3,H,W] float32 -> its outputs in order; and its metadata."""

    run: Callable[[Array], Sequence[Array]]
    about: dict[str, str]


def subject_of(
    model: Any,
    postprocess: Postprocess,
    *,
    imgsz: ImageSize | InputSize,
    names: Sequence[str],
    max_dets: int = MAX_DETS,
    recipe: str = "",
    options: ExportOptions = PLAIN,
) -> Subject:
    """A copy of `model` as a graph. imgsz: an InputSize also tells the `fit`, else it is ours.

    Raises InputError for a size that does not fit, and for options that the detector does not have.
    """
    given, fit = (imgsz.imgsz, imgsz.fit) if isinstance(imgsz, InputSize) else (imgsz, Fit())
    check_size(given, model.stride)
    if max_dets < 1:
        raise InputError(f"max_dets: must be at least 1, got {max_dets}")
    if reason := getattr(model, "no_export", None):
        raise InputError(f"export: {reason}")
    model = split_entries(deployed(copy.deepcopy(model).cpu().float().eval()))
    graph = ExportGraph(
        model,
        nms_free=isinstance(postprocess, TopK),
        max_dets=max_dets,
        agnostic=isinstance(postprocess, TopK) and postprocess.agnostic,
        dynamic=options.dynamic,
    ).eval()
    size = InputSize.of(given, rect=False, step=model.stride, fit=fit)
    nms = postprocess if isinstance(postprocess, NonMaximumSuppression) else None
    if options.dynamic and nms is not None and nms.per_level:
        raise InputError(
            f"dynamic: {recipe or 'this detector'} takes so many points of each level, whose numbers are those of one "
            "size; leave out --dynamic"
        )
    if options.nms and nms is not None:
        graph.suppression = _suppression(graph, nms, size, recipe)
        graph.nms_free = True
    return Subject(graph, size, postprocess, names, recipe, options)


def _suppression(graph: ExportGraph, nms: NonMaximumSuppression, size: InputSize, recipe: str) -> MaskedNms:
    if nms.soft:
        raise InputError(
            f"nms: {recipe or 'this detector'} has soft suppression, one box after another, which no graph holds; "
            "leave out --nms"
        )
    points = tuple(shapes_of(graph, size).level_points)
    return MaskedNms.of(nms, iou=(nms.thresholds or USUAL_THRESHOLDS).iou, level_points=points)


def shapes_of(graph: ExportGraph, size: InputSize, *, one_image: bool = False) -> Shapes:
    """Of the outputs, from an image of grey."""
    image = torch.zeros(1, 3, *size.landscape)
    with torch.no_grad():
        outputs, strides = graph(image)[: len(graph.outputs)], graph.model(image).strides
    points = [] if strides is None else torch.unique_consecutive(strides.flatten(), return_counts=True)[1].tolist()
    shapes = {name: list(output.shape[1:]) for name, output in zip(graph.outputs, outputs, strict=True)}
    return Shapes(size.landscape, graph.model.stride, shapes, points, graph.dynamic, one_image, graph.suppression)


def dynamic_sides(graph: ExportGraph) -> dict[int, Any]:
    """Of the input, for torch.export: any batch, and of a `dynamic` graph any height and width that suit the stride."""
    sides: dict[int, Any] = {0: torch.export.Dim("batch")}
    if graph.dynamic:
        stride = graph.model.stride
        for axis, name in ((2, "rows"), (3, "columns")):
            sides[axis] = stride * torch.export.Dim(name, min=1, max=MAX_SIDE // stride)
    return sides


@contextmanager
def no_other_sides(graph: ExportGraph) -> Iterator[None]:
    """What fails in the block fails because a network is of one size, if it was asked for as `dynamic`.

    Raises InputError then. PyTorch's tracing, which finds that out, has no error of its own for it.
    """
    try:
        yield
    except (InputError, ExportError):
        raise
    except Exception as error:
        if not graph.dynamic:
            raise
        raise InputError(
            f"dynamic: the graph of this network is of one size ({first_line(error)}); leave out --dynamic"
        ) from None
