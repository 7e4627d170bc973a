"""The records that travel between the parts, and the protocols of the three siblings.

Boxes are float32 xyxy. There are two frames: *input* (pixels of the network's input tensor) and
*original* (pixels of the image file); a `Frame` maps between them.

Shape letters: B images, A points over all levels, C classes, T boxes of an image, N detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from alignrank.arguments import share, whole
from alignrank.detections import Detections as Detections


@dataclass(frozen=True, slots=True)
class Frame:
    """How one image was fitted into the network's input: `input = original * scale + offset`.

    source: where the image came from, for messages and results.
    size: (height, width) of the original image, pixels.
    scale: (x, y) factors. offset: (x, y) pixels of the input at which the image begins.
    image_id: the data set's id of the image, or -1.
    """

    source: str
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    image_id: int = -1

    def to_original(self, boxes: Tensor) -> Tensor:
        """boxes [N,4] in input pixels -> original pixels, clipped to the image."""
        scale = boxes.new_tensor(self.scale * 2)
        offset = boxes.new_tensor(self.offset * 2)
        height, width = self.size
        return ((boxes - offset) / scale).clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))


@dataclass(slots=True)
class Targets:
    """Ground truth of one image: boxes [T,4] float32 input pixels, labels [T] int64 in [0, C)."""

    boxes: Tensor
    labels: Tensor

    @staticmethod
    def empty() -> Targets:
        """An image without objects."""
        return Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@dataclass(slots=True)
class Batch:
    """images [B,3,H,W] (0..255 as loaded, uint8 or float32, see `input_size.Fit`; float 0..1 for the model), one target
    and frame per image.
    """

    images: Tensor
    targets: list[Targets]
    frames: list[Frame]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """A copy on `device`."""
        targets = [
            Targets(t.boxes.to(device, non_blocking=non_blocking), t.labels.to(device, non_blocking=non_blocking))
            for t in self.targets
        ]
        return Batch(self.images.to(device, non_blocking=non_blocking), targets, self.frames)

    def pin_memory(self) -> Batch:
        """Page-locked copies, so that the transfer to the GPU overlaps with compute."""
        targets = [Targets(t.boxes.pin_memory(), t.labels.pin_memory()) for t in self.targets]
        return Batch(self.images.pin_memory(), targets, self.frames)

    def sizes(self) -> Tensor:
        """[B,2] float32 px: (height, width) of each image's own content, which begins at the upper left corner; of an
        image that lies elsewhere those of the whole input.
        """
        most = self.images.shape[-2], self.images.shape[-1]
        contents = [_content(frame, most) for frame in self.frames]
        return torch.tensor(contents, dtype=torch.float32, device=self.images.device).reshape(-1, 2)

    def network_input(self, order: torch.memory_format = torch.channels_last) -> Tensor:
        """The images, 0..255 -> float 0..1, in memory in this order; channels last convolutions are a fifth faster, on
        CPU and GPU.
        """
        images = self.images.to(torch.float32, memory_format=order)
        return images / 255 if images is self.images else images.div_(255)


def _content(frame: Frame, most: tuple[int, int]) -> tuple[int, int]:
    if frame.offset != (0, 0):
        return most
    height, width = (
        min(max(round(length * factor), 1), limit)
        for length, factor, limit in zip(frame.size, reversed(frame.scale), most, strict=True)
    )
    return height, width


@dataclass(slots=True)
class Predictions:
    """What a model says before post-processing, the same type in training and evaluation.

    logits [B,A,C] raw class scores; boxes [B,A,4] float32 xyxy input pixels.
    Optional: points [A,2] and strides [A,1] input pixels, for point-based assignment ([B,A,2] and [B,A,1] where each
    image has points of its own);
    distribution [B,A,4,bins] raw logits of the four distances (l,t,r,b), for the DFL;
    fixed_boxes: the boxes are another output's and learn there;
    centreness [B,A,1]: raw, its sigmoid multiplies the class scores;
    anchors [A,4]: boxes in input pixels that `boxes` are measured from, for anchor-based assignment;
    sizes [B,2]: (height, width) px of the pictures in the input, for losses in shares of them;
    quality [B,A,1]: raw, how well a box is expected to fit if it is an object's; `logits` do not know it yet;
    auxiliary: by name, what the model says in training alone, for its criterion to learn from. Names in use:
    `one_to_many` (the output beside a one-to-one one), `unsuppressed` (one-to-many, before the model itself suppressed
    duplicates), `first` (boxes before they were refined); of transformers `layer_0` ... (decoder layers before the
    last), `proposals` (of the encoder), `denoising` (queries made of noised truth);
    raw: what another library's model hands to its own loss, as that loss calls it: in training, of torchvision's in
    evaluation, too; None else.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor | None = None
    strides: Tensor | None = None
    distribution: Tensor | None = None
    fixed_boxes: bool = False
    centreness: Tensor | None = None
    anchors: Tensor | None = None
    sizes: Tensor | None = None
    quality: Tensor | None = None
    auxiliary: dict[str, Predictions] = field(default_factory=dict)
    raw: Any = None

    def scores(self) -> Tensor:
        """What the detections are ranked by: [B,A,C] in 0..1, float32."""
        scores = self.logits.float().sigmoid()
        return scores if self.centreness is None else scores * self.centreness.float().sigmoid()


@dataclass(slots=True)
class Choice:
    """What a network says that chooses some of its A cells in evaluation, before it looks for duplicates among them.

    cells [B,K] int64, each image's first; priority [B,K] float: logits that they were chosen by; `predictions` of
    them in that order, A = K. A network that has `choose(images, cells=None)` has `settle(predictions)`, too, and
    its output is what `settle` makes of what it chose: choices and their consequences can be compared one by one.
    """

    cells: Tensor
    priority: Tensor
    predictions: Predictions


@dataclass(slots=True)
class LossTerms:
    """total: the 0-dim tensor to minimise. parts: its weighted summands by name, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(slots=True)
class Selection:
    """Post-processed predictions of one image in input pixels: boxes [N,4], scores [N] in 0..1, labels [N]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@runtime_checkable
class DetectorModel(Protocol):
    """A network: images [B,3,H,W] float 0..1 -> Predictions. `stride`: sides must be multiples of it."""

    stride: int

    def __call__(self, images: Tensor) -> Predictions: ...


class Criterion(Protocol):
    """Predictions and ground truth -> loss. Knows no model; can be called with made-up predictions.

    Normalisers are averaged over processes that train together, unless this one computes `alone`.
    progress: the fraction of the training that is done, 0..1, for terms that fade in.
    """

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms: ...


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a selection keeps: scores above `conf`; of boxes of one class that overlap by more than `iou` the best
    (NMS-free selections do not use it); at most `max_dets` detections of an image.
    """

    conf: float
    iou: float
    max_dets: int


# For people who look at pictures: what predictions and exported models keep where nobody says otherwise.
USUAL_THRESHOLDS = Thresholds(conf=0.25, iou=0.7, max_dets=300)


@dataclass(frozen=True, slots=True)
class WantedThresholds:
    """Thresholds as a user gives them; None leaves the choice to the detector, else to the task.

    Raises InputError naming the one that is out of range.
    """

    conf: float | None = None
    iou: float | None = None
    max_dets: int | None = None

    def __post_init__(self) -> None:
        for option in ("conf", "iou"):
            if getattr(self, option) is not None:
                object.__setattr__(self, option, share(option, getattr(self, option)))
        if self.max_dets is not None:
            object.__setattr__(self, "max_dets", whole("max_dets", self.max_dets, least=1))

    def over(self, usual: Thresholds) -> Thresholds:
        """Those that are given, the others as they are in `usual`."""
        return Thresholds(
            usual.conf if self.conf is None else self.conf,
            usual.iou if self.iou is None else self.iou,
            usual.max_dets if self.max_dets is None else self.max_dets,
        )


class Postprocess(Protocol):
    """Predictions -> per-image selections in input pixels, scores descending.

    thresholds: those that the detector was published with; None where it takes what is usual for the task.
    `candidates` gives what the selection is made from: every (point, class) scored above `conf`, at most the best
    few thousand of an image, in no order.
    """

    thresholds: Thresholds | None

    def __call__(
        self, predictions: Predictions, *, conf: float, iou: float, max_dets: int, classes: Sequence[int] | None = None
    ) -> list[Selection]: ...

    def candidates(self, predictions: Predictions, *, conf: float) -> list[Selection]: ...


@dataclass(slots=True)
class Built:
    """The three siblings that make a detector."""

    model: Any
    criterion: Criterion
    postprocess: Postprocess
