"""Differences between rows of trainings, with intervals over images and seeds, from draws that outlive the runs.

The figures of a row's detections, and of draws of the images with replacement, are kept beside the table: runs are
large, and stay where they were made. All rows of a data set meet the same draws, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignrank.metrics import Diagnosis

REPLICATES = 300
# Figures are from -1 to 1: four decimals in two bytes.
SCALE, UNDEFINED = 1e4, np.iinfo(np.int16).min
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "lrp", "lrp_loc", "lrp_fp", "lrp_fn"),
    *("rank.spearman", "rank.spearman_true", "rank.spearman_true_class_mean", "rank.misranked", "rank.misranked_nms65"),
    *("rank.best_box_missed", "rank.ap_lost_ranking", "rank.ap_lost_within", "rank.ap_lost_between"),
    *("rank.ap_lost_false", "rank.ap_lost_duplicates", "rank.duplicates_70", "rank.duplicates_90"),
)
Gap = dict[str, float | None]
Array = NDArray[np.float64]


def drawn(found: Diagnosis) -> Array:
    """[1 + REPLICATES, FIGURES]: as they are, and with images drawn; NaN where one is undefined."""
    rng, num_images = np.random.default_rng(0), len(found.inputs.image_ids)
    rows = [found.metrics.scalars()]
    for _ in range(REPLICATES):
        weights = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images).astype(float)
        rows.append(found.resampled(weights)[0])
    return np.array([[np.nan if row[name] is None else row[name] for name in FIGURES] for row in rows], dtype=float)


def kept(file: Path, detections: Path, judged: Callable[[], Diagnosis]) -> Array | None:
    """What `drawn` gives, to four decimals: from `file`, unless `detections` are newer; then of `judged()`, and written
    there. None where neither is there.
    """
    if detections.exists() and not (file.exists() and detections.stat().st_mtime <= file.stat().st_mtime):
        draws = drawn(judged())
        values = np.where(np.isnan(draws), UNDEFINED, np.round(draws * SCALE)).astype(np.int16)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, figures=np.array(FIGURES), values=values)
    if not file.exists():
        return None
    with np.load(file) as content:
        if tuple(content["figures"]) != FIGURES:
            raise SystemExit(f"{file} has other figures; delete it where {detections} is")
        values = content["values"]
    return np.where(values == UNDEFINED, np.nan, values / SCALE)


def differences(groups: Sequence[Sequence[tuple[Array, Array]]]) -> dict[str, Gap]:
    """Second minus first, as mean over groups (one for each data set) of pairs of draws (one for each seed), with 95 %
    intervals over images and seeds, which are drawn within each group.
    """
    rng, gaps = np.random.default_rng(0), []
    for pairs in groups:
        by_seed = np.stack([second - first for first, second in pairs])  # [S, 1 + R, figures]
        seeds = rng.integers(0, len(pairs), (len(pairs), REPLICATES))
        replicates = by_seed[seeds, 1 + np.arange(REPLICATES)]  # [S, R, figures]
        gaps.append(np.concatenate([by_seed[:, :1].mean(0), replicates.mean(0)]))
    point, *draws = np.mean(gaps, 0)
    defined, bounds = ~np.isnan(draws).all(0), np.full((2, len(FIGURES)), np.nan)
    if defined.any():
        bounds[:, defined] = np.nanpercentile(np.array(draws)[:, defined], (2.5, 97.5), axis=0)
    columns = zip(FIGURES, point, *bounds, strict=True)
    return {
        name: {"difference": _rounded(value), "low": _rounded(below), "high": _rounded(above)}
        for name, value, below, above in columns
    }


def change(gap: Gap | None) -> str:
    """A difference and its interval; nothing of an undefined one, or one that was not measured."""
    if gap is None or gap["difference"] is None:
        return ""
    return f"{gap['difference']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"


def differences_table(compared: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """Lines of {pair: its gaps and their seeds}, with these columns, {figure: heading}."""
    lines = ["| difference | seeds | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 2) + "|"]
    for pair, gaps in compared.items():
        lines.append(f"| {pair} | {len(gaps['seeds'])} | " + " | ".join(change(gaps[name]) for name in columns) + " |")
    return lines


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
