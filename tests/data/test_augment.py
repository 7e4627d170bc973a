"""Augmentation: boxes follow pixels. Objects are plain rectangles of a colour of their own, found again afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.contracts import Batch, Frame, Targets
from alignrank.data.augment import augment, flipped, resize_batch
from alignrank.data.letterbox import letterbox
from alignrank.data.picture import MIN_VISIBLE, Picture, clip
from alignrank.errors import InputError
from alignrank.input_size import GREY, Fit, InputSize
from alignrank.weights.settings import AugmentConfig

SIDE = 160
# Colours that stay apart under resizing; every picture has a black ground.
COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]])
GEOMETRY = {"hue": 0.0, "saturation": 0.0, "brightness": 0.0}


def picture(index: int, *, height: int = 120, width: int = 160) -> Picture:
    """Black, with one rectangle of colour `index` (also its label) in a place that depends on the index."""
    rng = np.random.default_rng(index)
    x0, y0 = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
    x1, y1 = x0 + int(rng.integers(30, width // 2)), y0 + int(rng.integers(30, height // 2))
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[:, y0:y1, x0:x1] = COLOURS[index][:, None, None].to(torch.uint8)
    return Picture(pixels, torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32), torch.tensor([index]))


class Drawn:
    """`count` pictures, drawn when they are asked for."""

    def __init__(self, draw: Callable[[int], Picture], count: int) -> None:
        self.draw, self.count = draw, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Picture:
        return self.draw(index)


def extent(pixels: Tensor, colour: Tensor) -> Tensor | None:
    """The box around all pixels near `colour`, where the edges' blend with black crosses one half."""
    near = ((pixels.float() - colour[:, None, None]).abs() < 128).all(0)
    if not near.any():
        return None
    rows, columns = near.any(1).nonzero().flatten(), near.any(0).nonzero().flatten()
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)


def run(config: AugmentConfig, seed: int, *, strong: bool = True, index: int | None = None, count: int = 6) -> Picture:
    index = seed % count if index is None else index
    return augment(
        Drawn(picture, count), index, InputSize(SIDE), config, strong=strong, rng=np.random.default_rng(seed)
    )


@pytest.mark.parametrize("strong", [True, False], ids=["mosaic", "single"])
def test_boxes_follow_pixels(strong: bool) -> None:
    """All geometry at once over 150 seeds: each box encloses exactly the pixels of its colour, within 1.5 px.

    Colour and label are the number of the call, so a picture that a mosaic holds twice is told apart. And a colour
    of which more is in sight than clipping may take away has a box.
    """
    config = AugmentConfig(flip=0.5, flip_vertical=0.5, scale=0.5, translate=0.2, **GEOMETRY)
    seen = 0
    for seed in range(150):
        called: list[Picture] = []

        def draw(index: int, called: list[Picture] = called) -> Picture:
            own = picture(index)
            number = len(called)
            own.pixels = (own.pixels.amax(0) > 0) * COLOURS[number][:, None, None].to(torch.uint8)
            called.append(Picture(own.pixels, own.boxes, torch.tensor([number])))
            return called[-1]

        result = augment(
            Drawn(draw, 6), seed % 6, InputSize(SIDE), config, strong=strong, rng=np.random.default_rng(seed)
        )
        assert len(called) == (4 if strong else 1)
        assert result.pixels.shape == (3, SIDE, SIDE)
        assert result.pixels.dtype == torch.uint8
        assert result.boxes.dtype == torch.float32
        assert (result.boxes >= 0).all()
        assert (result.boxes <= SIDE).all()
        assert len(set(result.labels.tolist())) == len(result.labels)
        for box, label in zip(result.boxes, result.labels.tolist(), strict=True):
            actual = extent(result.pixels, COLOURS[label])
            assert actual is not None
            assert (actual - box).abs().max() <= 1.5, (seed, label, actual, box)
            seen += 1
        for label in set(range(len(called))) - set(result.labels.tolist()):
            actual = extent(result.pixels, COLOURS[label])
            whole = called[label].boxes[0]
            if actual is not None:
                side = actual[2:] - actual[:2]
                # Zoomed by 1.5 at most (a picture is as wide as the canvas): a tenth of the area is at most this.
                largest = 0.1 * 1.5**2 * float((whole[2:] - whole[:2]).prod())
                assert side.min() <= 2.5 or float(side.prod()) <= largest * 1.2
    assert seen > (200 if strong else 100)


def test_no_visible_object_is_forgotten() -> None:
    """Without mosaic: a fifth or more of the object's area in sight means a box; none in sight, none."""
    config = AugmentConfig(mosaic=0, scale=0.5, translate=0.6, flip=0, **GEOMETRY)
    kept = lost = 0
    for seed in range(200):
        result = run(config, seed)
        own = picture(seed % 6)
        visible = extent(result.pixels, COLOURS[seed % 6])
        whole = float((own.boxes[0, 2:] - own.boxes[0, :2]).prod())
        if visible is None:
            assert len(result.boxes) == 0
            lost += 1
        elif float((visible[2:] - visible[:2]).prod()) > 0.2 * whole * 1.5**2 * InputSize(SIDE).scale((120, 160)) ** 2:
            assert len(result.boxes) == 1
            kept += 1
    assert kept > 50
    assert lost > 5


def test_mosaic_shows_four_pictures() -> None:
    """Objects of other pictures come in; without mosaic there are none but the picture's own."""
    config = AugmentConfig(flip=0, scale=0, translate=0, **GEOMETRY)
    labels = [set(run(config, seed).labels.tolist()) for seed in range(40)]
    assert max(len(found) for found in labels) >= 3
    assert any(found - {seed % 6} for seed, found in enumerate(labels))
    plain = [run(config, seed, strong=False).labels.tolist() for seed in range(40)]
    assert plain == [[seed % 6] for seed in range(40)]


@pytest.mark.parametrize("count", [1, 2])
def test_tiny_data_sets(count: int) -> None:
    """Mosaic and mixup of one or two pictures."""
    config = AugmentConfig(mixup=1)
    for seed in range(10):
        result = run(config, seed, count=count)
        assert set(result.labels.tolist()) <= set(range(count))


def test_pictures_without_objects() -> None:
    """Everything on, nothing there: [0,4] boxes and [0] labels, whole pictures."""
    nothing = Picture(
        torch.full((3, 50, 70), 200, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    )
    config = AugmentConfig(mixup=1, flip=1, flip_vertical=1)
    for strong in (True, False):
        result = augment([nothing] * 3, 0, InputSize(64), config, strong=strong, rng=np.random.default_rng(0))
        assert result.boxes.shape == (0, 4)
        assert result.labels.shape == (0,)
        assert result.labels.dtype == torch.int64
        assert result.pixels.shape == (3, 64, 64)


def test_same_generator_same_picture() -> None:
    config = AugmentConfig(mixup=0.5)
    for seed in range(5):
        a, b, other = run(config, seed), run(config, seed), run(config, seed + 100, index=seed)
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.boxes, b.boxes)
        assert not torch.equal(a.pixels, other.pixels)


def test_off_is_letterboxing() -> None:
    """No augmentation: the pixels and boxes of `letterbox`, also when `strong`."""
    for strong, size in itertools.product((True, False), (InputSize(SIDE), InputSize(SIDE, fit=Fit(corner=True)))):
        rng = np.random.default_rng(0)
        result = augment(Drawn(picture, 6), 2, size, AugmentConfig.off(), strong=strong, rng=rng)
        own = picture(2)
        canvas, scale, offset = letterbox(own.pixels, size)
        assert torch.equal(result.pixels, canvas)
        assert_close(result.boxes, own.boxes * torch.tensor(scale * 2) + torch.tensor(offset * 2))


def test_plain_picture_does_not_change_its_source() -> None:
    """Colour and flips work on copies: the cached image stays as it was."""
    own = picture(0, height=SIDE, width=SIDE)
    before = own.pixels.clone(), own.boxes.clone()
    config = AugmentConfig(mosaic=0, scale=0, translate=0, flip=1)
    augment([own], 0, InputSize(SIDE), config, strong=False, rng=np.random.default_rng(0))
    assert torch.equal(own.pixels, before[0])
    assert torch.equal(own.boxes, before[1])


@pytest.mark.parametrize("strong", [True, False], ids=["mosaic", "single"])
def test_canvas_of_the_picture_s_shape(strong: bool) -> None:
    """Wide and tall pictures mixed: the canvas is that of the one asked for, 128 x 160 or 160 x 128, and is all there:
    over the seeds every part of it is covered, each box encloses its colour.
    """
    config = AugmentConfig(flip=0.5, flip_vertical=0.5, scale=0.5, translate=0.2, **GEOMETRY)

    def draw(index: int) -> Picture:
        return picture(index, height=120, width=160) if index % 2 == 0 else picture(index, height=160, width=120)

    for index, (height, width) in ((0, (128, 160)), (1, (160, 128))):
        covered = torch.zeros(height, width, dtype=torch.bool)
        for seed in range(40):
            rng = np.random.default_rng(seed)
            result = augment(Drawn(draw, 6), index, InputSize(SIDE, rect=True), config, strong=strong, rng=rng)
            assert result.pixels.shape == (3, height, width)
            assert (result.boxes >= 0).all()
            assert (result.boxes <= torch.tensor([width, height] * 2)).all()
            covered |= (result.pixels != GREY).any(0)
            for box, label in zip(result.boxes, result.labels.tolist(), strict=True):
                x0, y0, x1, y1 = box.round().int().tolist()
                inside = result.pixels[:, y0:y1, x0:x1].float()
                assert extent(inside, COLOURS[label]) is not None
                if not strong:
                    actual = extent(result.pixels, COLOURS[label])
                    assert actual is not None
                    assert (actual - box).abs().max() <= 1.5
        assert covered.all()


def test_flips_worked() -> None:
    """Width 10: the box (1,2,4,6) mirrored is (6,2,9,6); twice gives it back. Height 8, upside down: (1,2,4,6)."""
    pixels = torch.zeros(3, 8, 10, dtype=torch.uint8)
    pixels[:, 2:6, 1:4] = 255
    once = flipped(Picture(pixels, torch.tensor([[1.0, 2.0, 4.0, 6.0]]), torch.tensor([0])))
    assert once.boxes.tolist() == [[6, 2, 9, 6]]
    assert extent(once.pixels, torch.tensor([255, 255, 255])).tolist() == [6, 2, 9, 6]  # type: ignore[union-attr]
    assert flipped(once).boxes.tolist() == [[1, 2, 4, 6]]
    assert torch.equal(flipped(once).pixels, pixels)


@pytest.mark.parametrize(("field", "expected"), [("flip", [6, 3, 9, 4]), ("flip_vertical", [1, 6, 4, 7])])
def test_flip_probabilities(field: str, expected: list[float]) -> None:
    """Probability 1 always flips (10 x 10, box (1,3,4,4)), 0 never, 1/2 about half the time."""
    own = Picture(torch.zeros(3, 10, 10, dtype=torch.uint8), torch.tensor([[1.0, 3.0, 4.0, 4.0]]), torch.tensor([0]))

    def boxes(probability: float, seed: int) -> list[float]:
        config = AugmentConfig.off().model_copy(update={field: probability})
        rng = np.random.default_rng(seed)
        return augment([own], 0, InputSize(10), config, strong=False, rng=rng).boxes[0].tolist()

    assert all(boxes(1, seed) == expected for seed in range(5))
    assert all(boxes(0, seed) == [1, 3, 4, 4] for seed in range(5))
    share = np.mean([boxes(0.5, seed) == expected for seed in range(200)])
    assert 0.35 < share < 0.65


def test_clip_worked() -> None:
    """Window (0,0,10,10). Inside: kept. Half out: cut. 5 of 100 px^2 left (0.05 < 0.1): gone. Outside: gone.

    A sliver 1 px wide after cutting: gone (less than 2 px); 1 px wide before it: kept, nothing was cut off.
    """
    boxes = torch.tensor(
        [
            [1.0, 1.0, 5.0, 5.0],
            [5.0, 0.0, 15.0, 10.0],
            [9.5, 0.0, 19.5, 10.0],
            [20.0, 20.0, 30.0, 30.0],
            [9.0, 0.0, 12.0, 10.0],
            [3.0, 3.0, 4.0, 9.0],
        ]
    )
    cut, kept = clip(boxes, torch.tensor([0.0, 0, 10, 10]))
    assert kept.tolist() == [True, True, False, False, False, True]
    assert cut.tolist() == [[1, 1, 5, 5], [5, 0, 10, 10], [3, 3, 4, 9]]
    # Objects 100 px long of which 9 and 11 px are left: less and more than MIN_VISIBLE.
    assert MIN_VISIBLE == 0.1
    long = torch.tensor([[11.0, 0.0, 111.0, 10.0], [9.0, 0.0, 109.0, 10.0]])
    assert clip(long, torch.tensor([0.0, 0, 20, 10]))[1].tolist() == [False, True]
    assert clip(long, torch.tensor([[0.0, 0, 30, 10], [0, 0, 10, 10]]))[1].tolist() == [True, False]  # one each
    assert clip(torch.zeros(0, 4), torch.tensor([0.0, 0, 10, 10]))[0].shape == (0, 4)


def test_mixup_is_a_mean_with_all_objects() -> None:
    """Two single-colour pictures: the mix lies between them, its weights sum to 1, the objects of both stay."""
    white = Picture(
        torch.full((3, 32, 32), 200, dtype=torch.uint8), torch.tensor([[2.0, 2.0, 9.0, 9.0]]), torch.tensor([0])
    )
    black = Picture(
        torch.full((3, 32, 32), 100, dtype=torch.uint8), torch.tensor([[5.0, 5.0, 30.0, 30.0]]), torch.tensor([1])
    )
    config = AugmentConfig.off().model_copy(update={"mixup": 1.0})
    both = values = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mixed = augment([white, black], 0, InputSize(32), config, strong=True, rng=rng)
        assert mixed.pixels.float().std() < 1e-6
        assert len(mixed.boxes) == 2
        if set(mixed.labels.tolist()) == {0, 1}:
            both += 1
            values += 120 < mixed.pixels[0, 0, 0] < 180
            assert mixed.boxes.tolist() == [*white.boxes.tolist(), *black.boxes.tolist()]
    assert both == values > 3
    plain = augment([white, black], 0, InputSize(32), config, strong=False, rng=np.random.default_rng(0))
    assert plain.labels.tolist() == [0]


def test_colour_moves_pixels_and_no_boxes() -> None:
    """Boxes stay; brightness alone scales: grey 100 stays grey and within the half-range of 40 %."""
    own = Picture(
        torch.full((3, 16, 16), 100, dtype=torch.uint8), torch.tensor([[2.0, 2.0, 9.0, 9.0]]), torch.tensor([0])
    )
    base = AugmentConfig.off()

    def values(field: str, amount: float, source: Picture) -> list[Tensor]:
        config = base.model_copy(update={field: amount})
        results = [
            augment([source], 0, InputSize(16), config, strong=False, rng=np.random.default_rng(seed))
            for seed in range(20)
        ]
        assert all(r.boxes.tolist() == source.boxes.tolist() for r in results)
        return [r.pixels[:, 0, 0].float() for r in results]

    bright = torch.stack(values("brightness", 0.4, own))
    assert (bright.std(1) <= 1).all()
    assert bright.min() >= 59
    assert bright.max() <= 141
    assert bright.min() < 80
    assert bright.max() > 120
    # Hue and saturation leave a grey picture as it is; they change a coloured one, saturation not its hue's order.
    for field, amount in (("hue", 0.5), ("saturation", 1.0)):
        assert (torch.stack(values(field, amount, own)) - 100).abs().max() <= 1
    red = Picture(own.pixels.clone(), own.boxes, own.labels)
    red.pixels[1:] = 50
    assert torch.stack(values("hue", 0.5, red)).argmax(1).unique().tolist() == [0, 1, 2]
    saturated = torch.stack(values("saturation", 1.0, red))
    assert (saturated[:, 0] >= saturated[:, 1] - 1).all()
    assert saturated[:, 0].max() - saturated[:, 0].min() > 20


@pytest.mark.parametrize("side", [15, 14, 12])  # computed one by one, four and eight at once
def test_a_pixels_colour_is_its_own_affair(side: int) -> None:
    """What becomes of a pixel depends on no other: as in a picture of that colour alone."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    config = AugmentConfig.off().model_copy(update={"hue": 0.2, "saturation": 0.7, "brightness": 0.4})

    def coloured(pixels: Tensor) -> Tensor:
        picture = Picture(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return augment([picture], 0, InputSize(side), config, strong=False, rng=np.random.default_rng(7)).pixels

    whole = coloured(torch.from_numpy(noise).permute(2, 0, 1))
    assert whole.dtype == torch.uint8
    for row, column in ((0, 0), (0, side - 1), (side - 1, 3), (6, 7), (7, 6)):
        alone = torch.from_numpy(noise[row, column])[:, None, None].expand(3, side, side).contiguous()
        assert_close(whole[:, row, column], coloured(alone)[:, 4, 5], atol=1, rtol=0)


def test_letterbox_worked() -> None:
    """A 100 x 50 image (width x height) at side 64: scale .64, 64 x 32 pixels, 16 rows of grey above and below."""
    pixels = torch.full((3, 50, 100), 7, dtype=torch.uint8)
    canvas, scale, offset = letterbox(pixels, InputSize(64))
    assert canvas.shape == (3, 64, 64)
    assert scale == (0.64, 0.64)
    assert offset == (0, 16)
    assert (canvas[:, 16:48] == 7).all()
    assert (canvas[:, :16] == GREY).all()
    assert (canvas[:, 48:] == GREY).all()
    tall, _, tall_offset = letterbox(pixels.transpose(1, 2).contiguous(), InputSize(64))
    assert tall_offset == (16, 0)
    assert torch.equal(tall, canvas.transpose(1, 2))


def test_letterbox_in_the_corner() -> None:
    """As in the middle, but begun at the upper left; squares and canvases of the image's shape."""
    pixels = torch.full((3, 50, 100), 7, dtype=torch.uint8)
    for rect, height in ((False, 64), (True, 32)):
        canvas, scale, offset = letterbox(pixels, InputSize(64, rect=rect, fit=Fit(corner=True)))
        assert canvas.shape == (3, height, 64)
        assert (scale, offset) == ((0.64, 0.64), (0, 0))
        assert (canvas[:, :32] == 7).all()
        assert (canvas[:, 32:] == GREY).all()
    tall, _, offset = letterbox(pixels.transpose(1, 2).contiguous(), InputSize(64, fit=Fit(corner=True)))
    assert offset == (0, 0)
    assert (tall[:, :, :32] == 7).all()
    assert (tall[:, :, 32:] == GREY).all()


@pytest.mark.parametrize("size", [(50, 100), (37, 91), (200, 30), (1, 1), (1, 500), (64, 64)])
def test_letterbox_and_frame_are_inverse(size: tuple[int, int]) -> None:
    """Boxes to the input and back by Frame.to_original, exactly, for sides that do not divide."""
    height, width = size
    canvas, scale, offset = letterbox(torch.zeros(3, height, width, dtype=torch.uint8), InputSize(64))
    assert canvas.shape == (3, 64, 64)
    corner = torch.rand(20, 2) * torch.tensor([width, height]) * 0.5
    boxes = torch.cat([corner, corner * 2], 1)
    inside = boxes * torch.tensor(scale * 2) + torch.tensor(offset * 2)
    frame = Frame("x", size, scale, offset)
    assert_close(frame.to_original(inside), boxes, atol=1e-3, rtol=1e-5)
    # What lies on the grey border ends at the image's edge.
    whole = frame.to_original(torch.tensor([[-10.0, -10.0, 100.0, 100.0]]))
    assert whole.tolist() == [[0, 0, width, height]]


def test_letterboxed_pixels_are_where_the_frame_says() -> None:
    own = picture(1, height=97, width=143)
    canvas, scale, offset = letterbox(own.pixels, InputSize(SIDE))
    found = extent(canvas, COLOURS[1])
    assert found is not None
    back = Frame("x", (97, 143), scale, offset).to_original(found[None])
    assert_close(back, own.boxes, atol=1.5, rtol=0)


def test_letterbox_reports_the_factors_it_used() -> None:
    """10 x 5 by .5: 5 wide, round(2.5) = 2 high (banker's rounding to even): factors 5/10 and 2/5."""
    canvas, scale, _ = letterbox(torch.zeros(3, 5, 10, dtype=torch.uint8), InputSize(5, rect=True, step=1))
    assert canvas.shape == (3, 2, 5)
    assert scale == (5 / 10, 2 / 5)


@pytest.mark.parametrize("size", [(120, 160), (160, 120)])
def test_resize_batch(size: tuple[int, int]) -> None:
    """Multi-scale: image, boxes and frames shrink together; a result maps to the same original box as before."""
    own = picture(3, height=size[0], width=size[1])
    canvas, scale, offset = letterbox(own.pixels, InputSize(SIDE))
    boxes = own.boxes * torch.tensor(scale * 2) + torch.tensor(offset * 2)
    frame = Frame("x", size, scale, offset, image_id=5)
    batch = Batch(canvas[None].float() / 255, [Targets(boxes, own.labels)], [frame])
    for side in (96, 224):
        other = resize_batch(batch, (side, side))
        assert other.images.shape == (1, 3, side, side)
        found = extent(other.images[0] * 255, COLOURS[3])
        assert found is not None
        assert_close(found[None], other.targets[0].boxes, atol=1.5, rtol=0)
        assert_close(other.frames[0].to_original(other.targets[0].boxes), own.boxes, atol=1e-3, rtol=0)
        assert other.frames[0].image_id == 5
    assert_close(batch.targets[0].boxes, boxes)  # the batch given is left alone


def test_resize_batch_of_another_shape() -> None:
    """128 x 160 (height x width) to 64 x 96: heights by one half, widths by .6; the way back is still exact."""
    own = picture(3)
    canvas, scale, offset = letterbox(own.pixels, InputSize(SIDE, rect=True))
    assert canvas.shape == (3, 128, 160)
    boxes = own.boxes * torch.tensor(scale * 2) + torch.tensor(offset * 2)
    batch = Batch(canvas[None].float() / 255, [Targets(boxes, own.labels)], [Frame("x", (120, 160), scale, offset)])
    other = resize_batch(batch, (64, 96))
    assert other.images.shape == (1, 3, 64, 96)
    assert_close(other.targets[0].boxes, boxes * torch.tensor([0.6, 0.5, 0.6, 0.5]))
    assert other.frames[0].scale == pytest.approx((0.6, 0.5))
    assert other.frames[0].offset == (0, 2)  # four rows of grey above the picture
    assert_close(other.frames[0].to_original(other.targets[0].boxes), own.boxes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("field", ["mosaic", "mixup", "flip", "hue", "scale"])
def test_probabilities_and_ranges_are_checked(field: str) -> None:
    parse: Callable[..., AugmentConfig] = AugmentConfig.parse
    with pytest.raises(InputError, match=f"^here: {field}: "):
        parse({field: 1.5}, where="here")
    with pytest.raises(InputError, match=f"^here: {field}: "):
        parse({field: -0.1}, where="here")
