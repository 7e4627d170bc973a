"""Which mis-ranked objects the report shows first: those that lost most IoU."""

from __future__ import annotations

from alignrank.evaluation.rank_report import _misranked
from alignrank.metrics import Diagnosis, read_inputs


def test_most_iou_lost_comes_first() -> None:
    """Both boxes of the second object fit better than the first one's, which loses more; the third is ranked well."""
    shares = [((0.5, 0.9), (0.7, 0.3)), ((0.85, 0.9), (0.95, 0.3)), ((0.9, 0.9), (0.6, 0.3))]
    truth = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [20 * i, 0, 10, 10], "area": 100, "iscrowd": 0}
            for i in range(3)
        ],
    }
    # A box inside of its object has its share of the area as IoU. Lost: .2, .1 and nothing.
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [20 * i, 0, 10 * iou, 10], "score": score}
        for i, boxes in enumerate(shares)
        for iou, score in boxes
    ]
    assert _misranked(Diagnosis(read_inputs(truth, found))).tolist() == [0, 1]
