"""AP with perfect ranking and with perfect suppression: hand-worked at each of the ten IoU thresholds.

IoUs lie between the thresholds .50, .55 ... .95: .62 reaches three of them, .92 reaches nine.
"""

from __future__ import annotations

import pytest
from cases import FAR, A, B, Found, Objects, cut, diagnose, random_case, results, truth

from alignrank.metrics import Diagnosis, evaluate, read_inputs


def test_perfect_ranking() -> None:
    """A: .9 at IoU .62, .8 at IoU .92; and a box on nothing at .95. By score: nothing, .62, .92.

    IoU .50 - .60 (3): F T F, AP 1/2. .65 - .90 (6): F F T, 1/3. .95: 0. AP = (3/2 + 2) / 10 = .35.
    Oracle scores .92, .62, 0: at .50 - .90 (9) the first is true, AP 1; at .95 none: .9. Lost: .55.
    """
    rank = diagnose([(1, 1, A)], [(1, 1, cut(A, 0.62), 0.9), (1, 1, cut(A, 0.92), 0.8), (1, 1, FAR, 0.95)]).metrics.rank
    assert rank["ap_oracle"] == pytest.approx(0.9, abs=1e-12)
    assert rank["ap_lost_ranking"] == pytest.approx(0.55, abs=1e-12)


def test_oracle_scores_are_of_the_own_class_and_of_no_crowd_region() -> None:
    """Class 1: A at .5 with IoU .92. Better-scored boxes of class 1: on B, which is of class 2 (.9), and on a crowd
    region of class 1 (.8), which counts neither way. Class 2: B at .7 exactly.

    Class 1 by score: F (left out) T: AP 1/2 at nine thresholds. Oracle: A's box .92, the two others 0: 1 at nine.
    Class 2: 1. AP = (.45 + 1) / 2, oracle (.9 + 1) / 2, lost .225.
    """
    crowd = [100, 100, 60, 60]
    found: Found = [(1, 1, B, 0.9), (1, 1, [110, 110, 10, 10], 0.8), (1, 1, cut(A, 0.92), 0.5), (1, 2, B, 0.7)]
    rank = diagnose([(1, 1, A), (1, 2, B), (1, 1, crowd, True)], found).metrics.rank
    assert rank["ap_oracle"] == pytest.approx(0.95, abs=1e-12)
    assert rank["ap_lost_ranking"] == pytest.approx(0.225, abs=1e-12)


def test_a_good_box_beyond_the_allowance_comes_back() -> None:
    """One detection an image and class. By score it is the box on nothing: AP 0; by oracle score A's: 1."""
    metrics = evaluate(truth([(1, 1, A)]), results([(1, 1, FAR, 0.9), (1, 1, A, 0.5)]), max_dets=1)
    assert (metrics.ap, metrics.rank["ap_oracle"]) == (0, pytest.approx(1, abs=1e-12))
    assert metrics.rank["ap_lost_ranking"] == pytest.approx(1, abs=1e-12)


def test_of_equal_ious_the_detectors_score_decides() -> None:
    """One detection an image and class; two boxes of A's IoU .5 in class 1: its left half at .4, its right half at .6.

    Both have oracle score .5, the better-scored one stays: either way AP50 1, AP .1, nothing is lost. In image 2, B
    of class 2: two boxes on nothing, oracle scores 0, the true one (IoU .62) wins: AP .3 instead of 0.
    AP = (.1 + 0) / 2, oracle (.1 + .3) / 2.
    """
    found: Found = [
        (1, 1, [0, 0, 5, 10], 0.4),
        (1, 1, [5, 0, 5, 10], 0.6),
        (2, 2, FAR, 0.9),
        (2, 2, [180, 0, 10, 10], 0.8),
        (2, 2, cut(B, 0.62), 0.1),
    ]
    diagnosis = diagnose([(1, 1, A), (2, 2, B)], found, max_dets=1)
    rank = diagnosis.metrics.rank
    assert diagnosis.metrics.ap == pytest.approx(0.05, abs=1e-12)
    assert rank["ap_oracle"] == pytest.approx(0.2, abs=1e-12)
    assert 1 in diagnosis.oracle.order
    assert 0 not in diagnosis.oracle.order


def parts(rank: dict[str, float | None]) -> tuple[float | None, ...]:
    return tuple(rank[f"ap_lost_{part}"] for part in ("within", "between", "false"))


def test_ap_lost_in_parts() -> None:
    """Nothing .95; A .9 at IoU .62 (a1), .7 at IoU .77 (a2); B .8 at IoU .92. Places: F a1 B a2.

    With one of two objects found, precision counts for the share u = 51/101 of recalls. The sums over thresholds:
    as scored  .50-.60 (3): F T T F, 2/3. .65-.75 (3): F F T T, 1/2. .80-.90 (3): F F T F, u/3. .95: 0. In all 3.5 + u.
    within     F a2 B a1. .50-.75 (6): F T T, 2/3. .80-.90: F F T, u/3. In all 4 + u.
    between    First boxes a2, B in places 2, 3: F B a2 a1. .50-.75: 2/3. .80-.90: F T, u/2. In all 4 + 1.5 u.
    all        B a2 a1 F. .50-.75: 1. .80-.90: u. In all 6 + 3 u. AP is a tenth of each.
    """
    found: Found = [(1, 1, FAR, 0.95), (1, 1, cut(A, 0.62), 0.9), (1, 1, cut(B, 0.92), 0.8), (1, 1, cut(A, 0.77), 0.7)]
    metrics = diagnose([(1, 1, A), (1, 1, B)], found).metrics
    half = 51 / 101
    assert metrics.ap == pytest.approx((3.5 + half) / 10, abs=1e-12)
    assert parts(metrics.rank) == pytest.approx((0.05, half / 20, (2 + 1.5 * half) / 10), abs=1e-12)


def test_a_duplicate_follows_a_first_box_that_falls_below_it() -> None:
    """A .9 at IoU .62, .8 at IoU .57; B .7 at IoU .92. Places a1 a2 B; between right: B in 1, a1 in 3, a2 behind it.

    As scored .50-.60 (3): T F T: (51 + 2/3 * 50) / 101 = 253/303. .65-.90 (6): F F T: 1/3 for 51 recalls of 101.
    Between: B a1 a2: 1 at three thresholds, 51/101 at six. Were a2 in place 2, it would find A at .50 and .55, and a1
    would be true at .60 in place 3. By IoU the order is the same: nothing is left.
    """
    found: Found = [(1, 1, cut(A, 0.62), 0.9), (1, 1, cut(A, 0.57), 0.8), (1, 1, cut(B, 0.92), 0.7)]
    diagnosis = diagnose([(1, 1, A), (1, 1, B)], found)
    between = (3 * (1 - 253 / 303) + 6 * (2 / 3) * 51 / 101) / 10
    assert parts(diagnosis.metrics.rank) == pytest.approx((0, between, 0), abs=1e-12)
    assert diagnosis.orders[1].order.tolist() == [2, 0, 1]


def test_duplicates_that_iou_lifts_make_the_rest_negative() -> None:
    """A .9 at IoU .92, .3 at IoU .87; B .8 at IoU .62: objects are in order. By IoU A's second box comes before B.

    .50-.60 (3): T T instead of T F T: 253/303 instead of 1. Above, A alone is found, first either way.
    """
    found: Found = [(1, 1, cut(A, 0.92), 0.9), (1, 1, cut(B, 0.62), 0.8), (1, 1, cut(A, 0.87), 0.3)]
    rank = diagnose([(1, 1, A), (1, 1, B)], found).metrics.rank
    assert parts(rank) == pytest.approx((0, 0, 3 * (253 / 303 - 1) / 10), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_parts_are_of_the_whole(seed: int, ties: bool) -> None:
    """The sum is AP lost to ranking; each of the orders keeps the detections of every class."""
    diagnosis = Diagnosis(read_inputs(*random_case(seed, ties=ties)))
    rank = diagnosis.metrics.rank
    within, between, false = (part or 0 for part in parts(rank))
    assert within + between + false == pytest.approx(rank["ap_lost_ranking"], abs=1e-12)
    assert between > 0
    for matching in diagnosis.orders:
        assert sorted(matching.order) == sorted(diagnosis.matching.order)


def test_perfect_suppression() -> None:
    """A: .9 at IoU .92, .8 at IoU .72. B: .7 exactly. Objects A, B.

    IoU .50 - .90 (9): T F T: precision 1 for 51 recalls, 2/3 for 50: (51 + 100/3) / 101 = 253/303.
    .95: F F T: 1/3 for 51 recalls: 17/101 = 51/303. AP = (9 * 253 + 51) / 3030 = 776/1010.
    Without A's second box: 1 at nine thresholds; at .95 A is not found, so its boxes stay: 17/101.
    ap_suppressed = (9 + 17/101) / 10 = 926/1010, lost 150/1010.
    """
    found: Found = [(1, 1, cut(A, 0.92), 0.9), (1, 1, cut(A, 0.72), 0.8), (1, 1, B, 0.7)]
    metrics = diagnose([(1, 1, A), (1, 1, B)], found).metrics
    assert metrics.ap == pytest.approx(776 / 1010, abs=1e-12)
    assert metrics.rank["ap_suppressed"] == pytest.approx(926 / 1010, abs=1e-12)
    assert metrics.rank["ap_lost_duplicates"] == pytest.approx(150 / 1010, abs=1e-12)


def test_suppression_takes_the_better_scored_box_too() -> None:
    """A: .95 at IoU .62, .9 at IoU .92. IoU .50 - .60: T F, AP 1. .65 - .90: F T, 1/2. .95: 0. AP .6.

    The box that found A stays, whichever it is: 1 at nine thresholds, ap_suppressed .9, lost .3.
    """
    rank = diagnose([(1, 1, A)], [(1, 1, cut(A, 0.62), 0.95), (1, 1, cut(A, 0.92), 0.9)]).metrics.rank
    assert rank["ap_suppressed"] == pytest.approx(0.9, abs=1e-12)
    assert rank["ap_lost_duplicates"] == pytest.approx(0.3, abs=1e-12)


def test_what_is_no_duplicate() -> None:
    """By score: on A in class 2 (.95), A at IoU .4 (.9), on nothing (.8), A exactly (.7). Objects: A of class 1.

    None of the three is a second candidate of A, so nothing is suppressed: F F T in class 1, AP 1/3 with and without.
    """
    objects: Objects = [(1, 1, A)]
    found: Found = [(1, 2, A, 0.95), (1, 1, cut(A, 0.4), 0.9), (1, 1, FAR, 0.8), (1, 1, A, 0.7)]
    rank = diagnose(objects, found).metrics.rank
    assert rank["ap_suppressed"] == pytest.approx(1 / 3, abs=1e-12)
    assert rank["ap_lost_duplicates"] == 0


def test_a_box_between_an_object_and_a_crowd_region_is_no_duplicate() -> None:
    """A exactly (.9). Scored .95, a box 5 px to the right: IoU 1/3 with A, 6.2 of its 10 px in a crowd region.

    IoU .50 - .60 (3): it is left out, T: 1. From .65 on (7): F T, 1/2. AP .65. It is no candidate of A: nothing is
    suppressed.
    """
    objects: Objects = [(1, 1, A), (1, 1, [8.8, 0, 50, 10], True)]
    metrics = diagnose(objects, [(1, 1, [5, 0, 10, 10], 0.95), (1, 1, A, 0.9)]).metrics
    assert metrics.ap == pytest.approx(0.65, abs=1e-12)
    assert metrics.rank["ap_suppressed"] == pytest.approx(0.65, abs=1e-12)


def test_undefined_without_objects() -> None:
    rank = diagnose([], [(1, 1, A, 0.5)]).metrics.rank
    assert [rank[name] for name in ("ap_oracle", "ap_lost_ranking", "ap_suppressed", "ap_lost_duplicates")] == [
        None
    ] * 4
    assert parts(rank) == (None,) * 3
    nothing = diagnose([(1, 1, A)], []).metrics.rank
    assert [nothing[name] for name in ("ap_oracle", "ap_lost_ranking", "ap_lost_duplicates")] == [0, 0, 0]
