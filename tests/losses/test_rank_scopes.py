"""Ranking beyond an object's own candidates: hand-worked, in plain loops, and split among processes."""

from __future__ import annotations

from itertools import product
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.losses import ranking
from alignrank.losses.other_processes import Entries
from alignrank.losses.ranking import RankTerms, rank_consistent_loss

SCOPES = ["class", "both"]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def long(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, logits, retain_graph=True)
    return found


# Objects 0, 1 and 3 are of class 0, object 2 of class 1; one entry is of no object.
QUALITY = double(0.9, 0.5, 0.6, 0.2, 0.1, 0.7)
NUMBER = long(0, 0, 1, 2, 3, -1)
LABELS = long(0, 0, 0, 1, 0, 0)


def worked() -> Tensor:
    return double(0, 1, 2, 5, 0, 9).requires_grad_()


def test_class_worked() -> None:
    """a (.9, z 0) and b (.5, 1) of object 0, c (.6, 2) of object 1, d (.1, 0) of object 3. Pairs, gap and hinge:
    a-c .3, .3 + 2; c-b .1, satisfied; a-d .8, .8; b-d .4, satisfied; c-d .5, satisfied.

    Object 0: (.3 2.3 + .8 .8) / (.3 + .1 + .8 + .4). Object 1: .3 2.3 / (.3 + .1 + .5).
    Object 3: .8 .8 / (.8 + .4 + .5).
    Gradient: a pair in want pulls by its gap over the sum of each of its objects, a third of that.
    """
    logits = worked()
    terms = rank_consistent_loss(logits, QUALITY, NUMBER, scope="class", labels=LABELS)
    first, second = 0.3 * 2.3, 0.8 * 0.8
    assert terms.num_rank == 3
    assert terms.rank.item() == pytest.approx(((first + second) / 1.6 + first / 0.9 + second / 1.7) / 3)
    to_c, to_d = (0.3 / 1.6 + 0.3 / 0.9) / 3, (0.8 / 1.6 + 0.8 / 1.7) / 3
    assert gradient(terms.rank, logits).tolist() == pytest.approx([-to_c - to_d, 0, to_c, 0, to_d, 0])


def test_both_worked() -> None:
    """Object 0 has the pair a-b as well, gap .4, hinge 1.4: the mean of 1.4 and what it has above."""
    logits = worked()
    terms = rank_consistent_loss(logits, QUALITY, NUMBER, scope="both", labels=LABELS)
    first, second = 0.3 * 2.3, 0.8 * 0.8
    assert terms.num_rank == 3
    assert terms.rank.item() == pytest.approx(((1.4 + (first + second) / 1.6) / 2 + first / 0.9 + second / 1.7) / 3)
    to_c, to_d = (0.3 / 3.2 + 0.3 / 0.9) / 3, (0.8 / 3.2 + 0.8 / 1.7) / 3
    assert gradient(terms.rank, logits).tolist() == pytest.approx([-to_c - to_d - 1 / 6, 1 / 6, to_c, 0, to_d, 0])


def test_best_worked() -> None:
    """Of object 0 only b, of the higher score, meets others: c-b, b-d and c-d, all satisfied. With c at .8: .1 + .2."""
    logits = worked()
    terms = rank_consistent_loss(logits, QUALITY, NUMBER, scope="class", labels=LABELS, across="best")
    assert (terms.rank.item(), terms.num_rank) == (0, 3)
    logits = double(0, 1, 0.8, 5, 0, 9)
    terms = rank_consistent_loss(logits, QUALITY, NUMBER, scope="class", labels=LABELS, across="best")
    assert terms.rank.item() == pytest.approx(0.1 * 0.3 * (1 / (0.1 + 0.4) + 1 / (0.1 + 0.5)) / 3)


def test_alignment_worked() -> None:
    """Objects 0 and 1 are of one class in one image: their four scores are one list, which counts twice. Object 2 is
    of another class, object 3 in another image: lists of their own.

    Scores 1/2, 1/4, 1/2, 3/4 of the four: P = 1/4, 1/8, 1/4, 3/8; Q = q / 2.
    Object 2: one entry, not valid. Object 3: scores 1/2, 1/2; P = 1/2; ln 2 whatever Q.
    """
    logits = double(0, -log(3), 0, log(3), 1, 0, 0).requires_grad_()
    quality = double(0.8, 0.2, 0.4, 0.6, 0.3, 0.9, 0.1)
    number, labels, images = long(0, 0, 1, 1, 2, 3, 3), long(4, 4, 4, 4, 1, 4, 4), long(0, 0, 0, 0, 0, 1, 1)
    terms = rank_consistent_loss(logits, quality, number, align_scope="class", labels=labels, images=images)
    assert terms.num_align == 3
    listed = 0.4 * log(4) + 0.1 * log(8) + 0.2 * log(4) + 0.3 * log(8 / 3)
    assert terms.align.item() == pytest.approx((2 * listed + log(2)) / 3)
    expected = [2 * (1 / 4 - 0.4) / 2, 2 * (1 / 8 - 0.1) * 3 / 4, 2 * (1 / 4 - 0.2) / 2, 2 * (3 / 8 - 0.3) / 4]
    expected += [0, (1 / 2 - 0.9) / 2, (1 / 2 - 0.1) / 2]
    assert gradient(terms.align, logits).tolist() == pytest.approx([x / 3 for x in expected])


def random_batch(seed: int, *, objects: int = 12, largest: int = 9, classes: int = 3) -> dict[str, Tensor]:
    """Shuffled entries, 1..largest of each object, and five of none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, largest + 1, (objects,), generator=generator)
    number = torch.cat([torch.arange(objects).repeat_interleave(sizes), torch.full((5,), -1)])
    number = number[torch.randperm(len(number), generator=generator)]
    of_object = torch.randint(classes, (objects,), generator=generator)
    return {
        "logits": torch.randn(len(number), generator=generator, dtype=torch.float64) * 2,
        "quality": torch.rand(len(number), generator=generator, dtype=torch.float64),
        "gt_index": number,
        "labels": of_object[number.clamp(min=0)],
        "images": number.clamp(min=0) // 4,
    }


def in_loops(batch: dict[str, Tensor], scope: str, across: str, mu: float, delta: float) -> tuple[Tensor, int]:
    """The formulas of the docstring, one pair at a time."""
    z, q, number, labels = (batch[name] for name in ("logits", "quality", "gt_index", "labels"))
    members = [i for i in range(len(z)) if number[i] >= 0]
    best = {max((i for i in members if number[i] == o), key=z.tolist().__getitem__) for o in number[members].tolist()}
    values = []
    for index in sorted({int(number[i]) for i in members}):
        within: list[tuple[float, Tensor]] = []
        beyond: list[tuple[float, Tensor]] = []
        for i, j in product(members, members):
            gap = float(q[i] - q[j])
            if gap <= delta or index not in (number[i], number[j]) or labels[i] != labels[j]:
                continue
            pair = gap, torch.relu(mu * gap - (z[i] - z[j]))
            if number[i] == number[j]:
                within.append(pair)
            elif across == "all" or {i, j} <= best:
                beyond.append(pair)
        kinds = [beyond] if scope == "class" else [within, beyond]
        means = [sum(w * h for w, h in x) / sum(w for w, _ in x) for x in kinds if x]
        if means:
            values.append(torch.stack([torch.as_tensor(x) for x in means]).mean())
    return torch.stack(values).mean(), len(values)


@pytest.mark.parametrize("across", ["all", "best"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("seed", "mu", "delta"), [(0, 1.0, 0.05), (1, 3.0, 0.0), (2, 1.0, 0.3)])
def test_equals_plain_loops(seed: int, mu: float, delta: float, scope: Any, across: Any) -> None:
    batch = random_batch(seed)
    logits = batch["logits"].requires_grad_()
    terms = rank_consistent_loss(**batch, scope=scope, across=across, mu=mu, delta=delta)
    expected, count = in_loops(batch, scope, across, mu, delta)
    assert terms.num_rank == count > 8
    assert terms.rank > 0
    assert_close(terms.rank, expected, **EXACT)
    assert_close(gradient(terms.rank, logits), gradient(expected, logits), **EXACT)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("across", ["all", "best"])
def test_gradient_is_the_slope(scope: Any, across: Any) -> None:
    batch = random_batch(4)
    logits = batch.pop("logits").requires_grad_()

    def both(z: Tensor) -> Tensor:
        terms = rank_consistent_loss(z, **batch, scope=scope, across=across, align_scope="class")
        return terms.rank + terms.align

    assert torch.autograd.gradcheck(both, (logits,))


def test_scope_of_the_object_ignores_what_is_beyond() -> None:
    """Bit for bit: labels and images change nothing where no scope asks for them."""
    batch = random_batch(0)
    plain = rank_consistent_loss(*(batch[name] for name in ("logits", "quality", "gt_index")))
    assert rank_consistent_loss(**batch, scope="object", align_scope="object") == plain


def test_pairs_one_by_one_equal_the_dense_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of up to 65 entries are compared in [G,K,K], larger ones through `balanced_pairs`: one rule."""
    batch = random_batch(3, largest=40)
    logits = batch["logits"].requires_grad_()
    dense = rank_consistent_loss(**batch)
    monkeypatch.setattr(ranking, "ALL_PAIRS", 0)
    listed = rank_consistent_loss(**batch)
    assert listed.num_rank == dense.num_rank
    assert_close(listed.rank, dense.rank, **EXACT)
    assert_close(gradient(listed.rank, logits), gradient(dense.rank, logits), **EXACT)


def test_sample_stands_for_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand entries of a class, of which each meets 64 of the others."""
    batch = random_batch(5, objects=200, classes=1)
    sampled = rank_consistent_loss(**batch, scope="class")
    monkeypatch.setattr("alignrank.losses.rank_pairs.SHIFTS", 10_000)
    complete = rank_consistent_loss(**batch, scope="class")
    assert sampled.num_rank == complete.num_rank == 200
    assert sampled.rank.item() == pytest.approx(complete.rank.item(), rel=0.02)
    assert sampled.rank.item() != complete.rank.item()


@pytest.mark.parametrize("scope", ["object", *SCOPES])
def test_pull_is_at_most_two(scope: Any) -> None:
    """In every scope, and 2 where every pair is in want: one weight means as much everywhere."""
    batch = random_batch(6, objects=60)
    logits = batch["logits"].requires_grad_()
    pull = gradient(rank_consistent_loss(**batch, scope=scope).rank, logits).abs().sum()
    assert 0.5 < pull <= 2 + 1e-12
    # A pull and a push on the same entry cancel: two entries of each object and one pair show the bound itself.
    wrong = {"quality": double(0.9, 0.1, 0.9, 0.1), "gt_index": long(0, 0, 1, 1), "labels": long(0, 0, 0, 0)}
    logits = double(-3, 3, -3, 3).requires_grad_()
    pull = gradient(rank_consistent_loss(logits, **wrong, scope=scope).rank, logits).abs().sum()
    assert pull.item() == pytest.approx(2)


@pytest.mark.parametrize("scope", SCOPES)
def test_score_equal_to_quality_is_ideal(scope: Any) -> None:
    batch = random_batch(7, objects=40)
    batch["quality"] = batch["quality"].clamp(0.01, 0.99)
    logits = batch["logits"] = batch["quality"].logit().requires_grad_()
    terms = rank_consistent_loss(**batch, scope=scope, align_scope="class")
    assert (terms.rank.item(), terms.num_rank) == (0, 40)
    assert gradient(terms.align, logits).abs().max() < 1e-14
    assert gradient(terms.rank, logits).abs().max() == 0


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("number", "labels"),
    [
        pytest.param([], [], id="no entries"),
        pytest.param([-1, -1], [0, 0], id="no objects"),
        pytest.param([3], [0], id="one entry"),
        pytest.param([3, 1, 0], [2, 0, 1], id="each the only one of its class"),
    ],
)
def test_nothing_to_compare(number: list[int], labels: list[int], scope: Any) -> None:
    logits = torch.randn(len(number), requires_grad=True)
    quality, index, label = torch.rand(len(number)), long(*number), long(*labels)
    terms = rank_consistent_loss(logits, quality, index, scope=scope, align_scope="class", labels=label, images=label)
    (terms.rank + terms.align).backward()
    assert (terms.rank.item(), terms.align.item(), terms.num_rank, terms.num_align) == (0, 0, 0, 0)
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("across", ["all", "best"])
@pytest.mark.parametrize("objects", [10, 300])
def test_order_and_numbers_are_free(scope: Any, across: Any, objects: int) -> None:
    batch = random_batch(8, objects=objects)
    terms = rank_consistent_loss(**batch, scope=scope, across=across, align_scope="class")
    order, numbers = torch.randperm(len(batch["logits"])), torch.randperm(5000)[:objects]
    moved = {name: x[order] for name, x in batch.items()}
    moved["gt_index"] = torch.where(moved["gt_index"] >= 0, numbers[moved["gt_index"].clamp(min=0)], -1)
    other = rank_consistent_loss(**moved, scope=scope, across=across, align_scope="class")
    assert (other.num_rank, other.num_align) == (terms.num_rank, terms.num_align)
    assert_close(other.rank, terms.rank, **EXACT)
    assert_close(other.align, terms.align, **EXACT)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("across", ["all", "best"])
@pytest.mark.parametrize("objects", [10, 300])
def test_processes_add_up_to_one(scope: Any, across: Any, objects: int) -> None:
    """Three, of which the last has nothing: their sums of values and of gradients are those of one process."""
    batch = random_batch(9, objects=objects)
    logits = batch["logits"].requires_grad_()
    whole = rank_consistent_loss(**batch, scope=scope, across=across)
    value, pull, count = torch.zeros(()).double(), torch.zeros_like(logits), 0
    for process in range(3):
        own = batch["gt_index"] % 2 == process
        rest = {name: x[~own & (batch["gt_index"] >= 0)] for name, x in batch.items() if name != "images"}
        rest["gt_index"] = rest["gt_index"] + 1000
        mine = {name: x[own] for name, x in batch.items()}
        terms: RankTerms = rank_consistent_loss(**mine, scope=scope, across=across, others=Entries(**rest))
        value, count = value + terms.rank.detach() * terms.num_rank, count + terms.num_rank
        pull += gradient(terms.rank * terms.num_rank, logits)
    assert count == whole.num_rank
    assert_close(value / count, whole.rank.detach(), **EXACT)
    assert_close(pull / count, gradient(whole.rank, logits), **EXACT)


def test_low_precision_computes_in_float32() -> None:
    batch = random_batch(0)
    low = {**batch, "logits": batch["logits"].bfloat16().requires_grad_(), "quality": batch["quality"].bfloat16()}
    exact = {**low, "logits": low["logits"].float(), "quality": low["quality"].float()}
    terms, expected = (rank_consistent_loss(**x, scope="both", align_scope="class") for x in (low, exact))
    assert terms.rank.dtype == torch.float32
    assert torch.equal(terms.rank, expected.rank)
    assert torch.equal(terms.align, expected.align)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "image"}, "'image'"),
        ({"align_scope": "batch"}, "'batch'"),
        ({"across": "some"}, "'some'"),
        ({"scope": "class"}, "scope 'class' needs labels"),
        ({"align_scope": "class", "labels": LABELS}, "align_scope 'class' needs labels and images"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_consistent_loss(worked(), QUALITY, NUMBER, **options)
