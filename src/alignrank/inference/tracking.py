"""Tracking: objects get numbers that they keep from frame to frame, by a tracker of the library `trackers`.

It sees boxes and scores, not pixels and not classes. Each sequence has a tracker of its own (see `sequences`), whose
memory is that of the objects in sight and of those lost lately.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from alignrank.contracts import Detections
from alignrank.extras import optional
from alignrank.inference.options import TrackOptions
from alignrank.inference.sequences import Sequences
from alignrank.inference.video import USUAL_RATE

_CLASSES = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker", "sort": "SORTTracker"}
# The rate at which the library counts how long it remembers, frames a second.
_ITS_RATE = 30.0


def tracked(
    found: Generator[Detections, None, None],
    rate_of: Callable[[str], Fraction | None],
    options: TrackOptions,
    conf: float,
) -> Generator[Detections, None, None]:
    """The same images with those of their objects that are tracked, which have `ids` from 1 on in each sequence.

    rate_of: frames a second by `Detections.path`. conf: score from which on an object begins a track.
    """
    sequences, tracker = Sequences(), None
    with closing(found):
        for detections in found:
            if sequences.begins(detections) or tracker is None:
                tracker = Tracker(options, conf, _rate(rate_of, detections.path))
            yield tracker.step(detections)


def _rate(rate_of: Callable[[str], Fraction | None], path: str | None) -> float:
    try:
        rate = None if path is None else rate_of(path)
    except KeyError:  # of a single image
        rate = None
    return float(rate or USUAL_RATE)


class Tracker:
    """Of one sequence. rate: frames a second."""

    def __init__(self, options: TrackOptions, conf: float, rate: float) -> None:
        trackers = optional("track", "trackers")
        wanted: dict[str, Any] = {
            "lost_track_buffer": round(options.memory * _ITS_RATE),
            "frame_rate": rate,
            "minimum_consecutive_frames": options.confirm,
        }
        if options.tracker != "ocsort":
            wanted["track_activation_threshold"] = conf
        if options.tracker != "sort":
            wanted["high_conf_det_threshold"] = conf
        self._tracker = getattr(trackers, _CLASSES[options.tracker])(**wanted)

    def step(self, detections: Detections) -> Detections:
        """Of the next frame: those that are tracked, with their ids, best first."""
        given = detections.to_supervision()
        given.data = {"place": np.arange(len(detections))}
        seen = self._tracker.update(given)
        is_tracked = seen.tracker_id >= 0
        places = seen.data["place"][is_tracked] if len(seen) else np.zeros(0, dtype=np.int64)
        order = np.argsort(places)
        # The library counts from 0, MOT's text from 1.
        ids = torch.from_numpy(seen.tracker_id[is_tracked][order].astype(np.int64) + 1)
        return replace(detections[places[order]], ids=ids)
