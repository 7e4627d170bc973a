"""`Detector`: the object that trains, evaluates, predicts and exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignrank.errors import InputError

if TYPE_CHECKING:
    from alignrank.contracts import Detections
    from alignrank.engine.checkpoint import Checkpoint
    from alignrank.engine.deploy import Deployed
    from alignrank.engine.recipe import Recipe
    from alignrank.metrics import Metrics


class Detector:
    """A detector by recipe name, new or trained.

    `Detector("yolov8-n", classes=["cat", "dog"])` has random weights; `Detector.load(path)` has those of a
    file. Recipe fields are set as `**{"head.dual": True}`. Raises InputError for unknown names and bad files.
    """

    def __init__(self, model: str = "yolov8-n", *, classes: Sequence[str] | None = None, **overrides: Any) -> None:
        from alignrank.engine.recipe import load_recipe

        names = tuple(classes) if classes is not None else ()
        self._name = model
        self._overrides = overrides
        self.recipe: Recipe = load_recipe(model, num_classes=max(len(names), 1), overrides=overrides)
        self.classes: tuple[str, ...] = names
        self.weights: Path | None = None
        self._loaded: Checkpoint | None = None
        self._deployed: Deployed | None = None
        self._with_nms = False

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """A trained detector from a `.safetensors` file or a run's folder."""
        from alignrank.engine import checkpoint

        detector = cls.__new__(cls)
        detector._adopt(checkpoint.load(path))
        return detector

    def _adopt(self, loaded: Checkpoint) -> None:
        self.recipe, self.classes, self.weights = loaded.recipe, loaded.classes, loaded.path
        self._name, self._overrides = loaded.recipe.name, {}
        self._loaded, self._deployed, self._with_nms = loaded, None, False

    def __repr__(self) -> str:
        weights = str(self.weights) if self.weights else None
        return f"Detector({self.recipe.name!r}, classes={list(self.classes)}, weights={weights!r})"

    def train(self, data: str | Path, **options: Any) -> dict[str, Any]:
        """Train on a data set and keep the best weights.

        data: folder or file, or `digits`. options: those of `alignrank train` (epochs, batch, imgsz, lr, seed,
        workers, device, devices, out, val) and `**{"section.field": value}`. A trained detector goes on
        from its weights. Returns {out, weights, metrics, processed, skipped}.
        """
        from alignrank.engine import checkpoint, run
        from alignrank.engine.options import read_options

        dotted = {key: value for key, value in options.items() if "." in key}
        given = {
            key: str(value) if isinstance(value, Path) else value for key, value in options.items() if "." not in key
        }
        given["data"] = str(data)
        if self.weights is None:
            given["model"] = self._name
        else:
            given.setdefault("weights", str(self.weights))
        classes = self.classes if self.classes and self.weights is None else None
        result = run.train(*read_options(None, given, {**self._overrides, **dotted}), classes=classes)
        self._adopt(checkpoint.load(result["weights"]))
        return result

    def val(self, data: str | Path, *, split: str = "val", out: str | Path | None = None, **options: Any) -> Metrics:
        """COCO figures on a split of a data set; `out`: a folder for plots and results.

        options: imgsz, batch, conf, iou, max_dets, device, nms.
        """
        from alignrank.engine import run

        return run.validate_weights(self._weights(), str(data), split=split, out=out, **options)

    def predict(
        self,
        source: Any,
        *,
        conf: float | None = None,
        iou: float | None = None,
        classes: Sequence[int | str] | None = None,
        max_dets: int | None = None,
        imgsz: int | None = None,
        batch: int = 1,
        device: str = "auto",
        nms: bool = False,
    ) -> list[Detections]:
        """Detections of every image of `source`: a path, glob, video, array [H,W,3] uint8 RGB, or a list of them.

        conf, iou, max_dets: where not given the recipe's (`postprocess` section), else 0.25, 0.7 and 300. nms: from the
        one-to-many output, with NMS, also where the model has an NMS-free one.
        """
        other_device = device != "auto" and self._deployed is not None and str(self._deployed.device) != device
        if self._deployed is None or other_device or self._with_nms != nms:
            from alignrank.engine.deploy import deploy

            self._deployed, self._with_nms = deploy(self._loaded or self._weights(), device, nms=nms), nms
        return list(
            self._deployed.detect(
                source,
                imgsz=imgsz,
                conf=conf,
                iou=iou,
                classes=classes,
                max_dets=max_dets,
                batch=batch,
                keep_images=True,
            )
        )

    def export(
        self, format: str = "onnx", *, imgsz: int | None = None, out: str | Path | None = None, nms: bool = False
    ) -> Path:
        """Write the model beside its weights (or to `out`) and check that it says the same. Returns the path."""
        from alignrank.engine.deploy import export_weights

        return export_weights(self._weights(), format, imgsz=imgsz, out=out, nms=nms)

    def _weights(self) -> Path:
        if self.weights is None:
            raise InputError(
                "this detector has random weights: train it, or load trained ones with Detector.load(path)"
            )
        return self.weights
