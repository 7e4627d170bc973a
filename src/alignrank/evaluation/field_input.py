"""Which network a field is measured in, trained or not, and over which images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignrank.contracts import Batch, Frame, Targets
from alignrank.data.decode import decode
from alignrank.data.letterbox import letterbox
from alignrank.data.opening import open_split
from alignrank.data.samples import spread
from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.inference.sources import Sources
from alignrank.input_size import InputSize
from alignrank.terminal.progress import say, steps
from alignrank.weights import checkpoint
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.recipe import load_recipe
from alignrank.weights.untrained import NUMBERED_CLASSES, random_model, untrained

Array = np.ndarray[Any, Any]
_OVERRIDE = re.compile(r"[a-z]\w*\.\w+=")


@dataclass(frozen=True, slots=True)
class Subject:
    """A network: its weights, and whether they are random; pretrained: where its backbone's are from."""

    loaded: Checkpoint
    random: bool = False
    pretrained: str = ""

    def to_dict(self) -> dict[str, Any]:
        weights = None if self.random else str(self.loaded.path)
        return {"weights": weights, "model": self.loaded.recipe.name, "pretrained": self.pretrained or None}


def trained_subject(weights: str | Path) -> Subject:
    """Weights of ours. Raises InputError naming the file."""
    return Subject(checkpoint.load(weights))


def random_subject(model: str, overrides: Mapping[str, Any], seed: int) -> Subject:
    """A recipe with overrides, for 80 classes, its weights random, but those of a backbone that `model.pretrained`
    among the overrides names: what the recipe itself asks for is not fetched. It is said what is random.
    """
    recipe = load_recipe(model, num_classes=len(NUMBERED_CLASSES), overrides=overrides, where="command line")
    pretrained = str(overrides.get("model.pretrained") or "")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = DETECTORS[recipe.detector].model(recipe.architecture).eval() if pretrained else random_model(recipe)
    all_or = f"the backbone's weights are {pretrained}, all others" if pretrained else "weights"
    say(f"{recipe.name}: {all_or} are random, of seed {seed}")
    return Subject(untrained(recipe, NUMBERED_CLASSES, built), random=True, pretrained=pretrained)


def overrides_among(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words of a command line -> images and `section.field=value`; what is a file of that name is an image."""
    found = [word for word in words if _OVERRIDE.match(word) and not Path(word).exists()]
    return [word for word in words if word not in found], found


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images of a split of a data set, or what `sources` name as for `predict`; neither: noise, uniform in each px.

    Raises InputError where both are given.
    """

    data: str | None = None
    split: str = "val"
    sources: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.data is not None and self.sources:
            raise InputError(f"data: give a data set or images, not both; leave out {self.sources[0]}")

    def read(self, most: int, side: int, seed: int) -> list[Batch]:
        """At most so many images, spread over a split, or the first ones; one a batch, its input `side` px square."""
        if self.data is None and not self.sources:
            rng = np.random.default_rng(seed)
            say(f"no images given: fields are averaged over {most} of noise")
            noise = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(most))
            return [squared(image, "noise", side) for image in noise]
        with steps("reading images", None):
            return [squared(image, name, side) for name, image in self._images(most)]

    def _images(self, most: int) -> Iterator[tuple[str, Array]]:
        if self.data is not None:
            for sample in spread(open_split(self.data, self.split), most):
                yield str(sample.image), decode(sample.image)
            return
        sources = Sources([*self.sources])
        with closing(iter(sources)) as images:
            for image in islice(images, most):
                yield image.name, image.image
        sources.skips.report()

    def to_dict(self) -> dict[str, Any]:
        return {"data": self.data, "split": None if self.data is None else self.split}


def squared(image: Array, name: str, side: int) -> Batch:
    """An image [H,W,3] uint8 alone: its largest centred square, as large as the input, so that no cell looks at a
    border that is no picture.
    """
    height, width = image.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = np.ascontiguousarray(image[top : top + least, left : left + least])
    canvas, scale, offset = letterbox(torch.from_numpy(square).permute(2, 0, 1), InputSize(side))
    return Batch(canvas[None], [Targets.empty()], [Frame(name, (least, least), scale, offset)])
