"""Large pictures in tiles: each is a picture of its own to the pipeline, and what is found in them becomes one list.

An object that lies whole in a tile is that tile's; the pieces of it that other tiles see are left out. One that lies
whole in no tile is looked for in the whole picture, at a smaller scale; where it is not found there, its pieces are
joined. Two tiles that see the same object agree by the detector's own suppression.

Boxes are x0, y0, x1, y1 in pixels of the picture. Shape letters: N detections, P pieces, L large ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from alignrank.boxes import aligned_iou, pairwise_share
from alignrank.contracts import Detections, Postprocess, Selection
from alignrank.detectors.mirrored import merging
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.inference.entries import SourceImage
from alignrank.inference.windows import Grid, Tiling
from alignrank.terminal.progress import steps

# A piece goes where a large box of its class has more than this share of it, and at least this share of its score.
COVERED, COVERING_SCORE = 0.5, 0.5
# Two pieces are of one object where, in what both tiles see, they overlap by more than this IoU.
AGREEING = 0.5
# Tiles of a picture, from which on their progress is shown.
MANY = 50


def in_tiles(
    images: Iterable[SourceImage],
    look: Callable[[Iterable[SourceImage]], Iterator[Detections]],
    tiling: Tiling,
    seams: Seams,
) -> Iterator[Detections]:
    """Detections of each image in order, from those that `look` gives of its tiles and of itself.

    Tiles are cut out as `look` takes them, so that it may have some of several images at a time; no more is held of an
    image than its pixels and what has been found.
    """
    under_way: deque[_Whole] = deque()
    for found in look(_parts(images, tiling, under_way)):
        whole = under_way[0]
        whole.found.append(found)
        if len(whole.found) == whole.parts:
            yield seams.detections(under_way.popleft())


def _parts(images: Iterable[SourceImage], tiling: Tiling, under_way: deque[_Whole]) -> Iterator[SourceImage]:
    for image in images:
        grid = tiling.grid(image.image.shape[:2])
        windows = grid.windows()
        under_way.append(_Whole(grid, len(windows)))
        with steps(f"tiles of {image.name}", len(windows), quiet=len(windows) < MANY) as advance:
            for x0, y0, x1, y1 in windows:
                yield replace(image, image=image.image[y0:y1, x0:x1])
                advance()
        del image  # its pixels would be held while the next one is decoded


@dataclass(frozen=True, slots=True)
class _Whole:
    """An image whose `parts` are under way: its grid, and what was found in the first of them."""

    grid: Grid
    parts: int
    found: list[Detections] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seams:
    """How the detections of tiles become those of a picture. nms, iou: suppression between them. most: of a picture;
    None: as many as there are.
    """

    nms: NonMaximumSuppression
    iou: float
    most: int | None = None

    @classmethod
    def of(cls, postprocess: Postprocess, iou: float, most: int | None = None) -> Seams:
        """As the detector suppresses: by class or not, with or without consensus; hard where it is soft, for soft
        suppression has been done, and of two tiles' boxes of an object one is too many.
        """
        assert isinstance(postprocess, TopK | NonMaximumSuppression)
        nms = merging(postprocess, agnostic=postprocess.agnostic, consensus=postprocess.consensus)
        nms.soft = False
        return cls(nms, iou, most)

    def detections(self, whole: _Whole) -> Detections:
        """Of an image, whose last part is the whole of it."""
        *_, picture = whole.found
        parts = [Selection(part.boxes, part.scores, part.labels) for part in whole.found]
        joined = self.joined(parts, whole.grid)
        return replace(picture, boxes=joined.boxes, scores=joined.scores, labels=joined.labels)

    def joined(self, parts: Sequence[Selection], grid: Grid) -> Selection:
        """parts: of `grid.windows()`, each with boxes in its own pixels -> the picture's, best first."""
        if len(parts) == 1:
            return parts[0]
        windows = torch.tensor(grid.windows(), dtype=torch.float32)
        tile_of = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part.scores) for part in parts]))
        found = _together(parts)
        found.boxes = found.boxes + windows[tile_of, :2].repeat(1, 2)
        seen_whole, in_tile = grid.seen_whole(found.boxes), tile_of < len(parts) - 1
        cut = grid.cut(found.boxes, windows[tile_of])
        large = _chosen(found, ~in_tile & ~seen_whole)
        # A piece that another tile has with room around it is of an object that this one sees more of.
        pieces = in_tile & cut & ~seen_whole
        pieces[pieces.clone()] = ~self._covered(_chosen(found, pieces), large)
        objects = self._objects(_chosen(found, pieces), tile_of[pieces], windows)
        pool = _together([_chosen(found, in_tile & ~cut), large, objects])
        return self.nms.select(pool, conf=0.0, iou=self.iou, max_dets=self.most or len(pool.scores))

    def _covered(self, pieces: Selection, large: Selection) -> Tensor:
        """[P], whether a piece lies in a large box that stands for its object."""
        same = self._groups(pieces)[:, None] == self._groups(large)
        sure = large.scores >= COVERING_SCORE * pieces.scores[:, None]
        return ((pairwise_share(pieces.boxes, large.boxes) > COVERED) & same & sure).any(1)

    def _objects(self, pieces: Selection, tile_of: Tensor, windows: Tensor) -> Selection:
        """Pieces [P] of one object as the box around them, with the best one's score and label; alone as they are."""
        objects = [[index] for index in range(len(pieces.scores))]
        # Those that agree best first; of a tile an object has one piece.
        for _, i, j in sorted(self._agreements(pieces, tile_of, windows), reverse=True):
            own, other = objects[i], objects[j]
            if own is not other and not {*tile_of[own].tolist()} & {*tile_of[other].tolist()}:
                own += other
                for index in other:
                    objects[index] = own
        members = list({id(members): members for members in objects}.values())
        best = [max(of, key=lambda index: float(pieces.scores[index])) for of in members]
        boxes = [torch.cat([pieces.boxes[of, :2].amin(0), pieces.boxes[of, 2:].amax(0)]) for of in members]
        return Selection(torch.stack(boxes) if boxes else pieces.boxes, pieces.scores[best], pieces.labels[best])

    def _agreements(self, pieces: Selection, tile_of: Tensor, windows: Tensor) -> Iterator[tuple[float, int, int]]:
        """(IoU in what both tiles see, index, index) of pieces of one class that may be of one object."""
        groups = self._groups(pieces)
        for tile in tile_of.unique().tolist():
            low = torch.maximum(windows[tile, :2], windows[:, :2])
            high = torch.minimum(windows[tile, 2:], windows[:, 2:])
            near = (high > low).all(-1)
            own, others = (tile_of == tile).nonzero()[:, 0], ((tile_of > tile) & near[tile_of]).nonzero()[:, 0]
            common = torch.cat([low, high], -1)[tile_of[others]]
            agreement = aligned_iou(
                _within(pieces.boxes[own, None], common), _within(pieces.boxes[others], common)[None]
            )
            rows, columns = ((agreement > AGREEING) & (groups[own, None] == groups[others])).nonzero(as_tuple=True)
            yield from zip(agreement[rows, columns].tolist(), own[rows].tolist(), others[columns].tolist(), strict=True)

    def _groups(self, found: Selection) -> Tensor:
        """What counts as a class."""
        return torch.zeros_like(found.labels) if self.nms.agnostic else found.labels


def _within(boxes: Tensor, windows: Tensor) -> Tensor:
    """[...,4] boxes cut to windows [...,4]."""
    low, high = windows.split(2, -1)
    return torch.cat([boxes[..., :2].maximum(low).minimum(high), boxes[..., 2:].maximum(low).minimum(high)], -1)


def _together(parts: Sequence[Selection]) -> Selection:
    return Selection(*(torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")))


def _chosen(found: Selection, keep: Tensor) -> Selection:
    return Selection(found.boxes[keep], found.scores[keep], found.labels[keep])
