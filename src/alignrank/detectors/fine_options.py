"""Options of FINE, `neck.fine*`, for every neck that has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from pydantic import Field, model_validator

from alignrank.config import Config
from alignrank.nn.fine import FINE, Attention, Pooling, Variant, modulation_of


class FineConfig(Config):
    """Where two levels meet on the way down (`alignrank.nn.fine`)."""

    fine: bool = False
    """Where levels meet, the finer map is modulated by the coarser one (FINE)."""
    fine_variant: Variant = "paper"
    """Of FINE: as most of the paper's tables count it, as its equations, or as a file that circulated before."""
    fine_attention: Attention = "aats"
    """Of FINE: between pooled tokens of one grid (`aats`), or one that the paper compares it with."""
    fine_modulation: Literal["", "residual", "direct", "none"] = ""
    """Of FINE: product and map, product alone, or a sum; empty: the variant's own."""
    fine_pooling: Pooling = "avg"
    """Of FINE: how cells make a token."""
    fine_ratio: int = Field(default=2, ge=1, le=16)
    """Of FINE: pooling of the finer map over that of the coarser one; 2 gives both the same grid."""
    fine_head_dim: int = Field(default=16, ge=1, le=1024)
    """Of FINE: channels of a head of its attention."""
    fine_zero_init: bool = False
    """FINE begins as identity: for a detector that is trained already."""

    @model_validator(mode="after")
    def _keeps_the_map(self) -> FineConfig:
        if self.fine_zero_init and modulation_of(self.fine_variant, self.fine_modulation or None) == "direct":
            raise ValueError("fine_zero_init needs fine_modulation=residual or none: a direct product would be 0")
        return self


def fine_of(neck: FineConfig) -> Callable[..., FINE] | None:
    """(channels, pool=, high_channels=) -> FINE with these options; None without `fine`."""
    if not neck.fine:
        return None
    return partial(
        FINE,
        ratio=neck.fine_ratio,
        head_dim=neck.fine_head_dim,
        variant=neck.fine_variant,
        pooling=neck.fine_pooling,
        attention=neck.fine_attention,
        modulation=neck.fine_modulation or None,
        zero_init=neck.fine_zero_init,
    )
