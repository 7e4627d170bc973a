"""From a Split to batches: one data set, one sampler, one loader.

Randomness of a training picture depends on (seed, epoch, index) alone, so neither the number of workers
nor an interruption changes it: the sampler hands out (epoch, index) pairs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from alignrank.contracts import Batch, Frame, Targets
from alignrank.data.augment import AugmentConfig, Picture, augment, fit_scale, letterbox, resize
from alignrank.data.decode import decode
from alignrank.data.records import without_name
from alignrank.data.samples import Skipped, Split
from alignrank.errors import InputError

Item = tuple[Tensor, Targets, Frame]


class Images:
    """Decoded images of a split, longer side at most `side`, kept in memory when they all fit.

    Holding them at network size costs side^2 * 3 bytes at most each; decoding happens once.
    """

    def __init__(self, split: Split, side: int) -> None:
        self.split, self.side = split, side
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.split)

    def num_bytes(self) -> int:
        """What keeping all images would take."""
        total = 0.0
        for sample in self.split.samples:
            factor = fit_scale(sample.size, self.side)
            total += sample.size[0] * sample.size[1] * factor**2 * 3
        return int(total)

    def keep_all(self, advance: Callable[[], object] = lambda: None) -> list[Skipped]:
        """Decode every image now; those that do not decode are left out of the split and returned."""

        def load(index: int) -> Tensor | InputError:
            try:
                return self._load(index)
            except InputError as error:
                return error
            finally:
                advance()

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            loaded = list(pool.map(load, range(len(self.split))))
        skipped = [
            Skipped("image", str(sample.image), without_name(image, sample.image), "unreadable_image")
            for sample, image in zip(self.split.samples, loaded, strict=True)
            if isinstance(image, InputError)
        ]
        good = [i for i, image in enumerate(loaded) if isinstance(image, Tensor)]
        self.split.samples = [self.split.samples[i] for i in good]
        self.split.skipped.extend(skipped)
        self._kept = {new: loaded[old] for new, old in enumerate(good)}  # type: ignore[misc]
        return skipped

    def __getitem__(self, index: int) -> Picture:
        """Image `index` with its objects; crowd regions are no training targets and are left out."""
        pixels = self._kept.get(index)
        if pixels is None:
            pixels = self._load(index)
        sample = self.split.samples[index]
        single = ~sample.crowd
        boxes = torch.from_numpy(sample.boxes[single]).reshape(-1, 4)
        scale_x, scale_y = pixels.shape[-1] / sample.size[1], pixels.shape[-2] / sample.size[0]
        return Picture(
            pixels, boxes * boxes.new_tensor([scale_x, scale_y] * 2), torch.from_numpy(sample.labels[single])
        )

    def _load(self, index: int) -> Tensor:
        sample = self.split.samples[index]
        array = decode(sample.image)
        if array.shape[:2] != tuple(sample.size):
            raise InputError(
                f"{sample.image}: is {array.shape[1]}x{array.shape[0]} pixels, "
                f"its annotation says {sample.size[1]}x{sample.size[0]}"
            )
        # Kept channels-last in memory: v2's uint8 resize is twice as fast on it.
        pixels = torch.from_numpy(array).permute(2, 0, 1)
        factor = fit_scale(sample.size, self.side)
        return resize(pixels, factor)[0] if factor != 1 else pixels


class TrainingSet(Dataset[Item]):
    """Augmented pictures [3,side,side] uint8, addressed by (epoch, index)."""

    def __init__(self, images: Images, config: AugmentConfig, *, seed: int, epochs: int) -> None:
        self.images, self.config = images, config
        self.seed, self.epochs = seed, epochs

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        strong = epoch < self.epochs - self.config.plain_epochs
        side = self.images.side
        picture = augment(self.images.__getitem__, index, len(self.images), side, self.config, strong=strong, rng=rng)
        sample = self.images.split.samples[index]
        frame = Frame(str(sample.image), (side, side), image_id=sample.image_id)
        return picture.pixels, Targets(picture.boxes, picture.labels), frame


class EvaluationSet(Dataset[Item]):
    """Letterboxed pictures [3,side,side] uint8, addressed by index."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        picture, sample = self.images[index], self.images.split.samples[index]
        height, width = picture.pixels.shape[-2:]
        canvas, scale, offset = letterbox(picture.pixels, self.images.side)
        boxes = picture.boxes * picture.boxes.new_tensor(scale * 2) + picture.boxes.new_tensor(offset * 2)
        to_kept = width / sample.size[1], height / sample.size[0]
        whole = (scale[0] * to_kept[0], scale[1] * to_kept[1])
        return (
            canvas,
            Targets(boxes, picture.labels),
            Frame(str(sample.image), sample.size, whole, offset, sample.image_id),
        )


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) pairs in an order that depends on (seed, epoch); each of `ranks` processes gets its share.

    The share is the same for all (the order wraps around), and consecutive pairs go to different ranks, so
    that the processes' batches together are the batch that one process would see. The first epoch is `epoch`, and
    leaves out `skip` pairs, which an interrupted run has seen.
    """

    def __init__(self, count: int, *, seed: int, rank: int = 0, ranks: int = 1, epoch: int = 0, skip: int = 0) -> None:
        self.count, self.seed = count, seed
        self.rank, self.ranks = rank, ranks
        self.epoch = epoch
        self._skip = {epoch: skip}

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at each epoch's begin."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        order = np.resize(order, len(self) * self.ranks)
        share = order[self.rank :: self.ranks][self._skip.get(self.epoch, 0) :]
        return iter([(self.epoch, int(index)) for index in share])


def collate(items: Sequence[Item]) -> Batch:
    """Stack pictures of one size into a Batch (images stay uint8 until they are on the device)."""
    images, targets, frames = zip(*items, strict=True)
    return Batch(torch.stack(images), list(targets), list(frames))


def training_loader(
    dataset: TrainingSet,
    batch: int,
    *,
    workers: int,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    epoch: int = 0,
    skip: int = 0,
    pin: bool = False,
) -> DataLoader[Item]:
    """Shuffled batches. The last, smaller batch is left out only if a batch norm would see a single image in it.

    epoch: the first, where training goes on, without its first `skip` batches. Workers begin to read before the trainer
    says which epoch it is.
    """
    sampler = EpochSampler(len(dataset), seed=seed, rank=rank, ranks=ranks, epoch=epoch, skip=skip * batch)
    return DataLoader(
        dataset,
        batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        drop_last=len(sampler) > batch and len(sampler) % batch == 1,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupts,
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the first one decides what happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def evaluation_loader(dataset: EvaluationSet, batch: int, *, workers: int, pin: bool = False) -> DataLoader[Item]:
    """Batches in order."""
    return DataLoader(dataset, batch, num_workers=workers, collate_fn=collate, pin_memory=pin)
