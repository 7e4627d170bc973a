"""Network parts that know no loss."""

from alignrank.nn.bcdm import BidirectionalDynamicFusion
from alignrank.nn.csd import CrossScaleSampling

__all__ = ["BidirectionalDynamicFusion", "CrossScaleSampling"]
