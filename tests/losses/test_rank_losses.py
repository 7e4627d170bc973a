"""Ranking losses: oracle fixtures, hand-worked values and gradients, plain loops, and where they are zero."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.losses.ranking import RankTerms, ScoreSpace, chosen_rank_loss, rank_consistent_loss

FIXTURES = [
    "rcq_0",
    "rcq_empty",
    "rcq_equal_iou",
    "rcq_logit_tau",
    "rcq_perfect_beta1_tau1",
    "rcq_singletons",
    "rcq_zero_iou",
]
SPACES: list[ScoreSpace] = ["logsigmoid", "logit"]


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradients(terms: RankTerms, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of align and of rank, with respect to the logits."""
    (of_align,) = torch.autograd.grad(terms.align, logits, retain_graph=True)
    (of_rank,) = torch.autograd.grad(terms.rank, logits)
    return of_align, of_rank


def random_sets(seed: int, *, ties: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, quality, gt_index of objects with 1..12 entries each and 9 entries of no object, shuffled, float64.

    With ties both lie on a raster. Differences of logits are multiples of .37 and gaps of quality multiples of .1, so
    that no hinge is at its kink by accident.
    """
    generator = torch.Generator().manual_seed(seed)
    gt_index = torch.cat([torch.full((9,), -1), *(torch.full((n + 1,), n) for n in range(12))])
    gt_index = gt_index[torch.randperm(len(gt_index), generator=generator)]
    logits = torch.randn(len(gt_index), generator=generator, dtype=torch.float64) * 2
    quality = torch.rand(len(gt_index), generator=generator, dtype=torch.float64)
    if ties:
        logits, quality = (logits / 0.37).round() * 0.37, (quality * 10).round() / 10
    return logits, quality, gt_index


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64)


def in_loops(
    logits: Tensor,
    quality: Tensor,
    gt_index: Tensor,
    *,
    tau: float = 1.0,
    beta: float = 1.0,
    mu: float = 1.0,
    delta: float = 0.05,
    score_space: ScoreSpace = "logsigmoid",
) -> RankTerms:
    """The formulas of the docstring, one entry and one pair at a time."""
    aligns, ranks = [], []
    for index in sorted(set(gt_index.tolist()) - {-1}):
        z, q = list(logits[gt_index == index]), quality[gt_index == index].tolist()
        total = sum(x**beta for x in q)
        if len(q) > 1 and total > 1e-9:
            score = [(1 / (1 + (-x).exp()) if score_space == "logsigmoid" else x.exp()) ** (1 / tau) for x in z]
            aligns.append(-sum(b**beta / total * (s / sum(score)).log() for s, b in zip(score, q, strict=True)))
        weight, value = 0.0, torch.zeros((), dtype=torch.float64)
        for i in range(len(q)):
            for j in range(len(q)):
                gap = q[i] - q[j]
                if gap > delta:
                    weight += gap
                    value = value + gap * torch.relu(mu * gap - (z[i] - z[j]))
        if weight > 0:
            ranks.append(value / weight)
    return RankTerms(mean(aligns), mean(ranks), len(aligns), len(ranks))


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(shared: Path, name: str) -> None:
    with np.load(shared / "fixtures" / f"{name}.npz") as archive:
        fixture = dict(archive)
    expected = {key: torch.from_numpy(value) for key, value in fixture.items() if key != "space"}
    logits = expected["logit"].clone().requires_grad_()
    parameters = {key: float(expected[key]) for key in ("tau", "beta", "mu", "delta")}
    space = str(fixture["space"])
    terms = rank_consistent_loss(logits, expected["iou"], expected["gt_index"], **parameters, score_space=space)
    assert (terms.num_align, terms.num_rank) == (int(expected["n_align"]), int(expected["n_rank"]))
    of_align, of_rank = gradients(terms, logits)
    for value, key in [
        (terms.align, "align"),
        (terms.rank, "rank"),
        (of_align, "grad_align"),
        (of_rank, "grad_rank"),
    ]:
        assert_close(value, expected[key], rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"tau": 0.5, "beta": 2.0, "mu": 4.0},
        {"tau": 2.0, "beta": 0.5, "delta": 0.0},
        {"mu": 0.0, "delta": 0.25},
    ],
)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_plain_loops(parameters: dict[str, float], space: ScoreSpace, ties: bool, seed: int) -> None:
    logits, quality, gt_index = random_sets(seed, ties=ties)
    logits.requires_grad_()
    terms = rank_consistent_loss(logits, quality, gt_index, **parameters, score_space=space)
    expected = in_loops(logits, quality, gt_index, **parameters, score_space=space)
    assert (terms.num_align, terms.num_rank) == (expected.num_align, expected.num_rank)
    assert terms.num_align > 8
    assert terms.num_rank > 8
    assert_close(terms.align, expected.align, rtol=1e-12, atol=1e-12)
    assert_close(terms.rank, expected.rank, rtol=1e-12, atol=1e-12)
    for actual, wanted in zip(gradients(terms, logits), gradients(expected, logits), strict=True):
        assert_close(actual, wanted, rtol=1e-12, atol=1e-12)


# Scores 1/2, 1/4, 3/4 of one object's entries with quality .6, .3, .1.
WORKED = (double(0, -log(3), log(3)), double(0.6, 0.3, 0.1), torch.zeros(3, dtype=torch.int64))


def test_alignment_worked() -> None:
    """Scores sum to 3/2: P = 1/3, 1/6, 1/2. Quality sums to 1: Q = q.

    align = .6 ln 3 + .3 ln 6 + .1 ln 2. Gradient (P - Q)(1 - s): (1/3 - .6)/2, (1/6 - .3) 3/4, (1/2 - .1)/4.
    tau = 1/2, beta = 2: P = s^2 / sum = 4/14, 1/14, 9/14; Q = 36/46, 9/46, 1/46.
    In logit space P = e^z / sum = 3/13, 1/13, 9/13.
    """
    logits, quality, gt_index = WORKED
    logits = logits.clone().requires_grad_()
    terms = rank_consistent_loss(logits, quality, gt_index)
    assert terms.num_align == 1
    assert terms.align.item() == pytest.approx(0.6 * log(3) + 0.3 * log(6) + 0.1 * log(2))
    gradient = gradients(terms, logits)[0]
    assert gradient.tolist() == pytest.approx([(1 / 3 - 0.6) / 2, (1 / 6 - 0.3) * 3 / 4, (1 / 2 - 0.1) / 4])
    sharp = rank_consistent_loss(logits, quality, gt_index, tau=0.5, beta=2).align.item()
    assert sharp == pytest.approx(-(36 * log(4 / 14) + 9 * log(1 / 14) + log(9 / 14)) / 46)
    raw = rank_consistent_loss(logits, quality, gt_index, score_space="logit").align.item()
    assert raw == pytest.approx(-(0.6 * log(3 / 13) + 0.3 * log(1 / 13) + 0.1 * log(9 / 13)))


def test_rank_worked() -> None:
    """Pairs, better first. (0,1): gap .3, logits ln 3 = 1.1 apart, enough. (0,2): gap .5, -ln 3 apart: .5 + ln 3.
    (1,2): gap .2, -2 ln 3 apart: .2 + 2 ln 3. Gaps sum to 1: rank = .5 (.5 + ln 3) + .2 (.2 + 2 ln 3).

    Gradient: each pair in want pulls by its gap: -.5, -.2, .5 + .2.
    mu = 4 asks 1.2 of (0,1): .3 (1.2 - ln 3) + .5 (2 + ln 3) + .2 (.8 + 2 ln 3).
    delta = .25 leaves (0,1) and (0,2): .5 (.5 + ln 3) / .8.
    """
    logits, quality, gt_index = WORKED
    logits = logits.clone().requires_grad_()
    terms = rank_consistent_loss(logits, quality, gt_index)
    assert terms.num_rank == 1
    assert terms.rank.item() == pytest.approx(0.5 * (0.5 + log(3)) + 0.2 * (0.2 + 2 * log(3)))
    assert gradients(terms, logits)[1].tolist() == pytest.approx([-0.5, -0.2, 0.5 + 0.2])
    steep = rank_consistent_loss(logits, quality, gt_index, mu=4).rank.item()
    assert steep == pytest.approx(0.3 * (1.2 - log(3)) + 0.5 * (2 + log(3)) + 0.2 * (0.8 + 2 * log(3)))
    coarse = rank_consistent_loss(logits, quality, gt_index, delta=0.25).rank.item()
    assert coarse == pytest.approx(0.5 * (0.5 + log(3)) / 0.8)


def test_gap_of_delta_is_no_pair() -> None:
    """1/2 - 1/4 is 1/4 exactly."""
    logits, quality, gt_index = torch.zeros(2), torch.tensor([0.5, 0.25]), torch.zeros(2, dtype=torch.int64)
    assert rank_consistent_loss(logits, quality, gt_index, delta=0.25).num_rank == 0
    assert rank_consistent_loss(logits, quality, gt_index, delta=0.24).num_rank == 1


def test_mean_over_valid_objects() -> None:
    """Each object counts the same, however many entries it has; entries of no object not at all."""
    logits, quality, gt_index = random_sets(5)
    both = rank_consistent_loss(logits, quality, gt_index)
    alone = [
        rank_consistent_loss(logits[gt_index == i], quality[gt_index == i], gt_index[gt_index == i]) for i in range(12)
    ]
    for name in ("align", "rank"):
        count = sum(getattr(x, f"num_{name}") for x in alone)
        assert getattr(both, f"num_{name}") == count
        assert_close(getattr(both, name), sum(getattr(x, name) for x in alone) / count)


@pytest.mark.parametrize(("tau", "beta"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
@pytest.mark.parametrize("mu", [1.0, 4.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_score_equal_to_quality_is_ideal(tau: float, beta: float, mu: float, seed: int) -> None:
    """beta = 1/tau: P is proportional to q^(1/tau), as Q; and d logit(q) / dq >= 4, so mu <= 4 is content."""
    _, quality, gt_index = random_sets(seed)
    quality = quality.clamp(0.01, 0.99)
    logits = quality.logit().requires_grad_()
    terms = rank_consistent_loss(logits, quality, gt_index, tau=tau, beta=beta, mu=mu)
    of_align, of_rank = gradients(terms, logits)
    assert terms.num_align > 8
    assert terms.num_rank > 8
    assert of_align.abs().max() < 1e-14
    assert of_rank.abs().max() == 0
    assert terms.rank.item() == 0


@pytest.mark.parametrize("options", [{"score_space": "logit"}, {"beta": 2.0}, {"mu": 8.0}])
def test_ideal_point_needs_its_conditions(options: dict[str, float]) -> None:
    """Raw logits, beta other than 1/tau, or a steeper margin than the logit's slope at 1/2: something pulls."""
    quality = torch.linspace(0.3, 0.7, 5, dtype=torch.float64)
    logits = quality.logit().requires_grad_()
    terms = rank_consistent_loss(logits, quality, torch.zeros(5, dtype=torch.int64), **options)
    assert sum(g.abs().max() for g in gradients(terms, logits)) > 1e-3


def assert_zero(terms: RankTerms, logits: Tensor) -> None:
    """Both terms are 0 of no valid object, with a gradient path, and that gradient is 0."""
    assert (terms.num_align, terms.num_rank) == (0, 0)
    assert (terms.align.item(), terms.rank.item()) == (0, 0)
    for gradient in gradients(terms, logits):
        assert torch.equal(gradient, torch.zeros_like(logits))


def test_sets_of_one() -> None:
    logits = torch.randn(5, requires_grad=True)
    assert_zero(rank_consistent_loss(logits, torch.rand(5), torch.tensor([3, -1, 0, 1, 2])), logits)


def test_no_objects() -> None:
    logits = torch.randn(4, requires_grad=True)
    assert_zero(rank_consistent_loss(logits, torch.rand(4), torch.full((4,), -1)), logits)


def test_no_entries() -> None:
    logits = torch.zeros(0, requires_grad=True)
    assert_zero(rank_consistent_loss(logits, torch.zeros(0), torch.zeros(0, dtype=torch.int64)), logits)


@pytest.mark.parametrize("space", SPACES)
def test_all_zero_quality(space: ScoreSpace) -> None:
    """Nothing to align to, no pairs; and such an object does not dilute the mean of others."""
    logits = torch.randn(6, requires_grad=True)
    gt_index = torch.tensor([0, 0, 0, 1, 1, 1])
    assert_zero(rank_consistent_loss(logits, torch.zeros(6), gt_index, score_space=space), logits)
    quality = torch.tensor([0.0, 0, 0, 0.2, 0.6, 0.4])
    both = rank_consistent_loss(logits, quality, gt_index, score_space=space)
    alone = rank_consistent_loss(logits[3:], quality[3:], gt_index[3:], score_space=space)
    assert (both.num_align, both.num_rank) == (1, 1)
    assert_close(both.align, alone.align)
    assert_close(both.rank, alone.rank)
    assert all(torch.equal(g[:3], torch.zeros(3)) for g in gradients(both, logits))


@pytest.mark.parametrize("space", SPACES)
def test_equal_quality(space: ScoreSpace) -> None:
    """Q uniform, no pairs: align of equal scores is ln 4, its minimum; other scores are pulled together."""
    quality, gt_index = torch.full((4,), 0.7, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    logits = torch.full((4,), -1.5, dtype=torch.float64, requires_grad=True)
    terms = rank_consistent_loss(logits, quality, gt_index, score_space=space)
    assert (terms.num_align, terms.num_rank) == (1, 0)
    assert terms.align.item() == pytest.approx(log(4))
    assert terms.rank.item() == 0
    assert gradients(terms, logits)[0].abs().max() < 1e-14
    apart = double(-2, -1, 0, 1).requires_grad_()
    terms = rank_consistent_loss(apart, quality, gt_index, score_space=space)
    gradient = gradients(terms, apart)[0]
    assert terms.align.item() > log(4)
    assert gradient[0] < 0 < gradient[3]


def test_nan_quality_counts_as_zero() -> None:
    logits, quality, gt_index = random_sets(0)
    zero, missing = quality.clone(), quality.clone()
    zero[::3], missing[::3] = 0, float("nan")
    expected, terms = rank_consistent_loss(logits, zero, gt_index), rank_consistent_loss(logits, missing, gt_index)
    assert (terms.num_align, terms.num_rank) == (expected.num_align, expected.num_rank)
    assert torch.equal(terms.align, expected.align)
    assert torch.equal(terms.rank, expected.rank)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("tau", [0.25, 1.0])
def test_extreme_logits(space: ScoreSpace, tau: float) -> None:
    """Every pattern of +-100 over three entries, the objects of several sizes; wrong ones cost, all are finite."""
    patterns = torch.cartesian_prod(*[torch.tensor([-100.0, 100.0])] * 3)
    logits = torch.cat([patterns.flatten(), torch.tensor([100.0, -100, 100, -100, 0])]).requires_grad_()
    quality = torch.cat([torch.tensor([1.0, 0.5, 0]).repeat(len(patterns)), torch.tensor([1.0, 1, 0, 0, 0.5])])
    gt_index = torch.cat([torch.arange(len(patterns)).repeat_interleave(3), torch.full((5,), len(patterns))])
    terms = rank_consistent_loss(logits, quality, gt_index, tau=tau, score_space=space)
    assert terms.num_align == terms.num_rank == len(patterns) + 1
    assert terms.align.isfinite()
    assert terms.align > 10
    assert terms.rank.isfinite()
    assert terms.rank > 10
    assert all(g.isfinite().all() for g in gradients(terms, logits))


@pytest.mark.parametrize("space", SPACES)
def test_order_of_entries_is_free(space: ScoreSpace) -> None:
    logits, quality, gt_index = random_sets(1)
    logits.requires_grad_()
    terms = rank_consistent_loss(logits, quality, gt_index, score_space=space)
    order = torch.randperm(len(logits))
    shuffled = logits.detach()[order].requires_grad_()
    other = rank_consistent_loss(shuffled, quality[order], gt_index[order], score_space=space)
    assert_close(other.align, terms.align, rtol=1e-12, atol=1e-12)
    assert_close(other.rank, terms.rank, rtol=1e-12, atol=1e-12)
    for actual, expected in zip(gradients(other, shuffled), gradients(terms, logits), strict=True):
        assert_close(actual, expected[order], rtol=1e-12, atol=1e-12)


def test_numbers_of_objects_are_free() -> None:
    logits, quality, gt_index = random_sets(2)
    numbers = torch.randperm(10_000)[:12]
    renumbered = torch.where(gt_index >= 0, numbers[gt_index.clamp(min=0)], -1)
    terms, other = (rank_consistent_loss(logits, quality, index) for index in (gt_index, renumbered))
    assert (other.num_align, other.num_rank) == (terms.num_align, terms.num_rank)
    assert_close(other.align, terms.align, rtol=1e-12, atol=1e-12)
    assert_close(other.rank, terms.rank, rtol=1e-12, atol=1e-12)


def test_quality_is_a_constant() -> None:
    logits, quality, gt_index = random_sets(0)
    logits.requires_grad_()
    quality.requires_grad_()
    terms = rank_consistent_loss(logits, quality, gt_index)
    (terms.align + terms.rank).backward()
    assert quality.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_low_precision_computes_in_float32(low: torch.dtype) -> None:
    logits, quality, gt_index = random_sets(0)
    logits, quality = logits.to(low).requires_grad_(), quality.to(low)
    terms = rank_consistent_loss(logits, quality, gt_index)
    expected = rank_consistent_loss(logits.float(), quality.float(), gt_index)
    assert terms.align.dtype == terms.rank.dtype == torch.float32
    assert torch.equal(terms.align, expected.align)
    assert torch.equal(terms.rank, expected.rank)
    assert all(g.dtype == low and g.isfinite().all() for g in gradients(terms, logits))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = rank_consistent_loss(logits, quality, gt_index)
    assert torch.equal(within.align, expected.align)
    assert torch.equal(within.rank, expected.rank)


def test_unknown_score_space_is_an_error() -> None:
    with pytest.raises(ValueError, match="'probability'"):
        rank_consistent_loss(*WORKED, score_space="probability")  # type: ignore[arg-type]


def test_zero_quality_stays_in_its_set() -> None:
    """It is pushed down by both terms, and is not the same as an entry of no object."""
    logits, quality, gt_index = double(0.5, 0, 1).requires_grad_(), double(0.8, 0.6, 0), torch.zeros(3).long()
    terms = rank_consistent_loss(logits, quality, gt_index)
    assert all(g[2] > 0 for g in gradients(terms, logits))
    dropped = rank_consistent_loss(logits, quality, torch.tensor([0, 0, -1]))
    assert terms.align > dropped.align
    assert terms.rank > dropped.rank


def chosen_in_loops(logits: Tensor, quality: Tensor, gt_index: Tensor, chosen: Tensor, mu: float) -> tuple[Tensor, int]:
    """The formula of the docstring, one entry at a time."""
    objects = []
    for index in sorted(set(gt_index.tolist()) - {-1}):
        entries = [i for i, own in enumerate(gt_index.tolist()) if own == index]
        best = [i for i in entries if chosen[i]]
        others = [i for i in entries if not chosen[i]]
        if best and others:
            margins = [mu * max(quality[best[0]].item() - quality[j].item(), 0) for j in others]
            lead = [logits[best[0]] - logits[j] for j in others]
            objects.append(mean([torch.relu(m - z) for m, z in zip(margins, lead, strict=True)]))
    return mean(objects), len(objects)


def random_chosen(seed: int, *, ties: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """random_sets, and one entry chosen of all objects but 2, 5 and 8."""
    logits, quality, gt_index = random_sets(seed, ties=ties)
    chosen = torch.zeros(len(logits), dtype=torch.bool)
    for index in set(range(12)) - {2, 5, 8}:
        entries = (gt_index == index).nonzero().squeeze(1)
        chosen[entries[seed % len(entries)]] = True
    return logits, quality, gt_index, chosen


def test_chosen_worked() -> None:
    """Object 0, chosen z 0, q .7. Others: z -1, q .5, behind by 1 >= .2: 0; z .5, q .9: max(-.2, 0) + .5;
    z 0, q .3: .4. Their mean: .9/3. Object 1, chosen z 1, q 1/2; z 2, q 1/4: 1/4 + 1. Mean of the two objects.

    Gradient: 1/2 1/3 on each other in want and minus their sum on the chosen; +-1/2 in object 1.
    mu = 2: 0, .5, .8 and 1/2 + 1.
    """
    logits = double(0, -1, 0.5, 0, 1, 2).requires_grad_()
    quality, gt_index = double(0.7, 0.5, 0.9, 0.3, 0.5, 0.25), torch.tensor([0, 0, 0, 0, 1, 1])
    chosen = torch.tensor([True, False, False, False, True, False])
    value, count = chosen_rank_loss(logits, quality, gt_index, chosen)
    assert count == 2
    assert value.item() == pytest.approx((0.9 / 3 + 1.25) / 2)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.tolist() == pytest.approx([-2 / 6, 0, 1 / 6, 1 / 6, -1 / 2, 1 / 2])
    assert chosen_rank_loss(logits, quality, gt_index, chosen, mu=2)[0].item() == pytest.approx((1.3 / 3 + 1.5) / 2)


@pytest.mark.parametrize("mu", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_chosen_equals_plain_loops(mu: float, ties: bool, seed: int) -> None:
    """With mu 0 and ties a hinge can be at its kink, where its slope is free: values only."""
    logits, quality, gt_index, chosen = random_chosen(seed, ties=ties)
    logits.requires_grad_()
    value, count = chosen_rank_loss(logits, quality, gt_index, chosen, mu=mu)
    expected, expected_count = chosen_in_loops(logits, quality, gt_index, chosen, mu)
    # Object 0 has one entry, which is chosen.
    assert count == expected_count == 12 - 3 - 1
    assert_close(value, expected, rtol=1e-12, atol=1e-12)
    if not ties:
        for x, y in zip(torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits), strict=True):
            assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("gt_index", "chosen"),
    [
        pytest.param([0, 0, 1], [False, False, False], id="no chosen entry"),
        pytest.param([0, 1, 7], [True, True, True], id="only chosen entries"),
        pytest.param([-1, -1, -1], [True, False, False], id="no objects"),
        pytest.param([0, 0, -1], [False, False, True], id="chosen is of no object"),
        pytest.param([], [], id="no entries"),
    ],
)
def test_chosen_has_nothing_to_rank(gt_index: list[int], chosen: list[bool]) -> None:
    logits = torch.randn(len(gt_index), requires_grad=True)
    index, mask = torch.tensor(gt_index, dtype=torch.int64), torch.tensor(chosen, dtype=torch.bool)
    value, count = chosen_rank_loss(logits, torch.rand(len(gt_index)), index, mask)
    value.backward()
    assert (value.item(), count) == (0, 0)
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(len(gt_index)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_chosen_never_pushes_up_others(seed: int) -> None:
    """Descent goes against the gradient: not negative for all others, not positive for the chosen, 0 elsewhere."""
    logits, quality, gt_index, chosen = random_chosen(seed)
    logits.requires_grad_()
    value, _ = chosen_rank_loss(logits, quality, gt_index, chosen)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[~chosen] >= 0).all()
    assert (gradient[chosen] <= 0).all()
    assert gradient.abs().max() > 0
    outside = (gt_index == -1) | (gt_index == 0) | (gt_index == 2) | (gt_index == 5) | (gt_index == 8)
    assert torch.equal(gradient[outside], torch.zeros_like(gradient[outside]))


@pytest.mark.parametrize("mu", [1.0, 3.0])
def test_chosen_that_leads_by_its_margin_is_content(mu: float) -> None:
    """Its lead over each other is the margin and 1/1000; a thousandth less than the margin costs that."""
    quality = double(0.6, 0.2, 0.9, 0.6)
    gt_index, chosen = torch.zeros(4).long(), torch.tensor([True, False, False, False])
    at_margin = -mu * (0.6 - quality).clamp(min=0)
    logits = at_margin.clone()
    logits[0] += 1e-3
    logits.requires_grad_()
    value, count = chosen_rank_loss(logits, quality, gt_index, chosen, mu=mu)
    assert (value.item(), count) == (0, 1)
    assert torch.equal(torch.autograd.grad(value, logits)[0], torch.zeros_like(logits))
    logits = at_margin.clone()
    logits[0] -= 1e-3
    assert chosen_rank_loss(logits, quality, gt_index, chosen, mu=mu)[0].item() == pytest.approx(1e-3)


def test_chosen_order_and_numbers_are_free() -> None:
    logits, quality, gt_index, chosen = random_chosen(3)
    value, count = chosen_rank_loss(logits, quality, gt_index, chosen)
    order, numbers = torch.randperm(len(logits)), torch.randperm(1000)[:12]
    renumbered = torch.where(gt_index >= 0, numbers[gt_index.clamp(min=0)], -1)[order]
    other, other_count = chosen_rank_loss(logits[order], quality[order], renumbered, chosen[order])
    assert other_count == count
    assert_close(other, value, rtol=1e-12, atol=1e-12)


def test_chosen_quality_is_a_constant_and_may_be_nan() -> None:
    logits, quality, gt_index, chosen = random_chosen(0)
    logits.requires_grad_()
    zero, missing = quality.clone(), quality.clone()
    zero[::3], missing[::3] = 0, float("nan")
    missing.requires_grad_()
    value, _ = chosen_rank_loss(logits, missing, gt_index, chosen)
    assert torch.equal(value, chosen_rank_loss(logits, zero, gt_index, chosen)[0])
    value.backward()
    assert missing.grad is None


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_chosen_low_precision_computes_in_float32(low: torch.dtype) -> None:
    logits, quality, gt_index, chosen = random_chosen(0)
    value, _ = chosen_rank_loss(logits.to(low), quality.to(low), gt_index, chosen)
    expected, _ = chosen_rank_loss(logits.to(low).float(), quality.to(low).float(), gt_index, chosen)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


def test_chosen_extreme_logits() -> None:
    logits = torch.tensor([-100.0, 100, 100, -100, 0], requires_grad=True)
    gt_index, chosen = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([True, False, True, False, False])
    value, _ = chosen_rank_loss(logits, torch.tensor([1.0, 0, 1, 0, 0]), gt_index, chosen)
    value.backward()
    assert value.item() == pytest.approx((201 + 0) / 2)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
