"""What a second detector gains over a first, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from alignrank.metrics.gain import ERROR_SCORE, DetectionErrors, Gain

_HEADINGS = {"tp": "TP", "fp": "FP", "fn": "FN", "precision": "precision", "recall": "recall", "f1": "F1"}
_ROWS = {"dt": "first", "dt2": "second", "difference": "second - first"}
_FIGURES = {"ap": "AP", "ap_small": "AP small", "ap_medium": "AP medium", "ap_large": "AP large"}


def detection_errors_table(errors: DetectionErrors) -> Table:
    """A row for each of two detectors, and one for the difference."""
    table = Table(f"at score {ERROR_SCORE:g}, IoU .5", *_HEADINGS.values(), box=None)
    rows = errors.to_dict()
    for key, name in _ROWS.items():
        table.add_row(name, *(_written(rows[key][column], signed=key == "difference") for column in _HEADINGS))
    return table


def gains_table(gains: Mapping[str, Gain]) -> Table:
    """A row for each figure: both detectors', the difference, and that in parts of the first."""
    table = Table("gain", "first", "second", "second - first", "relative", box=None)
    for key, gain in gains.items():
        relative = "-" if gain.relative is None else f"{100 * gain.relative:+.1f} %"
        cells = (_written(gain.first), _written(gain.second), _written(gain.absolute, signed=True), relative)
        table.add_row(_FIGURES[key], *cells)
    return table


def _written(value: float | int | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    form = "," if isinstance(value, int) else ".3f"
    return f"{value:{'+' if signed and value else ''}{form}}"
