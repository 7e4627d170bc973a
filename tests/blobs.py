"""A detector that finds every coloured blob of a picture exactly: for tests of many objects, in parts and in motion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from alignrank.contracts import Predictions
from alignrank.detectors.postprocess import TopK
from alignrank.input_size import InputSize
from alignrank.weights.deployed import Deployed

NAMES = ("red", "blue")
MOST = 120


class Blobs(nn.Module):
    """Boxes of connected red or blue pixels: scores of .9 less a hair each, or of `score` where that is given."""

    stride = 32

    def __init__(self, score: float = 0.9) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.score = score

    def forward(self, images: Tensor) -> Predictions:
        self.batches.append(len(images))
        boxes, scores = torch.zeros(len(images), MOST, 4), torch.zeros(len(images), MOST, 2)
        for i, image in enumerate(images):
            found = [
                (label, place)
                for label, (own, other) in enumerate([(0, 2), (2, 0)])
                for place in ndimage.find_objects(ndimage.label((image[own] > 0.5) & (image[other] < 0.3))[0])
            ]
            for number, (label, (rows, columns)) in enumerate(found):
                boxes[i, number] = torch.tensor([columns.start, rows.start, columns.stop, rows.stop])
                scores[i, number, label] = self.score - 1e-4 * number
        return Predictions(scores.logit(eps=1e-6), boxes)


def detector(side: int = 192, **options: Any) -> Deployed:
    return Deployed(Blobs(**options), TopK(), NAMES, InputSize(side), "blobs", torch.device("cpu"))


def painted(height: int, width: int, *objects: tuple[tuple[int, int, int, int], int]) -> np.ndarray[Any, Any]:
    """A grey picture with filled boxes (x0, y0, x1, y1) of labels 0, red, and 1, blue."""
    image = np.full((height, width, 3), 128, np.uint8)
    for (x0, y0, x1, y1), label in objects:
        image[y0:y1, x0:x1] = ((255, 0, 0), (0, 0, 255))[label]
    return image
