"""`loss.class_weights`: how much the positives of each class count in the class loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from alignrank.errors import InputError

ClassWeights = list[Annotated[float, Field(gt=0, le=1000)]]


def check_kind(class_weights: Sequence[float], classification: str) -> None:
    """Raises ValueError for a class loss without weights."""
    if class_weights and classification == "ranksort":
        raise ValueError("class_weights: ranksort compares entries of all classes and has none; use another loss")


def weights_for(class_weights: Sequence[float], num_classes: int) -> Sequence[float]:
    """The weights, none or one for each class. Raises InputError for another number of them."""
    if class_weights and len(class_weights) != num_classes:
        raise InputError(
            f"loss.class_weights: has {len(class_weights)} weights for {num_classes} classes; give one for each class, "
            "in their order, or [] for none"
        )
    return class_weights
