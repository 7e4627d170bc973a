"""Network parts that know no loss."""

from alignrank.nn.bcdm import BidirectionalDynamicFusion
from alignrank.nn.csd import CrossScaleSampling
from alignrank.nn.deformable import DeformableConv, ModulatedConv, star_offsets
from alignrank.nn.deformable_attention import DeformableAttention, multi_scale_deformable_attention
from alignrank.nn.fine import FINE
from alignrank.nn.fpn import FPN

__all__ = [
    "FINE",
    "FPN",
    "BidirectionalDynamicFusion",
    "CrossScaleSampling",
    "DeformableAttention",
    "DeformableConv",
    "ModulatedConv",
    "multi_scale_deformable_attention",
    "star_offsets",
]
