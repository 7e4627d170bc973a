"""What was found in one image: chosen from, converted, cut out and drawn.

Shape letters: N detections.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alignrank.class_names import class_labels
from alignrank.errors import InputError
from alignrank.extras import optional
from alignrank.terminal.progress import warn

if TYPE_CHECKING:
    import supervision

Array = np.ndarray[Any, Any]

SHOWN_SIDE = 1600  # px of the longer side in a notebook, which keeps its pictures in its file


@dataclass(slots=True)
class Detections:
    """Objects found in one image, best first.

    boxes [N,4] float32 xyxy in pixels of the original image; scores [N] in 0..1; labels [N] int64;
    names: class names by label; source: file (and frame) name; size: (height, width) of the image;
    path: the file, address or camera that it is from, None for arrays; ids [N] int64: of tracks, None where nothing is
    tracked.

    `len`, indexing and iteration are over objects: `found[0]`, `found[:10]`, `found[found.scores > 0.5]` and
    `found[[0, 2]]` are Detections too, and so is each object of a loop, with one box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: Sequence[str]
    source: str = ""
    size: tuple[int, int] = (0, 0)
    image: Array | None = field(default=None, repr=False)
    path: str | None = None
    ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """The chosen objects of the same image. Raises IndexError beyond the end, InputError for what is no index."""
        chosen = _indices(index, len(self)).to(self.scores.device)
        ids = None if self.ids is None else self.ids[chosen]
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen], ids=ids)

    def __iter__(self) -> Iterator[Detections]:
        return (self[index] for index in range(len(self)))

    @property
    def class_names(self) -> list[str]:
        """The name of each object's class."""
        return [self.names[label] for label in self.labels.tolist()]

    def filter(self, *, classes: Any = None, conf: float | None = None) -> Detections:
        """Those of some classes (by name or label, one or several), scored above `conf`, as `predict` would give them.

        Raises InputError for an unknown class, and for a `conf` out of 0..1.
        """
        keep = torch.ones_like(self.scores, dtype=torch.bool)
        if conf is not None:
            if not isinstance(conf, int | float | np.number) or not 0 <= conf <= 1:
                raise InputError(f"conf: must be from 0 to 1, got {conf}")
            keep &= self.scores > float(conf)
        if classes is not None:
            wanted = class_labels(classes, self.names)
            keep &= torch.isin(self.labels, torch.tensor(wanted, device=self.labels.device))
        return self[keep]

    def crops(self) -> list[Array]:
        """The pixels of each box, uint8 [h,w,3]: to the nearest pixel, clipped to the image, one pixel at least.

        Raises InputError if the detections do not carry their image.
        """
        image = self._image()
        height, width = image.shape[:2]
        limits = np.array([width, height] * 2)
        corners = np.nan_to_num(self.boxes.cpu().double().numpy()).round().clip(0, limits).astype(int)
        cut = []
        for x0, y0, x1, y1 in corners.tolist():
            x, y = min(x0, width - 1), min(y0, height - 1)
            cut.append(image[y : max(y1, y + 1), x : max(x1, x + 1)].copy())
        return cut

    def to_dict(self) -> dict[str, Any]:
        """Plain values: {source, path, size, boxes, scores, labels, names}; size: [height, width]; a name each box.
        With ids where there are tracks.
        """
        values = {
            "source": self.source,
            "path": self.path,
            "size": list(self.size),
            "boxes": [[round(v, 3) for v in box] for box in self.boxes.tolist()],
            "scores": [round(s, 6) for s in self.scores.tolist()],
            "labels": self.labels.tolist(),
            "names": self.class_names,
        }
        return values if self.ids is None else values | {"ids": self.ids.tolist()}

    def to_json(self, path: str | Path | None = None) -> str:
        """The dictionary above as JSON text, also written to `path` if given."""
        text = json.dumps(self.to_dict())
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_coco(
        self, image_id: int | str, category_ids: Mapping[Any, int] | Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results {image_id, category_id, bbox, score}, one for each object; bbox: x, y, width, height.

        category_ids: the ground truth's category id by label (a list, or a mapping) or by class name (a mapping);
        not given, the label itself. Raises InputError for a class that it lacks.
        """
        ids = {label: _category_id(label, self.names[label], category_ids) for label in set(self.labels.tolist())}
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": ids[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for (x0, y0, x1, y1), score, label in rows
        ]

    def to_pandas(self) -> Any:
        """A pandas DataFrame of one row an object: source, x0, y0, x1, y1, score, label, name.

        Raises InputError where pandas is not installed.
        """
        return _optional("pandas").DataFrame(self._columns())

    def to_polars(self) -> Any:
        """The same as a polars DataFrame. Raises InputError where polars is not installed."""
        return _optional("polars").DataFrame(self._columns())

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`, class names under `data["class_name"]`.

        Raises InputError where supervision is not installed.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its notice that OpenCV is absent
            sv = optional("supervision", "supervision")
        found: supervision.Detections = sv.Detections(
            xyxy=self.boxes.cpu().float().numpy().reshape(-1, 4),
            confidence=self.scores.cpu().float().numpy(),
            class_id=self.labels.cpu().numpy().astype(int),
            tracker_id=None if self.ids is None else self.ids.numpy(),
            data={"class_name": np.array(self.class_names, dtype=object)},
        )
        return found

    def plot(self) -> Array:
        """The image with boxes, names and scores drawn on it: [H,W,3] uint8 RGB, as large as the image. Of tracks also
        ids, each in a colour of its own.

        Raises InputError if the detections do not carry their image.
        """
        return self._drawn()

    def save(self, path: str | Path) -> Path:
        """Write the drawn image to `path` (format by its ending)."""
        from PIL import Image

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.plot()).save(path)
        return path

    def show(self) -> None:
        """The drawn image, small ones enlarged, in the notebook or in a window; without a display, a warning.

        Raises InputError if the detections do not carry their image.
        """
        from PIL import Image, ImageShow

        picture = Image.fromarray(self._drawn(enlarge=True))
        notebook = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if hasattr(notebook, "kernel"):
            import_module("IPython.display").display(self)
            return
        headless = sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        )
        try:
            shown = not headless and ImageShow.show(picture, self.source)
        except OSError:
            shown = False
        if not shown:
            warn("show: there is no display or no program that shows pictures here; write a file with .save(PATH)")

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the drawn image, 1600 px at most; None without an image."""
        from PIL import Image

        if self.image is None:
            return None
        picture = Image.fromarray(self._drawn(enlarge=True))
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    def _drawn(self, *, enlarge: bool = False) -> Array:
        from alignrank.drawing import color, draw_boxes, readable

        boxes, labels, scores = (values.cpu().numpy() for values in (self.boxes, self.labels, self.scores))
        if self.ids is None:
            return draw_boxes(self._image(), boxes, labels, self.names, scores, enlarge=enlarge)
        ids, names = self.ids.tolist(), readable(self.names)
        texts = [f"{names[label]} {number}" for label, number in zip(labels.tolist(), ids, strict=True)]
        colors = [color(number - 1) for number in ids]
        return draw_boxes(self._image(), boxes, np.arange(len(ids)), texts, scores, enlarge=enlarge, colors=colors)

    def _image(self) -> Array:
        if self.image is None:
            raise InputError("these detections carry no image: predict with keep_images=True")
        return self.image

    def _columns(self) -> dict[str, Any]:
        corners = self.boxes.cpu().numpy().reshape(-1, 4).T
        return {
            "source": [self.source] * len(self),
            **dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True)),
            "score": self.scores.cpu().numpy(),
            "label": self.labels.cpu().numpy(),
            "name": self.class_names,
            **({} if self.ids is None else {"id": self.ids.numpy()}),
        }


def _indices(index: Any, count: int) -> Tensor:
    """An index of any kind -> positions [K] from 0 to `count` - 1, int64."""
    try:
        if isinstance(index, slice):
            return torch.tensor(range(count)[index], dtype=torch.int64)
        array = np.asarray(index.detach().cpu() if isinstance(index, Tensor) else index)
    except (TypeError, ValueError):
        array = np.array(None)
    if array.dtype == bool and array.ndim:
        if array.shape != (count,):
            raise InputError(f"detections: a mask of shape {list(array.shape)} does not fit {count} objects")
        array = np.flatnonzero(array)
    if array.shape == (0,):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise InputError(
            f"detections: objects are chosen by number, slice, list or mask, got {repr(index)[:60]}; "
            "by class or score with .filter(classes=..., conf=...)"
        )
    positions = array.reshape(-1).astype(np.int64)
    beyond = positions[(positions < -count) | (positions >= count)]
    if len(beyond):
        raise IndexError(f"detections: no object {beyond[0]} among {count}")
    return torch.from_numpy(np.where(positions < 0, positions + count, positions))


def _category_id(label: int, name: str, category_ids: Mapping[Any, int] | Sequence[int] | None) -> int:
    if category_ids is None:
        return label
    if not isinstance(category_ids, Mapping):
        category_ids = dict(enumerate(category_ids))
    given = next((category_ids[key] for key in (name, label, str(label)) if key in category_ids), None)
    if given is None:
        raise InputError(f"category_ids: has no id for the class {name!r}, label {label}")
    if isinstance(given, bool) or not isinstance(given, int | np.integer):
        raise InputError(f"category_ids: the id of {name!r} must be a whole number, got {given!r}")
    return int(given)


def _optional(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"to_{package}: needs the package {package}; run `pip install {package}`") from None
