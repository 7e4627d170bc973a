"""What a second detector gains over a first, as papers put it: detection errors at one score, and AP by size of object.

Source: Lee, Lee & Kang, FINE (`alignrank.nn.fine`), table 5: counts at score .5 and IoU .5; and gains in parts of what
the first detector reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from alignrank.metrics.diagnosis import Diagnosis
from alignrank.metrics.operating_point import OperatingPoint, operating_points

ERROR_SCORE = 0.5
BY_SIZE = ("ap", "ap_small", "ap_medium", "ap_large")

Row = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class DetectionErrors:
    """Two detectors on the same ground truth: counts over all classes at score ERROR_SCORE and IoU .5."""

    first: OperatingPoint
    second: OperatingPoint

    def to_dict(self) -> dict[str, Row]:
        """{dt, dt2, difference} of {threshold, tp, fp, fn, precision, recall, f1}; difference: second minus first,
        without threshold, None where either is undefined.
        """
        first, second = self.first.to_dict(), self.second.to_dict()
        difference = {name: _minus(second[name], value) for name, value in first.items() if name != "threshold"}
        return {"dt": first, "dt2": second, "difference": difference}


@dataclass(frozen=True, slots=True)
class Gain:
    """A figure of two detectors, None where undefined."""

    first: float | None
    second: float | None

    @property
    def absolute(self) -> float | None:
        """second - first."""
        return _minus(self.second, self.first)

    @property
    def relative(self) -> float | None:
        """(second - first) / first; None where first is 0."""
        absolute = self.absolute
        return absolute / self.first if absolute is not None and self.first else None

    def to_dict(self) -> dict[str, float | None]:
        return {"dt": self.first, "dt2": self.second, "absolute": self.absolute, "relative": self.relative}


def detection_errors(first: Diagnosis, second: Diagnosis) -> DetectionErrors:
    """Counts of both at ERROR_SCORE, whatever operating point was chosen."""
    points = (operating_points(diagnosis.matching, conf=ERROR_SCORE)[0] for diagnosis in (first, second))
    return DetectionErrors(*points)


def gains_by_size(first: Diagnosis, second: Diagnosis) -> dict[str, Gain]:
    """{ap, ap_small, ap_medium, ap_large: Gain}."""
    before, after = (diagnosis.average_precision.figures() for diagnosis in (first, second))
    return {name: Gain(before[name], after[name]) for name in BY_SIZE}


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
