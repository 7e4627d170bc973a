"""What each part of alignrank-n does: rows of parts on and off, trained alike, both outputs measured.

    python benchmarks/ablation.py                          # seed 0 of every row, then the table
    python benchmarks/ablation.py --rows base rank all --seeds 0 1 2
    python benchmarks/ablation.py --rows all --threads 1   # beside other work: one thread, no barriers to wait at

Finished (row, seed) pairs are kept, interrupted ones resumed. The NMS-free output and the one-to-many output (with NMS,
and its candidates before it) are measured on the best epoch's weights of the NMS-free output. Differences to `base`
come with paired bootstrap intervals: images are drawn with replacement, and seeds too where there are several.
Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from intervals import Array, differences, drawn
from paired import BEFORE, ROOT, SHARED, diagnosis, measured, trained

DATA = SHARED / "data" / "bloodcells"
RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
RUNS = ROOT / "runs" / "ablation"
EPOCHS = 60
COMMON = ["--model", "alignrank-n", "--imgsz", "320", "--batch", "16", "--epochs", str(EPOCHS)]
NO_PARTS = ["head.sampling=none", "head.fusion=false"]
ROWS = {
    "base": [*NO_PARTS, "loss.align=0.0", "loss.rank=0.0"],
    "align": [*NO_PARTS, "loss.rank=0.0"],
    "rank": [*NO_PARTS, "loss.align=0.0"],
    "align+rank": NO_PARTS,
    "sampling": ["head.fusion=false", "loss.align=0.0", "loss.rank=0.0"],
    "fusion": ["head.sampling=none", "loss.align=0.0", "loss.rank=0.0"],
    "all": ["train.save_every=15"],  # for the pictures of alignrank_figures.py
}
OUTPUTS = {"nms_free": [], "one_to_many": ["--nms"]}


def folder(row: str, seed: int) -> Path:
    """Where the run is."""
    return RUNS / f"{row}-seed{seed}"


def run(row: str, seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row and seed, evaluate both outputs; its entry of the table."""
    out = folder(row, seed)
    about = trained(out, DATA, seed, threads, [*COMMON, *BEFORE, *ROWS[row]])
    return {output: measured(out, output, DATA, threads, option) for output, option in OUTPUTS.items()} | about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    arguments = parser.parse_args()
    if not DATA.exists():
        sys.exit(f"{DATA} is not there: set ALIGNRANK_SHARED")
    table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}, "against_base": {}}
    rows = table["rows"]
    for seed in arguments.seeds:
        for row in arguments.rows:
            if str(seed) not in rows.get(row, {}):
                rows.setdefault(row, {})[str(seed)] = run(row, seed, arguments.threads)
                RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    for row in [row for row in ROWS if row != "base" and row in rows and "base" in rows]:
        seeds = sorted(int(seed) for seed in rows[row].keys() & rows["base"].keys())
        places = {o: [(folder("base", s) / o, folder(row, s) / o) for s in seeds] for o in OUTPUTS}
        if seeds and all((p / "detections.json").exists() for o in OUTPUTS for pair in places[o] for p in pair):
            draws = {o: [(_draws(a), _draws(b)) for a, b in places[o]] for o in OUTPUTS}
            table["against_base"][row] = {"seeds": seeds} | {o: differences([draws[o]]) for o in OUTPUTS}
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    for output in OUTPUTS:
        for row, entries in rows.items():
            for seed, entry in entries.items():
                figures = {k: entry[output][k] for k in ("ap", "ap50", "ap75", "lrp")} | entry[output]["rank"]
                shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
                print(f"{output} {row} seed {seed}: {shown}")


def _draws(folder: Path) -> Array:
    return drawn(diagnosis(DATA, folder))


if __name__ == "__main__":
    main()
