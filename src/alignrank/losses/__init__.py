"""Pure loss functions: tensors in, one tensor out, no state."""

from alignrank.losses.class_loss import ClassLoss, class_loss
from alignrank.losses.classification import (
    giou_aware_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from alignrank.losses.consensus_box import consensus_box_loss
from alignrank.losses.localization import ciou_loss, distribution_focal_loss, giou_loss
from alignrank.losses.rank_sort import rank_sort_loss
from alignrank.losses.ranking import RankTerms, rank_consistent_loss

__all__ = [
    "ClassLoss",
    "RankTerms",
    "ciou_loss",
    "class_loss",
    "consensus_box_loss",
    "distribution_focal_loss",
    "giou_aware_focal_loss",
    "giou_loss",
    "quality_focal_loss",
    "rank_consistent_loss",
    "rank_sort_loss",
    "sigmoid_focal_loss",
    "varifocal_loss",
]
