"""Paired bootstrap over images: intervals that follow from the cases alone, whatever is drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cases import A, B, C, Found, Objects, cut, inputs, random_case

from alignrank.metrics import Diagnosis, Interval, compare, read_inputs

# One object an image. The first detector finds that of image 1, the second both.
OBJECTS: Objects = [(1, 1, A), (2, 1, A)]
FIRST: Found = [(1, 1, A, 0.9)]
SECOND: Found = [(1, 1, A, 0.9), (2, 1, A, 0.8)]


def diagnosis(found: Found, objects: Objects = OBJECTS, images: int = 2) -> Diagnosis:
    return Diagnosis(inputs(objects, found, images=images))


def test_interval_by_hand() -> None:
    """A draw of two images is (2, 0), (1, 1) or (0, 2) with probability 1/4, 1/2, 1/4.

    AP of the first detector: 1, 51/101, 0; of the second always 1. The difference is 0, 50/101 or 1, so in 200 draws
    the 2.5 percentile is 0 and the 97.5 percentile 1 (five draws of each end suffice). Of the whole data it is 50/101.
    LRP: 0, 1/2, 1 against 0: difference -1/2, from -1 to 0. FN the same. Class 2 has no object: undefined.
    """
    result = compare(diagnosis(FIRST), diagnosis(SECOND))
    assert result.replicates == 200
    for name in ("ap", "ap50", "ap_small", "ar100", "rank.ap_oracle"):
        interval = result.figures[name]
        expected = 1 / 2 if name == "ar100" else 50 / 101
        assert interval.difference == pytest.approx(expected, abs=1e-12), name
        assert (interval.low, interval.high) == pytest.approx((0, 1), abs=1e-12), name
    for name in ("lrp", "lrp_fn"):
        interval = result.figures[name]
        assert (interval.difference, interval.low, interval.high) == pytest.approx((-1 / 2, -1, 0), abs=1e-12)
    assert result.per_class[1]["ap"] == result.figures["ap"]
    assert result.per_class[1]["lrp"] == result.figures["lrp"]
    assert result.per_class[2] == {"ap": Interval(None), "lrp": Interval(None)}
    assert result.figures["ap_large"] == Interval(None)


def test_one_image_leaves_nothing_to_draw() -> None:
    """Every draw is the data itself: both ends are the difference. A found at IoU .62: AP .3; at .92: .9."""
    objects: Objects = [(1, 1, A)]
    first, second = (diagnosis([(1, 1, cut(A, iou), 0.9)], objects, images=1) for iou in (0.62, 0.92))
    interval = compare(first, second, replicates=10).figures["ap"]
    assert (interval.difference, interval.low, interval.high) == pytest.approx((0.6, 0.6, 0.6), abs=1e-12)


class Draws:
    """Stands for numpy's generator: gives the listed draws of image indices, one a call."""

    def __init__(self, draws: list[list[int]]) -> None:
        self.draws = iter(draws)

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        assert (low, high, size) == (0, 2, 2)
        return np.array(next(self.draws))


def test_percentiles_of_known_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """41 draws: (2, 0) twice, (1, 1) 37 times, (0, 2) twice: the differences of AP are 0, 0, 50/101 ..., 1, 1.

    The 2.5 and 97.5 percentiles of 41 values in order are the second and the last but one: 0 and 1. With one draw of
    each end and 39 of (1, 1) both are 50/101.
    """
    for ends, expected in ((2, (0, 1)), (1, (50 / 101, 50 / 101))):
        draws = [[0, 0]] * ends + [[0, 1]] * (41 - 2 * ends) + [[1, 1]] * ends
        monkeypatch.setattr(np.random, "default_rng", lambda _, draws=draws: Draws(draws))
        interval = compare(diagnosis(FIRST), diagnosis(SECOND), replicates=41).figures["ap"]
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


def test_draws_depend_on_the_seed() -> None:
    """One replicate: the interval is a point, one of the three differences. Twelve seeds meet all three."""
    met = set()
    for seed in range(12):
        interval = compare(diagnosis(FIRST), diagnosis(SECOND), replicates=1, seed=seed).figures["ap"]
        assert interval.low is not None
        assert interval.low == interval.high
        met.add(round(interval.low, 9))
    assert met == {0.0, round(50 / 101, 9), 1.0}


def test_both_are_measured_on_the_same_draws() -> None:
    """A detector against itself: 0 in every draw. Exchanged: the same interval mirrored. A seed repeats itself."""
    gt, dt = random_case(1)
    first = Diagnosis(read_inputs(gt, dt))
    second = Diagnosis(read_inputs(gt, [row for i, row in enumerate(dt) if i % 3]))
    itself = compare(first, first, replicates=5)
    assert {(i.difference, i.low, i.high) for i in itself.figures.values()} <= {(0, 0, 0), (None, None, None)}
    there, back = compare(first, second, replicates=30), compare(second, first, replicates=30)
    assert there == compare(first, second, replicates=30, seed=0)
    assert there != compare(first, second, replicates=30, seed=1)
    for name in ("ap", "lrp", "rank.spearman", "rank.laece"):
        a, b = there.figures[name], back.figures[name]
        assert None not in (a.difference, a.low, a.high)
        assert (a.difference, a.low, a.high) == pytest.approx((-b.difference, -b.high, -b.low), abs=1e-12)
        assert a.low < a.high


def test_no_interval_where_most_draws_leave_a_figure_undefined() -> None:
    """Six images; objects in two, found with different scores and IoUs. Spearman needs both images in the draw:
    1 - 2 (5/6)^6 + (4/6)^6 = .42 of all draws. AP needs one of them: 1 - (4/6)^6 = .91.
    """
    objects: Objects = [(1, 1, A), (2, 1, A)]
    first = diagnosis([(1, 1, cut(A, 0.8), 0.9), (2, 1, cut(A, 0.6), 0.8)], objects, images=6)
    second = diagnosis([(1, 1, cut(A, 0.8), 0.7), (2, 1, cut(A, 0.6), 0.8)], objects, images=6)
    figures = compare(first, second).figures
    assert figures["rank.spearman"] == Interval(-2.0)
    assert figures["ap"].low is not None


def test_without_replicates_without_images_and_with_progress() -> None:
    result = compare(diagnosis(FIRST), diagnosis(SECOND), replicates=0)
    assert result.figures["ap"] == Interval(pytest.approx(50 / 101))
    nothing = diagnosis([], [], images=0)
    assert compare(nothing, nothing).figures["ap"] == Interval(None)
    calls: list[None] = []
    compare(diagnosis(FIRST), diagnosis(SECOND), replicates=7, advance=lambda: calls.append(None))
    assert len(calls) == 7


def test_needs_the_same_images_and_classes() -> None:
    with pytest.raises(ValueError, match="same ground truth"):
        compare(diagnosis(FIRST), diagnosis(FIRST, images=3))
    with pytest.raises(ValueError, match="same ground truth"):
        compare(diagnosis(FIRST), Diagnosis(inputs(OBJECTS, FIRST, classes=3)))


def test_dictionary_is_ready_for_json() -> None:
    objects: Objects = [(1, 1, A), (1, 2, B), (2, 1, C)]
    result = compare(diagnosis(FIRST, objects), diagnosis(SECOND, objects), replicates=20).to_dict()
    text = json.loads(json.dumps(result, allow_nan=False))
    assert text["replicates"] == 20
    assert set(text["figures"]["ap"]) == {"difference", "low", "high"}
    assert set(text["per_class"]) == {"1", "2"}
    assert set(text["per_class"]["1"]) == {"ap", "lrp"}
    assert "rank.misranked" in text["figures"]
    assert not any(name.startswith("rank_before_nms") for name in text["figures"])
