"""AP50 lost by kind of error: each kind alone, then together, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from cases import FAR, A, B, C, D, E, Found, Objects, cut, diagnose

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")


def errors(objects: Objects, found: Found, classes: int = 2, **options: Any) -> dict[str, dict[str, Any]]:
    return diagnose(objects, found, classes=classes, **options).metrics.errors


def check(result: dict[str, dict[str, Any]], **expected: tuple[int, float]) -> None:
    """expected: {kind: (count, ap_lost)}, (0, 0) where left out. The shares must be those of the sum."""
    assert tuple(result) == KINDS
    total = sum(lost for _, lost in expected.values())
    for kind, row in result.items():
        count, lost = expected.get(kind, (0, 0.0))
        assert row["count"] == count, kind
        assert row["ap_lost"] == pytest.approx(lost, abs=1e-12), kind
        assert row["share"] == (pytest.approx(lost / total, abs=1e-12) if total else None), kind


def test_classification() -> None:
    """A of class 1, B of class 2. By score: A as class 2 (.9), B as class 2 (.8).

    AP50 of class 1: 0; of class 2: F T, 1/2. Mean 1/4. With the first box of class 1: 1 and 1. Lost 3/4.
    A is aimed at, so it is not missed.
    """
    check(errors([(1, 1, A), (1, 2, B)], [(1, 2, A, 0.9), (1, 2, B, 0.8)]), classification=(1, 3 / 4))


def test_localization() -> None:
    """A at IoU .4 (.9), B exactly (.8): F T of two objects: 1/2 for the 51 recalls up to .5. Put right: T T."""
    check(errors([(1, 1, A), (1, 1, B)], [(1, 1, cut(A, 0.4), 0.9), (1, 1, B, 0.8)]), localization=(1, 1 - 51 / 202))


def test_both() -> None:
    """A of class 1, B of class 2. By score: A at IoU .4 as class 2 (.9), B (.8). AP50 (0 + 1/2) / 2 = 1/4.

    Without the first box (0 + 1) / 2: lost 1/4. Nothing aims at A, which is missed: were it not asked for, class 1
    would have no object and AP50 would be 1/2: lost 1/4.
    """
    found: Found = [(1, 2, cut(A, 0.4), 0.9), (1, 2, B, 0.8)]
    check(errors([(1, 1, A), (1, 2, B)], found), both=(1, 1 / 4), missed=(1, 1 / 4))


def test_duplicate() -> None:
    """A (.9), A again at IoU .8 (.8), B (.7): T F T: (51 + 50 * 2/3) / 101 = 253/303. Without the second: 1."""
    found: Found = [(1, 1, A, 0.9), (1, 1, cut(A, 0.8), 0.8), (1, 1, B, 0.7)]
    check(errors([(1, 1, A), (1, 1, B)], found), duplicate=(1, 50 / 303))


def test_background() -> None:
    """A box on nothing (.9), A (.8): F T, 1/2. Without the first: 1."""
    check(errors([(1, 1, A)], [(1, 1, FAR, 0.9), (1, 1, A, 0.8)]), background=(1, 1 / 2))


def test_missed() -> None:
    """A found, B not: 51/101. Were B not asked for: 1."""
    check(errors([(1, 1, A), (1, 1, B)], [(1, 1, A, 0.9)]), missed=(1, 50 / 101))


def test_all_missed() -> None:
    """Without detections AP50 is 0, and would be 1 if nothing were asked for."""
    check(errors([(1, 1, A), (1, 1, B)], []), missed=(2, 1.0))


def test_no_error_and_no_ground_truth() -> None:
    check(errors([(1, 1, A)], [(1, 1, A, 0.9)]))
    nothing = errors([], [(1, 1, A, 0.9)])
    assert nothing["background"] == {"count": 1, "ap_lost": None, "share": None}
    assert all(row["ap_lost"] is None for row in nothing.values())


def test_together() -> None:
    """Class 1: A, B, C. Class 2: D. By score: A as class 1 (.9), A again at IoU .6 (.8), B at IoU .2 (.7), D as class 1
    (.6), a box on nothing (.5), A at IoU .3 as class 2 (.4).

    Class 1: T F F F F, one of three found: precision 1 for the 34 recalls up to 1/3: 34/101. Class 2: F: 0.
    AP50 = 17/101. Each put right, class 1 and class 2:
    duplicate: T F F F. 34/101, 0: lost 0.
    localization: T F T F F: recall 2/3 reaches 67 recalls, the 33 new ones at precision 2/3: (34 + 22) / 101, 0:
    lost 11/101.
    classification: class 1 unchanged (34/101), class 2: T (.6) F: 1. Lost 1/2.
    both, background: 34/101, 0: lost 0. missed: C (B and D are aimed at): of two objects one is found: 51/101, 0: lost
    8.5/101.
    """
    found: Found = [
        (1, 1, A, 0.9),
        (1, 1, cut(A, 0.6), 0.8),
        (1, 1, cut(B, 0.2), 0.7),
        (1, 1, D, 0.6),
        (1, 1, FAR, 0.5),
        (1, 2, cut(A, 0.3), 0.4),
    ]
    result = errors([(1, 1, A), (1, 1, B), (1, 1, C), (1, 2, D)], found)
    check(
        result,
        classification=(1, 1 / 2),
        localization=(1, 11 / 101),
        both=(1, 0.0),
        duplicate=(1, 0.0),
        background=(1, 0.0),
        missed=(1, 8.5 / 101),
    )


def test_limits_are_included() -> None:
    """IoUs .5, .25 and 1/8 are exact in binary; .1 = 10/100 comes out as the float .1.

    Objects A to C of class 1, D and E of class 2. Class 2 on A at .5: classification; class 1 on B at .1:
    localization; class 2 on C at .1: both; class 1 on D at .09: background. .49 of E as class 1: both.
    B and A are aimed at; C, D, E are missed.
    """
    found: Found = [
        (1, 2, cut(A, 0.5), 0.9),
        (1, 1, [20, 0, 1, 10], 0.8),
        (1, 2, [40, 0, 1, 10], 0.7),
        (1, 1, cut(D, 0.09), 0.6),
        (1, 1, cut(E, 0.49), 0.5),
    ]
    result = errors([(1, 1, A), (1, 1, B), (1, 1, C), (1, 2, D), (1, 2, E)], found)
    assert {kind: row["count"] for kind, row in result.items()} == {
        "classification": 1,
        "localization": 1,
        "both": 2,
        "duplicate": 0,
        "background": 1,
        "missed": 3,
    }


def test_the_first_rule_that_holds_decides() -> None:
    """Class 1: A and Q, 5 px below it (IoU 1/3). Class 2: P at A's place.

    Of class 1: A exactly (.9) is true. A's upper 8 px (.8): s = .8, o = .8 with P: duplicate before classification.
    Of class 2: P (.7) is true. P's upper 8 px (.6): duplicate, though A is there. Class 1 again, Q moved down 4 px
    (.5): s = 6/14 = .43 with Q, o with P below .1: localization.
    """
    q = [0, 5, 10, 10]
    found: Found = [
        (1, 1, A, 0.9),
        (1, 1, [0, 0, 10, 8], 0.8),
        (1, 2, A, 0.7),
        (1, 2, [0, 0, 10, 8], 0.6),
        (1, 1, [0, 9, 10, 10], 0.5),
    ]
    result = errors([(1, 1, A), (1, 1, q), (1, 2, A)], found)
    assert {kind: row["count"] for kind, row in result.items() if row["count"]} == {"duplicate": 2, "localization": 1}
    # s = .4 and o = .6: classification comes before localization. R of class 2 lies 4 px to the right of B.
    r = [24, 0, 10, 10]
    between = [(1, 1, [26, 0, 10, 10], 0.9)]  # 4/16 with B, 8/12 with R
    result = errors([(1, 1, B), (1, 2, r)], between)
    assert {kind: row["count"] for kind, row in result.items() if row["count"]} == {"classification": 1, "missed": 1}


def test_only_the_best_scored_of_several_is_put_right_and_only_on_an_object_not_found() -> None:
    """A is aimed at by two boxes of IoU .4 (.9) and .3 (.8), between them a box on nothing (.85); B is found (.7) and
    hit at IoU .2 (.6); C is missed.

    F F F T F of three objects: precision 1/4 for 34 recalls: 8.5/101. Put right: T (.9) F (.85) T (.7), the other two
    gone: 1 for 34 recalls, 2/3 for 33: 56/101. Without the box on nothing F F T F: (34/3)/101. Without C, one of two:
    1/4 for 51 recalls.
    """
    found: Found = [
        (1, 1, cut(A, 0.4), 0.9),
        (1, 1, FAR, 0.85),
        (1, 1, cut(A, 0.3), 0.8),
        (1, 1, B, 0.7),
        (1, 1, cut(B, 0.2), 0.6),
    ]
    check(
        errors([(1, 1, A), (1, 1, B), (1, 1, C)], found),
        localization=(3, 47.5 / 101),
        background=(1, (34 / 3 - 8.5) / 101),
        missed=(1, (51 - 34) / 404),
    )


def test_put_right_a_box_keeps_its_score_in_its_new_class() -> None:
    """Class 1: A, B. Class 2: C. As class 2: A (.5), C (.9). As class 1: a box on nothing (.7), B (.6).

    Class 1: F T of two: 1/2 for 51 recalls, 51/202. Class 2: T F: 1. With A's box in class 1: F T T: 1/2 at recall
    1/2, 2/3 at recall 1, so 2/3 throughout; class 2: 1. Lost (2/3 - 51/202) / 2.
    Without the box on nothing class 1 is T of two: 51/101. Lost 51/404.
    """
    found: Found = [(1, 2, A, 0.5), (1, 2, C, 0.9), (1, 1, FAR, 0.7), (1, 1, B, 0.6)]
    result = errors([(1, 1, A), (1, 1, B), (1, 2, C)], found)
    check(result, classification=(1, (2 / 3 - 51 / 202) / 2), background=(1, 51 / 404))


def test_crowd_regions_and_the_allowance_are_left_out() -> None:
    """A found (.9). On a crowd region: a box of its class (.8) counts neither way; one of class 2 (.7) is background,
    as a crowd region is nobody's object. The region is not missed. With one detection an image and class the copy of
    A (.6) does not count.
    """
    objects: Objects = [(1, 1, A), (1, 1, [100, 100, 45, 45], True)]
    region = [100, 100, 40, 45]
    found: Found = [(1, 1, A, 0.9), (1, 1, region, 0.8), (1, 2, region, 0.7), (1, 1, A, 0.6)]
    counts = {kind: row["count"] for kind, row in errors(objects, found).items() if row["count"]}
    assert counts == {"background": 1, "duplicate": 1}
    counts = {kind: row["count"] for kind, row in errors(objects, found, max_dets=1).items() if row["count"]}
    assert counts == {"background": 1}
