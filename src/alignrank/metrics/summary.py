"""The record that an evaluation returns: every figure of DESIGN.md section 4, under its exact name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from alignrank.metrics.inputs import Id


class Part(Protocol):
    """One family of figures; a further one is a module with such a result and its names below."""

    def figures(self) -> dict[str, float | None]: ...

    def per_class(self) -> dict[Id, dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures are fractions in 0..1, None where no ground truth defines them (no object of that size).

    ap: mean over IoU .50:.05:.95; ap50, ap75: at one IoU; ap_*: by the object's area (small below 32^2
    px^2, medium below 96^2, large above). ar1, ar10, ar100: mean recall with at most 1, 10 and
    `max_dets` detections per image and class; ar_*: the last by area.
    per_class: {category id: {name, ap, ap50, ap75, ap_small, ap_medium, ap_large, ar100}}.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: dict[Id, dict[str, Any]] = field(repr=False)

    @staticmethod
    def of(parts: Sequence[Part]) -> Metrics:
        """The parts' figures joined; their class tables are joined row by row."""
        figures: dict[str, float | None] = {}
        rows: dict[Id, dict[str, Any]] = {}
        for part in parts:
            figures.update(part.figures())
            for category, row in part.per_class().items():
                rows.setdefault(category, {}).update(row)
        return Metrics(**figures, per_class=rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and dictionaries, ready for JSON; undefined figures are None."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["per_class"] = {category: dict(row) for category, row in self.per_class.items()}
        return plain
