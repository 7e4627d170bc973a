"""How many detections of a class are true, and how many count, up to each true one: as often as images are weighed.

Between two true detections recall stands still and precision only falls, so the whole curve is known from the true
ones. Where they stand does not depend on how often an image counts: a bootstrap finds it once.

Array axes: T IoU thresholds, K categories, A sizes, M counted detections, I images, P true detections of all curves
(one for each threshold, size and category), by curve, then place; D detections that change the count of a curve.
"""

from __future__ import annotations

import numpy as np

from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching


class Accumulation:
    """Of a matching. threshold, size, label [P]: indices of the true detections' curves. rank [P]: their places within
    image and class, from 0. shape: (T, A, K).
    """

    def __init__(self, matching: Matching) -> None:
        inputs = matching.inputs
        self.matching, kinds = matching, len(inputs.category_ids)
        label = inputs.dt_category[matching.order]  # [M]
        self.shape = (*matching.gt_index.shape[1:], kinds)
        taken, ignored = matching.gt_index >= 0, matching.ignored
        in_range = matching.in_range[matching.position][:, None, :]
        true = taken & ~ignored
        # What the overlapping detections add to or take from the count of detections by area alone.
        change = np.where(taken, true, in_range & ~ignored).astype(np.int8) - in_range

        self.threshold, self.size, self._place, curve = self._entries(true, label)
        self.label, self.rank = label[self._place], matching.rank[self._place]
        self.curve = curve
        self._starts = np.searchsorted(curve, curve)
        t, a, self._changed, changed_curve = self._entries(change, label)
        self._change = change[np.searchsorted(matching.position, self._changed), t, a].astype(float)
        along = len(label) + 1  # so that (curve, place) is one rising number
        changed = changed_curve * along + self._changed
        self._upto = np.searchsorted(changed, curve * along + self._place, side="right")
        self._before = np.searchsorted(changed, curve * along)
        self._first = np.searchsorted(label, np.arange(kinds))[self.label]
        self._image = inputs.dt_image[matching.order]

    def _entries(self, chosen: Array, label: Array) -> tuple[Array, Array, Array, Array]:
        """chosen [H,T,A] -> threshold, size, place in the order, curve: [n] each, by curve, then place."""
        t, a, h = np.nonzero(chosen.transpose(1, 2, 0))
        place = self.matching.position[h]
        return t, a, place, (t * self.shape[1] + a) * self.shape[2] + label[place]

    def weighted(self, weights: Array | None = None) -> tuple[Array, Array, Array]:
        """here [P], the weight of each true detection; total [P], that of those up to it in its curve; seen [P], that
        of all counting detections up to it. weights [I]: how often each image counts, whole numbers.
        """
        matching = self.matching
        weight = np.ones(len(self._image)) if weights is None else weights[self._image]
        by_area = np.zeros((len(weight) + 1, self.shape[1]))
        np.cumsum(matching.in_range * weight[:, None], axis=0, out=by_area[1:])
        here = weight[self._place]
        true, changed = _sums(here), _sums(self._change * weight[self._changed])
        seen = by_area[self._place + 1, self.size] - by_area[self._first, self.size]
        return here, true[1:] - true[self._starts], seen + changed[self._upto] - changed[self._before]

    def sums(self, here: Array, chosen: Array | None = None) -> Array:
        """[K,T,A] weights `here` [P] by curve; chosen [P] bool: of these alone."""
        curve = self.curve if chosen is None else self.curve[chosen]
        total = np.bincount(curve, here if chosen is None else here[chosen], minlength=int(np.prod(self.shape)))
        return np.ascontiguousarray(total.reshape(self.shape).transpose(2, 0, 1))


def _sums(values: Array) -> Array:
    """[n] -> [n+1] running sums, of none first."""
    return np.concatenate([[0.0], np.cumsum(values)])
