"""The order of pictures: every one once, batches of like shape where canvases have the pictures' shapes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from alignrank.data.order import EpochSampler, Order, Share, batches_by_shape, shuffled, shuffled_by_shape

WIDE, SQUARE, TALL = (64, 96), (96, 96), (96, 64)
# 6 of each, mixed, so that batches of 2, 3 and 6 can all be of one shape.
CANVASES = [WIDE, TALL, SQUARE] * 6


def drawn(order: Order, seed: int) -> list[int]:
    found: list[int] = order(np.random.default_rng(seed)).tolist()
    return found


def shapes_of(batches: list[list[int]]) -> list[set[tuple[int, int]]]:
    return [{CANVASES[index] for index in batch} for batch in batches]


def in_batches(order: list[int], batch: int) -> list[list[int]]:
    return [order[i : i + batch] for i in range(0, len(order), batch)]


@pytest.mark.parametrize("order", [shuffled(18), shuffled_by_shape(CANVASES, 3)], ids=["any", "by shape"])
def test_every_picture_once_in_an_order_of_the_generator_s(order: Order) -> None:
    """Equal generators give equal orders, others other ones."""
    for seed in range(5):
        assert sorted(drawn(order, seed)) == list(range(18))
        assert drawn(order, seed) == drawn(order, seed)
    assert len({tuple(drawn(order, seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("batch", [1, 2, 3, 6])
def test_full_batches_are_of_one_shape(batch: int) -> None:
    """Which pictures are together, and which shape comes first, is another matter in each epoch."""
    together, first = set(), set()
    for seed in range(20):
        batches = in_batches(drawn(shuffled_by_shape(CANVASES, batch), seed), batch)
        assert all(len(shapes) == 1 for shapes in shapes_of(batches))
        together.add(frozenset(frozenset(one) for one in batches))
        first.add(CANVASES[batches[0][0]])
    assert len(together) == (1 if batch in (1, 6) else 20)
    assert first == {WIDE, SQUARE, TALL}


def test_equal_shapes_are_ordered_by_size() -> None:
    """32 x 64 and 64 x 128 have one ratio: batches hold one of the two, and nothing is padded."""
    canvases = [(32, 64), (64, 128)] * 4
    for seed in range(10):
        batches = in_batches(drawn(shuffled_by_shape(canvases, 4), seed), 4)
        assert [len({canvases[index] for index in batch}) for batch in batches] == [1, 1]


def test_a_batch_that_one_shape_does_not_fill_takes_the_next_by_ratio() -> None:
    """Two wide, four square, two tall pictures by four: in order of height over width, two and two, two and two."""
    canvases = [SQUARE, WIDE, TALL, SQUARE, SQUARE, TALL, WIDE, SQUARE]
    for seed in range(10):
        batches = in_batches(drawn(shuffled_by_shape(canvases, 4), seed), 4)
        shapes = [Counter(canvases[index] for index in batch) for batch in batches]
        assert sorted(shapes, key=str) == sorted(
            [Counter({WIDE: 2, SQUARE: 2}), Counter({SQUARE: 2, TALL: 2})], key=str
        )


@pytest.mark.parametrize(("batch", "left"), [(4, 2), (5, 3), (7, 4), (18, 0), (20, 18)])
def test_what_does_not_fill_a_batch_comes_last(batch: int, left: int) -> None:
    """Other pictures in each epoch, of any shape: the full batches before them keep to the order of ratios."""
    ratio = [height / width for height, width in CANVASES]
    last = set()
    for seed in range(20):
        order = drawn(shuffled_by_shape(CANVASES, batch), seed)
        full = in_batches(order[: len(order) - left], batch)
        assert all(len(one) == batch for one in full)
        spans = sorted((min(ratio[i] for i in one), max(ratio[i] for i in one)) for one in full)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        last.add(tuple(sorted(order[len(order) - left :])))
    assert len(last) == (1 if left in (0, 18) else 20)


@pytest.mark.parametrize("batch", [1, 2, 4, 100])
def test_batches_of_an_evaluation(batch: int) -> None:
    """One shape each, every picture once, in the order of the data set within a shape."""
    batches = batches_by_shape(CANVASES, batch)
    assert all(len(shapes) == 1 for shapes in shapes_of(batches))
    assert sorted(index for one in batches for index in one) == list(range(18))
    for shape in (WIDE, SQUARE, TALL):
        of_shape = [one for one in batches if CANVASES[one[0]] == shape]
        assert [index for one in of_shape for index in one] == [i for i in range(18) if CANVASES[i] == shape]
        assert [len(one) for one in of_shape] == [batch] * (6 // batch) + [6 % batch] * (6 % batch > 0)


def test_batches_of_an_evaluation_worked() -> None:
    canvases = [WIDE, WIDE, TALL, WIDE, SQUARE, TALL]
    assert batches_by_shape(canvases, 2) == [[0, 1], [3], [2, 5], [4]]
    assert batches_by_shape([], 2) == []


@pytest.mark.parametrize(("count", "ranks"), [(10, 1), (10, 2), (11, 2), (3, 4), (1, 2)])
def test_ranks_split_the_order(count: int, ranks: int) -> None:
    """Together the ranks see every image, in the order one process would, each the same number."""
    alone = EpochSampler(shuffled(count), count, seed=5)
    parts = [EpochSampler(shuffled(count), count, seed=5, share=Share(r, ranks)) for r in range(ranks)]
    for epoch in range(3):
        for sampler in (alone, *parts):
            sampler.set_epoch(epoch)
        whole = list(alone)
        assert sorted(index for _, index in whole) == list(range(count))
        assert {e for e, _ in whole} == {epoch}
        shares = [list(part) for part in parts]
        assert all(len(share) == len(part) == -(-count // ranks) for share, part in zip(shares, parts, strict=True))
        interleaved = [pair for row in zip(*shares, strict=True) for pair in row]
        assert interleaved[:count] == whole


def test_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(shuffled(30), 30, seed=seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_see_shares_of_one_shape(ranks: int) -> None:
    """At each step all processes have pictures of the same shape, and none the other's."""
    batch = 6 // ranks
    samplers = [
        EpochSampler(shuffled_by_shape(CANVASES, batch * ranks), 18, seed=3, share=Share(rank, ranks))
        for rank in range(ranks)
    ]
    for epoch in range(4):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [in_batches([index for _, index in sampler], batch) for sampler in samplers]
        steps = [[index for share in shares for index in share[step]] for step in range(3)]
        assert all(len(shapes) == 1 for shapes in shapes_of(steps))
        assert sorted(index for step in steps for index in step) == list(range(18))


def test_a_run_goes_on_within_an_epoch() -> None:
    """From epoch 2 on, without the four pictures that it has seen; later epochs are whole."""
    order = shuffled_by_shape(CANVASES, 4)
    whole, resumed = EpochSampler(order, 18, seed=1), EpochSampler(order, 18, seed=1, share=Share(epoch=2, skip=4))
    whole.set_epoch(2)
    assert list(resumed) == list(whole)[4:]
    assert {epoch for epoch, _ in resumed} == {2}
    for sampler in (whole, resumed):
        sampler.set_epoch(3)
    assert list(resumed) == list(whole)
    assert len(list(resumed)) == 18
