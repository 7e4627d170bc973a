"""Swin and Swin v2 of timm as detectors run them (Liu et al., ICCV 2021): at any input size.

Two things differ from a classifier's run. Windows keep their size and every other block its shift however small the map
is, so that nothing depends on the size that the network was built for. And a map is padded to whole windows before it
is shifted, as in Swin's own detection code; timm shifts first, and then lines up opposite edges of the picture as
neighbours that see each other.
"""

from __future__ import annotations

import re
from typing import Any

import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models import is_model_in_modules
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

ANY_SIZE = {"strict_img_size": False, "always_partition": True}
"""Of timm.create_model."""


class _PaddedFirst:
    window_size: tuple[int, int]

    def _attn(self, x: Tensor) -> Tensor:
        """[B,H,W,C] -> the same."""
        height, width = x.shape[1:3]
        padded = F.pad(x, (0, 0, 0, -width % self.window_size[1], 0, -height % self.window_size[0]))
        out: Tensor = super()._attn(padded)  # type: ignore[misc]
        return out[:, :height, :width].contiguous()


class Block(_PaddedFirst, SwinTransformerBlock):
    """Pads, then shifts."""


class BlockV2(_PaddedFirst, SwinTransformerV2Block):
    """Pads, then shifts."""


BLOCKS: dict[type[Any], type[Any]] = {SwinTransformerBlock: Block, SwinTransformerV2Block: BlockV2}


def is_swin(name: str) -> bool:
    """name: of a timm model."""
    return bool(is_model_in_modules(name, ("swin_transformer", "swin_transformer_v2")))


def take_any_size(body: nn.Module) -> None:
    """In place, of a network made with ANY_SIZE."""
    for module in body.modules():
        if type(module) in BLOCKS:
            # timm has no argument for the class of the blocks.
            module.__class__ = BLOCKS[type(module)]
        elif isinstance(module, PatchEmbed):
            module.dynamic_img_pad = True


def timm_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Swin's own files count a downsampling to the stage before it, timm's to the one behind it."""
    if "layers.0.downsample.reduction.weight" not in weights:
        return weights
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.", name): value
        for name, value in weights.items()
    }
