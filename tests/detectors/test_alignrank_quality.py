"""AlignRank's second factor: what it looks at, the score it makes, and who teaches it."""

from __future__ import annotations

from math import log, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.boxes import mutual_iou
from alignrank.contracts import Built, Predictions, Targets
from alignrank.detectors.alignrank import AlignRank
from alignrank.detectors.alignrank_quality import BoxQuality, box_features, passed_share, two_factor
from alignrank.detectors.postprocess import TopK
from alignrank.detectors.yolo_criterion import YoloCriterion
from alignrank.errors import InputError
from alignrank.export.onnx import export_onnx
from alignrank.weights.recipe import load_recipe

TARGETS = [
    Targets(torch.tensor([[4.0, 4.0, 40.0, 60.0], [20.0, 30.0, 90.0, 62.0]]), torch.tensor([0, 2])),
    Targets(torch.tensor([[30.0, 2.0, 80.0, 50.0]]), torch.tensor([1])),
]


def tiny(**head: Any) -> Built:
    torch.manual_seed(0)
    form = {"fusion": True, "separable_boxes": True, "box_width": 32, "refine": True}  # of the sizes s, m, l
    overrides = {"model.size": "t"} | {f"head.{key}": value for key, value in (form | head).items()}
    return load_recipe("alignrank-n", num_classes=3, overrides=overrides).build()


def pictures() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def candidates(count: int = 40) -> dict[str, Tensor]:
    """Random ones of two images, many of which overlap; the arguments of `box_features`."""
    generator = torch.Generator().manual_seed(0)
    corner, side = (torch.rand(2, count, 2, generator=generator) for _ in range(2))
    boxes = torch.cat([corner * 30, corner * 30 + side * 20 + 20], -1)
    return {
        "logits": torch.randn(2, count, 2, generator=generator),
        "boxes": boxes,
        "shares": torch.randn(2, count, 4, 6, generator=generator).softmax(-1),
        "strides": torch.tensor([8.0, 16, 32])[torch.arange(count) % 3].expand(2, count)[..., None],
        "overlap": mutual_iou(boxes),
    }


def learned() -> BoxQuality:
    torch.manual_seed(3)
    network = BoxQuality()
    torch.nn.init.normal_(network.output.weight)
    return network


def test_features_worked() -> None:
    """Boxes of 10 x 10 px in a row at stride 8: the second lies 1 px from the first (IoU 9/11), the third 2 px (2/3);
    the fourth is the first, of the other class.
    """
    x = torch.tensor([0.0, 1, 2, 0])
    boxes = torch.stack([x, torch.zeros(4), x + 10, torch.full((4,), 10.0)], -1)[None]
    logits = torch.full((1, 4, 2), -9.0)
    logits[0, :3, 0] = torch.tensor([0.8, 0.5, 0.2]).logit()
    logits[0, 3, 1] = 2.0
    shares = torch.zeros(1, 4, 4, 3)
    shares[..., 1] = 1
    shares[0, 0, 2] = torch.tensor([0.25, 0.5, 0.25])  # bins 0, 1, 2: mean 1, variance .5
    found = box_features(logits, boxes, shares, torch.full((1, 4, 1), 8.0), mutual_iou(boxes))[0]
    first, last = found[0], found[3]
    assert_close(first[:4], torch.tensor([1, 1, 0.5, 1]))
    sure, unsure = log(0.1 / 1.25), log((sqrt(0.5) + 0.1) / 1.25)
    assert_close(first[4:8], torch.tensor([sure, sure, unsure, sure]))
    assert_close(first[8:12], torch.tensor([log(1.25), log(1.25), log(0.5), log(4) / 4]))
    near, far = 9 / 11, 2 / 3
    total = 0.8 + 0.5 * near + 0.2 * far
    mean = (0.8 + 0.5 * near**2 + 0.2 * far**2) / total
    shift = (0.5 * near * 1 + 0.2 * far * 2) / total
    assert_close(first[12:], torch.tensor([log(1 + total), mean, (10 - shift) / (10 + shift)]))
    own = torch.tensor(2.0).sigmoid().log1p().item()
    assert_close(last[11:], torch.tensor([0.5, own, 1, 1]))  # nothing else of its class is near


def test_score_worked() -> None:
    """p = .5 and f = .5: log(.25 / .75); f = .25 to the power .5 is the same. At a share of .95 and more the logits
    stay as they are, to the bit.
    """
    half = torch.tensor([0.475]).logit()
    assert_close(two_factor(torch.zeros(1, 1, 1), half[None, None]).item(), log(1 / 3))
    quarter = torch.tensor([0.2375]).logit()
    assert_close(two_factor(torch.zeros(1, 1, 1), quarter[None, None], 0.5).item(), log(1 / 3))
    logits = torch.linspace(-25, 25, 101)[None, :, None]
    for share in (0.1, 0.475, 0.9):
        raw = torch.full((1, 101, 1), share).logit()
        product = logits.double().sigmoid() * share / 0.95
        assert_close(two_factor(logits, raw).double(), product.logit(), atol=1e-5, rtol=1e-5)
    assert torch.equal(two_factor(logits, torch.full((1, 101, 1), 3.0), 0.7), logits)


def test_score_stays_finite_and_keeps_order() -> None:
    """At logits and qualities of any size; more of either is never less of the product."""
    wide = torch.tensor([-1e4, -100.0, -20, -1, 0, 1, 20, 100, 1e4])
    table = two_factor(wide[:, None, None], wide[None, :, None].expand(9, 9, 1))[..., 0]
    assert table.isfinite().all()
    assert (table.diff(dim=0) >= 0).all()
    assert (table.diff(dim=1) >= 0).all()
    assert (table[2:6].diff(dim=0) > 0).all()
    assert (table[:, 3:5].diff(dim=1) > 0).all()


def test_share_of_thresholds() -> None:
    """An IoU of .5 passes one of ten, .75 six, .95 all."""
    assert_close(passed_share(torch.tensor([0.2, 0.45, 0.5, 0.75, 0.95, 1])), torch.tensor([0, 0, 0.1, 0.6, 1, 1]))


def test_order_of_candidates_does_not_matter() -> None:
    given, network = candidates(), learned()
    before = network(**given)
    assert before.std() > 0.1
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    moved = {name: x[:, order] for name, x in given.items()}
    moved["overlap"] = moved["overlap"][:, :, order]
    assert_close(network(**moved), before[:, order], atol=1e-5, rtol=1e-5)


def test_an_isolated_or_degenerate_candidate_has_a_quality() -> None:
    """One candidate, a box without area, a share of exactly 1, classes that nothing scores."""
    shares = torch.zeros(1, 1, 4, 6)
    shares[..., 0] = 1
    boxes = torch.tensor([[[5.0, 5, 5, 5]]])
    found = learned()(torch.full((1, 1, 2), -1e4), boxes, shares, torch.full((1, 1, 1), 8.0), mutual_iou(boxes))
    assert found.isfinite().all()


def made_up(raw: Tensor, targets: list[Targets]) -> Tensor:
    """The loss of raw qualities [3] of three cells: one has the box of `OBJECT`, one three quarters of it, and the last
    lies outside of it.
    """
    boxes = torch.tensor([[[0.0, 0, 32, 32], [0, 0, 32, 24], [40, 40, 72, 72]]])
    points, strides = torch.tensor([[[12.0, 12], [20, 12], [52, 52]]]), torch.full((1, 3, 1), 8.0)
    logits = torch.zeros(1, 3, 2)
    refined = Predictions(logits, boxes, points, strides, fixed_boxes=True, quality=raw[None, :, None])
    main = Predictions(logits, boxes, points, strides, fixed_boxes=True, auxiliary={"unsuppressed": refined})
    config = load_recipe("alignrank-n", num_classes=2, overrides={"loss.quality": 3.0}).architecture
    return YoloCriterion(config)(main, targets).parts["quality_iou"]


OBJECT = Targets(torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([1]))


def test_positives_alone_teach_it() -> None:
    """IoUs 1 and .75 are shares 1 and .6. At raw 0 the cross-entropy of any share is log 2, its gradient .5 - share."""
    raw = torch.zeros(3, requires_grad=True)
    loss = made_up(raw, [OBJECT])
    assert loss.item() == pytest.approx(3 * log(2))
    (gradient,) = torch.autograd.grad(loss, raw)
    assert_close(gradient, 3 * torch.tensor([0.5 - 1, 0.5 - 0.6, 0]) / 2)
    raw = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: made_up(x, [OBJECT]), raw)


def test_without_objects_the_loss_is_zero_with_a_path() -> None:
    raw = torch.zeros(3, requires_grad=True)
    loss = made_up(raw, [Targets.empty()])
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, raw)
    assert not gradient.any()


def test_it_learns_alone() -> None:
    """Its loss reaches nothing else, and no other loss reaches it; at first all other terms are those without it."""
    built, plain = tiny(quality=0.5), tiny()
    torch.nn.init.normal_(built.model.quality.output.weight, std=1e-6)
    assert "quality_iou" not in plain.criterion(plain.model.train()(pictures()), TARGETS).parts
    parts = built.criterion(built.model.train()(pictures()), TARGETS).parts
    own = parts.pop("quality_iou")
    own.backward(retain_graph=True)
    touched = {name for name, p in built.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {f"quality.{layer}.{kind}" for layer in ("hidden", "output") for kind in ("weight", "bias")}
    built.model.zero_grad()
    torch.stack(list(parts.values())).sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in built.model.quality.parameters())


def test_an_untrained_one_changes_nothing() -> None:
    """One seed, with and without it: the same weights, losses and predictions, bit for bit, also under autocast."""
    for consensus in (0.0, 0.3):
        built, plain = tiny(quality=0.5, consensus_iou=consensus), tiny(consensus_iou=consensus)
        weights = built.model.state_dict()
        assert weights.keys() - plain.model.state_dict().keys() == {
            f"quality.{layer}.{kind}" for layer in ("hidden", "output") for kind in ("weight", "bias")
        }
        assert all(torch.equal(weights[name], value) for name, value in plain.model.state_dict().items())
        for training in (True, False):
            for half in (False, True):
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                    ours, theirs = (b.model.train(training)(pictures()) for b in (built, plain))
                assert torch.equal(ours.logits, theirs.logits)
                assert torch.equal(ours.boxes, theirs.boxes)
                if training:
                    a, b = (x.criterion(y, TARGETS).parts for x, y in ((built, ours), (plain, theirs)))
                    assert a.keys() - b.keys() == {"quality_iou"}
                    assert all(torch.equal(a[name], b[name]) for name in b)


def test_it_stays_float32_under_autocast() -> None:
    """Half precision would give neighbouring scores one value."""
    model = trained()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        predictions = model.train()(pictures())
    quality = predictions.auxiliary["unsuppressed"].quality
    assert quality is not None
    assert (quality.dtype, predictions.logits.dtype) == (torch.float32, torch.float32)
    assert len(quality.unique()) > 0.9 * quality.numel()


def trained(**head: Any) -> AlignRank:
    """A tiny network whose second factor reorders candidates, in evaluation mode."""
    model = tiny(quality=0.5, **({"consensus_iou": 0.0} | head)).model
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("quality", "refinement")):
                parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
        model.quality.output.bias.fill_(-3.5)
        model.suppression.strength.fill_(0.005)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        model.train()(pictures())
    assert isinstance(model, AlignRank)
    return model.eval()


def test_the_factor_reorders() -> None:
    """Scores that are left are no higher than without it, and in another order; boxes are the same."""
    model = trained()
    with torch.no_grad():
        ours = model(pictures())
        model.quality = None
        theirs = model(pictures())
    assert torch.equal(ours.boxes, theirs.boxes)
    kept = (ours.logits - theirs.logits).abs() < 4  # neither is a duplicate in one of both alone
    assert kept.float().mean() > 0.5
    assert (ours.logits <= theirs.logits)[kept].all()
    assert (ours.logits[..., 0].argsort() != theirs.logits[..., 0].argsort()).any()


@pytest.mark.parametrize(("consensus", "agnostic"), [(0.0, False), (0.5, True)])
def test_export(consensus: float, agnostic: bool, tmp_path: Path) -> None:
    """ONNX Runtime says the same, with merged boxes of all classes, too: the export compares, and raises if not."""
    pytest.importorskip("onnxruntime")
    model, postprocess = trained(consensus_iou=consensus), TopK(agnostic=agnostic, consensus=consensus)
    assert model.suppression is not None
    model.suppression.agnostic = agnostic
    path = export_onnx(model.double(), postprocess, tmp_path / "m.onnx", imgsz=64, names=["a", "b", "c"])
    assert path.stat().st_size > 10_000


def test_the_one_to_many_output_is_deployed_without_it() -> None:
    overrides = {"model.size": "t", "head.refine": True, "head.quality": 0.5, "postprocess.nms": True}
    model = load_recipe("alignrank-n", num_classes=3, overrides=overrides).build().model.eval()
    assert model.deploy().quality is None


@pytest.mark.parametrize("other", [{"head.sampling": "none"}, {"head.sampling": "dense"}, {"head.refine": False}, {}])
def test_it_needs_refined_scores(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"head: quality .* needs sampling=topk and refine=true"):
        load_recipe("alignrank-n", num_classes=3, overrides={"head.quality": 0.5, **other})
