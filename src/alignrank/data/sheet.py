"""A sheet of samples with their boxes, as a training sees them or plain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignrank.data.loader import EvaluationSet, Images, TrainingSet
from alignrank.data.samples import Split
from alignrank.drawing import draw_boxes
from alignrank.input_size import InputSize
from alignrank.report import pictures
from alignrank.weights.settings import AugmentConfig


@dataclass(frozen=True, slots=True)
class SheetOptions:
    """size: of the network's input; count: samples at most; augmented: as in the first epoch, else plain."""

    size: InputSize
    augment: AugmentConfig
    seed: int = 0
    count: int = 16
    augmented: bool = True


def write_sheet(split: Split, path: Path, options: SheetOptions) -> None:
    """Draw samples of `split` into the picture `path`."""
    images, augment = Images(split, options.size), options.augment
    chosen = np.random.default_rng(options.seed).permutation(len(split))[: options.count].tolist()
    tiles, captions = [], []
    training = TrainingSet(images, augment, seed=options.seed, epochs=augment.plain_epochs + 1)
    plain = EvaluationSet(images)
    for index in chosen:
        pixels, targets, frame = training[0, index] if options.augmented else plain[index]
        image = (pixels.round().byte() if pixels.is_floating_point() else pixels).permute(1, 2, 0).numpy()
        boxes, labels = targets.boxes.numpy(), targets.labels.numpy()
        tiles.append(draw_boxes(image, boxes, labels, split.classes, enlarge=True))
        captions.append(f"{Path(frame.source).name}: {len(targets.labels)} objects")
    pictures.sheet(tiles, path, captions=captions, tile=400)
