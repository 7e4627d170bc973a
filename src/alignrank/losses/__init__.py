"""Pure loss functions: tensors in, one tensor out, no state."""

from alignrank.losses.classification import quality_focal_loss, sigmoid_focal_loss, varifocal_loss
from alignrank.losses.localization import ciou_loss, distribution_focal_loss, giou_loss

__all__ = [
    "ciou_loss",
    "distribution_focal_loss",
    "giou_loss",
    "quality_focal_loss",
    "sigmoid_focal_loss",
    "varifocal_loss",
]
