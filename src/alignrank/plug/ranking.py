"""Ranking losses in the detectors of transformers and of torchvision: which, as sections of a recipe. The names are
those of our own detection transformers (`rank`) and of the base detector (`loss`); all are off.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignrank.config import Config


class FitConfig(Config):
    """What the class loss of Rank-DETR learns, and its cost of a match: for all detection transformers."""

    target: Literal["giou", "iou"] = "giou"
    """Quality that `gcl` and `vfl` learn: (GIoU + 1) / 2, or the IoU."""
    target_power: float = Field(default=1.0, gt=0, le=100)
    """The quality is raised to it."""
    matching_cost: bool = False
    """Late in training the cost of a match is the score times a high power of the overlap."""
    cost_overlap: Literal["iou", "giou"] = "iou"
    """Overlap in that cost: IoU, or (GIoU + 1) / 2."""
    cost_power: float = Field(default=4.0, gt=0, le=100)
    """The overlap is raised to it."""
    cost_from: float = Field(default=0.75, ge=0, le=1)
    """Part of the training after which that cost is used."""
    tie_break: float = Field(default=0.0, ge=0, le=1)
    """Weight of the GIoU in that cost for objects that no box overlaps."""


class RankConfig(FitConfig):
    """Parts of Rank-DETR that are losses, in place of the library's."""

    loss: Literal["library", "gcl", "vfl", "focal"] = "library"
    """Class loss of the decoder's layers: the library's own, `gcl` (GIoU-aware), `vfl` (varifocal) or `focal`."""


class TermsConfig(Config):
    """What list alignment and pairwise ranking have in all detectors (`losses.ranking`)."""

    align: float = Field(default=0.0, ge=0)
    """Weight of list alignment: scores of a list follow their quality."""
    rank: float = Field(default=0.0, ge=0)
    """Weight of pairwise ranking: what fits better scores higher."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the scores in `align`."""
    beta: float = Field(default=1.0, ge=0)
    """Exponent of the quality in `align`."""
    mu: float = Field(default=1.0, ge=0)
    """Margin of a pair in `rank`, in parts of its difference of quality."""
    delta: float = Field(default=0.05, ge=0)
    """Pairs whose qualities differ by less are not ranked."""
    fade_start: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the training at which `align` and `rank` begin: boxes are noise before."""
    fade_end: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the training from which on they count in full."""


class LossConfig(TermsConfig):
    """Terms that compare queries, beside the library's."""

    align_scope: Literal["object", "class"] = "class"
    """The lists of `align`: matched queries of a class in an image, or the candidates of an object."""
    rank_scope: Literal["object", "class", "both"] = "both"
    """Whom `rank` compares: candidates of one object, matched queries of a class in the whole batch, or both."""
    o2o_pairs: Literal["chosen", "all"] = "chosen"
    """What `rank` orders within an object: its matched query above its other candidates, or all of them."""
    candidate_iou: float = Field(default=0.5, ge=0, lt=1)
    """Unmatched queries are candidates of the object that they overlap most, if that IoU is higher."""


class DenseLossConfig(TermsConfig):
    """Of a head that says something at every place: the places that an object is matched to are its candidates."""

    classification: Literal["library", "vfl"] = "library"
    """Class loss: the library's own, or `vfl` (varifocal), which learns the IoU of the box as score."""
    align_scope: Literal["object", "class"] = "object"
    """The lists of `align`: the candidates of an object, or those of all objects of a class in an image."""
    rank_scope: Literal["object", "class", "both"] = "object"
    """Whom `rank` compares: candidates of one object, of different objects of a class in the whole batch, or both."""
    rank_across: Literal["all", "best"] = "all"
    """Which candidates `rank` compares with those of other objects: all, or the best-scored one of each object."""

    @property
    def is_off(self) -> bool:
        """The loss is the library's, whatever the other options are."""
        return self.classification == "library" and not (self.align or self.rank)


class DenseConfig(Config):
    """The section of such a head."""

    loss: DenseLossConfig = DenseLossConfig()
    """In place of the library's class loss, and beside its terms."""


class RankingConfig(Config):
    """Both sections."""

    rank: RankConfig = RankConfig()
    """In place of the library's class loss and cost of a match."""
    loss: LossConfig = LossConfig()
    """Beside the library's terms."""

    @property
    def is_off(self) -> bool:
        """The loss is the library's, whatever the other options are."""
        return self.rank.loss == "library" and not (self.rank.matching_cost or self.loss.align or self.loss.rank)
