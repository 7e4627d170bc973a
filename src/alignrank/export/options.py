"""What a user may ask of an export."""

from __future__ import annotations

from dataclasses import dataclass

from alignrank.arguments import switch
from alignrank.input_size import ImageSize


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """imgsz: of the input; None: as the weights say. nms: the detector's suppression within the graph, from the
    one-to-many output. dynamic: an input of any sides that suit the stride. half: weights of 16 bits.

    Raises InputError naming the option that is out of range.
    """

    imgsz: ImageSize | None = None
    nms: bool = False
    dynamic: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        for option in ("nms", "dynamic", "half"):
            object.__setattr__(self, option, switch(option, getattr(self, option)))

    @property
    def precision(self) -> str:
        """Of the weights: fp32 or fp16."""
        return "fp16" if self.half else "fp32"


PLAIN = ExportOptions()
