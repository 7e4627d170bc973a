"""What the scripts that compare rows of trainings share: train or resume, measure, record, compare."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from intervals import Array, differences, kept
from machine import processor

from alignrank.metrics import Diagnosis, read_inputs

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALIGNRANK_SHARED", ROOT.parent / "shared"))
# alignrank-n as it was when its first rows were run: since then its recipe has a consensus, no refinement, twice the
# rate, and box branches in the place of fusion.
BEFORE = (
    *("loss.consensus=0", "head.consensus_iou=0", "head.refine=true", "train.lr=0.0015"),
    *("head.fusion=true", "head.box_width=32", "head.separable_boxes=true"),
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
        "processor": processor(),
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

    def draws(self, row: str, seed: int, folder: Path, judged: Callable[[], Diagnosis]) -> Array | None:
        """Of the detections in `folder`, kept in a folder beside the table; None where neither is here."""
        return kept(self.place_of_draws(row, seed), folder / "detections.json", judged)

    def place_of_draws(self, row: str, seed: int) -> Path:
        """Where they are kept."""
        name = re.sub(r"[^a-z0-9.]+", "_", row.lower())
        return self.path.with_suffix("") / f"{name}-seed{seed}.npz"

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


def compare(
    table: Rows,
    section: str,
    wanted: Mapping[str, tuple[str, str]],
    place: Callable[[str, int], Path],
    judged: Callable[[str, int], Diagnosis],
) -> None:
    """Set a section of the table: {name: second row minus the first}, over the seeds of which there are draws of both.

    place, judged: (row, seed) -> the folder of the evaluated detections, and their diagnosis. What is known is kept
    unless there are all of its seeds and more.
    """
    known: dict[str, Any] = dict(table.read().get(section, {}))
    for name, rows in wanted.items():
        pairs = paired_draws(table, rows, place, judged)
        if set(pairs) > set(known.get(name, {}).get("seeds", [])):
            known[name] = {"seeds": list(pairs)} | differences([list(pairs.values())])
    table.update(**{section: known})


def paired_draws(
    table: Rows,
    rows: tuple[str, str],
    place: Callable[[str, int], Path],
    judged: Callable[[str, int], Diagnosis],
) -> dict[int, tuple[Array, Array]]:
    """{seed: the draws of two rows}, of seeds that both have."""
    found = {}
    for seed in table.seeds(*rows):
        first, second = (table.draws(row, seed, place(row, seed), partial(judged, row, seed)) for row in rows)
        if first is not None and second is not None:
            found[seed] = (first, second)
    return found
