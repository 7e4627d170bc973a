"""Which epoch of a run has the best weights, and why.

It is the one with the highest AP, and as long as AP is 0 the one with the lowest validation loss; of equal ones the
last, which has learnt for longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

# What an epoch logs of its evaluation, below `val/`; the other values there are parts of the loss.
FIGURES = (
    *("ap", "ap50", "ap75", "lrp", "spearman", "spearman_true", "spearman_true_class_mean", "misranked"),
    *("best_box_missed", "ap_lost_ranking", "ap_lost_within", "ap_lost_between", "ap_lost_false"),
    *("ap_lost_duplicates", "duplicates_70", "laece"),
)
Row = Mapping[str, float]


@dataclass(slots=True)
class Best:
    """epoch: of the best weights, 0 before there are any. ap, loss: its own, None where undefined.

    improved: the last epoch that was better than all before it, not only as good; patience counts from it.
    """

    epoch: int = 0
    ap: float | None = None
    loss: float | None = None
    improved: int = 0

    def takes(self, row: Row) -> bool:
        """Whether an evaluated epoch becomes the best; then it is."""
        new = Best(int(row["epoch"]), row.get("val/ap"), validation_loss(row))
        if self.epoch and new._rank() < self._rank():
            return False
        better = not self.epoch or new._rank() > self._rank()
        self.epoch, self.ap, self.loss = new.epoch, new.ap, new.loss
        self.improved = new.epoch if better else self.improved
        return True

    def _rank(self) -> tuple[float, float]:
        if _some(self.ap):
            return self.ap, 0.0
        return 0.0, -self.loss if self.loss is not None and math.isfinite(self.loss) else -math.inf


def validation_loss(row: Row) -> float | None:
    """Sum of an epoch's validation losses, None where there are none."""
    parts = [
        value for name, value in row.items() if name.startswith("val/") and name.removeprefix("val/") not in FIGURES
    ]
    return sum(parts) if parts else None


def best_in_words(history: Sequence[Row], epoch: int) -> str:
    """Why `epoch` is the best of a run."""
    rows = [row for row in history if "val/ap" in row or validation_loss(row) is not None]
    best = next((row for row in rows if row["epoch"] == epoch), {})
    ap = best.get("val/ap")
    if _some(ap):
        return f"AP {ap:.3f}" if ap >= 0.0005 else f"AP {ap:.1g}"
    loss = validation_loss(best)
    by = "by validation loss" if loss is not None and math.isfinite(loss) else "as the last one"
    what = "0" if any(row.get("val/ap") == 0 for row in rows) else "undefined"
    return f"{by}: AP is {what} in every epoch{'' if len(rows) == len(history) else ' that was evaluated'}"


def _some(ap: float | None) -> TypeGuard[float]:
    return ap is not None and ap > 0
