"""Tiny checkpoints of transformers with random weights, in the layout in which the library publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_forms import HOSTS

from alignrank.plug.transformers_models import ARCHITECTURES

RECIPES = {
    "rt_detr": "transformers/rtdetr-r18",
    "rt_detr_v2": "transformers/rtdetr-v2-r18",
    "d_fine": "transformers/dfine-s",
    "deformable_detr": "transformers/deformable-detr-r50",
    "rf_detr": "transformers/rfdetr-nano",
}
NAMES = ("person", "motorbike", "cat")
# Neither square nor a recipe's.
WIDE = {"height": 64, "width": 96}
PROCESSORS: dict[str, tuple[str, dict[str, int]]] = {
    "rt_detr": ("RTDetrImageProcessor", WIDE),
    "rt_detr_v2": ("RTDetrImageProcessor", WIDE),
    "d_fine": ("RTDetrImageProcessor", WIDE),
    "deformable_detr": ("DeformableDetrImageProcessor", {"shortest_edge": 51, "longest_edge": 133}),
    "rf_detr": ("RfDetrImageProcessor", WIDE),
}


def write_published(folder: Path, name: str = "rt_detr", names: Sequence[str] = NAMES, **changes: Any) -> Any:
    """Weights and processor, as transformers writes them; returns the network. names: of the class channels."""
    of = ARCHITECTURES[name]
    config = getattr(transformers, of.config)(**HOSTS[name] | changes, id2label=dict(enumerate(names)))
    if hasattr(config, "tie_word_embeddings"):  # published ones have heads of their own in each layer
        config.tie_word_embeddings = of.masked
    model = getattr(transformers, of.model)(config)
    shake(model)
    with torch.no_grad():
        for copy in of.copies:  # the library looks at the decoder's
            getattr(model, copy).load_state_dict(getattr(model.model.decoder, copy).state_dict())
    model.save_pretrained(folder)
    kind, size = PROCESSORS[name]
    getattr(transformers, kind)(size=size).save_pretrained(folder)
    return model.eval()


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Weights that tell pictures and queries apart: heads begin at zero, and so do norms in the library; convolutions
    of few channels pass too little.
    """
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            torch.nn.init.ones_(module.weight)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
