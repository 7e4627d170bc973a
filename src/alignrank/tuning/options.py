"""What a study is asked for, and which figures it can look at."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from alignrank.config import Config
from alignrank.errors import nearest

Direction = Literal["maximize", "minimize"]

_HIGHER = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    *("rank.spearman", "rank.kendall", "rank.pearson", "rank.spearman_true"),
)
_LOWER = (
    *("lrp", "lrp_loc", "lrp_fp", "lrp_fn", "lrp_small", "lrp_medium", "lrp_large"),
    *("rank.misranked", "rank.best_box_missed", "rank.iou_lost", "rank.ap_lost_ranking", "rank.ap_lost_duplicates"),
    *("rank.duplicates_70", "rank.laece"),
)
# Figures of `metrics` in results.json, and which way is better.
METRICS: dict[str, Direction] = {
    **dict.fromkeys(_HIGHER, "maximize"),
    **dict.fromkeys(_LOWER, "minimize"),
}


class TuneOptions(Config):
    """Options of a study that are not those of its trainings."""

    trials: int = Field(default=20, ge=1, le=100_000)
    """Trainings of the study, all processes and all invocations together."""
    metric: str = "ap"
    """Figure of `metrics` in results.json that is made better, such as ap75, lrp, rank.misranked."""
    space: str | None = None
    """YAML file that changes the space of the recipe."""
    storage: str | None = None
    """Address of another database, as Optuna takes it; default: study.db in the study's folder."""
    prune: bool = True
    """End trials early that are below the median of the others at the same epoch."""

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"unknown figure; {nearest(value, METRICS)}")
        return value

    @property
    def direction(self) -> Direction:
        """Which way is better."""
        return METRICS[self.metric]
