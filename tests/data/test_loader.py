"""From a Split to batches: decoding, caching, order, determinism, frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from alignrank.contracts import Batch
from alignrank.data.augment import resize_batch
from alignrank.data.loader import (
    EvaluationSet,
    Images,
    TrainingSet,
    collate,
    evaluation_loader,
    training_loader,
)
from alignrank.data.order import Share
from alignrank.data.samples import Sample, Split
from alignrank.errors import InputError
from alignrank.input_size import GREY, Fit, InputSize
from alignrank.weights.settings import AugmentConfig

SIZES = [(60, 80), (50, 50), (200, 120), (64, 96), (30, 100)]  # height, width
SIDE = 96
OWN_SHAPE, PAIR = InputSize(SIDE, rect=True), InputSize.of((48, SIDE), rect=True)
# 72 x 96, 96 x 96, 96 x 58, 64 x 96 and 29 x 96 px, each up to multiples of 32.
CANVASES = [(96, 96), (96, 96), (96, 64), (64, 96), (32, 96)]
# 48 x 64, 48 x 48, 80 x 48, 48 x 72 and 29 x 96 px.
PAIR_CANVASES = [(64, 64), (64, 64), (96, 64), (64, 96), (32, 96)]


def sample(folder: Path, index: int, *, crowd: bool = False, objects: bool = True) -> Sample:
    """A black PNG with a white rectangle over its middle half, and that as its box (and a crowd region on all)."""
    height, width = SIZES[index % len(SIZES)]
    pixels = np.zeros((height, width, 3), np.uint8)
    box = [width // 4, height // 4, 3 * width // 4, 3 * height // 4]
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    path = folder / f"{index}.png"
    Image.fromarray(pixels).save(path)
    boxes = [box] * objects + [[0, 0, width, height]] * crowd
    flags = [False] * objects + [True] * crowd
    return Sample(
        path,
        100 + index,
        (height, width),
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.full(len(boxes), index % 2, np.int64),
        np.ones(len(boxes), np.float32),
        np.asarray(flags, bool),
    )


def split(folder: Path, count: int = 5) -> Split:
    return Split(("even", "odd"), (1, 2), [sample(folder, i) for i in range(count)], folder)


def white(pixels: torch.Tensor) -> list[int]:
    """The extent of pixels nearer to white than to black or grey."""
    near = (pixels > 180).all(0)
    rows, columns = near.any(1).nonzero().flatten().tolist(), near.any(0).nonzero().flatten().tolist()
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_images_fit_the_side_and_boxes_follow(tmp_path: Path) -> None:
    images = Images(split(tmp_path), InputSize(SIDE))
    for i, (height, width) in enumerate(SIZES):
        picture = images[i]
        assert max(picture.pixels.shape[-2:]) == SIDE
        assert picture.pixels.shape[-1] / picture.pixels.shape[-2] == pytest.approx(width / height, rel=0.02)
        assert np.abs(np.subtract(white(picture.pixels), picture.boxes[0].tolist())).max() <= 1.5
        assert picture.labels.tolist() == [i % 2]


def test_crowd_regions_are_no_training_targets(tmp_path: Path) -> None:
    samples = [sample(tmp_path, 0, crowd=True), sample(tmp_path, 1, crowd=True, objects=False)]
    images = Images(Split(("a", "b"), (1, 2), samples, tmp_path), InputSize(SIDE))
    assert [len(images[i].boxes) for i in range(2)] == [1, 0]
    assert images[1].boxes.shape == (0, 4)


def test_keeping_changes_nothing_but_the_place(tmp_path: Path) -> None:
    """Kept in memory: the same pictures, without reading the files again; the size estimate is right."""
    images = Images(split(tmp_path), InputSize(SIDE))
    before = [images[i] for i in range(5)]
    advanced: list[int] = []
    assert images.keep_all(lambda: advanced.append(1)) == []
    assert len(advanced) == 5
    for path in tmp_path.iterdir():
        path.unlink()
    for i, expected in enumerate(before):
        assert torch.equal(images[i].pixels, expected.pixels)
        assert torch.equal(images[i].boxes, expected.boxes)
    held = sum(picture.pixels.numel() for picture in before)
    assert images.num_bytes() == pytest.approx(held, rel=0.02)


def test_broken_images_are_left_out_when_kept(tmp_path: Path) -> None:
    """A damaged file and one of another size than annotated: skipped and told; the others keep their own boxes."""
    data = split(tmp_path)
    data.samples[1].image.write_bytes(b"no image")
    Image.new("RGB", (7, 7)).save(data.samples[3].image)
    images = Images(data, InputSize(SIDE))
    with pytest.raises(InputError, match=r"1\.png"):
        images[1]
    with pytest.raises(InputError, match="is 7x7 pixels, its annotation says 96x64"):
        images[3]
    skipped = images.keep_all()
    assert [Path(s.where).name for s in skipped] == ["1.png", "3.png"]
    assert data.skipped == skipped
    assert len(images) == len(data) == 3
    for i in range(3):
        assert np.abs(np.subtract(white(images[i].pixels), images[i].boxes[0].tolist())).max() <= 1.5


def test_same_seed_epoch_index_same_picture(tmp_path: Path) -> None:
    images = Images(split(tmp_path), InputSize(SIDE))
    config = AugmentConfig(plain_epochs=0)
    first = TrainingSet(images, config, seed=3, epochs=10)
    second = TrainingSet(Images(split(tmp_path), InputSize(SIDE)), config, seed=3, epochs=10)
    second[0, 0], second[4, 4]  # what was asked before does not matter
    for key in [(0, 0), (0, 1), (7, 2)]:
        a, b = first[key], second[key]
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1].boxes, b[1].boxes)
        assert torch.equal(a[1].labels, b[1].labels)
    for other in (first[1, 0], TrainingSet(images, config, seed=4, epochs=10)[0, 0]):
        assert not torch.equal(first[0, 0][0], other[0])


@pytest.mark.parametrize("size", [InputSize(SIDE), OWN_SHAPE], ids=["square", "rect"])
@pytest.mark.parametrize("fit", [Fit(), Fit("floor", antialias=False, corner=True)], ids=["antialias", "plain"])
def test_pictures_are_channels_last_in_memory(tmp_path: Path, size: InputSize, fit: Fit) -> None:
    """From the file to the network: another order costs more than all else that is done to a picture."""
    images = Images(split(tmp_path), replace(size, fit=fit))
    every = AugmentConfig(mosaic=0.5, mixup=0.5, flip=0.5, flip_vertical=0.5, plain_epochs=5)
    training = TrainingSet(images, every, seed=0, epochs=10)
    for epoch, number in ((0, 0), (1, 2), (4, 3), (6, 1), (7, 4)):
        assert training[epoch, number][0].permute(1, 2, 0).is_contiguous()
    batch = collate([EvaluationSet(images)[i] for i in range(5)])  # of different shapes where each has its own
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_last_epochs_are_plain(tmp_path: Path) -> None:
    """Mosaic up to the last two of ten epochs: then each picture holds its own object alone."""
    images = Images(split(tmp_path), InputSize(SIDE))
    config = AugmentConfig(plain_epochs=2, flip=0, scale=0, translate=0)
    dataset = TrainingSet(images, config, seed=0, epochs=10)

    def counts(epoch: int) -> list[int]:
        return [len(dataset[epoch, i][1].labels) for i in range(5)]

    assert max(max(counts(epoch)) for epoch in range(8)) > 1
    assert counts(8) == counts(9) == [1] * 5


def test_one_image_data_set(tmp_path: Path) -> None:
    dataset = TrainingSet(Images(split(tmp_path, 1), InputSize(SIDE)), AugmentConfig(mixup=1), seed=0, epochs=20)
    loader = training_loader(dataset, 4, workers=0, seed=0)
    (batch,) = list(loader)
    assert isinstance(batch, Batch)
    assert batch.images.shape == (1, 3, SIDE, SIDE)


def test_evaluation_boxes_frames_and_pixels_agree(tmp_path: Path) -> None:
    """The target encloses the white pixels, and the frame maps it back to the annotation."""
    data = split(tmp_path)
    dataset = EvaluationSet(Images(data, InputSize(SIDE)))
    for i, own in enumerate(data.samples):
        pixels, targets, frame = dataset[i]
        assert pixels.shape == (3, SIDE, SIDE)
        assert np.abs(np.subtract(white(pixels), targets.boxes[0].tolist())).max() <= 1.5
        assert_close(frame.to_original(targets.boxes), torch.from_numpy(own.boxes), atol=1e-2, rtol=0)
        assert (frame.image_id, frame.size, frame.source) == (100 + i, own.size, str(own.image))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_loader_keeps_the_order(tmp_path: Path, workers: int) -> None:
    batches = list(evaluation_loader(EvaluationSet(Images(split(tmp_path), InputSize(SIDE))), 2, workers=workers))
    assert [[f.image_id for f in b.frames] for b in batches] == [[100, 101], [102, 103], [104]]
    assert all(b.images.dtype == torch.uint8 for b in batches)


def test_workers_do_not_change_the_batches(tmp_path: Path) -> None:
    def batches(workers: int) -> list[Batch]:
        dataset = TrainingSet(Images(split(tmp_path), InputSize(SIDE)), AugmentConfig(mixup=0.5), seed=1, epochs=5)
        return list(training_loader(dataset, 2, workers=workers, seed=1))

    alone, helped = batches(0), batches(2)
    assert len(alone) == len(helped)
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.images, b.images)
        assert [f.image_id for f in a.frames] == [f.image_id for f in b.frames]
        assert all(torch.equal(s.boxes, t.boxes) for s, t in zip(a.targets, b.targets, strict=True))


@pytest.mark.parametrize(("count", "batch", "batches"), [(5, 2, 2), (4, 2, 2), (5, 3, 2), (1, 4, 1), (5, 1, 5)])
def test_a_last_batch_of_one_is_left_out(tmp_path: Path, count: int, batch: int, batches: int) -> None:
    """5 by 2: the fifth image alone would meet a batch norm. 5 by 3 leaves two. One image alone is all there is.

    With a batch of 1 every batch is one image and none may be left out.
    """
    dataset = TrainingSet(Images(split(tmp_path, count), InputSize(SIDE)), AugmentConfig.off(), seed=0, epochs=1)
    assert len(list(training_loader(dataset, batch, workers=0, seed=0))) == batches


def test_collate(tmp_path: Path) -> None:
    dataset = EvaluationSet(Images(split(tmp_path), InputSize(SIDE)))
    batch = collate([dataset[i] for i in (2, 0)])
    assert torch.equal(batch.images[0], dataset[2][0])
    assert [len(t.labels) for t in batch.targets] == [1, 1]
    assert [f.image_id for f in batch.frames] == [102, 100]
    moved = batch.to("cpu")
    assert torch.equal(moved.images, batch.images)
    assert moved.frames == batch.frames


@pytest.mark.parametrize(("size", "canvases"), [(OWN_SHAPE, CANVASES), (PAIR, PAIR_CANVASES)], ids=["rect", "pair"])
@pytest.mark.parametrize("plain", [0, 10], ids=["mosaic", "single"])
def test_training_pictures_of_the_image_s_shape(
    tmp_path: Path, size: InputSize, canvases: list[tuple[int, int]], plain: int
) -> None:
    """Whatever is drawn into them, pictures have the canvas of the image that they are asked for; boxes lie inside."""
    images = Images(split(tmp_path), size)
    assert images.canvases() == canvases
    dataset = TrainingSet(images, AugmentConfig(mixup=0.5, plain_epochs=plain), seed=0, epochs=10)
    objects = 0
    for epoch in range(10):
        for index, (height, width) in enumerate(canvases):
            pixels, targets, frame = dataset[epoch, index]
            assert pixels.shape == (3, height, width)
            assert frame.size == (height, width)
            assert (targets.boxes >= 0).all()
            assert (targets.boxes <= torch.tensor([width, height, width, height])).all()
            objects += len(targets.labels)
    assert objects > (60 if plain == 0 else 40)


@pytest.mark.parametrize("size", [OWN_SHAPE, PAIR], ids=["rect", "pair"])
def test_plain_pictures_are_those_of_an_evaluation(tmp_path: Path, size: InputSize) -> None:
    """But for a grey border of an odd width: its half pixel may go to either side."""
    images = Images(split(tmp_path), size)
    plain = TrainingSet(images, AugmentConfig.off(), seed=0, epochs=1)
    exact = 0
    for index in range(5):
        (drawn, own, _), (pixels, targets, _) = plain[0, index], EvaluationSet(images)[index]
        assert drawn.shape == pixels.shape
        assert (own.boxes - targets.boxes).abs().max() <= 1
        assert np.abs(np.subtract(white(drawn), own.boxes[0].tolist())).max() <= 1.5
        exact += torch.equal(drawn, pixels)
    assert exact == 4


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_batches_of_like_shape(tmp_path: Path, ranks: int) -> None:
    """Ten images, four of 96 x 96, two of each other shape: each step, two images of one or two processes, has one."""
    batches = []
    for rank in range(ranks):
        dataset = TrainingSet(Images(split(tmp_path, 10), OWN_SHAPE), AugmentConfig(), seed=0, epochs=5)
        share = Share(rank, ranks)
        batches.append(list(training_loader(dataset, 2 // ranks, workers=0, seed=0, share=share)))
    shapes = [{tuple(batch.images.shape[2:]) for batch in step} for step in zip(*batches, strict=True)]
    assert all(len(step) == 1 for step in shapes)
    assert {shape for step in shapes for shape in step} == set(CANVASES)
    ids = [frame.image_id for own in batches for batch in own for frame in batch.frames]
    assert sorted(ids) == list(range(100, 110))


def test_training_goes_on_after_the_batches_it_has_seen(tmp_path: Path) -> None:
    for size in (InputSize(SIDE), OWN_SHAPE):
        dataset = TrainingSet(Images(split(tmp_path, 10), size), AugmentConfig(), seed=0, epochs=5)
        whole = training_loader(dataset, 3, workers=0, seed=0)
        whole.sampler.set_epoch(2)  # type: ignore[attr-defined]
        resumed = training_loader(dataset, 3, workers=0, seed=0, share=Share(epoch=2, skip=6))
        expected, found = list(whole), list(resumed)
        assert len(found) == len(expected) - 2
        for a, b in zip(found, expected[2:], strict=True):
            assert torch.equal(a.images, b.images)
            assert a.frames == b.frames


def test_smaller_pictures_are_padded(tmp_path: Path) -> None:
    """64 x 96 and 96 x 64 px in one batch: both begin at the top left of 96 x 96, the rest is grey; boxes stay."""
    dataset = EvaluationSet(Images(split(tmp_path), OWN_SHAPE))
    items = [dataset[index] for index in (3, 2)]
    batch = collate(items)
    assert batch.images.shape == (2, 3, 96, 96)
    assert batch.images.dtype == torch.uint8
    for image, (pixels, _, _), (height, width) in zip(batch.images, items, ((64, 96), (96, 64)), strict=True):
        assert torch.equal(image[:, :height, :width], pixels)
        assert (image[:, height:] == GREY).all()
        assert (image[:, :, width:] == GREY).all()
    assert GREY == 114
    for targets, frame, (_, own, place) in zip(batch.targets, batch.frames, items, strict=True):
        assert torch.equal(targets.boxes, own.boxes)
        assert frame == place


@pytest.mark.parametrize(
    ("size", "canvases", "expected"),
    [
        (OWN_SHAPE, CANVASES, [[100, 101, 105], [106], [102, 107], [103, 108], [104, 109]]),
        (PAIR, PAIR_CANVASES, [[100, 101, 105], [106], [102, 107], [103, 108], [104, 109]]),
    ],
    ids=["rect", "pair"],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_in_the_images_own_shapes(
    tmp_path: Path, size: InputSize, canvases: list[tuple[int, int]], expected: list[list[int]], workers: int
) -> None:
    """Batches of one canvas, nothing padded. The target encloses the white pixels, and the frame maps it back."""
    data = split(tmp_path, 10)
    batches = list(evaluation_loader(EvaluationSet(Images(data, size)), 3, workers=workers))
    assert [[frame.image_id for frame in batch.frames] for batch in batches] == expected
    for batch in batches:
        for pixels, targets, frame in zip(batch.images, batch.targets, batch.frames, strict=True):
            own = data.samples[frame.image_id - 100]
            assert tuple(pixels.shape[1:]) == canvases[(frame.image_id - 100) % 5]
            assert np.abs(np.subtract(white(pixels), targets.boxes[0].tolist())).max() <= 1.5
            assert_close(frame.to_original(targets.boxes), torch.from_numpy(own.boxes), atol=1e-3, rtol=0)
            assert frame.size == own.size


@pytest.mark.parametrize("size", [InputSize(SIDE), OWN_SHAPE, PAIR], ids=["square", "rect", "pair"])
def test_sizes_of_what_is_in_the_corner(tmp_path: Path, size: InputSize) -> None:
    """Evaluated pictures, also at another size: right of and below the content there is grey, in it none."""
    corner = Images(split(tmp_path), replace(size, fit=Fit(corner=True)))
    for item in (EvaluationSet(corner)[index] for index in range(5)):
        batch = collate([item])
        whole = batch.images.shape[-2:]
        for shown in (batch, resize_batch(Batch(batch.network_input(), batch.targets, batch.frames), (160, 224))):
            ((height, width),) = shown.sizes().int().tolist()
            # The picture is black and white: a line at its edge may be blended with the border.
            grey = ((shown.images[0] * (1 if shown is batch else 255) - GREY).abs() < 1).all(0)
            assert grey[height + 2 :].all()
            assert grey[:, width + 2 :].all()
            assert not grey[: height - 2, : width - 2].all(1).any()
            assert not grey[: height - 2, : width - 2].all(0).any()
        ((height, width),) = batch.sizes().int().tolist()
        assert (height, width) == tuple(
            max(round(s * size.scale(batch.frames[0].size)), 1) for s in batch.frames[0].size
        )
        assert (height, width) == tuple(whole) or batch.frames[0].offset == (0, 0)


def test_sizes_of_what_is_in_the_middle(tmp_path: Path) -> None:
    """30 x 100 px in a square: all of it counts; 50 x 50 fill it anyway."""
    dataset = EvaluationSet(Images(split(tmp_path), InputSize(SIDE)))
    assert collate([dataset[4], dataset[1]]).sizes().tolist() == [[SIDE, SIDE]] * 2


def test_sizes_of_training_pictures(tmp_path: Path) -> None:
    """Of their own size, padded to the largest of the batch: each is what it was before."""
    config = AugmentConfig(**AugmentConfig.off().model_dump() | {"shortest": 0.5, "crop": 0.5})
    dataset = TrainingSet(Images(split(tmp_path), replace(PAIR, fit=Fit(corner=True))), config, seed=0, epochs=1)
    items = [dataset[0, index] for index in range(5)]
    batch = collate(items)
    assert batch.sizes().tolist() == [list(pixels.shape[1:]) for pixels, _, _ in items]
    assert len({pixels.shape for pixels, _, _ in items}) > 2
    assert all(side % 32 == 0 for side in batch.images.shape[-2:])
    for image, (height, width) in zip(batch.images, batch.sizes().int().tolist(), strict=True):
        assert (image[:, height:] == GREY).all()
        assert (image[:, :, width:] == GREY).all()
    double = resize_batch(Batch(batch.network_input(), batch.targets, batch.frames), (192, 192))
    height, width = batch.images.shape[-2:]
    expected = (batch.sizes() * torch.tensor([192 / height, 192 / width])).round()
    assert torch.equal(double.sizes(), expected)
    loader = training_loader(dataset, 2, workers=0, seed=0)
    assert sum(len(b.sizes()) for b in loader) in (4, 5)
