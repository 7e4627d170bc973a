"""The Rank-DETR paper's tables 4 and 5 on small data: which part does what, alone, added and left out; which target and
which power.

    python benchmarks/rank_detr_tables.py                             # table 4, seed 0
    python benchmarks/rank_detr_tables.py --table 5 --seeds 0 1 --threads 1
    python benchmarks/rank_detr_tables.py --rows +gcl all-hmc         # some rows

Rows are switches over `h-detr-tiny`, trained as in `rank_detr.py`. Finished (row, seed) pairs are kept, interrupted
ones resumed; two processes may train different rows at the same time. Data and backbone by path: ALIGNRANK_SHARED, else
../shared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from paired import ROOT, Rows, figure, mean, measured, trained
from rank_detr import COLUMNS, COMMON, DATA, WEIGHTS

RESULTS = ROOT / "benchmarks" / "results" / "rank_detr_tables.json"
RUNS = ROOT / "runs" / "rank-detr-tables"
# In the order in which the paper adds them.
PARTS = {
    "rch": ["rank.head=true"],
    "qrl": ["rank.query_layer=true"],
    "gcl": ["rank.loss=gcl"],
    "hmc": ["rank.matching_cost=true"],
}
TARGET_POWERS, COST_POWERS = (0.5, 1.0, 2.0, 3.0), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)


def ablation() -> dict[str, list[str]]:
    """Table 4: none, each part alone (+), parts one after another (&), all, all but one (-)."""
    names = list(PARTS)
    rows: dict[str, list[str]] = {"none": []} | {f"+{name}": PARTS[name] for name in names}
    rows |= {"&".join(names[:count]): switches(names[:count]) for count in (2, 3)}
    rows["all"] = switches(names)
    return rows | {f"all-{left}": switches([name for name in names if name != left]) for left in names}


def switches(names: Sequence[str]) -> list[str]:
    """Of the named parts together."""
    return [switch for name in names for switch in PARTS[name]]


def powers() -> dict[str, list[str]]:
    """Table 5: the quality that the class loss learns, and the overlap in the matching cost, to these powers."""
    rows = {}
    for overlap in ("iou", "giou"):
        for power in TARGET_POWERS:
            target = [f"rank.target={overlap}", f"rank.target_power={power}"]
            rows[f"target-{overlap}^{power:g}"] = PARTS["gcl"] + target
        for power in COST_POWERS:
            cost = [f"rank.cost_overlap={overlap}", f"rank.cost_power={power}"]
            rows[f"cost-{overlap}^{power:g}"] = PARTS["gcl"] + PARTS["hmc"] + cost
    return rows


TABLES = {4: ablation(), 5: powers()}


def run(row: str, chosen: list[str], seed: int, threads: int) -> dict[str, Any]:
    """Train (or resume) one row and seed, evaluate it; its entry of the table."""
    out = RUNS / f"{row}-seed{seed}"
    about = trained(out, DATA, seed, threads, ["--model", "h-detr-tiny", *COMMON, *chosen])
    return measured(out, "val", DATA, threads) | about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, choices=list(TABLES), default=4)
    parser.add_argument("--rows", nargs="*", default=None, help="of the table; all where none is named")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    arguments = parser.parse_args()
    rows = TABLES[arguments.table]
    unknown = [row for row in arguments.rows or [] if row not in rows]
    if unknown:
        parser.error(f"--rows: table {arguments.table} has no row {unknown[0]!r}; it has {', '.join(rows)}")
    for path in (DATA, WEIGHTS):
        if not path.exists():
            sys.exit(f"{path} is not there: set ALIGNRANK_SHARED")
    found = Rows(RESULTS)
    for seed in arguments.seeds:
        for row in arguments.rows or rows:
            found.record(row, seed, run(row, rows[row], seed, arguments.threads))
    print("\n".join(markdown({row: seeds for row, seeds in found.read()["rows"].items() if row in rows})))


def markdown(entries: dict[str, Any]) -> list[str]:
    """The table, means over seeds."""
    lines = ["| row | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row, seeds in entries.items():
        values = [mean([figure(entry, name) for entry in seeds.values()]) for name in COLUMNS]
        lines.append(f"| {row} | {len(seeds)} | " + " | ".join(values) + " |")
    return lines


if __name__ == "__main__":
    main()
