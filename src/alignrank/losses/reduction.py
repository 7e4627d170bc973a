"""The one switch that all losses share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Reduction = Literal["sum", "none"]


def reduced(loss: Tensor, reduction: Reduction) -> Tensor:
    """`loss` as it is, or its sum (0 with a gradient path for zero rows). Raises ValueError for other names."""
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ValueError(f"reduction must be 'sum' or 'none', got {reduction!r}")
