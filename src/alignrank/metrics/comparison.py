"""Two detectors on the same ground truth: differences of figures, with paired bootstrap intervals over images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignrank.metrics.diagnosis import Diagnosis
from alignrank.metrics.gain import DetectionErrors, Gain, detection_errors, gains_by_size
from alignrank.metrics.inputs import Id

REPLICATES = 200


@dataclass(frozen=True, slots=True)
class Interval:
    """difference: second minus first; low, high: its 2.5 and 97.5 percentiles over replicates. None if undefined."""

    difference: float | None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        return {"difference": self.difference, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Comparison:
    """figures: {name as in `Metrics.scalars`: Interval}; per_class: {category id: {ap, lrp: Interval}};
    detection_errors, gains: see `gain.py`.
    """

    figures: dict[str, Interval]
    per_class: dict[Id, dict[str, Interval]]
    replicates: int
    detection_errors: DetectionErrors
    gains: dict[str, Gain]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries: of difference, low and high; of detection errors and gains those of `gain.py`."""
        return {
            "replicates": self.replicates,
            "figures": {name: interval.to_dict() for name, interval in self.figures.items()},
            "per_class": {
                category: {name: interval.to_dict() for name, interval in row.items()}
                for category, row in self.per_class.items()
            },
            "detection_errors": self.detection_errors.to_dict(),
            "gains": {name: gain.to_dict() for name, gain in self.gains.items()},
        }


def compare(
    first: Diagnosis,
    second: Diagnosis,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Comparison:
    """Draw images with replacement `replicates` times; both detectors are measured on each draw (0: no intervals).

    A replicate in which a figure is undefined for either (no object of a class drawn) does not count for it; where
    that is every second one, there is no interval. advance: called after each replicate.
    Raises ValueError if the two are not of the same ground truth.
    """
    if not first.inputs.same_truth(second.inputs):
        raise ValueError("first and second are not of the same ground truth")
    rng = np.random.default_rng(seed)
    num_images = len(first.inputs.image_ids)
    drawn: dict[Hashable, list[float]] = defaultdict(list)
    for _ in range(replicates if num_images else 0):
        weights = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images).astype(float)
        before, after = _flat(*first.resampled(weights)), _flat(*second.resampled(weights))
        for key, value in before.items():
            if value is not None and (other := after[key]) is not None:
                drawn[key].append(other - value)
        advance()

    before, after = (_flat(d.metrics.scalars(), d.metrics.per_class) for d in (first, second))

    def interval(key: Hashable) -> Interval:
        a, b = before[key], after[key]
        if a is None or b is None:
            return Interval(None)
        values = drawn[key]
        if not values or len(values) < replicates / 2:
            return Interval(b - a)
        low, high = np.percentile(values, (2.5, 97.5))
        return Interval(b - a, float(low), float(high))

    return Comparison(
        {str(key): interval(key) for key in before if isinstance(key, str) and key in after},
        {c: {name: interval((c, name)) for name in ("ap", "lrp")} for c in first.inputs.category_ids},
        replicates,
        detection_errors(first, second),
        gains_by_size(first, second),
    )


def _flat(
    figures: Mapping[str, float | None], per_class: Mapping[Id, Mapping[str, Any]]
) -> dict[Hashable, float | None]:
    flat: dict[Hashable, float | None] = dict(figures.items())
    for category, row in per_class.items():
        flat |= {(category, name): row[name] for name in ("ap", "lrp")}
    return flat
