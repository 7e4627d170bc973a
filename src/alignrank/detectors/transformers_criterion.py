"""The losses of transformers' detectors, called as the library calls them, in parts of ours; with ranking losses where
the recipe has them (`plug.transformers_loss`).

What the library divides by the number of objects of one process is divided here by the mean over all processes, as the
authors' own code does; a single process has the library's figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, outside_autocast, xyxy_to_cxcywh
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.transformers_host import TransformersConfig, labels_of
from alignrank.errors import TrainingError, first_line
from alignrank.losses.normalizer import shared_normalizer
from alignrank.plug.transformers_loss import RankedLoss
from alignrank.plug.transformers_models import library_config

# The library's terms by our names.
NAMES = {"vfl": "cls", "ce": "cls", "bbox": "l1", "giou": "giou", "fgl": "fgl", "ddf": "ddf"}
NAMES |= {"align": "align", "rank": "rank"}
_TERM = re.compile(r"loss_(?P<kind>[a-z]+)_?(?P<output>aux|dn|enc)?_?(?P<layer>\d+)?")
# Where the library weights terms outside of the dictionary that it returns.
_WEIGHTS = {"cls": "class_loss_coefficient", "l1": "bbox_loss_coefficient", "giou": "giou_loss_coefficient"}
# Terms that are not divided by the number of objects of this process.
_UNDIVIDED = ("ddf", "align", "rank")


class TransformersCriterion:
    """(Predictions, targets of every image) -> LossTerms: cls, l1 and giou of the last layer (of D-FINE fgl and ddf,
    too); the same with `layers_`, summed over those before it, `proposals_` of the encoder, and `denoising_`. With
    ranking losses also `align` and `rank`, and `layers_` of these.

    Predictions without `raw`, those of evaluation, have the terms of the last layer.
    """

    def __init__(self, config: TransformersConfig) -> None:
        architecture = config.model.architecture
        self.architecture, self.ranking = architecture, config.ranking
        self.config = library_config(architecture, config.model.config, config.num_channels)
        self.channels = None if config.channels is None else torch.tensor(config.channels)
        self.last_layer = library_config(architecture, config.model.config, config.num_classes)
        self.last_layer.auxiliary_loss = False
        self.grouped = hasattr(self.config, "group_detr")
        if self.grouped:
            self.last_layer.group_detr = 1

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        assert predictions.sizes is not None
        with outside_autocast(predictions.boxes):
            trained = predictions.raw is not None
            channels = self.channels if trained else None
            labels = labels_of(targets, predictions.sizes.to(predictions.boxes), channels)
            arguments = dict(predictions.raw) if trained else self._of_evaluation(predictions)
            config = self.config if trained else self.last_layer
            loss = RankedLoss(self.architecture, self.ranking, progress, alone)
            try:
                with _one_process():
                    _, terms, _ = loss(
                        **_at_least_float32(arguments), labels=labels, device=predictions.boxes.device, config=config
                    )
            except ValueError as error:  # of matching, where boxes are not finite
                raise TrainingError(f"the loss cannot be computed ({first_line(error)})") from None
        count = predictions.boxes.new_tensor([sum(len(target.labels) for target in targets)])
        factor = (count.clamp(min=1) / shared_normalizer(count, alone=alone))[0]
        parts = self._parts(terms, factor, trained)
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def _of_evaluation(self, predictions: Predictions) -> dict[str, Any]:
        assert predictions.sizes is not None
        scale = predictions.sizes.flip(-1).repeat(1, 2)[:, None]
        found = {"logits": predictions.logits, "pred_boxes": xyxy_to_cxcywh(predictions.boxes) / scale}
        if self.grouped:  # it asks for proposals; their terms are left out
            found |= {"enc_outputs_class": predictions.logits, "enc_outputs_coord": found["pred_boxes"]}
        return found

    def _parts(self, terms: Mapping[str, Tensor], factor: Tensor, trained: bool) -> dict[str, Tensor]:
        matches = {name: match for name in terms if (match := _TERM.fullmatch(name)) and match["kind"] in NAMES}
        last = max((int(m["layer"]) for m in matches.values() if m["output"] == "aux"), default=-1)
        parts: dict[str, Tensor] = {}
        for name, match in matches.items():
            prefix, kind = _prefix(match, last), NAMES[match["kind"]]
            if prefix == "proposals_" and not trained:
                continue
            value = terms[name] * self._weight(kind)
            value = value if kind in _UNDIVIDED else value * factor
            parts[prefix + kind] = parts[prefix + kind] + value if prefix + kind in parts else value
        return parts

    def _weight(self, kind: str) -> float:
        if hasattr(self.config, "weight_loss_bbox") or kind not in _WEIGHTS:
            return 1.0  # the dictionary's are weighted already
        return float(getattr(self.config, _WEIGHTS[kind], 1.0))


def _prefix(match: re.Match[str], last: int) -> str:
    """`_aux_` counts decoder layers and then the encoder's proposals, whose number is `last`."""
    if match["output"] == "dn":
        return "denoising_"
    if match["output"] == "enc" or (match["output"] == "aux" and int(match["layer"]) == last):
        return "proposals_"
    return "" if match["layer"] is None else "layers_"


def _at_least_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return at_least_float32(value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _at_least_float32(inner) for name, inner in value.items()}
    return value


@contextmanager
def _one_process() -> Iterator[None]:
    """One of the library's losses would add up objects over all processes, and wait for those that do not take part."""
    from transformers.loss import loss_lw_detr

    known = getattr(loss_lw_detr, "_is_torch_distributed_initialized", None)
    if known is None:
        yield
        return
    loss_lw_detr._is_torch_distributed_initialized = bool
    try:
        yield
    finally:
        loss_lw_detr._is_torch_distributed_initialized = known
