"""The tensors of public Rank-DETR and H-Deformable-DETR checkpoints: what they are named here, and what they tell.

Two code bases name them: detrex, in which Rank-DETR (Pu et al. 2023) is written, with detectron2's backbones; and that
of H-Deformable-DETR (Jia et al. 2023), which is Deformable DETR's own (Zhu et al. 2021), with torchvision's ResNet. No
name of one means something else in the other, so one table serves both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alignrank.detectors.deformable_detr import DeformableDetrConfig
from alignrank.errors import InputError
from alignrank.weights.coco_names import COCO_IDS

Names = tuple[tuple[str, str], ...]

# Parts of layers: their name -> our name.
FEED_FORWARD = {
    "ffns.0.layers.0.0": "feed_forward.inner",
    "ffns.0.layers.1": "feed_forward.outer",
    "linear1": "feed_forward.inner",
    "linear2": "feed_forward.outer",
}


def _attention(theirs: str) -> dict[str, str]:
    own = {
        "sampling_offsets": "offsets",
        "attention_weights": "weights",
        "value_proj": "value",
        "output_proj": "output",
    }
    return {f"{theirs}.{name}": f"attention.{ours}" for name, ours in own.items()}


ENCODER = {
    **_attention("attentions.0"),
    **_attention("self_attn"),
    "norms.0": "norm",
    "norms.1": "feed_forward.norm",
    "norm1": "norm",
    "norm2": "feed_forward.norm",
    **FEED_FORWARD,
}
DECODER = {
    **_attention("attentions.1"),
    **_attention("cross_attn"),
    "attentions.0.attn": "self_attention",
    "self_attn": "self_attention",
    # Deformable DETR counts the norm after the deformable attention first, though that is the second to run.
    "norms.0": "self_norm",
    "norms.1": "norm",
    "norms.2": "feed_forward.norm",
    "norm2": "self_norm",
    "norm1": "norm",
    "norm3": "feed_forward.norm",
    **FEED_FORWARD,
}


def _layers(theirs: str, ours: str, parts: Mapping[str, str]) -> Names:
    return tuple((rf"{theirs}\.(\d+)\.{re.escape(a)}\.(.+)", rf"{ours}.\1.{b}.\2") for a, b in parts.items())


def _stage(number: int) -> Names:
    """Of detectron2's ResNet, whose stages begin at 2."""
    theirs, ours = rf"backbone\.res{number + 1}\.(\d+)", rf"backbone.body.layer{number}.\1"
    return (
        (rf"{theirs}\.conv(\d)\.norm\.(.+)", rf"{ours}.bn\2.\3"),
        (rf"{theirs}\.conv(\d)\.(.+)", rf"{ours}.conv\2.\3"),
        (rf"{theirs}\.shortcut\.norm\.(.+)", rf"{ours}.downsample.1.\2"),
        (rf"{theirs}\.shortcut\.(.+)", rf"{ours}.downsample.0.\2"),
    )


# Patterns of their name -> our name; the first that fits.
RESNET: Names = (
    (r"backbone\.stem\.conv1\.norm\.(.+)", r"backbone.body.bn1.\1"),
    (r"backbone\.stem\.conv1\.(.+)", r"backbone.body.conv1.\1"),
    *(pair for number in range(1, 5) for pair in _stage(number)),
)
SWIN: Names = (
    # A downsampling ends a stage there, and begins the next in timm.
    *(
        (rf"backbone\.(?:0\.body\.)?layers\.{i}\.downsample\.(.+)", rf"backbone.body.layers_{i + 1}.downsample.\1")
        for i in range(3)
    ),
    (r"backbone\.(?:0\.body\.)?layers\.(\d)\.blocks\.(.+)", r"backbone.body.layers_\1.blocks.\2"),
    (r"backbone\.(?:0\.body\.)?patch_embed\.(.+)", r"backbone.body.patch_embed.\1"),
    # Of the stages that maps come from, the first of which none is taken from.
    *((rf"backbone\.(?:0\.body\.)?norm{i}\.(.+)", rf"backbone.norms.{i - 1}.\1") for i in (1, 2, 3)),
)
HEADS: Names = (
    (r"(?:transformer\.decoder\.)?class_embed\.(\d+)\.(.+)", r"decoder.classes.\1.\2"),
    # A ReLU stands between two layers here.
    *(
        (rf"(?:transformer\.decoder\.)?bbox_embed\.(\d+)\.layers\.{i}\.(.+)", rf"decoder.boxes.\1.{2 * i}.\2")
        for i in range(3)
    ),
    (r"rank_adaptive_classhead_emb\.(\d+)\.weight", r"decoder.ranks.biases.\1.weight"),
    (r"transformer\.decoder\.rank_aware_content_query\.(\d+)\.weight", r"decoder.ranks.fusions.\1.embedding"),
    (r"transformer\.decoder\.pre_racq_trans\.(\d+)\.(.+)", r"decoder.ranks.fusions.\1.before.\2"),
    (r"transformer\.decoder\.post_racq_trans\.(\d+)\.(.+)", r"decoder.ranks.fusions.\1.after.\2"),
)
NAMES: Names = (
    *RESNET,
    *SWIN,
    (r"backbone\.0\.body\.(.+)", r"backbone.body.\1"),
    (r"neck\.convs\.(\d)\.conv\.(.+)", r"mapper.convs.\1.\2"),
    (r"neck\.convs\.(\d)\.norm\.(.+)", r"mapper.norms.\1.\2"),
    (r"neck\.extra_convs\.0\.conv\.(.+)", r"mapper.convs.3.\1"),
    (r"neck\.extra_convs\.0\.norm\.(.+)", r"mapper.norms.3.\1"),
    (r"input_proj\.(\d)\.0\.(.+)", r"mapper.convs.\1.\2"),
    (r"input_proj\.(\d)\.1\.(.+)", r"mapper.norms.\1.\2"),
    (r"transformer\.level_embeds?", r"level_embedding"),
    (r"query_embed(?:ding)?\.weight", r"embedding"),
    (r"transformer\.enc_output\.(.+)", r"proposal.0.\1"),
    (r"transformer\.enc_output_norm\.(.+)", r"proposal.1.\1"),
    (r"transformer\.pos_trans\.(.+)", r"position.0.\1"),
    (r"transformer\.pos_trans_norm\.(.+)", r"position.1.\1"),
    *_layers(r"transformer\.encoder\.layers", "encoder", ENCODER),
    *_layers(r"transformer\.decoder\.layers", "decoder.layers", DECODER),
    *HEADS,
)
# Tables that follow from the window's size.
COMPUTED = "relative_position_index"


def renamed(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Their tensors under our names; a name that is not in the table stays as it is.

    Heads stand in a file twice. Raises InputError naming `where` if the two are not equal.
    """
    layers = _count(r"transformer\.decoder\.layers\.(\d+)\.", tensors)
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(COMPUTED):
            continue
        found = (match.expand(ours) for theirs, ours in NAMES if (match := re.fullmatch(theirs, name)))
        # The heads behind the last layer's are those of the encoder.
        ours = re.sub(rf"^decoder\.(classes|boxes)\.{layers}\.", r"proposal_\1.", next(found, name))
        if ours in weights and not _equal(weights[ours], tensor):
            raise InputError(f"{where}: tensor {name} differs from another of the same part, {ours}")
        weights[ours] = tensor
    return weights


def settings(weights: Mapping[str, Tensor], config: DeformableDetrConfig) -> dict[str, Any]:
    """Options that tensors, under our names, tell; config: the recipe's. What is missing is not told.

    A file has the queries of training, or those of inference alone.
    """
    layers = {
        "transformer.encoder": _count(r"encoder\.(\d+)\.", weights),
        "transformer.decoder": _count(r"decoder\.layers\.(\d+)\.", weights),
    }
    told: dict[str, Any] = {
        **{option: count for option, count in layers.items() if count},
        "rank.head": any(name.startswith("decoder.ranks.biases.") for name in weights),
        "rank.query_layer": any(name.startswith("decoder.ranks.fusions.") for name in weights),
    }
    if "embedding" in weights and weights["embedding"].dim():
        rows = len(weights["embedding"])
        one_to_one = min(rows, config.queries.one_to_one)
        told |= {"queries.one_to_one": one_to_one, "queries.one_to_many": rows - one_to_one}
    return told


def of_coco(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Class channels 0..90, by COCO's ids -> the 80 that are in use.

    Channel 0 of proposals stays the first: it says whether there is an object at all.
    """
    used = torch.tensor(COCO_IDS)
    chosen = {}
    for name, tensor in weights.items():
        if name.startswith("decoder.classes."):
            tensor = tensor[used]
        elif name.startswith("decoder.ranks.biases."):
            tensor = tensor[:, used]
        elif name.startswith("proposal_classes."):
            tensor = torch.cat([tensor[:1], tensor[used[1:]]])
        chosen[name] = tensor
    return chosen


def _count(pattern: str, names: Mapping[str, Tensor]) -> int:
    """One more than the largest number that the pattern finds."""
    return 1 + max((int(found[1][:6]) for name in names if (found := re.match(pattern, name))), default=-1)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
