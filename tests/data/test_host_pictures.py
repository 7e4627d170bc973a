"""Pictures and truth, as recipes of hosts fit them, are those of the library's own image processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.testing import assert_close

from alignrank.data.loader import EvaluationSet, Images, TrainingSet, collate
from alignrank.data.samples import Sample, Split
from alignrank.detectors.transformers_host import labels_of
from alignrank.plug.transformers_models import ARCHITECTURES
from alignrank.weights.catalog import recipe_names
from alignrank.weights.recipe import load_recipe
from alignrank.weights.settings import AugmentConfig

RECIPES = [name for name in recipe_names() if name.startswith("transformers/")]
PROCESSORS = {
    "rt_detr": ("RTDetrImageProcessor", {}),
    "rt_detr_v2": ("RTDetrImageProcessor", {}),
    "d_fine": ("RTDetrImageProcessor", {}),
    "deformable_detr": ("DeformableDetrImageProcessor", {}),
    "rf_detr": ("RfDetrImageProcessor", {"size": {"height": 384, "width": 384}}),
}
SIZE = (61, 83)
BOXES = np.array([[3.5, 10, 40, 55.25], [0, 0, 83, 61]], np.float32)


def one_picture(folder: Path) -> tuple[np.ndarray[Any, Any], Split]:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")
    flags = np.ones(2, np.float32), np.zeros(2, bool)
    sample = Sample(folder / "0.png", 7, SIZE, BOXES, np.array([2, 0]), *flags)
    return pixels, Split(("a", "b", "c"), (1, 2, 3), [sample], folder)


@pytest.mark.parametrize("name", RECIPES)
def test_pictures_and_truth_are_the_library_s(name: str, tmp_path: Path) -> None:
    pixels, split = one_picture(tmp_path)
    recipe = load_recipe(name)
    architecture = recipe.architecture.model_dump()["model"]["architecture"]
    of, (kind, options) = ARCHITECTURES[architecture], PROCESSORS[architecture]
    library = getattr(transformers, kind)(**options)
    annotations = [
        {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": label, "area": 1.0, "iscrowd": 0}
        for (x1, y1, x2, y2), label in zip(BOXES.tolist(), (2, 0), strict=True)
    ]
    told = {"image_id": 7, "annotations": annotations}
    expected = library(pixels, annotations=told, return_tensors="pt")
    stride = 1 if of.masked else 32
    in_use = EvaluationSet(Images(split, recipe.size_in_use.for_stride(stride)))[0]
    training = Images(split, recipe.size_in_training.for_stride(stride))
    in_training = TrainingSet(training, AugmentConfig.off(), seed=0, epochs=1)[0, 0]
    for item in (in_use, in_training):
        batch = collate([item], step=stride)
        images = batch.network_input()
        if of.normalised:
            mean, std = (torch.tensor(x)[:, None, None] for x in (library.image_mean, library.image_std))
            images = (images - mean) / std
        assert_close(images, expected["pixel_values"], atol=1.2e-6, rtol=0, check_stride=False)
        (ours,), (theirs,) = labels_of(batch.targets, batch.sizes()), expected["labels"]
        assert_close(ours["boxes"], theirs["boxes"], atol=1e-6, rtol=0)
        assert torch.equal(ours["class_labels"], theirs["class_labels"])
