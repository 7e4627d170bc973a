"""Consensus boxes and suppression across classes: after NMS, and in AlignRank's network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.boxes import mutual_iou
from alignrank.contracts import Predictions
from alignrank.detectors.alignrank_suppression import ROUNDS, STRONGEST, Suppression
from alignrank.detectors.consensus import consensus, step_to_mean
from alignrank.detectors.postprocess import NmsConfig, NonMaximumSuppression, TopK

# 10 x 10 px in a row: IoU with the first is 2/3 at 2 px, 9/11 at 1 px, 0 for the last.
BOXES = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [1, 0, 11, 10], [50, 0, 60, 10]])
SCORES = torch.tensor([0.9, 0.6, 0.33, 0.8])
# Weights .9, .6 * 2/3 = .4 and .33 * 9/11 = .27: the mean shift is (.4 * 2 + .27 * 1) / 1.57 px.
SHIFT = 1.07 / 1.57
MERGED = torch.tensor([SHIFT, 0, 10 + SHIFT, 10])


def predictions(scores: Tensor, boxes: Tensor = BOXES) -> Predictions:
    """One image; scores [A,C]."""
    return Predictions(scores[None].logit(), boxes[None])


def masked_consensus(boxes: Tensor, scores: Tensor, overlap: Tensor, iou: float) -> Tensor:
    """As the network has it: boxes [N,4], overlap [N,N], 0 for pairs apart."""
    return boxes + step_to_mean(boxes, scores, overlap * (overlap > iou))


def suppression(*, agnostic: bool = False) -> Suppression:
    made = Suppression(0.6, consensus=0.5, agnostic=agnostic).eval()
    torch.nn.init.ones_(made.strength)
    return made


def test_mean_worked() -> None:
    """By both forms; the threshold leaves out the second box between 2/3 and 9/11."""
    labels = torch.zeros(4, dtype=torch.int64)
    masked = masked_consensus(BOXES, SCORES, mutual_iou(BOXES), 0.5)
    assert_close(masked[0], MERGED)
    assert torch.equal(masked[3], BOXES[3])
    found = consensus(torch.tensor([0, 3]), BOXES, SCORES, labels, 0.5)
    assert_close(found, masked[[0, 3]])
    nearer = consensus(torch.tensor([0]), BOXES, SCORES, labels, 0.7)
    assert nearer[0, 0].item() == pytest.approx(0.27 / 1.17, rel=1e-5)


def test_both_forms_agree_on_random_boxes_in_any_order() -> None:
    """More boxes than a chunk; two labels."""
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(150, 2, generator=generator) * 80, torch.rand(150, 2, generator=generator) * 20 + 20
    boxes, scores = torch.cat([corner, corner + side], -1), torch.rand(150, generator=generator)
    labels = torch.arange(150) % 2
    apart = mutual_iou(boxes) * (labels[:, None] == labels)
    masked = masked_consensus(boxes, scores, apart, 0.5)
    assert_close(consensus(torch.arange(150), boxes, scores, labels, 0.5), masked, atol=1e-4, rtol=1e-5)
    assert (masked - boxes).abs().max() > 1
    order = torch.randperm(150, generator=generator)
    moved = consensus(torch.arange(150), boxes[order], scores[order], labels[order], 0.5)
    assert_close(moved, masked[order], atol=1e-4, rtol=1e-5)


def test_half_precision_of_the_network_is_not_that_of_boxes() -> None:
    """Under autocast a product of coordinates would have three digits."""
    boxes, labels = BOXES + 600, torch.zeros(4, dtype=torch.int64)
    expected = consensus(torch.arange(4), boxes, SCORES, labels, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        found = consensus(torch.arange(4), boxes, SCORES, labels, 0.5)
    assert torch.equal(found, expected)
    assert_close(found - 600, consensus(torch.arange(4), BOXES, SCORES, labels, 0.5), atol=1e-3, rtol=0)


def test_nms_merges_and_keeps_scores() -> None:
    (found,) = NonMaximumSuppression(consensus=0.5)(predictions(SCORES[:, None]), conf=0.1, iou=0.6, max_dets=10)
    assert_close(found.boxes, torch.stack([MERGED, BOXES[3]]))
    assert_close(found.scores, SCORES[[0, 3]])
    config = NmsConfig(consensus=0.5, agnostic=True)
    made = NonMaximumSuppression(config)
    assert (made.consensus, made.agnostic) == (0.5, True)
    with pytest.raises(ValueError, match="soft and consensus exclude each other"):
        NmsConfig(consensus=0.5, soft=True)


def test_merged_boxes_are_suppressed_once_more() -> None:
    """Two kept boxes 5 px apart (IoU 1/3), and one between them that draws them together above .4."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [2.5, 0, 12.5, 10]])
    scores = torch.tensor([0.5, 0.45, 0.44])
    plain = NonMaximumSuppression()(predictions(scores[:, None], boxes), conf=0.1, iou=0.4, max_dets=9)[0]
    merged = NonMaximumSuppression(consensus=0.5)(predictions(scores[:, None], boxes), conf=0.1, iou=0.4, max_dets=9)[0]
    assert (len(plain.scores), len(merged.scores)) == (2, 1)
    made = Suppression(0.4, consensus=0.5).eval()
    torch.nn.init.ones_(made.strength)
    logits = scores.logit()[None, :, None]
    lowered = (logits - made.merge(logits, boxes[None])[0])[0, :, 0]
    assert_close(lowered, STRONGEST * torch.tensor([0.0, 1, 1]), atol=1e-3, rtol=0)


def test_of_many_candidates_the_first_half_is_merged() -> None:
    """240 boxes of 10 px apart; one of each half has a duplicate 1 px beside it, at the end, that counts in a mean."""
    boxes = torch.tensor([[40.0 * i, 0, 40.0 * i + 10, 10] for i in range(240)])
    boxes[238], boxes[239] = boxes[7] + torch.tensor([1.0, 0, 1, 0]), boxes[150] + torch.tensor([1.0, 0, 1, 0])
    scores = torch.full((240,), 0.8)
    scores[238:] = 0.4
    logits, merged = suppression().merge(scores.logit()[None, :, None], boxes[None])
    expected = boxes.clone()
    expected[7, ::2] += 0.4 * 9 / 11 / (0.8 + 0.4 * 9 / 11)
    assert_close(merged[0], expected, atol=1e-3, rtol=0)
    lowered = (scores.logit() - logits[0, :, 0]) > 1
    assert lowered.nonzero().flatten().tolist() == [238, 239]


def test_a_merged_box_suppresses_in_both_halves() -> None:
    """A box comes nearer to the last one, by one between them that is a duplicate: above .6 only then."""
    boxes = torch.tensor([[40.0 * i, 0, 40.0 * i + 10, 10] for i in range(240)])
    scores = torch.full((240,), 0.8)
    boxes[238], boxes[239] = boxes[7] + torch.tensor([2.0, 0, 2, 0]), boxes[7] + torch.tensor([3.0, 0, 3, 0])
    scores[238:] = torch.tensor([0.79, 0.3])
    logits, merged = suppression().merge(scores.logit()[None, :, None], boxes[None])
    overlap = mutual_iou(torch.stack([boxes[7], merged[0, 7], boxes[239]]))
    assert overlap[0, 2] < 0.6 < overlap[1, 2]
    lowered = (scores.logit() - logits[0, :, 0]) > 1
    assert lowered.nonzero().flatten().tolist() == [238, 239]


def test_duplicates_are_those_of_the_masked_maximum() -> None:
    """Counted by products as they are found one by one: of a row's better and overlapping columns, one that stays."""
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(60, 2, generator=generator) * 40, torch.rand(60, 2, generator=generator) * 10 + 20
    boxes, scores = torch.cat([corner, corner + side], -1), torch.rand(60, generator=generator)
    scores[::4] = 0.5  # of equal ones the first is better
    made = Suppression(0.5).eval()
    torch.nn.init.ones_(made.strength)
    logits = scores.logit()[None, :, None]
    lowered = (made(logits, boxes[None]) < logits - 1)[0, :, 0].tolist()
    overlap = mutual_iou(boxes)
    better = [[j for j in range(60) if overlap[i, j] > 0.5 and (scores[j], -j) > (scores[i], -i)] for i in range(60)]
    duplicate = [bool(row) for row in better]
    for _ in range(ROUNDS):
        duplicate = [any(not duplicate[j] for j in row) for row in better]
    assert lowered == duplicate
    assert 10 < sum(duplicate) < 50


def test_isolated_boxes_and_empty_images_stay() -> None:
    boxes = BOXES[[0, 3]] + 0.1
    made, plain = NonMaximumSuppression(consensus=0.5), NonMaximumSuppression()
    for scores in (torch.tensor([[0.3], [0.7]]), torch.full((2, 1), 0.01)):
        a, b = (nms(predictions(scores, boxes), conf=0.1, iou=0.6, max_dets=10)[0] for nms in (made, plain))
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)
    logits, same = suppression().merge(torch.zeros(1, 2, 1), boxes[None])
    assert torch.equal(same[0], boxes)
    assert torch.equal(logits, torch.zeros(1, 2, 1))


@pytest.mark.parametrize("agnostic", [False, True])
def test_classes_mix_only_where_asked(agnostic: bool) -> None:
    """The second box is of another class than the first: two objects, or one with one merged box."""
    scores = torch.tensor([[0.9, 0.01], [0.01, 0.6]])
    nms = NonMaximumSuppression(consensus=0.5, agnostic=agnostic)
    (found,) = nms(predictions(scores, BOXES[:2]), conf=0.1, iou=0.6, max_dets=10)
    shift = 0.4 * 2 / 1.3  # weights .9 and .6 * 2/3
    expected = torch.tensor([[shift, 0, 10 + shift, 10]]) if agnostic else BOXES[:2]
    assert_close(found.boxes, expected)
    logits, boxes = suppression(agnostic=agnostic).merge(scores.logit()[None], BOXES[None, :2])
    assert_close(boxes[0, 0], expected[0])
    lowered = (scores.logit() - logits[0])[:, 0]
    assert_close(lowered, torch.tensor([0, STRONGEST if agnostic else 0.0]), atol=1e-3, rtol=0)


def test_agnostic_top_k_gives_a_point_one_class() -> None:
    made = predictions(torch.tensor([[0.9, 0.8], [0.1, 0.7]]), BOXES[[0, 3]])
    (both,) = TopK()(made, conf=0.3, iou=0.6, max_dets=2)
    (one,) = TopK(agnostic=True)(made, conf=0.3, iou=0.6, max_dets=2)
    assert both.labels.tolist() == [0, 1]
    assert torch.equal(both.boxes[0], both.boxes[1])
    assert one.labels.tolist() == [0, 1]
    assert torch.equal(one.boxes, BOXES[[0, 3]])


class Merge(torch.nn.Module):
    """Logits and boxes -> lowered logits, merged boxes."""

    def __init__(self, *, agnostic: bool) -> None:
        super().__init__()
        self.suppression = suppression(agnostic=agnostic)

    def forward(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self.suppression.merge(logits, boxes)


@pytest.fixture(scope="module", params=[False, True], ids=["classes", "agnostic"])
def exported(request: pytest.FixtureRequest) -> tuple[Merge, bytes]:
    """The graph, and its form for other runtimes, for any number of images."""
    pytest.importorskip("onnxscript")
    graph, any_batch = Merge(agnostic=request.param).eval(), {0: torch.export.Dim("batch")}
    logits, boxes = random_candidates(2)
    program = torch.onnx.export(
        graph, (logits, boxes), dynamo=True, input_names=["logits", "boxes"], verbose=False,
        dynamic_shapes={"logits": any_batch, "boxes": any_batch},
    )  # fmt: skip
    assert program is not None
    return graph, program.model_proto.SerializeToString()


def random_candidates(images: int) -> tuple[Tensor, Tensor]:
    """logits [B,40,2] and boxes [B,40,4]."""
    generator = torch.Generator().manual_seed(0)
    corner, side = (torch.rand(images, 40, 2, generator=generator) for _ in range(2))
    logits = torch.randn(images, 40, 2, generator=generator)
    return logits, torch.cat([corner * 60, corner * 60 + side * 20 + 20], -1)


def by_onnxruntime(content: bytes, inputs: dict[str, Any]) -> list[Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    outputs: list[Any] = onnxruntime.InferenceSession(content).run(None, inputs)
    return outputs


def by_openvino(content: bytes, inputs: dict[str, Any]) -> list[Any]:
    openvino = pytest.importorskip("openvino")
    network = openvino.compile_model(openvino.Core().read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(network(inputs).values())


@pytest.mark.parametrize("run", [by_onnxruntime, by_openvino])
def test_other_runtimes_say_the_same(run: Callable[..., list[Any]], exported: tuple[Merge, bytes]) -> None:
    """On random boxes of three images, after an export with two."""
    graph, content = exported
    logits, boxes = random_candidates(3)
    outputs = run(content, {"logits": logits.numpy(), "boxes": boxes.numpy()})
    for actual, expected in zip(outputs, graph(logits, boxes), strict=True):
        assert_close(torch.from_numpy(actual), expected.detach(), atol=1e-4, rtol=1e-5)
    assert (torch.from_numpy(outputs[1]) - boxes).abs().max() > 1
