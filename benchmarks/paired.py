"""What the scripts that compare rows of trainings share: train or resume, measure, and intervals of differences."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from alignrank.metrics import Diagnosis, read_inputs

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALIGNRANK_SHARED", ROOT.parent / "shared"))
REPLICATES = 300
Gap = dict[str, float | None]
Array = NDArray[np.float64]
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "lrp", "lrp_loc", "lrp_fp", "lrp_fn"),
    *("rank.spearman", "rank.spearman_true", "rank.spearman_true_class_mean", "rank.misranked", "rank.misranked_nms65"),
    *("rank.best_box_missed", "rank.ap_lost_ranking", "rank.ap_lost_within", "rank.ap_lost_between"),
    *("rank.ap_lost_false", "rank.ap_lost_duplicates", "rank.duplicates_70", "rank.duplicates_90"),
)


def commit(root: Path = ROOT) -> str:
    """That of a checkout, of this one, for results."""
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return head.stdout.strip()


def alignrank(threads: int, *words: str) -> None:
    """One command of ours."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run([sys.executable, "-m", "alignrank", *words], check=True, cwd=ROOT, env=environment)


def trained(out: Path, data: Path, seed: int, threads: int, words: Sequence[str]) -> dict[str, Any]:
    """Train in the folder `out`, or go on there, unless it is done; where, when and how it was."""
    # Runs start in ROOT, so that recorded commands read the same everywhere.
    shown, near = str(out.relative_to(ROOT)), os.path.relpath(data, ROOT)
    if not (out / "results.json").exists():
        if (out / "run.json").exists():
            alignrank(threads, "train", "--resume", shown)
        else:
            alignrank(threads, "train", *words, "--data", near, "--seed", str(seed), "--out", shown)
    results = json.loads((out / "results.json").read_text())
    history = json.loads((out / "history.json").read_text())
    return {
        "ap_by_epoch": [round(epoch["val/ap"], 4) for epoch in history if "val/ap" in epoch],
        "minutes": round(results["seconds"] / 60, 1),
        **{key: results[key] for key in ("command", "commit", "device", "precision", "torch")},
        "processor": platform.processor() or platform.machine(),
        "seed": seed,
    }


def measured(
    out: Path, name: str, data: Path, threads: int, options: Sequence[str] = (), *, weights: str = "best"
) -> dict[str, Any]:
    """Figures of the best weights in `out` (or the last), in its folder `name`, evaluated with `options` unless that
    is done.
    """
    folder, near = out / name, os.path.relpath(data, ROOT)
    if not (folder / "metrics.json").exists():
        file = f"{out.relative_to(ROOT)}/{weights}.safetensors"
        alignrank(threads, "val", "--weights", file, "--data", near, *options, "--out", str(folder.relative_to(ROOT)))
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = {key: metrics[key] for key in metrics if key.startswith(("ap", "lrp", "rank"))}
    del figures["rank_by_size"]
    return figures


def diagnosis(data: Path, folder: Path, *, max_dets: int = 100, classes: Sequence[str] | None = None) -> Diagnosis:
    """Of the detections saved in `folder`, of the classes with these names alone if any."""
    inputs = read_inputs(data / "annotations" / "val.json", folder / "detections.json")
    if classes is not None:
        inputs = inputs.only([i for i, name in zip(inputs.category_ids, inputs.names, strict=True) if name in classes])
    return Diagnosis(inputs, max_dets=max_dets)


def learning_curve(out: Path) -> dict[str, dict[str, list[float]]]:
    """The loss terms of a run by epoch, of training and of validation."""
    history = json.loads((out / "history.json").read_text())
    terms = {name.removeprefix("train/") for epoch in history for name in epoch if name.startswith("train/")}
    names = [f"{split}/{term}" for term in sorted(terms) for split in ("train", "val")]
    return {"losses": {name: [round(e[name], 4) for e in history if name in e] for name in names}}


class Rows:
    """The JSON file of a comparison: `rows`, {row: {seed: entry}}, other sections of that form, and what is derived
    from them. Several processes may write into it: each change is read, made and written under a lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FileLock(path.with_suffix(".lock"))

    def read(self) -> dict[str, Any]:
        """All of it."""
        table: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {"rows": {}}
        return table

    def record(self, row: str, seed: int | str, entry: dict[str, Any], *, section: str = "rows") -> None:
        """Set the entry of a row and seed."""
        with self.lock:
            table = self.read()
            table.setdefault(section, {}).setdefault(row, {})[str(seed)] = entry
            self.path.write_text(json.dumps(table, indent=1) + "\n")

    def update(self, **derived: Any) -> None:
        """Set what is derived."""
        with self.lock:
            self.path.write_text(json.dumps(self.read() | derived, indent=1) + "\n")

    def seeds(self, *rows: str) -> list[int]:
        """Those that all of these rows have."""
        table = self.read()["rows"]
        return sorted(int(seed) for seed in set.intersection(*(set(table.get(row, {})) for row in rows)))


def recorded(
    about: str,
    results: Path,
    rows: Sequence[str],
    needed: Sequence[Path],
    run: Callable[[str, int, int], dict[str, Any]],
) -> Rows:
    """The command line of a comparison: record what `run` (row, seed, threads) gives for the rows and seeds asked for.

    Ends where a path that is needed is not there.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(rows), choices=list(rows))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    arguments = parser.parse_args()
    for path in needed:
        if not path.exists():
            sys.exit(f"{path} is not there: set ALIGNRANK_SHARED")
    table = Rows(results)
    for seed in arguments.seeds:
        for row in arguments.rows:
            table.record(row, seed, run(row, seed, arguments.threads))
    return table


def figures(found: Diagnosis) -> dict[str, float]:
    """Those that are defined, rounded."""
    return {name: round(value, 4) for name, value in found.metrics.scalars().items() if value is not None}


def figure(entry: dict[str, Any], name: str) -> float | None:
    """`lrp` or `rank.spearman` of an entry, which may have them flat or in sections. None where it is undefined, or
    the entry was measured before there was such a figure.
    """
    section, _, key = name.rpartition(".")
    value: float | None = entry.get(name) if name in entry or not section else entry.get(section, {}).get(key)
    return value


def mean(values: Sequence[float | None]) -> str:
    """Three decimals, of those that are there; nothing of nothing."""
    defined = [value for value in values if value is not None]
    return f"{sum(defined) / len(defined):.3f}" if defined else ""


def change(gap: Gap | None) -> str:
    """A difference and its interval; nothing of an undefined one, or one that was not measured."""
    if gap is None or gap["difference"] is None:
        return ""
    return f"{gap['difference']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"


def compare(
    table: Rows,
    section: str,
    wanted: Mapping[str, tuple[str, str]],
    place: Callable[[str, int], Path],
    judged: Callable[[str, int], Diagnosis],
) -> None:
    """Set a section of the table: {name: second row minus the first}, over the seeds of which both are evaluated.

    place, judged: (row, seed) -> the folder of the evaluated detections, and their diagnosis. What is known is kept
    unless there are all of its seeds and more: intervals take a minute, and runs may be on another machine.
    """
    known: dict[str, Any] = dict(table.read().get(section, {}))
    for name, (first, second) in wanted.items():
        both = table.seeds(first, second)
        seeds = [s for s in both if all((place(row, s) / "detections.json").exists() for row in (first, second))]
        if set(seeds) > set(known.get(name, {}).get("seeds", [])):
            pairs = [(judged(first, seed), judged(second, seed)) for seed in seeds]
            known[name] = {"seeds": seeds} | differences(pairs)
    table.update(**{section: known})


def differences(pairs: Sequence[tuple[Diagnosis, Diagnosis]]) -> dict[str, Gap]:
    """Second minus first, mean over the pairs (one for each seed), with 95 % intervals over images and seeds."""
    return pooled_differences([pairs])


def pooled_differences(groups: Sequence[Sequence[tuple[Diagnosis, Diagnosis]]]) -> dict[str, Gap]:
    """As `differences`, mean over groups of pairs, one for each data set: images and seeds are drawn within each."""
    replicates = np.mean([_replicates(pairs, np.random.default_rng(0)) for pairs in groups], 0)  # [R, figures]
    points = np.mean([np.mean([_gaps(a.metrics.scalars(), b.metrics.scalars()) for a, b in p], 0) for p in groups], 0)
    defined = ~np.isnan(replicates).all(0)
    low, high = np.full((2, len(FIGURES)), np.nan)
    low[defined], high[defined] = np.nanpercentile(replicates[:, defined], (2.5, 97.5), axis=0)
    columns = zip(FIGURES, points, low, high, strict=True)
    return {
        name: {"difference": _rounded(point), "low": _rounded(below), "high": _rounded(above)}
        for name, point, below, above in columns
    }


def _replicates(pairs: Sequence[tuple[Diagnosis, Diagnosis]], rng: np.random.Generator) -> Array:
    """[R, figures]: differences with images drawn with replacement, and seeds."""
    num_images = len(pairs[0][0].inputs.image_ids)
    drawn = []
    for _ in range(REPLICATES):
        weights = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images).astype(float)
        gaps = [
            _gaps(first.resampled(weights)[0], second.resampled(weights)[0])
            for first, second in (pairs[i] for i in rng.integers(0, len(pairs), len(pairs)))
        ]
        drawn.append(np.mean(gaps, 0))
    return np.stack(drawn)


def _gaps(first: Any, second: Any) -> list[float]:
    """Second minus first by figure; NaN where one of them is undefined."""
    undefined = float("nan")
    return [
        undefined if first[name] is None or second[name] is None else second[name] - first[name] for name in FIGURES
    ]


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
