"""`Detector`: the object that trains, evaluates, predicts and exports; and `diagnose`, for any detector's results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from alignrank.arguments import number, place, switch, whole
from alignrank.class_names import distinct_names
from alignrank.errors import InputError, nearest
from alignrank.imports import collecting_later

if TYPE_CHECKING:
    from torch import nn

    from alignrank.contracts import Detections
    from alignrank.evaluation.diagnose import RankDiagnosis
    from alignrank.export.runtimes import ExportedFile
    from alignrank.input_size import ImageSize
    from alignrank.metrics import Metrics
    from alignrank.metrics.inputs import Id, Source
    from alignrank.training.callbacks import EpochCallback
    from alignrank.weights.checkpoint import Checkpoint
    from alignrank.weights.deployed import Deployed, SelectionOptions
    from alignrank.weights.recipe import Recipe


class Detector:
    """A detector by recipe name, new or trained.

    `Detector("yolov8-n", classes=["cat", "dog"])` has random weights, for 80 numbered classes where none are named;
    `Detector("transformers/dfine-n", pretrained="hub")` has published ones with their classes (pretrained: as the
    recipe's `model.pretrained`); `Detector.load(path)` has those of a file. Recipe fields are set as
    `**{"head.dual": True}`. Raises InputError for unknown names and bad files.
    """

    def __init__(
        self, model: str = "yolov8-n", *, classes: Sequence[str] | None = None, pretrained: str | Path | None = None,
        **overrides: Any,
    ) -> None:  # fmt: skip
        from alignrank.weights.catalog import check_recipe

        if pretrained is not None:
            overrides |= {"model.pretrained": str(place("pretrained", pretrained))}
        self._name, self._overrides = str(place("model", model)), overrides
        check_recipe(self._name, "Detector")
        with collecting_later():
            from alignrank.weights.published import published
            from alignrank.weights.recipe import load_recipe
            from alignrank.weights.untrained import NUMBERED_CLASSES

        self._wanted_classes = None if classes is None else distinct_names(classes)
        self.classes: tuple[str, ...] = self._wanted_classes or NUMBERED_CLASSES
        self.recipe: Recipe = load_recipe(
            self._name, num_classes=len(self.classes), overrides=overrides, where="Detector"
        )
        self.weights: Path | None = None
        self._loaded: Checkpoint | None = published(self.recipe, overrides, self._wanted_classes)
        if self._loaded is not None:
            self.recipe, self.classes = self._loaded.recipe, self._loaded.classes
        self._file: ExportedFile | None = None
        self._forget()

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """A trained detector from a `.safetensors` file, a run's folder or the hub (`hf://OWNER/NAME`, with `@REVISION`
        where it is not the latest); also an exported file, which can `predict`, `val` and `benchmark`, and has neither
        `recipe` nor `model`.
        """
        with collecting_later():
            from alignrank.weights import checkpoint
            from alignrank.weights.catalog import is_exported

        detector, path = cls.__new__(cls), place("weights", path)
        if is_exported(path):
            detector._adopt_file(path)
        else:
            detector._adopt(checkpoint.load(path))
        return detector

    def _adopt_file(self, path: Path) -> None:
        from alignrank.export.runtimes import open_exported

        self._file = open_exported(path)
        self.classes, self.weights, self._name = self._file.classes, path, self._file.recipe
        self._overrides, self._wanted_classes, self._loaded = {}, None, None
        self._forget()

    def _refuse_file(self) -> None:
        """Raises InputError for what an exported file cannot do."""
        from alignrank.weights import checkpoint

        if self._file is not None:
            checkpoint.load(self._file.path)

    def _adopt(self, loaded: Checkpoint) -> None:
        self.recipe, self.classes, self.weights = loaded.recipe, loaded.classes, loaded.path
        self._name, self._overrides, self._wanted_classes = loaded.recipe.name, {}, None
        self._loaded, self._file = loaded, None
        self._forget()

    def _forget(self) -> None:
        """What was made of earlier weights."""
        self._model: nn.Module | None = None
        self._model_as_made = 0
        self._deployed: Deployed | None = None
        self._deployed_as: tuple[SelectionOptions, int | None] | None = None

    @property
    def model(self) -> nn.Module:
        """The network in evaluation mode, random where nothing was trained or loaded (a backbone, too).

        The same object each time, until `train` replaces it. Changed weights count in `val`, `predict` and `export`.
        """
        from alignrank.weights.untrained import random_model

        self._refuse_file()
        if self._model is None:
            self._model = random_model(self.recipe) if self._loaded is None else self._loaded.build_model()
            self._model_as_made = _changes(self._model)
        return self._model

    def __repr__(self) -> str:
        weights = str(self.weights) if self.weights else None
        return f"Detector({self._name!r}, classes={list(self.classes)}, weights={weights!r})"

    def train(
        self, data: str | Path, *, callbacks: Sequence[EpochCallback | Callable[[int, Mapping[str, float]], Any]] = (),
        **options: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Train on a data set and keep the best weights.

        data: folder or file, or `digits`. options: those of `alignrank train` (epochs, batch, imgsz, lr, seed,
        workers, device, devices, out, val) and `**{"section.field": value}`. A trained detector goes on
        from its weights. callbacks: functions of (epoch, metrics), or objects with such an `on_epoch_end`, called after
        each epoch; True, or a text that says why, ends the run. Returns {out, weights, metrics, processed, skipped}.
        """
        from alignrank.training.options import read_options
        from alignrank.weights import checkpoint

        dotted = {key: value for key, value in options.items() if "." in key}
        given = {key: _plain(key, value) for key, value in options.items() if "." not in key}
        given["data"] = str(place("data", data))
        if self.weights is None:
            given["model"] = self._name
        else:
            given.setdefault("weights", str(self.weights))
        read = read_options(None, given, {**self._overrides, **dotted}, caller="train")
        from alignrank.training import run  # with Lightning, most of a start: a mistake is told before

        result = run.train(*read, classes=self._wanted_classes, callbacks=callbacks)
        self._adopt(checkpoint.load(result["weights"]))
        return result

    def val(
        self,
        data: str | Path,
        *,
        split: str = "val",
        out: str | Path | None = None,
        conf: float | None = None,
        iou: float | None = None,
        max_dets: int = 100,
        device: str = "auto",
        **options: Any,
    ) -> Metrics:
        """COCO figures on a split of a data set; `out`: a folder for plots and results.

        A detector that was neither trained nor given classes is one for those of the data.

        conf, iou: of the selection; where not given the recipe's, else 0.001 and 0.7. max_dets: detections per image
        that count. options: imgsz, rect, batch, nms, oracle, ..., see `evaluation.options.ValOptions`; tile and overlap
        as of `predict`.
        """
        from alignrank.contracts import WantedThresholds
        from alignrank.evaluation.options import ValOptions
        from alignrank.evaluation.val import val_to_folder
        from alignrank.inference.windows import Tiling

        known = ("imgsz", "rect", "batch", "nms", "oracle", "agnostic", "consensus", "tta", "tile", "overlap")
        for name in options:
            if name not in known:
                raise InputError(f"val: unknown option {name!r}; {nearest(name, known)}")
        tiling = Tiling.of(options.pop("tile", None), options.pop("overlap", None))
        wanted = ValOptions(thresholds=WantedThresholds(conf, iou), coco_max_dets=max_dets, tiling=tiling, **options)
        weights: Path | Checkpoint | Recipe = self._file.path if self._file is not None else self._checkpoint()
        if self._file is None and self._wanted_classes is None and self._is_random():
            weights = self.recipe  # nobody has named classes: those of the data will do
        return val_to_folder(weights, str(place("data", data)), wanted, split=split, out=out, device=device)

    @overload
    def predict(
        self, source: Any, *, stream: Literal[False] = ...,
        conf: float | None = ..., iou: float | None = ..., classes: Sequence[int | str] | None = ...,
        max_dets: int | None = ..., imgsz: ImageSize | None = ..., rect: bool | None = ..., batch: int = ...,
        device: str = ..., nms: bool = ..., agnostic: bool = ..., consensus: float | None = ...,
        tta: bool = ..., tile: int | None = ..., overlap: float | None = ..., keep_images: bool | None = ...,
    ) -> list[Detections]: ...  # fmt: skip

    @overload
    def predict(
        self, source: Any, *, stream: Literal[True],
        conf: float | None = ..., iou: float | None = ..., classes: Sequence[int | str] | None = ...,
        max_dets: int | None = ..., imgsz: ImageSize | None = ..., rect: bool | None = ..., batch: int = ...,
        device: str = ..., nms: bool = ..., agnostic: bool = ..., consensus: float | None = ...,
        tta: bool = ..., tile: int | None = ..., overlap: float | None = ..., keep_images: bool | None = ...,
    ) -> Generator[Detections, None, None]: ...  # fmt: skip

    def predict(
        self,
        source: Any,
        *,
        stream: bool = False,
        conf: float | None = None,
        iou: float | None = None,
        classes: Sequence[int | str] | None = None,
        max_dets: int | None = None,
        imgsz: ImageSize | None = None,
        rect: bool | None = None,
        batch: int = 1,
        device: str = "auto",
        nms: bool = False,
        agnostic: bool = False,
        consensus: float | None = None,
        tta: bool = False,
        tile: int | None = None,
        overlap: float | None = None,
        keep_images: bool | None = None,
    ) -> list[Detections] | Generator[Detections, None, None]:
        """Detections of every image of `source`, in a list; stream=True: one by one, in constant memory.

        source: a path, folder, glob, video, `.txt` list of paths, http(s) or rtsp address, camera number; an array
        [H,W,3] uint8 RGB, tensor [3,H,W] or [B,3,H,W] (uint8, or float 0..1), PIL image, bytes of an image file; a list
        or iterator of these or of (name, image) pairs. An iterator is never drained ahead.
        conf, iou, max_dets: where not given the recipe's (`postprocess` section), else 0.25, 0.7 and 300. imgsz: the
        longer side, or (shorter, longer); rect: an input of the image's own shape, not a square one; both as trained
        where not given. nms: the one-to-many output and NMS, also where there is an NMS-free one. agnostic: one object,
        one class. consensus: overlap above which boxes are merged, else as trained. tta: see the mirror image, too.
        tile: look at images in square tiles of this side, px, `batch` at a time, and as a whole; overlap: share of it
        that neighbours have in common, 0.2 where not given. max_dets is a tile's then, unless it is given.
        keep_images: detections carry their image, for `plot` and `save`; where not given they do in a list only.
        """
        from alignrank.contracts import WantedThresholds
        from alignrank.inference.options import PredictOptions
        from alignrank.inference.predict import gathered, predict
        from alignrank.inference.sources import Sources
        from alignrank.inference.windows import Tiling
        from alignrank.weights.deployed import SelectionOptions

        options = PredictOptions(
            thresholds=WantedThresholds(conf, iou, max_dets), classes=classes, imgsz=imgsz, rect=rect, batch=batch,
            keep_images=not stream if keep_images is None else keep_images, tiling=Tiling.of(tile, overlap),
        )  # fmt: skip
        stream, selection = switch("stream", stream), SelectionOptions(nms, agnostic, consensus, tta)
        sources = Sources(source)
        if sources.live is not None and not stream:
            raise InputError(f"{sources.live}: does not end, and so would no list of its detections; use stream=True")
        found = predict(self._ready(device, selection), sources, options)
        return found if stream else gathered(found)

    def track(
        self, source: Any, *, tracker: str = "bytetrack", low: float = 0.1, memory: float = 1.0, confirm: int = 2,
        keep_images: bool = False, device: str = "auto", **options: Any,
    ) -> Generator[Detections, None, None]:  # fmt: skip
        """Detections of each frame of `source` in order, with `ids` that objects keep, one by one in constant memory.

        source: as of `predict`; images of a folder, or in memory, are frames, too. tracker: bytetrack, ocsort or sort.
        low: score from which on an object goes on with a track, which one begins only from `conf` on. memory: seconds
        for which a lost object is waited for. confirm: frames in a row with which an object gets its id; it is not
        given before. options: conf, classes, imgsz, batch, tile, ... of `predict`.
        """
        from alignrank.contracts import WantedThresholds
        from alignrank.inference.options import PredictOptions, TrackOptions
        from alignrank.inference.predict import predict
        from alignrank.inference.sources import Sources
        from alignrank.inference.windows import Tiling
        from alignrank.weights.deployed import SelectionOptions

        groups = (
            ("conf", "iou", "max_dets"), ("nms", "agnostic", "consensus", "tta"), ("tile", "overlap"),
            ("classes", "imgsz", "rect", "batch"),
        )  # fmt: skip
        for name in options:
            if not any(name in group for group in groups):
                raise InputError(f"track: unknown option {name!r}; {nearest(name, [n for g in groups for n in g])}")
        thresholds, selection, tiles, others = (
            {name: options[name] for name in group if name in options} for group in groups
        )
        wanted = PredictOptions(
            thresholds=WantedThresholds(**thresholds), keep_images=keep_images,
            tiling=Tiling.of(tiles.get("tile"), tiles.get("overlap")),
            tracking=TrackOptions(tracker, low, memory, confirm), **others,
        )  # fmt: skip
        sources = Sources(source)
        return predict(self._ready(device, SelectionOptions(**selection)), sources, wanted)

    def export(
        self, format: str = "onnx", *, imgsz: ImageSize | None = None, out: str | Path | None = None,
        nms: bool = False, dynamic: bool = False, half: bool = False, int8: bool = False, agnostic: bool = False,
        consensus: float | None = None, data: str | Path | None = None, split: str = "val", check: bool = True,
    ) -> Path:  # fmt: skip
        """Write the model beside its weights (or to `out`) and check that it says the same. Returns the path.

        Random weights go to RECIPE.SUFFIX in the working folder. format: onnx, openvino, pt2, torchscript, litert,
        coreml. nms: suppression within the graph; dynamic: an input of any sides; half: weights of 16 bits;
        int8: of 8, activations too, with ranges from images of `data`.
        data, split: whose images both are compared on, drawn ones where not given; check: False leaves that out.
        """
        from alignrank.export.options import ExportOptions
        from alignrank.inference.exported import Samples, export_checked
        from alignrank.weights.deployed import SelectionOptions

        options = ExportOptions(imgsz, nms=nms, dynamic=dynamic, half=half, int8=int8)
        selection = SelectionOptions(agnostic=agnostic, consensus=consensus)
        samples = Samples(None if data is None else str(place("data", data)), split, off=not switch("check", check))
        return export_checked(
            self._checkpoint(), format, options=options, selection=selection, out=out, samples=samples
        )

    def push_to_hub(
        self, repository: str, *, token: str | None = None, private: bool | None = None, data: str | None = None,
        licence: str | None = None, picture: bool = True,
    ) -> str:  # fmt: skip
        """Put weights, recipe and a page for their reader on the Hugging Face hub, in one commit; see docs/hub.md.

        repository: OWNER/NAME, made if it is not there. token: where not given, that of `hf auth login` or HF_TOKEN.
        data: what the data set is called, its address, or hf://datasets/OWNER/NAME. licence: of the weights, as the hub
        writes it (apache-2.0). picture: the run's sheet of validation images, too. Returns hf://OWNER/NAME@COMMIT.
        """
        from alignrank.weights.publish import PushOptions, push

        self._refuse_file()
        if self._is_random():
            raise InputError("push: these weights are random; train the detector first, or load trained ones")
        options = PushOptions(token, private, data, licence, switch("picture", picture))
        changed = self._model is not None and _changes(self._model) != self._model_as_made
        return str(push(self._checkpoint(), repository, options, changed=changed)["address"])

    def benchmark(
        self, *, imgsz: ImageSize | None = None, batches: Sequence[int] = (1, 8, 16),
        engines: Sequence[str] | None = None, rounds: int = 30, image: str | Path | None = None, memory: bool = True,
        device: str = "auto", out: str | Path | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Latency by part, throughput and memory, by engine: see docs/benchmark.md. Returns the figures.

        engines: of eager, contiguous, bf16, fp16, onnx, openvino, pt2, torchscript, litert; where not given the usual
        ones that are installed. out: a new folder for benchmark.json and benchmark.png.
        """
        from alignrank.benchmark.options import BenchmarkOptions
        from alignrank.benchmark.run import benchmark, benchmark_to_folder

        options = BenchmarkOptions(imgsz, batches, engines, rounds, image, memory)
        subject = self._file.path if self._file is not None else self._checkpoint()
        if out is None:
            return benchmark(subject, options, device=device)
        return benchmark_to_folder(subject, options, out=out, device=device)

    def _ready(self, device: Any, selection: SelectionOptions) -> Deployed:
        """The network on `device`, made anew where the one of the last call is another."""
        from alignrank.export.runtimes import ready
        from alignrank.weights.deployed import deploy

        device = "auto" if device is None else str(device)
        if self._file is not None:
            return ready(self._file, device, selection)
        model = self._model if self._loaded is not None else self.model
        wanted = selection, None if model is None else _changes(model)
        moved = device != "auto" and self._deployed is not None and str(self._deployed.device) != device
        if self._deployed is None or moved or self._deployed_as != wanted:
            self._deployed, self._deployed_as = deploy(self._checkpoint(), device, selection=selection), wanted
        return self._deployed

    def _checkpoint(self) -> Checkpoint:
        """The present weights, with a warning where they are random."""
        from alignrank.weights.untrained import untrained, warn_of_random_weights

        self._refuse_file()
        if self._loaded is not None:
            return self._loaded if self._model is None else replace(self._loaded, weights=self._model.state_dict())
        if self._is_random():
            warn_of_random_weights()
        return untrained(self.recipe, self.classes, self.model)

    def _is_random(self) -> bool:
        return self._loaded is None and _changes(self.model) == self._model_as_made


def _plain(option: str, value: Any) -> Any:
    """Python's own values, as a recipe takes them."""
    if option in ("epochs", "seed", "workers", "devices") or (option == "batch" and value != "auto"):
        return whole(option, value)
    if option == "lr":
        return number(option, value)
    return str(value) if isinstance(value, Path) or (option == "device" and value is not None) else value


def _changes(model: nn.Module) -> int:
    """A number that grows with each change of the weights in place, as optimizers and `load_state_dict` make them."""
    return sum(tensor._version for tensor in model.state_dict().values())


def diagnose(
    gt: Source,
    dt: Source,
    dt2: Source | None = None,
    *,
    images: str | Path | None = None,
    classes: Sequence[Id] | None = None,
    max_dets: int = 100,
    tau: float = 0.5,
    gap: float = 0.05,
    conf: float = 0.25,
    replicates: int = 200,
    seed: int = 0,
) -> RankDiagnosis:
    """Diagnose the COCO results `dt` of any detector against ground truth `gt`, beside those of a second one if given.

    gt, dt, dt2: paths of COCO JSON files, or the parsed objects. images: the folder of the images, for pictures in
    the report. classes: only these, by name or category id. max_dets: detections that count per image and class.
    tau: IoU threshold of LRP. gap: IoU difference from which on two boxes of an object have an order. conf: score of
    the operating point. replicates, seed: of the bootstrap over images. Raises InputError for unusable input.
    """
    from alignrank.evaluation.diagnose import diagnose as run
    from alignrank.evaluation.options import DiagnosisOptions

    return run(gt, dt, dt2, DiagnosisOptions(images, classes, max_dets, tau, gap, conf, replicates, seed))
