"""Do scores rank boxes by fit? Each figure worked by hand: correlations, order among candidates, and NMS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import FAR, A, B, C, D, E, F, Found, Objects, cut, diagnose, inputs, random_case, results, truth

from alignrank.metrics import evaluate
from alignrank.metrics.overlaps import pair_iou

CORRELATIONS = ("spearman", "kendall", "pearson")


def test_correlation_of_score_and_iou() -> None:
    """One candidate each, by score: A .9 at IoU .8, B .8 at .9, C .7 at .6, D .6 at .7; and .95 on nothing.

    Ranks of scores 4 3 2 1, of IoUs 3 4 1 2: d^2 = 1 each, Spearman 1 - 6 * 4 / (4 * 15) = .6.
    Of 6 pairs (A, B) and (C, D) are discordant: Kendall (4 - 2) / 6 = 1/3.
    Deviations from .75: .15 .05 -.05 -.15 and .05 .15 -.15 -.05: Pearson .03 / .05 = .6.
    """
    found = [(1, 1, FAR, 0.95)] + [
        (1, 1, cut(box, iou), score) for box, iou, score in ((A, 0.8, 0.9), (B, 0.9, 0.8), (C, 0.6, 0.7), (D, 0.7, 0.6))
    ]
    rank = diagnose([(1, 1, box) for box in (A, B, C, D)], found).metrics.rank
    assert rank["spearman"] == pytest.approx(0.6, abs=1e-12)
    assert rank["kendall"] == pytest.approx(1 / 3, abs=1e-12)
    assert rank["pearson"] == pytest.approx(0.6, abs=1e-12)


def test_correlation_with_ties() -> None:
    """A .9 at IoU .8, B .9 at .6, C .5 at .6. Average ranks: scores 2.5 2.5 1, IoUs 3 1.5 1.5; deviations from 2:
    .5 .5 -1 and 1 -.5 -.5. Spearman (.5 - .25 + .5) / 1.5 = .5.
    Kendall's tau-b: (A, C) concordant, the two other pairs tie in one of the two: 1 / sqrt(2 * 2) = .5.
    Pearson: deviations 2/15 * (1, 1, -2) and 1/15 * (2, -1, -1): (2 - 1 + 2) / (sqrt 6 * sqrt 6) = .5.
    """
    found = [(1, 1, cut(A, 0.8), 0.9), (1, 1, cut(B, 0.6), 0.9), (1, 1, cut(C, 0.6), 0.5)]
    rank = diagnose([(1, 1, box) for box in (A, B, C)], found).metrics.rank
    assert [rank[name] for name in CORRELATIONS] == pytest.approx([0.5] * 3, abs=1e-12)


@pytest.mark.parametrize(
    "found",
    [
        [(1, 1, A, 0.9)],
        [(1, 1, A, 0.9), (1, 1, cut(B, 0.6), 0.9)],
        [(1, 1, A, 0.9), (1, 1, B, 0.5)],
        [(1, 1, A, 0.9), (1, 1, cut(A, 0.4), 0.5)],
    ],
    ids=["one detection", "scores equal", "IoUs equal", "one candidate"],
)
def test_correlation_undefined(found: Found) -> None:
    rank = diagnose([(1, 1, A), (1, 1, B)], found).metrics.rank
    assert [rank[name] for name in CORRELATIONS] == [None] * 3


def test_correlation_over_candidates_and_over_true_detections() -> None:
    """A: .9 at IoU .6, .7 at IoU .9. B: .8 at IoU .8. All three are candidates: ranks of scores 3 1 2, of IoUs 1 3 2:
    Spearman and Kendall -1. The true ones are A's .9 and B's .8: ranks 2 1 and 1 2: -1 as well; with B at .95 they are
    in order, 1, while over the candidates ranks 2 1 3 and 1 3 2 give 1 - 6 * (1 + 4 + 1) / (3 * 8) = -.5.
    One true detection has no correlation.
    """
    objects: Objects = [(1, 1, A), (1, 1, B)]
    found: Found = [(1, 1, cut(A, 0.6), 0.9), (1, 1, cut(A, 0.9), 0.7)]
    rank = diagnose(objects, [*found, (1, 1, cut(B, 0.8), 0.8)]).metrics.rank
    assert (rank["spearman"], rank["kendall"], rank["spearman_true"]) == pytest.approx((-1, -1, -1), abs=1e-12)
    rank = diagnose(objects, [*found, (1, 1, cut(B, 0.8), 0.95)]).metrics.rank
    assert (rank["spearman"], rank["spearman_true"]) == pytest.approx((-0.5, 1), abs=1e-12)
    rank = diagnose(objects, found).metrics.rank
    assert (rank["spearman"], rank["spearman_true"]) == (pytest.approx(-1), None)


def test_correlation_over_true_detections_by_class() -> None:
    """Class 1: A .9 at IoU .9, B .8 at .8: in order, 1. Class 2: C .5 at .7, D .4 at .6 and E .3 at .65: ranks 3 2 1
    and 3 1 2: 1 - 6 * 2 / 24 = .5. Mean .75. Class 3 has one: undefined, left out.

    All six: with F .1 at .95, ranks of scores 6 5 4 3 2 1, of IoUs 5 4 3 1 2 6: d^2 = 1 1 1 4 0 25, 1 - 6 * 32 / 210.
    """
    objects: Objects = [(1, 1, A), (1, 1, B), (1, 2, C), (1, 2, D), (1, 2, E), (1, 3, F)]
    rows = ((A, 0.9, 0.9), (B, 0.8, 0.8), (C, 0.7, 0.5), (D, 0.6, 0.4), (E, 0.65, 0.3), (F, 0.95, 0.1))
    found: Found = [(1, o[1], cut(box, iou), s) for o, (box, iou, s) in zip(objects, rows, strict=True)]
    diagnosis = diagnose(objects, found, classes=3)
    metrics = diagnosis.metrics
    assert [metrics.per_class[k]["spearman_true"] for k in (1, 2, 3)] == [pytest.approx(1), pytest.approx(0.5), None]
    assert metrics.rank["spearman_true_class_mean"] == pytest.approx(0.75, abs=1e-12)
    assert metrics.rank["spearman_true"] == pytest.approx(1 - 6 * 32 / 210, abs=1e-12)
    # Class 2 scored higher as a whole moves the pooled figure alone.
    higher: Found = [(*row[:3], row[3] + 0.5 * (row[1] == 2)) for row in found]
    moved = diagnose(objects, higher, classes=3).metrics.rank
    assert moved["spearman_true_class_mean"] == pytest.approx(0.75, abs=1e-12)
    assert moved["spearman_true"] != pytest.approx(metrics.rank["spearman_true"])


def test_correlation_undefined_where_boxes_are_equal_up_to_rounding() -> None:
    """Three boxes that are those of their objects: every IoU is 1, so nothing can be ranked by it.

    (.1 + .7) - .1 is not .7 in floating point, so the IoUs as computed differ in the last digit.
    """
    boxes = [[0.1, 0.7, 0.7, 0.3], [20.3, 0.1, 5.7, 9.1], [40.7, 33.3, 1.1, 7.7]]
    found = [(1, 1, box, score) for box, score in zip(boxes, (0.9, 0.8, 0.7), strict=True)]
    rank = diagnose([(1, 1, box) for box in boxes], found).metrics.rank
    assert [rank[name] for name in CORRELATIONS] == [None] * 3


# A's best box is scored second, B's boxes tie, C has only a box of IoU .4, which is no candidate.
CROWDED: Found = [
    (1, 1, cut(A, 0.6), 0.9),
    (1, 1, cut(A, 0.9), 0.8),
    (1, 1, cut(A, 0.8), 0.7),
    (1, 1, B, 0.6),
    (1, 1, cut(B, 0.7), 0.6),
    (1, 1, cut(C, 0.4), 0.5),
]
ABC: Objects = [(1, 1, A), (1, 1, B), (1, 1, C)]


@pytest.mark.parametrize(("gap", "expected"), [(0.05, 2.5 / 4), (0.15, 2.5 / 3), (0.25, 1.5 / 2), (0.35, 0.0)])
def test_misranked(gap: float, expected: float) -> None:
    """A's IoUs .6 .9 .8 at scores .9 .8 .7: pairs (.6, .9) wrong, gap .3; (.6, .8) wrong, gap .2; (.9, .8) right, gap
    .1. B's 1, .7 at equal scores: half wrong, gap .3. C has no candidate.

    gap .05: (2 + .5) / (3 + 1) = .625; .15: (2 + .5) / (2 + 1); .25: (1 + .5) / (1 + 1); .35: no pair, 0.
    """
    assert diagnose(ABC, CROWDED, gap=gap).metrics.rank["misranked"] == pytest.approx(expected, abs=1e-12)


def test_pairs_need_a_gap_above_the_bound() -> None:
    """A: IoU .5 scored .9, IoU .75 scored .8, exact in binary: their gap is .25, not above .25, but above .24."""
    found = [(1, 1, cut(A, 0.5), 0.9), (1, 1, cut(A, 0.75), 0.8)]
    assert diagnose([(1, 1, A)], found, gap=0.25).metrics.rank["misranked"] == 0
    assert diagnose([(1, 1, A)], found, gap=0.24).metrics.rank["misranked"] == 1
    # The default is .05: .60 and .64 have no order, .60 and .66 have one.
    for second, expected in ((0.64, 0), (0.66, 1)):
        found = [(1, 1, cut(A, 0.6), 0.9), (1, 1, cut(A, second), 0.8)]
        assert evaluate(truth([(1, 1, A)]), results(found)).rank["misranked"] == expected


def test_misranked_after_the_same_suppression() -> None:
    """A: .9 at IoU .7, its left part; .8 at IoU .9, its left part, so IoU .7/.9 with the first; .7 at IoU .6, its right
    part: with the first .3, with the second .5/1. Pairs (.7, .9) wrong, (.7, .6) and (.9, .6) right: 1/3.

    At .65 the second is dropped: one pair, right: 0. Cut to .5, the first has 5/9 with the second, which stays.
    Then (.5, .9) and (.5, .6) are wrong: 2/3.
    """
    right = [4, 0, 6, 10]
    for first, before, after in ((0.7, 1 / 3, 0), (0.5, 2 / 3, 2 / 3)):
        found: Found = [(1, 1, cut(A, first), 0.9), (1, 1, cut(A, 0.9), 0.8), (1, 1, right, 0.7)]
        rank = diagnose([(1, 1, A)], found).metrics.rank
        assert (rank["misranked"], rank["misranked_nms65"]) == pytest.approx((before, after), abs=1e-12)
    nothing = diagnose([(1, 1, A)], [(1, 1, cut(A, 0.4), 0.5)]).metrics.rank
    assert nothing["misranked_nms65"] is None


def test_what_was_dropped_drops_nothing() -> None:
    """.9 at IoU .6, .8 at .8, .7 at 1, left parts: .9 drops .8 (.75), not .7 (.6); .8 would drop .7 (.8).

    Left are .6 and 1, in the wrong order.
    """
    found: Found = [(1, 1, cut(A, 0.6), 0.9), (1, 1, cut(A, 0.8), 0.8), (1, 1, A, 0.7)]
    assert diagnose([(1, 1, A)], found).metrics.rank["misranked_nms65"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_suppression_before_the_evaluation_changes_nothing(seed: int) -> None:
    """Plain loops suppress at .65: then both figures are the one that was measured without."""
    gt, dt = random_case(seed)
    kept: list[dict[str, Any]] = []
    for row in sorted(dt, key=lambda row: -row["score"]):
        rivals = [k for k in kept if (k["image_id"], k["category_id"]) == (row["image_id"], row["category_id"])]
        boxes = np.array([[*row["bbox"]]] * len(rivals)).reshape(-1, 4)
        if not (pair_iou(boxes, np.array([k["bbox"] for k in rivals]).reshape(-1, 4)) > 0.65).any():
            kept.append(row)
    assert len(kept) < len(dt)
    before, after = evaluate(gt, dt).rank, evaluate(gt, kept).rank
    assert before["misranked_nms65"] == after["misranked_nms65"] == after["misranked"]


def test_best_box_missed_and_iou_lost() -> None:
    """A: the best-scored candidate has IoU .6, the best has .9: missed, .3 lost. B: two are best-scored, of IoU 1 and
    .7, one of them the best: half missed, 1 - (1 + .7) / 2 = .15 lost. C has no candidate and stays out.

    best_box_missed = (1 + .5) / 2 = .75, iou_lost = (.3 + .15) / 2 = .225.
    """
    rank = diagnose(ABC, CROWDED).metrics.rank
    assert rank["best_box_missed"] == pytest.approx(0.75, abs=1e-12)
    assert rank["iou_lost"] == pytest.approx(0.225, abs=1e-12)


def test_best_box_is_not_missed_where_two_are_equally_good() -> None:
    """Moved 2 px to the left or to the right, a box of 10 x 10 has IoU 8/12 either way: whichever scores more is best.

    The second object's place makes the two IoUs differ in the last digit as computed.
    """
    for x, y in ((20.0, 0.0), (14.4, 72.4)):
        found = [(1, 1, [x - 2, y, 10, 10], 0.9), (1, 1, [x + 2, y, 10, 10], 0.8)]
        rank = diagnose([(1, 1, [x, y, 10, 10])], found).metrics.rank
        assert rank["iou_lost"] == pytest.approx(0, abs=1e-12)
        assert rank["best_box_missed"] == 0, (x, y)


def test_a_candidate_belongs_to_the_object_it_fits_best() -> None:
    """Objects P = A and Q, 2 px to the right of it: IoU 8/12. Boxes: P's .9, Q's .8, and Q's cut to IoU .8 at .7.

    Each box overlaps both objects by more than .5, but is the candidate of one. P has one candidate. Q has two, the
    pair is in order. Were P's box counted for Q too (IoU 2/3, scored .9), Q's pairs and best box would be wrong.
    """
    q = [2, 0, 10, 10]
    rank = diagnose([(1, 1, A), (1, 1, q)], [(1, 1, A, 0.9), (1, 1, q, 0.8), (1, 1, cut(q, 0.8), 0.7)]).metrics.rank
    assert (rank["misranked"], rank["best_box_missed"], rank["iou_lost"]) == (0, 0, 0)


def test_who_is_no_candidate() -> None:
    """A's one candidate: .5 at IoU .8. Not: another class's box (.9), one of IoU .4 (.8), and on the crowd region
    over C and D a box (.7). With IoU .5 a box counts: B's one, .6.

    Neither object has a pair, so misranked is 0; nothing is missed.
    """
    objects: Objects = [(1, 1, A), (1, 1, B), (1, 1, [40, 0, 30, 10], True)]
    found: Found = [
        (1, 2, cut(A, 0.6), 0.9),
        (1, 1, cut(A, 0.4), 0.8),
        (1, 1, [40, 0, 28, 10], 0.7),
        (1, 1, cut(B, 0.5), 0.6),
        (1, 1, cut(A, 0.8), 0.5),
    ]
    diagnosis = diagnose(objects, found)
    assert diagnosis.candidates.num.tolist() == [1, 1, 0]
    rank = diagnosis.metrics.rank
    assert (rank["misranked"], rank["best_box_missed"], rank["iou_lost"]) == (0, 0, 0)
    none = diagnose(objects, found[:2]).metrics.rank
    assert (none["misranked"], none["best_box_missed"], none["iou_lost"]) == (None, None, None)


def test_only_counted_detections_are_candidates() -> None:
    """A: .9 at IoU .6, .8 at IoU .9. With one detection an image and class, the second does not exist."""
    found = [(1, 1, cut(A, 0.6), 0.9), (1, 1, cut(A, 0.9), 0.8)]
    assert diagnose([(1, 1, A)], found).metrics.rank["best_box_missed"] == 1
    one = diagnose([(1, 1, A)], found, max_dets=1).metrics.rank
    assert (one["best_box_missed"], one["misranked"]) == (0, 0)


def test_by_class_and_by_size() -> None:
    """Class 1, small: A .9 at IoU .8, B .8 at .6; A has a second, worse-scored and better box (.7 at .9): missed, .1
    lost, its pair wrong. Ranks 3 2 1 and 2 1 3: Spearman 1 - 6 * 6 / 24 = -.5; one pair of three in order: Kendall
    -1/3; deviations .1 0 -.1 and 1/30 * (1, -5, 4): Pearson -.01 / sqrt(.02 * 42/900).
    Class 2, 40 x 40 px = 1600 px^2, medium: G .9 at IoU .6, H .8 at .8: reversed, correlation -1; one candidate each,
    nothing missed.

    Class 1: misranked 1 of 1, best_box_missed 1/2, iou_lost .05. Class 2: 0, 0, 0. Nothing is large.
    """
    g, h = [0, 50, 40, 40], [50, 50, 40, 40]
    found: Found = [
        (1, 1, cut(A, 0.8), 0.9),
        (1, 1, cut(B, 0.6), 0.8),
        (1, 1, cut(A, 0.9), 0.7),
        (1, 2, cut(g, 0.6), 0.9),
        (1, 2, cut(h, 0.8), 0.8),
    ]
    metrics = diagnose([(1, 1, A), (1, 1, B), (1, 2, g), (1, 2, h)], found).metrics
    expected = {"misranked": 1, "best_box_missed": 0.5, "iou_lost": 0.05}
    expected |= {"spearman": -0.5, "kendall": -1 / 3, "pearson": -0.01 / (0.02 * 42 / 900) ** 0.5}
    assert metrics.rank_by_size["small"] == pytest.approx(expected, abs=1e-12)
    assert {name: metrics.per_class[1][name] for name in expected} == pytest.approx(expected, abs=1e-12)
    expected = dict.fromkeys(("misranked", "best_box_missed", "iou_lost"), 0) | dict.fromkeys(CORRELATIONS, -1)
    assert metrics.rank_by_size["medium"] == pytest.approx(expected, abs=1e-12)
    assert {name: metrics.per_class[2][name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert metrics.rank_by_size["large"] == dict.fromkeys(expected)


def test_before_and_after_suppression() -> None:
    """Candidates before NMS: A .9 at IoU .6 and .5 at IoU .8; B .8 at .7; C .7 at .9. NMS keeps A's .9 and B's .8.

    Before: one pair, wrong: misranked 1. A's best box is missed: 1/3; .2 / 3 lost.
    Suppressed: A's best box was dropped and a worse one kept: 1 of 3. B's is kept. C lost all its boxes: not counted.
    After: one candidate each, nothing missed.
    """
    before: Found = [(1, 1, cut(A, 0.6), 0.9), (1, 1, cut(B, 0.7), 0.8), (1, 1, cut(C, 0.9), 0.7)]
    before.append((1, 1, cut(A, 0.8), 0.5))
    metrics = diagnose(ABC, before[:2], before_nms=inputs(ABC, before)).metrics
    expected = {"misranked": 1, "best_box_missed": 1 / 3, "iou_lost": 0.2 / 3, "suppressed": 1 / 3}
    assert metrics.rank_before_nms == pytest.approx(expected, abs=1e-12)
    assert (metrics.rank["misranked"], metrics.rank["best_box_missed"], metrics.rank["iou_lost"]) == (0, 0, 0)
    assert metrics.scalars()["rank_before_nms.suppressed"] == pytest.approx(1 / 3)


def test_suppression_of_the_better_scored_or_of_nothing() -> None:
    """Before: A .9 at IoU .9, .5 at IoU .6. Kept the worse: suppressed 1. Kept both, or the better: 0. Kept none: 0.
    Nothing before: None.
    """
    objects: Objects = [(1, 1, A)]
    before: Found = [(1, 1, cut(A, 0.9), 0.9), (1, 1, cut(A, 0.6), 0.5)]
    for kept, expected in ((before[1:], 1), (before, 0), (before[:1], 0), ([], 0)):
        rank = diagnose(objects, kept, before_nms=inputs(objects, before)).metrics.rank_before_nms
        assert rank is not None
        assert rank["suppressed"] == expected
    nothing = diagnose(objects, [], before_nms=inputs(objects, [])).metrics.rank_before_nms
    assert nothing == dict.fromkeys(("misranked", "best_box_missed", "iou_lost", "suppressed"))
    assert diagnose(objects, []).metrics.rank_before_nms is None
