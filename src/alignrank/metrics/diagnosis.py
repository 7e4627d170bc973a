"""One detector's results, matched once, and every figure and curve that can be read off them.

Shape letters: I images, N detections, G objects, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from alignrank.metrics import calibration as calibrations
from alignrank.metrics.accumulation import Accumulation
from alignrank.metrics.average_precision import IOU_THRESHOLDS, AveragePrecision, mean_ap, of_matching
from alignrank.metrics.duplicates import OVERLAPS, after_suppression, duplicates
from alignrank.metrics.errors import Errors, errors
from alignrank.metrics.inputs import Array, CocoInputs, Id
from alignrank.metrics.localization_recall_precision import LocalizationRecallPrecision, localization_recall_precision
from alignrank.metrics.matching import SIZES, match
from alignrank.metrics.operating_point import OperatingPoint, operating_points
from alignrank.metrics.oracle import with_oracle_scores, with_orders_put_right, with_perfect_suppression
from alignrank.metrics.overlaps import find_overlaps
from alignrank.metrics.ranking import CANDIDATE_IOU, GAP, candidate_fits, candidates, true_fits
from alignrank.metrics.summary import Figures, Metrics


class Diagnosis:
    """inputs: validated results. max_dets: detections that count per image and class. tau: LRP's IoU threshold,
    between 0 and 1. gap: IoU difference above which a pair of candidates has an order, 0..1. conf: score of the
    operating point. before_nms: the same detector's candidates before suppression, on the same ground truth.
    advance: called after each of `STEPS` pieces of work. Raises ValueError for options outside their range.
    """

    STEPS = 5

    def __init__(
        self,
        inputs: CocoInputs,
        *,
        max_dets: int = 100,
        tau: float = 0.5,
        gap: float = GAP,
        conf: float = 0.25,
        before_nms: CocoInputs | None = None,
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        if max_dets < 1:
            raise ValueError(f"max_dets is {max_dets}, expected at least 1")
        if not 0 < tau < 1:
            raise ValueError(f"tau is {tau}, expected a number between 0 and 1")
        if not 0 <= gap <= 1:
            raise ValueError(f"gap is {gap}, expected a number in 0..1")
        if before_nms is not None and not inputs.same_truth(before_nms):
            raise ValueError("before_nms is not of the same ground truth as inputs")
        self.inputs, self.max_dets, self.tau, self.gap, self.conf = inputs, max_dets, tau, gap, conf
        self.before_nms = before_nms
        self.overlaps = find_overlaps(inputs)
        advance()
        self.matching = match(self.overlaps, thresholds=tuple(IOU_THRESHOLDS), sizes=True, max_dets=max_dets)
        advance()
        self.oracle = with_oracle_scores(self.overlaps, self.matching, max_dets=max_dets)
        self.orders = with_orders_put_right(self.overlaps, self.matching, max_dets=max_dets)
        self.suppressed = with_perfect_suppression(self.overlaps, self.matching)
        advance()
        self._lrp_matching = self.matching
        if not np.isclose(self.matching.thresholds, tau, rtol=0, atol=1e-9).any():
            overlaps = self.overlaps if tau >= CANDIDATE_IOU else find_overlaps(inputs, minimum=tau)
            self._lrp_matching = match(overlaps, thresholds=(tau,), sizes=True, max_dets=max_dets)
        self.matched = true_fits(self.matching)
        self.fits = candidate_fits(self.overlaps, self.matching.order)
        self.candidates = candidates(self.overlaps, self.matching.order, gap=gap)
        has_pairs = np.append(self.candidates.pairs > 0, False)[self.overlaps.best_gt]  # the last: no object, -1
        self.separate = candidates(self.overlaps, after_suppression(self.matching, has_pairs), gap=gap)
        self.duplicates = duplicates(self.matching, self.lrp.threshold[:, 0])
        advance()
        self.errors: Errors = errors(self.overlaps, self.matching)
        advance()

    @cached_property
    def _accumulations(self) -> list[Accumulation]:
        return [Accumulation(m) for m in (self.matching, self.oracle, *self.orders, self.suppressed)]

    @cached_property
    def average_precision(self) -> AveragePrecision:
        return of_matching(self.matching, accumulation=self._accumulations[0])

    @cached_property
    def lrp(self) -> LocalizationRecallPrecision:
        return localization_recall_precision(self._lrp_matching, tau=self.tau)

    @cached_property
    def calibration(self) -> calibrations.Calibration:
        return calibrations.calibration(self.matching, self.matched)

    @cached_property
    def spearman_true(self) -> list[float | None]:
        """[K] Spearman's rho of score and IoU over each class's true detections."""
        return self._spearman_true()

    @cached_property
    def operating_points(self) -> tuple[OperatingPoint, OperatingPoint | None]:
        return operating_points(self.matching, conf=self.conf)

    @cached_property
    def metrics(self) -> Metrics:
        """All figures."""
        chosen, best = self.operating_points
        return Metrics(
            **self.average_precision.figures(),
            **self.lrp.figures(),
            max_dets=self.max_dets,
            rank=self.rank(self.average_precision),
            rank_before_nms=self._rank_before_nms(),
            rank_by_size={size: self._rank_where(gt_size=a) for a, size in enumerate(SIZES) if a},
            errors=self.errors.to_dict(),
            operating_points={"chosen": chosen.to_dict(), "best": None if best is None else best.to_dict()},
            per_class=self._per_class(),
        )

    def resampled(self, weights: Array) -> tuple[Figures, dict[Id, Figures]]:
        """`Metrics.scalars` (what is before NMS left out), and {category id: {ap, lrp}}, with each image counted
        weights [I] times. Score thresholds of classes stay those of the whole data, and so do the places that
        `ap_lost_between` gives to objects."""
        precision = of_matching(self.matching, weights=weights, accumulation=self._accumulations[0])
        lrp = localization_recall_precision(self._lrp_matching, tau=self.tau, weights=weights)
        rank = {f"rank.{name}": value for name, value in self.rank(precision, weights).items()}
        rows = {category: {"ap": row["ap"]} for category, row in precision.per_class().items()}
        for category, row in lrp.per_class().items():
            rows[category]["lrp"] = row["lrp"]
        return {**precision.figures(), **lrp.figures(), **rank}, rows

    def rank(self, precision: AveragePrecision, weights: Array | None = None) -> Figures:
        """The figures of `Metrics.rank`; precision: of the same weights [I], which say how often an image counts."""
        inputs = self.inputs
        of_dt = None if weights is None else weights[inputs.dt_image]
        ap = precision.figures()["ap"]
        ap_oracle, within, between, ap_suppressed = (mean_ap(a, weights=weights) for a in self._accumulations[1:])
        calibration = self.calibration
        if weights is not None:
            calibration = calibrations.calibration(self.matching, self.matched, weights=weights)
        of_gt = None if weights is None else weights[inputs.gt_image]
        of_true = None if of_dt is None else of_dt[self.matched.dt]
        true_by_class = self.spearman_true if of_true is None else self._spearman_true(of_true)
        return {
            **self.fits.correlation(repeats=None if of_dt is None else of_dt[self.fits.dt]),
            "spearman_true": self.matched.spearman(repeats=of_true),
            "spearman_true_class_mean": _mean(true_by_class),
            **self.candidates.figures(of_gt),
            "misranked_nms65": self.separate.figures(of_gt)["misranked"],
            "ap_oracle": ap_oracle,
            "ap_lost_ranking": _minus(ap_oracle, ap),
            "ap_lost_within": _minus(within, ap),
            "ap_lost_between": _minus(between, within),
            "ap_lost_false": _minus(ap_oracle, between),
            "ap_suppressed": ap_suppressed,
            "ap_lost_duplicates": _minus(ap_suppressed, ap),
            **{f"duplicates_{round(100 * iou)}": self.duplicates.rate(iou, of_dt) for iou in OVERLAPS},
            "laece": calibration.laece,
        }

    def _rank_before_nms(self) -> Figures | None:
        if self.before_nms is None:
            return None
        counted = np.arange(len(self.before_nms.dt_scores))
        before = candidates(find_overlaps(self.before_nms), counted, gap=self.gap)
        return {**before.figures(), "suppressed": before.suppressed(self.candidates)}

    def _rank_where(self, *, category: int | None = None, gt_size: int = 0) -> Figures:
        """Correlations and candidates' figures over the objects of one class (by index) or size."""
        inputs = self.inputs
        objects = self.matching.gt_counts[:, gt_size]
        if category is not None:
            objects = objects & (inputs.gt_category == category)
        return {**self.fits.correlation(objects[self.fits.gt]), **self.candidates.figures(objects.astype(float))}

    def _per_class(self) -> dict[Id, Figures]:
        rows = self.average_precision.per_class()
        for k, (category, row) in enumerate(self.lrp.per_class().items()):
            rows[category] |= row | self._rank_where(category=k) | {"spearman_true": self.spearman_true[k]}
        return rows

    def _spearman_true(self, repeats: Array | None = None) -> list[float | None]:
        """[K] values; repeats: of each of `matched`."""
        label = self.inputs.dt_category[self.matched.dt]
        return [self.matched.spearman(label == k, repeats) for k in range(len(self.inputs.category_ids))]


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
