"""What a user may ask of an evaluation, of an analysis, and of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from alignrank.arguments import place, share, switch, whole
from alignrank.contracts import WantedThresholds
from alignrank.errors import InputError
from alignrank.inference.windows import Tiling
from alignrank.input_size import ImageSize, check_size, plain_size
from alignrank.metrics.comparison import REPLICATES
from alignrank.metrics.inputs import Id
from alignrank.metrics.ranking import GAP

if TYPE_CHECKING:
    from alignrank.weights.deployed import SelectionOptions


@dataclass(frozen=True, slots=True)
class ValOptions:
    """thresholds: of the selection. coco_max_dets: detections per image that count in COCO's figures. imgsz, rect: of
    the network's input, see `input_size`; None: as the weights say. before_nms: diagnose what the selection is made
    from, too (a few kB an image). nms: of the one-to-many output, also where there is an NMS-free one. oracle: the
    part of the predictions to replace by ground truth, see `oracle.py`, not with tta. agnostic: one object has one
    class. consensus: overlap above which boxes are merged; None: as the weights say. tta: also of the mirror image.

    Raises InputError naming the option that is out of range.
    """

    thresholds: WantedThresholds = field(default_factory=WantedThresholds)
    coco_max_dets: int = 100
    imgsz: ImageSize | None = None
    rect: bool | None = None
    batch: int = 16
    before_nms: bool = True
    nms: bool = False
    oracle: str = ""
    agnostic: bool = False
    consensus: float | None = None
    tta: bool = False
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "coco_max_dets", whole("max_dets", self.coco_max_dets, least=1))
        object.__setattr__(self, "batch", whole("batch", self.batch, least=1))
        selection = self.selection
        for option in ("nms", "agnostic", "consensus", "tta"):
            object.__setattr__(self, option, getattr(selection, option))
        if self.oracle and self.tta:
            raise InputError(f"oracle: {self.oracle!r} is of the image itself, not of its mirror image; leave out tta")
        if self.oracle and self.tiling is not None:
            raise InputError(f"oracle: {self.oracle!r} is of the image as a whole; leave out tile")
        if self.rect is not None:
            object.__setattr__(self, "rect", switch("rect", self.rect))
        if self.imgsz is not None:
            object.__setattr__(self, "imgsz", plain_size(self.imgsz))
            check_size(self.imgsz)

    @property
    def selection(self) -> SelectionOptions:
        """Those that weights are deployed with."""
        from alignrank.weights.deployed import SelectionOptions  # a diagnosis needs no network

        return SelectionOptions(self.nms, self.agnostic, self.consensus, self.tta)


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """images: of which there are pictures. batch: images at a time.

    Raises InputError naming the option that is out of range.
    """

    images: int = 4
    batch: int = 16

    def __post_init__(self) -> None:
        for option, least in (("images", 0), ("batch", 1)):
            object.__setattr__(self, option, whole(option, getattr(self, option), least=least))


@dataclass(frozen=True, slots=True)
class FieldOptions:
    """images: over which fields are averaged, at most. imgsz: side of the square input, px, a multiple of 32; None: as
    the weights say. point: where fields are measured, (x, y) in parts of the input. seed: of random weights and noise.

    Raises InputError naming the option that is out of range.
    """

    images: int = 8
    imgsz: ImageSize | None = None
    point: Sequence[float | str] = (0.5, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        for option, least in (("images", 1), ("seed", 0)):
            object.__setattr__(self, option, whole(option, getattr(self, option), least=least))
        if self.imgsz is not None:
            object.__setattr__(self, "imgsz", plain_size(self.imgsz))
            check_size(self.imgsz)
            if not isinstance(self.imgsz, int):
                raise InputError(f"imgsz: must be one number, because the input is a square, got {self.imgsz}")
        if len(self.point) != 2:
            raise InputError(f"point: must be X,Y in parts of the input, such as 0.5,0.5, got {list(self.point)}")
        object.__setattr__(self, "point", tuple(share("point", part) for part in self.point))

    @property
    def at(self) -> tuple[float, float]:
        """`point` as numbers."""
        return float(self.point[0]), float(self.point[1])

    @property
    def side(self) -> int | None:
        """`imgsz`, which is one number."""
        return self.imgsz if isinstance(self.imgsz, int) else None


@dataclass(frozen=True, slots=True)
class DiagnosisOptions:
    """images: the folder of the images, for pictures in the report. classes: only these, by name or category id, see
    `class_names`. max_dets: detections that count per image and class. tau: IoU threshold of LRP. gap: IoU difference
    from which on two boxes of an object have an order. conf: score of the operating point. replicates, seed: of the
    bootstrap over images.

    Raises InputError naming the option that is out of range.
    """

    images: str | Path | None = None
    classes: Sequence[Id] | None = None
    max_dets: int = 100
    tau: float = 0.5
    gap: float = GAP
    conf: float = 0.25
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        for option, least in (("max_dets", 1), ("replicates", 0), ("seed", 0)):
            object.__setattr__(self, option, whole(option, getattr(self, option), least=least))
        for option in ("tau", "gap", "conf"):
            object.__setattr__(self, option, share(option, getattr(self, option)))
        if not 0 < self.tau < 1:
            raise InputError(f"tau: must be between 0 and 1, got {self.tau}")
        if self.images is not None and not place("images", self.images).is_dir():
            raise InputError(f"images: {self.images} is not a folder")
