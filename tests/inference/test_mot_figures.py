"""MOTA and IDF1 of the benchmark of tracking, worked by hand; and of tracks of a made video."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from blobs import detector, painted

from alignrank.inference.options import PredictOptions, TrackOptions
from alignrank.inference.predict import predict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from mot_figures import Frame, mot_figures


def frame(**places: float) -> Frame:
    """Squares of 10 px by id, `_7=30` at x = 30."""
    boxes = [[x, 0, x + 10, 10] for x in places.values()]
    return [int(name[1:]) for name in places], torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def test_worked() -> None:
    """Object 1 changes from track 7 to 8, object 2 is missed once, and one track is of nothing: 1 - 3 / 6. Objects are
    with tracks 7 and 9 in 2 frames each: 2 x 4 / (6 + 6).
    """
    truth = [frame(_1=0, _2=50)] * 3
    found = [frame(_7=1, _9=50), frame(_7=0), frame(_8=0, _9=51, _10=90)]
    figures = mot_figures(truth, found)
    assert (figures.objects, figures.misses, figures.false, figures.switches) == (6, 1, 1, 1)
    assert figures.mota == pytest.approx(0.5)
    assert figures.idf1 == pytest.approx(8 / 12)


def test_an_object_stays_with_its_track_while_that_fits() -> None:
    """Moved by 3 px the IoU is 7 / 13, above .5; another track that fits better is a false one."""
    truth = [frame(_1=0), frame(_1=0)]
    figures = mot_figures(truth, [frame(_7=0), frame(_7=3, _8=0)])
    assert (figures.misses, figures.false, figures.switches) == (0, 1, 0)
    moved = mot_figures(truth, [frame(_7=0), frame(_7=4, _8=0)])
    assert (moved.misses, moved.false, moved.switches) == (0, 1, 1), "at 6 / 14 it does not fit any more"


def test_nothing_found_and_nothing_there() -> None:
    assert mot_figures([frame(_1=0)], [frame()]).mota == 0
    assert mot_figures([frame()], [frame()]).mota == 1
    assert mot_figures([frame()], [frame(_1=0)]).idf1 == 0


@pytest.mark.parametrize("tracker", ["bytetrack", "ocsort", "sort"])
def test_a_made_sequence(tracker: str) -> None:
    """Three squares of one class on crossing paths; the first frame of each is before its id."""
    pytest.importorskip("trackers", reason="needs the extra track")
    truth, images = [], []
    for i in range(30):
        boxes = [(5 + 5 * i, 10, 35 + 5 * i, 40), (150 - 4 * i, 50, 180 - 4 * i, 80), (80, 90, 110, 120)]
        images.append(painted(130, 192, *((box, 0) for box in boxes)))
        truth.append(([1, 2, 3], torch.tensor(boxes, dtype=torch.float32)))
    run = predict(detector(), images, PredictOptions(tracking=TrackOptions(tracker), batch=8))
    found = [(of.ids.tolist(), of.boxes) for of in run if of.ids is not None]
    figures = mot_figures(truth, found)
    assert (figures.false, figures.switches) == (0, 0)
    assert figures.misses <= 6
    assert figures.mota >= 0.93
    assert figures.idf1 >= 0.96
