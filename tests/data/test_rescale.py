"""Pictures of random sizes, cut at random: which sizes there are, and that boxes follow pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from squares import write_squares
from torch import Tensor

from alignrank.contracts import Frame, Targets
from alignrank.data.augment import augment
from alignrank.data.loader import Images, TrainingSet, collate, training_loader
from alignrank.data.picture import Picture
from alignrank.data.rescale import rescaled, sides
from alignrank.data.source import read
from alignrank.errors import InputError
from alignrank.input_size import GREY, InputSize
from alignrank.weights.recipe import load_recipe
from alignrank.weights.settings import AugmentConfig

PAIR, ONE = InputSize.of((160, 256), rect=True), InputSize.of(160, rect=False)
LARGE = InputSize.of((800, 1333), rect=True)
OFF = AugmentConfig.off().model_dump()


def config(**values: Any) -> AugmentConfig:
    return AugmentConfig(**OFF | values)


def picture(height: int, width: int) -> Picture:
    """Three coloured channels of ramps over black; a white rectangle of 40 x 30 px at (30, 20)."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[:, 20:50, 30:70] = 255
    return Picture(pixels, torch.tensor([[30.0, 20.0, 70.0, 50.0]]), torch.tensor([4]))


def extent(pixels: Tensor) -> Tensor:
    rows, columns = ((pixels[0] > 127).any(axis).nonzero().flatten() for axis in (1, 0))
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)


def results(given: Picture, size: InputSize, chosen: AugmentConfig, count: int) -> list[Picture]:
    return [rescaled(given, size, chosen, np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize(
    ("size", "shortest", "expected"),
    [
        (LARGE, 0.6, [800, 768, 736, 704, 672, 640, 608, 576, 544, 512, 480]),
        (LARGE, 1.0, [800]),
        (InputSize(320), 0.7, [320, 288, 256, 224]),  # 0.7 * 320 is a hair above 224 or below it
        (InputSize(224), 0.6, [224, 192, 160]),  # not below 134.4
        (InputSize(640), 0.6, [640, 608, 576, 544, 512, 480, 448, 416, 384]),
        (InputSize.of((100, 200), rect=True), 0.01, [100, 68, 36]),
        (InputSize(32), 0.1, [32]),
    ],
)
def test_sides_by_hand(size: InputSize, shortest: float, expected: list[int]) -> None:
    assert sides(size, shortest) == expected


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        # Shorter sides of 160, 128 and 96; the longer one at most 256.
        (PAIR, (120, 160), {(160, 213), (128, 171), (96, 128)}),
        (PAIR, (160, 120), {(213, 160), (171, 128), (128, 96)}),
        (PAIR, (80, 240), {(85, 256), (85, 256), (85, 256)}),
        # Longer sides of 160, 128 and 96.
        (ONE, (120, 160), {(120, 160), (96, 128), (72, 96)}),
        (ONE, (160, 80), {(160, 80), (128, 64), (96, 48)}),
    ],
)
def test_sizes_of_whole_pictures(size: InputSize, shape: tuple[int, int], expected: set[tuple[int, int]]) -> None:
    """Each drawn as often as the others, but for chance; the box lies where the rectangle is."""
    found: Counter[tuple[int, ...]] = Counter()
    for result in results(picture(*shape), size, config(shortest=0.6), 90):
        found[tuple(result.pixels.shape[1:])] += 1
        assert (extent(result.pixels) - result.boxes[0]).abs().max() <= 1
        assert result.pixels.dtype == torch.uint8
        assert result.labels.tolist() == [4]
    assert set(found) == expected
    assert len(expected) == 1 or min(found.values()) > 15


def test_sizes_and_cuts_as_published() -> None:
    """1066 x 800 px at [800, 1333]: half of the pictures are whole, of a shorter side of 480 to 800. The others show a
    part, whose sides are 384 to 600 px of a picture whose shorter side is 400, 500 or 600.

    A part's place is known by its colour: red grows to the right, green downwards, 255 on the whole.
    """
    height, width = 800, 1066
    across = torch.linspace(0, 255, width).expand(height, width)
    down = torch.linspace(0, 255, height)[:, None].expand(height, width)
    ramps = torch.stack([across, down, torch.zeros(height, width)]).round().to(torch.uint8)
    given = Picture(ramps, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    parts, lefts = [], []
    for result in results(given, LARGE, config(shortest=0.6, crop=0.5), 60):
        pixels = result.pixels.float()
        shape = result.pixels.shape[1:]
        assert max(shape) <= 1333
        assert min(shape) in range(480, 801, 32) or max(shape) == 1333
        assert result.boxes.shape == (0, 4)
        across, down = (float(pixels[channel].max() - pixels[channel].min()) / 255 for channel in (0, 1))
        if across > 0.99 and down > 0.99:
            continue
        parts.append((down * height / 800, across * width / 800))  # in parts of the shorter side
        lefts.append((float(pixels[0].min()) / 255, float(pixels[1].min()) / 255))
    assert 18 <= len(parts) <= 42
    for down, across in parts:
        # 384 of a picture of 600, and 600 of one of 500 at most: one of 400 has 533 in all, and 400 high.
        assert 0.63 <= down <= 1.001
        assert 0.63 <= across <= 1.34
    assert np.std([left for left, _ in lefts]) > 0.03  # anywhere
    assert np.std([top for _, top in lefts]) > 0.03


@pytest.mark.parametrize("size", [PAIR, ONE, InputSize(320), InputSize(224, rect=True), InputSize(32)])
@pytest.mark.parametrize("shape", [(120, 160), (200, 90), (72, 71)])
def test_boxes_follow_the_cut(size: InputSize, shape: tuple[int, int]) -> None:
    """Each box that is left encloses what is white, to a pixel of the picture; without one, little white is left."""
    empty = cut = 0
    for result in results(picture(*shape), size, config(shortest=0.6, crop=1.0), 40):
        height, width = result.pixels.shape[1:]
        assert 1 <= min(height, width) <= max(height, width) <= size.longer
        assert (result.boxes >= 0).all()
        assert (result.boxes <= torch.tensor([width, height] * 2)).all()
        if len(result.boxes) == 0:
            assert result.boxes.shape == (0, 4)
            assert result.labels.shape == (0,)
            assert (result.pixels > 127).float().mean() < 0.1
            empty += 1
            continue
        # A resize of a resize: an edge is as wide as a pixel of the first, which may be enlarged.
        assert (extent(result.pixels) - result.boxes[0]).abs().max() <= max(1.5, 0.02 * size.longer)
        cut += bool((result.boxes[0] == torch.tensor([0.0, 0, width, height])).any())
    assert empty < 35
    assert cut > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
@pytest.mark.parametrize("size", [LARGE, ONE])
def test_extreme_pictures(shape: tuple[int, int], size: InputSize) -> None:
    """Lines and single pixels: of a size that fits in memory, with sides of at least a pixel."""
    given = Picture(torch.zeros(3, *shape, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for result in results(given, size, config(shortest=0.6, crop=1.0), 4):
        assert 1 <= min(result.pixels.shape[1:]) <= max(result.pixels.shape[1:]) <= size.longer


def test_augmented_pictures_have_their_own_size() -> None:
    """No canvas, `strong` or not; flips and colours as ever, and the source stays as it was."""
    given = picture(120, 160)
    before = given.pixels.clone(), given.boxes.clone()
    chosen = config(shortest=0.6, crop=0.5, flip=1, brightness=0.4)
    for seed in range(8):
        plain = rescaled(given, PAIR, chosen, np.random.default_rng(seed))
        for strong in (False, True):
            rng = np.random.default_rng(seed)
            result = augment([given], 0, PAIR, chosen, strong=strong, rng=rng)
            assert result.pixels.shape == plain.pixels.shape
            width = plain.pixels.shape[-1]
            assert torch.equal(result.boxes, (width - plain.boxes)[:, [2, 1, 0, 3]] * torch.tensor([1, 0, 1, 0.0])
                               + plain.boxes * torch.tensor([0, 1, 0, 1.0]))  # fmt: skip
    assert torch.equal(given.pixels, before[0])
    assert torch.equal(given.boxes, before[1])


def test_same_generator_same_picture() -> None:
    for seed in range(5):
        a, b = (rescaled(picture(120, 160), PAIR, config(shortest=0.5, crop=1), np.random.default_rng(seed))
                for _ in range(2))  # fmt: skip
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.boxes, b.boxes)


def test_batches_are_padded_to_the_network_s_stride() -> None:
    """70 x 41 and 33 x 90 px: on 96 x 96, each at the upper left."""
    shapes = [(70, 41), (33, 90)]
    items = [(torch.full((3, *shape), 7, dtype=torch.uint8), Targets.empty(), Frame("a", shape)) for shape in shapes]
    batch = collate(items)
    assert batch.images.shape == (2, 3, 96, 96)
    for image, (height, width) in zip(batch.images, shapes, strict=True):
        assert (image[:, :height, :width] == 7).all()
        assert (image[:, height:] == GREY).all()
        assert (image[:, :, width:] == GREY).all()


@pytest.mark.parametrize("field", ["mosaic", "mixup", "scale", "translate"])
@pytest.mark.parametrize("own", [{"shortest": 0.6}, {"crop": 0.5}])
def test_nothing_that_needs_a_canvas_beside_it(field: str, own: dict[str, float]) -> None:
    parse: Callable[..., AugmentConfig] = AugmentConfig.parse
    with pytest.raises(InputError, match=f"^here: {field}: must be 0 beside shortest and crop, got 0.5$"):
        parse(OFF | own | {field: 0.5}, where="here")
    assert parse(OFF | own, where="here").rescales
    assert not parse(OFF | {field: 0.5}, where="here").rescales


@pytest.mark.parametrize("values", [{"shortest": 0.0}, {"shortest": 1.1}, {"crop": -0.1}, {"crop": 1.1}])
def test_ranges(values: dict[str, float]) -> None:
    (field,) = values
    with pytest.raises(InputError, match=f"^here: {field}: Input should be"):
        AugmentConfig.parse(OFF | values, where="here")


def test_recipes_with_mosaic_say_what_to_turn_off() -> None:
    with pytest.raises(
        InputError, match=r"^command line: augment: mosaic: must be 0 beside shortest and crop, got 1\.0"
    ):
        load_recipe("yolov8-n", overrides={"augment.crop": 0.5}, where="command line")
    assert load_recipe("retinanet-r50", overrides={"augment.shortest": 0.6}).augment.rescales


def test_networks_take_the_batches(tmp_path: Path) -> None:
    """A network with an upsampling neck, which takes multiples of 32 only, on inputs of several shapes."""
    source = read(str(write_squares(tmp_path / "data", turned=True)))
    assert source.train is not None
    own = {"augment.shortest": 0.5, "augment.crop": 0.5, "data.place": "corner", "train.imgsz": [64, 96]}
    still = {f"augment.{field}": 0.0 for field in ("mosaic", "mixup", "scale", "translate")}
    recipe = load_recipe("yolov8-n", num_classes=2, overrides={"model.size": "t", **own, **still})
    dataset = TrainingSet(Images(source.train, recipe.size_in_training), recipe.augment, seed=0, epochs=1)
    built = recipe.build()
    shapes = set()
    for batch in training_loader(dataset, 2, workers=0, seed=0):
        assert torch.isfinite(built.criterion(built.model(batch.network_input()), batch.targets).total)
        assert (batch.sizes() <= torch.tensor(batch.images.shape[-2:])).all()
        shapes.add(batch.images.shape)
    assert len(shapes) > 1
