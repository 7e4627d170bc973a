"""What a user may ask of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alignrank.arguments import switch, whole
from alignrank.contracts import WantedThresholds
from alignrank.input_size import ImageSize


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """classes: only these, by label or name, see `class_names`. imgsz, rect: of the input, see `input_size`; None: as
    the weights say. batch: images at a time. keep_images: detections carry their image, to be drawn on.
    precision: auto|fp32|bf16|fp16; half precision rounds scores to 3 digits, which ties ranks. report_skipped: a
    counted warning at the end.

    Raises InputError naming the option that is out of range.
    """

    thresholds: WantedThresholds = field(default_factory=WantedThresholds)
    classes: Sequence[int | str] | None = None
    imgsz: ImageSize | None = None
    rect: bool | None = None
    batch: int = 1
    keep_images: bool = False
    precision: str = "fp32"
    report_skipped: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", whole("batch", self.batch, least=1))
        if self.rect is not None:
            object.__setattr__(self, "rect", switch("rect", self.rect))
        object.__setattr__(self, "keep_images", switch("keep_images", self.keep_images))
