"""LaECE, reliability, score densities and unmatched boxes: hand-worked.

Scores lie inside the 25 bins of width .04 (.9 in bin 22, .5 in 12, .7 in 17), away from their edges.
"""

from __future__ import annotations

import numpy as np
import pytest
from cases import FAR, A, B, C, Found, Objects, cut, diagnose

from alignrank.metrics import Diagnosis
from alignrank.metrics.calibration import score_densities, unmatched_overlap

# Class 3 has no object, class 4 no detection.
OBJECTS: Objects = [(1, 1, A), (1, 1, B), (1, 2, C), (2, 4, A)]
FOUND: Found = [
    (1, 1, cut(A, 0.8), 0.9),
    (1, 1, FAR, 0.91),
    (1, 1, cut(B, 0.6), 0.5),
    (1, 2, C, 0.7),
    (2, 3, FAR, 0.3),
]


def test_laece() -> None:
    """Class 1: bin 22 holds .9 (IoU .8) and .91 (false, IoU 0): 2/3 * |.905 - .4| = 1.01/3; bin 12 holds .5 (IoU .6):
    1/3 * .1. Together 1.11 / 3 = .37. Class 2: |.7 - 1| = .3. Classes 3 and 4 stay out. Mean .335.
    """
    diagnosis = diagnose(OBJECTS, FOUND, classes=4)
    assert diagnosis.metrics.rank["laece"] == pytest.approx(0.335, abs=1e-12)


def test_reliability() -> None:
    """All classes together. Bin 22: score .905, IoU .4, two detections; 12: .5 and .6; 17: .7 and 1; 7 (.28 - .32): .3
    and 0, class 3 included. The others are empty.
    """
    score, iou, count = diagnose(OBJECTS, FOUND, classes=4).calibration.reliability()
    filled = {22: (0.905, 0.4, 2), 12: (0.5, 0.6, 1), 17: (0.7, 1.0, 1), 7: (0.3, 0.0, 1)}
    assert len(score) == len(iou) == len(count) == 25
    for i in range(25):
        expected = filled.get(i, (np.nan, np.nan, 0))
        assert (score[i], iou[i], count[i]) == pytest.approx(expected, abs=1e-12, nan_ok=True), i


def test_what_counts_for_calibration() -> None:
    """A found at .9 with IoU .8: |.9 - .8| = .1 alone. A box on a crowd region (.5) is left out; so is one beyond the
    allowance: A again at .3 would make it 1/2 * .1 + 1/2 * .3 = .2.
    """
    objects: Objects = [(1, 1, A), (1, 1, [100, 100, 60, 60], True)]
    found: Found = [(1, 1, cut(A, 0.8), 0.9), (1, 1, [110, 110, 10, 10], 0.5), (1, 1, A, 0.3)]
    assert diagnose(objects, found[:2]).calibration.laece == pytest.approx(0.1, abs=1e-12)
    assert diagnose(objects, found).calibration.laece == pytest.approx(0.2, abs=1e-12)
    assert diagnose(objects, found, max_dets=2).calibration.laece == pytest.approx(0.1, abs=1e-12)


def test_scores_at_and_beyond_the_ends() -> None:
    """Scores 1 and 1.5 fall into the last bin, -.2 into the first: 2/3 * |2.5/2 - 1/2| + 1/3 * .2 = 1.7/3."""
    calibration = diagnose([(1, 1, A)], [(1, 1, A, 1.5), (1, 1, FAR, 1.0), (1, 1, FAR, -0.2)]).calibration
    assert calibration.count[0].tolist() == [1, *[0] * 23, 2]
    assert calibration.laece == pytest.approx(1.7 / 3, abs=1e-12)


def test_laece_undefined() -> None:
    assert diagnose([], [(1, 1, A, 0.5)]).calibration.laece is None
    assert diagnose([(1, 1, A)], []).calibration.laece is None
    assert diagnose([(1, 1, A)], [(1, 2, A, 0.9)]).calibration.laece is None
    # A crowd region is no ground truth.
    assert diagnose([(1, 1, A, True)], [(1, 1, FAR, 0.9)]).calibration.laece is None


def test_laece_of_a_resampled_data_set_leaves_out_classes_without_objects() -> None:
    """Class 1: A in image 1, found at .9 with IoU .8; a false box in image 2 at .5. Class 2: B, image 2, exact, at .7.

    Image 2 alone has no object of class 1, which then stays out: |.7 - 1| = .3.
    Both: class 1: (.1 + .5) / 2 = .3; class 2: .3.
    """
    found: Found = [(1, 1, cut(A, 0.8), 0.9), (2, 1, FAR, 0.5), (2, 2, B, 0.7)]
    diagnosis = diagnose([(1, 1, A), (2, 2, B)], found)
    assert diagnosis.resampled(np.array([1.0, 1.0]))[0]["rank.laece"] == pytest.approx(0.3, abs=1e-12)
    assert diagnosis.resampled(np.array([1.0, 0.0]))[0]["rank.laece"] == pytest.approx(0.1, abs=1e-12)
    assert diagnosis.resampled(np.array([0.0, 1.0]))[0]["rank.laece"] == pytest.approx(0.3, abs=1e-12)


def densities(diagnosis: Diagnosis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return score_densities(diagnosis.matching, diagnosis.matched)


def test_score_densities() -> None:
    """50 bins of .02. Matched: .91 (bin 45) and .31 (bin 15): 1 / (2 * .02) = 25 in each. Unmatched: .91: 50."""
    diagnosis = diagnose([(1, 1, A), (1, 1, B)], [(1, 1, A, 0.91), (1, 1, B, 0.31), (1, 1, FAR, 0.91)])
    edges, matched, unmatched = densities(diagnosis)
    np.testing.assert_allclose(edges, np.arange(51) * 0.02, atol=1e-12)
    expected = np.zeros((2, 50))
    expected[0, [15, 45]] = 25
    expected[1, 45] = 50
    np.testing.assert_allclose([matched, unmatched], expected, rtol=1e-9)


def test_densities_integrate_to_one() -> None:
    """Also where a score lies beyond 0..1: the edges then reach to it. Without unmatched boxes their density is 0."""
    edges, matched, unmatched = densities(diagnose([(1, 1, A), (1, 1, B)], [(1, 1, A, -0.5), (1, 1, B, 3.0)]))
    assert (edges[0], edges[-1]) == (-0.5, 3.0)
    assert matched @ np.diff(edges) == pytest.approx(1, abs=1e-12)
    assert unmatched.tolist() == [0] * 50
    edges, matched, unmatched = densities(diagnose(OBJECTS, FOUND, classes=4))
    assert matched @ np.diff(edges) == pytest.approx(1, abs=1e-12)
    assert unmatched @ np.diff(edges) == pytest.approx(1, abs=1e-12)
    edges, matched, unmatched = densities(diagnose([], []))
    assert (edges[0], edges[-1], matched.sum(), unmatched.sum()) == (0, 1, 0, 0)


def test_unmatched_boxes_and_their_best_iou() -> None:
    """A is matched by .9. Unmatched: A again at IoU .75, at IoU .25, and a box on nothing: IoUs 0, .25, .75.

    The share of IoUs at most x: 1/3 for 0 <= x < .25, 2/3 for .25 <= x < .75, then 1. (1/4 and 3/4 are exact.)
    A box on a crowd region is neither matched nor unmatched.
    """
    found: Found = [(1, 1, A, 0.9), (1, 1, cut(A, 0.75), 0.8), (1, 1, cut(A, 0.25), 0.7), (1, 1, FAR, 0.6)]
    found.append((1, 1, [110, 110, 10, 10], 0.5))
    diagnosis = diagnose([(1, 1, A), (1, 1, [100, 100, 45, 45], True)], found)
    grid, share = unmatched_overlap(diagnosis.overlaps, diagnosis.matching, diagnosis.matched)
    np.testing.assert_allclose(grid, np.arange(101) / 100, atol=1e-12)
    np.testing.assert_allclose(share, [1 / 3] * 25 + [2 / 3] * 50 + [1] * 26, atol=1e-12)


def test_no_unmatched_boxes() -> None:
    diagnosis = diagnose([(1, 1, A)], [(1, 1, A, 0.9)])
    grid, share = unmatched_overlap(diagnosis.overlaps, diagnosis.matching, diagnosis.matched)
    assert (len(grid), len(share)) == (0, 0)
