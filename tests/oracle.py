"""Oracle fixtures through the project's own code: `run(family, inputs) -> outputs`.

Both are {fixture key: numpy array}. A family is one function below and one entry of FAMILIES; it reads the inputs
by the fixture's keys and returns every output it can compute under the fixture's keys. Keys it does not know are
ignored, so a whole fixture (inputs and expected outputs together) may be passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignrank.boxes import distances_to_xyxy, xyxy_to_distances
from alignrank.detectors.postprocess import top_k
from alignrank.detectors.yolo import expected_distances
from alignrank.losses import distribution_focal_loss, varifocal_loss
from alignrank.nn.bcdm import DynamicDepthwise
from alignrank.nn.csd import cell_centres, sampling_grid, weighted_samples

Arrays = dict[str, np.ndarray[Any, Any]]


def run(family: str, inputs: Mapping[str, Any]) -> Arrays:
    """Outputs of the project's code for a fixture's inputs, under the fixture's keys."""
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in inputs.items()}
    return {key: value.detach().numpy() for key, value in FAMILIES[family](tensors).items()}


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


FAMILIES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "condconv_dw": condconv_dw,
    "csd_sample": csd_sample,
    "dfl": dfl,
    "v10_postprocess": v10_postprocess,
}
