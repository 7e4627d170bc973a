"""FINE in the hybrid encoders of transformers: RT-DETR, RT-DETRv2, D-FINE.

On the way down `block(concat(up(high), low))` becomes `block(concat(up(high), FINE(low, high)))`, high being what the
1x1 lateral convolution makes of the coarser map, at strides 32 and 16, then 16 and 8; the way up stays. The block, and
not the encoder, is what changes: the encoder's forward is another in every release, what it gives to its blocks is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignrank.extras import require
from alignrank.nn.fine import FINE
from alignrank.plug.modulated import Change, Make, Modulated
from alignrank.plug.transformers_loss import loss_function

require("transformers", "transformers")

from transformers.models.d_fine.modeling_d_fine import DFineRepNCSPELAN4  # noqa: E402
from transformers.models.rt_detr.modeling_rt_detr import RTDetrCSPRepLayer  # noqa: E402
from transformers.models.rt_detr_v2.modeling_rt_detr_v2 import RTDetrV2CSPRepLayer  # noqa: E402

__all__ = ["BECOMES", "FUSIONS", "loss_function", "plan"]

FUSIONS = 2


class FusionBlock(Modulated, nn.Module):
    """[B,2C,h,w], the coarser map doubled in size beside the finer one -> what the block makes of it, [B,C,h,w]."""

    fine: FINE

    def forward(self, fused: Tensor) -> Any:
        above, low = fused.chunk(2, 1)
        high = above[..., ::2, ::2]  # each cell stands there four times: the map before it was doubled, bit for bit
        return super().forward(torch.cat([above, self.fine(low, high).to(low.dtype)], 1))


class FineRTDetrCSPRepLayer(FusionBlock, RTDetrCSPRepLayer):
    plain = RTDetrCSPRepLayer


class FineRTDetrV2CSPRepLayer(FusionBlock, RTDetrV2CSPRepLayer):
    plain = RTDetrV2CSPRepLayer


class FineDFineRepNCSPELAN4(FusionBlock, DFineRepNCSPELAN4):
    plain = DFineRepNCSPELAN4


BECOMES: dict[type[nn.Module], type[Modulated]] = {
    kind.plain: kind for kind in (FineRTDetrCSPRepLayer, FineRTDetrV2CSPRepLayer, FineDFineRepNCSPELAN4)
}


def plan(encoder: Any, make: Make) -> list[Change]:
    """A module for each of the first two fusions, of as many as there are."""
    fusions = zip(encoder.lateral_convs[:FUSIONS], encoder.fpn_blocks[:FUSIONS], strict=True)
    return [
        Change(block, BECOMES[type(block)], make(lateral.conv.weight, fusion))
        for fusion, (lateral, block) in enumerate(fusions)
        if type(block) in BECOMES
    ]
