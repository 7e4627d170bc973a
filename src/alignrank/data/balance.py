"""Pictures of rare classes come more often: repeat factor sampling (Gupta et al., LVIS, CVPR 2019, section 4.1).

With f(c) the share of the training pictures that show class c, r(c) = max(1, sqrt(t / f(c))), and a picture's factor
r(i) is the largest of its classes. One without objects has 1. Shape letters: N pictures, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from alignrank.data.order import Order
from alignrank.data.samples import Array, Split

# (generator, how many) -> indices of pictures.
Draw = Callable[[np.random.Generator, int], list[int]]


def repeat_factors(split: Split, threshold: float) -> Array:
    """float64 [N], each at least 1: how often a picture comes in an epoch, on average. threshold: t, 0..1; 0: once.

    Crowd regions, which are no training targets, do not count.
    """
    shown = [np.unique(sample.labels[~sample.crowd]) for sample in split.samples]
    counts = np.bincount(np.concatenate(shown), minlength=len(split.classes)) if shown else np.zeros(0)
    of_class = np.sqrt(threshold * len(split) / np.maximum(counts, 1)).clip(min=1)
    return np.array([of_class[labels].max(initial=1.0) for labels in shown])


def draws(factors: Array) -> int:
    """How many pictures an epoch has: the sum of the factors, rounded up. It is the same in every epoch."""
    return math.ceil(float(factors.sum()) - 1e-6)


def repeated(factors: Array) -> Order:
    """Numbers of an epoch's pictures in any order: i, and i + N, i + 2N, ... where picture i comes again.

    A factor is rounded up or down at random, by its fraction, in each epoch anew. The roundings are not independent:
    points at equal distances, from a random start on, fall on the factors laid end to end in a random order. So their
    sum is always the same, and with it the length of an epoch, which schedules and resuming count on.
    """
    count, total = len(factors), draws(factors)

    def draw(rng: np.random.Generator) -> Array:
        order = rng.permutation(count)
        ends = factors[order].cumsum()
        points = (np.arange(total) + rng.random()) * (ends[-1] / total)
        places = np.searchsorted(ends, points, side="right").clip(max=count - 1)
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        again = np.arange(total) - np.repeat(starts, np.diff(starts, append=total))
        return rng.permutation(order[places] + count * again)

    return draw


def evenly(count: int) -> Draw:
    """Any of `count` pictures, each as often."""

    return partial(_evenly, count)


def by_factor(factors: Array) -> Draw:
    """Each picture in proportion to its factor."""
    return partial(_by_ends, factors.cumsum())


# Not within the functions above: loader processes get them by pickle.
def _evenly(count: int, rng: np.random.Generator, number: int) -> list[int]:
    # A single number is drawn in another way than an array of one: what a seed gave before stays.
    return [int(rng.integers(count))] if number == 1 else rng.integers(count, size=number).tolist()


def _by_ends(ends: Array, rng: np.random.Generator, number: int) -> list[int]:
    found: list[int] = np.searchsorted(ends, rng.random(number) * ends[-1], side="right").tolist()
    return [min(index, len(ends) - 1) for index in found]
