"""Matching: costs and pairs worked by hand, every assignment of small cases, and what the functions promise."""

from __future__ import annotations

from itertools import permutations
from math import log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.assign import detr_cost, high_order_cost, match, match_all
from alignrank.errors import TrainingError

SQUARE = [0.0, 0.0, 10.0, 10.0]


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def scored(*scores: float) -> Tensor:
    """One class: the scores' logits, [Q,1]."""
    return torch.tensor(scores, dtype=torch.float64).logit()[:, None]


def first_class(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def pairs(cost: Tensor) -> list[tuple[int, int]]:
    queries, objects = match(cost)
    assert queries.dtype == objects.dtype == torch.int64
    assert queries.shape == objects.shape == (min(cost.shape),)
    return list(zip(queries.tolist(), objects.tolist(), strict=True))


def images(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits [20,3], boxes [20,4], gt_labels and gt_boxes of `count` objects, in 100 x 100 px."""
    corners = torch.rand(20 + count, 2, dtype=dtype) * 80
    rows = torch.cat([corners, corners + torch.rand(20 + count, 2, dtype=dtype) * 20 + 0.1], 1)
    return torch.randn(20, 3, dtype=dtype), rows[:20], torch.randint(3, (count,)), rows[20:]


def test_detr_cost_worked() -> None:
    """Score 1/2: as object 1/4 * 1/4 * ln 2, as background 3/4 * 1/4 * ln 2, so the class costs -1/8 ln 2.

    The square's centre and size are (5, 5, 10, 10). Of the first object (10 x 20) they are (5, 10, 10, 20): apart by 5
    and 10 of a height of 40, GIoU 1/2. Of the second (20 x 10): apart by 5 and 10 of a width of 20, GIoU 1/2. The third
    is 10 px to the right: 20 of a width of 20, GIoU 0 - 100/300.
    """
    objects = boxes([0, 0, 10, 20], [0, 0, 20, 10], [20, 0, 30, 10])
    of_class = -log(2) / 8
    rows = (scored(0.5), boxes(SQUARE), first_class(3), objects)
    expected = [2 * of_class + 5 * 0.375 - 1, 2 * of_class + 5 * 0.75 - 1, 2 * of_class + 5 + 2 / 3]
    assert detr_cost(*rows, size=(20, 40))[0].tolist() == pytest.approx(expected)
    expected = [of_class + 3 * 0.375 - 2, of_class + 3 * 0.75 - 2, of_class + 3 + 4 / 3]
    assert detr_cost(*rows, size=(20, 40), weights=(1, 3, 4))[0].tolist() == pytest.approx(expected)


def test_detr_cost_of_each_class() -> None:
    """At score 3/4: 1/4 * 1/16 * ln 4/3 - 3/4 * 9/16 * ln 4; at 1/2: -1/8 ln 2. The object's class counts."""
    logits = torch.tensor([[log(3), 0.0]], dtype=torch.float64)
    cost = detr_cost(logits, boxes(SQUARE), torch.tensor([1, 0]), boxes(SQUARE, SQUARE), size=(1, 1), weights=(1, 0, 0))
    assert cost[0].tolist() == pytest.approx([-log(2) / 8, log(4 / 3) / 64 - 27 / 64 * log(4)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_detr_cost_of_certain_scores_is_finite(dtype: torch.dtype) -> None:
    """Scores of 0 and 1: 3/4 and 1/4 times ln 1e-8."""
    logits = torch.tensor([[-200.0], [200.0]], dtype=dtype)
    square = boxes(SQUARE).to(dtype)
    cost = detr_cost(logits, square.repeat(2, 1), first_class(1), square, size=(1, 1), weights=(1, 0, 0))
    assert cost.flatten().tolist() == pytest.approx([-0.25 * log(1e-8), 0.75 * log(1e-8)])


def test_high_order_cost_worked() -> None:
    """Score 3/4; IoU 1/2 and 1; GIoU 1/2 and 1, which become 3/4 and 1."""
    rows = (scored(0.75), boxes(SQUARE), first_class(2), boxes([0, 0, 10, 20], SQUARE))
    assert high_order_cost(*rows)[0].tolist() == pytest.approx([-3 / 64, -3 / 4])
    assert high_order_cost(*rows, alpha=1)[0].tolist() == pytest.approx([-3 / 8, -3 / 4])
    assert high_order_cost(*rows, alpha=2, overlap="giou")[0].tolist() == pytest.approx([-27 / 64, -3 / 4])


def test_high_order_cost_prefers_the_better_box() -> None:
    """IoU 9/10 at score 1/2 costs -.33, IoU 1/2 at score 1 -.06; with alpha 0 the score alone counts."""
    rows = (scored(0.5, 0.99), boxes([0, 0, 10, 9], [0, 0, 10, 5]), first_class(1), boxes(SQUARE))
    assert pairs(high_order_cost(*rows)) == [(0, 0)]
    assert pairs(high_order_cost(*rows, alpha=0)) == [(1, 0)]


def test_tie_break() -> None:
    """The second object is overlapped by none: GIoU is -8/10 with the first query (20 px of 100), -1/3 with the second,
    which is nearer. The first object's column, with an overlap of 1, stays as it is to the bit.
    """
    queries, objects = boxes(SQUARE, [70, 0, 80, 10]), boxes(SQUARE, [90, 0, 100, 10])
    rows = (scored(0.9, 0.1), queries, first_class(2), objects)
    plain, broken = high_order_cost(*rows), high_order_cost(*rows, tie_break=1e-3)
    assert plain[:, 1].tolist() == [0, 0]
    assert torch.equal(broken[:, 0], plain[:, 0])
    assert broken[:, 1].tolist() == pytest.approx([8e-4, 1e-3 / 3])

    only = (rows[0], queries, first_class(1), objects[1:])
    assert pairs(high_order_cost(*only, tie_break=1e-6)) == [(1, 0)]


def test_tie_break_where_scores_are_zero() -> None:
    """Scores that float32 rounds to 0 leave a column of zeros whatever the overlap is."""
    logits = torch.full((2, 1), -200.0)
    rows = (logits, boxes([0, 0, 10, 5], [0, 0, 10, 9]).float(), first_class(1), boxes(SQUARE).float())
    assert pairs(high_order_cost(*rows, tie_break=1e-6)) == [(1, 0)]


def test_giou_of_far_points_is_not_nan() -> None:
    """Boxes without area have GIoU -1, which is 0 to any power, also one that is no integer."""
    far = boxes([0, 0, 0, 0], [1e6, 1e6, 1e6, 1e6]).float()
    cost = high_order_cost(torch.zeros(2, 1), far, first_class(1), boxes(SQUARE).float(), alpha=0.5, overlap="giou")
    assert cost.isfinite().all()


def test_a_score_of_zero_is_no_divergence() -> None:
    """A logit of -inf, as masks have it, is a query that no object wants."""
    logits, queries, labels, objects = images(3)
    logits[:10], queries[:] = -torch.inf, objects[0]
    assert (match(high_order_cost(logits, queries, first_class(1), objects[:1]))[0] >= 10).all()
    assert (match(detr_cost(logits, queries, labels, objects, size=(100, 100)))[0] >= 10).all()


def test_unknown_overlap_is_an_error() -> None:
    with pytest.raises(ValueError, match="'diou'"):
        high_order_cost(*images(2), overlap="diou")  # type: ignore[arg-type]


def test_match_worked() -> None:
    """The best of each object, 2 and 0, is not free for both: 0 + 2 is less than 0 + 3 or 1 + 1 + more."""
    assert pairs(torch.tensor([[4.0, 1.0], [2.0, 0.0], [3.0, 2.0]])) == [(0, 1), (1, 0)]
    assert pairs(torch.tensor([[4.0, 3.0], [2.0, 0.0], [0.5, 2.0]])) == [(1, 1), (2, 0)]


def test_more_objects_than_queries() -> None:
    """Each query has one; the objects that are left have none."""
    assert pairs(torch.tensor([[3.0, 1.0, 2.0, 9.0]])) == [(0, 1)]
    assert pairs(torch.tensor([[1.0, 2.0, 9.0], [0.0, 5.0, 9.0]])) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(5, 0), (0, 5), (0, 0)])
def test_nothing_to_match(shape: tuple[int, int]) -> None:
    assert pairs(torch.zeros(shape)) == []


@pytest.mark.parametrize("count", [0, 1])
def test_costs_without_objects_or_queries(count: int) -> None:
    """[Q,0] and [0,T], of the tie break too."""
    logits, queries, labels, objects = images(count)
    for rows in ((logits, queries, labels, objects), (logits[:0], queries[:0], labels, objects)):
        shape = (len(rows[0]), count)
        assert detr_cost(*rows, size=(100, 100)).shape == shape
        for overlap in ("iou", "giou"):
            assert high_order_cost(*rows, overlap=overlap, tie_break=1e-6).shape == shape


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_no_assignment_costs_less(shape: tuple[int, int]) -> None:
    cost = torch.randn(shape, dtype=torch.float64)
    found = pairs(cost)
    assert len({query for query, _ in found}) == len({gt for _, gt in found}) == min(shape)
    wide = cost if shape[0] <= shape[1] else cost.T
    least = min(sum(wide[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(max(shape)), min(shape)))
    assert sum(cost[pair] for pair in found) == pytest.approx(float(least))


@pytest.mark.parametrize("kind", ["detr", "high order"])
def test_permutation(kind: str) -> None:
    """The order of queries and of objects does not change who is matched with whom; queries come in their order."""
    logits, queries, labels, objects = images(6)

    def found(order: Tensor, gt_order: Tensor) -> set[tuple[int, int]]:
        rows = (logits[order], queries[order], labels[gt_order], objects[gt_order])
        cost = detr_cost(*rows, size=(100, 100)) if kind == "detr" else high_order_cost(*rows, overlap="giou")
        query_index, gt_index = match(cost)
        assert (query_index.diff() > 0).all()
        return set(zip(order[query_index].tolist(), gt_order[gt_index].tolist(), strict=True))

    same = found(torch.arange(20), torch.arange(6))
    assert len(same) == 6
    assert found(torch.randperm(20), torch.randperm(6)) == same


def test_match_all_is_match_of_each() -> None:
    costs = [torch.randn(shape) for shape in [(20, 4), (20, 0), (3, 7), (20, 20), (0, 2), (1, 1)]]
    costs[2] = costs[2].double()
    together = match_all(costs)
    assert len(together) == len(costs)
    for (queries, objects), cost in zip(together, costs, strict=True):
        expected_queries, expected_objects = match(cost)
        assert torch.equal(queries, expected_queries)
        assert torch.equal(objects, expected_objects)
    assert match_all([]) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_costs_that_are_not_finite(bad: float) -> None:
    """Said as what it is, wherever it is."""
    broken = torch.zeros(4, 2)
    broken[3, 1] = bad
    for costs in ([broken], [torch.zeros(3, 3), torch.zeros(2, 0), broken]):
        with pytest.raises(TrainingError, match=r"predictions are not finite.*diverged"):
            match_all(costs)


@pytest.mark.parametrize(
    ("place", "bad"), [("logits", "nan"), ("boxes", "nan"), ("boxes", "inf"), ("boxes", "-inf"), ("side", "inf")]
)
def test_a_diverged_model_is_told(place: str, bad: str) -> None:
    """NaN in a prediction, or an endless box, reaches the cost of either kind."""
    logits, queries, labels, objects = images(3)
    {"logits": logits[4], "boxes": queries[4], "side": queries[4, 2:]}[place].fill_(float(bad))
    for cost in (
        detr_cost(logits, queries, labels, objects, size=(100, 100)),
        high_order_cost(logits, queries, labels, objects),
        high_order_cost(logits, queries, labels, objects, overlap="giou", tie_break=1e-6),
    ):
        with pytest.raises(TrainingError, match="diverged"):
            match(cost)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype) -> None:
    logits, queries, labels, objects = images(5, torch.float32)
    logits, whole = logits.to(dtype), logits.to(dtype).float()
    with torch.autocast("cpu", torch.bfloat16):
        for cost, expected in (
            (detr_cost(logits, queries, labels, objects, size=(99, 77)),
             detr_cost(whole, queries, labels, objects, size=(99, 77))),
            (high_order_cost(logits, queries, labels, objects), high_order_cost(whole, queries, labels, objects)),
        ):  # fmt: skip
            assert cost.dtype == torch.float32
            assert_close(cost, expected)
    assert pairs(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).to(dtype)) == [(0, 1), (1, 0)]


def test_float64_is_kept() -> None:
    """In float32 the two rows are equal."""
    rows = images(4)
    assert detr_cost(*rows, size=(100, 100)).dtype == high_order_cost(*rows, tie_break=1e-6).dtype == torch.float64
    assert pairs(torch.tensor([[1 + 1e-12], [1.0]], dtype=torch.float64)) == [(1, 0)]


def test_no_gradient() -> None:
    logits, queries, labels, objects = images(4)
    rows = (logits.requires_grad_(), queries.requires_grad_(), labels, objects)
    assert not detr_cost(*rows, size=(100, 100)).requires_grad
    assert not high_order_cost(*rows, tie_break=1e-6).requires_grad
    assert pairs(torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)) == [(0, 1), (1, 0)]
