"""From a Split to batches: its images, one data set, one loader.

Randomness of a training picture depends on (seed, epoch, index) alone, so neither the number of workers
nor an interruption changes it: the sampler (`order.py`) hands out (epoch, index) pairs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignrank.contracts import Batch, Frame, Targets
from alignrank.cores import usable_cores
from alignrank.data.augment import augment
from alignrank.data.balance import by_factor, draws, evenly, repeat_factors, repeated
from alignrank.data.decode import decode
from alignrank.data.letterbox import fitted, grey, placed, shape_of, stack_images
from alignrank.data.order import ALL, EpochSampler, Share, batches_by_shape, shuffled, shuffled_by_shape
from alignrank.data.picture import Picture
from alignrank.data.records import without_name
from alignrank.data.samples import Array, Sample, Split
from alignrank.errors import InputError
from alignrank.input_size import SIDE_STEP, InputSize, Size, up_to_step
from alignrank.terminal.skipped import Skipped
from alignrank.weights.settings import AugmentConfig

Item = tuple[Tensor, Targets, Frame]


class Images:
    """Decoded images of a split, as large as `size` shows them, kept in memory when they all fit.

    Holding them at network size costs longer side^2 * 3 bytes at most each, four times that of floats; decoding happens
    once.
    """

    def __init__(self, split: Split, size: InputSize) -> None:
        self.split, self.size = split, size
        self._kept: dict[int, Picture] = {}

    def __len__(self) -> int:
        return len(self.split)

    def num_bytes(self) -> int:
        """What keeping all images would take."""
        contents = (self.size.content(sample.size) for sample in self.split.samples)
        return sum(height * width for height, width in contents) * (3 if self.size.fit.antialias else 12)

    def keep_all(self, advance: Callable[[], object] = lambda: None) -> list[Skipped]:
        """Decode every image now; those that do not decode are left out of the split and returned."""

        def load(index: int) -> Tensor | InputError:
            try:
                return self._load(index)
            except InputError as error:
                return error
            finally:
                advance()

        with ThreadPoolExecutor(usable_cores()) as pool:
            loaded = list(pool.map(load, range(len(self.split))))
        skipped = [
            Skipped("image", str(sample.image), without_name(image, sample.image), "unreadable_image")
            for sample, image in zip(self.split.samples, loaded, strict=True)
            if isinstance(image, InputError)
        ]
        good = [i for i, image in enumerate(loaded) if isinstance(image, Tensor)]
        self.split.samples = [self.split.samples[i] for i in good]
        self.split.skipped.extend(skipped)
        pictures = [image for image in loaded if isinstance(image, Tensor)]
        self._kept = {index: self._with_objects(index, pixels) for index, pixels in enumerate(pictures)}
        return skipped

    def canvases(self) -> list[Size]:
        """(height, width) of every image's canvas."""
        return [self.size.canvas(sample.size) for sample in self.split.samples]

    def __getitem__(self, index: int) -> Picture:
        """Image `index` with its objects; crowd regions are no training targets and are left out."""
        kept = self._kept.get(index)
        return replace(kept) if kept else self._with_objects(index, self._load(index))

    def _with_objects(self, index: int, pixels: Tensor) -> Picture:
        sample = self.split.samples[index]
        single = ~sample.crowd
        boxes = torch.from_numpy(sample.boxes[single]).reshape(-1, 4)
        scale_x, scale_y = pixels.shape[-1] / sample.size[1], pixels.shape[-2] / sample.size[0]
        return Picture(
            pixels, boxes * boxes.new_tensor([scale_x, scale_y] * 2), torch.from_numpy(sample.labels[single])
        )

    def _load(self, index: int) -> Tensor:
        array = decoded(self.split.samples[index])
        # Kept channels-last in memory: v2's uint8 resize is twice as fast on it.
        pixels = torch.from_numpy(array).permute(2, 0, 1)
        return fitted(pixels, self.size)


def decoded(sample: Sample) -> Array:
    """[H,W,3] uint8. Raises InputError naming the file where it does not decode, or not to its annotation's size."""
    array = decode(sample.image)
    if array.shape[:2] != tuple(sample.size):
        raise InputError(
            f"{sample.image}: is {array.shape[1]}x{array.shape[0]} pixels, "
            f"its annotation says {sample.size[1]}x{sample.size[0]}"
        )
    return array


class TrainingSet(Dataset[Item]):
    """Augmented pictures [3,H,W], 0..255, addressed by (epoch, number). Numbers with the same rest to the number of
    images are one image, augmented each time in another way.

    repeat_threshold: images of rare classes come more often (`balance`), in an epoch and as partners in a mosaic.
    """

    def __init__(
        self, images: Images, config: AugmentConfig, *, seed: int, epochs: int, repeat_threshold: float = 0.0
    ) -> None:
        self.images, self.config = images, config
        self.seed, self.epochs = seed, epochs
        self.factors = repeat_factors(images.split, repeat_threshold) if repeat_threshold else None
        self._partners = evenly(len(images)) if self.factors is None else by_factor(self.factors)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, number = key
        index = number % len(self.images)
        rng = np.random.default_rng([self.seed, epoch, number])
        strong = epoch < self.epochs - self.config.plain_epochs
        config, draw = self.config, self._partners
        picture = augment(self.images, index, self.images.size, config, strong=strong, rng=rng, partners=draw)
        sample = self.images.split.samples[index]
        frame = Frame(str(sample.image), shape_of(picture.pixels), image_id=sample.image_id)
        return picture.pixels, Targets(picture.boxes, picture.labels), frame


class EvaluationSet(Dataset[Item]):
    """Letterboxed pictures [3,H,W], 0..255, addressed by index."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        picture, sample = self.images[index], self.images.split.samples[index]
        height, width = shape_of(picture.pixels)
        canvas, offset = placed(picture.pixels, self.images.size)
        boxes = picture.boxes + picture.boxes.new_tensor(offset * 2)
        scale = width / sample.size[1], height / sample.size[0]
        return (
            canvas,
            Targets(boxes, picture.labels),
            Frame(str(sample.image), sample.size, scale, offset, sample.image_id),
        )


def collate(items: Sequence[Item], step: int = SIDE_STEP) -> Batch:
    """Stack pictures into a Batch (images stay uint8 until they are on the device); smaller ones are padded with grey
    on the right and below, all to multiples of `step`.
    """
    images, targets, frames = zip(*items, strict=True)
    return Batch(stack_images(padded(images, step)), list(targets), list(frames))


def padded(images: Sequence[Tensor], step: int) -> list[Tensor]:
    """Images [3,H,W] -> all of the largest height and width, up to multiples of `step`."""
    height, width = (up_to_step(max(image.shape[axis] for image in images), step) for axis in (-2, -1))
    return [image if shape_of(image) == (height, width) else _padded(image, (height, width)) for image in images]


def _padded(image: Tensor, shape: Size) -> Tensor:
    canvas, (height, width) = grey(shape, image.dtype), shape_of(image)
    canvas[:, :height, :width] = image
    return canvas


def training_loader(
    dataset: TrainingSet, batch: int, *, workers: int, seed: int, share: Share = ALL, pin: bool = False
) -> DataLoader[Item]:
    """Shuffled batches. The last, smaller batch is left out only if a batch norm would see a single image in it.

    Workers begin to read before the trainer says which epoch it is.
    """
    factors = dataset.factors
    count = len(dataset) if factors is None else draws(factors)
    order = shuffled(count) if factors is None else repeated(factors)
    if dataset.images.size.rect:
        order = shuffled_by_shape(dataset.images.canvases(), batch * share.ranks, order)
    sampler = EpochSampler(order, count, seed=seed, share=share)
    return DataLoader(
        dataset,
        batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate, step=dataset.images.size.step),
        pin_memory=pin,
        drop_last=len(sampler) > batch and len(sampler) % batch == 1,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupts,
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the first one decides what happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def evaluation_loader(dataset: EvaluationSet, batch: int, *, workers: int, pin: bool = False) -> DataLoader[Item]:
    """Batches in order; where canvases have the images' shapes, those of one shape together."""
    stack = partial(collate, step=dataset.images.size.step)
    options: dict[str, Any] = {"num_workers": workers, "collate_fn": stack, "pin_memory": pin}
    if dataset.images.size.rect:
        return DataLoader(dataset, batch_sampler=batches_by_shape(dataset.images.canvases(), batch), **options)
    return DataLoader(dataset, batch, **options)
