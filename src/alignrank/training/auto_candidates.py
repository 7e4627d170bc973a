"""`head.candidates: auto`: as many cells are compared with each other as the training images have need of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignrank.data.samples import Sample
from alignrank.detectors.alignrank import CANDIDATES
from alignrank.terminal.progress import say
from alignrank.weights.recipe import Recipe

# A consensus box is the mean of an object's candidates. All are compared with each other: an inference with 600 takes
# 4.5 to 6 % longer than with 300, with 1000 13 to 21 % (docs/alignrank.md).
OF_AN_OBJECT = 4
LEAST, MOST, STEP = CANDIDATES, 1000, 100
CROWDED = 0.95  # quantile over the images


def with_candidates(recipe: Recipe, samples: Sequence[Sample]) -> Recipe:
    """The recipe with a number for its head's candidates, where it says `auto`. A number that is there is kept, and it
    is said where images ask for more. samples: of the training split.
    """
    architecture: Any = recipe.architecture
    given = getattr(getattr(architecture, "head", None), "candidates", None)
    if given is None or architecture.head.sampling != "topk":  # a one-to-one head has one cell for an object
        return recipe
    objects = [int((~sample.crowd).sum()) for sample in samples]
    wanted = candidates_for(objects)
    many = f"one of twenty training images has {crowd(objects)} objects or more"
    if given != "auto":
        if given < wanted:
            say(f"head.candidates: {given} are few, {many}; auto would be {wanted}")
        return recipe
    if wanted > LEAST:
        say(f"head.candidates: auto chose {wanted}, {many}")
    values = architecture.model_dump()
    values["head"] |= {"candidates": wanted}
    return replace(recipe, architecture=type(architecture).parse(values, where="head.candidates"))


def candidates_for(objects: Sequence[int]) -> int:
    """objects: of each training image -> candidates, a multiple of 100 in 300..1000."""
    wanted = -(-OF_AN_OBJECT * crowd(objects) // STEP) * STEP
    return min(max(wanted, LEAST), MOST)


def crowd(objects: Sequence[int]) -> int:
    """objects: of each training image -> how many a crowded one has; images without any do not count."""
    return int(np.quantile([count for count in objects if count] or [0], CROWDED, method="lower"))
