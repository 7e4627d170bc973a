"""Oracle fixtures through the project's own code: `run(family, inputs) -> outputs`.

Both are {fixture key: numpy array}. A family is one function below and one entry of FAMILIES; it reads the inputs
by the fixture's keys and returns every output it can compute under the fixture's keys. Keys it does not know are
ignored, so a whole fixture (inputs and expected outputs together) may be passed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignrank.boxes import distances_to_xyxy, xyxy_to_distances
from alignrank.contracts import Predictions, Targets
from alignrank.detectors.detr_decoder import Decoder, Queries
from alignrank.detectors.postprocess import top_k
from alignrank.detectors.rank_detr import Groups, RankConfig, Ranks
from alignrank.detectors.varifocalnet import Head, HeadConfig, VarifocalNetConfig
from alignrank.detectors.varifocalnet_criterion import VarifocalNetCriterion
from alignrank.detectors.yolo import expected_distances
from alignrank.losses import distribution_focal_loss, varifocal_loss
from alignrank.nn.bcdm import DynamicDepthwise
from alignrank.nn.csd import cell_centres, sampling_grid, weighted_samples
from alignrank.nn.deformable_attention import DeformableAttention
from alignrank.nn.grid import cell_rows, grid_points
from alignrank.nn.transformer import DecoderLayer, Levels, Sight
from alignrank.weights import detrex
from alignrank.weights.foreign import renamed

Arrays = dict[str, np.ndarray[Any, Any]]


def run(family: str, inputs: Mapping[str, Any]) -> Arrays:
    """Outputs of the project's code for a fixture's inputs, under the fixture's keys."""
    arrays = {key: np.array(value) for key, value in inputs.items()}
    values: dict[str, Any] = {k: str(x) if x.dtype.kind in "US" else torch.from_numpy(x) for k, x in arrays.items()}
    return {key: value.detach().numpy() for key, value in FAMILIES[family](values).items()}


def dfl(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss [n,1], mean over sides, and its gradient; decoding to distances, boxes and back; varifocal loss."""
    outputs: dict[str, Tensor] = {}
    if "pred_dist" in inputs:
        logits = inputs["pred_dist"].clone().requires_grad_()  # [4n,R]
        per_side = distribution_focal_loss(logits, inputs["target_ltrb_unclamped"].flatten(), reduction="none")
        per_anchor = per_side.unflatten(0, (-1, 4)).mean(1, keepdim=True)
        (gradient,) = torch.autograd.grad(per_anchor.sum(), logits)
        outputs |= {"loss_per_anchor": per_anchor, "grad_sum": gradient}
    if "dfl_in" in inputs:
        distribution = inputs["dfl_in"].unflatten(1, (4, -1)).permute(0, 3, 1, 2)  # [B,4R,A] -> [B,A,4,R]
        distances = expected_distances(distribution)
        outputs["dfl_decoded_ltrb"] = distances.transpose(1, 2)
        if "anchor_points" in inputs:
            points = inputs["anchor_points"]
            boxes = distances_to_xyxy(points, distances)
            outputs |= {"boxes_xyxy": boxes, "bbox2dist": xyxy_to_distances(points, boxes)}
    if "u_vfl_pred" in inputs:
        elementwise = varifocal_loss(inputs["u_vfl_pred"], inputs["u_vfl_gt"], reduction="none")
        outputs["u_vfl_loss"] = elementwise.mean(1).sum()
    return outputs


def v10_postprocess(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two-stage top k of preds [B,A,4+C]: boxes, scores, labels, best first."""
    boxes, scores = inputs["preds"].split([4, int(inputs["nc"])], -1)
    best_boxes, best_scores, labels = top_k(scores, boxes, int(inputs["max_det"]))
    return {"boxes": best_boxes, "scores": best_scores, "labels": labels}


def csd_sample(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where the cells of one level look in a map of another [N,K,2], what they read [N,K,D], its weighted sum [N,D]."""
    value, weights = inputs["value"], inputs["weight"]
    centres = cell_centres(*inputs["level_l_hw"].tolist())[:, None]
    height, width = inputs["level_m_hw"].tolist()
    grid = sampling_grid(centres, inputs["offset_cells_of_m_xy"], (height, width))

    def read(places: Tensor, weights: Tensor) -> Tensor:
        """places [N,k,2], weights [N,k] -> [N,D]."""
        return weighted_samples(value[None], places[None, :, None], weights[None, :, None])[0].T

    alone = [read(grid[:, [k]], torch.ones_like(weights[:, [k]])) for k in range(grid.shape[1])]
    return {"grid": grid, "sampled": torch.stack(alone, 1), "aggregated": read(grid, weights)}


def condconv_dw(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """CondConv's routing [B,E] and depthwise mixture [B,D,H,W]. Ours are smaller by 2/E, so that E experts start alike.

    The routing is read off by a mixture of which one expert passes its input on and the others give nothing.
    """
    x, experts = inputs["x"], inputs["experts"]
    count, width = experts.shape[:2]
    module = DynamicDepthwise(width, count).to(x.dtype)

    def mixture(kernels: Tensor) -> Tensor:
        """kernels [E,D,1,3,3]; expert e of channel c is kernel c*E + e of the module."""
        state = {"kernels.weight": kernels.transpose(0, 1).flatten(0, 1)}
        module.load_state_dict(state | {"routing.weight": inputs["route_w"], "routing.bias": inputs["route_b"]})
        return module(x) * count / 2

    routing = []
    for expert in range(count):
        passes = torch.zeros_like(experts)
        passes[expert, :, :, 1, 1] = 1
        routing.append((mixture(passes) * x).sum((1, 2, 3)) / x.square().sum((1, 2, 3)))
    return {"routing_sigmoid": torch.stack(routing, 1), "y": mixture(experts)}


def vfnet_forward_single(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """One level through VarifocalNet's head, weights by the authors' names: outputs and two gradients."""
    weights = {key.removeprefix("w."): value for key, value in inputs.items() if key.startswith("w.")}
    width, num_classes = inputs["x"].shape[1], len(weights["vfnet_cls.bias"])
    head = Head(width, num_classes, HeadConfig(convs=1, groups=4), levels=1)
    public = {re.sub(r"^scale(_refine)?\.", r"scales\1.0.", key): value for key, value in weights.items()}
    ours = renamed({f"bbox_head.{key}": value for key, value in public.items()}, "w.*")
    head.load_state_dict({key.removeprefix("head."): value for key, value in ours.items()})
    x, stride = inputs["x"].clone().requires_grad_(), int(inputs["stride"])
    unit = float(inputs["reg_denom"]) if str(inputs["norm"]) == "reg_denom" else float(stride)
    logits, first, refined, _ = head(x, 0, stride, unit)
    total = (logits * inputs["up_cls"]).sum() + 0.01 * (first * inputs["up_bbox"]).sum()
    total = total + 0.01 * (refined * inputs["up_refine"]).sum()
    grad_x, grad_weight = torch.autograd.grad(total, [x, head.box.weight])
    return {
        "cls_score": logits, "bbox_pred": first, "bbox_pred_refine": refined,
        "grad_x": grad_x, "grad_vfnet_reg_weight": grad_weight,
    }  # fmt: skip


def vfnet_loss(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The three losses, the label of every point, and the gradients of the losses' sum, level by level."""
    num_levels, num_images, num_classes = len(inputs["strides"]), int(inputs["num_img"]), int(inputs["num_classes"])
    kinds = ("cls", "bbox", "refine")
    maps = {f"{kind}{i}": inputs[f"{kind}{i}"].clone().requires_grad_() for kind in kinds for i in range(num_levels)}
    rows = {k: cell_rows([maps[f"{k}{i}"] for i in range(num_levels)]) for k in kinds}
    points, strides = grid_points([maps[f"cls{i}"] for i in range(num_levels)], inputs["strides"].tolist(), shift=0.0)
    first = Predictions(rows["cls"], distances_to_xyxy(points, rows["bbox"]), points, strides)
    predictions = Predictions(
        rows["cls"], distances_to_xyxy(points, rows["refine"]), points, strides, auxiliary={"first": first}
    )
    targets = [Targets(inputs[f"gt_boxes{n}"], inputs[f"gt_labels{n}"]) for n in range(num_images)]
    criterion = VarifocalNetCriterion(VarifocalNetConfig(num_classes=num_classes))
    terms = criterion(predictions, targets)
    outputs = {
        f"loss_{name}": terms.parts[part] for name, part in {"cls": "cls", "bbox": "box", "bbox_rf": "refine"}.items()
    }
    gradients = torch.autograd.grad(terms.total, list(maps.values()))
    outputs |= {f"g{key}": gradient for key, gradient in zip(maps, gradients, strict=True)}
    image, point, label, _ = criterion.positives(predictions, targets)
    labels = torch.full(rows["cls"].shape[:2], num_classes).index_put((image, point), label)
    counts = [maps[f"cls{i}"][0, 0].numel() for i in range(num_levels)]
    return outputs | {f"labels{i}": x.flatten() for i, x in enumerate(labels.split(counts, 1))}


def rankdetr_decoder(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rank-DETR's decoder, weights by the authors' names: states [L,B,Q,D], what the next layer starts from [L,B,Q,4],
    logits [L,B,Q,C] and boxes [L,B,Q,4], and gradients of the queries and of the last layers of boxes [L,4].
    """
    public = {
        key.replace("dec.", "transformer.decoder.", 1).replace("rch.", "rank_adaptive_classhead_emb.", 1): value
        for key, value in inputs.items()
        if key.startswith(("dec.", "rch."))
    }
    weights = {
        key.removeprefix("decoder."): value
        for key, value in detrex.renamed(public, "dec.*, rch.*").items()
        if not key.startswith("proposal_")
    }
    query = inputs["query"].clone().requires_grad_()
    width, num_classes = query.shape[-1], len(weights["classes.0.bias"])
    num_layers, num_heads, num_levels = (
        int(inputs["num_layers"]),
        int(inputs["num_heads"]),
        len(inputs["spatial_shapes"]),
    )
    num_one, num_many = int(inputs["nq_one2one"]), int(inputs["nq_one2many"])
    points = len(weights["layers.0.attention.weights.bias"]) // (num_heads * num_levels)
    hidden = len(weights["layers.0.feed_forward.inner.bias"])

    def layer() -> DecoderLayer:
        attention = DeformableAttention(width, heads=num_heads, levels=num_levels, points=points)
        return DecoderLayer(width, attention, num_heads, hidden)

    config = RankConfig(head=bool(inputs["rank_adaptive_classhead"]), query_layer=bool(inputs["query_rank_layer"]))
    ranks = Ranks(config, layers=num_layers, rows=num_one + num_many, width=width, num_classes=num_classes)
    decoder = Decoder(
        [layer() for _ in range(num_layers)],
        num_classes=num_classes,
        width=width,
        ranks=ranks if config.sorts else None,
        look_forward_twice=bool(inputs["look_forward_twice"]),
    ).to(query.dtype)
    decoder.load_state_dict(weights)
    valid, shapes = inputs["valid_ratios"], [(int(h), int(w)) for h, w in inputs["spatial_shapes"]]
    counts = valid * torch.tensor([(w, h) for h, w in shapes])
    groups = Groups(0, (num_one, num_many) if inputs["training"] else (num_one,))
    sight = Sight((query.shape[1],), inputs["self_attn_mask"])
    queries = Queries(query, inputs["query_pos"], inputs["reference_points"], groups, sight)
    layers = decoder(queries, inputs["memory"], Levels(shapes, valid, counts, inputs["key_padding_mask"]))
    logits, boxes = torch.stack([x.logits for x in layers]), torch.stack([x.boxes for x in layers])
    total = (logits * inputs["up_logits"]).sum() + (boxes * inputs["up_boxes"]).sum()
    gradients = torch.autograd.grad(total, [query, *(boxes[-1].bias for boxes in decoder.boxes)])
    return {
        "inter_states": torch.stack([x.states for x in layers]),
        "inter_references": torch.stack([x.next_boxes for x in layers]),
        "out_logits": logits, "out_boxes": boxes,
        "grad_query": gradients[0], "grad_bbox_last_bias": torch.stack(gradients[1:]),
    }  # fmt: skip


FAMILIES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "condconv_dw": condconv_dw,
    "csd_sample": csd_sample,
    "dfl": dfl,
    "rankdetr_decoder": rankdetr_decoder,
    "v10_postprocess": v10_postprocess,
    "vfnet_forward_single": vfnet_forward_single,
    "vfnet_loss": vfnet_loss,
}
