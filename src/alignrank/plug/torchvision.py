"""FINE in `torchvision.ops.FeaturePyramidNetwork`, alone or in a detector; `compute_loss` is in `torchvision_loss`.

On the way down `inner = lateral + up(inner)` becomes `inner = FINE(lateral, inner) + up(inner)` at the first fusions:
strides 32 and 16, then 16 and 8. A fourth level (stride 4) is joined as it was; levels that are made of the coarsest
one (P6, P7, a pooled one) meet nothing on the way down.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.ops import FeaturePyramidNetwork

from alignrank.plug.modulated import Change, Make, Modulated
from alignrank.plug.torchvision_loss import compute_loss

__all__ = ["FUSIONS", "FineFeaturePyramidNetwork", "compute_loss", "plan"]

FUSIONS = 2


class FineFeaturePyramidNetwork(Modulated, FeaturePyramidNetwork):
    """FeaturePyramidNetwork whose first fusions are modulated; `fine`: a module for each, the coarsest first."""

    plain = FeaturePyramidNetwork

    def modulated(self, low: Tensor, high: Tensor, fusion: int) -> Tensor:
        """low as it is joined to the map above; as it is where the fusion has no FINE."""
        for number, fine in enumerate(self.fine):  # TorchScript has no index into a list of modules
            if number == fusion:
                low = fine(low, high).to(low.dtype)
        return low

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        names, maps = list(x.keys()), list(x.values())
        top = len(maps) - 1
        inner = self.get_result_from_inner_blocks(maps[top], -1)
        results = [self.get_result_from_layer_blocks(inner, -1)]
        for fusion in range(top):
            level = top - 1 - fusion
            lateral = self.get_result_from_inner_blocks(maps[level], level)
            above = interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            inner = self.modulated(lateral, inner, fusion) + above
            results.insert(0, self.get_result_from_layer_blocks(inner, level))
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, maps, names)
        return OrderedDict(list(zip(names, results)))  # noqa: B905 - TorchScript knows no strict


def plan(network: Any, make: Make) -> list[Change]:
    """Two modules for a network of three levels or more, one for two levels, nothing for one."""
    like = network.inner_blocks[-1][0].weight
    fusions = min(FUSIONS, len(network.inner_blocks) - 1)
    if not fusions:
        return []
    return [Change(network, FineFeaturePyramidNetwork, nn.ModuleList(make(like, fusion) for fusion in range(fusions)))]
