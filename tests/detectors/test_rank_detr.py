"""Rank-DETR's parts: what is sorted with what, what a rank adds, what is counted, what a match costs late."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_forms import tiny_form
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from alignrank.boxes import cxcywh_to_xyxy
from alignrank.contracts import Batch, Frame, Predictions, Targets
from alignrank.detectors import DETECTORS, predictions_of
from alignrank.detectors.deformable_detr import DeformableDetrConfig
from alignrank.detectors.denoising import DenoisingConfig, noised, positives_of
from alignrank.detectors.detr_decoder import Decoder, Queries
from alignrank.detectors.dino import DinoConfig
from alignrank.detectors.rank_detr import Groups, RankBias, RankConfig, RankFusion, Ranks
from alignrank.detectors.set_criterion import SetCriterion
from alignrank.errors import InputError
from alignrank.losses import normalizer
from alignrank.nn.deformable_attention import DeformableAttention
from alignrank.nn.transformer import DecoderLayer, Levels, Sight
from alignrank.weights.recipe import load_recipe

WIDTH, CLASSES = 16, 3
ALL_ON = {"rank.head": True, "rank.query_layer": True, "rank.loss": "gcl", "rank.matching_cost": True}


def tiny(name: str, **overrides: Any) -> Any:
    return load_recipe(name, num_classes=CLASSES, overrides=tiny_form(name) | overrides).build()


def decoder(config: RankConfig, rows: int) -> Decoder:
    def layer() -> DecoderLayer:
        return DecoderLayer(WIDTH, DeformableAttention(WIDTH, heads=2, levels=2, points=2), 2, 32)

    ranks = Ranks(config, layers=3, rows=rows, width=WIDTH, num_classes=CLASSES) if config.sorts else None
    result = Decoder([layer() for _ in range(3)], num_classes=CLASSES, width=WIDTH, ranks=ranks).double()
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return result


def picture() -> tuple[Tensor, Levels]:
    """Cells of two levels of two pictures."""
    maps = [torch.randn(2, WIDTH, 4, 6), torch.randn(2, WIDTH, 2, 3)]
    cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1).double()
    return cells, Levels.of(maps, torch.zeros(2, 3, 32, 48), None)


def queries(groups: tuple[int, ...]) -> Queries:
    count = sum(groups)
    content, positions = torch.randn(2, 2, count, WIDTH).double()
    boxes = torch.rand(2, count, 4).double() * 0.6 + 0.2
    return Queries(content, positions, boxes, Groups(0, groups), Sight(groups))


def test_without_ranks_queries_are_a_set() -> None:
    """Permuting queries with all that belongs to them permutes the output, layer by layer."""
    network, (cells, levels), given = decoder(RankConfig(), 7), picture(), queries((7,))
    order = torch.randperm(7)
    shuffled = Queries(
        given.content[:, order], given.positions[:, order], given.boxes[:, order], given.groups, given.sight  # type: ignore[index]
    )  # fmt: skip
    for plain, permuted in zip(network(given, cells, levels), network(shuffled, cells, levels), strict=True):
        assert_close(permuted.logits, plain.logits[:, order])
        assert_close(permuted.boxes, plain.boxes[:, order])


def test_with_ranks_order_matters_only_before_the_first_sort() -> None:
    """With all parts on, the order in which queries come in changes the first layer's rank biases and nothing behind:
    the sort forgets it.
    """
    config = RankConfig(head=True, query_layer=True)
    network, (cells, levels), given = decoder(config, 7), picture(), queries((7,))
    order = torch.randperm(7)
    shuffled = Queries(
        given.content[:, order], given.positions[:, order], given.boxes[:, order], given.groups, given.sight  # type: ignore[index]
    )  # fmt: skip
    plain, permuted = network(given, cells, levels), network(shuffled, cells, levels)
    assert (permuted[0].logits - plain[0].logits[:, order]).abs().max() > 1e-3
    for first, second in zip(plain[1:], permuted[1:], strict=True):
        assert_close(second.logits, first.logits)
        assert_close(second.boxes, first.boxes)


def test_groups_are_sorted_apart() -> None:
    """One-to-one queries come first, one-to-many ones behind, denoising ones stay: by hand."""
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.2, 0.5, 0.4, 0.8]])
    assert Groups(0, (3, 4)).order(scores).tolist() == [[1, 2, 0, 6, 4, 5, 3]]
    assert Groups(2, (5,)).order(scores).tolist() == [[0, 1, 6, 4, 5, 2, 3]]


@pytest.mark.parametrize("switches", [{}, {"rank.head": True}, {"rank.query_layer": True}, ALL_ON])
def test_one_to_many_queries_change_nothing_for_the_others(switches: dict[str, Any]) -> None:
    """In training the one-to-one queries say what they say in use, every layer of them, whatever the others are."""
    built = tiny("h-detr-r50", **{"transformer.decoder": 3}, **switches)
    for parameter in built.model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model = built.model.eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        used = model.layers(images)
        model.training = True  # of this module alone: norms stay as they are
        trained = model(images)
    layers = [trained.auxiliary["layer_0"], trained.auxiliary["layer_1"], trained]
    for in_use, in_training in zip(used, layers, strict=True):
        assert_close(in_training.logits, in_use.logits)
        assert_close(in_training.boxes, in_use.boxes)
    assert trained.auxiliary["one_to_many"].logits.shape == (2, 30, CLASSES)


@pytest.mark.parametrize("switches", [{}, ALL_ON])
def test_denoising_queries_change_nothing_for_the_others(switches: dict[str, Any]) -> None:
    """They know the truth: matching queries must not see it."""
    model = tiny("dino-r50", **switches).model.eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    images, sizes = torch.rand(2, 3, 96, 128), torch.tensor([[96.0, 128.0]] * 2)
    targets = [Targets(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1])), Targets.empty()]
    denoising = model.denoising_queries(targets, sizes, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.training = True
        with_truth, without = model(images, sizes, denoising=denoising), model(images, sizes)
    assert_close(with_truth.logits, without.logits)
    assert_close(with_truth.boxes, without.boxes)
    assert "denoising" in with_truth.auxiliary
    assert "denoising" not in without.auxiliary


def test_rank_parts_by_hand() -> None:
    """A bias of its rank for every query but the fixed one; a fusion is one linear layer of both parts."""
    bias = RankBias(3, 2)
    bias.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert bias(torch.zeros(1, 3, 2), 1).tolist() == [[[0, 0], [1, 2], [3, 4]]]
    fusion = RankFusion(3, WIDTH)
    torch.nn.init.normal_(fusion.embedding)
    x = torch.randn(2, 3, WIDTH)
    expected = fusion.after(torch.cat([x, fusion.before(fusion.embedding).expand(2, -1, -1)], -1))
    assert_close(fusion(x, 0), expected)
    fusion.settle(3)
    assert_close(fusion(x, 0), expected)
    assert_close(fusion(x[:, :2], 0), expected[:, :2])
    assert sum(p.numel() for p in fusion.parameters()) == 3 * WIDTH + WIDTH * WIDTH


@pytest.mark.parametrize("name", ["h-detr-r50", "dino-r50"])
def test_deployed_says_the_same(name: str) -> None:
    model = tiny(name, **ALL_ON).model.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        count = sum(p.numel() for p in model.parameters())
        after = model.deploy()(images)
    assert_close(after.logits, before.logits)
    assert_close(after.boxes, before.boxes)
    assert sum(p.numel() for p in model.parameters()) < count


def inference_form(rank: dict[str, bool]) -> Any:
    """91 classes and 300 queries, as table 6 of the paper counts; shapes alone."""
    config = DeformableDetrConfig.parse(
        {"num_classes": 91, "model": {"norm": "frozen"}, "queries": {"one_to_many": 0}, "rank": rank}, where="test"
    )
    with torch.device("meta"):
        return DETECTORS["deformable_detr"].model(config).eval().requires_grad_(False)


def test_parameters_and_products_of_table_6() -> None:
    """47.56 M and 49.10 M; the parts add .295 G products of the 0.30 that the paper prints."""
    parts = {"head": True, "query_layer": True}
    host, ranked = inference_form({}), inference_form(parts)
    counts = [sum(p.numel() for p in model.parameters()) for model in (host, ranked)]
    assert [round(count / 1e6, 4) for count in counts] == [47.5621, 49.0955]
    flops = []
    for model in (host, ranked):
        with torch.no_grad(), FlopCounterMode(display=False) as counter, torch.device("meta"):
            model(torch.zeros(1, 3, 320, 320))
        flops.append(counter.get_total_flops())
    assert round((flops[1] - flops[0]) / 2e9, 3) == 0.295


SIZES = torch.tensor([[100.0, 200.0]])


def prediction(boxes: list[list[float]], logits: list[list[float]]) -> Predictions:
    return Predictions(torch.tensor([logits]), torch.tensor([boxes]), sizes=SIZES)


def criterion(**rank: Any) -> SetCriterion:
    return SetCriterion(DeformableDetrConfig.parse({"num_classes": 2, "rank": rank}, where="test"))


def test_loss_by_hand() -> None:
    """Two queries, one object: the second fits it exactly but for 20 px in x, a tenth of the picture's width."""
    target = Targets(torch.tensor([[20.0, 10.0, 60.0, 50.0]]), torch.tensor([1]))
    predictions = prediction([[100.0, 50, 180, 90], [40.0, 10, 80, 50]], [[0.0, 0.0], [0.0, 0.0]])
    parts = criterion()(predictions, [target]).parts
    assert parts["l1"].item() == pytest.approx(5 * 0.1)
    iou = 20 * 40 / (60 * 40)
    assert parts["giou"].item() == pytest.approx(2 * (1 - iou), rel=1e-5)  # the enclosing box is their union
    log2, quarter = 0.693147, 0.25
    assert parts["cls"].item() == pytest.approx(2 * (0.25 * quarter * log2 + 3 * 0.75 * quarter * log2), rel=1e-5)
    quality = (iou + 1) / 2
    gcl = criterion(loss="gcl")(predictions, [target]).parts["cls"].item()
    assert gcl == pytest.approx(2 * (0.25 * (quality - 0.5) ** 2 * log2 + 3 * 0.75 * quarter * log2), rel=1e-4)
    powered = criterion(loss="gcl", target="iou", target_power=2.0)(predictions, [target]).parts["cls"].item()
    assert powered == pytest.approx(2 * (0.25 * (iou**2 - 0.5) ** 2 * log2 + 3 * 0.75 * quarter * log2), rel=1e-4)


@pytest.mark.parametrize("name", ["h-detr-r50", "dino-r50"])
def test_processes_ask_each_other_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a process holds, it takes part in as many sums over processes, of as many numbers: else all wait."""
    built = tiny(name)
    images = torch.rand(1, 3, 64, 64)
    asked: list[torch.Size] = []
    monkeypatch.setattr(normalizer.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(normalizer.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(normalizer.dist, "all_reduce", lambda total: asked.append(total.shape))
    requests = []
    one = Targets(torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([1]))
    for target in (one, Targets.empty(), Targets(one.boxes.repeat(3, 1), one.labels.repeat(3))):
        batch = Batch(images, [target], [Frame("", (64, 64))])
        predictions = predictions_of(built.model.train(), images, batch, denoising=torch.Generator())
        asked.clear()
        built.criterion(predictions, [target])
        requests.append(list(asked))
    assert requests[0]
    assert requests[0] == requests[1] == requests[2]


def test_high_order_cost_comes_late() -> None:
    """Before, the class wins here; after, the overlap does."""
    target = Targets(torch.tensor([[20.0, 10.0, 60.0, 50.0]]), torch.tensor([1]))
    predictions = prediction([[30.0, 10, 70, 50], [22.0, 10, 62, 50]], [[0.0, 3.0], [0.0, -2.0]])
    early = criterion(matching_cost=True)
    plain = criterion()
    for progress in (0.0, 0.74):
        assert early(predictions, [target], progress=progress).total == plain(predictions, [target]).total
    early_l1, late_l1 = (early(predictions, [target], progress=p).parts["l1"].item() for p in (0.74, 0.75))
    assert early_l1 == pytest.approx(5 * 10 / 200)
    assert late_l1 == pytest.approx(5 * 10 / 200)  # .95 * .6^4 against .12 * .9^4
    sharper = criterion(matching_cost=True, cost_power=9.0)
    assert sharper(predictions, [target], progress=1.0).parts["l1"].item() == pytest.approx(5 * 2 / 200)


def test_one_to_many_learns_every_object_several_times() -> None:
    config = DeformableDetrConfig.parse({"num_classes": 2, "queries": {"repeats": 2}}, where="test")
    target = Targets(torch.tensor([[20.0, 10.0, 60.0, 50.0]]), torch.tensor([1]))
    predictions = prediction([[20.0, 10, 60, 50]], [[0.0, 0.0]])
    shifted = [[20.0 + 20 * i, 10, 60 + 20 * i, 50] for i in range(3)]
    predictions.auxiliary["one_to_many"] = prediction(shifted, [[0.0, 0.0]] * 3)
    parts = SetCriterion(config)(predictions, [target]).parts
    assert parts["l1"].item() == 0
    assert parts["many_l1"].item() == pytest.approx(5 * (0.0 + 0.1) / 2)


def test_denoising_layout() -> None:
    """Every group has a positive and a negative query for each object; positives are near, negatives are not."""
    sizes = torch.tensor([[100.0, 200.0], [100.0, 200.0]])
    one, two = torch.tensor([[80.0, 40, 100, 50]]), torch.tensor([[80.0, 40, 100, 50], [100.0, 50, 120, 70]])
    targets = [Targets(one, torch.tensor([1])), Targets(two, torch.tensor([0, 1]))]
    config = DenoisingConfig(queries=6, label_noise=0.0)
    noise = noised(targets, sizes, 2, config, torch.Generator().manual_seed(0))
    assert noise is not None
    assert (noise.groups, noise.labels.shape) == (3, (2, 12))
    assert noise.real[0].tolist() == [True, False] * 6
    pairs = positives_of(12, targets)
    assert [pair.tolist() for pair in pairs[0]] == [[0, 4, 8], [0, 0, 0]]
    assert [pair.tolist() for pair in pairs[1]] == [[0, 1, 4, 5, 8, 9], [0, 1, 0, 1, 0, 1]]
    moved = (cxcywh_to_xyxy(noise.boxes[1]) * torch.tensor([200.0, 100, 200, 100])).unflatten(0, (3, 2, 2)) - two
    half = (two[:, 2:] - two[:, :2]).repeat(1, 2) / 2
    assert (moved[:, 0].abs() <= half + 1e-4).all()
    assert ((moved[:, 1].abs() >= half - 1e-4) & (moved[:, 1].abs() <= 2 * half + 1e-4)).all()
    assert noise.labels[0, ::2].tolist() == [1] * 6
    blocked = noise.blocked(14)
    assert not blocked[:4, :4].any()
    assert blocked[:4, 4:12].all()
    assert blocked[12:, :12].all()
    assert not blocked[:, 12:].any()
    assert noised([Targets.empty()], sizes[:1], 2, config, torch.Generator()) is None


def test_noise_needs_no_values_from_the_device() -> None:
    """Tensors of the device `meta` have none: reading one raises."""
    with torch.device("meta"):
        targets = [Targets(torch.empty(count, 4), torch.empty(count, dtype=torch.int64)) for count in (2, 0)]
        sizes = torch.empty(2, 2)
    noise = noised(targets, sizes, 3, DenoisingConfig(queries=6), torch.Generator())
    assert noise is not None
    assert (noise.boxes.shape, noise.boxes.device.type) == ((2, 12, 4), "meta")


def test_noise_comes_from_its_generator_alone() -> None:
    built = tiny("dino-r50")
    images = torch.rand(1, 3, 64, 64)
    batch = Batch(images, [Targets(torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([1]))], [Frame("", (64, 64))])
    model = built.model.eval()
    model.training = True

    def said(seed: int) -> Tensor:
        noise = torch.Generator().manual_seed(seed)
        return predictions_of(model, images, batch, denoising=noise).auxiliary["denoising"].boxes

    assert torch.equal(said(0), said(0))
    assert not torch.equal(said(0), said(1))


def test_padding_is_seen_nowhere() -> None:
    """What lies beyond a picture changes nothing, and boxes are shares of the picture, not of the input."""
    form = tiny_form("h-detr-r50") | {"model.backbone": "timm:mobilenetv2_035", "model.norm": "frozen"}
    model = load_recipe("h-detr-r50", num_classes=CLASSES, overrides=form | ALL_ON).build().model.eval()
    images, sizes = torch.rand(1, 3, 128, 192), torch.tensor([[80.0, 100.0]])
    other = images.clone()
    other[:, :, 80:], other[:, :, :, 100:] = 0.3, 0.9
    with torch.no_grad():
        first, second = model(images, sizes), model(other, sizes)
        whole = model(images)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.boxes, second.boxes)
    centres = (first.boxes[..., :2] + first.boxes[..., 2:]) / 2
    assert (centres <= torch.tensor([100.0, 80.0])).all()
    assert not torch.allclose(first.boxes, whole.boxes)


def test_dino_knows_all_classes_in_proposals_and_h_detr_one() -> None:
    assert DeformableDetrConfig(num_classes=7).proposal_classes == 1
    assert DinoConfig(num_classes=7).proposal_classes == 7
    for name, classes in (("h-detr-r50", 1), ("dino-r50", CLASSES)):
        assert tiny(name).model.train()(torch.rand(2, 3, 64, 64)).auxiliary["proposals"].logits.shape[-1] == classes


@pytest.mark.parametrize("name", ["h-detr-r50", "dino-r50"])
def test_bf16_trains(name: str) -> None:
    """Autocast on the CPU: finite losses and gradients, boxes in float32, and a loss that falls."""
    built = tiny(name, **ALL_ON)
    images = torch.rand(2, 3, 64, 96)
    targets = [Targets(torch.tensor([[10.0, 10, 60, 50]]), torch.tensor([1])), Targets.empty()]
    batch = Batch(images, targets, [Frame("", (64, 96)), Frame("", (50, 96))])
    optimizer = torch.optim.AdamW(built.model.parameters(), lr=0.002)
    totals = []
    for step in range(12):
        with torch.autocast("cpu", torch.bfloat16):
            noise = torch.Generator().manual_seed(step)
            predictions = predictions_of(built.model.train(), images, batch, denoising=noise)
            total = built.criterion(predictions, targets, progress=0.5).total
        assert predictions.boxes.dtype == predictions.logits.dtype == torch.float32
        optimizer.zero_grad()
        total.backward()
        assert total.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in built.model.parameters())
        optimizer.step()
        totals.append(total.item())
    assert min(totals[-3:]) < 0.8 * totals[0]


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match=r"transformer: heads: must divide the width, 32, got 5"):
        load_recipe("h-detr-r50", overrides=tiny_form("h-detr-r50") | {"transformer.heads": 5})
    with pytest.raises(InputError, match=r"rank.loss"):
        load_recipe("h-detr-r50", overrides={"rank.loss": "bce"})
