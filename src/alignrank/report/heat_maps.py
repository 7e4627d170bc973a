"""Heat maps of what goes on inside a network, as PNG files: fields over the input, maps over the image.

Shape letters: H, W px of the input or image; h, w cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.report.pictures import readable_captions
from alignrank.report.plot_parts import INK, new_figure, saved

Array = np.ndarray[Any, Any]

# Of fields: most of a field is weak, and would be black on a straight scale.
POWER = 0.5
COLUMNS = 4
# Characters over a panel.
LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class FieldPanel:
    """field [H,W], at least 0, of any scale; sigma in px and centre (x,y) in px from the upper left corner, None where
    the field is nothing.
    """

    title: str
    field: Array
    sigma: float | None
    centre: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class MapPanel:
    """values [h,w]; extent: (left, right, bottom, top) of them, px of the image; signed: colours part at 0."""

    title: str
    values: Array
    extent: tuple[float, float, float, float]
    signed: bool = False


def plot_fields(rows: Sequence[Sequence[FieldPanel]], path: str | PathLike[str]) -> Path:
    """Rows of fields, each as bright as it is strong in parts of its strongest pixel, with a circle of radius sigma."""
    from matplotlib.patches import Circle

    columns = max(len(row) for row in rows)
    figure, axes = new_figure(columns * len(rows), columns, width=2.5, height=2.75)
    for number, axis in enumerate(axes):
        row, column = divmod(number, columns)
        if column >= len(rows[row]):
            axis.set_axis_off()
            continue
        panel = rows[row][column]
        height, width = panel.field.shape
        most = float(panel.field.max())
        bright = (panel.field / most) ** POWER if most > 0 else np.zeros_like(panel.field)
        drawn = axis.imshow(bright, cmap="magma", vmin=0, vmax=1, extent=(0, width, height, 0))
        below = "nothing reaches it"
        if panel.sigma is not None and panel.centre is not None:
            axis.add_patch(Circle(panel.centre, panel.sigma, fill=False, color="white", linestyle="--", linewidth=0.9))
            below = f"sigma {panel.sigma:.1f} px"
        _captioned(axis, panel.title, below)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.5, pad=0.01, aspect=30)
    shares = (0, 0.01, 0.1, 0.25, 0.5, 1)
    bar.set_ticks([share**POWER for share in shares], labels=[f"{share:g}" for share in shares])
    bar.set_label("gradient, in parts of the strongest pixel's", fontsize=9, color=INK)
    return saved(figure, path)


def plot_maps(image: Array, name: str, panels: Sequence[MapPanel], path: str | PathLike[str]) -> Path:
    """The image [H,W,3] uint8 itself, and each map over it, each with a scale of its own."""
    height, width = image.shape[:2]
    tall = min(max(height / width, 0.4), 2.0)
    figure, axes = new_figure(len(panels) + 1, COLUMNS, width=3.4, height=3.4 * tall * 0.85 + 0.5)
    for axis in axes:
        axis.imshow(image, extent=(0, width, height, 0))
    (caption,) = readable_captions([_short(name)])
    _captioned(axes[0], caption, f"{width} x {height} px")
    for axis, panel in zip(axes[1:], panels, strict=True):
        low, high = float(panel.values.min()), float(panel.values.max())
        if panel.signed:
            high = max(-low, high) or 1.0
            low = -high
        drawn = axis.imshow(
            panel.values,
            cmap="RdBu_r" if panel.signed else "viridis",
            vmin=low,
            vmax=high,
            extent=panel.extent,
            alpha=0.65,
            interpolation="nearest",
        )
        axis.set(xlim=(0, width), ylim=(height, 0))
        _captioned(axis, panel.title, f"{panel.values.shape[1]} x {panel.values.shape[0]} cells")
        figure.colorbar(drawn, ax=axis, shrink=0.8, pad=0.02).ax.tick_params(labelsize=7, colors=INK, length=2)
    return saved(figure, path, [caption])


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}...{name[-LONGEST_NAME // 2 :]}"


def _captioned(axis: Any, title: str, below: str) -> None:
    axis.set(xticks=(), yticks=())
    # A file's name may hold dollars.
    axis.set_title(title, loc="left", fontsize=9, color=INK, parse_math=False)
    axis.set_xlabel(below, fontsize=8, color=INK)
