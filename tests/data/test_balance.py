"""Repeat factor sampling: hand-worked factors, what an epoch holds, several processes, going on within an epoch."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from squares import write_squares

from alignrank.data.balance import by_factor, draws, evenly, repeat_factors, repeated
from alignrank.data.loader import Images, TrainingSet, training_loader
from alignrank.data.order import EpochSampler, Share, shuffled, shuffled_by_shape
from alignrank.data.samples import Sample, Split
from alignrank.data.source import read
from alignrank.input_size import InputSize
from alignrank.weights.settings import AugmentConfig


def split_of(labels: Sequence[Sequence[int]], num_classes: int, crowd: Sequence[Sequence[bool]] = ()) -> Split:
    samples = []
    for number, own in enumerate(labels):
        regions = crowd[number] if crowd else [False] * len(own)
        samples.append(
            Sample(
                Path(f"{number}.jpg"), number, (8, 8), np.zeros((len(own), 4), np.float32), np.array(own, np.int64),
                np.ones(len(own), np.float32), np.array(regions, bool),
            )
        )  # fmt: skip
    return Split(tuple("abcdef"[:num_classes]), tuple(range(num_classes)), samples, Path("data"))


def test_factors_worked() -> None:
    """Ten pictures. a on 8: f = 0.8. b on 2: f = 0.2, however many on each. c on 1: f = 0.1. d on none.

    t = 0.4: r(a) = max(1, sqrt(0.5)) = 1, r(b) = sqrt(2), r(c) = sqrt(4) = 2; a picture has the largest of its classes.
    """
    labels = [[0]] * 6 + [[0, 1, 1, 1], [1], [0, 2], []]
    factors = repeat_factors(split_of(labels, 4), 0.4)
    assert factors.tolist() == pytest.approx([1] * 6 + [math.sqrt(2), math.sqrt(2), 2, 1])
    assert draws(factors) == math.ceil(6 + 2 * math.sqrt(2) + 2 + 1)


def test_crowd_regions_and_thresholds_without_effect() -> None:
    """A class that only crowd regions show is not there; with t = 0, or all classes frequent, all factors are 1."""
    labels, crowd = [[0], [0], [0], [0, 1]], [[False], [False], [False], [False, True]]
    split = split_of(labels, 2, crowd)
    assert repeat_factors(split, 0.9).tolist() == [1, 1, 1, 1]
    assert repeat_factors(split_of(labels, 2), 0.0).tolist() == [1, 1, 1, 1]
    assert repeat_factors(split_of(labels, 2), 1.0).tolist() == [1, 1, 1, 2]
    assert draws(np.ones(4)) == 4


def test_an_epoch_rounds_each_factor_up_or_down() -> None:
    """Over many epochs a picture comes as often as its factor says; all epochs are equally long."""
    factors = np.array([1, 1, 1.25, 1.5, 2, 3.75, 1])  # 11.5: epochs of 12 pictures
    order, total = repeated(factors), Counter[int]()
    for epoch in range(4000):
        numbers = order(np.random.default_rng([0, epoch]))
        assert len(numbers) == draws(factors) == 12
        times = Counter((numbers % 7).tolist())
        assert all(math.floor(f) <= times[i] <= math.ceil(f * 12 / 11.5) for i, f in enumerate(factors))
        # The n-th time a picture comes has a number of its own.
        assert sorted(numbers.tolist()) == sorted(i + 7 * n for i, count in times.items() for n in range(count))
        total.update(times)
    for index, factor in enumerate(factors):
        assert total[index] / 4000 == pytest.approx(factor * 12 / 11.5, abs=0.04)


def test_whole_factors_leave_nothing_to_chance() -> None:
    order = repeated(np.array([1.0, 3.0, 2.0]))
    drawn = [order(np.random.default_rng(seed)) for seed in range(8)]
    assert all(sorted(numbers.tolist()) == [0, 1, 2, 4, 5, 7] for numbers in drawn)
    assert len({tuple(numbers.tolist()) for numbers in drawn}) > 4


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_the_epoch(ranks: int) -> None:
    factors = np.array([1, 1, 1.25, 1.5, 2, 3.75, 1])
    count = draws(factors)
    alone = list(EpochSampler(repeated(factors), count, seed=4))
    parts = [list(EpochSampler(repeated(factors), count, seed=4, share=Share(rank, ranks))) for rank in range(ranks)]
    assert [pair for row in zip(*parts, strict=True) for pair in row][:count] == alone
    resumed = EpochSampler(repeated(factors), count, seed=4, share=Share(skip=5))
    assert list(resumed) == alone[5:]


def test_batches_of_like_shape() -> None:
    """Wide pictures 0 and 1 and tall ones 2 and 3; 1 comes three times."""
    canvases, factors = [(32, 64), (32, 64), (64, 32), (64, 32)], np.array([1.0, 3.0, 2.0, 2.0])
    order = shuffled_by_shape(canvases, 4, repeated(factors))
    for seed in range(10):
        numbers = order(np.random.default_rng(seed)).tolist()
        wide = [{number % 4 < 2 for number in numbers[i : i + 4]} for i in (0, 4)]
        assert wide in ([{True}, {False}], [{False}, {True}])
        assert Counter(number % 4 for number in numbers) == {0: 1, 1: 3, 2: 2, 3: 2}


def test_partners() -> None:
    """By factor where there are factors; without, what a seed gave before."""
    draw = pickle.loads(pickle.dumps(by_factor(np.array([1.0, 1.0, 6.0]))))
    counts = Counter(draw(np.random.default_rng(0), 8000))
    assert [counts[i] / 1000 for i in range(3)] == pytest.approx([1, 1, 6], abs=0.15)
    even, a, b = evenly(9), np.random.default_rng(1), np.random.default_rng(1)
    assert even(a, 3) == b.integers(9, size=3).tolist()
    assert even(a, 1) == [int(b.integers(9))]
    assert even(a, 3) == b.integers(9, size=3).tolist()


def test_the_order_of_before_without_a_threshold(tmp_path: Path) -> None:
    write_squares(tmp_path, num_train=6)
    train = read(tmp_path).train
    assert train is not None
    images, config = Images(train, InputSize(64)), AugmentConfig(mixup=0.5, plain_epochs=0)
    plain = TrainingSet(images, config, seed=3, epochs=2)
    assert plain.factors is None
    sampler = training_loader(plain, 2, workers=0, seed=3).sampler
    assert [index for _, index in sampler] == np.random.default_rng([3, 0]).permutation(6).tolist()
    assert list(sampler) == list(EpochSampler(shuffled(6), 6, seed=3))


def test_a_picture_that_comes_again_is_augmented_anew(tmp_path: Path) -> None:
    write_squares(tmp_path, num_train=6)
    train = read(tmp_path).train
    assert train is not None
    train.classes, train.category_ids = ("a", "b"), (1, 2)
    for number, sample in enumerate(train.samples):
        # b on one picture of six: its factor is sqrt(6) at t = 1, that of a sqrt(6/5).
        sample.labels = np.full_like(sample.labels, number == 2)
    images = Images(train, InputSize(64))
    dataset = TrainingSet(images, AugmentConfig(mosaic=0.0), seed=3, epochs=20, repeat_threshold=1.0)
    assert dataset.factors is not None
    assert dataset.factors.tolist() == pytest.approx([math.sqrt(6 / 5)] * 2 + [math.sqrt(6)] + [math.sqrt(6 / 5)] * 3)
    first, again, once_more = dataset[0, 2], dataset[0, 2 + 6], dataset[0, 2 + 6]
    assert first[2].source == again[2].source == str(train.samples[2].image)
    assert not torch.equal(first[0], again[0])
    assert torch.equal(again[0], once_more[0])
    loader = training_loader(dataset, 4, workers=0, seed=0)
    assert len(loader.sampler) == math.ceil(5 * math.sqrt(6 / 5) + math.sqrt(6))  # type: ignore[arg-type]
    sources = Counter(frame.source for batch in loader for frame in batch.frames)
    assert sources[str(train.samples[2].image)] in (2, 3)
