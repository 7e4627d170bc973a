"""What a user may ask of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alignrank.arguments import number, share, switch, whole
from alignrank.contracts import WantedThresholds
from alignrank.errors import InputError, nearest
from alignrank.inference.windows import Tiling
from alignrank.input_size import ImageSize

TRACKERS = ("bytetrack", "ocsort", "sort")


@dataclass(frozen=True, slots=True)
class TrackOptions:
    """tracker: bytetrack, ocsort or sort. low: score from which on an object goes on with a track; one begins only from
    the threshold of detections on. memory: seconds for which a lost object is waited for. confirm: frames in a row
    with which an object gets its id.

    Raises InputError naming the option that is out of range.
    """

    tracker: str = "bytetrack"
    low: float = 0.1
    memory: float = 1.0
    confirm: int = 2

    def __post_init__(self) -> None:
        if self.tracker not in TRACKERS:
            raise InputError(f"tracker: unknown {self.tracker!r}; {nearest(self.tracker, TRACKERS)}")
        object.__setattr__(self, "low", share("low", self.low))
        object.__setattr__(self, "memory", number("memory", self.memory))
        if not 0 <= self.memory < float("inf"):
            raise InputError(f"memory: must be a number of seconds from 0 on, got {self.memory}")
        object.__setattr__(self, "confirm", whole("confirm", self.confirm, least=1))


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """classes: only these, by label or name, see `class_names`. imgsz, rect: of the input, see `input_size`; None: as
    the weights say. batch: images at a time. keep_images: detections carry their image, to be drawn on.
    precision: auto|fp32|bf16|fp16; half precision rounds scores to 3 digits, which ties ranks. report_skipped: a
    counted warning at the end. tiling: look at large images in tiles; None: at each as a whole.
    tracking: number the objects from frame to frame.

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
    tiling: Tiling | None = None
    tracking: TrackOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", whole("batch", self.batch, least=1))
        if self.rect is not None:
            object.__setattr__(self, "rect", switch("rect", self.rect))
        object.__setattr__(self, "keep_images", switch("keep_images", self.keep_images))
