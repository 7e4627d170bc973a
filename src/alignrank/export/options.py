"""What a user may ask of an export."""

from __future__ import annotations

from dataclasses import dataclass

from alignrank.arguments import switch
from alignrank.errors import InputError
from alignrank.input_size import ImageSize


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """imgsz: of the input; None: as the weights say. nms: the detector's suppression within the graph, from the
    one-to-many output. dynamic: an input of any sides that suit the stride. half: weights of 16 bits. int8: weights
    and activations of 8 bits, ranges from the user's images.

    Raises InputError naming the option that is out of range.
    """

    imgsz: ImageSize | None = None
    nms: bool = False
    dynamic: bool = False
    half: bool = False
    int8: bool = False

    def __post_init__(self) -> None:
        for option in ("nms", "dynamic", "half", "int8"):
            object.__setattr__(self, option, switch(option, getattr(self, option)))
        if self.half and self.int8:
            raise InputError("half, int8: are 16 and 8 bits; give one of them")

    @property
    def precision(self) -> str:
        """Of the weights: fp32, fp16 or int8."""
        return "fp16" if self.half else "int8" if self.int8 else "fp32"


PLAIN = ExportOptions()
