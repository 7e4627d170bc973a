"""What a user may ask of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignrank.arguments import place, switch, whole
from alignrank.errors import InputError, nearest
from alignrank.input_size import ImageSize, check_size, plain_size

# Ways to run weights: PyTorch, PyTorch with what only the memory or the type of numbers makes different, and formats of
# `export`.
HALF = ("bf16", "fp16")
EAGER = ("eager", "contiguous", *HALF)
FILES = ("onnx", "openvino", "pt2", "torchscript", "litert")
USUAL = ("eager", "contiguous", "bf16", "onnx", "openvino")


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """imgsz: of the input, see `input_size`; None: as the weights say. batches: images at a time; latency is that of
    the first. engines: of EAGER and FILES; None: the usual ones that can be had here. rounds: of the first batch; of
    others as many as take about as long. image: a picture; None: a drawn one, 1280 x 720. memory: measure it, too, in
    a process for each engine.

    Raises InputError naming the option that is out of range.
    """

    imgsz: ImageSize | None = None
    batches: Sequence[int] = (1, 8, 16)
    engines: Sequence[str] | None = None
    rounds: int = 30
    image: str | Path | None = None
    memory: bool = True

    def __post_init__(self) -> None:
        if self.imgsz is not None:
            object.__setattr__(self, "imgsz", plain_size(self.imgsz))
            check_size(self.imgsz)
        batches = tuple(dict.fromkeys(whole("batches", batch, least=1) for batch in self.batches))
        if not batches:
            raise InputError("batches: name at least one, such as 1,8,16")
        object.__setattr__(self, "batches", batches)
        object.__setattr__(self, "rounds", whole("rounds", self.rounds, least=1))
        object.__setattr__(self, "memory", switch("memory", self.memory))
        if self.image is not None:
            object.__setattr__(self, "image", place("image", self.image))
        if self.engines is not None:
            for name in self.engines:
                if name not in EAGER + FILES:
                    raise InputError(f"engines: {name!r} is not known; {nearest(name, EAGER + FILES)}")
            if not self.engines:
                raise InputError(f"engines: name at least one of {', '.join(EAGER + FILES)}")
            object.__setattr__(self, "engines", tuple(dict.fromkeys(self.engines)))
