"""Rank & Sort loss: oracle fixtures, a case worked by hand, plain loops, and where it is zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import alignrank.losses.rank_sort as module
from alignrank.losses import rank_sort_loss

FIXTURES = ["ranksort_0", "ranksort_allpos", "ranksort_delta0", "ranksort_ties"]


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def terms(logits: Tensor, quality: Tensor, delta: float = 0.5) -> list[Tensor]:
    """Ranking, sorting, and the gradient of each."""
    logits = logits.detach().clone().requires_grad_()
    ranking, sorting = rank_sort_loss(logits, quality, delta=delta)
    (of_ranking,) = torch.autograd.grad(ranking, logits)
    (of_sorting,) = torch.autograd.grad(sorting, logits)
    return [ranking.detach(), sorting.detach(), of_ranking, of_sorting]


def assert_terms(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for name, value, wanted in zip(["ranking", "sorting", "of ranking", "of sorting"], actual, expected, strict=True):
        assert_close(value, wanted, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def random_entries(seed: int, *, ties: bool = False, count: int = 60) -> tuple[Tensor, Tensor]:
    """Logits and quality, a third of it positive, float64. With ties both lie on a raster."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, generator=generator, dtype=torch.float64) * 2
    quality = torch.rand(count, generator=generator, dtype=torch.float64)
    if ties:
        logits, quality = (logits * 4).round() / 4, (quality * 4).ceil() / 4
    return logits, torch.where(torch.rand(count, generator=generator) < 1 / 3, quality, 0)


def in_loops(logits: Tensor, quality: Tensor, delta: float) -> list[Tensor]:
    """The formulas of the docstring, one pair at a time."""
    z, q = logits.tolist(), quality.tolist()
    everyone = range(len(z))
    positives = [i for i in everyone if q[i] > 0]
    negatives = [i for i in everyone if q[i] == 0]
    ranking, sorting = 0.0, 0.0
    of_ranking, of_sorting = [0.0] * len(z), [0.0] * len(z)

    def above(j: int, i: int) -> float:
        return float(z[j] >= z[i]) if delta == 0 else min(max((z[j] - z[i]) / (2 * delta) + 0.5, 0.0), 1.0)

    def mean_error(i: int, among: list[int]) -> float:
        return sum(above(j, i) * (1 - q[j]) for j in among) / sum(above(j, i) for j in among)

    for i in positives:
        false = sum(above(j, i) for j in negatives)
        if false > 0:
            error = false / sum(above(j, i) for j in everyone)
            ranking += error
            of_ranking[i] -= error
            for j in negatives:
                of_ranking[j] += error * above(j, i) / false
        worse = [j for j in positives if q[j] < q[i]]
        missorted = sum(above(j, i) for j in worse)
        if missorted > 0:
            error = mean_error(i, positives) - mean_error(i, [j for j in positives if q[j] >= q[i]])
            sorting += error
            of_sorting[i] -= error
            for j in worse:
                of_sorting[j] += error * above(j, i) / missorted
    return [torch.tensor(x, dtype=torch.float64) / len(positives) for x in (ranking, sorting, of_ranking, of_sorting)]


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(shared: Path, name: str) -> None:
    with np.load(shared / "fixtures" / f"{name}.npz") as archive:
        expected = {key: torch.from_numpy(value) for key, value in archive.items()}
    logits = expected["logits"].clone().requires_grad_()
    ranking, sorting = rank_sort_loss(logits, expected["targets"], delta=float(expected["delta"]))
    (gradient,) = torch.autograd.grad(ranking + sorting, logits)
    assert_close(ranking, expected["ranking_loss"], rtol=0, atol=1e-6)
    assert_close(sorting, expected["sorting_loss"], rtol=0, atol=1e-6)
    assert_close(gradient, expected["grad"], rtol=0, atol=1e-6)


# Positives a, b of quality .8, .4; negatives c, d, e.
WORKED = (double(0, 0.25, -0.25, 1, -3), double(0.8, 0.4, 0, 0, 0))


def test_worked() -> None:
    """delta = 1/2: H_ij = clamp(z_j - z_i + 1/2, 0, 1).

    a: H of a, b, c, d, e is .5, .75, .25, 1, 0. Negatives 1.25 of 2.5 in all: ranking 1/2.
       (.5*.2 + .75*.6) / 1.25 = .44, and of a alone (b is worse) .2: sorting .24.
    b: H is .25, .5, 0, 1, 0. Negatives 1 of 1.75: ranking 4/7. Nobody is worse: sorting 0.
    Means (1/2 + 4/7) / 2 = 15/28 and .12.
    Gradients, times 2. Ranking: a -1/2, b -4/7, c .25/2.5 = .1, d 1/2.5 + 1/1.75 = .4 + 4/7. Sorting: a -.24, b .24.
    """
    ranking, sorting, of_ranking, of_sorting = terms(*WORKED)
    assert ranking.item() == pytest.approx(15 / 28)
    assert sorting.item() == pytest.approx(0.12)
    assert (2 * of_ranking).tolist() == pytest.approx([-1 / 2, -4 / 7, 0.1, 0.4 + 4 / 7, 0])
    assert (2 * of_sorting).tolist() == pytest.approx([-0.24, 0.24, 0, 0, 0])


def test_worked_steps() -> None:
    """delta = 0. Not below a: a, b, d; not below b: b, d. Ranking 1/3 and 1/2, mean 5/12.

    Sorting of a: (.2 + .6) / 2 - .2 = .2, mean .1. Gradients, times 2: ranking -1/3, -1/2, c 0, d 5/6; sorting -+.2.
    """
    ranking, sorting, of_ranking, of_sorting = terms(*WORKED, delta=0)
    assert ranking.item() == pytest.approx(5 / 12)
    assert sorting.item() == pytest.approx(0.1)
    assert (2 * of_ranking).tolist() == pytest.approx([-1 / 3, -1 / 2, 0, 5 / 6, 0])
    assert (2 * of_sorting).tolist() == pytest.approx([-0.2, 0.2, 0, 0, 0])


@pytest.mark.parametrize("delta", [0.0, 0.25, 0.5, 2.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_plain_loops(delta: float, ties: bool, seed: int) -> None:
    logits, quality = random_entries(seed, ties=ties)
    actual = terms(logits, quality, delta)
    assert actual[0] > 0.1
    assert actual[1] > 0.01
    assert_terms(actual, in_loops(logits, quality, delta))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, -2.0), (1.0, 0.0), (0.0, 1.0)])
def test_parts_add_up(weights: tuple[float, float]) -> None:
    """Each term carries its own update; sorting moves positives only; what one entry gets, others lose."""
    logits, quality = random_entries(3)
    _, _, of_ranking, of_sorting = terms(logits, quality)
    logits.requires_grad_()
    ranking, sorting = rank_sort_loss(logits, quality)
    (gradient,) = torch.autograd.grad(weights[0] * ranking + weights[1] * sorting, logits)
    assert_close(gradient, weights[0] * of_ranking + weights[1] * of_sorting, rtol=0, atol=1e-14)
    assert of_sorting[quality == 0].abs().max() == 0
    assert of_ranking[quality > 0].max() <= 0 <= of_ranking[quality == 0].min()
    assert of_ranking.sum().abs() < 1e-14
    assert of_sorting.sum().abs() < 1e-14


def test_order_of_entries_is_free() -> None:
    logits, quality = random_entries(1, ties=True)
    order = torch.randperm(len(logits))
    ranking, sorting, of_ranking, of_sorting = terms(logits, quality)
    shuffled = terms(logits[order], quality[order])
    assert_terms(shuffled, [ranking, sorting, of_ranking[order], of_sorting[order]])


@pytest.mark.parametrize("pairs", [1, 61, 150, 1200])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    """60 entries, about 20 of them positive: chunks of one row, one row again, two, and all."""
    logits, quality = random_entries(2, ties=True)
    expected = terms(logits, quality)
    above, largest = module._above, 0

    def watched(*arguments: Tensor | float) -> Tensor:
        nonlocal largest
        table = above(*arguments)
        largest = max(largest, table.numel())
        return table

    monkeypatch.setattr(module, "PAIRS_PER_CHUNK", pairs)
    monkeypatch.setattr(module, "_above", watched)
    assert_terms(terms(logits, quality), expected)
    assert 0 < largest <= max(pairs, len(logits))


@pytest.mark.parametrize("logits", [torch.zeros(0), torch.randn(7)])
def test_no_positives(logits: Tensor) -> None:
    for value in terms(logits, torch.zeros_like(logits)):
        assert torch.equal(value, torch.zeros_like(value))


def test_nan_quality_is_negative() -> None:
    logits, quality = random_entries(0)
    missing = torch.where(quality > 0, quality, torch.nan)
    for actual, expected in zip(terms(logits, missing), terms(logits, quality), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_all_positive(delta: float) -> None:
    """Nothing to rank, only to sort."""
    logits, quality = random_entries(0)[0], torch.linspace(0.1, 1, 60, dtype=torch.float64)
    actual = terms(logits, quality, delta)
    assert (actual[0].item(), actual[2].abs().max().item()) == (0, 0)
    assert actual[1] > 0.1
    assert_terms(actual, in_loops(logits, quality, delta))


def test_one_positive() -> None:
    """It has nobody to be sorted with. Two negatives above, itself half: 2 / 2.5."""
    ranking, sorting, of_ranking, of_sorting = terms(torch.tensor([0.0, 3, 5, -9]), torch.tensor([0.3, 0, 0, 0]))
    assert ranking.item() == pytest.approx(0.8)
    assert of_ranking.tolist() == pytest.approx([-0.8, 0.4, 0.4, 0])
    assert (sorting.item(), of_sorting.abs().max().item()) == (0, 0)


def test_perfect_order() -> None:
    """Neighbours a delta apart, in the order of quality, negatives last: H is 0 wherever it would cost, exactly."""
    quality = torch.tensor([0.9, 0.7, 0.61, 0.3, 0, 0])
    logits = torch.tensor([2.0, 1.5, 1, 0.5, 0, 0])
    for value in terms(logits, quality):
        assert torch.equal(value.abs(), torch.zeros_like(value))


def test_equal_quality_is_not_sorted() -> None:
    logits, quality = random_entries(0)
    _, sorting, _, of_sorting = terms(logits, torch.where(quality > 0, 0.7, 0).double())
    assert (sorting.item(), of_sorting.abs().max().item()) == (0, 0)


@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("size", [100.0, 1e30, 3e38])
def test_extreme_logits(size: float, delta: float) -> None:
    """A difference may overflow; its H is 0 or 1 all the same. Worst order: the better of two positives last of all.

    Above the positive of quality 1/2: both negatives, itself by h, the step at 0: ranking 2 / (2 + h). Above that of
    quality 1: 2 / (2 + 1 + h); sorting (1/2) / (1 + h).
    """
    logits, quality = torch.tensor([-size, 0, size, size]), torch.tensor([1.0, 0.5, 0, 0])
    ranking, sorting, of_ranking, of_sorting = terms(logits, quality, delta)
    own = 0.5 if delta else 1.0
    assert ranking.item() == pytest.approx((2 / (2 + own) + 2 / (3 + own)) / 2)
    assert sorting.item() == pytest.approx(0.5 / (1 + own) / 2)
    assert of_ranking.isfinite().all()
    assert of_sorting.isfinite().all()


def test_float64_is_kept() -> None:
    """1e-9 apart, float32 would take the two logits for equal."""
    logits, quality = double(1, 1 + 1e-9), double(1, 0)
    values = terms(logits, quality, delta=1e-9)
    assert all(value.dtype == torch.float64 for value in values)
    assert values[0].item() == pytest.approx(1 / 1.5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Values as in float32 of the same numbers; the gradient has the dtype of the logits, rounded once."""
    logits, quality = (x.to(dtype) for x in random_entries(4))
    actual, expected = terms(logits, quality), terms(logits.float(), quality.float())
    assert [x.dtype for x in actual] == [torch.float32, torch.float32, dtype, dtype]
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(actual, expected, strict=True))


def test_small_gradients_survive_half_precision() -> None:
    """A gradient scaler's factor meets the update in float32.

    Of 16 positives one reaches down to the last negative, by H = 2^-12; above it are 1/2 + 15 + 4096 others. So that
    negative gets 2^-12 / 4111.5 / 16, which alone is 0 in float16.
    """
    logits = torch.tensor([0.0, 9, -0.5 + 2**-12]).repeat_interleave(torch.tensor([1, 15 + 4096, 1]))
    quality = (torch.arange(len(logits)) < 16).float()
    logits = logits.half().requires_grad_()
    ranking, _ = rank_sort_loss(logits, quality)
    (gradient,) = torch.autograd.grad(ranking * 2**16, logits)
    assert gradient[-1].item() == pytest.approx(2**-12 / 4111.5 / 16 * 2**16, rel=1e-3)


def test_quality_is_a_constant() -> None:
    logits, quality = random_entries(0)
    logits.requires_grad_()
    quality.requires_grad_()
    sum(rank_sort_loss(logits, quality)).backward()
    assert quality.grad is None
    assert logits.grad is not None


@pytest.mark.parametrize("delta", [-0.1, float("nan")])
def test_delta_must_not_be_negative(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        rank_sort_loss(torch.zeros(2), torch.ones(2), delta=delta)


def test_descent_sorts() -> None:
    """Following the update from a random start ends in the order of quality, a delta apart."""
    logits, quality = random_entries(6, count=12)
    for _ in range(300):
        _, _, of_ranking, of_sorting = terms(logits, quality)
        logits = logits - of_ranking - of_sorting
    ranking, sorting, _, _ = terms(logits, quality)
    positive = quality > 0
    assert ranking < 0.01
    assert sorting < 0.01
    assert torch.equal(logits[positive].argsort(), quality[positive].argsort())
    assert logits[positive].min() > logits[~positive].max()
