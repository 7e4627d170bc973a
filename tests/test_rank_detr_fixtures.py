"""The oracle fixtures of Rank-DETR in ../shared/fixtures: deformable attention, the decoder, high-order matching and
the GIoU-aware class loss.

Tolerances are those of fixtures/README.md: the reference adds 1e-6 to areas of boxes in 0..1, so costs are equal to
1e-3 and losses to 1e-4.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import run
from test_fixtures import Fixture, close, read, tensors
from torch import Tensor
from torch.nn.functional import l1_loss

from alignrank.assign import detr_cost, high_order_cost, match, match_all
from alignrank.boxes import aligned_giou, cxcywh_to_xyxy, pairwise_iou
from alignrank.losses import giou_aware_focal_loss, giou_loss, sigmoid_focal_loss
from alignrank.nn import DeformableAttention, multi_scale_deformable_attention
from alignrank.weights.detrex import renamed

HMC = ["hmc_early_focal", "hmc_high_order", "hmc_empty_gt", "hmc_more_gt_than_q"]
GCL = ["gcl_0", "gcl_one_empty"]


def costs(fixture: dict[str, Tensor]) -> list[Tensor]:
    """Of each image, of the kind that is used in the fixture's iteration."""
    early = bool(fixture["iter"] < fixture["matcher_change_iter"])
    found = []
    for b, (logits, boxes) in enumerate(zip(fixture["pred_logits"], fixture["pred_boxes"], strict=True)):
        rows = (logits, cxcywh_to_xyxy(boxes), fixture[f"labels{b}"], cxcywh_to_xyxy(fixture[f"boxes{b}"]))
        found.append(detr_cost(*rows, size=(1, 1)) if early else high_order_cost(*rows))
    return found


@pytest.mark.parametrize("name", HMC)
def test_costs(shared: Path, name: str) -> None:
    fixture = tensors(read(shared, name))
    for b, cost in enumerate(costs(fixture)):
        assert cost.dtype == torch.float32
        close(cost, fixture[f"cost{b}"], 1e-3)


@pytest.mark.parametrize("name", HMC)
def test_assignment(shared: Path, name: str) -> None:
    """Equal pair by pair; pairs of cost 0, without overlap, are arbitrary: their number and the totals are equal."""
    fixture = tensors(read(shared, name))
    of_each_image = costs(fixture)
    for b, (queries, objects) in enumerate(match_all(of_each_image)):
        reference, src, tgt = (fixture[f"{key}{b}"] for key in ("cost", "src", "tgt"))
        assert len(queries) == len(src)
        close(of_each_image[b][queries, objects].sum(), reference[src, tgt].sum(), 1e-3)
        ours, theirs = (reference[pair] != 0 for pair in ((queries, objects), (src, tgt)))
        assert torch.equal(queries[ours], src[theirs])
        assert torch.equal(objects[ours], tgt[theirs])
        assert theirs.any() or not len(src)


@pytest.mark.parametrize("name", HMC)
def test_assignment_of_the_reference_costs(shared: Path, name: str) -> None:
    """To the pair, arbitrary ones included: both are the first that scipy finds."""
    fixture = tensors(read(shared, name))
    for b in range(len(fixture["pred_logits"])):
        queries, objects = match(fixture[f"cost{b}"])
        assert torch.equal(queries, fixture[f"src{b}"])
        assert torch.equal(objects, fixture[f"tgt{b}"])


@pytest.mark.parametrize("name", HMC)
def test_tie_break_changes_no_pair_that_overlaps(shared: Path, name: str) -> None:
    fixture = tensors(read(shared, name))
    for b, (logits, boxes) in enumerate(zip(fixture["pred_logits"], fixture["pred_boxes"], strict=True)):
        truth = cxcywh_to_xyxy(fixture[f"boxes{b}"])
        rows = (logits, cxcywh_to_xyxy(boxes), fixture[f"labels{b}"], truth)
        plain, broken = high_order_cost(*rows), high_order_cost(*rows, tie_break=1e-6)
        overlapped = (pairwise_iou(rows[1], truth) > 0).any(0)
        assert torch.equal(plain[:, overlapped], broken[:, overlapped])
        assert torch.equal(plain[match(plain)].sum(), plain[match(broken)].sum())


def matched(raw: Fixture) -> tuple[dict[str, Tensor], Tensor, Tensor, tuple[Tensor, ...]]:
    """The fixture; its boxes as a leaf; matched true boxes [P,4] cxcywh; and the matches' (image, query, class)."""
    fixture = tensors(raw)
    boxes = fixture["pred_boxes"].clone().requires_grad_()
    of_image = range(len(boxes))
    image = torch.cat([torch.full_like(fixture[f"src{b}"], b) for b in of_image])
    query = torch.cat([fixture[f"src{b}"] for b in of_image])
    truth = torch.cat([fixture[f"boxes{b}"][fixture[f"tgt{b}"]] for b in of_image])
    label = torch.cat([fixture[f"labels{b}"][fixture[f"tgt{b}"]] for b in of_image])
    return fixture, boxes, truth, (image, query, label)


@pytest.mark.parametrize("name", GCL)
def test_class_loss(shared: Path, name: str) -> None:
    """Value, gradient of the logits, and none of the boxes, though the target is made from them."""
    fixture, boxes, truth, where = matched(read(shared, name))
    logits = fixture["pred_logits"].clone().requires_grad_()
    giou = aligned_giou(cxcywh_to_xyxy(boxes[where[:2]]), cxcywh_to_xyxy(truth))
    target = torch.zeros_like(fixture["pred_logits"]).index_put(where, (giou + 1) / 2)
    options = {"alpha": float(fixture["alpha"]), "gamma": float(fixture["gamma"])}
    loss = giou_aware_focal_loss(logits, target, **options) / fixture["num_boxes"]
    loss.backward()
    close(loss, fixture["gcl_loss"], 1e-4)
    close(logits.grad, fixture["gcl_grad_logits"], 1e-4)
    assert (boxes.grad is None) == bool(fixture["gcl_grad_boxes_is_none"])


@pytest.mark.parametrize("name", GCL)
def test_class_loss_of_the_encoder(shared: Path, name: str) -> None:
    """Plain focal loss: no box is in it, so equal to rounding."""
    fixture, _, _, where = matched(read(shared, name))
    logits = fixture["pred_logits"].clone().requires_grad_()
    target = torch.zeros_like(fixture["pred_logits"]).index_put(where, logits.new_ones(()))
    options = {"alpha": float(fixture["alpha"]), "gamma": float(fixture["gamma"])}
    loss = sigmoid_focal_loss(logits, target, **options) / fixture["num_boxes"]
    loss.backward()
    close(loss, fixture["focal_loss"], 1e-9)
    close(logits.grad, fixture["focal_grad_logits"], 1e-9)


@pytest.mark.parametrize("name", GCL)
def test_box_losses_of_matches(shared: Path, name: str) -> None:
    """L1 of centres and sizes, and GIoU."""
    fixture, boxes, truth, where = matched(read(shared, name))
    found = boxes[where[:2]]
    close(l1_loss(found, truth, reduction="sum") / fixture["num_boxes"], fixture["loss_bbox"], 1e-9)
    loss = giou_loss(cxcywh_to_xyxy(found), cxcywh_to_xyxy(truth)).sum() / fixture["num_boxes"]
    close(loss, fixture["loss_giou"], 1e-4)


@pytest.mark.parametrize("name", ["msda_0", "msda_oob"])
def test_deformable_sampling(shared: Path, name: str) -> None:
    """Values and all three gradients, locations beyond the map included."""
    fixture = tensors(read(shared, name))
    inputs = {
        key: fixture[key].clone().requires_grad_() for key in ("value", "sampling_locations", "attention_weights")
    }
    output = multi_scale_deformable_attention(spatial_shapes=fixture["spatial_shapes"], **inputs)
    gradients = torch.autograd.grad(output, list(inputs.values()), fixture["upstream"])
    close(output, fixture["output"], 1e-9)
    for key, gradient in zip(("value", "loc", "weights"), gradients, strict=True):
        close(gradient, fixture[f"grad_{key}"], 1e-9)


@pytest.mark.parametrize("name", ["msda_module_ref2", "msda_module_ref4"])
def test_deformable_attention(shared: Path, name: str) -> None:
    """Around points and around boxes, with padding; weights by the authors' names; and the weights it begins with."""
    fixture = tensors(read(shared, name))
    query, shapes = fixture["query"], fixture["spatial_shapes"]
    heads, points = 4, len(fixture["init_attention_weights_bias"]) // (4 * len(shapes))
    module = DeformableAttention(query.shape[-1], heads=heads, levels=len(shapes), points=points)
    close(module.offsets.bias, fixture["init_sampling_offsets_bias"].float(), 1e-6)
    close(module.weights.bias, fixture["init_attention_weights_bias"].float(), 0)
    assert module.offsets.weight.abs().max() == fixture["init_sampling_offsets_weight_absmax"]

    prefix = "transformer.encoder.layers.0.attentions.0."
    theirs = {prefix + key.removeprefix("w."): value for key, value in fixture.items() if key.startswith("w.")}
    ours = renamed(theirs, name)
    module.double().load_state_dict({key.removeprefix("encoder.0.attention."): value for key, value in ours.items()})
    looking, padding = query + fixture["query_pos"], fixture["key_padding_mask"]
    sizes = [(int(height), int(width)) for height, width in shapes]
    attended = module(looking, fixture["reference_points"], fixture["value"], sizes, padding)
    close(attended + query, fixture["output_with_residual"], 1e-9)


@pytest.mark.parametrize("name", ["eval", "train", "rch_only"])
def test_decoder(shared: Path, name: str) -> None:
    """Sorted queries through three layers, in one group and in two, with and without what is learnt for each rank."""
    fixture = read(shared, f"rankdetr_decoder_{name}")
    computed = (
        "inter_states", "inter_references", "out_logits", "out_boxes", "grad_query", "grad_bbox_last_bias",
    )  # fmt: skip
    outputs = run("rankdetr_decoder", {key: value for key, value in fixture.items() if key not in computed})
    assert set(outputs) == set(computed)
    for key in computed:
        close(outputs[key], fixture[key], 1e-8)
