"""The oracle fixtures in ../shared/fixtures, made by running public implementations: values and gradients.

Tolerances are those of fixtures/README.md: 1e-9 in float64, 1e-5 in float32, and for box losses 1e-6 (values) and
1e-4 (gradients), because where an epsilon sits is free.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import run
from torch import Tensor
from torch.testing import assert_close

from alignrank.assign import task_aligned
from alignrank.boxes import aligned_ciou, aligned_giou, aligned_iou, pairwise_giou, pairwise_iou
from alignrank.losses import ciou_loss, distribution_focal_loss, giou_loss, quality_focal_loss, varifocal_loss

Fixture = dict[str, np.ndarray[Any, Any]]


def read(shared: Path, name: str) -> Fixture:
    with np.load(shared / "fixtures" / f"{name}.npz") as archive:
        return dict(archive)


def tensors(fixture: Fixture) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.asarray(value)) for key, value in fixture.items()}


def close(actual: Any, expected: Any, tolerance: float) -> None:
    assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["varifocal_0", "varifocal_edge", "varifocal_noiouw"])
def test_varifocal(shared: Path, name: str) -> None:
    fixture = tensors(read(shared, name))
    logits = fixture["pred"].clone().requires_grad_()
    options = {
        "alpha": float(fixture["alpha"]),
        "gamma": float(fixture["gamma"]),
        "iou_weighted": bool(fixture["iou_weighted"]),
    }
    close(varifocal_loss(logits, fixture["target"], reduction="none", **options), fixture["elementwise"], 1e-9)
    loss = varifocal_loss(logits, fixture["target"], **options) / fixture["avg_factor"]
    loss.backward()
    close(loss, fixture["loss"], 1e-9)
    close(logits.grad, fixture["grad"], 1e-9)


@pytest.mark.parametrize("name", ["boxes_0", "boxes_edge"])
def test_boxes(shared: Path, name: str) -> None:
    fixture = tensors(read(shared, name))
    a, b = fixture["a"], fixture["b"]
    close(pairwise_iou(a, b), fixture["iou"], 1e-9)
    close(pairwise_giou(a, b), fixture["giou"], 1e-9)
    close(aligned_ciou(a[:, None], b[None]), fixture["ciou"], 1e-6)
    own = b[: len(a)]
    close(aligned_iou(a, own), fixture["iou"].diagonal(), 1e-6)
    close(aligned_giou(a, own), fixture["giou"].diagonal(), 1e-6)


@pytest.mark.parametrize("name", ["boxes_0", "boxes_edge"])
@pytest.mark.parametrize(("kind", "loss"), [("giou", giou_loss), ("ciou", ciou_loss)])
def test_box_losses(shared: Path, name: str, kind: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    fixture = tensors(read(shared, name))
    a = fixture["a"].clone().requires_grad_()
    values = loss(a, fixture["b"][: len(a)])
    values.sum().backward()
    close(values, fixture[f"{kind}_loss_aligned"], 1e-6)
    close(a.grad, fixture[f"{kind}_loss_sum_grad_a"], 1e-4)


TAL = ["tal_all_bad", "tal_no_gt", "tal_overlap_and_empty_image", "tal_tiny_gt", "tal_topk1", "tal_topk10"]


@pytest.mark.parametrize("name", TAL)
def test_task_aligned(shared: Path, name: str) -> None:
    """The YOLOv10 columns."""
    fixture = tensors(read(shared, name))
    assignment = task_aligned(
        fixture["pred_scores"],
        fixture["pred_boxes_xyxy_px"],
        fixture["anchor_points_px"],
        fixture["stride"],
        fixture["gt_labels"].squeeze(-1).long(),
        fixture["gt_boxes_xyxy_px"],
        fixture["mask_gt"].squeeze(-1).bool(),
        topk=int(fixture["topk"]),
        alpha=float(fixture["alpha"]),
        beta=float(fixture["beta"]),
    )
    foreground = fixture["fg_mask"].bool()
    assert torch.equal(assignment.foreground, foreground)
    assert bool(foreground.any()) == (name != "tal_no_gt")
    assert torch.equal(assignment.gt_index[foreground], fixture["target_gt_idx"].long()[foreground])
    assert torch.equal(assignment.labels[foreground], fixture["target_labels"].long()[foreground])
    close(assignment.boxes[foreground], fixture["target_bboxes"][foreground], 1e-5)
    close(assignment.scores, fixture["target_scores"], 1e-5)


def test_dfl(shared: Path) -> None:
    fixture = read(shared, "dfl_0")
    computed = {
        "loss_per_anchor": 1e-9,
        "grad_sum": 1e-9,
        "dfl_decoded_ltrb": 1e-5,
        "boxes_xyxy": 1e-5,
        "bbox2dist": 1e-5,
        "u_vfl_loss": 1e-5,
    }
    outputs = run("dfl", {key: value for key, value in fixture.items() if key not in computed})
    assert set(outputs) == set(computed)
    for key, tolerance in computed.items():
        close(outputs[key], fixture[key], tolerance)


def test_v10_postprocess(shared: Path) -> None:
    fixture = read(shared, "v10_postprocess_0")
    outputs = run("v10_postprocess", {key: fixture[key] for key in ("preds", "max_det", "nc")})
    close(outputs["boxes"], fixture["boxes"], 1e-5)
    close(outputs["scores"], fixture["scores"], 1e-5)
    assert np.array_equal(outputs["labels"], fixture["labels"])


@pytest.mark.parametrize("name", ["csd_sample_same", "csd_sample_from_finer", "csd_sample_from_coarser"])
def test_csd_sample(shared: Path, name: str) -> None:
    """Centres of cells are float32: 1e-6."""
    fixture = read(shared, name)
    computed = ("grid", "sampled", "aggregated")
    outputs = run("csd_sample", {key: value for key, value in fixture.items() if key not in computed})
    assert set(outputs) == set(computed)
    for key in computed:
        close(outputs[key], fixture[key], 1e-6)


def test_condconv_dw(shared: Path) -> None:
    fixture = read(shared, "condconv_dw_0")
    computed = ("routing_sigmoid", "y")
    outputs = run("condconv_dw", {key: value for key, value in fixture.items() if key not in computed})
    assert set(outputs) == set(computed)
    for key in computed:
        close(outputs[key], fixture[key], 1e-9)


@pytest.mark.parametrize("name", ["vfnet_forward_single_0", "vfnet_forward_single_stride"])
def test_vfnet_forward_single(shared: Path, name: str) -> None:
    """Exponentials in float32: 1e-5 of the largest value."""
    fixture = read(shared, name)
    computed = ("cls_score", "bbox_pred", "bbox_pred_refine", "grad_x", "grad_vfnet_reg_weight")
    outputs = run("vfnet_forward_single", {key: value for key, value in fixture.items() if key not in computed})
    assert set(outputs) == set(computed)
    for key in computed:
        close(outputs[key], fixture[key], 1e-5 * max(1.0, float(np.abs(fixture[key]).max())))


@pytest.mark.parametrize("name", ["vfnet_loss_0", "vfnet_loss_nogt", "vfnet_loss_partial_empty"])
def test_vfnet_loss(shared: Path, name: str) -> None:
    fixture = read(shared, name)
    computed = {key for key in fixture if key.startswith(("loss_", "labels")) or (key[0] == "g" and key[-1].isdigit())}
    computed -= {key for key in fixture if key.startswith("gt_")}
    outputs = run("vfnet_loss", {key: value for key, value in fixture.items() if key not in computed})
    assert set(outputs) == computed
    for key in computed:
        close(outputs[key], fixture[key], 1e-5 * max(1.0, float(np.abs(fixture[key]).max())))


def test_gfl(shared: Path) -> None:
    """QFL by row (label C is background) and DFL with 17 bins."""
    fixture = tensors(read(shared, "gfl_0"))
    logits = fixture["qfl_pred"].clone().requires_grad_()
    num_classes = logits.shape[1]
    row = (fixture["qfl_label"] < num_classes).nonzero(as_tuple=True)[0]
    quality = torch.zeros_like(fixture["qfl_pred"])
    quality[row, fixture["qfl_label"][row]] = fixture["qfl_score"][row]
    loss = quality_focal_loss(logits, quality, beta=float(fixture["qfl_beta"]), reduction="none").sum(1)
    loss.sum().backward()
    close(loss, fixture["qfl_loss"], 1e-9)
    close(logits.grad, fixture["qfl_grad"], 1e-9)

    logits = fixture["dfl_pred"].clone().requires_grad_()
    loss = distribution_focal_loss(logits, fixture["dfl_target"], reduction="none")
    loss.sum().backward()
    close(loss, fixture["dfl_loss"], 1e-9)
    close(logits.grad, fixture["dfl_grad"], 1e-9)
